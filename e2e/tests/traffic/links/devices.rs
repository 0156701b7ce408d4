//! One device: down and up, another MTU, other queues.

use std::net::IpAddr;
use std::time::Instant;

use blixt_e2e::{Announcements, Stage, StagePlan, Transfers, ask};
use blixt_testkit::netns::{LabPlan, Namespace, eventually, net};
use blixt_testkit::require_root;
use serde_json::Value;

use super::{
    A_MOMENT, SOON, as_text, dropped_are_only, mac_of, shown, streams_everywhere, two_arms,
};
use crate::balance::short_rest;
use crate::{names_everywhere, nothing_is_left};

#[test]
fn transfers_outlive_a_link_that_goes_down_and_addresses_are_announced_when_it_is_up() {
    require_root!();
    let stage = two_arms();
    let lab = &stage.lab;
    // Or the kernel forgets the interface's IPv6 addresses with the link, and
    // with them the routes.
    lab.lb.sysctl("net.ipv6.conf.all.keep_addr_on_down", "1");
    let _servers = streams_everywhere(&stage);
    let transfers = Transfers::start(&lab.client.namespace, &stage.vip(80));
    let at_client = Announcements::listen(&lab.client.namespace);
    let at_backend = Announcements::listen(&lab.backends[0].namespace);
    for (namespace, device, interface, heard) in [
        (&lab.lb, "lb0", "lb0", &at_client),
        (lab.front(), "lb", "lb0", &at_client),
        (&lab.lb, "lb1", "lb1", &at_backend),
        (lab.back(), "lb", "lb1", &at_backend),
    ] {
        transfers.go_on();
        namespace.ip(&format!("link set {device} down"));
        eventually(format!("{interface} to be shown as down"), SOON, || {
            shown(&stage, interface)["reason"].as_str().is_some_and(|why| why.contains("down"))
        });
        std::thread::sleep(A_MOMENT);
        let up = Instant::now();
        namespace.ip(&format!("link set {device} up"));
        let mac = heard.wait_for(&lab.vips(), up, SOON);
        assert_eq!(as_text(mac), mac_of(&lab.lb, interface));
        println!("{device}: announced {:?} after it was up", up.elapsed());
        transfers.go_on();
        assert_eq!(shown(&stage, interface)["reason"], Value::Null);
    }
    // Faster than anybody looks.
    let flap = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(flap.path(), "link set lb0 down\nlink set lb0 up\n").unwrap();
    let up = Instant::now();
    lab.lb.command("ip").args(["-batch", &flap.path().display().to_string()]).ok();
    at_client.wait_for(&lab.vips(), up, SOON);
    transfers.go_on();
    transfers.finish();
    // What was on its way to a link without a path was dropped, by name.
    nothing_is_left(&stage, &["unroutable", "unresolved", "hold_full", "no_flow"]);
}

/// What the client's kernel has learned of the way to a VIP.
fn learned_mtu(client: &Namespace, vip: IpAddr) -> Option<u32> {
    let route = client.ip(&format!("route get {vip}"));
    route.split(" mtu ").nth(1)?.split_whitespace().next()?.parse().ok()
}

#[test]
fn an_mtu_that_changes_is_shown_at_once_and_told_to_those_who_send_too_much() {
    require_root!();
    let stage = two_arms();
    let (lb, client) = (&stage.lab.lb, &stage.lab.client.namespace);
    let _servers = streams_everywhere(&stage);
    // What servers send fits in any case: the switch would not tell them.
    client.ip(&format!("route change {}/24 dev eth0 advmss 1200", net::FRONT.v4(0)));
    client.ip(&format!("-6 route add {}/64 dev eth0 metric 1 advmss 1200", net::FRONT.v6(0)));
    let transfers = Transfers::start(client, &stage.vip(80));
    // Down, further down, and up again, of which the client learns when it has
    // forgotten what it knew.
    for mtu in [1_400, 1_300, 1_450, 1_500] {
        transfers.go_on();
        let changed = Instant::now();
        lb.ip(&format!("link set lb1 mtu {mtu}"));
        eventually(format!("an MTU of {mtu} to be shown"), SOON, || {
            shown(&stage, "lb1")["mtu_bytes"] == mtu
        });
        println!("an MTU of {mtu} is shown after {:?}", changed.elapsed());
        for family in ["-4", "-6"] {
            client.ip(&format!("{family} route flush cache"));
        }
        transfers.go_on();
        for vip in stage.lab.vips() {
            eventually(format!("the client to learn of {mtu} for {vip}"), SOON, || {
                learned_mtu(client, vip).unwrap_or(1_500) == mtu
            });
        }
    }
    transfers.finish();
    dropped_are_only(&stage, &["too_big"]);
}

