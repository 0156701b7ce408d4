//! What is written, and what is not.

use std::thread::sleep;
use std::time::Duration;

use blixt_e2e::{ApiServer, Controller, Id};
use blixt_testkit::netns::eventually;
use serde_json::{Value, json};

use crate::Test;
use crate::objects::{self, CLASS, EDGE, MORE, PAGES, ROUTES, SHOP, VAULT, WEB, becomes};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("what_is_right_is_not_written_again", what_is_right_is_not_written_again),
    ("entries_of_other_controllers_stay", entries_of_other_controllers_stay),
    ("what_somebody_else_wrote_wrong_is_put_right", what_is_wrong_is_put_right),
    ("who_writes_at_the_same_time_loses_nothing", conflicts_are_tried_again),
    ("routes_of_others_are_left_alone", routes_of_others_are_left_alone),
];

const PATIENCE: Duration = Duration::from_secs(20);

fn what_is_right_is_not_written_again(server: &mut ApiServer) {
    let first = Controller::start(server, "a");
    let kube = &server.kube;
    kube.apply(SHOP);
    becomes(kube, &EDGE, &["Programmed=False Pending"]);
    let before = objects::settled(kube);
    let written = first.writes("written");
    // A class, its finalizer, a Gateway, its ListenerSet and five routes: none needs
    // more than two writes to be right, however they came.
    assert!((9.0..=18.0).contains(&written), "{written}");

    // What does not matter, and time, change nothing.
    kube.apply("{apiVersion: v1, kind: Service, metadata: {name: x, namespace: shop}, spec: {ports: [{port: 1}]}}");
    kube.apply("{apiVersion: v1, kind: Node, metadata: {name: n1}}");
    sleep(Duration::from_secs(1));
    assert_eq!(objects::versions(kube), before);
    assert_eq!(first.writes("written"), written);

    // Nor does a restart, or another replica that leads.
    first.stop();
    let second = Controller::start(server, "b");
    eventually("the second one to lead", PATIENCE, || second.leads());
    sleep(Duration::from_secs(1));
    assert_eq!(objects::versions(kube), before);
    for outcome in ["written", "outdated", "gone", "failed"] {
        assert_eq!(second.writes(outcome), 0.0, "{outcome}");
    }
    // It is not asleep.
    kube.merge(
        &EDGE,
        json!({"spec": {"listeners": [{"name": "tcp", "protocol": "TCP", "port": 81}]}}),
    );
    becomes(kube, &EDGE, &["Accepted=True Accepted"]);
}

/// The parents of a route's status, by controller.
fn parents(route: &Value) -> Vec<&str> {
    let parents = route.pointer("/status/parents").and_then(Value::as_array);
    parents.into_iter().flatten().map(|parent| parent["controllerName"].as_str().unwrap()).collect()
}

fn entries_of_other_controllers_stay(server: &mut ApiServer) {
    const OURS: &str = "gateway.networking.k8s.io/blixt";
    const THEIRS: &str = "example.com/other";
    let kube = &server.kube;
    kube.apply(SHOP);
    let theirs = json!({
        "controllerName": THEIRS,
        "parentRef": {"name": "theirs"},
        "conditions": [{
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": "fine",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1,
        }],
    });
    let refers = |names: &[&str]| {
        let parents: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
        json!({"spec": {"parentRefs": parents}})
    };
    for (id, _) in ROUTES {
        kube.merge(id, refers(&["edge", "theirs"]));
        kube.merge_status(id, json!({"parents": [theirs]}));
    }
    let _controller = Controller::start(server, "a");
    let is = |id: &Id<'_>, expected: &[&str]| {
        kube.eventually(id, |route| match parents(route) {
            found if found == expected => Ok(()),
            found => Err(format!("{found:?}")),
        });
        let route = kube.get(id).unwrap();
        let status = route["status"]["parents"].as_array().unwrap();
        // The API server completes the reference, and that is all.
        let kept = status.iter().find(|parent| parent["controllerName"] == THEIRS).unwrap();
        assert_eq!(kept["conditions"], theirs["conditions"]);
        assert_eq!(kept["parentRef"]["name"], "theirs");
    };
    for (id, _) in ROUTES {
        is(id, &[THEIRS, OURS]);
        // A reference that goes takes our entry along, and no other.
        kube.merge(id, refers(&["theirs"]));
        is(id, &[THEIRS]);
        kube.merge(id, refers(&["theirs", "edge"]));
        is(id, &[THEIRS, OURS]);
    }
}

