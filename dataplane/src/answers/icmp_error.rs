//! ICMP errors of our own: the hop limit ran out, or the next link takes only
//! smaller packets.

use super::headers::{IpHeader, fit, ip_header_bytes, turn_round};
use crate::address;
use crate::checksum;
use crate::drops::DropReason;
use crate::fib::Mac;
use crate::packet::Packet;
use crate::parse::{ICMP, ICMPV6};
use crate::wire;

/// The longest error: what every IPv4 host takes (RFC 1812 §4.3.2.3), and
/// IPv6's smallest MTU (RFC 4443 §2.4 (c)).
const MAX_V4_BYTES: usize = 576;
const MAX_V6_BYTES: usize = 1_280;

/// Bytes before the quote.
const ICMP_HEADER_BYTES: usize = 8;

/// Turns a packet that is refused for `reason` into the error about it, which
/// quotes it as it came.
pub(super) fn answer(
    packet: &mut Packet<'_>,
    our_mac: Mac,
    reason: DropReason,
) -> Result<(), DropReason> {
    let meta = packet.meta;
    let v4 = address::is_v4(meta.tuple.dst);
    let (protocol, max_bytes) = if v4 { (ICMP, MAX_V4_BYTES) } else { (ICMPV6, MAX_V6_BYTES) };
    let before_quote = ip_header_bytes(meta.tuple.dst) + ICMP_HEADER_BYTES;
    let room = packet.capacity().saturating_sub(meta.l3).min(max_bytes);
    let quoted = packet.meta.l3_bytes.min(room.saturating_sub(before_quote));
    // A quote must at least tell its ports.
    if quoted < meta.l4 - meta.l3 + 8 {
        return Err(DropReason::NoFrame);
    }
    // Longer or shorter: the quote moves while both ends are there.
    if packet.len() < meta.l3 + before_quote + quoted {
        fit(packet, before_quote + quoted)?;
    }
    wire::shift(packet.frame_mut(), meta.l3, meta.l3 + before_quote, quoted);
    fit(packet, before_quote + quoted)?;
    turn_round(packet, our_mac);

    let frame = packet.frame_mut();
    let message_bytes = ICMP_HEADER_BYTES + quoted;
    let header = IpHeader::new(meta.tuple.dst, meta.tuple.src, protocol, message_bytes);
    let l4 = header.write(frame, meta.l3);
    let mtu = u32::try_from(meta.mtu).unwrap_or(u32::MAX);
    let (kind, last_word) = match (v4, reason) {
        // RFC 1191 §4: the MTU in the lower half. RFC 4443 §3.2: in the word.
        (true, DropReason::TooBig) => ([3, 4], mtu.min(0xffff)),
        (false, DropReason::TooBig) => ([2, 0], mtu),
        // Exceeded in transit.
        (true, _) => ([11, 0], 0),
        (false, _) => ([3, 0], 0),
    };
    wire::put(frame, l4, &kind);
    wire::put_u16(frame, l4 + 2, 0);
    wire::put_u32(frame, l4 + 4, last_word);
    let message = wire::slice(frame, l4, l4 + message_bytes);
    let sum = checksum::icmp(header.src, header.dst, message).checksum();
    wire::put_u16(frame, l4 + 2, sum);
    Ok(())
}
