//! TCP resets: to segments that are refused, and to clients whose endpoint is
//! gone.

use super::headers::{IpHeader, fit, turn_round};
use crate::address;
use crate::checksum::{self, Sum};
use crate::counters::Counters;
use crate::drops::DropReason;
use crate::fib::{Fib, Mac, Resolution, Ways};
use crate::forward;
use crate::packet::{Packet, Tuple};
use crate::parse::{ETHERNET_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV6_BYTES};
use crate::pipeline::Sink;
use crate::sweep::Reset;
use crate::tcp::{ACK, FIN, RST, SYN};
use crate::wire;

/// Bytes of a TCP header without options.
const TCP_BYTES: usize = 20;

/// The longest frame a reset needs: two tags, IPv6.
const MAX_FRAME_BYTES: usize = ETHERNET_BYTES + 8 + IPV6_BYTES + TCP_BYTES;

/// Whether a segment refused for `reason` is to be answered.
pub(super) fn check(packet: &Packet<'_>, reason: DropReason) -> Result<(), DropReason> {
    // RFC 9293 §3.10.7.1: a reset is never answered.
    if packet.meta.tcp_flags & RST != 0 {
        return Err(reason);
    }
    if checksum::l4_is_right(packet) { Ok(()) } else { Err(DropReason::L4Checksum) }
}

/// Turns a segment into the reset that answers it, by the rules for a
/// connection that does not exist (RFC 9293 §3.10.7.1).
pub(super) fn answer(packet: &mut Packet<'_>, our_mac: Mac) -> Result<(), DropReason> {
    let meta = packet.meta;
    let frame = packet.frame();
    let flags = meta.tcp_flags;
    let header_bytes = usize::from(wire::u8_at(frame, meta.l4 + 12) >> 4) * 4;
    let data_bytes = (meta.l4_end - meta.l4).saturating_sub(header_bytes);
    let controls = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let segment = if flags & ACK != 0 {
        Segment { seq: wire::u32_at(frame, meta.l4 + 8), ack: 0, flags: RST }
    } else {
        let seq = wire::u32_at(frame, meta.l4 + 4);
        let ack = seq.wrapping_add(data_bytes as u32).wrapping_add(controls);
        Segment { seq: 0, ack, flags: RST | ACK }
    };
    let ip = IpHeader::new(meta.tuple.dst, meta.tuple.src, meta.tuple.protocol, TCP_BYTES);
    fit(packet, ip.bytes() + TCP_BYTES)?;
    turn_round(packet, our_mac);
    segment.write(packet.frame_mut(), meta.l3, &meta.tuple.reversed());
    Ok(())
}

/// Resets a client without having been asked. One that cannot be reached right
/// now learns it from the answer to its next segment.
pub(crate) fn send(reset: &Reset, fib: &Fib, sink: &mut dyn Sink, counters: &Counters) {
    let tuple = &reset.tuple;
    let Resolution::Hop(id) = fib.resolve(tuple.dst, 0, Ways::OutOrHost) else { return };
    let Some(hop) = fib.hop(id) else { return };
    let mut buffer = [0_u8; MAX_FRAME_BYTES];
    let ethertype = if address::is_v4(tuple.dst) { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    let l3 = forward::ethernet(&mut buffer, hop, ethertype);
    let segment = Segment { seq: reset.sequence, ack: reset.acknowledgement, flags: RST | ACK };
    let end = segment.write(&mut buffer, l3, tuple);
    let sent = sink.send(hop.egress, wire::slice(&buffer, 0, end));
    if sent { &counters.resets } else { counters.dropped(DropReason::NoFrame) }.add(1);
}

/// What a reset says.
struct Segment {
    seq: u32,
    ack: u32,
    flags: u8,
}

impl Segment {
    /// Writes the IP packet with it at `l3`. Says where it ends.
    fn write(&self, frame: &mut [u8], l3: usize, tuple: &Tuple) -> usize {
        let l4 = IpHeader::new(tuple.src, tuple.dst, tuple.protocol, TCP_BYTES).write(frame, l3);
        let end = l4 + TCP_BYTES;
        wire::put_u16(frame, l4, tuple.src_port);
        wire::put_u16(frame, l4 + 2, tuple.dst_port);
        wire::put_u32(frame, l4 + 4, self.seq);
        wire::put_u32(frame, l4 + 8, self.ack);
        // Data offset, flags; window, checksum and urgent pointer are 0.
        wire::put(frame, l4 + 12, &[0x50, self.flags, 0, 0, 0, 0, 0, 0]);
        let sum = Sum::of_pseudo_header(tuple.src, tuple.dst, tuple.protocol, TCP_BYTES)
            .and(Sum::of(wire::slice(frame, l4, end)));
        wire::put_u16(frame, l4 + 16, sum.checksum());
        end
    }
}
