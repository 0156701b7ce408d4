//! The first stage: where the headers are, and who talks to whom.
//!
//! Everything that later stages read of a frame is proven to be there, or the
//! packet is refused by name. Whether it is ours is not asked here.

use crate::address;
use crate::checksum::Sum;
use crate::drops::DropReason;
use crate::fib::Fib;
use crate::packet::{Burst, Kind, Meta, Progress, Tuple};
use crate::wire;

/// Bytes of an Ethernet header without tags.
pub(crate) const ETHERNET_BYTES: usize = 14;
/// Bytes of an IPv4 header without options.
pub(crate) const IPV4_BYTES: usize = 20;
/// Bytes of an IPv6 header without extensions.
pub(crate) const IPV6_BYTES: usize = 40;
/// Bytes of an ARP packet for Ethernet and IPv4.
pub(crate) const ARP_BYTES: usize = 28;

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1Q and 802.1ad.
const ETHERTYPE_TAGS: [u16; 2] = [0x8100, 0x88a8];

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// How many extension headers a packet may have. RFC 8200 §4.1 knows five
/// places for those that are followed here.
const MAX_EXTENSION_HEADERS: usize = 8;

/// Finds the headers of each packet.
#[inline(never)]
pub(crate) fn burst(burst: &mut Burst<'_>, fib: &Fib) {
    for packet in burst.iter_mut() {
        let (frame, meta) = packet.frame_and_meta();
        if let Err(reason) = read(frame, meta) {
            packet.refuse(reason);
        }
    }
    if fib.interfaces().iter().any(|interface| interface.partial_checksums) {
        find_partial_checksums(burst, fib);
    }
}

/// Where senders leave checksums to the hardware, sees which did.
fn find_partial_checksums(burst: &mut Burst<'_>, fib: &Fib) {
    for packet in burst.iter_mut().filter(|packet| packet.is_balanced()) {
        if fib.interface(packet.ingress()).is_some_and(|interface| interface.partial_checksums) {
            let (frame, meta) = packet.frame_and_meta();
            meta.partial_checksum = has_partial_checksum(frame, meta);
        }
    }
}

/// Reads one frame's headers into `meta`, which is only whole if there is no
/// reason against it.
#[inline(always)]
fn read(frame: &[u8], meta: &mut Meta) -> Result<(), DropReason> {
    let Some(ethernet) = frame.first_chunk::<ETHERNET_BYTES>() else {
        return Err(DropReason::Truncated);
    };
    match wire::u16_at(ethernet, ETHERNET_BYTES - 2) {
        ETHERTYPE_IPV4 => ipv4(frame, ETHERNET_BYTES, meta),
        ETHERTYPE_IPV6 => ipv6(frame, ETHERNET_BYTES, meta),
        ETHERTYPE_ARP => arp(frame, ETHERNET_BYTES, meta),
        tag if ETHERTYPE_TAGS.contains(&tag) => tagged(frame, meta),
        _ => Err(DropReason::Ethertype),
    }
}

/// Goes on behind one VLAN tag or two. Apart from the rest, whose headers are
/// where they nearly always are.
#[inline(never)]
fn tagged(frame: &[u8], meta: &mut Meta) -> Result<(), DropReason> {
    for tags in 1..=2 {
        let l3 = ETHERNET_BYTES + 4 * tags;
        if frame.len() < l3 {
            return Err(DropReason::Truncated);
        }
        match wire::u16_at(frame, l3 - 2) {
            ETHERTYPE_IPV4 => return ipv4(frame, l3, meta),
            ETHERTYPE_IPV6 => return ipv6(frame, l3, meta),
            ETHERTYPE_ARP => return arp(frame, l3, meta),
            tag if ETHERTYPE_TAGS.contains(&tag) => {}
            _ => break,
        }
    }
    Err(DropReason::Ethertype)
}

