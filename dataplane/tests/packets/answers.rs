//! What is answered in place, and what is sent unasked.

use std::net::IpAddr;

use blixt_dataplane::{DropReason, Limits, Tags, Verdict};
use blixt_testkit::frame::{
    ACK, ALL_NODES, Checksum, FIN, Frame, HOP_BY_HOP, Mac, PSH, RST, SYN, advertisement, arp,
    arp_reply, arp_request, echo_reply, echo_request, icmp, icmp_error, solicitation, tcp, tcp_syn,
    udp,
};

use crate::flows::at_port;
use crate::world::{
    BAD_BACKEND, CLIENT_MAC, CLIENTS, Cast, ENDPOINTS, NO_ENDPOINT, NO_LISTENER, NO_ROUTE,
    NO_WEIGHT, OUR_MACS, Situation, casts, given, hex, one_endpoint_each, v4, v6,
};

const BROADCAST: Mac = [0xff; 6];
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

#[test]
fn arp_is_answered_for_vips_and_snat_addresses() {
    let Cast { client, web, snat, .. } = v4();
    let asker = (CLIENT_MAC, client.ip());
    given(one_endpoint_each())
        .client_sends(arp_request(asker, web.ip()))
        .client_gets(arp_reply((OUR_MACS[0], web.ip()), asker))
        .moved(["answer.arp"])
        .client_sends(arp_request(asker, snat.ip()).to(OUR_MACS[0]).padded_to(60))
        .client_gets(arp_reply((OUR_MACS[0], snat.ip()), asker).padded_to(60))
        .moved(["answer.arp"])
        .client_sends(arp_request(asker, web.ip()).vlan(0x88a8, 2).vlan(0x8100, 0x4007))
        .client_gets(arp_reply((OUR_MACS[0], web.ip()), asker).vlan(0x88a8, 2).vlan(0x8100, 0x4007))
        .moved(["answer.arp"]);
    // Someone about to take the address (RFC 5227) learns that it is taken.
    let prober = (CLIENT_MAC, IpAddr::from([0, 0, 0, 0]));
    given(one_endpoint_each())
        .client_sends(arp_request(prober, web.ip()))
        .client_gets(arp_reply((OUR_MACS[0], web.ip()), prober))
        .moved(["answer.arp"]);
}

#[test]
fn arp_that_asks_nothing_of_us_is_not_answered() {
    let Cast { client, web, router, .. } = v4();
    let asker = (CLIENT_MAC, client.ip());
    let nobody = ([0; 6], web.ip());
    for frame in [
        arp_request(asker, router),
        arp_reply(asker, (OUR_MACS[0], web.ip())),
        arp(3, asker, nobody).to(BROADCAST),
        // Others that say they are the VIP.
        arp_request((CLIENT_MAC, web.ip()), web.ip()),
        arp_request((CLIENT_MAC, web.ip()), router),
        // Groups and nobody are no senders.
        arp_request(([3; 6], client.ip()), web.ip()).from(CLIENT_MAC),
        arp_request(([0; 6], client.ip()), web.ip()).from(CLIENT_MAC),
    ] {
        given(one_endpoint_each())
            .client_sends(frame)
            .dropped_for(DropReason::Arp)
            .moved(["drop.arp"]);
    }
}

#[test]
fn neighbour_solicitations_are_answered_for_vips_and_snat_addresses() {
    let Cast { client, web, snat, .. } = v6();
    let asker = (CLIENT_MAC, client.ip());
    let here = |target| {
        advertisement((OUR_MACS[0], target), client.ip(), SOLICITED | OVERRIDE).to(CLIENT_MAC)
    };
    given(one_endpoint_each())
        .client_sends(solicitation(Some(asker), web.ip()))
        .client_gets(here(web.ip()))
        .moved(["answer.ndp"])
        .client_sends(solicitation(Some(asker), snat.ip()).vlan(0x8100, 7))
        .client_gets(here(snat.ip()).vlan(0x8100, 7))
        .moved(["answer.ndp"]);
    // Unicast, without its MAC address: is the neighbour still there
    // (RFC 4861 §7.3.1)? The answer is longer than the question.
    let mut target = vec![];
    let IpAddr::V6(vip) = web.ip() else { unreachable!() };
    target.extend(vip.octets());
    let still_there = icmp(client.ip(), web.ip(), [135, 0], 0).payload(&target).hop_limit(255);
    given(one_endpoint_each())
        .client_sends(still_there)
        .client_gets(here(web.ip()))
        .moved(["answer.ndp"]);
}