fn what_is_wrong_is_put_right(server: &mut ApiServer) {
    let _controller = Controller::start(server, "a");
    let kube = &server.kube;
    kube.apply(SHOP);
    becomes(kube, &EDGE, &["Accepted=True Accepted"]);
    objects::settled(kube);
    kube.merge_status(&EDGE, json!({"conditions": [], "listeners": [], "addresses": []}));
    kube.merge_status(&MORE, json!({"conditions": [], "listeners": []}));
    for (id, _) in ROUTES {
        kube.merge_status(id, json!({"parents": []}));
    }
    for id in [&EDGE, &MORE] {
        becomes(kube, id, &["Accepted=True Accepted", "Programmed=False Pending"]);
    }
    for (id, _) in ROUTES {
        objects::attaches(kube, id, &["Accepted=True Accepted"]);
    }
    let gateway = kube.get(&EDGE).unwrap();
    assert_eq!(objects::addresses(&gateway), ["192.0.2.1"]);
}

/// Somebody writes to the same objects all the time, so that our answers come
/// too late again and again.
fn conflicts_are_tried_again(server: &mut ApiServer) {
    const ROUNDS: u32 = 60;
    let controller = Controller::start(server, "a");
    let kube = &server.kube;
    kube.apply(SHOP);
    for round in 1..=ROUNDS {
        let port = 1_000 + round;
        let listeners = json!([{"name": "tcp", "protocol": "TCP", "port": port}]);
        kube.merge(&EDGE, json!({"spec": {"listeners": listeners}}));
        let annotations = json!({"metadata": {"annotations": {"round": round.to_string()}}});
        kube.merge(&EDGE, annotations.clone());
        kube.merge(&CLASS, annotations.clone());
        for id in [&MORE, &WEB, &PAGES, &VAULT] {
            kube.merge(id, annotations.clone());
        }
        // About as long as an answer takes to come.
        sleep(Duration::from_millis(u64::from(15 + round % 20)));
    }
    becomes(kube, &EDGE, &["Accepted=True Accepted", "Programmed=False Pending"]);
    let gateway = kube.get(&EDGE).unwrap();
    assert_eq!(gateway["metadata"]["annotations"]["round"], ROUNDS.to_string());
    assert_eq!(gateway["spec"]["listeners"][0]["port"], 1_000 + ROUNDS);
    let class = kube.get(&CLASS).unwrap();
    assert_eq!(class["metadata"]["annotations"]["round"], ROUNDS.to_string());
    println!(
        "{} writes came in time, {} too late",
        controller.writes("written"),
        controller.writes("outdated")
    );
    assert!(controller.writes("outdated") > 0.0, "nothing was tried here");
    assert_eq!(controller.writes("failed"), 0.0);
}

fn routes_of_others_are_left_alone(server: &mut ApiServer) {
    let controller = Controller::start(server, "a");
    let kube = &server.kube;
    kube.apply(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: other}
spec: {controllerName: example.com/other}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: other
  allowedListeners: {namespaces: {from: Same}}
  listeners:
  - {name: tcp, protocol: TCP, port: 80}
  - {name: http, protocol: HTTP, port: 8080}
  - {name: tls, protocol: TLS, port: 8443, tls: {mode: Passthrough}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: more, namespace: shop}
spec:
  parentRef: {name: edge}
  listeners: [{name: more, protocol: TCP, port: 9090}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: pages, namespace: shop}
spec:
  parentRefs: [{name: edge}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: vault, namespace: shop}
spec:
  parentRefs: [{name: edge}]
  hostnames: [vault.example.com]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{name: edge}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
",
    );
    let before = objects::versions(kube);
    assert_eq!(before.len(), 6, "{before:?}");
    eventually("it to lead", PATIENCE, || controller.leads());
    // Proof that it has looked at them: an object of ours that came later.
    kube.apply_object(&json!({
        "apiVersion": "blixt.dev/v1alpha1", "kind": "AddressPool",
        "metadata": {"name": "p"}, "spec": {"addresses": ["192.0.2.9"]},
    }))
    .unwrap();
    becomes(kube, &Id::new("AddressPool", "p"), &["Accepted=True Accepted"]);
    let mut after = objects::settled(kube);
    after.remove("AddressPool p");
    assert_eq!(after, before);
}
