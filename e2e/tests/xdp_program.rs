//! What the XDP program decides about single frames, by running it in the
//! kernel on frames of ours (`BPF_PROG_TEST_RUN`).
//!
//! Each scenario: a frame, the decision, and the counters that moved.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with what went wrong"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use aya::programs::{TestRun, TestRunOptions};
use blixt_agent::xdp::{Addresses, Capacities, Mode, Role, Xdp};
use blixt_testkit::counters::{Reading, assert_moved};
use blixt_testkit::frame::{self, Frame, Mac};
use blixt_testkit::netns::Namespace;
use blixt_testkit::require_root;
use socket2::{Domain, Socket, Type};

const VIP4: &str = "192.0.2.100";
const VIP6: &str = "2001:db8:1::100";
const SNAT4: &str = "198.51.100.200";
const SNAT6: &str = "2001:db8:2::200";
/// The node's own addresses, and anybody else's. The IPv6 one shares its
/// solicited-node group with the VIP.
const NODE4: &str = "192.0.2.10";
const NODE6: &str = "2001:db8:99::100";
const CLIENT4: &str = "203.0.113.7";
const CLIENT6: &str = "2001:db8:3::7";
const ROUTER_MAC: Mac = [2, 0, 0, 0, 0, 1];

/// The interface that test runs come from: the namespace's loopback.
const LOOPBACK: u32 = 1;
/// linux/if.h and linux/socket.h.
const AF_XDP: i32 = 44;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Drop,
    Pass,
    Redirect,
}

/// The loaded program, with a socket on queue 0 of the loopback.
struct Judge {
    xdp: Xdp,
    addresses: Addresses,
    _socket: Socket,
}

impl Judge {
    fn new() -> Self {
        let (mut xdp, mut addresses) = Xdp::load(Capacities::default()).unwrap();
        // The kernel runs the test as if on the loopback's queue 0.
        xdp.attach(LOOPBACK, "lo", Mode::Generic).unwrap();
        let socket = Socket::new(Domain::from(AF_XDP), Type::RAW, None).unwrap();
        xdp.set_socket(LOOPBACK, 0, &socket).unwrap();
        addresses.set(&ours(), &BTreeSet::new()).unwrap();
        Self { xdp, addresses, _socket: socket }
    }

