//! Who gets which address, and keeps it.

use std::collections::BTreeSet;
use std::time::Duration;

use blixt_e2e::{ApiServer, Controller, Id, KubeApi};
use blixt_testkit::netns::{eventually, eventually_some};
use serde_json::{Value, json};

use crate::Test;
use crate::objects::{self, CLASS, SHOP, addresses, becomes};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("the_api_server_refuses_pools_that_make_no_sense", the_api_server_refuses),
    ("without_a_pool_it_is_told_what_to_create", without_a_pool),
    ("pools_give_to_whom_they_are_for", pools_give_to_whom_they_are_for),
    ("addresses_are_given_out_once_and_given_back", addresses_are_given_out_once),
    ("an_address_of_a_node_is_nobodys", an_address_of_a_node_is_nobodys),
    ("nodes_get_sources_and_keep_them", nodes_get_sources_and_keep_them),
];

const PATIENCE: Duration = Duration::from_secs(20);

fn gateway(kube: &KubeApi, name: &str) {
    let (namespace, name) = name.split_once('/').unwrap();
    kube.apply_object(&json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "gatewayClassName": "blixt",
            "listeners": [{"name": "tcp", "protocol": "TCP", "port": 80}],
        },
    }))
    .unwrap();
}

fn pool(kube: &KubeApi, name: &str, spec: Value) {
    kube.apply_object(&json!({
        "apiVersion": "blixt.dev/v1alpha1", "kind": "AddressPool",
        "metadata": {"name": name}, "spec": spec,
    }))
    .unwrap();
}

/// Waits until a pool says how many of its addresses are used and free.
fn counts(kube: &KubeApi, name: &str, used: u64, free: u64) {
    kube.eventually(&Id::new("AddressPool", name), |pool| {
        let status = &pool["status"];
        let is_so = status["used"] == used && status["free"] == free;
        is_so.then_some(()).ok_or_else(|| format!("not {used} used and {free} free"))
    });
}

fn the_api_server_refuses(server: &mut ApiServer) {
    let kube = &server.kube;
    let selector =
        |operator: &str| json!({"matchExpressions": [{"key": "a", "operator": operator}]});
    let with = |selector: Value| json!({"addresses": ["192.0.2.1"], "nodeSelector": selector});
    let apply = |spec: &Value| {
        kube.apply_object(&json!({
            "apiVersion": "blixt.dev/v1alpha1", "kind": "AddressPool",
            "metadata": {"name": "it"}, "spec": spec,
        }))
    };
    for (spec, part) in [
        (json!({"addresses": ["none"]}), "should match"),
        (json!({"addresses": ["192.0.2.0/"]}), "should match"),
        (json!({"addresses": ["192.0.2.0/24/8"]}), "should match"),
        (json!({"addresses": ["192.0.2.1, 192.0.2.2"]}), "should match"),
        (json!({"addresses": ["192.0.2.1-"]}), "should match"),
        (json!({"addresses": [""]}), "should be at least 1 chars long"),
        (json!({"addresses": []}), "should have at least 1 items"),
        (json!({"addresses": ["192.0.2.1"], "use": "Vip"}), "supported values: \"VIP\", \"SNAT\""),
        (
            with(selector("Like")),
            "supported values: \"In\", \"NotIn\", \"Exists\", \"DoesNotExist\"",
        ),
    ] {
        let refused = apply(&spec).unwrap_err().to_string();
        assert!(refused.contains(part), "{spec}: {refused}");
    }
    let all = [
        "192.0.2.1",
        "192.0.2.16/28",
        "192.0.2.32-192.0.2.40",
        "192.0.2.50 - 192.0.2.51",
        "2001:DB8::/120",
        "2001:db8::1:0-2001:db8::1:9",
        "2001:db8::192.0.2.1",
    ];
    let stored = apply(&json!({"addresses": all, "nodeSelector": selector("Exists")})).unwrap();
    assert_eq!(stored["spec"]["addresses"], json!(all));
}

fn without_a_pool(server: &mut ApiServer) {
    let _controller = Controller::start(server, "a");
    let kube = &server.kube;
    kube.apply(SHOP);
    gateway(kube, "shop/any");
    let any = Id::new("Gateway", "shop/any");
    let told = "Programmed=False AddressNotAssigned: create one with use VIP";
    becomes(kube, &any, &["Accepted=True Accepted", told]);
    assert!(addresses(&kube.get(&any).unwrap()).is_empty());
    pool(kube, "public", json!({"addresses": ["203.0.113.7", "2001:db8::7"]}));
    becomes(kube, &any, &["Programmed=False Pending"]);
    assert_eq!(addresses(&kube.get(&any).unwrap()), ["203.0.113.7", "2001:db8::7"]);
    counts(kube, "public", 2, 0);
}

fn pools_give_to_whom_they_are_for(server: &mut ApiServer) {
    let _controller = Controller::start(server, "a");
    let kube = &server.kube;
    kube.apply(SHOP);
    pool(
        kube,
        "shops",
        json!({
            "addresses": ["192.0.2.0/29"],
            "namespaceSelector": {"matchLabels": {"room": "shop"}},
        }),
    );
    pool(kube, "nodes", json!({"use": "SNAT", "addresses": ["192.0.2.4"]}));
    // One that it names, in its pool.
    becomes(kube, &objects::EDGE, &["Programmed=False Pending"]);
    gateway(kube, "kitchen/any");
    let other = Id::new("Gateway", "kitchen/any");
    becomes(kube, &other, &["Programmed=False AddressNotAssigned: No AddressPool is for this"]);
    becomes(kube, &Id::new("AddressPool", "shops"), &["Accepted=True Overlaps: nodes"]);
    // Labels decide, whenever they change.
    kube.merge(&Id::new("Namespace", "kitchen"), json!({"metadata": {"labels": {"room": "shop"}}}));
    becomes(kube, &other, &["Programmed=False Pending"]);
    assert_eq!(addresses(&kube.get(&other).unwrap()), ["192.0.2.0"]);
    counts(kube, "shops", 2, 6);
}