#[test]
fn duplicate_address_detection_finds_us() {
    let Cast { web, .. } = v6();
    given(one_endpoint_each())
        .client_sends(solicitation(None, web.ip()))
        .client_gets(advertisement((OUR_MACS[0], web.ip()), ALL_NODES, OVERRIDE).to(ALL_NODES_MAC))
        .moved(["answer.ndp"]);
}

#[test]
fn solicitations_that_rfc_4861_calls_invalid_are_dropped() {
    let Cast { client, web, router, .. } = v6();
    let good = solicitation(Some((CLIENT_MAC, client.ip())), web.ip());
    let IpAddr::V6(vip) = web.ip() else { unreachable!() };
    let with_options = |options: &[u8]| good.clone().payload(&[&vip.octets(), options].concat());
    for frame in [
        good.clone().hop_limit(254),
        good.clone().checksum(Checksum::Wrong(1)),
        good.clone().payload(&vip.octets()[..15]),
        with_options(&[1, 0, 2, 0, 0, 0, 0, 7]),
        with_options(&[1, 2, 2, 0, 0, 0, 0, 7]),
        with_options(&[14, 1, 0, 0, 0, 0, 0, 0, 1]),
        solicitation(Some((CLIENT_MAC, client.ip())), router),
        // From nobody, but with a MAC address, or not to the group.
        icmp(IpAddr::from([0_u16; 8]), web.ip(), [135, 0], 0).payload(&vip.octets()).hop_limit(255),
        icmp(client.ip(), web.ip(), [135, 1], 0).payload(&vip.octets()).hop_limit(255),
    ] {
        given(one_endpoint_each())
            .client_sends(frame)
            .dropped_for(DropReason::Ndp)
            .moved(["drop.ndp"]);
    }
}

#[test]
fn echo_requests_are_answered() {
    for Cast { client, web, snat, web_endpoint, .. } in casts() {
        given(one_endpoint_each())
            .client_sends(echo_request(client.ip(), web.ip()).hop_limit(1))
            .client_gets(echo_reply(web.ip(), client.ip()))
            .moved(["answer.echo"])
            .endpoint_sends(echo_request(web_endpoint.ip(), snat.ip()).vlan(0x8100, 9))
            .endpoint_gets(echo_reply(snat.ip(), web_endpoint.ip()).vlan(0x8100, 9))
            .moved(["answer.echo"])
            .client_sends(echo_request(client.ip(), web.ip()).checksum(Checksum::Wrong(1)))
            .dropped_for(DropReason::IcmpChecksum)
            .moved(["drop.icmp_checksum"]);
    }
}

#[test]
fn an_echo_reply_is_as_plain_as_its_request_was_special() {
    let Cast { client, web, .. } = v4();
    given(one_endpoint_each())
        .client_sends(
            echo_request(client.ip(), web.ip())
                .options(&[7, 7, 4, 0, 0, 0, 0, 0])
                .identification(0xbeef, false)
                .traffic_class(0xb8),
        )
        .client_gets(
            echo_reply(web.ip(), client.ip()).identification(0xbeef, false).traffic_class(0xb8),
        );
    let Cast { client, web, .. } = v6();
    given(one_endpoint_each())
        .client_sends(
            echo_request(client.ip(), web.ip())
                .extension(HOP_BY_HOP, &[0, 1, 4, 0, 0, 0, 0])
                .traffic_class(0xb8),
        )
        .client_gets(echo_reply(web.ip(), client.ip()).traffic_class(0xb8));
}