fn arp(frame: &[u8], l3: usize, meta: &mut Meta) -> Result<(), DropReason> {
    let end = l3 + ARP_BYTES;
    if frame.len() < end {
        return Err(DropReason::Truncated);
    }
    (meta.l3, meta.l4, meta.l4_end) = (l3, l3, end);
    meta.l3_bytes = ARP_BYTES;
    meta.kind = Kind::Arp;
    Ok(())
}

#[inline(always)]
fn ipv4(frame: &[u8], l3: usize, meta: &mut Meta) -> Result<(), DropReason> {
    // Version 4, and five words.
    if frame.get(l3) == Some(&0x45) {
        return ipv4_of(frame, l3, IPV4_BYTES, meta);
    }
    ipv4_with_options(frame, l3, meta)
}

#[inline(never)]
fn ipv4_with_options(frame: &[u8], l3: usize, meta: &mut Meta) -> Result<(), DropReason> {
    if frame.len() < l3 + IPV4_BYTES {
        return Err(DropReason::Truncated);
    }
    let first = wire::u8_at(frame, l3);
    let header_bytes = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header_bytes < IPV4_BYTES {
        return Err(DropReason::IpHeader);
    }
    ipv4_of(frame, l3, header_bytes, meta)
}

/// Reads the packet at `l3` whose header has so many bytes, 20 at least.
#[inline(always)]
fn ipv4_of(
    frame: &[u8],
    l3: usize,
    header_bytes: usize,
    meta: &mut Meta,
) -> Result<(), DropReason> {
    let Some(ip) = wire::head::<IPV4_BYTES>(frame, l3) else {
        return Err(DropReason::Truncated);
    };
    let total_bytes = usize::from(wire::u16_at(ip, 2));
    if total_bytes < header_bytes {
        return Err(DropReason::IpHeader);
    }
    let (l4, end) = (l3 + header_bytes, l3 + total_bytes);
    let Some(segment) = frame.get(l4..end) else {
        return Err(DropReason::Truncated);
    };
    let mut sum = Sum::of(ip);
    if header_bytes > IPV4_BYTES {
        sum = sum.and(Sum::of(wire::slice(frame, l3 + IPV4_BYTES, l4)));
    }
    if sum.folded() != 0xffff {
        return Err(DropReason::IpChecksum);
    }
    // More fragments, or an offset; "don't fragment" and the reserved bit
    // say nothing here.
    if wire::u16_at(ip, 6) & 0x3fff != 0 {
        return Err(DropReason::Fragment);
    }
    meta.tuple.src = address::from_v4(wire::array_at(ip, 12));
    meta.tuple.dst = address::from_v4(wire::array_at(ip, 16));
    meta.tuple.protocol = wire::u8_at(ip, 9);
    meta.hop_limit = wire::u8_at(ip, 8);
    (meta.l3, meta.l4, meta.l4_end) = (l3, l4, end);
    (meta.v4, meta.l3_bytes) = (true, total_bytes);
    transport(segment, meta, ICMP)
}

#[inline(always)]
fn ipv6(frame: &[u8], l3: usize, meta: &mut Meta) -> Result<(), DropReason> {
    let Some(ip) = wire::head::<IPV6_BYTES>(frame, l3) else {
        return Err(DropReason::Truncated);
    };
    if wire::u8_at(ip, 0) >> 4 != 6 {
        return Err(DropReason::IpHeader);
    }
    let end = l3 + IPV6_BYTES + usize::from(wire::u16_at(ip, 4));
    let Some(whole) = frame.get(..end) else {
        return Err(DropReason::Truncated);
    };
    let chain = match wire::u8_at(ip, 6) {
        protocol @ (TCP | UDP) => Chain::without_headers(l3, protocol),
        _ => extension_headers(whole, l3)?,
    };
    if chain.segments_left {
        return Err(DropReason::RoutingHeader);
    }
    if chain.fragment != Piece::Whole {
        return Err(DropReason::Fragment);
    }
    meta.tuple.src = wire::u128_at(ip, 8);
    meta.tuple.dst = wire::u128_at(ip, 24);
    meta.tuple.protocol = chain.protocol;
    meta.hop_limit = wire::u8_at(ip, 7);
    // An IPv4-mapped address on the wire (RFC 4291 §2.5.5.2 knows it only
    // inside hosts) would pass for the IPv4 address.
    if address::is_v4(meta.tuple.src) {
        return Err(DropReason::SourceAddress);
    }
    if address::is_v4(meta.tuple.dst) {
        return Err(DropReason::NotOurAddress);
    }
    (meta.l3, meta.l4, meta.l4_end) = (l3, chain.l4, end);
    (meta.v4, meta.l3_bytes) = (false, end - l3);
    transport(wire::slice(whole, chain.l4, end), meta, ICMPV6)
}

