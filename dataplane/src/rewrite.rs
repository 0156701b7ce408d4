//! Network address translation: turns each tracked packet's tuple into the
//! one its flow says, in place.
//!
//! Checksums change by the difference alone, so that one that is truly wrong
//! stays wrong for its receiver to see. Only one that its sender left partial
//! is computed.

use crate::address;
use crate::checksum::{self, Delta, Sum};
use crate::counters::Counters;
use crate::packet::{Burst, Kind, Packet, Tuple};
use crate::wire;

/// Rewrites each packet that belongs to a flow.
pub(crate) fn burst(burst: &mut Burst<'_>, counters: &Counters) {
    for packet in burst {
        if !packet.is_balanced() {
            continue;
        }
        let rewritten = packet.meta.rewritten;
        addresses(packet, &rewritten);
        if transport(packet, &rewritten) {
            counters.checksums_completed.add(1);
        }
    }
}

/// Rewrites the addresses of the IP header, and takes one off its TTL or hop
/// limit; classifying has seen that there is one left.
pub(crate) fn addresses(packet: &mut Packet<'_>, new: &Tuple) {
    let (old, l3) = (packet.meta.tuple, packet.meta.l3);
    let frame = packet.frame_mut();
    if address::is_v4(new.dst) {
        // TTL and protocol make one word.
        let word = wire::u16_at(frame, l3 + 8);
        let one_less = word.wrapping_sub(0x0100);
        let delta = Delta::default()
            .address(old.src, new.src)
            .address(old.dst, new.dst)
            .u16(word, one_less);
        let checksum = delta.applied_to(wire::u16_at(frame, l3 + 10));
        wire::put_u16(frame, l3 + 8, one_less);
        wire::put_u16(frame, l3 + 10, checksum);
        wire::put_u32(frame, l3 + 12, address::v4_bits(new.src));
        wire::put_u32(frame, l3 + 16, address::v4_bits(new.dst));
    } else {
        let one_less = wire::u8_at(frame, l3 + 7).wrapping_sub(1);
        wire::put_u8(frame, l3 + 7, one_less);
        wire::put_u128(frame, l3 + 8, new.src);
        wire::put_u128(frame, l3 + 24, new.dst);
    }
}

/// Rewrites the ports, and corrects the checksum or completes it. Says
/// whether it was completed.
fn transport(packet: &mut Packet<'_>, new: &Tuple) -> bool {
    let (meta, l4) = (packet.meta, packet.meta.l4);
    let frame = packet.frame_mut();
    wire::put_u16(frame, l4, new.src_port);
    wire::put_u16(frame, l4 + 2, new.dst_port);
    let is_udp = meta.kind == Kind::Udp;
    let field = l4 + if is_udp { 6 } else { 16 };
    let old = wire::u16_at(frame, field);
    let checksum = if meta.partial_checksum {
        // The field must not count into its own sum.
        wire::put_u16(frame, field, 0);
        let segment = wire::slice(frame, l4, meta.l4_end);
        let sum = Sum::of_pseudo_header(new.src, new.dst, new.protocol, segment.len())
            .and(Sum::of(segment))
            .checksum();
        if is_udp { checksum::udp(sum) } else { sum }
    } else {
        let delta = between(&meta.tuple, new);
        if is_udp { delta.applied_to_udp(old) } else { delta.applied_to(old) }
    };
    wire::put_u16(frame, field, checksum);
    meta.partial_checksum
}

/// What a change of tuple does to a transport checksum.
#[inline(always)]
pub(crate) fn between(old: &Tuple, new: &Tuple) -> Delta {
    Delta::default()
        .address(old.src, new.src)
        .address(old.dst, new.dst)
        .u16(old.src_port, new.src_port)
        .u16(old.dst_port, new.dst_port)
}