    fn decides(&self, bytes: &[u8]) -> Action {
        let mut out = vec![0; bytes.len()];
        let options = TestRunOptions {
            data_in: Some(bytes),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        let result = self.xdp.program().unwrap().test_run(options).unwrap();
        assert_eq!(out, bytes, "the program must not change a frame");
        match result.return_value {
            1 => Action::Drop,
            2 => Action::Pass,
            4 => Action::Redirect,
            other => panic!("action {other}"),
        }
    }

    #[track_caller]
    fn expect(&self, frame: &Frame, action: Action, moved: &[&str]) {
        self.expect_bytes(&frame.bytes(), action, moved);
    }

    #[track_caller]
    fn expect_bytes(&self, bytes: &[u8], action: Action, moved: &[&str]) {
        let before = self.reading();
        assert_eq!(self.decides(bytes), action, "{bytes:02x?}");
        assert_moved(&before, &self.reading(), moved.iter().copied());
    }

    fn reading(&self) -> Reading {
        let counts = self.addresses.counters().unwrap();
        counts.iter().map(|(counter, value)| (counter.name().to_owned(), value)).collect()
    }
}

fn ours() -> BTreeMap<IpAddr, Role> {
    [(VIP4, Role::Vip), (VIP6, Role::Vip), (SNAT4, Role::Snat), (SNAT6, Role::Snat)]
        .map(|(address, role)| (ip(address), role))
        .into()
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

/// Runs a scenario in a namespace of its own.
fn given(scenario: impl FnOnce(&mut Judge) + Send + 'static) {
    Namespace::new("program").inside(move || scenario(&mut Judge::new()));
}

/// A client of the same family.
fn client_of(address: &str) -> &'static str {
    if ip(address).is_ipv4() { CLIENT4 } else { CLIENT6 }
}

#[test]
fn everything_for_our_addresses_is_redirected() {
    require_root!();
    given(|judge| {
        for address in [VIP4, VIP6, SNAT4, SNAT6] {
            let client = client_of(address);
            for frame in [
                frame::tcp_syn(at(client, 40_000), at(address, 80)),
                frame::tcp(at(client, 40_000), at(address, 65_535)).payload(&[7; 900]),
                frame::udp(at(client, 40_000), at(address, 53)).payload(b"question"),
                frame::echo_request(ip(client), ip(address)),
                frame::raw(ip(client), ip(address), 47, &[0; 20]),
                frame::raw(ip(client), ip(address), 255, &[]),
            ] {
                judge.expect(&frame, Action::Redirect, &["redirected_ip"]);
            }
        }
    });
}

#[test]
fn fragments_and_headers_with_options_are_redirected_too() {
    require_root!();
    given(|judge| {
        let v4 = frame::udp(at(CLIENT4, 1), at(VIP4, 53)).payload(&[1; 64]);
        let v6 = frame::udp(at(CLIENT6, 1), at(VIP6, 53)).payload(&[1; 64]);
        for frame in [
            v4.clone().fragment(0, true),
            v4.clone().fragment(185, false),
            v4.options(&[1; 40]),
            v6.clone().fragment(0, true),
            v6.clone().fragment(185, false),
            v6.clone().extension(frame::HOP_BY_HOP, &[0; 7]),
            v6.extension(frame::DESTINATION_OPTIONS, &[0; 7]),
        ] {
            judge.expect(&frame, Action::Redirect, &["redirected_ip"]);
        }
    });
}

#[test]
fn what_is_not_ours_passes_uncounted() {
    require_root!();
    given(|judge| {
        for frame in [
            frame::tcp_syn(at(CLIENT4, 40_000), at(NODE4, 80)),
            frame::tcp_syn(at(CLIENT6, 40_000), at(NODE6, 80)),
            // From one of our addresses is not to one of them.
            frame::tcp_syn(at(VIP4, 80), at(NODE4, 40_000)),
            frame::tcp_syn(at(VIP6, 80), at(NODE6, 40_000)),
            frame::udp(at(CLIENT4, 1), at("255.255.255.255", 67)),
            frame::udp(at(CLIENT6, 1), at("ff02::fb", 5_353)),
            // LLDP.
            frame::other(0x88cc, &[2, 7, 4]),
            // Close: one bit beside a VIP, on either end.
            frame::udp(at(CLIENT4, 1), at("192.0.2.101", 53)),
            frame::udp(at(CLIENT4, 1), at("64.0.2.100", 53)),
            frame::udp(at(CLIENT6, 1), at("2001:db8:1::101", 53)),
            frame::udp(at(CLIENT6, 1), at("a001:db8:1::100", 53)),
        ] {
            judge.expect(&frame, Action::Pass, &[]);
        }
    });
}

#[test]
fn an_ipv6_packet_cannot_pose_as_one_to_an_ipv4_address() {
    require_root!();
    given(|judge| {
        // The key of 192.0.2.100 in the map is ::ffff:192.0.2.100.
        let posing = frame::udp(at(CLIENT6, 1), at("2001:db8::1", 53)).bytes();
        let mut bytes = posing;
        bytes[38..54].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 100]);
        judge.expect_bytes(&bytes, Action::Pass, &[]);
    });
}

#[test]
fn arp_for_our_addresses_is_redirected() {
    require_root!();
    given(|judge| {
        let router = (ROUTER_MAC, ip("192.0.2.1"));
        for address in [VIP4, SNAT4] {
            let target = ([2, 0, 0, 0, 0, 9], ip(address));
            judge.expect(
                &frame::arp_request(router, ip(address)),
                Action::Redirect,
                &["redirected_arp"],
            );
            judge.expect(&frame::arp_reply(router, target), Action::Redirect, &["redirected_arp"]);
            // As short as Ethernet allows, as it comes off a wire.
            judge.expect(
                &frame::arp_request(router, ip(address)).padded_to(60),
                Action::Redirect,
                &["redirected_arp"],
            );
        }
        let node = (ROUTER_MAC, ip(NODE4));
        judge.expect(&frame::arp_request(router, ip(NODE4)), Action::Pass, &[]);
        judge.expect(&frame::arp_reply(router, node), Action::Pass, &[]);
        // Asked by somebody who has one of our addresses: not for us.
        judge.expect(&frame::arp_request((ROUTER_MAC, ip(VIP4)), ip(NODE4)), Action::Pass, &[]);
    });
}

