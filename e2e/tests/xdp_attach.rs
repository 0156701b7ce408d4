//! The XDP program on live veths: what it lets through, what it takes, what it
//! refuses to attach to, and that it leaves no trace.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with what went wrong"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blixt_agent::multicast::Groups;
use blixt_agent::xdp::{Addresses, AttachedMode, Capacities, Counter, Mode, Role, Xdp, XdpError};
use blixt_testkit::netns::{Namespace, eventually, program, veth};
use blixt_testkit::require_root;
use nix::net::if_::if_nametoindex;

const VIP4: &str = "192.0.2.100";
const VIP6: &str = "2001:db8:1::100";
const LIMIT: Duration = Duration::from_secs(5);

/// A node and a neighbour, connected by veths that are called `eth0` in both.
fn neighbours() -> (Namespace, Namespace) {
    let (node, peer) = (Namespace::new("node"), Namespace::new("peer"));
    veth(&node, "eth0", &peer, "eth0");
    for (namespace, host) in [(&node, 10), (&peer, 2)] {
        namespace.ip(&format!("addr add 192.0.2.{host}/24 dev eth0"));
        namespace.ip(&format!("addr add 2001:db8:1::{host}/64 dev eth0 nodad"));
    }
    (node, peer)
}

fn ping(from: &Namespace, to: &str) -> bool {
    from.command("ping").args(["-c", "1", "-W", "1", to]).run().status.success()
}

fn eth0() -> u32 {
    if_nametoindex("eth0").unwrap()
}

fn load() -> Xdp {
    load_both().0
}

fn load_both() -> (Xdp, Addresses) {
    Xdp::load(Capacities::default()).unwrap()
}

fn vips() -> BTreeMap<IpAddr, Role> {
    [VIP4, VIP6].map(|address| (address.parse().unwrap(), Role::Vip)).into()
}

/// What `ip` says about eth0, but for counters.
fn shown(namespace: &Namespace) -> String {
    namespace.ip("-d link show dev eth0")
}

fn refused(answer: Result<impl Sized, XdpError>) -> XdpError {
    answer.err().expect("it should have been refused")
}

#[test]
fn the_kernels_traffic_goes_on_and_ours_is_taken() {
    require_root!();
    let (node, peer) = neighbours();
    let before = shown(&node);
    assert!(ping(&peer, "192.0.2.10") && ping(&peer, "2001:db8:1::10"));

    let (mut xdp, addresses) = node.inside(|| {
        let (mut xdp, mut addresses) = load_both();
        let attached = xdp.attach(eth0(), "eth0", Mode::Auto).unwrap();
        assert_eq!(attached.mode, AttachedMode::Native);
        assert_eq!(attached.native_refused, None);
        addresses.set(&vips(), &BTreeSet::new()).unwrap();
        (xdp, addresses)
    });
    assert!(shown(&node).contains("xdp"), "{}", shown(&node));

    // The node's own traffic passes, in both families, ARP and NDP included.
    peer.ip("neigh flush dev eth0");
    assert!(ping(&peer, "192.0.2.10") && ping(&peer, "2001:db8:1::10"));
    assert_eq!(addresses.counters().unwrap().iter().map(|(_, count)| count).sum::<u64>(), 0);

    // Traffic for the VIPs (questions for them at first) has no socket to go
    // to: nobody answers, and every frame is counted.
    assert!(!ping(&peer, VIP4));
    let after_v4 = addresses.counters().unwrap().of(Counter::DroppedNoSocket);
    assert!(after_v4 >= 1);
    assert!(!ping(&peer, VIP6));
    assert!(addresses.counters().unwrap().of(Counter::DroppedNoSocket) > after_v4);

    let ifindex = node.inside(eth0);
    xdp.detach(ifindex).unwrap();
    xdp.detach(ifindex).unwrap();
    assert_eq!(shown(&node), before, "the interface is as it was");
}

#[test]
fn the_program_goes_with_its_owner() {
    require_root!();
    let (node, _peer) = neighbours();
    let before = shown(&node);
    node.inside(|| {
        let mut xdp = load();
        xdp.attach(eth0(), "eth0", Mode::Native).unwrap();
    });
    assert_eq!(shown(&node), before);
}

