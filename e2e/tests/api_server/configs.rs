//! GatewayConfigs: who may refer to them, and what becomes of that.

use std::fs;

use blixt_e2e::cluster::root;
use blixt_e2e::{ApiServer, Controller, Id};
use serde_json::{Value, json};

use crate::Test;
use crate::objects::{self, CLASS, EDGE, SHOP, becomes};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("the_api_server_refuses_settings_that_make_no_sense", the_api_server_refuses),
    ("a_gateway_config_is_followed_and_disturbs_nobody", a_gateway_config_is_followed),
    ("the_samples_of_sources_and_settings_are_taken", the_samples_are_taken),
];

const NODES: Id<'_> = Id::namespaced("GatewayConfig", "shop", "nodes");

fn config(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "blixt.dev/v1alpha1", "kind": "GatewayConfig",
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
    })
}

fn the_api_server_refuses(server: &mut ApiServer) {
    let kube = &server.kube;
    kube.apply(SHOP);
    for (spec, part) in [
        (json!({"forwarding": "DSR"}), "Unsupported value: \"DSR\": supported values: \"NAT\""),
        (json!({"maglevSize": 1000}), "use one of the primes"),
        (json!({"maglevSize": 524_287}), "use one of the primes"),
        (json!({"flowCapacity": 3}), "should be greater than or equal to 16"),
        (json!({"flowCapacity": 200_000_000}), "should be less than or equal to 16777216"),
        (json!({"interfaces": {"names": ["a/b"]}}), "should match"),
        (json!({"interfaces": {"names": [".."]}}), "should match"),
        (json!({"snatPorts": {"first": 9, "last": 2}}), "must not be behind the last one"),
        (json!({"snatPorts": {"first": 0, "last": 2}}), "greater than or equal to 1"),
        (json!({"timeouts": {"udp": "5"}}), "should match"),
        (json!({"timeouts": {"udp": "500ms"}}), "use a time from 1s to 288h"),
        (json!({"timeouts": {"udp": "289h"}}), "use a time from 1s to 288h"),
        (json!({"interfaces": {"names": ["eth0"], "matching": "e.*"}}), "not both"),
        (json!({"interfaces": {"matching": "eth["}}), "interfaces.matching"),
    ] {
        let refused = kube.apply_object(&config("bad", spec.clone())).unwrap_err().to_string();
        assert!(refused.contains(part), "{spec}: {refused}");
    }
    let all = json!({
        "timeouts": {"tcpEstablished": "2h4m", "tcpTransitory": "4m", "tcpRest": "1m", "udp": "5m",
            "udpQuery": "1s500ms"},
        "maglevSize": 65_537, "flowCapacity": 5_000, "snatPorts": {"first": 7, "last": 7},
        "interfaces": {"matching": "eth.*|ens[0-9]+"},
    });
    let stored = kube.apply_object(&config("good", all)).unwrap();
    assert_eq!(stored["spec"]["forwarding"], "NAT");
}

/// And so is what docs/operations.md has of them.
fn the_samples_are_taken(server: &mut ApiServer) {
    const POOL: Id<'_> = Id::cluster("AddressPool", "sources");
    const SAMPLE: Id<'_> = Id::namespaced("GatewayConfig", "blixt-system", "nodes");
    let _controller = Controller::start(server, "a");
    let kube = &server.kube;
    kube.apply(SHOP);
    kube.apply("{apiVersion: v1, kind: Node, metadata: {name: n1}}");
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    kube.apply(&read("manifests/samples/sources/pool.yaml"));
    let given = json!([{"name": "n1", "addresses": ["192.0.2.200", "2001:db8:1::200"]}]);
    kube.eventually(&POOL, |pool| match pool["status"]["nodes"] == given {
        true => Ok(()),
        false => Err(pool["status"].to_string()),
    });

    kube.apply(&read("manifests/samples/settings/config.yaml"));
    let class = read("manifests/samples/settings/class.yaml");
    kube.merge(&CLASS, serde_saphyr::from_str(&class).unwrap());
    becomes(kube, &CLASS, &["Accepted=True Accepted"]);
    becomes(kube, &SAMPLE, &["Accepted=True Accepted"]);
    let before = kube.get(&SAMPLE).unwrap()["spec"].clone();

    let page = read("docs/operations.md");
    let examples: Vec<_> = page.split("\n```yaml\n").skip(1).collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        kube.apply(example.split_once("\n```").unwrap().0);
    }
    becomes(kube, &Id::cluster("AddressPool", "rack-1"), &["Accepted=True Overlaps: sources"]);
    assert_eq!(kube.get(&SAMPLE).unwrap()["spec"], before, "it is the sample");
}

fn a_gateway_config_is_followed(server: &mut ApiServer) {
    let controller = Controller::start(server, "a");
    let kube = &server.kube;
    kube.apply(SHOP);
    becomes(kube, &EDGE, &["Accepted=True Accepted"]);
    // A class that refers to nothing: who is served stays so.
    let reference = json!({
        "group": "blixt.dev", "kind": "GatewayConfig", "namespace": "shop", "name": "nodes",
    });
    kube.merge(&CLASS, json!({"spec": {"parametersRef": reference}}));
    becomes(kube, &CLASS, &["Accepted=False InvalidParameters: shop/nodes does not exist"]);
    becomes(kube, &EDGE, &["Accepted=True Accepted"]);
    // Here it is.
    kube.apply_object(&config("nodes", json!({"flowCapacity": 5_000}))).unwrap();
    becomes(kube, &CLASS, &["Accepted=True Accepted"]);
    becomes(kube, &NODES, &["Accepted=True Accepted"]);
    let used_by =
        |config: &Value, wanted: &[&str]| match config["status"]["usedBy"] == json!(wanted) {
            true => Ok(()),
            false => Err(config["status"].to_string()),
        };
    kube.eventually(&NODES, |config| used_by(config, &["GatewayClass blixt"]));
    let before = objects::settled(kube);

    // A Gateway that wants to say what holds for nodes is alone in its trouble.
    let greedy = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "greedy", "namespace": "shop"},
        "spec": {
            "gatewayClassName": "blixt", "addresses": [{"value": "192.0.2.9"}],
            "infrastructure": {"parametersRef": {
                "group": "blixt.dev", "kind": "GatewayConfig", "name": "nodes"}},
            "listeners": [{"name": "tcp", "protocol": "TCP", "port": 80}],
        },
    });
    kube.apply_object(&greedy).unwrap();
    let told = "Accepted=False InvalidParameters: flowCapacity, which hold for whole nodes";
    becomes(kube, &Id::of(&greedy), &[told]);
    // That is no fault of the GatewayConfig.
    kube.eventually(&NODES, |config| {
        used_by(config, &["GatewayClass blixt", "Gateway shop/greedy"])
    });
    becomes(kube, &NODES, &["Accepted=True Accepted"]);
    kube.delete(&Id::of(&greedy));
    becomes(kube, &NODES, &["Accepted=True Accepted"]);
    becomes(kube, &EDGE, &["Accepted=True Accepted"]);
    assert_eq!(before.len(), objects::settled(kube).len());

    // Gone: the class says so, and its Gateway is served.
    kube.delete(&NODES);
    becomes(kube, &CLASS, &["Accepted=False InvalidParameters: does not exist"]);
    becomes(kube, &EDGE, &["Accepted=True Accepted"]);
    controller.stop();
}