#[test]
fn arp_of_other_kinds_passes() {
    require_root!();
    given(|judge| {
        let request = frame::arp_request((ROUTER_MAC, ip(CLIENT4)), ip(VIP4)).bytes();
        // Hardware type, protocol type, and the lengths of their addresses.
        for at in 14..20 {
            let mut bytes = request.clone();
            bytes[at] ^= 2;
            judge.expect_bytes(&bytes, Action::Pass, &[]);
        }
    });
}

#[test]
fn solicitations_for_our_addresses_are_redirected() {
    require_root!();
    given(|judge| {
        let router = (ROUTER_MAC, ip("fe80::1"));
        for address in [VIP6, SNAT6] {
            judge.expect(
                &frame::solicitation(Some(router), ip(address)),
                Action::Redirect,
                &["redirected_ndp"],
            );
            // Duplicate address detection.
            judge.expect(
                &frame::solicitation(None, ip(address)),
                Action::Redirect,
                &["redirected_ndp"],
            );
        }
        // To the address itself, by a neighbour that checks it is still there
        // (RFC 4861 §7.3.3).
        let mut target = vec![0; 16];
        target.copy_from_slice(&octets(VIP6));
        let probe = frame::icmp(ip(CLIENT6), ip(VIP6), [135, 0], 0).payload(&target);
        judge.expect(&probe, Action::Redirect, &["redirected_ip"]);
    });
}

#[test]
fn other_neighbour_discovery_passes() {
    require_root!();
    given(|judge| {
        let router = (ROUTER_MAC, ip("fe80::1"));
        // The node's address has the same group as the VIP.
        judge.expect(&frame::solicitation(Some(router), ip(NODE6)), Action::Pass, &[]);
        judge.expect(
            &frame::advertisement((ROUTER_MAC, ip(VIP6)), frame::ALL_NODES, 0x20),
            Action::Pass,
            &[],
        );
        // In our group, but no solicitation: another ICMPv6, another protocol.
        let group = "ff02::1:ff00:100";
        let target = octets(VIP6);
        for kind in [134, 136, 143] {
            let message = frame::icmp(ip("fe80::1"), ip(group), [kind, 0], 0).payload(&target);
            judge.expect(&message, Action::Pass, &[]);
        }
        judge.expect(&frame::udp(at("fe80::1", 1), at(group, 2)), Action::Pass, &[]);
    });
}

#[test]
fn up_to_two_vlan_tags_are_read() {
    require_root!();
    given(|judge| {
        let tags: [&[u16]; 6] =
            [&[], &[0x8100], &[0x88a8], &[0x8100, 0x8100], &[0x88a8, 0x8100], &[0x88a8, 0x88a8]];
        for tags in tags {
            let tagged =
                |frame: Frame| tags.iter().fold(frame, |frame, tpid| frame.vlan(*tpid, 0xe00a));
            let router = (ROUTER_MAC, ip(CLIENT4));
            judge.expect(
                &tagged(frame::tcp_syn(at(CLIENT4, 40_000), at(VIP4, 80))),
                Action::Redirect,
                &["redirected_ip"],
            );
            judge.expect(
                &tagged(frame::tcp_syn(at(CLIENT6, 40_000), at(VIP6, 80))),
                Action::Redirect,
                &["redirected_ip"],
            );
            judge.expect(
                &tagged(frame::arp_request(router, ip(VIP4))),
                Action::Redirect,
                &["redirected_arp"],
            );
            judge.expect(
                &tagged(frame::solicitation(None, ip(VIP6))),
                Action::Redirect,
                &["redirected_ndp"],
            );
            judge.expect(
                &tagged(frame::tcp_syn(at(CLIENT4, 40_000), at(NODE4, 80))),
                Action::Pass,
                &[],
            );
        }
    });
}

