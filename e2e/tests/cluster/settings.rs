//! Settings out of a GatewayConfig, from the API server to the agents of all nodes:
//! what is in force at once, what after a restart, and what never.

use std::time::Duration;

use blixt_e2e::cluster::Cluster;
use blixt_testkit::netns::eventually_some;
use serde_json::{Deserializer, Value, json};

use crate::nodes::mac;
use crate::nonsense::{answers, told};
use crate::restarts::restart;
use crate::served::{SOON, addresses, programmed};

/// How long flows of UDP may take to go that are kept for a second. Without
/// settings they are kept for 30.
const SHORT: Duration = Duration::from_secs(10);

/// A Gateway with a GatewayConfig of its own.
const OWN: &str = r"
apiVersion: blixt.dev/v1alpha1
kind: GatewayConfig
metadata: {name: own}
spec: {forwarding: NAT}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: own, labels: {pool: web}}
spec:
  gatewayClassName: blixt
  infrastructure: {parametersRef: {group: blixt.dev, kind: GatewayConfig, name: own}}
  listeners: [{name: web, protocol: TCP, port: 8080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: own}
spec:
  parentRefs: [{name: own}]
  rules: [{backendRefs: [{name: web, port: 8080}]}]
";

/// A class that wants something else for all nodes, and is too late.
const LATE: &str = r"
apiVersion: blixt.dev/v1alpha1
kind: GatewayConfig
metadata: {name: late}
spec: {flowCapacity: 9000}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: late}
spec:
  controllerName: gateway.networking.k8s.io/blixt
  parametersRef: {group: blixt.dev, kind: GatewayConfig, namespace: default, name: late}
";

pub(crate) fn reach_all_nodes(cluster: &Cluster) {
    if !cluster.is_ours_or_skip("settings of all nodes") {
        return;
    }
    cluster.apply(OWN);
    eventually_some("own to be programmed", SOON, || programmed(cluster, "own"));
    used_by(cluster, "own", "[\"Gateway default/own\"]");
    told(cluster, "gatewayconfig/own", "Accepted=True Accepted");
    answers(cluster, &addresses(cluster, "own")[0]);
    cluster.delete(OWN);

    cluster.apply(&nodes("2h", "1h"));
    refer_to(cluster, Some("nodes"));
    used_by(cluster, "nodes", "[\"GatewayClass blixt\"]");
    told(cluster, "gatewayconfig/nodes", "Accepted=True Accepted");
    told(cluster, "gatewayclass/blixt", "Accepted=True Accepted");
    let awaited = json!(["flowCapacity: 5000 instead of 262144"]);
    each_agent(cluster, "to know the settings", |status| {
        is(&status["agent"]["restart_awaited_for"], &awaited)
    });
    each_has_slots(cluster, 1_021);
    ask_through_each_node(cluster);
    // Who asks from a port that asked before talks on.
    for (pod, kept) in each_kept(cluster) {
        let (asked, talked): (Vec<_>, Vec<_>) = kept.into_iter().partition(|s| *s <= 3_600.0);
        assert!(!asked.is_empty() && asked.iter().all(|s| *s >= 3_590.0), "{pod}: {asked:?}");
        assert!(talked.iter().all(|s| (7_190.0..=7_200.0).contains(s)), "{pod}: {talked:?}");
        assert!(talked.len() < asked.len(), "{pod}: {asked:?}, {talked:?}");
    }

    // In force at once.
    cluster.apply(&nodes("1s", "1s"));
    flows_go(cluster);

    // What makes no sense changes nothing.
    let bad = cluster.shell(&format!("kubectl apply -f - <<<'{}'", nodes("1s", "500ms")));
    assert!(bad.stderr.contains("use a time from 1s to 288h"), "{bad:?}");
    cluster.apply(LATE);
    for object in ["gatewayclass/late", "gatewayconfig/late"] {
        told(cluster, object, "Accepted=False InvalidParameters");
    }
    told(cluster, "gatewayclass/blixt", "Accepted=True Accepted");
    ask_through_each_node(cluster);
    flows_go(cluster);
    each_agent(cluster, "to know no other settings", |status| {
        is(&status["agent"]["restart_awaited_for"], &awaited)
    });

    // The rest after the next start.
    cluster.shell(&restart("blixt-system", "daemonset/blixt-agent")).ok();
    each_agent(cluster, "to have room for that many flows", |status| {
        let workers = status["workers"].as_array().unwrap();
        workers.iter().try_for_each(|worker| is(&worker["flow_capacity"], &json!(5_000)))?;
        is(&status["agent"]["restart_awaited_for"], &json!([]))
    });
    refer_to(cluster, None);
    for yaml in [LATE, &nodes("1s", "1s")] {
        cluster.delete(yaml);
    }
    told(cluster, "gatewayclass/blixt", "Accepted=True Accepted");
}

/// What is to hold on all nodes. What talks by UDP is kept for a time, and what only
/// asked and was answered for another.
fn nodes(udp: &str, udp_query: &str) -> String {
    json!({
        "apiVersion": "blixt.dev/v1alpha1", "kind": "GatewayConfig",
        "metadata": {"name": "nodes", "namespace": "default"},
        "spec": {
            "forwarding": "NAT", "timeouts": {"udp": udp, "udpQuery": udp_query},
            "flowCapacity": 5_000, "maglevSize": 1_021,
        },
    })
    .to_string()
}

