//! ICMP errors about packets of our flows, on their way to who sent them.

use std::net::{IpAddr, SocketAddr};

use blixt_dataplane::DropReason;
use blixt_testkit::frame::{
    ACK, Checksum, DESTINATION_OPTIONS, Frame, HOP_BY_HOP, icmp_error, raw, tcp, udp,
};

use crate::flows::at_port;
use crate::world::{Cast, casts, given, one_endpoint_each, v4, v6};

/// The errors of a family that quote: type and code, and the word that must
/// come through unchanged.
fn errors(address: IpAddr) -> Vec<([u8; 2], u32)> {
    if address.is_ipv4() {
        // Port unreachable, fragmentation needed, source quench, time
        // exceeded, parameter problem with its pointer.
        vec![([3, 3], 0), ([3, 4], 1_400), ([4, 0], 0), ([11, 0], 0), ([12, 0], 9 << 24)]
    } else {
        vec![([1, 4], 0), ([2, 0], 1_400), ([3, 0], 0), ([4, 0], 40)]
    }
}

/// A quoted packet of 100 bytes of payload, in TCP and UDP.
fn packets(from: SocketAddr, to: SocketAddr) -> [Frame; 2] {
    [
        tcp(from, to).flags(ACK).payload(&[7; 101]).hop_limit(9),
        udp(from, to).payload(&[7; 101]).hop_limit(9),
    ]
}

#[test]
fn the_endpoints_side_tells_the_client() {
    for cast in casts() {
        let Cast { client, web, dns, snat, web_endpoint, dns_endpoint, router, .. } = cast;
        let sent =
            [&packets(snat, web_endpoint)[0], &packets(snat, dns_endpoint)[1]].map(Clone::clone);
        let knows = [&packets(client, web)[0], &packets(client, dns)[1]].map(Clone::clone);
        for (sent, knows) in sent.iter().zip(&knows) {
            for (kind, word) in errors(router) {
                // As much as there is, and as little as RFC 792 asks for.
                for quoted in [999, header_bytes(client) + 8] {
                    // From the endpoint itself, or from a router before it:
                    // the client only knows the VIP.
                    for source in [web_endpoint.ip(), router] {
                        given(one_endpoint_each())
                            .with_web_flow(&cast)
                            .with_dns_flow(&cast)
                            .endpoint_sends(icmp_error(source, snat.ip(), kind, word, sent, quoted))
                            .client_gets(
                                icmp_error(web.ip(), client.ip(), kind, word, knows, quoted)
                                    .hop_limit(63),
                            )
                            .moved(["icmp.errors"]);
                    }
                }
            }
        }
    }
}

#[test]
fn the_clients_side_tells_the_endpoint() {
    for cast in casts() {
        let Cast { client, web, dns, snat, web_endpoint, dns_endpoint, far_router, .. } = cast;
        let sent = [&packets(web, client)[0], &packets(dns, client)[1]].map(Clone::clone);
        let knows =
            [&packets(web_endpoint, snat)[0], &packets(dns_endpoint, snat)[1]].map(Clone::clone);
        for (sent, knows) in sent.iter().zip(&knows) {
            for (kind, word) in errors(far_router) {
                for quoted in [999, header_bytes(client) + 8] {
                    given(one_endpoint_each())
                        .with_web_flow(&cast)
                        .with_dns_flow(&cast)
                        .client_sends(icmp_error(far_router, web.ip(), kind, word, sent, quoted))
                        .endpoint_gets(
                            icmp_error(snat.ip(), web_endpoint.ip(), kind, word, knows, quoted)
                                .hop_limit(63),
                        )
                        .moved(["icmp.errors"]);
                }
            }
        }
    }
}

