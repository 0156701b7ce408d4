//! Installing, by the commands that the README gives.

use std::time::Duration;

use blixt_e2e::cluster::{Cluster, root};
use blixt_e2e::lab;
use blixt_testkit::netns::eventually_some;
use serde_json::Value;

use crate::documented::tells;

/// The README's two commands: for Gateway API's CRDs, and for Blixt.
fn commands() -> [String; 2] {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, section) = readme.split_once("### In a cluster").unwrap();
    let block = section.split("\n\n    ").nth(1).unwrap().split("\n\n").next().unwrap();
    let lines: Vec<_> = block.lines().map(|line| line.trim().to_owned()).collect();
    lines.try_into().unwrap_or_else(|lines| panic!("not two commands: {lines:?}"))
}

/// Its two commands.
pub(crate) fn from_the_readme(cluster: &Cluster) {
    let [_, ours] = commands();
    gateway_api(cluster);
    // The namespace first, without which a trial run finds nowhere to try.
    cluster.shell("kubectl apply -f manifests/default/namespace.yaml").ok();
    cluster.shell(&ours.replace("apply", "apply --dry-run=server")).ok();
    cluster.kubectl(&["delete", "--wait", "namespace", "blixt-system"]).ok();

    cluster.shell(&ours).ok();
    is_there(cluster);
    agents_found_it_at_once(cluster);
    // It is what was asked for, with nothing left to apply.
    cluster.shell(&ours.replace("apply", "diff")).ok();
    controllers_are_apart(cluster);
}

/// What agents are shown when they start leads them to a controller: what is changed
/// later kubelet shows them after a minute or more.
fn agents_found_it_at_once(cluster: &Cluster) {
    let logs =
        ["-n", "blixt-system", "logs", "-l", "app.kubernetes.io/component=agent", "--tail=-1"];
    let logs = cluster.kubectl(&logs).ok();
    assert!(logs.contains("tables are in force"), "{logs}");
    assert!(!logs.contains("names no controller"), "{logs}");
}

/// The same with Helm, as the page for operators says, and with metrics for others.
pub(crate) fn with_helm(cluster: &Cluster) {
    gateway_api(cluster);
    let install = tells(
        "helm install blixt manifests/helm/blixt --namespace blixt-system --create-namespace",
    );
    let metrics = tells("--set secureMetrics=true");
    let label =
        tells("kubectl label namespace blixt-system pod-security.kubernetes.io/enforce=privileged");
    cluster.shell(&format!("{install} {metrics}\n{label}")).ok();
    is_there(cluster);
    agents_found_it_at_once(cluster);
    controllers_are_apart(cluster);
}

/// The CRDs of Gateway API. The command names a release's page, which no test
/// downloads: the same come from the release's Go module. Somebody else's cluster
/// may have them.
pub(crate) fn gateway_api(cluster: &Cluster) {
    let [command, _] = commands();
    let page = command.split_whitespace().last().unwrap();
    assert!(page.contains("/v1.6.3/standard-install.yaml"), "{page}");
    if cluster.is_ours() {
        let directory = lab::directory();
        let local = directory.parent().unwrap().join("crds");
        cluster.shell(&command.replace(page, local.to_str().unwrap())).ok();
    } else if !cluster.shell("kubectl get crd tcproutes.gateway.networking.k8s.io").status.success()
    {
        cluster.shell(&command).ok();
    }
}

/// Waits until all of it is there.
pub(crate) fn is_there(cluster: &Cluster) {
    for workload in ["deployment/blixt-controller", "daemonset/blixt-agent"] {
        let status = ["-n", "blixt-system", "rollout", "status", "--timeout=180s", workload];
        cluster.kubectl(&status).ok();
    }
    eventually_some("the class to be accepted", Duration::from_secs(30), || {
        let path = "jsonpath={.status.conditions[?(@.type=='Accepted')].status}";
        let accepted = cluster.kubectl(&["get", "gatewayclass", "blixt", "-o", path]).ok();
        if accepted == "True" { Ok(()) } else { Err(accepted) }
    });
}

/// The two controllers are on two nodes, so that one node's end leaves one.
pub(crate) fn controllers_are_apart(cluster: &Cluster) {
    if !cluster.is_ours_or_skip("a look for controllers on two nodes") {
        return;
    }
    let selector = ["-l", "app.kubernetes.io/component=controller", "-o", "json"];
    let get = [&["-n", "blixt-system", "get", "pods"][..], &selector].concat();
    eventually_some("two controllers on two nodes", Duration::from_secs(60), || {
        let pods: Value = serde_json::from_str(&cluster.kubectl(&get).ok()).unwrap();
        let stay = pods["items"].as_array().unwrap().iter();
        let stay = stay.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let mut nodes: Vec<_> = stay.map(|pod| pod["spec"]["nodeName"].to_string()).collect();
        nodes.sort();
        if nodes == ["\"node1\"", "\"node2\""] { Ok(()) } else { Err(format!("{nodes:?}")) }
    });
}

/// What the kernel says of the processes, whatever manifests say; and that the
/// namespace's label allows no more either.
pub(crate) fn with_few_privileges(cluster: &Cluster) {
    for (level, is_enough) in [("restricted", false), ("baseline", false), ("privileged", true)] {
        let label = format!(
            "kubectl label --dry-run=server --overwrite namespace blixt-system \
             pod-security.kubernetes.io/enforce={level}"
        );
        let said = cluster.shell(&label).stderr;
        let violates = format!("violate the new PodSecurity enforce level \"{level}:latest\"");
        assert_eq!(!said.contains(&violates), is_enough, "{level}: {said}");
    }
    if !cluster.is_ours_or_skip("a look at the processes") {
        return;
    }
    // CAP_NET_BIND_SERVICE 10, CAP_NET_ADMIN 12, CAP_NET_RAW 13, CAP_IPC_LOCK 14,
    // CAP_PERFMON 38, CAP_BPF 39 (include/uapi/linux/capability.h).
    const SIX: u64 = 1 << 10 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 38 | 1 << 39;
    // A process has 15 bytes of its program's name (proc_pid_comm(5)).
    for (program, uid, capabilities) in [("blixt-agent", "0", SIX), ("blixt-controlle", "65532", 0)]
    {
        let running = ["node1", "node2"].map(|node| cluster.processes(program, node)).concat();
        assert!(!running.is_empty(), "no {program} runs");
        for pid in running {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let field = |name: &str| {
                let line = status.lines().find(|line| line.starts_with(name)).unwrap();
                line.split_once(':').unwrap().1.split_whitespace().collect::<Vec<_>>().join(" ")
            };
            for set in ["CapEff", "CapPrm", "CapBnd"] {
                let found = u64::from_str_radix(&field(set), 16).unwrap();
                assert_eq!(found, capabilities, "{set} of {program}: {status}");
            }
            // Real, effective, saved and that of files (proc_pid_status(5)).
            assert_eq!(field("Uid"), [uid; 4].join(" "), "{program}: {status}");
            assert_eq!(
                (field("NoNewPrivs"), field("Seccomp:")),
                ("1".into(), "2".into()),
                "{status}"
            );
        }
    }
}
