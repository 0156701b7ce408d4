//! What clients notice of restarts: nothing of the backends'. How much of the
//! agents' is printed; what holds is that requests are served after.

use blixt_e2e::cluster::{Cluster, Outcome};

use crate::served::{addresses, in_url};

/// As few as may be answered in the seconds that a restart takes: one that is
/// answered asks again after 20 ms.
const FEW: usize = 50;

pub(crate) fn of_backends(cluster: &Cluster) {
    let outcome = under_load(cluster, "default", "deployment/web");
    assert!(outcome.failures.is_empty(), "requests failed: {:#?}", outcome.failures);
}

pub(crate) fn of_controllers(cluster: &Cluster) {
    let outcome = under_load(cluster, "blixt-system", "deployment/blixt-controller");
    assert!(outcome.failures.is_empty(), "requests failed: {:#?}", outcome.failures);
}

pub(crate) fn of_agents(cluster: &Cluster) {
    under_load(cluster, "blixt-system", "daemonset/blixt-agent");
    // Connections begin anew; what matters is that they do.
    let after = under_load(cluster, "default", "deployment/web");
    assert!(after.failures.is_empty(), "requests failed: {:#?}", after.failures);
}

/// Asks all the while that a workload is restarted.
fn under_load(cluster: &Cluster, namespace: &str, workload: &str) -> Outcome {
    let address = addresses(cluster, "web").remove(0);
    let load = cluster.load(&format!("{}:8080", in_url(&address)));
    let restarted = cluster.shell(&format!(
        "sleep 1
         kubectl --namespace {namespace} rollout restart {workload}
         kubectl --namespace {namespace} rollout status --timeout=180s {workload}
         sleep 2"
    ));
    let outcome = load.stop();
    restarted.ok();
    println!(
        "restart of {workload}: {} requests answered, {} failed, longest time without an answer {:.0} ms",
        outcome.answered,
        outcome.failures.len(),
        outcome.longest_gap_s * 1e3,
    );
    assert!(outcome.answered > FEW, "{outcome:?}");
    outcome
}
