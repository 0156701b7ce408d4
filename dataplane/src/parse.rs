//! The first stage: where the headers are, and who talks to whom.
//!
//! Everything that later stages read of a frame is proven to be there, or the
//! packet is refused by name. Whether it is ours is not asked here.

use crate::address;
use crate::checksum::Sum;
use crate::drops::DropReason;
use crate::fib::Fib;
use crate::packet::{Burst, Kind, Meta, Tuple};
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
pub(crate) fn burst(burst: &mut Burst<'_>, fib: &Fib) {
    for packet in burst {
        let partial_checksums =
            fib.interface(packet.ingress()).is_some_and(|interface| interface.partial_checksums);
        match frame(packet.frame()) {
            Ok(meta) => {
                packet.meta = meta;
                packet.meta.partial_checksum =
                    partial_checksums && has_partial_checksum(packet.frame(), &meta);
            }
            Err(reason) => packet.refuse(reason),
        }
    }
}

/// What is in one frame.
fn frame(frame: &[u8]) -> Result<Meta, DropReason> {
    let mut l3 = ETHERNET_BYTES;
    for tags in 0_usize.. {
        if frame.len() < l3 {
            return Err(DropReason::Truncated);
        }
        match wire::u16_at(frame, l3 - 2) {
            ETHERTYPE_IPV4 => return ipv4(frame, l3),
            ETHERTYPE_IPV6 => return ipv6(frame, l3),
            ETHERTYPE_ARP => return arp(frame, l3),
            tag if ETHERTYPE_TAGS.contains(&tag) && tags < 2 => l3 += 4,
            _ => break,
        }
    }
    Err(DropReason::Ethertype)
}

fn arp(frame: &[u8], l3: usize) -> Result<Meta, DropReason> {
    let end = l3 + ARP_BYTES;
    if frame.len() < end {
        return Err(DropReason::Truncated);
    }
    Ok(Meta { l3, l4: l3, l4_end: end, end, kind: Kind::Arp, ..Meta::default() })
}

fn ipv4(frame: &[u8], l3: usize) -> Result<Meta, DropReason> {
    if frame.len() < l3 + IPV4_BYTES {
        return Err(DropReason::Truncated);
    }
    let header_bytes = usize::from(wire::u8_at(frame, l3) & 0x0f) * 4;
    let total_bytes = usize::from(wire::u16_at(frame, l3 + 2));
    if wire::u8_at(frame, l3) >> 4 != 4 || header_bytes < IPV4_BYTES || total_bytes < header_bytes {
        return Err(DropReason::IpHeader);
    }
    let (l4, end) = (l3 + header_bytes, l3 + total_bytes);
    if frame.len() < end {
        return Err(DropReason::Truncated);
    }
    if Sum::of(wire::slice(frame, l3, l4)).folded() != 0xffff {
        return Err(DropReason::IpChecksum);
    }
    // More fragments, or an offset; "don't fragment" and the reserved bit
    // say nothing here.
    if wire::u16_at(frame, l3 + 6) & 0x3fff != 0 {
        return Err(DropReason::Fragment);
    }
    let tuple = Tuple {
        src: address::from_v4(wire::array_at(frame, l3 + 12)),
        dst: address::from_v4(wire::array_at(frame, l3 + 16)),
        protocol: wire::u8_at(frame, l3 + 9),
        ..Tuple::default()
    };
    transport(frame, Meta { l3, l4, l4_end: end, end, tuple, ..Meta::default() }, ICMP)
}

fn ipv6(frame: &[u8], l3: usize) -> Result<Meta, DropReason> {
    if frame.len() < l3 + IPV6_BYTES {
        return Err(DropReason::Truncated);
    }
    if wire::u8_at(frame, l3) >> 4 != 6 {
        return Err(DropReason::IpHeader);
    }
    let end = l3 + IPV6_BYTES + usize::from(wire::u16_at(frame, l3 + 4));
    if frame.len() < end {
        return Err(DropReason::Truncated);
    }
    let chain = extension_headers(wire::slice(frame, 0, end), l3)?;
    if chain.segments_left {
        return Err(DropReason::RoutingHeader);
    }
    if chain.fragment != Piece::Whole {
        return Err(DropReason::Fragment);
    }
    let tuple = Tuple {
        src: wire::u128_at(frame, l3 + 8),
        dst: wire::u128_at(frame, l3 + 24),
        protocol: chain.protocol,
        ..Tuple::default()
    };
    // An IPv4-mapped address on the wire (RFC 4291 §2.5.5.2 knows it only
    // inside hosts) would pass for the IPv4 address.
    if address::is_v4(tuple.src) {
        return Err(DropReason::SourceAddress);
    }
    if address::is_v4(tuple.dst) {
        return Err(DropReason::NotOurAddress);
    }
    let meta = Meta { l3, l4: chain.l4, l4_end: end, end, tuple, ..Meta::default() };
    transport(frame, meta, ICMPV6)
}

/// What a packet's extension headers say.
struct Chain {
    l4: usize,
    protocol: u8,
    fragment: Piece,
    segments_left: bool,
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
fn extension_headers(frame: &[u8], l3: usize) -> Result<Chain, DropReason> {
    let mut chain = Chain {
        l4: l3 + IPV6_BYTES,
        protocol: wire::u8_at(frame, l3 + 6),
        fragment: Piece::Whole,
        segments_left: false,
    };
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

/// Reads the transport header at `meta.l4`. `icmp` is the family's ICMP.
fn transport(frame: &[u8], mut meta: Meta, icmp: u8) -> Result<Meta, DropReason> {
    let bytes = meta.end - meta.l4;
    let l4 = meta.l4;
    match meta.tuple.protocol {
        TCP => {
            if bytes < 20 {
                return Err(DropReason::L4Header);
            }
            let header_bytes = usize::from(wire::u8_at(frame, l4 + 12) >> 4) * 4;
            if header_bytes < 20 || header_bytes > bytes {
                return Err(DropReason::L4Header);
            }
            meta.kind = Kind::Tcp;
            meta.tcp_flags = wire::u8_at(frame, l4 + 13);
        }
        UDP => {
            let datagram_bytes = usize::from(wire::u16_at(frame, l4 + 4));
            // Less than the packet holds is fine (RFC 9868): the rest is no
            // part of the datagram.
            if bytes < 8 || datagram_bytes < 8 || datagram_bytes > bytes {
                return Err(DropReason::L4Header);
            }
            // RFC 8200 §8.1: over IPv6 a checksum is required.
            if icmp == ICMPV6 && wire::u16_at(frame, l4 + 6) == 0 {
                return Err(DropReason::L4Checksum);
            }
            meta.kind = Kind::Udp;
            meta.l4_end = l4 + datagram_bytes;
        }
        protocol if protocol == icmp => {
            if bytes < 8 {
                return Err(DropReason::L4Header);
            }
            meta.kind = icmp_kind(wire::u8_at(frame, l4), icmp);
            return Ok(meta);
        }
        _ => return Err(DropReason::Protocol),
    }
    meta.tuple.src_port = wire::u16_at(frame, l4);
    meta.tuple.dst_port = wire::u16_at(frame, l4 + 2);
    if meta.tuple.src_port == 0 || meta.tuple.dst_port == 0 {
        return Err(DropReason::L4Header);
    }
    Ok(meta)
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