/// What a packet's extension headers say.
struct Chain {
    l4: usize,
    protocol: u8,
    fragment: Piece,
    segments_left: bool,
}

impl Chain {
    /// The transport header follows the IPv6 header at `l3`.
    #[inline(always)]
    fn without_headers(l3: usize, protocol: u8) -> Self {
        Self { l4: l3 + IPV6_BYTES, protocol, fragment: Piece::Whole, segments_left: false }
    }
}

/// Which part of a datagram a packet carries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Piece {
    /// All of it. A fragment header may say just that (RFC 6946 §4).
    Whole,
    /// The first part, transport header included.
    First,
    /// A later part, with no transport header.
    Later,
}

/// Follows the extension headers of the IPv6 packet at `l3`, which ends with
/// `frame`.
#[inline(never)]
fn extension_headers(frame: &[u8], l3: usize) -> Result<Chain, DropReason> {
    let mut chain = Chain::without_headers(l3, wire::u8_at(frame, l3 + 6));
    for place in 0..=MAX_EXTENSION_HEADERS {
        let at = chain.l4;
        match chain.protocol {
            // RFC 8200 §4.3: right after the IPv6 header, or not at all.
            HOP_BY_HOP if place > 0 => return Err(DropReason::ExtensionHeaders),
            HOP_BY_HOP | DESTINATION_OPTIONS | ROUTING | FRAGMENT => {}
            _ => return Ok(chain),
        }
        let bytes = match chain.protocol {
            FRAGMENT => 8,
            _ => (usize::from(wire::u8_at(frame, at + 1)) + 1) * 8,
        };
        if place == MAX_EXTENSION_HEADERS || at + bytes > frame.len() {
            return Err(DropReason::ExtensionHeaders);
        }
        match chain.protocol {
            ROUTING => chain.segments_left |= wire::u8_at(frame, at + 3) != 0,
            FRAGMENT => match wire::u16_at(frame, at + 2) {
                offset if offset & 0xfff8 != 0 => chain.fragment = Piece::Later,
                more if more & 1 != 0 => chain.fragment = Piece::First,
                _ => {}
            },
            _ => {}
        }
        chain.protocol = wire::u8_at(frame, at);
        chain.l4 = at + bytes;
        // What follows is payload, whatever its first bytes look like.
        if chain.fragment == Piece::Later {
            return Ok(chain);
        }
    }
    Err(DropReason::ExtensionHeaders)
}