#[test]
fn refused_segments_are_reset_by_the_rules_of_rfc_9293() {
    for Cast { client, web, .. } in casts() {
        let nobody = at_port(web, NO_LISTENER);
        let segment = |flags| tcp(client, nobody).flags(flags).seq(7_000).ack(9_000);
        let reset = || tcp(nobody, client).window(0);
        let answers: [(Frame, &str, Frame); 5] = [
            // Without ACK: from 0, acknowledging all of it.
            (segment(SYN), "no_listener", reset().flags(RST | ACK).seq(0).ack(7_001)),
            (segment(FIN).payload(b"end"), "no_flow", reset().flags(RST | ACK).seq(0).ack(7_004)),
            (segment(PSH).payload(b"end"), "no_flow", reset().flags(RST | ACK).seq(0).ack(7_003)),
            // With ACK: from where it acknowledges.
            (segment(ACK), "no_flow", reset().flags(RST).seq(9_000).ack(0)),
            (segment(SYN | ACK), "no_flow", reset().flags(RST).seq(9_000).ack(0)),
        ];
        for (segment, reason, reset) in answers {
            given(one_endpoint_each())
                .client_sends(segment.clone().vlan(0x8100, 5))
                .client_gets(reset.vlan(0x8100, 5))
                .moved([format!("drop.{reason}").as_str(), "answer.reset"]);
            // What is damaged is not answered.
            given(one_endpoint_each())
                .client_sends(segment.checksum(Checksum::Wrong(3)))
                .dropped_for(DropReason::L4Checksum)
                .moved(["drop.l4_checksum"]);
        }
        // And never a reset.
        for flags in [RST, RST | ACK, RST | SYN] {
            given(one_endpoint_each())
                .client_sends(segment(flags))
                .dropped_for(DropReason::NoFlow)
                .moved(["drop.no_flow"]);
        }
    }
}

#[test]
fn each_way_to_refuse_a_connection_is_named_and_answered() {
    for Cast { client, web, .. } in casts() {
        for (port, reason) in [
            (NO_LISTENER, "no_listener"),
            (NO_ROUTE, "no_route_attached"),
            (NO_WEIGHT, "no_weight"),
            (BAD_BACKEND, "bad_backend"),
            (NO_ENDPOINT, "no_endpoint"),
        ] {
            let vip = at_port(web, port);
            given(one_endpoint_each())
                .client_sends(tcp_syn(client, vip))
                .client_gets(tcp(vip, client).flags(RST | ACK).seq(0).ack(1_001).window(0))
                .moved([format!("drop.{reason}").as_str(), "answer.reset"]);
        }
        // UDP is not answered.
        given(one_endpoint_each())
            .client_sends(udp(client, at_port(web, NO_LISTENER)))
            .dropped_for(DropReason::NoListener)
            .moved(["drop.no_listener"]);
    }
}

#[test]
fn an_endpoint_that_talks_out_of_nowhere_is_reset() {
    for Cast { snat, web_endpoint, .. } in casts() {
        given(one_endpoint_each())
            .endpoint_sends(tcp(web_endpoint, snat).flags(ACK | PSH).ack(77).payload(b"late"))
            .endpoint_gets(tcp(snat, web_endpoint).flags(RST).seq(77).window(0))
            .moved(["drop.no_flow", "answer.reset"]);
    }
}

#[test]
fn a_client_that_goes_on_with_another_connection_than_what_ended_is_reset() {
    for cast in casts() {
        let Cast { client, web, snat, web_endpoint, .. } = cast;
        given(one_endpoint_each())
            .with_web_flow(&cast)
            .client_sends(tcp(client, web).flags(RST).seq(1_001))
            .endpoint_gets(tcp(snat, web_endpoint).flags(RST).seq(1_001).hop_limit(63))
            .moved(["to_endpoints", "flow.ended", "flow.resting"])
            .client_sends(tcp(client, web).flags(ACK | PSH).seq(250_000).ack(2_000_000_000))
            .client_gets(tcp(web, client).flags(RST).seq(2_000_000_000).window(0))
            .moved(["drop.no_flow", "answer.reset"]);
    }
}

#[test]
fn answers_end_where_their_limits_do_and_come_back_with_time() {
    for Cast { client, web, .. } in casts() {
        let limits = Limits { resets_per_second: 1, icmp_per_second: 1 };
        let nobody = at_port(web, NO_LISTENER);
        let ping = || echo_request(client.ip(), web.ip());
        let pong = || echo_reply(web.ip(), client.ip());
        let reset = || tcp(nobody, client).flags(RST | ACK).seq(0).ack(1_001).window(0);
        given(Situation { limits, ..one_endpoint_each() })
            .client_sends(ping())
            .client_gets(pong())
            .client_sends(tcp_syn(client, nobody))
            .client_gets(reset())
            .whatever_moved()
            .client_sends(ping())
            .dropped_for(DropReason::IcmpLimit)
            .moved(["drop.icmp_limit"])
            .client_sends(udp(client, web).hop_limit(1))
            .dropped_for(DropReason::IcmpLimit)
            .moved(["drop.icmp_limit"])
            .client_sends(tcp_syn(client, nobody))
            .dropped_for(DropReason::ResetLimit)
            .moved(["drop.reset_limit"])
            .later(1)
            .client_sends(ping())
            .client_gets(pong())
            .client_sends(tcp_syn(client, nobody))
            .client_gets(reset());
    }
}