#[test]
fn no_packet_passes_while_the_program_is_attached_again() {
    require_root!();
    let (node, peer) = neighbours();
    // The node would take them, were they to reach its kernel.
    node.ip(&format!("addr add {VIP4}/32 dev eth0"));
    let passed = node.inside(|| UdpSocket::bind((VIP4, 9)).unwrap());
    let (mut xdp, mut addresses) = node.inside(load_both);
    let ifindex = node.inside(eth0);
    assert!(ping(&peer, VIP4), "the peer knows its neighbour");
    node.inside(move || {
        xdp.attach(ifindex, "eth0", Mode::Native).unwrap();
        addresses.set(&vips(), &BTreeSet::new()).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let sender = peer.thread(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            let mut sent = 0_u64;
            while !ends.load(Ordering::Relaxed) {
                // Full buffers are no matter.
                sent += u64::from(socket.send_to(b"?", (VIP4, 9)).is_ok());
            }
            sent
        });
        let dropped = || addresses.counters().unwrap().of(Counter::DroppedNoSocket);
        for _ in 0..20 {
            let before = dropped();
            xdp.attach_again(ifindex).unwrap();
            eventually("the program to see more packets", LIMIT, || dropped() > before + 100);
        }
        over.store(true, Ordering::Relaxed);
        println!("{} packets, {} of them dropped", sender.join().unwrap(), dropped());
        // Another one can be attached, and taken off, as ever.
        xdp.detach(ifindex).unwrap();
        xdp.attach(ifindex, "eth0", Mode::Native).unwrap();
    });
    passed.set_nonblocking(true).unwrap();
    let lost = std::iter::from_fn(|| passed.recv(&mut [0; 8]).ok()).count();
    assert_eq!(lost, 0, "packets passed");
}

#[test]
fn generic_mode_is_what_it_says() {
    require_root!();
    let (node, peer) = neighbours();
    let (_xdp, addresses) = node.inside(|| {
        let (mut xdp, mut addresses) = load_both();
        let attached = xdp.attach(eth0(), "eth0", Mode::Generic).unwrap();
        assert_eq!(attached.mode, AttachedMode::Generic);
        addresses.set(&vips(), &BTreeSet::new()).unwrap();
        (xdp, addresses)
    });
    assert!(shown(&node).contains("xdpgeneric"), "{}", shown(&node));
    assert!(ping(&peer, "192.0.2.10") && !ping(&peer, VIP4));
    assert!(addresses.counters().unwrap().of(Counter::DroppedNoSocket) >= 1);
}

#[test]
fn a_driver_without_xdp_gets_generic_mode_and_the_reason() {
    require_root!();
    Namespace::new("generic").inside(|| {
        // The loopback's driver has no XDP.
        let mut xdp = load();
        let error = refused(xdp.attach(1, "lo", Mode::Native));
        assert!(matches!(error, XdpError::Refused { mode: "native", .. }), "{error}");
        assert!(error.to_string().contains("--xdp-mode generic"), "{error}");
        let attached = xdp.attach(1, "lo", Mode::Auto).unwrap();
        assert_eq!(attached.mode, AttachedMode::Generic);
        assert!(attached.native_refused.is_some());
    });
}

#[test]
fn another_program_is_named_and_left_alone() {
    require_root!();
    let (node, _peer) = neighbours();
    for mode in [Mode::Native, Mode::Generic] {
        node.inside(move || {
            let mut first = load();
            let theirs = first.attach(eth0(), "eth0", mode).unwrap().program_id;
            for wanted in [Mode::Auto, Mode::Native, Mode::Generic] {
                let error = refused(load().attach(eth0(), "eth0", wanted));
                let XdpError::OtherProgram { id, ref program, .. } = error else {
                    panic!("{error}");
                };
                assert_eq!((id, program.as_str()), (theirs, "blixt_redirect"));
                assert!(error.to_string().contains(&format!("{theirs} (blixt_redirect)")));
            }
            let now = program("ip").args(["-d", "link", "show", "dev", "eth0"]).ok();
            assert!(now.contains(&format!("id {theirs}")), "{now}");
        });
    }
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    require_root!();
    Namespace::new("nobody").inside(|| {
        let error = refused(load().attach(4_711, "eth7", Mode::Auto));
        assert!(error.to_string().contains("no interface eth7"), "{error}");
    });
}

#[test]
fn a_bond_is_sent_to_its_members() {
    require_root!();
    let namespace = Namespace::new("bond");
    let made =
        program("ip").args(["-n", namespace.name(), "link", "add", "bond0", "type", "bond"]).run();
    if !made.status.success() {
        // How a bond is recognised is tested in the agent, without a kernel.
        eprintln!("SKIPPED: this kernel has no bonds");
        return;
    }
    namespace.ip("link add eth1 type veth peer name eth2");
    namespace.ip("link set eth1 master bond0");
    namespace.inside(|| {
        let bond = if_nametoindex("bond0").unwrap();
        let error = refused(load().attach(bond, "bond0", Mode::Auto)).to_string();
        assert!(error.contains("--interface eth1"), "{error}");
    });
}

