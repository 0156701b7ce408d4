//! Settings out of a GatewayConfig: in force at once, or after the next start.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use blixt_e2e::{Agent, Stage, StagePlan, ask_udp};
use blixt_testkit::netns::eventually;
use blixt_testkit::require_root;
use serde_json::{Value, json};

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

#[test]
fn interfaces_that_match_snat_ports_and_a_maglev_size_are_in_force() {
    require_root!();
    let mut stage = Stage::new(StagePlan::default(), |_, _| {});
    stage.agent = None;
    let snat = stage.lab.snat_addresses().map(|it| format!("--snat-address={it}"));
    let flags = [&snat[..], &["--host-path=off".to_owned()]].concat();
    // Its whole name does not match.
    stage.lab.lb.ip("link add lb0-other type veth peer name other");
    stage.lab.lb.ip("link set lb0-other up");
    let config = |first: u16, maglev: u32, matching: &str| {
        let ports = format!("snatPorts: {{first: {first}, last: {}}}", first + 99);
        let matching = format!("interfaces: {{matching: \"{matching}\"}}");
        Some(format!("{{{ports}, {matching}, maglevSize: {maglev}}}"))
    };
    let slots = |agent: &Agent, size: u32| {
        eventually(format!("Maglev tables of {size} slots"), SOON, || {
            let told = agent.ctl("lb");
            let backends = told["listeners"].as_array().unwrap().iter().flat_map(|listener| {
                let backends = listener["backends"].as_array().unwrap().iter();
                backends.map(|backend| backend["maglev"]["of"].clone())
            });
            backends.collect::<Vec<_>>() == vec![json!(size); 6]
        });
    };

    stage.gateway.config = config(20_000, 1_021, "lb[0-9]");
    stage.tell();
    let agent = Agent::start_in(&stage.lab.lb, &stage.manifests, &flags);
    assert_eq!(agent.metrics().sum("blixt_settings_unusable", &[]), 0.0);
    assert_eq!(interfaces(&agent), ["lb0", "lb1"]);
    slots(&agent, 1_021);
    let seen = ports_that_backends_see(&stage);
    assert!(seen.iter().all(|port| (20_000..20_100).contains(port)), "{seen:?}");

    // Tables change at once, and the rest when it is started.
    stage.gateway.config = config(30_000, 251, "lb0|lb1");
    stage.tell();
    slots(&agent, 251);
    let awaited = json!([
        "snatPorts: 30000-30099 instead of 20000-20099",
        "interfaces: those that match lb0|lb1 instead of those that match lb[0-9]"
    ]);
    assert_eq!(agent.ctl("status")["agent"]["restart_awaited_for"], awaited);
    let seen = ports_that_backends_see(&stage);
    assert!(seen.iter().all(|port| (20_000..20_100).contains(port)), "{seen:?}");
    agent.stop();
    let agent = Agent::start_in(&stage.lab.lb, &stage.manifests, &flags);
    assert_eq!(interfaces(&agent), ["lb0", "lb1"]);
    slots(&agent, 251);
    let seen = ports_that_backends_see(&stage);
    assert!(seen.iter().all(|port| (30_000..30_100).contains(port)), "{seen:?}");
    agent.stop();
}

/// The interfaces that an agent is attached to.
fn interfaces(agent: &Agent) -> Vec<String> {
    let status = agent.ctl("status");
    let names = status["interfaces"].as_array().unwrap().iter().map(|it| &it["name"]);
    let mut names: Vec<_> = names.filter_map(Value::as_str).map(str::to_owned).collect();
    names.sort();
    names
}

/// Connects to both VIPs, and gives the ports that the connections come from where they
/// end.
fn ports_that_backends_see(stage: &Stage) -> BTreeSet<u16> {
    const EACH: usize = 10;
    let listeners: Vec<_> = stage
        .lab
        .backends
        .iter()
        .map(|backend| backend.namespace.inside(|| TcpListener::bind("[::]:8080").unwrap()))
        .collect();
    let doors = stage.vip(80);
    let connect = move |door: &SocketAddr| TcpStream::connect_timeout(door, SOON).unwrap();
    let connections = stage.lab.client.namespace.inside(move || {
        doors.iter().flat_map(|door| [door; EACH]).map(connect).collect::<Vec<_>>()
    });
    let mut seen = Vec::new();
    eventually("all to be accepted", SOON, || {
        for listener in &listeners {
            listener.set_nonblocking(true).unwrap();
            while let Ok((_, from)) = listener.accept() {
                seen.push(from.port());
            }
        }
        seen.len() == connections.len()
    });
    seen.into_iter().collect()
}