#[test]
fn three_vlan_tags_pass_and_are_counted() {
    require_root!();
    given(|judge| {
        let frame = frame::tcp_syn(at(CLIENT4, 40_000), at(VIP4, 80));
        let three = frame.vlan(0x88a8, 1).vlan(0x8100, 2).vlan(0x8100, 3);
        judge.expect(&three, Action::Pass, &["passed_vlan_depth"]);
        judge.expect(&three.vlan(0x8100, 4), Action::Pass, &["passed_vlan_depth"]);
    });
}

/// Cut at every byte: as long as the address that decides is complete the
/// frame is ours, and the data plane names what is wrong with it; before that
/// it passes, and is counted.
#[test]
fn truncated_frames_are_decided_by_what_is_there() {
    require_root!();
    given(|judge| {
        let router = (ROUTER_MAC, ip(CLIENT4));
        let cases = [
            // The frame, and the end of the destination or target address.
            (frame::tcp_syn(at(CLIENT4, 40_000), at(VIP4, 80)), 20, "redirected_ip"),
            (frame::tcp_syn(at(CLIENT6, 40_000), at(VIP6, 80)), 40, "redirected_ip"),
            (frame::arp_request(router, ip(VIP4)), 28, "redirected_arp"),
            (frame::solicitation(None, ip(VIP6)), 40 + 24, "redirected_ndp"),
        ];
        for (frame, decided, counter) in cases {
            for tags in 0..=2 {
                let tagged = (0..tags).fold(frame.clone(), |frame, _| frame.vlan(0x8100, 1));
                let bytes = tagged.bytes();
                let needed = 14 + tags * 4 + decided;
                // The kernel takes no test frame shorter than Ethernet's header.
                for length in 14..=bytes.len() {
                    if length < needed {
                        judge.expect_bytes(&bytes[..length], Action::Pass, &["passed_truncated"]);
                    } else {
                        judge.expect_bytes(&bytes[..length], Action::Redirect, &[counter]);
                    }
                }
            }
        }
    });
}

#[test]
fn what_is_ours_is_dropped_where_no_socket_is() {
    require_root!();
    given(|judge| {
        let frames = [
            frame::tcp_syn(at(CLIENT4, 40_000), at(VIP4, 80)),
            frame::tcp_syn(at(CLIENT6, 40_000), at(SNAT6, 80)),
            frame::arp_request((ROUTER_MAC, ip(CLIENT4)), ip(VIP4)),
            frame::solicitation(None, ip(VIP6)),
        ];
        judge.xdp.clear_socket(LOOPBACK, 0).unwrap();
        judge.xdp.clear_socket(LOOPBACK, 0).unwrap();
        for frame in &frames {
            judge.expect(frame, Action::Drop, &["dropped_no_socket"]);
        }
        judge.expect(&frame::tcp_syn(at(CLIENT4, 1), at(NODE4, 80)), Action::Pass, &[]);

        // Another queue's socket is no help.
        let socket = Socket::new(Domain::from(AF_XDP), Type::RAW, None).unwrap();
        judge.xdp.set_socket(LOOPBACK, 1, &socket).unwrap();
        judge.expect(&frames[0], Action::Drop, &["dropped_no_socket"]);
        judge.xdp.set_socket(LOOPBACK, 0, &socket).unwrap();
        judge.expect(&frames[0], Action::Redirect, &["redirected_ip"]);

        // A socket that closes takes itself out.
        drop(socket);
        judge.expect(&frames[0], Action::Drop, &["dropped_no_socket"]);

        // Detached: no row for the interface either.
        judge.xdp.detach(LOOPBACK).unwrap();
        judge.expect(&frames[0], Action::Drop, &["dropped_no_socket"]);
    });
}

