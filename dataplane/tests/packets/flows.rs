//! Flows through the load balancer, both ways.

use blixt_dataplane::{Neighbour, Verdict, address};
use blixt_testkit::frame::{
    ACK, Checksum, DESTINATION_OPTIONS, FIN, Frame, HOP_BY_HOP, PSH, ROUTING, RST, SYN, tcp,
    tcp_syn, tcp_syn_ack, udp,
};

use crate::world::{
    CLIENT_MAC, CLIENTS, Cast, ENDPOINT_MAC, ENDPOINTS, IFINDEXES, OUR_MACS, SILENT, Situation,
    casts, given, one_endpoint_each, v4, v6,
};

const NEW_FLOW: [&str; 3] = ["flow.created", "flow.entries", "to_endpoints"];

#[test]
fn a_tcp_connection_from_syn_to_rest() {
    for cast in casts() {
        let Cast { client, web, snat, web_endpoint: endpoint, .. } = cast;
        given(one_endpoint_each())
            .client_sends(tcp_syn(client, web))
            .endpoint_gets(tcp_syn(snat, endpoint).hop_limit(63))
            .moved(NEW_FLOW)
            .endpoint_sends(tcp_syn_ack(endpoint, snat))
            .client_gets(tcp_syn_ack(web, client).hop_limit(63))
            .moved(["to_clients"])
            .client_sends(tcp(client, web).flags(ACK | PSH).seq(1_001).ack(5_001).payload(b"GET"))
            .endpoint_gets(
                tcp(snat, endpoint)
                    .flags(ACK | PSH)
                    .seq(1_001)
                    .ack(5_001)
                    .payload(b"GET")
                    .hop_limit(63),
            )
            .moved(["to_endpoints"])
            .endpoint_sends(tcp(endpoint, snat).flags(FIN | ACK).seq(5_001).ack(1_004))
            .client_gets(tcp(web, client).flags(FIN | ACK).seq(5_001).ack(1_004).hop_limit(63))
            .moved(["to_clients"])
            .client_sends(tcp(client, web).flags(FIN | ACK).seq(1_004).ack(5_002))
            .endpoint_gets(tcp(snat, endpoint).flags(FIN | ACK).seq(1_004).ack(5_002).hop_limit(63))
            .moved(["to_endpoints"])
            .endpoint_sends(tcp(endpoint, snat).flags(ACK).seq(5_002).ack(1_005))
            .client_gets(tcp(web, client).flags(ACK).seq(5_002).ack(1_005).hop_limit(63))
            .moved(["to_clients", "flow.ended", "flow.resting"]);
    }
}

#[test]
fn a_udp_exchange() {
    for cast in casts() {
        let Cast { client, dns, snat, dns_endpoint: endpoint, .. } = cast;
        given(one_endpoint_each())
            .client_sends(udp(client, dns).payload(b"who?"))
            .endpoint_gets(
                udp(at_port(snat, crate::world::SNAT_PORT), endpoint)
                    .payload(b"who?")
                    .hop_limit(63),
            )
            .moved(NEW_FLOW)
            .endpoint_sends(udp(endpoint, snat).payload(b"me!"))
            .client_gets(udp(dns, client).payload(b"me!").hop_limit(63))
            .moved(["to_clients"])
            .client_sends(udp(client, dns).payload(b"why?"))
            .endpoint_gets(udp(snat, endpoint).payload(b"why?").hop_limit(63))
            .moved(["to_endpoints"]);
    }
}

#[test]
fn packets_of_one_burst_see_each_others_effects() {
    for cast in casts() {
        let Cast { client, web, snat, web_endpoint: endpoint, .. } = cast;
        let mut world = given(one_endpoint_each());
        let from_client =
            |frame: Frame| (CLIENTS, frame.or_between(CLIENT_MAC, OUR_MACS[0]).bytes());
        let from_endpoint =
            |frame: Frame| (ENDPOINTS, frame.or_between(ENDPOINT_MAC, OUR_MACS[1]).bytes());
        let outcomes = world.process_all(&[
            from_client(tcp_syn(client, web)),
            from_endpoint(tcp_syn_ack(endpoint, snat)),
            from_client(tcp(client, web).flags(RST).seq(1_001)),
            from_client(tcp(client, web).flags(ACK).seq(1_001)),
        ]);
        let verdicts: Vec<_> = outcomes.iter().map(|outcome| outcome.verdict).collect();
        assert_eq!(
            verdicts,
            [
                Verdict::Transmit(ENDPOINTS),
                Verdict::Transmit(CLIENTS),
                Verdict::Transmit(ENDPOINTS),
                // Resting: what comes late is still translated.
                Verdict::Transmit(ENDPOINTS),
            ]
        );
        world.moved([
            "flow.created",
            "flow.entries",
            "flow.ended",
            "flow.resting",
            "to_endpoints +3",
            "to_clients",
        ]);
    }
}

