//! Uninstalling, and what is left: nothing.

use std::time::Duration;

use blixt_e2e::cluster::Cluster;
use blixt_testkit::netns::eventually_some;

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
    ("a table in nf_tables", &["nft", "list", "tables"], &["blixt"]),
];

pub(crate) fn without_a_trace(cluster: &Cluster) {
    without_the_samples(cluster);
    uninstalled(cluster, "manifests/default");
}

/// With Helm, which leaves CRDs and namespace to the one who takes it away.
pub(crate) fn with_helm_without_a_trace(cluster: &Cluster) {
    without_the_samples(cluster);
    cluster
        .shell(
            "helm uninstall blixt --namespace blixt-system --wait
             kubectl delete -k manifests/crds
             kubectl delete namespace blixt-system",
        )
        .ok();
    nothing_is_left(cluster);
}

fn without_the_samples(cluster: &Cluster) {
    for sample in ["tcproute", "udproute"] {
        cluster.shell(&format!("kubectl delete -k manifests/samples/{sample}")).ok();
    }
}

/// Takes it away as it was installed with kustomize.
pub(crate) fn uninstalled(cluster: &Cluster, manifests: &str) {
    cluster.shell(&format!("kubectl kustomize {manifests} | kubectl delete -f -")).ok();
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
