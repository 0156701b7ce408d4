//! Settings out of a GatewayConfig: in force at once, or after the next start.

use std::time::Duration;

use blixt_e2e::{Agent, Stage, StagePlan, ask_udp};
use blixt_testkit::netns::eventually;
use blixt_testkit::require_root;

use super::names_everywhere;

const SOON: Duration = Duration::from_secs(20);

/// UDP flows are kept for `udp`, and there is room for so many.
fn config(udp: &str, flows: u32) -> Option<String> {
    Some(format!("{{timeouts: {{udpQuery: {udp}}}, maglevSize: 1021, flowCapacity: {flows}}}"))
}

#[test]
fn a_gateway_config_is_in_force() {
    require_root!();
    let mut stage = Stage::new(StagePlan::default(), |_, gateway| {
        gateway.config = config("1h", 5_000);
    });
    let _servers = names_everywhere(&stage);
    let is = |stage: &Stage, metric: &str, wanted: f64| {
        eventually(format!("{metric} to be {wanted}"), SOON, || {
            stage.agent().metrics().sum(metric, &[]) == wanted
        });
    };
    is(&stage, "blixt_flow_capacity", 5_000.0);
    is(&stage, "blixt_restart_awaited", 0.0);
    let [vip, _] = stage.vip(80);
    stage.lab.client.namespace.inside(move || ask_udp(vip)).unwrap();
    is(&stage, "blixt_flow_entries", 1.0);

    // A flow that would have stayed for an hour goes; room for others waits.
    stage.gateway.config = config("1s", 6_000);
    stage.tell();
    is(&stage, "blixt_flow_entries", 0.0);
    is(&stage, "blixt_restart_awaited", 1.0);
    is(&stage, "blixt_flow_capacity", 5_000.0);
    let status = stage.agent().ctl("status").to_string();
    assert!(status.contains("flowCapacity: 6000 instead of 5000"), "{status}");

    stage.start_agent();
    is(&stage, "blixt_flow_capacity", 6_000.0);
    is(&stage, "blixt_restart_awaited", 0.0);

    // What a node has no room for keeps no agent from starting, and nothing else
    // from being in force; and no other start helps.
    stage.plan.flags.push("--memory-budget=256MiB".to_owned());
    stage.gateway.config = config("2s", 16_000_000);
    stage.start_agent_with_new_manifests();
    is(&stage, "blixt_flow_capacity", 262_144.0);
    is(&stage, "blixt_restart_awaited", 0.0);
    is(&stage, "blixt_settings_unusable", 1.0);
    let status = stage.agent().ctl("status").to_string();
    assert!(status.contains("flowCapacity: 16000000, but the agent would take"), "{status}");
    let udp = |stage: &Stage| stage.lab.client.namespace.inside(move || ask_udp(vip)).unwrap();
    udp(&stage);
    is(&stage, "blixt_flow_entries", 1.0);
    is(&stage, "blixt_flow_entries", 0.0);

    // It is mended while the agent runs.
    stage.gateway.config = config("2s", 7_000);
    stage.tell();
    is(&stage, "blixt_restart_awaited", 1.0);
    is(&stage, "blixt_settings_unusable", 0.0);
    stage.start_agent();
    is(&stage, "blixt_flow_capacity", 7_000.0);
    is(&stage, "blixt_restart_awaited", 0.0);
    udp(&stage);
}

#[test]
fn interfaces_that_cannot_be_attached_keep_no_agent_from_starting() {
    require_root!();
    let mut stage = Stage::new(StagePlan::default(), |_, _| {});
    stage.agent = None;
    let _servers = names_everywhere(&stage);
    let [vip, _] = stage.vip(80);
    let names = |names: &[&str]| Some(format!("{{interfaces: {{names: [{}]}}}}", names.join(", ")));
    // No flag says what a GatewayConfig may say.
    let snat = stage.lab.snat_addresses().map(|it| format!("--snat-address={it}"));
    let flags = [&snat[..], &["--host-path=off".to_owned()]].concat();
    let own = stage.lab.interfaces();
    // One that is not there, one whose packets fit no frame, and those that serve.
    stage.lab.lb.ip("link add huge type veth peer name huge-peer");
    stage.lab.lb.ip("link set huge mtu 9000 up");
    stage.gateway.config = names(&[&["absent", "huge"][..], own].concat());
    stage.tell();
    let agent = Agent::start_in(&stage.lab.lb, &stage.manifests, &flags);
    assert_eq!(agent.metrics().sum("blixt_settings_unusable", &[]), 2.0);
    let status = agent.ctl("status").to_string();
    assert!(status.contains("absent does not exist") && status.contains("MTU of 9000"), "{status}");
    stage.lab.client.namespace.inside(move || ask_udp(vip)).unwrap();
    agent.stop();

    // None is any good: it runs all the same, and hears that they are mended.
    stage.gateway.config = names(&["absent", "huge"]);
    stage.tell();
    stage.lab.lb.ip(&format!("route replace default dev {}", own[0]));
    let agent = Agent::start_in(&stage.lab.lb, &stage.manifests, &flags);
    assert_eq!(agent.metrics().sum("blixt_restart_awaited", &[]), 0.0);
    stage.gateway.config = names(own);
    stage.tell();
    eventually("it to hear", SOON, || agent.metrics().sum("blixt_restart_awaited", &[]) == 1.0);
    agent.stop();
}
