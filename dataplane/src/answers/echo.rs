//! Echo requests to our addresses (RFC 792, RFC 4443 §4).

use super::headers::{IpHeader, fit, turn_round};
use crate::address;
use crate::checksum::{self, Delta};
use crate::drops::DropReason;
use crate::fib::Mac;
use crate::packet::Packet;
use crate::wire;

/// Whether a request is worth an answer.
pub(super) fn check(packet: &Packet<'_>) -> Result<(), DropReason> {
    if wire::u8_at(packet.frame(), packet.meta.l4 + 1) != 0 {
        return Err(DropReason::IcmpType);
    }
    if checksum::icmp_is_right(packet) { Ok(()) } else { Err(DropReason::IcmpChecksum) }
}

/// Turns the request into its reply. Options and extension headers are not
/// repeated: they were for the request's way.
pub(super) fn answer(packet: &mut Packet<'_>, our_mac: Mac) -> Result<(), DropReason> {
    let meta = packet.meta;
    let frame = packet.frame_mut();
    let v4 = address::is_v4(meta.tuple.dst);
    let message_bytes = meta.l4_end - meta.l4;
    let mut header =
        IpHeader::new(meta.tuple.dst, meta.tuple.src, meta.tuple.protocol, message_bytes);
    if v4 {
        header.traffic_class = wire::u8_at(frame, meta.l3 + 1);
        // A long reply may have to be fragmented if the request might have
        // been; its identification is unique between us and the asker.
        header.id_and_flags = wire::u32_at(frame, meta.l3 + 4);
    } else {
        header.traffic_class = (wire::u16_at(frame, meta.l3) >> 4) as u8;
    }
    let l4 = meta.l3 + header.bytes();
    wire::shift(frame, meta.l4, l4, message_bytes);
    header.write(frame, meta.l3);

    // The addresses changed places, which changes no sum.
    let reply = if v4 { [0, 0] } else { [129, 0] };
    let delta = Delta::default().u16(wire::u16_at(frame, l4), u16::from_be_bytes(reply));
    let sum = delta.applied_to(wire::u16_at(frame, l4 + 2));
    wire::put(frame, l4, &reply);
    wire::put_u16(frame, l4 + 2, sum);
    turn_round(packet, our_mac);
    fit(packet, header.bytes() + message_bytes)
}