/// Ten Gateways, eight addresses, and replicas that come and go.
fn addresses_are_given_out_once(server: &mut ApiServer) {
    const GATEWAYS: usize = 10;
    let first = Controller::start(server, "a");
    let kube = &server.kube;
    kube.apply_object(&class()).unwrap();
    pool(kube, "public", json!({"addresses": ["203.0.113.0/29"]}));
    let name = |n: usize| format!("shop/gw{n}");
    for n in 0..GATEWAYS / 2 {
        gateway(kube, &name(n));
    }
    // The next one finds half of the work done, or none.
    first.kill();
    // Nobody waits until its lease runs out; that is for another test.
    kube.delete(&Id::new("Lease", "blixt-system/blixt-controller"));
    let second = Controller::launch(server, "b");
    for n in GATEWAYS / 2..GATEWAYS {
        gateway(kube, &name(n));
    }
    let given = |n: usize| kube.get(&Id::new("Gateway", &name(n))).map(|found| addresses(&found));
    let all = |kube: &KubeApi| -> Vec<String> {
        kube.list("Gateway").iter().flat_map(addresses).collect()
    };
    let unique = |given: &[String]| given.iter().collect::<BTreeSet<_>>().len();
    eventually_some("all addresses to be given out", PATIENCE, || {
        let given = all(kube);
        assert_eq!(unique(&given), given.len(), "one is given out twice: {given:?}");
        if given.len() == 8 { Ok(()) } else { Err(format!("{given:?}")) }
    });
    counts(kube, "public", 8, 0);
    let without = (0..GATEWAYS).find(|n| given(*n).unwrap().is_empty()).unwrap();
    let told = "Programmed=False AddressNotAssigned: public has no free address";
    becomes(kube, &Id::new("Gateway", &name(without)), &[told]);

    // A restart moves nothing.
    objects::settled(kube);
    let before: Vec<_> = (0..GATEWAYS).map(given).collect();
    second.stop();
    let third = Controller::start(server, "c");
    eventually("the third one to lead", PATIENCE, || third.leads());
    objects::settled(kube);
    assert_eq!((0..GATEWAYS).map(given).collect::<Vec<_>>(), before);
    assert_eq!(third.writes("written"), 0.0);

    // Those that go leave theirs to those that wait.
    let going: Vec<_> = (0..GATEWAYS).filter(|n| !given(*n).unwrap().is_empty()).take(2).collect();
    for n in going {
        kube.delete(&Id::new("Gateway", &name(n)));
    }
    eventually_some("the addresses of the two to be given out again", PATIENCE, || {
        let given = all(kube);
        assert_eq!(unique(&given), given.len(), "one is given out twice: {given:?}");
        if given.len() == 8 { Ok(()) } else { Err(format!("{given:?}")) }
    });
    counts(kube, "public", 8, 0);
}

fn an_address_of_a_node_is_nobodys(server: &mut ApiServer) {
    let _controller = Controller::start(server, "a");
    let kube = &server.kube;
    kube.apply(SHOP);
    becomes(kube, &objects::EDGE, &["Programmed=False Pending"]);
    kube.apply("{apiVersion: v1, kind: Node, metadata: {name: n1}}");
    let node = Id::new("Node", "n1");
    let status = json!({"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]});
    kube.merge_status(&node, status);
    let told = "Programmed=False AddressNotUsable: 192.0.2.1 is an address of Node n1";
    becomes(kube, &objects::EDGE, &[told]);
    kube.delete(&node);
    becomes(kube, &objects::EDGE, &["Programmed=False Pending"]);
}

fn nodes_get_sources_and_keep_them(server: &mut ApiServer) {
    let first = Controller::start(server, "a");
    let kube = &server.kube;
    let node = |name: &str| {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        kube.apply_object(&node).unwrap();
    };
    node("n2");
    pool(kube, "sources", json!({"use": "SNAT", "addresses": ["10.9.0.1-10.9.0.2"]}));
    counts(kube, "sources", 1, 1);
    node("n1");
    counts(kube, "sources", 2, 0);
    let has = |name: &str, address: &str| json!({"name": name, "addresses": [address]});
    let sources = Id::new("AddressPool", "sources");
    let given = || kube.get(&sources).unwrap()["status"]["nodes"].clone();
    // The one that came later comes first, and takes nothing away.
    assert_eq!(given(), json!([has("n1", "10.9.0.2"), has("n2", "10.9.0.1")]));
    first.stop();
    let second = Controller::start(server, "b");
    eventually("the second one to lead", PATIENCE, || second.leads());
    objects::settled(kube);
    assert_eq!(second.writes("written"), 0.0);
    kube.delete(&Id::new("Node", "n2"));
    counts(kube, "sources", 1, 1);
    node("n3");
    counts(kube, "sources", 2, 0);
    assert_eq!(given(), json!([has("n1", "10.9.0.2"), has("n3", "10.9.0.1")]));
}

fn class() -> Value {
    let (kind, name) = ("GatewayClass", "blixt");
    assert_eq!(CLASS, Id::cluster(kind, name));
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
        "metadata": {"name": name},
        "spec": {"controllerName": "gateway.networking.k8s.io/blixt"},
    })
}