/// Reads the transport header that `segment` begins with, at `meta.l4`. `icmp`
/// is the family's ICMP.
#[inline(always)]
fn transport(segment: &[u8], meta: &mut Meta, icmp: u8) -> Result<(), DropReason> {
    let ports: [u16; 2] = match meta.tuple.protocol {
        TCP => {
            let Some(header) = segment.first_chunk::<20>() else {
                return Err(DropReason::L4Header);
            };
            let header_bytes = usize::from(wire::u8_at(header, 12) >> 4) * 4;
            if header_bytes < 20 || header_bytes > segment.len() {
                return Err(DropReason::L4Header);
            }
            meta.kind = Kind::Tcp;
            meta.tcp_flags = wire::u8_at(header, 13);
            meta.tcp_ack = wire::u32_at(header, 8);
            [wire::u16_at(header, 0), wire::u16_at(header, 2)]
        }
        UDP => {
            let Some(header) = segment.first_chunk::<8>() else {
                return Err(DropReason::L4Header);
            };
            let datagram_bytes = usize::from(wire::u16_at(header, 4));
            // Less than the packet holds is fine (RFC 9868): the rest is no
            // part of the datagram.
            if datagram_bytes < 8 || datagram_bytes > segment.len() {
                return Err(DropReason::L4Header);
            }
            // RFC 8200 §8.1: over IPv6 a checksum is required.
            if icmp == ICMPV6 && wire::u16_at(header, 6) == 0 {
                return Err(DropReason::L4Checksum);
            }
            meta.kind = Kind::Udp;
            meta.l4_end = meta.l4 + datagram_bytes;
            [wire::u16_at(header, 0), wire::u16_at(header, 2)]
        }
        protocol if protocol == icmp => {
            let Some(header) = segment.first_chunk::<8>() else {
                return Err(DropReason::L4Header);
            };
            meta.kind = icmp_kind(wire::u8_at(header, 0), icmp);
            return Ok(());
        }
        _ => return Err(DropReason::Protocol),
    };
    [meta.tuple.src_port, meta.tuple.dst_port] = ports;
    if ports.contains(&0) {
        return Err(DropReason::L4Header);
    }
    meta.progress = Progress::Balanced;
    Ok(())
}

fn icmp_kind(icmp_type: u8, icmp: u8) -> Kind {
    match (icmp, icmp_type) {
        (ICMP, 8) | (ICMPV6, 128) => Kind::EchoRequest,
        // RFC 792: unreachable, source quench, time exceeded, parameter
        // problem. A redirect quotes too, but is between neighbours.
        (ICMP, 3 | 4 | 11 | 12) => Kind::IcmpError,
        // RFC 4443 §3: unreachable, too big, time exceeded, parameter
        // problem.
        (ICMPV6, 1..=4) => Kind::IcmpError,
        (ICMPV6, 135) => Kind::Solicitation,
        _ => Kind::Icmp,
    }
}

/// Whether the checksum field holds just the pseudo-header's sum, not
/// complemented: what Linux leaves for hardware to complete
/// (`CHECKSUM_PARTIAL`, include/linux/skbuff.h).
fn has_partial_checksum(frame: &[u8], meta: &Meta) -> bool {
    let field = match meta.kind {
        Kind::Tcp => wire::u16_at(frame, meta.l4 + 16),
        Kind::Udp => wire::u16_at(frame, meta.l4 + 6),
        _ => return false,
    };
    let Tuple { src, dst, protocol, .. } = meta.tuple;
    field == Sum::of_pseudo_header(src, dst, protocol, meta.l4_end - meta.l4).folded()
}

/// A packet quoted by an ICMP error: its beginning at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quote {
    pub(crate) l4: usize,
    pub(crate) tuple: Tuple,
}