/// Has the class refer to a GatewayConfig, or to none.
pub(crate) fn refer_to(cluster: &Cluster, config: Option<&str>) {
    let config = config.map(|name| {
        json!({
            "group": "blixt.dev", "kind": "GatewayConfig", "namespace": "default", "name": name,
        })
    });
    let patch = json!({"spec": {"parametersRef": config}}).to_string();
    cluster.kubectl(&["patch", "gatewayclass", "blixt", "--type=merge", "-p", &patch]).ok();
}

fn used_by(cluster: &Cluster, config: &str, wanted: &str) {
    let get = ["get", "gatewayconfig", config, "-o", "jsonpath={.status.usedBy}"];
    eventually_some(format!("{config} to be used by {wanted}"), SOON, || {
        let used_by = cluster.kubectl(&get).ok();
        if used_by == wanted { Ok(()) } else { Err(used_by) }
    });
}

/// Asks the name server of the sample, as if each node in turn had its address.
fn ask_through_each_node(cluster: &Cluster) {
    for address in addresses(cluster, "dns") {
        for node in ["node1", "node2"] {
            let mac = mac(cluster, node);
            let line = format!(
                "ip neigh replace {address} lladdr {mac} dev eth0
                 for n in {{1..4}}; do
                     dig +short +tries=1 +time=2 @{address} CH TXT hostname.bind
                 done
                 ip neigh del {address} dev eth0"
            );
            let answers = cluster.client("bash").args(["-c", &line]).ok();
            let good = answers.lines().filter(|line| line.starts_with("\"dns-")).count();
            assert_eq!(good, 4, "{address} on {node}: {answers}");
        }
    }
}

/// For how long each agent keeps its flows of UDP since their last packet, in seconds.
fn each_kept(cluster: &Cluster) -> Vec<(String, Vec<f64>)> {
    let kept = |pod: String| {
        let lines = blixtctl(cluster, &pod, "flows");
        let flows = Deserializer::from_str(&lines).into_iter::<Value>().map(Result::unwrap);
        let ms = |flow: &Value| {
            flow["idle_ms"].as_f64().unwrap() + flow["forgotten_in_ms"].as_f64().unwrap()
        };
        let kept = flows.filter(|flow| flow["protocol"] == "udp").map(|flow| ms(&flow) / 1e3);
        (pod, kept.collect())
    };
    agents(cluster).into_iter().map(kept).collect()
}

/// Waits until the Maglev table of each Service of each agent has that many slots.
fn each_has_slots(cluster: &Cluster, slots: u32) {
    for pod in agents(cluster) {
        eventually_some(format!("{pod} to have Maglev tables of {slots} slots"), SOON, || {
            let lb: Value = serde_json::from_str(&blixtctl(cluster, &pod, "lb")).unwrap();
            let listeners = lb["listeners"].as_array().unwrap().iter();
            let backends = listeners.flat_map(|listener| listener["backends"].as_array().unwrap());
            let endpoints = backends.flat_map(|backend| backend["endpoints"].as_array().unwrap());
            let found: Vec<_> = endpoints.map(|endpoint| &endpoint["maglev"]["of"]).collect();
            let is_so = !found.is_empty() && found.iter().all(|of| **of == json!(slots));
            if is_so { Ok(()) } else { Err(format!("{found:?}")) }
        });
    }
}

/// Waits until no agent has a flow of UDP any more.
fn flows_go(cluster: &Cluster) {
    eventually_some("flows to go", SHORT, || {
        let kept = each_kept(cluster);
        if kept.iter().all(|(_, kept)| kept.is_empty()) { Ok(()) } else { Err(format!("{kept:?}")) }
    });
}

/// Waits until what each agent says of itself is good.
pub(crate) fn each_agent(
    cluster: &Cluster,
    what: &str,
    good: impl Fn(&Value) -> Result<(), String>,
) {
    let agents = agents(cluster);
    assert_eq!(agents.len(), 2, "{agents:?}");
    for pod in agents {
        eventually_some(format!("{pod} {what}"), SOON, || {
            good(&serde_json::from_str(&blixtctl(cluster, &pod, "status")).unwrap())
        });
    }
}

pub(crate) fn is(found: &Value, wanted: &Value) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{found}, not {wanted}")) }
}

pub(crate) fn agents(cluster: &Cluster) -> Vec<String> {
    let selector = ["-l", "app.kubernetes.io/component=agent", "-o", "name"];
    let names = cluster.kubectl(&[&["-n", "blixt-system", "get", "pods"][..], &selector].concat());
    names.ok().lines().map(str::to_owned).collect()
}

fn blixtctl(cluster: &Cluster, pod: &str, command: &str) -> String {
    let exec = ["-n", "blixt-system", "exec", pod, "--", "/blixtctl", "-o", "json", command];
    cluster.kubectl(&exec).ok()
}