#[test]
fn addresses_come_and_go() {
    require_root!();
    given(|judge| {
        let to_vip = frame::tcp_syn(at(CLIENT4, 40_000), at(VIP4, 80));
        let to_new = frame::tcp_syn(at(CLIENT4, 40_000), at(NODE4, 80));
        let changes = judge.addresses.set(&ours(), &BTreeSet::new()).unwrap();
        assert_eq!((changes.added, changes.removed), (0, 0));

        let mut wanted = ours();
        wanted.remove(&ip(SNAT6));
        wanted.insert(ip(NODE4), Role::Vip);
        let changes = judge.addresses.set(&wanted, &BTreeSet::new()).unwrap();
        assert_eq!((changes.added, changes.removed), (1, 1));
        judge.expect(&to_vip, Action::Redirect, &["redirected_ip"]);
        judge.expect(&to_new, Action::Redirect, &["redirected_ip"]);

        judge.addresses.set(&BTreeMap::new(), &BTreeSet::new()).unwrap();
        judge.expect(&to_vip, Action::Pass, &[]);
        judge.expect(&to_new, Action::Pass, &[]);
    });
}

/// An ICMP error to a VIP about what it sent, which quotes no more than ports.
fn about(quoted: &Frame, kind: [u8; 2], vip: &str) -> Frame {
    let bytes = if ip(vip).is_ipv4() { 20 + 8 } else { 40 + 8 };
    frame::icmp_error(ip(client_of(vip)), ip(vip), kind, 1_280, quoted, bytes)
}

#[test]
fn ports_of_streams_are_the_kernels_and_nothing_else_of_their_address_is() {
    require_root!();
    given(|judge| {
        const PORT: u16 = 443;
        judge.addresses.set(&ours(), &[at(VIP4, PORT), at(VIP6, PORT)].into()).unwrap();
        let passes = |judge: &Judge, frame: &Frame| {
            judge.expect(frame, Action::Pass, &["passed_stream"]);
        };
        let stays = |judge: &Judge, frame: &Frame| {
            judge.expect(frame, Action::Redirect, &["redirected_ip"]);
        };
        for vip in [VIP4, VIP6] {
            let client = at(client_of(vip), 40_000);
            let segment = frame::tcp(client, at(vip, PORT)).payload(&[7; 100]);
            let others = frame::tcp(client, at(vip, PORT + 1)).payload(&[7; 100]);
            passes(judge, &frame::tcp_syn(client, at(vip, PORT)));
            passes(judge, &segment);
            passes(judge, &segment.clone().vlan(0x8100, 5));
            passes(judge, &segment.clone().vlan(0x88a8, 5).vlan(0x8100, 6));
            stays(judge, &others);
            stays(judge, &others.clone().vlan(0x8100, 5));
            stays(judge, &frame::udp(client, at(vip, PORT)));
            stays(judge, &frame::echo_request(client.ip(), ip(vip)));
            // The port alone is not enough.
            stays(judge, &frame::tcp(at(client_of(vip), PORT), at(vip, 80)));
            let snat = if ip(vip).is_ipv4() { SNAT4 } else { SNAT6 };
            stays(judge, &frame::tcp_syn(client, at(snat, PORT)));
            judge.expect(
                &frame::tcp_syn(client, at(if ip(vip).is_ipv4() { NODE4 } else { NODE6 }, PORT)),
                Action::Pass,
                &[],
            );
            // Fragments have no ports to show.
            stays(judge, &segment.clone().fragment(0, true));
            stays(judge, &segment.clone().fragment(185, false));

            let kinds: &[[u8; 2]] = if ip(vip).is_ipv4() {
                &[[3, 4], [11, 0], [12, 0]]
            } else {
                &[[2, 0], [1, 4], [3, 0]]
            };
            let answer = frame::tcp(at(vip, PORT), client).payload(&[7; 100]);
            let other_answer = frame::tcp(at(vip, PORT + 1), client).payload(&[7; 100]);
            for &kind in kinds {
                passes(judge, &about(&answer, kind, vip));
                stays(judge, &about(&other_answer, kind, vip));
                stays(judge, &about(&frame::udp(at(vip, PORT), client), kind, vip));
            }
        }
        let with_options = frame::tcp(at(CLIENT4, 1), at(VIP4, PORT)).options(&[1; 40]);
        passes(judge, &with_options);
        let behind = frame::tcp(at(CLIENT6, 1), at(VIP6, PORT));
        stays(judge, &behind.extension(frame::HOP_BY_HOP, &[0; 7]));

        // Cut at every byte: before the port is there, the data plane has it.
        for (frame, header) in [
            (frame::tcp_syn(at(CLIENT4, 1), at(VIP4, PORT)), 14 + 20),
            (frame::tcp_syn(at(CLIENT6, 1), at(VIP6, PORT)), 14 + 40),
        ] {
            let bytes = frame.bytes();
            for length in header..bytes.len() {
                match length < header + 4 {
                    true => {
                        judge.expect_bytes(&bytes[..length], Action::Redirect, &["redirected_ip"])
                    }
                    false => judge.expect_bytes(&bytes[..length], Action::Pass, &["passed_stream"]),
                }
            }
        }

        // They go as they came.
        judge.addresses.set(&ours(), &[at(VIP6, PORT)].into()).unwrap();
        stays(judge, &frame::tcp_syn(at(CLIENT4, 1), at(VIP4, PORT)));
        passes(judge, &frame::tcp_syn(at(CLIENT6, 1), at(VIP6, PORT)));
        judge.addresses.set(&ours(), &BTreeSet::new()).unwrap();
        stays(judge, &frame::tcp_syn(at(CLIENT6, 1), at(VIP6, PORT)));
    });
}

