//! Every reason to drop a packet, with a packet that is dropped for it.

use std::net::IpAddr;

use blixt_dataplane::DropReason;
use blixt_testkit::frame::{
    ACK, Checksum, DESTINATION_OPTIONS, Frame, HOP_BY_HOP, Mac, ROUTING, arp_reply, echo_request,
    icmp, icmp_error, other, raw, solicitation, tcp, tcp_syn, udp,
};

use crate::flows::at_port;
use crate::world::{
    BAD_BACKEND, CLIENT_MAC, CLIENTS, Cast, LOCAL, NO_ENDPOINT, NO_LISTENER, NO_ROUTE, NO_WEIGHT,
    NOWHERE, OUR_MACS, Situation, UNATTACHED, World, casts, given, one_endpoint_each, v4, v6,
};

/// Plays a story in which packets are dropped for `reason`; `None` where it
/// takes more than one pipeline.
fn story(reason: DropReason) -> Option<World> {
    use DropReason as R;
    let Cast { client, web, dns, snat, dns_endpoint, .. } = v4();
    let world = given(one_endpoint_each());
    let limits = blixt_dataplane::Limits { resets_per_second: 0, icmp_per_second: 0 };
    let silent = || given(Situation { limits, ..one_endpoint_each() });
    let on_port = |port| tcp_syn(client, at_port(web, port));
    let query_to = |port| udp(client, at_port(web, port));
    let unreachable =
        |about: &Frame| icmp_error(dns_endpoint.ip(), snat.ip(), [3, 3], 0, about, 28);
    let big = tcp(client, web).flags(ACK).seq(1_001).payload(&[0; 1_461]);
    let world = match reason {
        R::Truncated => world.receives(CLIENTS, &[0; 13]),
        R::Ethertype => world.client_sends(other(0x88cc, &[0; 46])),
        R::IpHeader => world.client_sends(other(0x0800, &[0x44; 46])),
        R::IpChecksum => {
            world.client_sends(other(0x0800, &[&[0x45, 0, 0, 20], &[7; 42][..]].concat()))
        }
        R::ExtensionHeaders => world.client_sends(endless_chain()),
        R::RoutingHeader => {
            let Cast { client, dns, .. } = v6();
            world.client_sends(udp(client, dns).extension(ROUTING, &[0, 4, 1, 0, 0, 0, 0]))
        }
        R::Fragment => world.client_sends(query_to(53).fragment(0, true)),
        R::Protocol => world.client_sends(raw(client.ip(), web.ip(), 47, &[0; 8])),
        R::L4Header => world.client_sends(udp(at_port(client, 0), dns)),
        R::L4Checksum => world.client_sends(udp(client, dns).checksum(Checksum::Wrong(1))),
        R::NotOurMac => world.client_sends(query_to(53).to([2, 0, 0, 0, 0, 0x77])),
        R::SourceAddress => world.client_sends(udp(at_port(web, 1), dns)),
        R::NotOurAddress => world.client_sends(udp(client, dns_endpoint)),
        R::Arp => {
            let ours = (OUR_MACS[0], web.ip());
            world.client_sends(arp_reply((CLIENT_MAC, client.ip()), ours))
        }
        R::Ndp => {
            let Cast { client, web, .. } = v6();
            let asker = Some((CLIENT_MAC, client.ip()));
            world.client_sends(solicitation(asker, web.ip()).hop_limit(64))
        }
        R::NoListener => world.client_sends(on_port(NO_LISTENER)),
        R::NoRoute => world.client_sends(on_port(NO_ROUTE)),
        R::NoWeight => world.client_sends(on_port(NO_WEIGHT)),
        R::BadBackend => world.client_sends(on_port(BAD_BACKEND)),
        R::NoEndpoint => world.client_sends(on_port(NO_ENDPOINT)),
        R::NoFlow => world.client_sends(tcp(client, web).flags(ACK)),
        R::EndpointGone => world
            .with_web_flow(&v4())
            .endpoints_go()
            .client_sends(tcp(client, web).flags(ACK).seq(1_001)),
        R::FlowTableFull => given(Situation { flow_capacity: 1, ..one_endpoint_each() })
            .with_web_flow(&v4())
            .client_sends(query_to(53)),
        // There is just one port, and another client has it.
        R::SnatPorts => world.with_dns_flow(&v4()).client_sends(udp(at_port(client, 40_001), dns)),
        R::NoSnatAddress => {
            given(Situation { snat: false, ..one_endpoint_each() }).client_sends(query_to(53))
        }
        R::HostPathFull => {
            given(Situation { host: Some(0), ..one_endpoint_each() }).client_sends(query_to(LOCAL))
        }
        R::HopLimit => world.client_sends(query_to(53).hop_limit(1)),
        R::TooBig => world.with_web_flow(&v4()).client_sends(big),
        R::TooBigToFragment => {
            world.with_web_flow(&v4()).client_sends(big.identification(1, false))
        }
        R::Unroutable => world.client_sends(query_to(NOWHERE)),
        R::NotAttached => world.client_sends(query_to(UNATTACHED)),
        R::LocalEndpoint => world.client_sends(query_to(LOCAL)),
        R::ResetLimit => silent().client_sends(on_port(NO_LISTENER)),
        R::IcmpLimit => silent().client_sends(echo_request(client.ip(), web.ip())),
        R::IcmpType => world.client_sends(icmp(client.ip(), web.ip(), [13, 0], 0)),
        R::IcmpChecksum => {
            world.client_sends(echo_request(client.ip(), web.ip()).checksum(Checksum::Wrong(1)))
        }
        R::IcmpQuote => world.endpoint_sends(unreachable(&udp(client, dns))),
        R::IcmpNoFlow => world.endpoint_sends(unreachable(&udp(snat, dns_endpoint))),
        R::NoFrame => {
            let frame = query_to(53).hop_limit(1);
            let bytes = frame.clone().bytes().len();
            given(Situation { room: bytes, ..one_endpoint_each() }).client_sends(frame)
        }
        R::NotOwner => given(Situation { owned: false, ..one_endpoint_each() })
            .client_sends(blixt_testkit::frame::arp_request((CLIENT_MAC, client.ip()), web.ip())),
        R::InterfaceGone => {
            world.receives(blixt_dataplane::InterfaceSlot(9), &query_to(53).bytes())
        }
        // Takes more than one worker: team.rs has its story.
        R::HandOffLost => return None,
        // How long packets wait, how many of them, and what rings and queues
        // take, is up to the worker.
        R::Unresolved | R::HoldFull | R::TxRingFull | R::HandOffFull => return None,
    };
    Some(world)
}

