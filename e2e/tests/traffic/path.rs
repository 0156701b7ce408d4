//! What a path does to packets and what the load balancer answers itself:
//! small MTUs on either side, echo, ports that nobody serves.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use blixt_e2e::{Stage, StagePlan, ask, ask_udp, connect, serve_names, serve_streams};
use blixt_testkit::netns::{Arms, LabPlan, Offloads};
use blixt_testkit::require_root;

use super::balance::short_rest;
use super::bulk::{download, upload};
use super::{names_everywhere, nothing_is_left};

/// Less than the MTU of the other links, and no less than IPv6 asks of every
/// link (RFC 8200, 5).
const NARROW: u32 = 1_300;

const MIB: u64 = 1 << 20;

/// Servers learn of the client's narrow link by ICMP errors that the router
/// sends to the VIP.
fn towards_a_narrow_client(lab: LabPlan) {
    let stage = Stage::new(StagePlan { lab, flags: short_rest() }, |_, _| ());
    let far = stage.lab.far_client(NARROW);
    let _servers: Vec<_> =
        stage.lab.backends.iter().map(|backend| serve_streams(&backend.namespace, 8_080)).collect();
    for to in stage.vip(80) {
        let before = stage.agent().metrics().sum("blixt_icmp_errors_total", &[]);
        far.host.namespace.inside(move || {
            download(to, MIB);
            upload(to, MIB);
        });
        let after = stage.agent().metrics().sum("blixt_icmp_errors_total", &[]);
        assert!(after > before, "{to}: no ICMP error was sent on");
    }
    nothing_is_left(&stage, &[]);
}

/// Clients learn of a server's narrow link by ICMP errors that the router
/// sends to the SNAT address.
fn towards_a_narrow_server(lab: LabPlan) {
    let mut stage = Stage::new(StagePlan { lab, flags: short_rest() }, |_, _| ());
    let far = stage.lab.far_backend(NARROW);
    for service in &mut stage.gateway.services {
        service.endpoints = far.host.addresses.into();
    }
    stage.start_agent_with_new_manifests();
    let _server = serve_streams(&far.host.namespace, 8_080);
    for to in stage.vip(80) {
        let before = stage.agent().metrics().sum("blixt_icmp_errors_total", &[]);
        stage.lab.client.namespace.inside(move || {
            upload(to, MIB);
            download(to, MIB);
        });
        let after = stage.agent().metrics().sum("blixt_icmp_errors_total", &[]);
        assert!(after > before, "{to}: no ICMP error was sent on");
    }
    nothing_is_left(&stage, &[]);
}

#[test]
fn a_narrow_link_to_the_client_is_found_on_two_arms() {
    require_root!();
    towards_a_narrow_client(LabPlan::default());
}

#[test]
fn a_narrow_link_to_the_client_is_found_on_one_arm() {
    require_root!();
    let lab = LabPlan { arms: Arms::One, offloads: Offloads::Off, ..LabPlan::default() };
    towards_a_narrow_client(lab);
}

#[test]
fn a_narrow_link_to_a_server_is_found_on_two_arms() {
    require_root!();
    towards_a_narrow_server(LabPlan::default());
}

#[test]
fn a_narrow_link_to_a_server_is_found_on_one_arm() {
    require_root!();
    let lab = LabPlan { arms: Arms::One, offloads: Offloads::Off, ..LabPlan::default() };
    towards_a_narrow_server(lab);
}

#[test]
fn the_gateways_addresses_answer_echo_requests() {
    require_root!();
    for arms in [Arms::One, Arms::Two] {
        let lab = LabPlan { arms, ..LabPlan::default() };
        let stage = Stage::new(StagePlan { lab, ..StagePlan::default() }, |_, _| ());
        let far = stage.lab.far_client(1_500);
        for client in [&stage.lab.client.namespace, &far.host.namespace] {
            for vip in stage.lab.vips() {
                for size in ["0", "56", "1400"] {
                    let ping = client.command("ping");
                    let vip = vip.to_string();
                    ping.args(["-c", "3", "-i", "0.05", "-W", "1", "-s", size, &vip]).ok();
                }
            }
        }
    }
}

#[test]
fn ports_without_a_listener_and_servers_without_a_port_refuse_at_once() {
    require_root!();
    let stage = Stage::new(StagePlan { flags: short_rest(), ..StagePlan::default() }, |_, _| ());
    // No server runs: the backends' own kernels refuse, and that must come
    // through as well as the balancer's own refusal.
    for port in [80, 81] {
        for to in stage.vip(port) {
            let (error, took) = stage.lab.client.namespace.inside(move || {
                let start = Instant::now();
                let error = connect(to).expect_err("nobody is there");
                (error, start.elapsed())
            });
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
            assert!(took < Duration::from_millis(200), "{to} refused after {took:?}");
        }
    }
    // A UDP port that nobody serves is an ICMP error of the backend's kernel.
    for to in stage.vip(80) {
        let error = stage.lab.client.namespace.inside(move || ask_udp(to)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
    }
    let drops = stage.agent().metrics().drops();
    assert_eq!(drops.get("no_listener"), Some(&2.0), "{drops:?}");
}

#[test]
fn clients_behind_a_router_are_served() {
    require_root!();
    for arms in [Arms::One, Arms::Two] {
        let lab = LabPlan { arms, ..LabPlan::default() };
        let stage = Stage::new(StagePlan { lab, flags: short_rest() }, |_, _| ());
        let far = stage.lab.far_client(1_500);
        let _servers = names_everywhere(&stage);
        for to in stage.vip(80) {
            for question in [ask, ask_udp] {
                far.host.namespace.inside(move || {
                    for n in 0..20 {
                        question(to).unwrap_or_else(|error| panic!("{to}, {n}: {error}"));
                    }
                });
            }
        }
        nothing_is_left(&stage, &[]);
    }
}

/// A server whose neighbour entry the kernel does not have yet, or not any
/// more: the first packet waits for it and is not lost.
#[test]
fn neighbours_are_found_when_they_are_needed() {
    require_root!();
    let stage = Stage::new(StagePlan { flags: short_rest(), ..StagePlan::default() }, |_, _| ());
    let _servers: Vec<_> =
        (0..3).map(|n| serve_names(&stage.lab.backends[n].namespace, 8_080, "be")).collect();
    for round in 0..3 {
        for device in stage.lab.interfaces() {
            stage.lab.lb.ip(&format!("neigh flush dev {device}"));
        }
        for to in stage.vip(80) {
            stage.lab.client.namespace.inside(move || {
                for n in 0..10 {
                    ask(to).unwrap_or_else(|error| panic!("round {round}, {to}, {n}: {error}"));
                }
            });
        }
    }
    nothing_is_left(&stage, &[]);
}
