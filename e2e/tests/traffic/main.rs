//! Real traffic through the real agent: kernels' own TCP and UDP on both
//! sides of it, in network namespaces.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with what went wrong"
)]

mod balance;
mod bulk;
mod churn;
mod configured;
mod large;
mod life;
mod links;
mod live;
mod path;
mod pressure;
mod tiny;
mod tools;
mod workers;

use std::collections::BTreeMap;
use std::time::Duration;

use blixt_e2e::{Server, Stage, serve_names, serve_udp_names};
use blixt_testkit::netns::eventually_some;

/// A server of names for TCP and one for UDP on every backend.
fn names_everywhere(stage: &Stage) -> Vec<Server> {
    let backends = stage.lab.backends.iter().enumerate();
    backends
        .flat_map(|(n, backend)| {
            let name = format!("be{n}");
            [
                serve_names(&backend.namespace, 8_080, &name),
                serve_udp_names(&backend.namespace, 8_080, &name),
            ]
        })
        .collect()
}

/// Waits until no flow, port or frame is in use any more, and checks that
/// nothing was dropped on the way but for `expected` reasons.
fn nothing_is_left(stage: &Stage, expected: &[&str]) {
    let agent = stage.agent();
    let metrics = eventually_some("all flows to end", Duration::from_secs(20), || {
        let metrics = agent.metrics();
        let (flows, ports) =
            (metrics.sum("blixt_flow_entries", &[]), metrics.sum("blixt_snat_ports_used", &[]));
        if flows == 0.0 && ports == 0.0 {
            Ok(metrics)
        } else {
            Err(format!("{flows} flows, {ports} ports are in use"))
        }
    });
    let drops: BTreeMap<_, _> = metrics
        .drops()
        .into_iter()
        .filter(|(reason, _)| !expected.contains(&reason.as_str()))
        .collect();
    assert!(drops.is_empty(), "packets were dropped: {drops:?}");
}
