//! Nodes with an interface for traffic alone, which the cables are taken out of: what
//! operators see of it where `docs/operations.md` tells them to look.

use blixt_e2e::cluster::Cluster;
use blixt_testkit::netns::eventually_some;
use serde_json::json;

use crate::documented::{tells, words};
use crate::nonsense::explained;
use crate::restarts::restart;
use crate::served::{SOON, programmed};
use crate::settings::{agents, each_agent, is, refer_to};

const NODES: [&str; 2] = ["node1", "node2"];

const SETTINGS: &str = r"
apiVersion: blixt.dev/v1alpha1
kind: GatewayConfig
metadata: {name: cables, namespace: default}
spec: {interfaces: {names: [eth1]}}
";

pub(crate) fn are_taken_out(cluster: &Cluster) {
    if !cluster.is_ours_or_skip("cables that are taken out") {
        return;
    }
    NODES.iter().for_each(|node| plug(cluster, node));
    cluster.apply(SETTINGS);
    refer_to(cluster, Some("cables"));
    each_agent(cluster, "to know the settings", |status| {
        let awaited = status["agent"]["restart_awaited_for"].as_array().unwrap();
        let eth1 = json!("interfaces: eth1 instead of those of the default route");
        if awaited.contains(&eth1) { Ok(()) } else { Err(format!("{awaited:?}")) }
    });
    restart_agents(cluster);
    each_agent(cluster, "to be attached to eth1, and to its end of the host path", |status| {
        let interfaces = status["interfaces"].as_array().unwrap();
        let found = interfaces.iter().map(|interface| (&interface["name"], &interface["state"]));
        is(
            &json!(found.collect::<Vec<_>>()),
            &json!([["eth1", "attached"], ["blixt-agent", "attached"]]),
        )?;
        is(&status["agent"]["ready"], &json!(true))
    });
    eventually_some("web to be programmed", SOON, || programmed(cluster, "web"));

    NODES.iter().for_each(|node| set(cluster, node, "down"));
    explained(cluster, "web", "NoNodeServes");
    for pod in agents(cluster) {
        let status = tells("kubectl --namespace blixt-system exec POD -- /blixtctl status");
        let shown = cluster.shell(&status.replace("POD", &pod)).ok();
        for line in [
            "Health NOT READY",
            "interface eth1 is down, or its cable is out: `ip link set eth1 up`",
        ] {
            assert!(shown.lines().any(|shown| words(shown) == tells(line)), "{shown}");
        }
    }
    NODES.iter().for_each(|node| set(cluster, node, "up"));
    eventually_some("web to be programmed again", SOON, || programmed(cluster, "web"));

    refer_to(cluster, None);
    cluster.delete(SETTINGS);
    restart_agents(cluster);
    for node in NODES {
        cluster.at("switch", "ip").args(["link", "delete", &cable(node)]).ok();
    }
    each_agent(cluster, "to be ready", |status| is(&status["agent"]["ready"], &json!(true)));
    eventually_some("web to be programmed at last", SOON, || programmed(cluster, "web"));
}

/// A second interface into the same switch.
fn plug(cluster: &Cluster, node: &str) {
    let (cable, network) = (cable(node), cluster.network(node));
    let network = network.file_name().unwrap().display();
    let line = format!(
        "ip link add {cable} numrxqueues 4 numtxqueues 4 type veth \
             peer name eth1 netns {network} numrxqueues 4 numtxqueues 4
         ip link set {cable} master br0 up"
    );
    cluster.at("switch", "bash").args(["-euc", &line]).ok();
    cluster.at(node, "ip").args(["link", "set", "eth1", "up"]).ok();
}

/// The switch's end, which shows at the node's as its carrier.
fn set(cluster: &Cluster, node: &str, how: &str) {
    cluster.at("switch", "ip").args(["link", "set", &cable(node), how]).ok();
}

fn cable(node: &str) -> String {
    format!("{node}-eth1")
}

fn restart_agents(cluster: &Cluster) {
    cluster.shell(&restart("blixt-system", "daemonset/blixt-agent")).ok();
}
