//! Manifests that change while the agent runs.

use std::time::{Duration, Instant};

use blixt_testkit::netns::eventually;
use blixt_testkit::require_root;

use crate::node::{GOOD, Node, SOON};

const GENERATION: &str = "blixt_tables_generation";

#[test]
fn a_change_is_in_force_within_100_ms() {
    require_root!();
    let node = Node::new();
    let _agent = node.start();
    let mut took: Vec<Duration> = (0..10)
        .map(|round| {
            let before = node.metric(GENERATION);
            let begin = Instant::now();
            node.write(&GOOD.replace("port: 8080", &format!("port: {}", 8_081 + round)));
            eventually("the workers to use it", SOON, || node.metric(GENERATION) == before + 1);
            begin.elapsed()
        })
        .collect();
    took.sort();
    println!("a change was in force after {took:?}");
    // Tests share the machine: one that comes in between does not count.
    assert!(took[took.len() / 2] < Duration::from_millis(100), "{took:?}");
}

#[test]
fn what_is_invalid_is_refused_once_and_the_last_good_stays() {
    require_root!();
    let node = Node::new();
    let agent = node.start();
    let before = node.metric(GENERATION);
    let refusals = || node.metric("blixt_manifest_refusals");

    node.write("apiVersion: [");
    eventually("the file to be refused", SOON, || refusals() == 1);
    node.write(&GOOD.replace("port: 80}]\n", "port: 65536}]\n"));
    eventually("the object to be refused", SOON, || agent.log().contains("65536"));
    assert_eq!(node.metric(GENERATION), before, "nothing has changed");
    assert_eq!(node.get("/readyz").unwrap(), "ok\n", "it serves what was good");

    node.write(GOOD);
    eventually("all to be well again", SOON, || refusals() == 0);
    let log = agent.log();
    let times = |part: &str| log.lines().filter(|line| line.contains(part)).count();
    assert_eq!(times("WARN refused: all.yaml:1: is not YAML"), 1, "{log}");
    assert_eq!(times("INFO no longer so: refused: all.yaml:1: is not YAML"), 1, "{log}");
    assert_eq!(times("WARN refused: all.yaml:12: Gateway default/web: spec.listeners"), 1, "{log}");
}

#[test]
fn a_directory_that_goes_keeps_its_last_word() {
    require_root!();
    let node = Node::new();
    let agent = node.start();
    let before = node.metric(GENERATION);
    let away = node.files.path().join("away");
    std::fs::rename(node.manifests(), &away).unwrap();
    eventually("the agent to miss it", SOON, || agent.log().contains("can't be read"));
    // It is the files that are refused, and not the generation in force.
    let refusals = || node.metric("blixt_manifest_refusals");
    eventually("the refusal to be counted", SOON, || refusals() == 1);
    assert_eq!(node.metric(GENERATION), before);
    std::fs::rename(&away, node.manifests()).unwrap();
    eventually("the agent to find it", SOON, || agent.log().contains("can be read again"));
    eventually("nothing to be refused any more", SOON, || refusals() == 0);
    node.write(&GOOD.replace("port: 8080", "port: 9090"));
    eventually("the change to be seen", SOON, || node.metric(GENERATION) == before + 1);
}
