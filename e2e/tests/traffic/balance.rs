//! Who answers: weights, both protocols, both families, both numbers of arms,
//! with and without what the kernel's devices do for their senders.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use blixt_e2e::{Stage, StagePlan, ask_from, ask_udp_from};
use blixt_testkit::netns::{Arms, LabPlan, Offloads};
use blixt_testkit::require_root;

use super::{names_everywhere, nothing_is_left};

/// Ended connections are forgotten fast enough for a test to wait for it.
pub(super) fn short_rest() -> Vec<String> {
    ["--tcp-rest", "1s", "--udp-timeout", "2s"].map(str::to_owned).into()
}

/// Below those that the kernel gives away by itself.
const FIRST_PORT: u16 = 20_000;

/// Asks `count` times from the client's namespace, a flow each. The ports are
/// the same in each run, hence the shares too: by chance alone 2,000 flows are
/// farther than two points off once in twenty runs.
fn answers(
    stage: &Stage,
    to: SocketAddr,
    count: u16,
    question: fn(u16, SocketAddr) -> std::io::Result<String>,
) -> BTreeMap<String, usize> {
    stage.lab.client.namespace.inside(move || {
        let mut names = BTreeMap::new();
        for n in 0..count {
            match question(FIRST_PORT + n, to) {
                Ok(name) => *names.entry(name).or_default() += 1,
                Err(error) => panic!("request {n} of {count} to {to}: {error}"),
            }
        }
        names
    })
}

fn every_backend_answers(lab: LabPlan) {
    let stage = Stage::new(StagePlan { lab, flags: short_rest() }, |_, _| ());
    let _servers = names_everywhere(&stage);
    for to in stage.vip(80) {
        for question in [ask_from, ask_udp_from] {
            let names = answers(&stage, to, 120, question);
            // One of three by chance 120 times: 40, give or take five times
            // the standard deviation of 5.2.
            assert_eq!(names.len(), 3, "{to}: {names:?}");
            assert!(names.values().all(|count| (14..=66).contains(count)), "{to}: {names:?}");
        }
    }
    nothing_is_left(&stage, &[]);
}

#[test]
fn one_arm_with_offloads_as_made() {
    require_root!();
    every_backend_answers(LabPlan { arms: Arms::One, ..LabPlan::default() });
}

#[test]
fn one_arm_with_offloads_off() {
    require_root!();
    let offloads = Offloads::Off;
    every_backend_answers(LabPlan { arms: Arms::One, offloads, ..LabPlan::default() });
}

#[test]
fn two_arms_with_offloads_as_made() {
    require_root!();
    every_backend_answers(LabPlan::default());
}

#[test]
fn two_arms_with_offloads_off() {
    require_root!();
    every_backend_answers(LabPlan { offloads: Offloads::Off, ..LabPlan::default() });
}

#[test]
fn four_queues_serve_as_one() {
    require_root!();
    every_backend_answers(LabPlan { queues: 4, ..LabPlan::default() });
}

#[test]
fn shares_of_2000_connections_follow_their_weights() {
    require_root!();
    let plan = StagePlan { flags: short_rest(), ..StagePlan::default() };
    let stage = Stage::new(plan, |_, gateway| {
        for listener in &mut gateway.listeners {
            for ((_, weight), new) in listener.backends.iter_mut().zip([70, 30, 0]) {
                *weight = new;
            }
        }
    });
    let _servers = names_everywhere(&stage);
    let [v4, v6] = stage.vip(80);
    for question in [ask_from, ask_udp_from] {
        let mut names = answers(&stage, v4, 1_000, question);
        for (name, count) in answers(&stage, v6, 1_000, question) {
            *names.entry(name).or_default() += count;
        }
        let percent = |name: &str| names.get(name).copied().unwrap_or(0) as f64 / 20.0;
        for (name, expected) in [("be0", 70.0), ("be1", 30.0)] {
            assert!((percent(name) - expected).abs() <= 2.0, "{names:?}");
        }
        assert!(!names.contains_key("be2"), "weight 0 takes nothing: {names:?}");
    }
    nothing_is_left(&stage, &[]);

    // blixtctl tells the same.
    let number = |of: &serde_json::Value, name| of["traffic"][name].as_f64().unwrap();
    let balancing = stage.agent().ctl("lb");
    for listener in balancing["listeners"].as_array().unwrap() {
        let flows = number(listener, "flows");
        assert_eq!(flows, 2_000.0, "{listener:#}");
        for (backend, expected) in
            listener["backends"].as_array().unwrap().iter().zip([0.7, 0.3, 0.0])
        {
            let share = number(backend, "flows") / flows;
            assert!((share - expected).abs() <= 0.02, "{backend:#}");
            assert_eq!(number(backend, "active_flows"), 0.0, "{backend:#}");
        }
    }
}

#[test]
fn a_client_stays_with_its_endpoint_if_the_service_says_so() {
    require_root!();
    let stage = Stage::new(StagePlan::default(), |lab, gateway| {
        // All backends in one Service.
        let everybody = lab.backends.iter().flat_map(|backend| backend.addresses).collect();
        let service = gateway.service("be0");
        service.endpoints = everybody;
        service.client_ip_affinity = true;
        gateway.listeners[0].backends.truncate(1);
    });
    let _servers = names_everywhere(&stage);
    for to in stage.vip(80) {
        let names = answers(&stage, to, 50, ask_from);
        assert_eq!(names.len(), 1, "{to}: {names:?}");
    }
}
