//! Settings out of a GatewayConfig: in force at once, or after the next start.

use std::time::Duration;

use blixt_e2e::{Stage, StagePlan, ask_udp};
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
        eventually(&format!("{metric} to be {wanted}"), SOON, || {
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

    // What no node has room for keeps no agent from starting.
    stage.gateway.config = config("1s", 200_000_000);
    stage.start_agent_with_new_manifests();
    is(&stage, "blixt_flow_capacity", 262_144.0);
    is(&stage, "blixt_restart_awaited", 1.0);
}
