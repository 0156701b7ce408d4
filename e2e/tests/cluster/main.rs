//! Blixt in a real cluster, from installing it to nothing left: once with
//! kustomize where veths have their offloads, as in kind, and once with Helm where
//! they have none; and what Gateway API's conformance suite says of it.
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

mod apart;
mod beside;
mod cables;
mod conformance;
mod documented;
mod everywhere;
mod failures;
mod flapping;
mod gone;
mod installed;
mod nodes;
mod nonsense;
mod resets;
mod restarts;
mod scraped;
mod secured;
mod served;
mod settings;
mod versions;

use std::time::Instant;

use blixt_e2e::cluster::Cluster;

/// What is tried in a cluster.
type Room = fn(&Cluster);

/// What differs between those who install with kustomize and with Helm. Rooms that do
/// not ask how that was done are in one of the days.
struct Way {
    install: Room,
    others: &'static [(&'static str, Room)],
    upgrade: Room,
    uninstall: Room,
}

#[test]
fn a_day_in_a_cluster_with_offloads() {
    let kustomize = Way {
        install: installed::from_the_readme,
        others: &[
            ("metrics from another host", scraped::by_nobody),
            ("what operators look with", documented::commands_work),
            ("certificates, TLS and a ListenerSet", secured::with_a_certificate_that_changes),
            ("what makes no sense", nonsense::disturbs_nobody),
        ],
        upgrade: restarts::to_the_next_version,
        uninstall: gone::without_a_trace,
    };
    a_day_in("a cluster with offloads", true, &kustomize);
}

#[test]
fn a_day_in_a_cluster_without_offloads() {
    let helm = Way {
        install: installed::with_helm,
        others: &[
            ("metrics from another host", scraped::by_whoever_may),
            ("settings of all nodes", settings::reach_all_nodes),
            ("cables are taken out", cables::are_taken_out),
            ("backends restart under load", restarts::of_backends),
            ("controllers restart", restarts::of_controllers),
        ],
        upgrade: restarts::to_the_next_version_with_helm,
        uninstall: gone::with_helm_without_a_trace,
    };
    a_day_in("a cluster without offloads", false, &helm);
}

/// Once each but for those that are part of others, so that every day shows that it works.
#[test]
fn a_day_of_failures() {
    failures::of_everything("a cluster of failures", 1);
}

/// Often enough to say how long it takes.
#[test]
#[ignore = "takes about 40 minutes: scripts/test long"]
fn ten_days_of_failures() {
    failures::of_everything("ten days of failures", 10);
}

#[test]
fn gateway_api_conformance() {
    let Some(cluster) = Cluster::up("a cluster for the conformance suite", true) else { return };
    installed::from_the_readme(&cluster);
    conformance::as_published(&cluster);
    gone::in_disorder(&cluster, "manifests/tls-secrets");
}

/// With an older version that BLIXT_OLDER leads to.
#[test]
#[ignore = "takes the images of an older version"]
fn versions_side_by_side() {
    versions::side_by_side("a cluster of two versions");
}

fn a_day_in(what: &str, offloads: bool, way: &Way) {
    let Some(cluster) = Cluster::up(what, offloads) else { return };
    let begin: [(&str, Room); 4] = [
        ("install, as users are told", way.install),
        ("pods may do no more than they must", installed::with_few_privileges),
        ("requests to the samples", served::both_samples),
        ("from everywhere to everywhere", everywhere::with_and_without_sources),
    ];
    let end: [(&str, Room); 3] = [
        ("agents restart", restarts::of_agents),
        ("upgrade", way.upgrade),
        ("uninstall", way.uninstall),
    ];
    for (name, room) in begin.iter().chain(way.others).chain(&end) {
        let began = Instant::now();
        println!("== {what}: {name}");
        room(&cluster);
        println!("== good, after {:.1} s", began.elapsed().as_secs_f64());
    }
}
