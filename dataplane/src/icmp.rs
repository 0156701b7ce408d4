//! ICMP errors about packets of our flows, translated both ways.
//!
//! Path MTU discovery lives on them. Whoever got the offending packet got it
//! with translated addresses, so both the error's addresses and the packet it
//! quotes are turned into what its sender knows (RFC 5508 §4): either side
//! sees only those it talks to, routers on the other side's path included.

use crate::address;
use crate::checksum;
use crate::drops::DropReason;
use crate::flows::Flows;
use crate::packet::{Burst, Kind, Packet, Tuple};
use crate::parse::{self, Quote, UDP};
use crate::rewrite::{self, TCP_CHECKSUM, UDP_CHECKSUM};
use crate::wire;

/// Translates each ICMP error that quotes a flow of ours, and leaves those of
/// other workers' flows to them.
#[inline(never)]
pub(crate) fn burst(burst: &mut Burst<'_>, flows: &Flows) {
    for packet in burst {
        if packet.meta.kind == Kind::IcmpError
            && packet.is_pending()
            && let Err(reason) = translate(packet, flows)
        {
            packet.refuse(reason);
        }
    }
}

fn translate(packet: &mut Packet<'_>, flows: &Flows) -> Result<(), DropReason> {
    let meta = packet.meta;
    if !checksum::icmp_is_right(packet) {
        return Err(DropReason::IcmpChecksum);
    }
    let message = wire::slice(packet.frame(), 0, meta.l4_end);
    let v4 = address::is_v4(meta.tuple.dst);
    let quoted_at = meta.l4 + 8;
    let quote = parse::quote(message, quoted_at, v4)
        // Errors go to whom the packet came from, so that is us.
        .filter(|quote| quote.tuple.src == meta.tuple.dst)
        .ok_or(DropReason::IcmpQuote)?;
    // Its sender would be told by a packet that comes the other way.
    let other_way = quote.tuple.reversed();
    let hash = flows.table.hash(&other_way);
    let Some(told) = rewritten(flows, hash, &other_way) else {
        let owner = flows.other_owner(meta.side, &other_way, hash);
        packet.hand_off(owner.ok_or(DropReason::IcmpNoFlow)?);
        return Ok(());
    };

    rewrite_quote(packet.frame_mut(), quoted_at, meta.l4_end, &quote, &told.reversed());
    let outer = Tuple { src: told.src, dst: told.dst, ..meta.tuple };
    packet.meta.rewritten = outer;
    let frame = packet.frame_mut();
    rewrite::addresses(frame, &meta, &outer);

    // It was right, and is rare: computed anew rather than by difference.
    wire::put_u16(frame, meta.l4 + 2, 0);
    let message = wire::slice(frame, meta.l4, meta.l4_end);
    let sum = checksum::icmp(outer.src, outer.dst, message).checksum();
    wire::put_u16(frame, meta.l4 + 2, sum);
    Ok(())
}

/// What a flow makes of `tuple`. Those that have ended a moment ago are found
/// too: their packets may still be under way.
fn rewritten(flows: &Flows, hash: u64, tuple: &Tuple) -> Option<Tuple> {
    let (id, direction) = flows.table.find(hash, tuple)?;
    Some(flows.flow(id)?.rewritten(direction))
}

/// Turns the packet quoted at `l3` into the one with the tuple `new`. What
/// lies beyond the quote's end, at `end`, is left alone: quotes are cut.
fn rewrite_quote(frame: &mut [u8], l3: usize, end: usize, quote: &Quote, new: &Tuple) {
    let old = &quote.tuple;
    if address::is_v4(old.dst) {
        let delta = checksum::Delta::default().address(old.src, new.src).address(old.dst, new.dst);
        let sum = delta.applied_to(wire::u16_at(frame, l3 + 10));
        wire::put_u16(frame, l3 + 10, sum);
        wire::put_u32(frame, l3 + 12, address::v4_bits(new.src));
        wire::put_u32(frame, l3 + 16, address::v4_bits(new.dst));
    } else {
        wire::put_u128(frame, l3 + 8, new.src);
        wire::put_u128(frame, l3 + 24, new.dst);
    }
    wire::put_u16(frame, quote.l4, new.src_port);
    wire::put_u16(frame, quote.l4 + 2, new.dst_port);
    let is_udp = old.protocol == UDP;
    let field = quote.l4 + if is_udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
    if field + 2 > end {
        return;
    }
    let delta = rewrite::between(old, new);
    let sum = wire::u16_at(frame, field);
    let sum = if is_udp { delta.applied_to_udp(sum) } else { delta.applied_to(sum) };
    wire::put_u16(frame, field, sum);
}