#[test]
fn options_and_extension_headers_go_along() {
    let Cast { client, dns, snat, dns_endpoint: endpoint, .. } = v4();
    // No operation, and a record route option with room for one address.
    let options = [1, 7, 7, 4, 0, 0, 0, 0];
    given(one_endpoint_each())
        .client_sends(udp(client, dns).options(&options))
        .endpoint_gets(udp(snat, endpoint).options(&options).hop_limit(63));

    let Cast { client, dns, snat, dns_endpoint: endpoint, .. } = v6();
    let padding = [0, 1, 4, 0, 0, 0, 0];
    // Type 4 with no segments left has arrived.
    let arrived = [0, 4, 0, 0, 0, 0, 0];
    let with_headers = |frame: Frame| {
        frame
            .extension(HOP_BY_HOP, &padding)
            .extension(DESTINATION_OPTIONS, &padding)
            .extension(ROUTING, &arrived)
    };
    given(one_endpoint_each())
        .client_sends(with_headers(udp(client, dns)))
        .endpoint_gets(with_headers(udp(snat, endpoint)).hop_limit(63));
    // A fragment header on a whole packet (RFC 6946).
    given(one_endpoint_each())
        .client_sends(udp(client, dns).fragment(0, false))
        .endpoint_gets(udp(snat, endpoint).fragment(0, false).hop_limit(63));
}

#[test]
fn padding_stays_and_is_no_payload() {
    let Cast { client, web, snat, web_endpoint: endpoint, .. } = v4();
    given(one_endpoint_each())
        .client_sends(tcp_syn(client, web).tcp_options(&[]).padded_to(60))
        .endpoint_gets(tcp_syn(snat, endpoint).tcp_options(&[]).padded_to(60).hop_limit(63));
}

#[test]
fn tags_are_those_of_the_link_it_leaves_through() {
    let tags = |tags: &[[u16; 2]]| tags.iter().copied().collect();
    let tagged = |mut frame: Frame, tags: &[[u16; 2]]| {
        for &[tpid, tci] in tags {
            frame = frame.vlan(tpid, tci);
        }
        frame
    };
    let none: &[[u16; 2]] = &[];
    let one = &[[0x8100, 7]];
    let two = &[[0x88a8, 3], [0x8100, 0x2009]];
    for cast in casts() {
        let Cast { client, dns, snat, dns_endpoint: endpoint, .. } = cast;
        for (near, far) in [(none, &one[..]), (one, two), (two, none), (two, one), (two, two)] {
            let situation = Situation {
                client_tags: tags(near),
                endpoint_tags: tags(far),
                ..one_endpoint_each()
            };
            given(situation)
                .client_sends(tagged(udp(client, dns), near).padded_to(60))
                .endpoint_gets(
                    tagged(udp(snat, endpoint).hop_limit(63), far)
                        .padded_to(60 + 4 * far.len() - 4 * near.len()),
                )
                .endpoint_sends(tagged(udp(endpoint, snat), far).payload(b"x"))
                .client_gets(tagged(udp(dns, client).payload(b"x").hop_limit(63), near));
        }
    }
}