#[test]
fn a_hop_limit_that_ran_out_is_answered_both_ways() {
    for cast in casts() {
        let Cast { client, web, dns, snat, dns_endpoint, .. } = cast;
        let exceeded = if client.is_ipv4() { [11, 0] } else { [3, 0] };
        for hop_limit in [0, 1] {
            let dying = udp(client, dns).payload(&[7; 600]).hop_limit(hop_limit);
            let quoted = if client.is_ipv4() { 576 - 28 } else { 1_000 };
            given(one_endpoint_each())
                .client_sends(dying.clone())
                .client_gets(icmp_error(dns.ip(), client.ip(), exceeded, 0, &dying, quoted))
                .moved(["drop.hop_limit", "answer.icmp"]);
        }
        let dying = udp(dns_endpoint, snat).hop_limit(1);
        given(one_endpoint_each())
            .with_dns_flow(&cast)
            .endpoint_sends(dying.clone())
            .endpoint_gets(icmp_error(snat.ip(), dns_endpoint.ip(), exceeded, 0, &dying, 576))
            .moved(["drop.hop_limit", "answer.icmp"]);
        // No error about an error.
        let about = udp(web, client);
        let unreachable = if client.is_ipv4() { [3, 3] } else { [1, 4] };
        given(one_endpoint_each())
            .client_sends(
                icmp_error(client.ip(), web.ip(), unreachable, 0, &about, 64).hop_limit(1),
            )
            .dropped_for(DropReason::HopLimit)
            .moved(["drop.hop_limit"]);
    }
}

#[test]
fn what_does_not_fit_is_answered_with_the_mtu() {
    for cast in casts() {
        let Cast { client, web, snat, web_endpoint, .. } = cast;
        let v4 = client.is_ipv4();
        let narrow = || Situation { mtu: 1_300, ..one_endpoint_each() };
        let (too_big, headers, most) =
            if v4 { ([3, 4], 40, 576 - 28) } else { ([2, 0], 60, 1_280 - 48) };
        let fits = vec![1; 1_300 - headers];
        let big = vec![1; 1_301 - headers];
        let segment =
            |from, to, payload: &[u8]| tcp(from, to).flags(ACK).seq(1_001).payload(payload);
        given(narrow())
            .with_web_flow(&cast)
            .client_sends(segment(client, web, &fits))
            .endpoint_gets(segment(snat, web_endpoint, &fits).hop_limit(63))
            .moved(["to_endpoints"])
            .client_sends(segment(client, web, &big).vlan(0x8100, 4))
            .client_gets(
                icmp_error(
                    web.ip(),
                    client.ip(),
                    too_big,
                    1_300,
                    &segment(client, web, &big),
                    most,
                )
                .vlan(0x8100, 4),
            )
            .moved(["drop.too_big", "answer.icmp"])
            .endpoint_sends(segment(web_endpoint, snat, &big))
            .endpoint_gets(icmp_error(
                snat.ip(),
                web_endpoint.ip(),
                too_big,
                1_300,
                &segment(web_endpoint, snat, &big),
                most,
            ))
            .moved(["drop.too_big", "answer.icmp"]);
        if v4 {
            given(narrow())
                .with_web_flow(&cast)
                .client_sends(segment(client, web, &big).identification(9, false))
                .dropped_for(DropReason::TooBigToFragment)
                .moved(["drop.too_big_to_fragment"]);
        }
    }
}

#[test]
fn the_client_of_a_lost_endpoint_is_told_at_its_next_segment() {
    for cast in casts() {
        let Cast { client, web, .. } = cast;
        given(one_endpoint_each())
            .with_web_flow(&cast)
            .endpoints_go()
            .client_sends(tcp(client, web).flags(ACK).seq(1_001).ack(5_001))
            .client_gets(tcp(web, client).flags(RST).seq(5_001).window(0))
            .moved([
                "drop.endpoint_gone",
                "answer.reset",
                "flow.ended",
                "flow.reset",
                "flow.resting",
            ]);
    }
}

