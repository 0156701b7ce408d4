//! What clients notice of restarts: nothing of the backends' and the controllers',
//! and of the agents' that old connections are reset. New ones find somebody.

use std::thread::sleep;
use std::time::Duration;

use blixt_e2e::cluster::{Cluster, NEXT, Outcome};
use blixt_e2e::knocks::Door;

use crate::documented::tells;
use crate::installed;
use crate::served::{addresses, in_url};

/// How long nobody may be there, in seconds. Claimed: 0.1. A busy machine may take
/// longer; but a SYN that nobody takes is sent again after a second only.
pub(crate) const PLANNED: f64 = 0.5;

/// As few as may be answered in the seconds that a restart takes: one that is
/// answered asks again after 20 ms.
const FEW: usize = 50;

pub(crate) fn of_backends(cluster: &Cluster) {
    let outcome = under_load(cluster, &restart("default", "deployment/web"));
    assert!(outcome.failures.is_empty(), "requests failed: {:#?}", outcome.failures);
}

/// The new leader finds agents that come to it one after the other, and rewrites
/// nothing that is right already.
pub(crate) fn of_controllers(cluster: &Cluster) {
    let before = versions(cluster);
    let outcome = under_load(cluster, &restart("blixt-system", "deployment/blixt-controller"));
    assert!(outcome.failures.is_empty(), "requests failed: {:#?}", outcome.failures);
    installed::controllers_are_apart(cluster);
    assert_eq!(versions(cluster), before, "what was right was written again");
}

/// What controllers write the status of, each with its version.
fn versions(cluster: &Cluster) -> String {
    let kinds = "gatewayclasses,gateways,tcproutes,udproutes,addresspools";
    let path = "jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.resourceVersion} \
                {.status}{\"\\n\"}{end}";
    let versions = cluster.kubectl(&["get", kinds, "-A", "-o", path]).ok();
    assert!(versions.lines().count() > 4, "{versions}");
    versions
}

pub(crate) fn of_agents(cluster: &Cluster) {
    let restart = restart("blixt-system", "daemonset/blixt-agent");
    under_knocks(cluster, &restart, || run(cluster, &restart));
    // Connections begin anew; what matters is that they do.
    of_backends(cluster);
}

/// Agents and controllers of another version, one after the other, so that for
/// a while both are there.
pub(crate) fn to_the_next_version(cluster: &Cluster) {
    upgrade(
        cluster,
        &tells("kubectl kustomize manifests/default | kubectl apply -f -")
            .replace('|', &format!("| sed -E 's#(/blixt-(agent|controller)):.*#\\1:{NEXT}#' |")),
    );
}

pub(crate) fn to_the_next_version_with_helm(cluster: &Cluster) {
    upgrade(
        cluster,
        &format!(
            "{}
{} {} --set images.tag={NEXT}",
            tells("kubectl apply -k manifests/crds"),
            tells("helm upgrade blixt manifests/helm/blixt --namespace blixt-system"),
            tells("--set secureMetrics=true"),
        ),
    );
}

fn upgrade(cluster: &Cluster, command: &str) {
    let statuses = ["deployment/blixt-controller", "daemonset/blixt-agent"].map(|workload| {
        format!("kubectl --namespace blixt-system rollout status --timeout=180s {workload}\n")
    });
    let whole = format!("{command}\n{}", statuses.concat());
    under_knocks(cluster, &whole, || run(cluster, &whole));
    let images = "jsonpath={.items[*].spec.containers[*].image}";
    let images = cluster.kubectl(&["-n", "blixt-system", "get", "pods", "-o", images]).ok();
    let all_new = images.split_whitespace().all(|image| image.ends_with(&format!(":{NEXT}")));
    assert!(all_new, "{images}");
    installed::controllers_are_apart(cluster);
    of_backends(cluster);
}

pub(crate) fn restart(namespace: &str, workload: &str) -> String {
    format!(
        "kubectl --namespace {namespace} rollout restart {workload}
         kubectl --namespace {namespace} rollout status --timeout=180s {workload}"
    )
}

/// Begins connections all the while that something happens, and says for how long
/// nobody was there. Those that were on a node whose agent goes are reset.
pub(crate) fn under_knocks(cluster: &Cluster, what: &str, happens: impl FnOnce()) {
    let address = addresses(cluster, "web").remove(0);
    let door = Door::Web(format!("{}:8080", in_url(&address)).parse().unwrap());
    let knocks = cluster.knocks(door);
    let outcome = shown(what, happens, || knocks.stop());
    assert!(outcome.longest_gap_s <= PLANNED, "{what}: nobody for {:.2} s", outcome.longest_gap_s);
}

/// Asks all the while that something is done.
fn under_load(cluster: &Cluster, command: &str) -> Outcome {
    let address = addresses(cluster, "web").remove(0);
    let load = cluster.load(&format!("{}:8080", in_url(&address)));
    shown(command, || run(cluster, command), || load.stop())
}

fn run(cluster: &Cluster, command: &str) {
    cluster.shell(command).ok();
}

fn shown(what: &str, happens: impl FnOnce(), stop: impl FnOnce() -> Outcome) -> Outcome {
    sleep(Duration::from_secs(1));
    happens();
    sleep(Duration::from_secs(2));
    let outcome = stop();
    println!(
        "{}: {} requests answered, {} failed, longest time without an answer {:.0} ms",
        what.lines().next().unwrap(),
        outcome.answered,
        outcome.failures.len(),
        outcome.longest_gap_s * 1e3,
    );
    outcome.failures.iter().for_each(|failure| println!("failed: {failure}"));
    assert!(outcome.answered > FEW, "{outcome:?}");
    outcome
}
