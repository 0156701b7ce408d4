//! The CA that is kept in the cluster, and whose tokens are good.

use std::time::{Duration, SystemTime};

use blixt_controller::push::{Material, ReviewError, Reviewer, TokenReviews};
use blixt_e2e::{ApiServer, Controller, Id, KubeApi, NAMESPACE};
use blixt_testkit::netns::{eventually, eventually_some};
use serde_json::{Value, json};

use crate::Test;
use crate::objects::{self, EDGE, SHOP, becomes};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_ca_that_is_brought_along_is_taken_and_a_bad_one_is_not", a_ca_is_brought_along),
    ("an_idle_controller_asks_for_nothing", an_idle_controller_asks_for_nothing),
    ("only_an_agents_pod_gets_a_certificate", only_an_agents_pod),
];

const PATIENCE: Duration = Duration::from_secs(20);

const CA: Id<'static> = Id::namespaced("Secret", NAMESPACE, "blixt-ca");
const FOUND: Id<'static> = Id::namespaced("ConfigMap", NAMESPACE, "blixt-controller");

/// The data of a Secret, as somebody else would write it.
fn data(ca: &Material) -> Value {
    json!({"stringData": {
        "tls.crt": ca.certificate, "tls.key": ca.key, "ca.crt": ca.bundle,
    }})
}

fn ca() -> Material {
    Material::new(SystemTime::now()).unwrap()
}

fn agents_get(kube: &KubeApi, ca: &Material) {
    kube.eventually(&FOUND, |map| match map["data"]["ca.crt"].as_str() {
        Some(found) if *found == ca.bundle => Ok(()),
        _ => Err("it has another CA".to_owned()),
    });
}

fn a_ca_is_brought_along(server: &mut ApiServer) {
    let kube = &server.kube;
    for id in [CA, FOUND] {
        if kube.get(&id).is_some() {
            kube.delete(&id);
        }
    }
    let (first, second) = (ca(), ca());
    let mut secret = data(&first);
    secret["apiVersion"] = "v1".into();
    secret["kind"] = "Secret".into();
    secret["type"] = "kubernetes.io/tls".into();
    secret["metadata"] = json!({"name": "blixt-ca", "namespace": NAMESPACE});
    kube.create(&secret).unwrap();
    let written = kube.get(&CA).unwrap();
    let mut controller = Controller::start(server, "a");
    agents_get(kube, &first);
    assert_eq!(kube.get(&CA).unwrap(), written, "it is not ours to write");

    // A key that is another one's, as while somebody writes one by hand.
    kube.merge(&CA, json!({"stringData": {"tls.key": second.key}}));
    eventually_some("the Event", PATIENCE, || {
        let events = kube.list("Event");
        let about = |event: &&Value| event["regarding"]["kind"] == "Secret";
        match events.iter().find(about) {
            None => Err("there is none".to_owned()),
            Some(event) => {
                assert_eq!(event["reason"], "NotUsable");
                let note = event["note"].as_str().unwrap();
                assert!(note.contains("it does not belong to tls.crt"), "{note}");
                Ok(())
            }
        }
    });
    // One whose certificates nobody who trusts ca.crt believes.
    kube.merge(&CA, json!({"stringData": {"tls.key": first.key, "ca.crt": second.bundle}}));
    eventually("the log to say so", PATIENCE, || {
        controller.log().contains("who knows ca.crt does not believe what it signs")
    });
    agents_get(kube, &first);
    assert_eq!(controller.ready(), Ok(()));

    // A good one, with no restart.
    kube.merge(&CA, data(&second));
    agents_get(kube, &second);
    // Gone: what is in force stays, and nobody makes another one.
    kube.delete(&CA);
    eventually("the log to say so", PATIENCE, || {
        controller.log().contains("is gone, and was not made here")
    });
    assert!(kube.get(&CA).is_none());
    agents_get(kube, &second);
    assert_eq!(controller.metrics().sum("blixt_controller_agents", &[]), 0.0);
    let expiry = "blixt_controller_certificate_expiry_timestamp_seconds";
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    for (certificate, days) in [("ca", 365.0), ("server", 1.0)] {
        let label = format!("certificate=\"{certificate}\"");
        let left = controller.metrics().sum(expiry, &[&label]) - now;
        assert!((left / 86_400.0 - days).abs() < 0.1, "{certificate}: {left}");
    }
    controller.stop();
}

fn an_idle_controller_asks_for_nothing(server: &mut ApiServer) {
    let kube = &server.kube;
    let controller = Controller::start(server, "a");
    kube.apply(SHOP);
    becomes(kube, &EDGE, &["Accepted=True Accepted"]);
    objects::settled(kube);
    // Leases are renewed, and watches begun again where they were.
    let asked = || -> Vec<String> {
        let metrics = kube.ask("/metrics").unwrap();
        let lines = metrics.lines().filter(|line| line.starts_with("apiserver_request_total{"));
        let is_steady = |line: &&str| {
            let has = |label: &str, values: &[&str]| {
                values.iter().any(|value| line.contains(&format!("{label}=\"{value}\"")))
            };
            has("verb", &["GET", "LIST", "PUT", "POST", "PATCH"])
                && has("resource", &["secrets", "configmaps", "endpointslices", "events"])
                && !has("group", &["coordination.k8s.io"])
        };
        lines.filter(is_steady).map(str::to_owned).collect()
    };
    let before = asked();
    assert!(!before.is_empty());
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(asked(), before);
    controller.stop();
}

fn only_an_agents_pod(server: &mut ApiServer) {
    let kube = &server.kube;
    let accounts = ["blixt-agent", "other"];
    for name in accounts {
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": NAMESPACE},
        });
        kube.apply_object(&account).unwrap();
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "serviceAccountName": name, "nodeName": "node-1",
                // No kubelet is there to see it end.
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "it", "image": "none"}],
            },
        });
        kube.create(&pod).unwrap();
    }
    let [agent, other] = accounts.map(|name| Id::namespaced("ServiceAccount", NAMESPACE, name));
    let node_of = |token: String| {
        kube.with(move |client| async move {
            TokenReviews::new(client, NAMESPACE).node_of(&token).await
        })
    };
    let ours = "blixt-controller";
    let good = kube.token(&agent, ours, Some("blixt-agent"));
    assert_eq!(node_of(good).as_deref(), Ok("node-1"));
    let refused = |token: String, why: &str| match node_of(token) {
        Err(ReviewError::Refused(found)) => assert!(found.contains(why), "{found}"),
        other => panic!("{other:?}"),
    };
    let cluster = "https://kubernetes.default.svc";
    refused(kube.token(&agent, cluster, Some("blixt-agent")), "the token is not valid");
    refused(kube.token(&agent, ours, None), "the token names no node");
    refused(kube.token(&other, ours, Some("other")), "and agents are");
    refused("nonsense".to_owned(), "the token is not valid");
    // That of a pod that is gone.
    let old = kube.token(&agent, ours, Some("blixt-agent"));
    for name in accounts {
        let pod = Id::namespaced("Pod", NAMESPACE, name);
        kube.delete(&pod);
    }
    eventually("the token to be worth nothing", PATIENCE, || node_of(old.clone()).is_err());
}