#[test]
fn quotes_may_have_options_and_extension_headers() {
    let cast = v4();
    let Cast { client, dns, snat, dns_endpoint, router, .. } = cast;
    let with = |frame: Frame| frame.options(&[1; 8]);
    given(one_endpoint_each())
        .with_dns_flow(&cast)
        .endpoint_sends(icmp_error(
            router,
            snat.ip(),
            [3, 3],
            0,
            &with(udp(snat, dns_endpoint)),
            36,
        ))
        .client_gets(
            icmp_error(dns.ip(), client.ip(), [3, 3], 0, &with(udp(client, dns)), 36).hop_limit(63),
        );

    let cast = v6();
    let Cast { client, dns, snat, dns_endpoint, router, .. } = cast;
    let padding = [0, 1, 4, 0, 0, 0, 0];
    let with = |frame: Frame| {
        frame.extension(HOP_BY_HOP, &padding).extension(DESTINATION_OPTIONS, &padding)
    };
    given(one_endpoint_each())
        .with_dns_flow(&cast)
        .endpoint_sends(icmp_error(
            router,
            snat.ip(),
            [1, 4],
            0,
            &with(udp(snat, dns_endpoint)),
            64,
        ))
        .client_gets(
            icmp_error(dns.ip(), client.ip(), [1, 4], 0, &with(udp(client, dns)), 64).hop_limit(63),
        );
}

#[test]
fn the_first_fragment_of_ours_that_got_lost_is_told_too() {
    // A router beyond us may fragment what does not forbid it; the first
    // piece still has the ports (RFC 792, RFC 4443 §3.3).
    for cast in casts() {
        let Cast { client, dns, snat, dns_endpoint, router, .. } = cast;
        let kind = if client.is_ipv4() { [11, 1] } else { [3, 1] };
        let piece = |from, to| udp(from, to).payload(&[5; 64]).fragment(0, true);
        given(one_endpoint_each())
            .with_dns_flow(&cast)
            .endpoint_sends(icmp_error(router, snat.ip(), kind, 0, &piece(snat, dns_endpoint), 99))
            .client_gets(
                icmp_error(dns.ip(), client.ip(), kind, 0, &piece(client, dns), 99).hop_limit(63),
            );
    }
}

#[test]
fn an_udp_quote_without_a_checksum_keeps_none() {
    let cast = v4();
    let Cast { client, dns, snat, dns_endpoint, router, .. } = cast;
    let quoted = |from, to| udp(from, to).checksum(Checksum::None);
    given(one_endpoint_each())
        .with_dns_flow(&cast)
        .endpoint_sends(icmp_error(router, snat.ip(), [3, 3], 0, &quoted(snat, dns_endpoint), 28))
        .client_gets(
            icmp_error(dns.ip(), client.ip(), [3, 3], 0, &quoted(client, dns), 28).hop_limit(63),
        );
}

#[test]
fn errors_that_quote_no_flow_are_named() {
    for cast in casts() {
        let Cast { client, dns, snat, dns_endpoint, web_endpoint, router, .. } = cast;
        let (kind, _) = errors(router)[0];
        let about = |about: &Frame, quoted| icmp_error(router, snat.ip(), kind, 0, about, quoted);
        let ours = udp(snat, dns_endpoint);
        let strange = udp(snat, at_port(web_endpoint, 9));
        let theirs = udp(client, dns);
        let no_ports = raw(snat.ip(), dns_endpoint.ip(), 47, &[0; 16]);
        let later_piece = udp(snat, dns_endpoint).payload(&[0; 64]).fragment(3, false);
        let short = header_bytes(client) + 7;
        for (error, reason) in [
            (about(&strange, 99), DropReason::IcmpNoFlow),
            (about(&theirs, 99), DropReason::IcmpQuote),
            (about(&no_ports, 99), DropReason::IcmpQuote),
            (about(&later_piece, 99), DropReason::IcmpQuote),
            (about(&ours, short), DropReason::IcmpQuote),
            (about(&ours, 0), DropReason::IcmpQuote),
            (about(&ours, 99).checksum(Checksum::Wrong(1)), DropReason::IcmpChecksum),
        ] {
            given(one_endpoint_each())
                .with_dns_flow(&cast)
                .endpoint_sends(error)
                .dropped_for(reason)
                .moved([format!("drop.{}", reason.name()).as_str()]);
        }
        // A quote of the other family.
        let [four, six] = casts();
        let other = if client.is_ipv4() { six } else { four };
        given(one_endpoint_each())
            .with_dns_flow(&other)
            .endpoint_sends(about(&udp(other.snat, other.dns_endpoint), 99))
            .dropped_for(DropReason::IcmpQuote);
    }
}

fn header_bytes(address: SocketAddr) -> usize {
    if address.is_ipv4() { 20 } else { 40 }
}
