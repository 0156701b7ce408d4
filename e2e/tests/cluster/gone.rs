//! Uninstalling, and what is left: nothing.

use std::fs;
use std::time::Duration;

use blixt_e2e::cluster::{Cluster, root};
use blixt_testkit::netns::eventually_some;

use crate::documented::tells;
use crate::nodes::signal;
use crate::served::SOON;

/// A Gateway with a port that streams are taken on.
const STREAM: &str = r"
apiVersion: blixt.dev/v1alpha1
kind: AddressPool
metadata: {name: left}
spec: {use: VIP, addresses: [192.0.2.110]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: left, namespace: default}
spec:
  gatewayClassName: blixt
  listeners: [{name: web, protocol: HTTP, port: 80}]
";

/// What of ours a node may have, each with the words that would show it.
const TRACES: [(&str, &[&str], &[&str]); 8] = [
    ("an XDP program", &["ip", "link", "show", "dev", "eth0"], &["xdp"]),
    ("devices", &["ip", "link", "show"], &["blixt-host", "blixt-agent"]),
    ("routes", &["ip", "route", "show", "table", "all"], &["192.0.2.10", "192.0.2.11", "blixt"]),
    (
        "routes of IPv6",
        &["ip", "-6", "route", "show", "table", "all"],
        &["2001:db8:1::10", "2001:db8:1::11", "blixt"],
    ),
    (
        "addresses",
        &["ip", "address", "show"],
        &["192.0.2.10", "192.0.2.11", "2001:db8:1::10", "2001:db8:1::11"],
    ),
    // Those of streams' ports, and their tables.
    ("rules", &["ip", "rule", "show"], &["178000"]),
    ("rules of IPv6", &["ip", "-6", "rule", "show"], &["178000"]),
    // A table, and what others' chains let through of ours.
    ("rules in nf_tables", &["nft", "list", "ruleset"], &["blixt"]),
];

pub(crate) fn without_a_trace(cluster: &Cluster) {
    without_the_samples(cluster);
    uninstalled(cluster, "manifests/default");
}

/// With Helm, which leaves CRDs and namespace to the one who takes it away.
pub(crate) fn with_helm_without_a_trace(cluster: &Cluster) {
    without_the_samples(cluster);
    cluster
        .shell(&format!(
            "{} --wait
             kubectl delete -k manifests/crds
             kubectl delete namespace blixt-system",
            tells("helm uninstall blixt --namespace blixt-system")
        ))
        .ok();
    nothing_is_left(cluster);
}

fn without_the_samples(cluster: &Cluster) {
    for sample in ["tcproute", "udproute"] {
        let delete = tells("kubectl delete -k manifests/samples/tcproute");
        cluster.shell(&delete.replace("tcproute", sample)).ok();
    }
}

/// Takes it away as it was installed with kustomize.
pub(crate) fn uninstalled(cluster: &Cluster, manifests: &str) {
    let delete = tells("kubectl kustomize manifests/default | kubectl delete -f -");
    cluster.shell(&delete.replace("manifests/default", manifests)).ok();
    nothing_is_left(cluster);
}