#[test]
fn every_reason_has_its_story() {
    for &reason in DropReason::ALL {
        let Some(world) = story(reason) else { continue };
        let counters = world.pipeline.counters().by_name();
        let dropped: Vec<_> = counters
            .iter()
            .filter(|(name, count)| name.starts_with("drop.") && **count > 0)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        assert_eq!(dropped, [format!("drop.{} 1", reason.name())]);
    }
}

fn endless_chain() -> Frame {
    let Cast { client, dns, .. } = v6();
    (0..9).fold(udp(client, dns), |frame, _| frame.extension(DESTINATION_OPTIONS, &[0; 7]))
}

#[test]
fn chains_of_extension_headers_have_an_end() {
    let Cast { client, dns, snat, dns_endpoint, .. } = v6();
    let chain = |frame: Frame, length: usize| {
        (0..length).fold(frame, |frame, _| frame.extension(DESTINATION_OPTIONS, &[0; 7]))
    };
    given(one_endpoint_each())
        .client_sends(chain(udp(client, dns), 8))
        .endpoint_gets(chain(udp(snat, dns_endpoint), 8).hop_limit(63));
    let bad_chains = [
        endless_chain(),
        // Hop-by-hop options come first or not at all.
        chain(udp(client, dns), 1).extension(HOP_BY_HOP, &[0; 7]),
        // One that is longer than the packet.
        raw(client.ip(), dns.ip(), DESTINATION_OPTIONS, &[17, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for frame in bad_chains {
        given(one_endpoint_each())
            .client_sends(frame)
            .dropped_for(DropReason::ExtensionHeaders)
            .moved(["drop.extension_headers"]);
    }
    // Encrypted, authenticated, nothing, and things nobody has heard of.
    for protocol in [50, 51, 59, 135, 255] {
        given(one_endpoint_each())
            .client_sends(raw(client.ip(), dns.ip(), protocol, &[0; 24]))
            .dropped_for(DropReason::Protocol)
            .moved(["drop.protocol"]);
    }
}

#[test]
fn headers_that_contradict_themselves() {
    for Cast { client, web, dns, .. } in casts() {
        let good = |frame: Frame| frame.or_between(CLIENT_MAC, OUR_MACS[0]).bytes();
        let l4 = if client.is_ipv4() { 34 } else { 54 };
        let change = |frame: Frame, at: usize, value: u8| {
            let mut bytes = good(frame);
            bytes[at] = value;
            bytes
        };
        for bytes in [
            change(tcp_syn(client, web), l4 + 12, 0x40),
            change(tcp_syn(client, web), l4 + 12, 0x70),
            change(udp(client, dns), l4 + 5, 7),
            change(udp(client, dns), l4 + 5, 9),
            good(udp(client, at_port(dns, 0))),
            good(tcp_syn(at_port(client, 0), web)),
            good(raw(client.ip(), web.ip(), 6, &[0; 19])),
            good(raw(client.ip(), web.ip(), 17, &[0; 7])),
        ] {
            given(one_endpoint_each())
                .receives(CLIENTS, &bytes)
                .dropped_for(DropReason::L4Header)
                .moved(["drop.l4_header"]);
        }
        let version = if client.is_ipv4() { 0x65 } else { 0x40 };
        given(one_endpoint_each())
            .receives(CLIENTS, &change(udp(client, dns), 14, version))
            .dropped_for(DropReason::IpHeader);
    }
    // The other family's ICMP.
    let ([four, six], message) = (casts(), [8, 0, 0, 0, 0, 0, 0, 0]);
    for (cast, protocol) in [(four, 58), (six, 1)] {
        given(one_endpoint_each())
            .client_sends(raw(cast.client.ip(), cast.web.ip(), protocol, &message))
            .dropped_for(DropReason::Protocol);
    }
}

#[test]
fn ipv6_needs_a_udp_checksum() {
    let Cast { client, dns, .. } = v6();
    given(one_endpoint_each())
        .client_sends(udp(client, dns).checksum(Checksum::None))
        .dropped_for(DropReason::L4Checksum)
        .moved(["drop.l4_checksum"]);
}

#[test]
fn fragments_are_dropped_whichever_part_they_are() {
    for Cast { client, dns, .. } in casts() {
        for (offset, more) in [(0, true), (3, true), (3, false)] {
            given(one_endpoint_each())
                .client_sends(udp(client, dns).payload(&[0; 32]).fragment(offset, more))
                .dropped_for(DropReason::Fragment)
                .moved(["drop.fragment"]);
        }
    }
}

#[test]
fn only_sources_that_a_host_can_have() {
    let sources = ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "240.1.1.1"];
    let sources6 = ["::", "::1", "ff02::1", "::ffff:192.0.2.7"];
    for (cast, sources) in casts().iter().zip([&sources[..], &sources6]) {
        let ours = [cast.web.ip(), cast.snat.ip()];
        for source in sources.iter().map(|text| text.parse::<IpAddr>().unwrap()).chain(ours) {
            given(one_endpoint_each())
                .client_sends(udp((source, 9).into(), cast.dns))
                .dropped_for(DropReason::SourceAddress)
                .moved(["drop.source_address"]);
        }
    }
    // A group is no sender either.
    let Cast { client, web, .. } = v4();
    given(one_endpoint_each())
        .client_sends(tcp_syn(client, web).from([1, 0, 0, 0, 0, 1]))
        .dropped_for(DropReason::SourceAddress);
}

#[test]
fn an_ipv4_vip_cannot_be_had_as_an_ipv6_one() {
    let vip = v4().dns;
    let IpAddr::V4(address) = vip.ip() else { unreachable!() };
    let mapped = (IpAddr::V6(address.to_ipv6_mapped()), vip.port()).into();
    given(one_endpoint_each())
        .client_sends(udp(v6().client, mapped))
        .dropped_for(DropReason::NotOurAddress);
}

#[test]
fn only_frames_to_us() {
    let broadcast: Mac = [0xff; 6];
    let group: Mac = [0x33, 0x33, 0, 0, 0, 1];
    for Cast { client, web, .. } in casts() {
        for to in [broadcast, group, CLIENT_MAC, OUR_MACS[1]] {
            for frame in [tcp_syn(client, web), echo_request(client.ip(), web.ip())] {
                given(one_endpoint_each())
                    .client_sends(frame.to(to))
                    .dropped_for(DropReason::NotOurMac)
                    .moved(["drop.not_our_mac"]);
            }
        }
    }
    // A solicitation to a group that is not its target's.
    let Cast { client, web, .. } = v6();
    given(one_endpoint_each())
        .client_sends(solicitation(Some((CLIENT_MAC, client.ip())), web.ip()).to(group))
        .dropped_for(DropReason::NotOurMac);
}

#[test]
fn more_than_two_tags_are_too_many() {
    for Cast { client, dns, .. } in casts() {
        given(one_endpoint_each())
            .client_sends(udp(client, dns).vlan(0x8100, 1).vlan(0x8100, 2).vlan(0x8100, 3))
            .dropped_for(DropReason::Ethertype)
            .moved(["drop.ethertype"]);
    }
}

#[test]
fn a_frame_cut_anywhere_dropped_for() {
    for cast in casts() {
        let Cast { client, web, dns, .. } = cast;
        let padding = [0, 1, 4, 0, 0, 0, 0];
        let about = udp(web, client);
        let unreachable = if client.is_ipv4() { [3, 3] } else { [1, 4] };
        let mut frames = vec![
            tcp_syn(client, web).vlan(0x88a8, 1).vlan(0x8100, 2),
            udp(client, dns).payload(b"who?"),
            echo_request(client.ip(), web.ip()),
            icmp_error(client.ip(), web.ip(), unreachable, 0, &about, 99),
        ];
        if client.is_ipv4() {
            frames.push(udp(client, dns).options(&[1; 8]));
            frames.push(arp_reply((CLIENT_MAC, client.ip()), (OUR_MACS[0], web.ip())));
        } else {
            frames.push(udp(client, dns).extension(HOP_BY_HOP, &padding));
            frames.push(solicitation(Some((CLIENT_MAC, client.ip())), web.ip()));
        }
        let mut world = given(one_endpoint_each());
        for frame in frames {
            let bytes = frame.or_between(CLIENT_MAC, OUR_MACS[0]).bytes();
            for end in 0..bytes.len() {
                world = world
                    .receives(CLIENTS, &bytes[..end])
                    .dropped_for(DropReason::Truncated)
                    .moved(["drop.truncated"]);
            }
        }
    }
}
