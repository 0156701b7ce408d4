//! Blixt in a real cluster, from `kubectl apply` to nothing left: once where
//! veths have their offloads, as in kind, and once where they have none.
//!
//! One test is one cluster, and goes through the rooms in the order of a
//! user's day. Without the lab's programs it is skipped, and says so; with
//! KUBECONFIG in the environment it is that cluster, which must have the images
//! and lets the samples' addresses reach its nodes.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with what went wrong"
)]

mod gone;
mod installed;
mod restarts;
mod served;

use std::time::Instant;

use blixt_e2e::cluster::Cluster;

/// What is tried in a cluster.
type Room = fn(&Cluster);

/// Each room of the tests, in order.
const ROOMS: [(&str, Room); 7] = [
    ("install, as the README says", installed::from_the_readme),
    ("pods may do no more than they must", installed::with_few_privileges),
    ("requests to the samples", served::both_samples),
    ("backends restart under load", restarts::of_backends),
    ("agents restart", restarts::of_agents),
    ("controllers restart", restarts::of_controllers),
    ("uninstall", gone::without_a_trace),
];

#[test]
fn a_day_in_a_cluster_with_offloads() {
    a_day_in("a cluster with offloads", true);
}

#[test]
fn a_day_in_a_cluster_without_offloads() {
    a_day_in("a cluster without offloads", false);
}

fn a_day_in(what: &str, offloads: bool) {
    let Some(cluster) = Cluster::up(what, offloads) else { return };
    for (name, room) in ROOMS {
        let began = Instant::now();
        println!("== {what}: {name}");
        room(&cluster);
        println!("== good, after {:.1} s", began.elapsed().as_secs_f64());
    }
}
