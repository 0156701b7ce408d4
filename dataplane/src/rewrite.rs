//! Network address translation: turns each tracked packet's tuple into the
//! one its flow says, in place.
//!
//! Checksums change by the difference alone, so that one that is truly wrong
//! stays wrong for its receiver to see. Only one that its sender left partial
//! is computed.

use crate::address;
use crate::checksum::{self, Delta, Sum};
use crate::counters::Counters;
use crate::packet::{Burst, Kind, Meta, Tuple};
use crate::parse::{IPV4_BYTES, IPV6_BYTES};
use crate::wire;

/// Where TCP and UDP keep their checksum.
pub(crate) const TCP_CHECKSUM: usize = 16;
pub(crate) const UDP_CHECKSUM: usize = 6;

/// Rewrites each packet that belongs to a flow.
#[inline(never)]
pub(crate) fn burst(burst: &mut Burst<'_>, counters: &Counters) {
    for packet in burst {
        if !packet.is_balanced() {
            continue;
        }
        let (frame, meta) = packet.room_and_meta();
        let moved = addresses(frame, meta, &meta.rewritten);
        if meta.partial_checksum {
            complete(frame, meta);
            counters.checksums_completed.add(1);
        } else if meta.kind == Kind::Udp {
            udp(frame, meta, moved);
        } else {
            tcp(frame, meta, moved);
        }
    }
}

/// Rewrites the addresses of the IP header, and takes one off its TTL or hop
/// limit; classifying has seen that there is one left. Says what the addresses
/// do to a checksum.
#[inline(always)]
pub(crate) fn addresses(frame: &mut [u8], meta: &Meta, new: &Tuple) -> Delta {
    let (l3, old) = (meta.l3, &meta.tuple);
    if meta.v4 {
        let moved = Delta::default().v4_address(old.src, new.src).v4_address(old.dst, new.dst);
        if let Some(ip) = wire::head_mut::<IPV4_BYTES>(frame, l3) {
            let checksum = moved.hop().applied_to(wire::u16_at(ip, 10));
            let hops = wire::u8_at(ip, 8).wrapping_sub(1);
            wire::put_u8(ip, 8, hops);
            wire::put_u16(ip, 10, checksum);
            wire::put_u32(ip, 12, address::v4_bits(new.src));
            wire::put_u32(ip, 16, address::v4_bits(new.dst));
        }
        moved
    } else {
        if let Some(ip) = wire::head_mut::<IPV6_BYTES>(frame, l3) {
            let hops = wire::u8_at(ip, 7).wrapping_sub(1);
            wire::put_u8(ip, 7, hops);
            wire::put_u128(ip, 8, new.src);
            wire::put_u128(ip, 24, new.dst);
        }
        Delta::default().address(old.src, new.src).address(old.dst, new.dst)
    }
}

/// Rewrites the ports, and corrects the checksum.
#[inline(always)]
fn tcp(frame: &mut [u8], meta: &Meta, moved: Delta) {
    let Some(header) = wire::head_mut::<{ TCP_CHECKSUM + 2 }>(frame, meta.l4) else { return };
    let delta = ports(header, meta, moved);
    let checksum = delta.applied_to(wire::u16_at(header, TCP_CHECKSUM));
    wire::put_u16(header, TCP_CHECKSUM, checksum);
}

/// Likewise.
#[inline(always)]
fn udp(frame: &mut [u8], meta: &Meta, moved: Delta) {
    let Some(header) = wire::head_mut::<{ UDP_CHECKSUM + 2 }>(frame, meta.l4) else { return };
    let delta = ports(header, meta, moved);
    let checksum = delta.applied_to_udp(wire::u16_at(header, UDP_CHECKSUM));
    wire::put_u16(header, UDP_CHECKSUM, checksum);
}

/// Rewrites the ports, and adds what they do to a checksum.
#[inline(always)]
fn ports(header: &mut [u8], meta: &Meta, moved: Delta) -> Delta {
    let (old, new) = (&meta.tuple, &meta.rewritten);
    wire::put_u16(header, 0, new.src_port);
    wire::put_u16(header, 2, new.dst_port);
    moved.u16(old.src_port, new.src_port).u16(old.dst_port, new.dst_port)
}

/// Rewrites the ports, and computes the checksum that the sender left partial.
#[inline(never)]
fn complete(frame: &mut [u8], meta: &Meta) {
    let (l4, new) = (meta.l4, &meta.rewritten);
    wire::put_u16(frame, l4, new.src_port);
    wire::put_u16(frame, l4 + 2, new.dst_port);
    let is_udp = meta.kind == Kind::Udp;
    let field = l4 + if is_udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
    // The field must not count into its own sum.
    wire::put_u16(frame, field, 0);
    let segment = wire::slice(frame, l4, meta.l4_end);
    let sum = Sum::of_pseudo_header(new.src, new.dst, new.protocol, segment.len())
        .and(Sum::of(segment))
        .checksum();
    wire::put_u16(frame, field, if is_udp { checksum::udp(sum) } else { sum });
}

/// What a change of tuple does to a transport checksum.
pub(crate) fn between(old: &Tuple, new: &Tuple) -> Delta {
    Delta::default()
        .address(old.src, new.src)
        .address(old.dst, new.dst)
        .u16(old.src_port, new.src_port)
        .u16(old.dst_port, new.dst_port)
}