/// Reads the packet that an ICMP error quotes: `message[l3..]`, of the family
/// `v4` says. The quote may end 8 octets into its transport header (RFC 792),
/// and its checksums need not be right.
pub(crate) fn quote(message: &[u8], l3: usize, v4: bool) -> Option<Quote> {
    let version = wire::u8_at(message, l3) >> 4;
    let quote = match (v4, version) {
        (true, 4) => {
            let header_bytes = usize::from(wire::u8_at(message, l3) & 0x0f) * 4;
            let is_first = wire::u16_at(message, l3 + 6) & 0x1fff == 0;
            if header_bytes < IPV4_BYTES || !is_first {
                return None;
            }
            let tuple = Tuple {
                src: address::from_v4(wire::array_at(message, l3 + 12)),
                dst: address::from_v4(wire::array_at(message, l3 + 16)),
                protocol: wire::u8_at(message, l3 + 9),
                ..Tuple::default()
            };
            Quote { l4: l3 + header_bytes, tuple }
        }
        (false, 6) => {
            let chain = extension_headers(message, l3).ok()?;
            if chain.fragment == Piece::Later {
                return None;
            }
            let tuple = Tuple {
                src: wire::u128_at(message, l3 + 8),
                dst: wire::u128_at(message, l3 + 24),
                protocol: chain.protocol,
                ..Tuple::default()
            };
            if address::is_v4(tuple.src) || address::is_v4(tuple.dst) {
                return None;
            }
            Quote { l4: chain.l4, tuple }
        }
        _ => return None,
    };
    let has_ports = matches!(quote.tuple.protocol, TCP | UDP) && quote.l4 + 8 <= message.len();
    has_ports.then(|| Quote {
        tuple: Tuple {
            src_port: wire::u16_at(message, quote.l4),
            dst_port: wire::u16_at(message, quote.l4 + 2),
            ..quote.tuple
        },
        ..quote
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use blixt_testkit::frame::{self, Frame};
    use etherparse::{IpNumber, NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;
    use std::net::SocketAddr;

    /// What an independent reader finds: addresses, protocol, ports, and what
    /// the transport carries.
    fn read_by_others(bytes: &[u8]) -> Option<(Tuple, Kind, Vec<u8>)> {
        let sliced = SlicedPacket::from_ethernet(bytes).ok()?;
        let mut tuple = Tuple::default();
        match sliced.net? {
            NetSlice::Ipv4(ip) => {
                tuple.src = address::from_v4(ip.header().source());
                tuple.dst = address::from_v4(ip.header().destination());
                tuple.protocol = ip.payload_ip_number().0;
            }
            NetSlice::Ipv6(ip) => {
                tuple.src = u128::from_be_bytes(ip.header().source());
                tuple.dst = u128::from_be_bytes(ip.header().destination());
                tuple.protocol = ip.payload().ip_number.0;
            }
            NetSlice::Arp(_) => return Some((tuple, Kind::Arp, vec![])),
        }
        match sliced.transport? {
            TransportSlice::Tcp(tcp) => {
                (tuple.src_port, tuple.dst_port) = (tcp.source_port(), tcp.destination_port());
                Some((tuple, Kind::Tcp, tcp.slice().to_vec()))
            }
            TransportSlice::Udp(udp) => {
                (tuple.src_port, tuple.dst_port) = (udp.source_port(), udp.destination_port());
                Some((tuple, Kind::Udp, udp.slice().to_vec()))
            }
            TransportSlice::Icmpv4(icmp) => {
                let kind = icmp_kind(icmp.type_u8(), IpNumber::ICMP.0);
                Some((tuple, kind, icmp.slice().to_vec()))
            }
            TransportSlice::Icmpv6(icmp) => {
                let kind = icmp_kind(icmp.type_u8(), IpNumber::IPV6_ICMP.0);
                Some((tuple, kind, icmp.slice().to_vec()))
            }
            TransportSlice::Igmp(_) => None,
        }
    }

    fn parsed(bytes: &[u8]) -> Result<Meta, DropReason> {
        let mut meta = Meta::default();
        read(bytes, &mut meta).map(|()| meta)
    }

    fn ends(v6: bool) -> (SocketAddr, SocketAddr) {
        let [a, b] = if v6 {
            ["[2001:db8::7]:40000", "[2001:db8::1]:80"]
        } else {
            ["192.0.2.7:40000", "198.51.100.1:80"]
        };
        (a.parse().unwrap(), b.parse().unwrap())
    }

    fn some_frame(v6: bool, kind: u8, flags: u8, extensions: &[u8], payload: &[u8]) -> Frame {
        let (src, dst) = ends(v6);
        let frame = match kind {
            0 => frame::tcp(src, dst).flags(flags).tcp_options(&[1; 8]),
            1 => frame::tcp_syn(src, dst),
            2 => frame::udp(src, dst),
            3 => frame::echo_request(src.ip(), dst.ip()),
            _ => frame::icmp(src.ip(), dst.ip(), [flags, 0], 0),
        };
        let frame = frame.payload(payload).options(&[1; 12]);
        let whole_fragment = |frame: Frame| if v6 { frame.fragment(0, false) } else { frame };
        extensions.iter().fold(frame, |frame, extension| match extension {
            0 => frame.extension(frame::DESTINATION_OPTIONS, &[0; 7]),
            1 => frame.extension(frame::ROUTING, &[0, 4, 0, 0, 0, 0, 0]),
            _ => whole_fragment(frame),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn what_others_read_is_what_is_read_here(
            v6 in any::<bool>(),
            (kind, flags) in (0..5_u8, any::<u8>()),
            extensions in proptest::collection::vec(0..3_u8, 0..4),
            payload in proptest::collection::vec(any::<u8>(), 0..64),
            tags in proptest::collection::vec(any::<u16>(), 0..3),
            padding in 0..80_usize,
        ) {
            // It wants timestamps to be as long as they should.
            prop_assume!(kind != 4 || !matches!(flags, 13 | 14));
            let frame = tags
                .iter()
                .fold(some_frame(v6, kind, flags, &extensions, &payload), |frame, &tag| {
                    frame.vlan(0x8100, tag)
                })
                .padded_to(padding);
            let bytes = frame.bytes();
            let (tuple, kind, segment) = read_by_others(&bytes).unwrap();
            let meta = parsed(&bytes).unwrap();
            prop_assert_eq!(meta.tuple, tuple);
            prop_assert_eq!(meta.kind, kind);
            prop_assert_eq!(wire::slice(&bytes, meta.l4, meta.l4_end), &segment[..]);
            prop_assert_eq!(meta.l3, 14 + 4 * tags.len());
            let end = meta.l3 + meta.l3_bytes;
            prop_assert!(meta.l4_end <= end && end <= bytes.len());
        }

        #[test]
        fn what_is_read_lies_within_the_frame(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..120),
            ethertype in 0..4_usize,
            (first, next) in (any::<u8>(), 0..8_usize),
        ) {
            // Near enough to IP to get far.
            if let Some(field) = bytes.get_mut(12..16) {
                let types: [[u8; 2]; 4] = [[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0]];
                field[..2].copy_from_slice(&types[ethertype]);
                field[2] = if first % 2 == 0 { 0x60 } else { 0x45 };
            }
            if let Some(field) = bytes.get_mut(18..21) {
                let kinds = [0, 6, 17, 43, 44, 58, 60, first];
                field.copy_from_slice(&[0, first % 80, kinds[next]]);
            }
            if let Ok(meta) = parsed(&bytes) {
                prop_assert!(meta.l3 <= meta.l4 && meta.l4 <= meta.l4_end);
                let end = meta.l3 + meta.l3_bytes;
            prop_assert!(meta.l4_end <= end && end <= bytes.len());
            }
        }

        #[test]
        fn any_quote_is_read_or_not(
            bytes in proptest::collection::vec(any::<u8>(), 0..120),
            v4 in any::<bool>(),
            l3 in 0..130_usize,
        ) {
            if let Some(quote) = quote(&bytes, l3, v4) {
                prop_assert!(quote.l4 + 8 <= bytes.len());
                prop_assert_eq!(address::is_v4(quote.tuple.src), v4);
            }
        }
    }

    #[test]
    fn a_datagram_may_be_shorter_than_its_packet() {
        // RFC 9868 puts options of UDP behind it.
        let (src, dst) = ends(false);
        let mut bytes = frame::udp(src, dst).payload(&[1; 12]).bytes();
        bytes[39] = 8 + 4;
        let meta = parsed(&bytes).unwrap();
        assert_eq!(meta.l3 + meta.l3_bytes - meta.l4, 8 + 12);
        assert_eq!(meta.l4_end - meta.l4, 8 + 4);
    }
}