/// Who knows nothing of the host path may have the same address on a network.
#[test]
fn an_address_of_the_host_path_is_ours_there_only() {
    require_root!();
    given(|judge| {
        let hosts = ["169.254.42.1", "fd62:6c69:7874:2a::1"];
        let mut wanted = ours();
        wanted.extend(hosts.map(|address| (ip(address), Role::Host)));
        judge.addresses.set(&wanted, &BTreeSet::new()).unwrap();
        let frames = hosts.map(|host| frame::tcp(at(client_of(host), 80), at(host, 1_024)));
        let asked = frame::arp_request((ROUTER_MAC, ip(CLIENT4)), ip(hosts[0]));
        let to_vip = frame::tcp_syn(at(CLIENT4, 40_000), at(VIP4, 80));
        for frame in frames.iter().chain([&asked]) {
            judge.expect(frame, Action::Pass, &[]);
        }
        judge.xdp.detach(LOOPBACK).unwrap();
        judge.xdp.attach_host_end(LOOPBACK, "lo", Mode::Generic).unwrap();
        judge.expect(&frames[0], Action::Drop, &["dropped_no_socket"]);
        let socket = Socket::new(Domain::from(AF_XDP), Type::RAW, None).unwrap();
        judge.xdp.set_socket(LOOPBACK, 0, &socket).unwrap();
        for frame in frames.iter().chain([&to_vip]) {
            judge.expect(frame, Action::Redirect, &["redirected_ip"]);
        }
    });
}

#[test]
fn a_full_set_can_be_exchanged_and_one_more_is_refused() {
    require_root!();
    Namespace::new("full").inside(|| {
        let capacities = Capacities { addresses: 16, streams: 2, interfaces: 1 };
        let (_xdp, mut addresses) = Xdp::load(capacities).unwrap();
        let range = |first: u8, count: u8| -> BTreeMap<IpAddr, Role> {
            (first..first + count).map(|n| (IpAddr::from([192, 0, 2, n]), Role::Vip)).collect()
        };
        addresses.set(&range(0, 16), &BTreeSet::new()).unwrap();
        let changes = addresses.set(&range(100, 16), &BTreeSet::new()).unwrap();
        assert_eq!((changes.added, changes.removed), (16, 16));
        let error = addresses.set(&range(0, 17), &BTreeSet::new()).err().unwrap().to_string();
        assert!(error.contains("17") && error.contains("16"), "{error}");
        let ports = |count: u16| (1..=count).map(|port| at("192.0.2.100", port)).collect();
        addresses.set(&range(100, 16), &ports(2)).unwrap();
        let error = addresses.set(&range(100, 16), &ports(3)).err().unwrap().to_string();
        assert!(error.contains('3') && error.contains('2'), "{error}");
    });
}

fn octets(address: &str) -> [u8; 16] {
    match ip(address) {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
    }
}
