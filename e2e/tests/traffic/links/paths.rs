//! Addresses, routes and neighbours.

use std::time::{Duration, Instant};

use blixt_e2e::{Announcements, Prober, Stage, Transfers, serve_streams, serve_udp_names};
use blixt_testkit::netns::{Far, Lab, Namespace, net, veth};
use blixt_testkit::require_root;

use super::{SOON, as_text, dropped_are_only, longest_pause, pulse, streams_everywhere, two_arms};

#[test]
fn addresses_of_the_node_itself_come_and_go_and_nobody_notices() {
    require_root!();
    let stage = two_arms();
    let lb = &stage.lab.lb;
    let _servers = streams_everywhere(&stage);
    // Or the second address of a network goes with the first.
    lb.sysctl("net.ipv4.conf.all.promote_secondaries", "1");
    let transfers = Transfers::start(&stage.lab.client.namespace, &stage.vip(80));
    for (device, network) in [("lb0", net::FRONT), ("lb1", net::BACK)] {
        transfers.go_on();
        for [add, delete] in [[net::LB + 1, net::LB], [net::LB, net::LB + 1]] {
            lb.ip(&format!("address add {}/24 dev {device}", network.v4(add)));
            lb.ip(&format!("address add {}/64 dev {device} nodad", network.v6(add)));
            lb.ip(&format!("address delete {}/24 dev {device}", network.v4(delete)));
            lb.ip(&format!("address delete {}/64 dev {device}", network.v6(delete)));
            transfers.go_on();
        }
    }
    transfers.finish();
    assert_eq!(stage.agent().metrics().sum("blixt_new_flows_total", &[]), 4.0);
    dropped_are_only(&stage, &[]);
}

/// Frames that a device has taken in.
fn received(namespace: &Namespace, device: &str) -> u64 {
    let shown = namespace.command("cat").arg("/proc/net/dev").ok();
    let line = shown.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
    line.unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// All endpoints are one host behind a router.
fn behind_a_router() -> (Stage, Far) {
    let mut stage = two_arms();
    let far = stage.lab.far_backend(1_500);
    for service in &mut stage.gateway.services {
        service.endpoints = far.host.addresses.into();
    }
    stage.start_agent_with_new_manifests();
    (stage, far)
}

#[test]
fn a_route_that_changes_takes_transfers_with_it() {
    require_root!();
    const SECOND: u8 = 3;
    let (stage, far) = behind_a_router();
    // One more router, with a link of its own to the host.
    let second = Namespace::new("router2");
    for family in ["ipv4.ip_forward", "ipv6.conf.all.forwarding"] {
        second.sysctl(&format!("net.{family}"), "1");
    }
    Lab::plug(stage.lab.back(), "router2", &second, "near");
    veth(&second, "far", &far.host.namespace, "eth1");
    let host = &far.host.namespace;
    second.ip(&format!("address add {}/24 dev near", net::BACK.v4(SECOND)));
    second.ip(&format!("address add {}/64 dev near nodad", net::BACK.v6(SECOND)));
    for address in far.host.addresses {
        second.ip(&format!("route add {address} dev far"));
    }
    second.ip(&format!("address add {}/32 dev far", net::FAR.v4(SECOND)));
    host.ip(&format!("route add {} dev eth1", net::FAR.v4(SECOND)));
    // Solicitations are answered for addresses of their own device only, and
    // what comes in by one device is answered by another.
    host.ip(&format!("address add {}/128 dev eth1 nodad", net::FAR.v6(net::CLIENT)));
    for device in ["all", "eth0", "eth1"] {
        host.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0");
    }

    let _server = serve_streams(host, 8_080);
    let transfers = Transfers::start(&stage.lab.client.namespace, &stage.vip(80));
    let mut routers = [&far.router, &second];
    for via in [SECOND, net::ROUTER, SECOND] {
        transfers.go_on();
        let lb = &stage.lab.lb;
        let (v4, v6) = (net::FAR.v4(0), net::FAR.v6(0));
        lb.ip(&format!("route replace {v4}/24 via {} dev lb1", net::BACK.v4(via)));
        lb.ip(&format!("-6 route replace {v6}/64 via {} dev lb1", net::BACK.v6(via)));
        let [before, now] = routers.map(|router| received(router, "near"));
        transfers.go_on();
        let [old, new] = routers.map(|router| received(router, "near"));
        // Replies take the way of before: acknowledgements go out of `far`.
        assert!(new > now + 500, "the new router has had {} packets", new - now);
        println!("{} packets by the old one, {} by the new one", old - before, new - now);
        routers.reverse();
    }
    transfers.finish();
    // More than fits waits for the routers' MAC addresses.
    dropped_are_only(&stage, &["hold_full"]);
}

#[test]
fn a_gateway_that_fails_over_to_another_mac_address_is_followed() {
    require_root!();
    let (stage, far) = behind_a_router();
    // It tells so itself, as VRRP and others do: gratuitous ARP and an
    // unsolicited advertisement.
    far.router.sysctl("net.ipv4.conf.near.arp_notify", "1");
    far.router.sysctl("net.ipv6.conf.near.ndisc_notify", "1");
    let _server = serve_streams(&far.host.namespace, 8_080);
    let _names = serve_udp_names(&far.host.namespace, 8_080, "far");
    let client = &stage.lab.client.namespace;
    let transfers = Transfers::start(client, &stage.vip(80));
    let pause = Duration::from_millis(2);
    let probers = stage.vip(80).map(|to| Prober::start(client, pause, pulse(to)));
    for host in 1..=2 {
        transfers.go_on();
        far.router.ip(&format!("link set near address 02:00:00:00:aa:0{host}"));
        transfers.go_on();
    }
    for prober in probers {
        let pause = longest_pause(&prober.stop());
        println!("nothing was answered for {pause:?}");
        assert!(pause < Duration::from_secs(3), "{pause:?}");
    }
    transfers.finish();
    dropped_are_only(&stage, &[]);
}

#[test]
fn our_own_mac_address_changes_and_is_announced() {
    require_root!();
    let stage = two_arms();
    let _servers = streams_everywhere(&stage);
    let client = &stage.lab.client.namespace;
    let transfers = Transfers::start(client, &stage.vip(80));
    let at_client = Announcements::listen(client);
    let at_backend = Announcements::listen(&stage.lab.backends[0].namespace);
    for (device, heard, addresses) in
        [("lb0", &at_client, stage.lab.vips()), ("lb1", &at_backend, stage.lab.snat_addresses())]
    {
        transfers.go_on();
        let changed = Instant::now();
        stage.lab.lb.ip(&format!("link set {device} address 02:00:00:00:bb:01"));
        let mac = heard.wait_for(&addresses, changed, SOON);
        assert_eq!(as_text(mac), "02:00:00:00:bb:01");
        println!("{device}: announced {:?} after the change", changed.elapsed());
        transfers.go_on();
    }
    transfers.finish();
    // The kernel forgets its neighbours when the MAC address changes.
    dropped_are_only(&stage, &["not_our_mac", "hold_full"]);
}
