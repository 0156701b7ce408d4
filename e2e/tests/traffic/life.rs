//! The agent's own start, end and sudden death.

use std::time::Duration;

use blixt_e2e::{Stage, StagePlan, ask};
use blixt_testkit::netns::Namespace;
use blixt_testkit::require_root;

use super::names_everywhere;

/// What ip says of the interface, but for its counters.
fn shown(namespace: &Namespace, device: &str) -> String {
    let offloads = namespace.command("ethtool").args(["-k", device]).ok();
    namespace.ip(&format!("-d link show dev {device}")) + &offloads
}

fn served(stage: &Stage) {
    for to in stage.vip(80) {
        stage.lab.client.namespace.inside(move || {
            for n in 0..10 {
                ask(to).unwrap_or_else(|error| panic!("{to}, {n}: {error}"));
            }
        });
    }
}

#[test]
fn it_leaves_its_interfaces_as_they_were() {
    require_root!();
    let mut stage = Stage::new(StagePlan::default(), |_, _| ());
    stage.agent.take().unwrap().stop();
    let lb = &stage.lab.lb;
    let before: Vec<_> = stage.lab.interfaces().iter().map(|name| shown(lb, name)).collect();
    assert!(before.iter().all(|shown| !shown.contains("prog/xdp")), "{before:#?}");

    let _servers = names_everywhere(&stage);
    for _ in 0..2 {
        stage.start_agent();
        served(&stage);
        stage.agent.take().unwrap().stop();
        let lb = &stage.lab.lb;
        let after: Vec<_> = stage.lab.interfaces().iter().map(|name| shown(lb, name)).collect();
        assert_eq!(after, before);
    }
}

#[test]
fn its_sudden_death_leaves_the_kernels_traffic_alone_and_the_next_one_takes_over() {
    require_root!();
    let mut stage = Stage::new(StagePlan::default(), |_, _| ());
    let _servers = names_everywhere(&stage);
    served(&stage);
    for to in stage.lab.lb_addresses() {
        let ping = stage.lab.client.namespace.command("ping");
        let ping = ping.args(["-i", "0.01", "-c", "300", "-W", "1", &to.to_string()]).spawn();
        std::thread::sleep(Duration::from_millis(500));
        stage.agent.take().unwrap().kill();
        let mut ping = ping;
        let status = ping.wait_for(Duration::from_secs(20)).expect("ping ends");
        let (report, _) = ping.into_output();
        assert!(status.success() && report.contains(" 0% packet loss"), "{report}");

        stage.start_agent();
        served(&stage);
    }
    stage.agent.take().unwrap().stop();
}
