//! Requests from outside, from nodes and from pods, of servers in pods on both
//! nodes and in their nodes' network, over addresses of both families: first
//! without SNAT addresses, so that all goes through the nodes' kernels, then
//! with some.
//!
//! Each server is asked so often that its other half answers too: a pod that
//! asks is sometimes answered by itself.

use std::thread;
use std::time::Duration;

use blixt_e2e::cluster::{Cluster, processes};
use blixt_testkit::netns::{Program, eventually_some, program};

use crate::served::{SOON, addresses, in_url, names, programmed};

/// One server in the network of each node.
const IN_NODES: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: node, labels: {pool: web}}
spec:
  gatewayClassName: blixt
  listeners: [{name: web, protocol: TCP, port: 8080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: node}
spec:
  parentRefs: [{name: node}]
  rules: [{backendRefs: [{name: node, port: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: node}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: node}
  ports: [{port: 8080, targetPort: 8088}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: node}
spec:
  selector: {matchLabels: {app: node}}
  template:
    metadata: {labels: {app: node}}
    spec:
      hostNetwork: true
      containers:
      - name: server
        image: registry.k8s.io/e2e-test-images/agnhost:2.63.0
        args: [netexec, --http-port=8088, --udp-port=8088]
        readinessProbe: {httpGet: {port: 8088, path: /healthz}, periodSeconds: 1}
";

/// Where requests come from.
enum Place {
    /// A network of the lab: the client's, or a node's.
    Lab(&'static str),
    /// That of a pod.
    Pod { name: String, pid: String },
}

impl Place {
    fn run(&self, cluster: &Cluster, line: &str) -> String {
        let within = |program: Program| {
            program.args(["-c", line]).limit(Duration::from_secs(200)).run().stdout
        };
        match self {
            Self::Lab(place) => within(cluster.at(place, "bash")),
            Self::Pod { pid, .. } => {
                within(program("nsenter").args(["--net", "--target", pid, "bash"]))
            }
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Lab(place) => place,
            Self::Pod { name, .. } => name,
        }
    }
}

pub(crate) fn with_and_without_sources(cluster: &Cluster) {
    if !cluster.is_ours_or_skip("requests from nodes and pods") {
        return;
    }
    cluster.apply(IN_NODES);
    cluster.kubectl(&["rollout", "status", "--timeout=120s", "daemonset/node"]).ok();
    eventually_some("node to be programmed", SOON, || programmed(cluster, "node"));
    let mut places = vec![Place::Lab("client"), Place::Lab("node1"), Place::Lab("node2")];
    places.extend(pods(cluster));
    assert_eq!(places.len(), 5, "a pod on each node");

    println!("== without SNAT addresses");
    each_from_each(cluster, &places);
    let all_seen = |by_sources: bool| {
        for address in addresses(cluster, "web") {
            let what = format!("{address} to use SNAT addresses: {by_sources}");
            eventually_some(what, SOON, || seen(cluster, &address, by_sources));
        }
    };
    all_seen(false);
    cluster.shell("kubectl apply -k manifests/samples/sources").ok();
    eventually_some("each node to have SNAT addresses", SOON, || {
        let path = "jsonpath={range .status.nodes[*]}{.name}={.addresses} {end}";
        let nodes = cluster.kubectl(&["get", "addresspool", "sources", "-o", path]).ok();
        let both = nodes.contains("node1=") && nodes.contains("node2=");
        if both { Ok(()) } else { Err(nodes) }
    });
    println!("== with SNAT addresses");
    all_seen(true);
    each_from_each(cluster, &places);

    cluster.delete(IN_NODES);
    cluster.shell("kubectl delete -k manifests/samples/sources").ok();
}

/// Whether servers see the client by addresses of the pool, or never: one on the
/// owner's own node is reached through that node's kernel either way.
fn seen(cluster: &Cluster, vip: &str, by_sources: bool) -> Result<(), String> {
    let once = format!("curl -s --max-time 2 http://{}:8080/clientip; echo", in_url(vip));
    let line = format!("for n in {{1..10}}; do {once}; done");
    let answers = cluster.client("bash").args(["-c", &line]).run().stdout;
    // ADDRESS:PORT, one of IPv6 in brackets; no other address there begins so.
    let of_pool =
        |line: &str| ["192.0.2.20", "[2001:db8:1::20"].iter().any(|it| line.starts_with(it));
    let all = answers.lines().count() == 10 && answers.lines().all(|line| !line.is_empty());
    if all && answers.lines().any(of_pool) == by_sources { Ok(()) } else { Err(answers) }
}

/// Asks for each address of each Gateway, from all places at once, until both of its
/// servers have answered.
fn each_from_each(cluster: &Cluster, places: &[Place]) {
    for gateway in ["web", "node", "dns"] {
        for address in addresses(cluster, gateway) {
            let address = &address;
            thread::scope(|scope| {
                for place in places {
                    scope.spawn(move || both_answer(cluster, gateway, address, place));
                }
            });
        }
    }
}

fn both_answer(cluster: &Cluster, gateway: &str, address: &str, place: &Place) {
    let ask = |line: &str| place.run(cluster, line);
    let what = format!("both servers of {gateway} at {address} from {}", place.name());
    let servers = eventually_some(&what, SOON, || names(ask, gateway, address));
    assert_eq!(servers.len(), 2, "{what}");
    println!("{what}: {servers:?}");
}

/// The web server's pods, one on each node.
fn pods(cluster: &Cluster) -> Vec<Place> {
    let path =
        "jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.spec.nodeName}{\"\\n\"}{end}";
    let pods = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", path]).ok();
    let place = |line: &str| {
        let [name, uid, node] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let pid = processes("agnhost", uid).pop();
        let pid = pid.unwrap_or_else(|| panic!("{name} has no process"));
        Place::Pod { name: format!("{name} on {node}"), pid }
    };
    pods.lines().map(place).collect()
}