#[test]
fn an_mtu_beyond_the_frames_is_complained_about_and_served_nevertheless() {
    require_root!();
    let mut stage = two_arms();
    let _servers = names_everywhere(&stage);
    let served = |stage: &Stage| {
        for to in stage.vip(80) {
            stage.lab.client.namespace.inside(move || ask(to).unwrap());
        }
    };
    let reason = |stage: &Stage| shown(stage, "lb0")["reason"].as_str().unwrap_or("").to_owned();
    for (mtu, advice) in [(3_000, "restart the agent"), (9_000, "use an MTU of 3818 at most")] {
        stage.lab.lb.ip(&format!("link set lb0 mtu {mtu}"));
        eventually(format!("{advice:?}"), SOON, || reason(&stage).contains(advice));
        assert_eq!(shown(&stage, "lb0")["state"], "attached");
        assert_eq!(stage.agent().log().matches(advice).count(), 1, "{}", stage.agent().log());
        served(&stage);
    }
    // An agent that is started now says what is wrong, and what to do.
    stage.agent.take().unwrap().stop();
    let agent = blixt_e2e::Agent::launch(&stage.lab, &stage.manifests, &stage.plan.flags);
    eventually("it to be refused", SOON, || agent.log().contains("lb0 has an MTU of 9000"));
    drop(agent);
    stage.lab.lb.ip("link set lb0 mtu 3000");
    stage.start_agent();
    assert_eq!(reason(&stage), "");
    served(&stage);

    // The other end of a veth may be what is too large.
    stage.agent.take().unwrap().stop();
    stage.lab.front().ip("link set lb mtu 9000");
    let agent = blixt_e2e::Agent::launch(&stage.lab, &stage.manifests, &stage.plan.flags);
    eventually("it to be refused", SOON, || agent.log().contains("its peer has too large an MTU"));
}

fn set_queues(namespace: &Namespace, device: &str, queues: u32) -> Result<(), String> {
    let queues = queues.to_string();
    let ran = namespace.command("ethtool").args(["-L", device, "rx", &queues, "tx", &queues]).run();
    if ran.status.success() { Ok(()) } else { Err(ran.stdout + &ran.stderr) }
}

#[test]
fn more_queues_are_bound_while_transfers_go_on_and_fewer_are_refused_by_the_kernel() {
    require_root!();
    let lab = LabPlan { queues: 4, ..LabPlan::default() };
    let flags = [short_rest(), vec!["--workers".into(), "2".into()]].concat();
    let mut stage = Stage::new(StagePlan { lab, flags }, |_, _| ());
    let _servers = streams_everywhere(&stage);
    stage.agent.take().unwrap().stop();
    let ends = |stage: &Stage, queues: u32| {
        for (switch, device) in [(stage.lab.front(), "lb0"), (stage.lab.back(), "lb1")] {
            // Never more on the sending than on the receiving side.
            let near = (&stage.lab.lb, device);
            let far = (switch, "lb");
            let few = queues < 4;
            for (namespace, device) in if few { [far, near] } else { [near, far] } {
                set_queues(namespace, device, queues).unwrap();
            }
        }
    };
    ends(&stage, 2);
    stage.start_agent();
    let bound = |stage: &Stage, device: &str| {
        let shown = shown(stage, device);
        let queues = shown["queues"].as_array().unwrap().iter();
        queues.map(|queue| queue["worker"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(bound(&stage, "lb0"), [0, 1]);
    let transfers = Transfers::start(&stage.lab.client.namespace, &stage.vip(80));
    transfers.go_on();
    ends(&stage, 4);
    let changed = Instant::now();
    for device in ["lb0", "lb1"] {
        eventually(format!("the new queues of {device} to be bound"), SOON, || {
            bound(&stage, device) == [0, 1, 0, 1]
        });
    }
    println!("new queues were bound after {:?}", changed.elapsed());
    // All by the new ones.
    stage.lab.steer_clients(3);
    stage.lab.steer_backends(2);
    transfers.go_on();
    let log = stage.agent().log();
    assert!(!log.contains("detached"), "those that were there went on:\n{log}");

    // What the operator sees who wants fewer.
    let why = set_queues(&stage.lab.lb, "lb0", 1).unwrap_err();
    println!("ethtool says: {why}");
    transfers.go_on();
    assert_eq!(bound(&stage, "lb0"), [0, 1, 0, 1]);
    transfers.finish();
    dropped_are_only(&stage, &["no_socket"]);
    let log = stage.agent.take().unwrap().stop().log;
    assert_eq!(log.matches("all frames are home").count(), 2, "{log}");
}
