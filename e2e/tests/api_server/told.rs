//! What is told in Events.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use blixt_e2e::{ApiServer, Controller, Id, KubeApi};
use blixt_testkit::netns::{eventually, eventually_some};
use serde_json::{Value, json};

use crate::Test;
use crate::objects::{self, SHOP, WEB, attaches};

pub(crate) const TESTS: &[(&str, Test)] =
    &[("refusals_are_told_once_on_their_objects", refusals_are_told_once)];

const PATIENCE: Duration = Duration::from_secs(20);

/// Events by what they are about and why, with how often that was.
fn events(kube: &KubeApi) -> BTreeMap<(String, String), u64> {
    let events = kube.list("Event");
    let key = |event: &Value| {
        let about = &event["regarding"];
        assert!(about["uid"].is_string() && about["apiVersion"].is_string(), "{event:#}");
        assert_eq!(event["reportingController"], "blixt-controller");
        assert_eq!(event["type"], "Warning");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (format!("{} {}", text(&about["kind"]), text(&about["name"])), text(&event["reason"]))
    };
    events
        .iter()
        .map(|event| (key(event), event["series"]["count"].as_u64().unwrap_or(1)))
        .collect()
}

fn refusals_are_told_once(server: &mut ApiServer) {
    let kube = &server.kube;
    let first = Controller::start(server, "a");
    let second = Controller::start(server, "b");
    kube.apply(SHOP);
    kube.apply(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: late, namespace: shop}
spec:
  gatewayClassName: blixt
  addresses: [{value: 192.0.2.1}]
  listeners: [{name: tcp, protocol: TCP, port: 80}]
---
apiVersion: blixt.dev/v1alpha1
kind: AddressPool
metadata: {name: typo}
spec: {addresses: [192.0.2.0/24, 192.0.2.5/28]}
",
    );
    let to =
        |name: &str| json!({"spec": {"rules": [{"backendRefs": [{"name": name, "port": 80}]}]}});
    kube.merge(&WEB, to("nowhere"));
    kube.merge(&Id::new("EndpointSlice", "shop/dns-1"), json!({"endpoints": []}));
    let of =
        |object: &str, reason: &str, count: u64| ((object.to_owned(), reason.to_owned()), count);
    let mut expected = BTreeMap::from([
        of("Gateway late", "AddressNotUsable", 1),
        of("AddressPool typo", "InvalidParameters", 1),
        of("TCPRoute web", "BackendNotFound", 1),
        of("Service dns", "TrafficGoesNowhere", 1),
    ]);
    let are = |expected: &BTreeMap<_, _>| {
        eventually_some("the Events", PATIENCE, || match events(kube) {
            found if found == *expected => Ok(()),
            found => Err(format!("{found:#?}")),
        });
    };
    are(&expected);

    // Another one that leads has nothing to add.
    let (leader, other) = if first.leads() { (first, second) } else { (second, first) };
    assert_eq!(other.metrics().sum("blixt_controller_events_total", &[]), 0.0);
    leader.stop();
    eventually("the other one to lead", PATIENCE, || other.leads());
    objects::settled(kube);
    sleep(Duration::from_secs(3));
    are(&expected);

    // What comes back is counted.
    kube.merge(&WEB, to("web"));
    attaches(kube, &WEB, &["ResolvedRefs=True ResolvedRefs"]);
    kube.merge(&WEB, to("nowhere"));
    expected.extend([of("TCPRoute web", "BackendNotFound", 2)]);
    are(&expected);
}