/// Takes it away while there is a Gateway, and kills an agent that is to end: what
/// stays then, the page for operators says how to take away.
pub(crate) fn in_disorder(cluster: &Cluster, manifests: &str) {
    if !cluster.is_ours_or_skip("to uninstall in disorder") {
        return uninstalled(cluster, manifests);
    }
    cluster.apply(STREAM);
    eventually_some("a stream's port on node2", SOON, || {
        let rules = cluster.at("node2", "ip").args(["rule", "show"]).ok();
        if rules.contains("178000") { Ok(()) } else { Err(rules) }
    });
    signal(cluster, "blixt-agent", "node2", "-STOP");
    let delete = format!("kubectl kustomize {manifests} | kubectl delete --wait=false -f -");
    cluster.shell(&delete).ok();
    eventually_some("the agents to be told to end", SOON, || {
        let path = "jsonpath={.items[*].metadata.deletionTimestamp}";
        let label = "app.kubernetes.io/component=agent";
        let pods = ["-n", "blixt-system", "get", "pods", "-l", label, "-o", path];
        let told = cluster.kubectl(&pods).ok();
        // That on node1 may be gone by now.
        if told.is_empty() { Err("none is") } else { Ok(()) }
    });
    signal(cluster, "blixt-agent", "node2", "-KILL");
    eventually_some("the namespace to be gone", SOON, || {
        let get = ["get", "namespace", "blixt-system", "--ignore-not-found", "-o", "yaml"];
        let found = cluster.kubectl(&get).ok();
        if found.is_empty() { Ok(()) } else { Err(found) }
    });
    let class = cluster.kubectl(&["get", "gatewayclass", "blixt", "-o", "yaml"]).ok();
    assert!(class.contains("deletionTimestamp") && class.contains("finalizers"), "{class}");
    let links = cluster.at("node2", "ip").args(["link", "show"]).ok();
    assert!(links.contains("blixt-host"), "{links}");

    cluster.kubectl(&["delete", "gateway", "left"]).ok();
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let (_, page) = page.split_once("If Gateways were still there").unwrap();
    let told: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    let [class, on_node @ ..] = &told[..] else { panic!("nothing is told") };
    cluster.shell(class).ok();
    assert_eq!(on_node.len(), 3, "{on_node:?}");
    for line in on_node {
        cluster.at("node2", "bash").args(["-euc", line]).ok();
    }
    nothing_is_left(cluster);
}

fn nothing_is_left(cluster: &Cluster) {
    // The namespace took everything in it with it; the class has no finalizer.
    for kind in [
        "namespace/blixt-system",
        "gatewayclass/blixt",
        "crd/addresspools.blixt.dev",
        "crd/gatewayconfigs.blixt.dev",
    ] {
        eventually_some(format!("{kind} to be gone"), Duration::from_secs(60), || {
            let found = cluster.kubectl(&["get", kind, "--ignore-not-found", "-o", "yaml"]).ok();
            if found.is_empty() { Ok(()) } else { Err(found) }
        });
    }
    // The rest of what could be, wherever it is.
    let kinds = "leases,configmaps,secrets,serviceaccounts,roles,rolebindings,clusterroles,\
                 clusterrolebindings,poddisruptionbudgets,crds,services,daemonsets,deployments";
    let found = cluster.kubectl(&["get", kinds, "-A", "-o", "name"]).ok();
    assert!(!found.contains("blixt"), "{found}");
    // Others may have theirs.
    let path = "jsonpath={range .items[?(@.spec.gatewayClassName=='blixt')]}{.metadata.name} {end}";
    let gateways = cluster.kubectl(&["get", "gateways", "-A", "-o", path]).ok();
    assert_eq!(gateways, "", "with their finalizers");
    if !cluster.is_ours_or_skip("a look for traces on nodes") {
        return;
    }
    for node in ["node1", "node2"] {
        from_node(cluster, node);
    }
}

/// Nothing of ours is left on a node.
pub(crate) fn from_node(cluster: &Cluster, node: &str) {
    for (what, command, words) in TRACES {
        let shown = cluster.at(node, command[0]).args(&command[1..]).ok();
        let found: Vec<_> =
            shown.lines().filter(|line| words.iter().any(|word| is_there(line, word))).collect();
        assert!(found.is_empty(), "{node} still has {what}: {found:#?}");
    }
}

/// Whether a word is in a line, and is not merely the start of a node's own
/// address: 192.0.2.11 is node1, and 192.0.2.110 a sample's.
fn is_there(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let after = line[at + word.len()..].chars().next();
        word.ends_with(|c: char| c.is_alphabetic()) || after.is_some_and(|c| c.is_ascii_digit())
    })
}