#[test]
fn an_mtu_that_is_too_large_is_explained() {
    require_root!();
    let (node, peer) = neighbours();
    // More than fits a page with its headroom, on the other end
    // (`veth_xdp_set` in drivers/net/veth.c).
    peer.ip("link set eth0 mtu 9000");
    node.inside(|| {
        let mut xdp = load();
        let error = refused(xdp.attach(eth0(), "eth0", Mode::Auto));
        assert!(error.to_string().contains("mtu 1500"), "{error}");
        // Nothing is left of the attempt: the place is free again.
        program("ip").args(["link", "add", "eth1", "type", "veth"]).ok();
        xdp.attach(if_nametoindex("eth1").unwrap(), "eth1", Mode::Auto).unwrap();
    });
}

#[test]
fn what_has_no_ethernet_header_is_refused() {
    require_root!();
    let (node, _peer) = neighbours();
    node.ip("tuntap add tun0 mode tun");
    node.inside(|| {
        let mut xdp = load();
        let tun = if_nametoindex("tun0").unwrap();
        let error = refused(xdp.attach(tun, "tun0", Mode::Auto));
        assert!(error.to_string().starts_with("tun0 is no Ethernet interface"), "{error}");
    });
}

#[test]
fn an_interface_that_vanishes_can_come_back() {
    require_root!();
    let (node, peer) = neighbours();
    node.inside(|| {
        let (mut xdp, _) =
            Xdp::load(Capacities { interfaces: 1, ..Capacities::default() }).unwrap();
        for _ in 0..3 {
            let ifindex = eth0();
            xdp.attach(ifindex, "eth0", Mode::Auto).unwrap();
            program("ip").args(["link", "del", "eth0"]).ok();
            xdp.detach(ifindex).unwrap();
            program("ip").args(["link", "add", "eth0", "type", "veth"]).ok();
        }
    });
    drop(peer);
}

#[test]
fn there_is_room_for_as_many_interfaces_as_agreed() {
    require_root!();
    let (node, _peer) = neighbours();
    node.inside(|| {
        let (mut xdp, _) =
            Xdp::load(Capacities { interfaces: 1, ..Capacities::default() }).unwrap();
        xdp.attach(eth0(), "eth0", Mode::Auto).unwrap();
        let error = refused(xdp.attach(1, "lo", Mode::Generic));
        assert!(error.to_string().contains("1 interfaces at most"), "{error}");
        let error = refused(xdp.set_socket(eth0(), 256, std::io::stdin()));
        assert!(error.to_string().contains("queue 256"), "{error}");
        let error = refused(xdp.set_socket(eth0(), 0, std::io::stdin()));
        assert!(error.to_string().contains("queue 0 of eth0"), "{error}");
    });
}

#[test]
fn groups_are_joined_and_left() {
    require_root!();
    let (node, _peer) = neighbours();
    let member =
        |group: &str| program("ip").args(["maddr", "show", "dev", "eth0"]).ok().contains(group);
    node.inside(move || {
        let mut groups = Groups::default();
        let [one, other] = ["2001:db8:1::100", "2001:db8:1::aa:200"];
        let parsed = |address: &str| address.parse().unwrap();
        groups.set(eth0(), &[parsed(one), parsed(other)]).unwrap();
        assert!(member("ff02::1:ff00:100") && member("ff02::1:ffaa:200"));
        groups.set(eth0(), &[parsed(other)]).unwrap();
        assert!(!member("ff02::1:ff00:100") && member("ff02::1:ffaa:200"));
        drop(groups);
        eventually("the group to be left", LIMIT, || !member("ff02::1:ffaa:200"));
    });
}

#[test]
fn groups_on_an_interface_without_ipv6_are_explained() {
    require_root!();
    let (node, _peer) = neighbours();
    // Below IPv6's smallest MTU (RFC 8200 §5) the kernel takes IPv6 off it.
    node.ip("link set eth0 mtu 1000");
    node.inside(|| {
        let mut groups = Groups::default();
        let vip = VIP6.parse().unwrap();
        let error = groups.set(eth0(), &[vip]).unwrap_err().to_string();
        assert!(error.contains("ff02::1:ff00:100") && error.contains("MTU of 1280"), "{error}");
        // Once it has, the same call works.
        program("ip").args(["link", "set", "eth0", "mtu", "1500"]).ok();
        groups.set(eth0(), &[vip]).unwrap();
    });
}

#[test]
fn a_map_that_the_kernel_will_not_make_is_named() {
    require_root!();
    // More than a hash map may have; the kernel refuses it at once.
    let capacities = Capacities { addresses: u32::MAX, ..Capacities::default() };
    let error = refused(Xdp::load(capacities));
    assert!(matches!(&error, XdpError::MapRefused { map, .. } if map == "ADDRESSES"), "{error}");
}
