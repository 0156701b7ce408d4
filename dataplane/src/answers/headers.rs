//! Headers of the packets we make ourselves.

use crate::address;
use crate::checksum::Sum;
use crate::drops::DropReason;
use crate::fib::Mac;
use crate::packet::Packet;
use crate::parse::{IPV4_BYTES, IPV6_BYTES};
use crate::wire;

/// What a host gives its packets (RFC 1700: 64).
pub(super) const HOP_LIMIT: u8 = 64;

/// Don't fragment, and so no need of an identification (RFC 6864 §4.1).
pub(super) const WHOLE: u32 = 0x4000;

/// What an IP header without options or extensions says.
#[derive(Debug, Clone, Copy)]
pub(super) struct IpHeader {
    pub(super) src: u128,
    pub(super) dst: u128,
    pub(super) protocol: u8,
    pub(super) hop_limit: u8,
    /// Type of service, or traffic class.
    pub(super) traffic_class: u8,
    /// IPv4's identification, flags and fragment offset.
    pub(super) id_and_flags: u32,
    /// Bytes that follow the header.
    pub(super) payload_bytes: usize,
}

impl IpHeader {
    /// From us, with defaults for the rest.
    pub(super) fn new(src: u128, dst: u128, protocol: u8, payload_bytes: usize) -> Self {
        Self {
            src,
            dst,
            protocol,
            hop_limit: HOP_LIMIT,
            traffic_class: 0,
            id_and_flags: WHOLE,
            payload_bytes,
        }
    }

    /// How long it is.
    pub(super) fn bytes(&self) -> usize {
        ip_header_bytes(self.dst)
    }

    /// Writes it at `l3`. Says where it ends.
    pub(super) fn write(&self, frame: &mut [u8], l3: usize) -> usize {
        let l4 = l3 + self.bytes();
        // No frame holds more than a 16-bit length can say.
        let narrow = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
        if address::is_v4(self.dst) {
            wire::put(frame, l3, &[0x45, self.traffic_class]);
            wire::put_u16(frame, l3 + 2, narrow(IPV4_BYTES + self.payload_bytes));
            wire::put_u32(frame, l3 + 4, self.id_and_flags);
            wire::put(frame, l3 + 8, &[self.hop_limit, self.protocol, 0, 0]);
            wire::put_u32(frame, l3 + 12, address::v4_bits(self.src));
            wire::put_u32(frame, l3 + 16, address::v4_bits(self.dst));
            let sum = Sum::of(wire::slice(frame, l3, l4)).checksum();
            wire::put_u16(frame, l3 + 10, sum);
        } else {
            wire::put_u32(frame, l3, 0x6000_0000 | u32::from(self.traffic_class) << 20);
            wire::put_u16(frame, l3 + 4, narrow(self.payload_bytes));
            wire::put(frame, l3 + 6, &[self.protocol, self.hop_limit]);
            wire::put_u128(frame, l3 + 8, self.src);
            wire::put_u128(frame, l3 + 24, self.dst);
        }
        l4
    }
}

/// The length of the family's plain header.
pub(super) fn ip_header_bytes(dst: u128) -> usize {
    if address::is_v4(dst) { IPV4_BYTES } else { IPV6_BYTES }
}

/// Turns a frame round: to where it came from, from us. Tags and ethertype
/// stay.
pub(super) fn turn_round(packet: &mut Packet<'_>, our_mac: Mac) {
    let frame = packet.frame_mut();
    let from: Mac = wire::array_at(frame, 6);
    wire::put(frame, 0, &from);
    wire::put(frame, 6, &our_mac);
}

/// Gives the frame room for exactly `bytes` from its network header on.
pub(super) fn fit(packet: &mut Packet<'_>, bytes: usize) -> Result<(), DropReason> {
    let bytes = packet.meta.l3 + bytes;
    if packet.resize(bytes) { Ok(()) } else { Err(DropReason::NoFrame) }
}
