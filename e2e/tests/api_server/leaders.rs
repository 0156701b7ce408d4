//! Several replicas: one leads, and another one takes over.

use std::thread::sleep;
use std::time::{Duration, Instant};

use blixt_e2e::{ApiServer, Controller};
use blixt_testkit::netns::eventually;
use serde_json::json;

use crate::Test;
use crate::objects::{self, EDGE, SHOP, becomes};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("who_ends_hands_over_at_once", who_ends_hands_over_at_once),
    ("who_dies_or_hangs_is_replaced_within_15_s", who_dies_or_hangs_is_replaced),
];

/// How long it may take until another one leads.
const TAKE_OVER: Duration = Duration::from_secs(15);

/// Starts two, and says which of them leads.
fn two(server: &ApiServer) -> (Controller, Controller) {
    let first = Controller::start(server, "a");
    eventually("the first one to lead", TAKE_OVER, || first.leads());
    let second = Controller::start(server, "b");
    assert!(!second.leads());
    (first, second)
}

fn who_ends_hands_over_at_once(server: &mut ApiServer) {
    server.kube.apply(SHOP);
    let (first, second) = two(server);
    let kube = &server.kube;
    becomes(kube, &EDGE, &["Accepted=True Accepted"]);
    let before = objects::settled(kube);
    assert_eq!(second.writes("written"), 0.0);
    let end = Instant::now();
    first.stop();
    eventually("the second one to lead", TAKE_OVER, || second.leads());
    println!("the second one leads {:?} after the first one was told to end", end.elapsed());
    // It looks each 2 s.
    assert!(end.elapsed() < Duration::from_secs(8), "{:?}", end.elapsed());
    objects::settled(kube);
    assert_eq!(objects::versions(kube), before);
    kube.merge(
        &EDGE,
        json!({"spec": {"listeners": [{"name": "tcp", "protocol": "TCP", "port": 81}]}}),
    );
    becomes(kube, &EDGE, &["Accepted=True Accepted"]);
    assert!(second.writes("written") > 0.0);
}

fn who_dies_or_hangs_is_replaced(server: &mut ApiServer) {
    server.kube.apply(SHOP);
    let (first, second) = two(server);
    let kube = &server.kube;
    becomes(kube, &EDGE, &["Accepted=True Accepted"]);
    let before = objects::settled(kube);
    let written = first.writes("written");

    // One that hangs for a while believes that it still leads.
    let begin = Instant::now();
    first.hang();
    eventually("the second one to lead", TAKE_OVER, || second.leads());
    println!("the second one leads {:?} after the first one hung", begin.elapsed());
    assert_eq!(objects::settled(kube), before, "what was right was written again");
    kube.merge(
        &EDGE,
        json!({"spec": {"listeners": [{"name": "tcp", "protocol": "TCP", "port": 81}]}}),
    );
    becomes(kube, &EDGE, &["Accepted=True Accepted"]);
    let before = objects::settled(kube);
    first.go_on();
    eventually("the first one to notice", TAKE_OVER, || !first.leads());
    sleep(Duration::from_millis(500));
    assert!(second.leads());
    assert_eq!(first.writes("written"), written);
    assert_eq!(objects::versions(kube), before);

    // One that is dead does not come back.
    let begin = Instant::now();
    second.kill();
    eventually("the first one to lead again", TAKE_OVER, || first.leads());
    println!("the first one leads {:?} after the second one died", begin.elapsed());
    assert_eq!(objects::settled(kube), before, "what was right was written again");
    kube.merge(
        &EDGE,
        json!({"spec": {"listeners": [{"name": "tcp", "protocol": "TCP", "port": 82}]}}),
    );
    becomes(kube, &EDGE, &["Accepted=True Accepted"]);
}