#[test]
fn the_client_of_a_lost_endpoint_is_told_even_if_it_waits() {
    for cast in casts() {
        let Cast { client, web, .. } = cast;
        let told = tcp(web, client)
            .flags(RST | ACK)
            .seq(5_001)
            .ack(1_001)
            .window(0)
            .or_between(OUR_MACS[0], CLIENT_MAC);
        let mut world = given(one_endpoint_each()).with_web_flow(&cast).endpoints_go();
        let sent = world.sweep(9);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].0, CLIENTS);
        assert_eq!(hex(&sent[0].1), hex(&told.bytes()));
        world.moved(["answer.reset", "flow.ended", "flow.reset", "flow.resting"]);
        // No frame is free: counted.
        let mut world = given(one_endpoint_each()).with_web_flow(&cast).endpoints_go();
        assert_eq!(world.sweep(0).len(), 0);
        world.moved(["drop.no_frame", "flow.ended", "flow.reset", "flow.resting"]);
    }
}

#[test]
fn every_address_is_announced_everywhere() {
    let vlan: Tags = [[0x8100, 7]].into_iter().collect();
    let situation = Situation { endpoint_tags: vlan, ..one_endpoint_each() };
    let mut expected = Vec::new();
    for (slot, mac, tagged) in [
        (CLIENTS, OUR_MACS[0], false),
        (ENDPOINTS, OUR_MACS[1], false),
        (ENDPOINTS, OUR_MACS[1], true),
    ] {
        for Cast { web, snat, .. } in casts() {
            for address in [web.ip(), snat.ip()] {
                let frame = if address.is_ipv4() {
                    arp(1, (mac, address), ([0; 6], address)).from(mac).to(BROADCAST)
                } else {
                    advertisement((mac, address), ALL_NODES, OVERRIDE).to(ALL_NODES_MAC)
                };
                let frame = if tagged { frame.vlan(0x8100, 7) } else { frame };
                expected.push((slot, frame.bytes()));
            }
        }
    }
    let mut world = given(situation.clone());
    let mut sent = world.announce(99);
    sent.sort();
    expected.sort();
    assert_eq!(sent, expected);
    world.moved([]);
    let mut world = given(situation);
    assert_eq!(world.announce(5).len(), 5);
    world.moved(["drop.no_frame +7"]);
}

#[test]
fn a_vip_of_another_node_is_served_but_not_answered_for() {
    let elsewhere = Situation { owned: false, ..one_endpoint_each() };
    for Cast { client, web, snat, .. } in casts() {
        let asker = (CLIENT_MAC, client.ip());
        let looks_for = |address: IpAddr| match address {
            IpAddr::V4(_) => arp_request(asker, address),
            IpAddr::V6(_) => solicitation(Some(asker), address),
        };
        let answered = if web.is_ipv4() { "answer.arp" } else { "answer.ndp" };
        let world = given(elsewhere.clone())
            .client_sends(looks_for(web.ip()))
            .dropped_for(DropReason::NotOwner)
            .moved(["drop.not_owner"]);
        // SNAT addresses are this node's alone.
        let (world, answer) = world.client_sends(looks_for(snat.ip())).outcome();
        assert_eq!(answer.verdict, Verdict::Transmit(CLIENTS));
        // Whoever sends it something is served: so he does while it moves.
        let (_, syn) = world
            .moved([answered])
            .client_sends(echo_request(client.ip(), web.ip()))
            .client_gets(echo_reply(web.ip(), client.ip()))
            .moved(["answer.echo"])
            .client_sends(tcp_syn(client, web))
            .outcome();
        assert_eq!(syn.verdict, Verdict::Transmit(ENDPOINTS));
    }
    let mut world = given(elsewhere);
    let announced = world.announce(99);
    // Two SNAT addresses on two interfaces.
    assert_eq!(announced.len(), 4, "{announced:?}");
}

#[test]
fn an_answer_longer_than_the_room_is_not_made() {
    let Cast { client, dns, .. } = v6();
    let dying = udp(client, dns).hop_limit(1);
    let bytes = dying.clone().or_between(CLIENT_MAC, OUR_MACS[0]).bytes();
    given(Situation { room: bytes.len(), ..one_endpoint_each() })
        .client_sends(dying)
        .dropped_for(DropReason::NoFrame)
        .moved(["drop.no_frame"]);
}