#[test]
fn a_partial_checksum_is_completed_where_senders_leave_them() {
    for cast in casts() {
        let Cast { client, web, dns, snat, web_endpoint, dns_endpoint, .. } = cast;
        let on_veth = Situation { partial_checksums: true, ..one_endpoint_each() };
        let query = |from, to| udp(from, to).payload(b"odd");
        given(on_veth.clone())
            .client_sends(tcp_syn(client, web).checksum(Checksum::Partial))
            .endpoint_gets(tcp_syn(snat, web_endpoint).hop_limit(63))
            .moved(NEW_FLOW.into_iter().chain(["checksums.completed"]))
            .endpoint_sends(tcp_syn_ack(web_endpoint, snat).checksum(Checksum::Partial))
            .client_gets(tcp_syn_ack(web, client).hop_limit(63))
            .moved(["to_clients", "checksums.completed"])
            .client_sends(query(client, dns).checksum(Checksum::Partial))
            .endpoint_gets(query(snat, dns_endpoint).hop_limit(63))
            .moved(NEW_FLOW.into_iter().chain(["checksums.completed"]));
        // Where nobody leaves them partial, the same bytes are just wrong.
        given(one_endpoint_each())
            .client_sends(tcp_syn(client, web).checksum(Checksum::Partial))
            .dropped_for(blixt_dataplane::DropReason::L4Checksum);
        // And right ones stay right there.
        given(on_veth)
            .client_sends(tcp_syn(client, web))
            .endpoint_gets(tcp_syn(snat, web_endpoint).hop_limit(63))
            .moved(NEW_FLOW);
    }
}

#[test]
fn a_wrong_checksum_stays_as_wrong_as_it_was() {
    for cast in casts() {
        let Cast { client, dns, snat, dns_endpoint, web, web_endpoint, .. } = cast;
        let segment = |from, to| tcp(from, to).flags(ACK).payload(b"flipped");
        given(one_endpoint_each())
            .with_web_flow(&cast)
            .client_sends(segment(client, web).checksum(Checksum::Wrong(0x101)))
            .endpoint_gets(
                segment(snat, web_endpoint).checksum(Checksum::Wrong(0x101)).hop_limit(63),
            );
        let datagram = |from, to| udp(from, to).payload(b"flipped");
        given(one_endpoint_each())
            .with_dns_flow(&cast)
            .client_sends(datagram(client, dns).checksum(Checksum::Wrong(0x101)))
            .endpoint_gets(
                datagram(snat, dns_endpoint).checksum(Checksum::Wrong(0x101)).hop_limit(63),
            );
    }
}

#[test]
fn a_udp_checksum_that_is_left_out_stays_out() {
    let Cast { client, dns, snat, dns_endpoint: endpoint, .. } = v4();
    for partial_checksums in [false, true] {
        given(Situation { partial_checksums, ..one_endpoint_each() })
            .client_sends(udp(client, dns).checksum(Checksum::None))
            .endpoint_gets(udp(snat, endpoint).checksum(Checksum::None).hop_limit(63))
            .moved(NEW_FLOW);
    }
}

#[test]
fn a_packet_waits_for_a_neighbour_and_leaves_when_it_answers() {
    for cast in casts() {
        let Cast { client, web, snat, silent, .. } = cast;
        let listener = at_port(web, SILENT);
        let endpoint = std::net::SocketAddr::new(silent, 1);
        let (world, outcome) = given(one_endpoint_each())
            .client_sends(udp(client, listener).payload(b"patience"))
            .moved(["flow.created", "flow.entries", "held"])
            .outcome();
        let neighbour = Neighbour { ifindex: IFINDEXES[1], address: address::from_ip(silent) };
        assert_eq!(outcome.verdict, Verdict::Hold(neighbour));
        // Asked again too early, it waits on, and is not counted again.
        let (world, again) = world.retried(&outcome.frame).moved([]).outcome();
        assert_eq!(again, outcome);
        world
            .neighbour_answers(silent)
            .retried(&again.frame)
            .endpoint_gets(udp(snat, endpoint).payload(b"patience").hop_limit(63))
            .moved(["to_endpoints"]);
    }
}

#[test]
fn syn_and_fin_together_open_nothing() {
    for cast in casts() {
        given(one_endpoint_each())
            .client_sends(tcp(cast.client, cast.web).flags(SYN | FIN))
            .client_gets(tcp(cast.web, cast.client).flags(RST | ACK).seq(0).ack(1_002).window(0))
            .moved(["drop.no_flow", "answer.reset"]);
    }
}

pub(crate) fn at_port(address: std::net::SocketAddr, port: u16) -> std::net::SocketAddr {
    std::net::SocketAddr::new(address.ip(), port)
}
