//! The CA that is kept in the cluster, and whose tokens are good.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blixt_controller::push::{Material, ReviewError, Reviewer, TokenReviews};
use blixt_e2e::{ApiServer, Controller, Id, KubeApi, NAMESPACE};
use blixt_testkit::netns::{eventually, eventually_some};
use k8s_openapi::api::core::v1::Secret;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Test;
use crate::objects::{self, EDGE, SHOP, becomes};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_ca_that_is_brought_along_is_taken_and_a_bad_one_is_not", a_ca_is_brought_along),
    ("a_ca_of_ours_is_renewed_by_itself", a_ca_of_ours_is_renewed),
    ("agents_are_shown_no_map_that_leads_to_nobody", no_map_leads_to_nobody),
    ("an_idle_controller_asks_for_nothing", an_idle_controller_asks_for_nothing),
    ("only_an_agents_pod_gets_a_certificate", only_an_agents_pod),
];

const PATIENCE: Duration = Duration::from_secs(20);

const DAY: Duration = Duration::from_secs(24 * 3_600);

const CA: Id<'static> = Id::namespaced("Secret", NAMESPACE, "blixt-ca");
const FOUND: Id<'static> = Id::namespaced("ConfigMap", NAMESPACE, "blixt-controller");

/// The data of a Secret, as somebody else would write it.
fn data(ca: &Material) -> Value {
    json!({"stringData": {
        "tls.crt": ca.certificate, "tls.key": ca.key, "ca.crt": ca.bundle,
    }})
}

fn secret(ca: &Material) -> Value {
    let mut secret = data(ca);
    secret["apiVersion"] = "v1".into();
    secret["kind"] = "Secret".into();
    secret["type"] = "kubernetes.io/tls".into();
    secret["metadata"] = json!({"name": "blixt-ca", "namespace": NAMESPACE});
    secret
}

/// What the Secret has now.
fn kept(kube: &KubeApi) -> BTreeMap<String, String> {
    let secret: Secret = serde_json::from_value(kube.get(&CA).unwrap()).unwrap();
    let text = |(key, bytes): (String, k8s_openapi::ByteString)| {
        (key, String::from_utf8(bytes.0).unwrap())
    };
    secret.data.unwrap().into_iter().map(text).collect()
}

/// What of that is of a CA.
fn as_kept(ca: &Material) -> BTreeMap<String, String> {
    let (next_certificate, next_key) = ca.next.clone().unzip();
    let all = [
        ("tls.crt", Some(ca.certificate.clone())),
        ("tls.key", Some(ca.key.clone())),
        ("ca.crt", Some(ca.bundle.clone())),
        ("next.crt", next_certificate),
        ("next.key", next_key),
    ];
    all.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text?))).collect()
}

fn without_a_ca(kube: &KubeApi) {
    for id in [CA, FOUND] {
        if kube.get(&id).is_some() {
            kube.delete(&id);
        }
    }
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
    without_a_ca(kube);
    let (first, second) = (ca(), ca());
    kube.create(&secret(&first)).unwrap();
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

/// The same CA on two days: when the next one is due, and when that signs.
fn a_ca_of_ours_is_renewed(server: &mut ApiServer) {
    let kube = &server.kube;
    without_a_ca(kube);
    let now = SystemTime::now();
    let old = Material::new(now - 243 * DAY).unwrap();
    let mut ours = secret(&old);
    ours["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "blixt-controller"});
    kube.create(&ours).unwrap();

    // Agents get to know the next one, which does not sign yet.
    let controller = Controller::start(server, "a");
    let two = eventually_some("a next CA", PATIENCE, || {
        let kept = kept(kube);
        match (kept.get("next.crt"), kept.get("next.key")) {
            (Some(certificate), Some(key)) => Ok(Material {
                bundle: format!("{}{certificate}", old.bundle),
                next: Some((certificate.clone(), key.clone())),
                ..old.clone()
            }),
            _ => Err(format!("{:?}", kept.keys())),
        }
    });
    agents_get(kube, &two);
    assert_eq!(kept(kube), as_kept(&two));
    believes(kube, &controller, &old.bundle).unwrap();
    believes(kube, &controller, &two.next.unwrap().0).unwrap_err();
    assert_eq!(controller.metrics().sum("blixt_controller_leader", &[]), 1.0);
    controller.stop();

    // Two days after that.
    let known = old.renewed(now - 2 * DAY).unwrap().unwrap();
    let (certificate, key) = known.next.clone().unwrap();
    kube.merge(&CA, json!({"stringData": as_kept(&known)}));
    kube.merge(&FOUND, json!({"data": {"ca.crt": known.bundle}}));
    let signs = Material { certificate, key, next: None, ..known };
    let controller = Controller::launch(server, "a");
    let (mut looks, mut begun) = (0, Vec::new());
    eventually_some("the next CA to sign", PATIENCE, || {
        let kept = kept(kube);
        let found = kube.get(&FOUND).unwrap();
        let trusted = found["data"]["ca.crt"].as_str().unwrap();
        assert!(trusted.contains(&kept["tls.crt"]), "agents do not trust what signs");
        match believes(kube, &controller, trusted) {
            Ok(()) => looks += 1,
            // It does not listen yet, or has no certificate.
            Err(why) => {
                assert!(!why.contains("invalid peer certificate"), "{why}");
                begun.push(why);
            }
        }
        match believes(kube, &controller, &signs.certificate) {
            Ok(()) if kept == as_kept(&signs) => Ok(()),
            how => Err(format!("{how:?}, {:?}", kept.keys())),
        }
    });
    println!("{looks} looks were good after {} at one that had just begun", begun.len());
    assert!(looks > 0, "{begun:#?}");
    // What the old one has signed is good for as long as it is.
    agents_get(kube, &signs);
    assert_eq!(kube.get(&CA).unwrap()["metadata"]["labels"], ours["metadata"]["labels"]);
    controller.stop();
}

/// Whether an agent that trusts this speaks to the controller, or why not.
fn believes(kube: &KubeApi, controller: &Controller, trusted: &str) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(trusted.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let port = controller.agents_port();
    kube.with(move |_| async move {
        let stream = TcpStream::connect(("127.0.0.1", port)).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let connected = connector.connect("blixt-controller".try_into().unwrap(), stream).await;
        connected.map(drop).map_err(|error| error.to_string())
    })
}

/// Kubelet shows them another one a minute or so later.
fn no_map_leads_to_nobody(server: &mut ApiServer) {
    const SLICE: Id<'static> = Id::namespaced("EndpointSlice", NAMESPACE, "blixt-controller");
    let kube = &server.kube;
    without_a_ca(kube);
    let is_ready = |ready: bool| {
        let endpoint = json!({"addresses": ["192.0.2.7"], "conditions": {"ready": ready}});
        kube.merge(&SLICE, json!({"endpoints": [endpoint]}));
    };
    is_ready(false);
    let controller = Controller::start(server, "a");
    eventually("it to lead", PATIENCE, || controller.leads());
    // It has made the CA by then, and could make the map.
    kube.eventually(&CA, |_| Ok(()));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(kube.get(&FOUND), None);
    is_ready(true);
    let urls = kube.eventually(&FOUND, |map| Ok(map["data"]["urls"].clone()));
    let port = controller.agents_port();
    assert_eq!(urls, json!(format!("https://192.0.2.7:{port}\n")));
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
