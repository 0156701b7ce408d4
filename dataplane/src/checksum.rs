//! The Internet checksum: in full (RFC 1071) and by difference (RFC 1624).
//!
//! Sums are kept unfolded in 64 bits and folded once at the end: words are
//! added four at a time.

use crate::address;
use crate::packet::{Kind, Packet};
use crate::parse::ICMPV6;
use crate::wire;

/// One's-complement sum of 16-bit words, not folded yet.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    /// The sum over bytes; an odd last byte counts as the high half of a word.
    #[inline]
    pub(crate) fn of(bytes: &[u8]) -> Self {
        // Summing in the machine's byte order and swapping the folded result
        // gives the same as summing in network order (RFC 1071 §2 (B)).
        let mut sum = 0_u64;
        let mut chunks = bytes.chunks_exact(4);
        for chunk in &mut chunks {
            sum += u64::from(u32::from_ne_bytes(wire::array_at(chunk, 0)));
        }
        let rest = chunks.remainder();
        let mut last = [0_u8; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        sum += u64::from(u32::from_ne_bytes(last));
        // Swapping all eight bytes swaps those of each word; in which order
        // words are added up does not matter.
        Self(u64::from_be(sum))
    }

    /// The pseudo-header's sum (RFC 9293 §3.1, RFC 8200 §8.1). IPv4 addresses
    /// come as IPv4-mapped ones: see [`crate::address`].
    #[inline]
    pub(crate) fn of_pseudo_header(src: u128, dst: u128, protocol: u8, l4_bytes: usize) -> Self {
        Self::default()
            .plus_address(src)
            .plus_address(dst)
            .plus(u64::from(protocol))
            .plus(l4_bytes as u64)
    }

    /// Adds words that are already in host order. What is carried out of the
    /// top comes back in at the bottom.
    #[inline(always)]
    fn plus(self, words: u64) -> Self {
        let (sum, carried) = self.0.overflowing_add(words);
        Self(sum + u64::from(carried))
    }

    /// Adds an address: 4 bytes of an IPv4-mapped one, else all 16.
    #[inline(always)]
    fn plus_address(self, address: u128) -> Self {
        // The mapped prefix ::ffff: would add 0xffff, a zero in one's
        // complement; so both families can be summed alike.
        self.plus((address >> 64) as u64).plus(address as u64)
    }

    /// Both sums together.
    #[inline(always)]
    pub(crate) fn and(self, other: Self) -> Self {
        self.plus(other.0)
    }

    /// Folded to 16 bits, not complemented.
    #[inline(always)]
    pub(crate) fn folded(self) -> u16 {
        fold(self.0)
    }

    /// As a header field holds it.
    #[inline(always)]
    pub(crate) fn checksum(self) -> u16 {
        !self.folded()
    }
}

/// The difference that changed fields make to a checksum: eqn. 3 of RFC 1624,
/// `HC' = ~(~HC + ~m + m')`, with the sum over all changed `m`. A few numbers
/// of 33 bits, so that none is ever carried out of the top.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Delta(u64);

impl Delta {
    /// A 16-bit field changed.
    #[inline(always)]
    pub(crate) fn u16(self, old: u16, new: u16) -> Self {
        self.plus(u64::from(!old)).plus(u64::from(new))
    }

    /// An address changed, within its family.
    #[inline(always)]
    pub(crate) fn address(self, old: u128, new: u128) -> Self {
        let Sum(sum) = Sum::default().plus_address(!old).plus_address(new);
        self.plus(sum & 0xffff_ffff).plus(sum >> 32)
    }

    /// An IPv4 address changed.
    #[inline(always)]
    pub(crate) fn v4_address(self, old: u128, new: u128) -> Self {
        self.plus(u64::from(!address::v4_bits(old))).plus(u64::from(address::v4_bits(new)))
    }

    /// An IPv4 packet's TTL was one more: the upper byte of its word.
    #[inline(always)]
    pub(crate) fn hop(self) -> Self {
        self.plus(0xffff - 0x0100)
    }

    #[inline(always)]
    fn plus(self, words: u64) -> Self {
        Self(self.0.wrapping_add(words))
    }

    /// The checksum field after the change.
    #[inline(always)]
    pub(crate) fn applied_to(self, checksum: u16) -> u16 {
        !fold(self.plus(u64::from(!checksum)).0)
    }

    /// Likewise for UDP, where 0 means "none": none stays none, and a sum
    /// that comes out as 0 is sent as all ones (RFC 768).
    #[inline(always)]
    pub(crate) fn applied_to_udp(self, checksum: u16) -> u16 {
        match checksum {
            0 => 0,
            checksum => udp(self.applied_to(checksum)),
        }
    }
}

/// Whether the checksum of a parsed TCP or UDP packet is right, over all its
/// bytes; so it is asked only where a packet makes something new. One that is
/// partial, or that UDP over IPv4 leaves out (RFC 768), counts as right.
pub(crate) fn l4_is_right(packet: &Packet<'_>) -> bool {
    let meta = &packet.meta;
    if meta.partial_checksum {
        return true;
    }
    if meta.kind == Kind::Udp && wire::u16_at(packet.frame(), meta.l4 + 6) == 0 {
        return true;
    }
    let segment = wire::slice(packet.frame(), meta.l4, meta.l4_end);
    let tuple = &meta.tuple;
    Sum::of_pseudo_header(tuple.src, tuple.dst, tuple.protocol, segment.len())
        .and(Sum::of(segment))
        .folded()
        == 0xffff
}

/// The sum over an ICMP message, or an ICMPv6 message and its pseudo-header
/// (RFC 4443 §2.3), by the family of its addresses.
pub(crate) fn icmp(src: u128, dst: u128, message: &[u8]) -> Sum {
    let sum = Sum::of(message);
    if address::is_v4(dst) {
        sum
    } else {
        sum.and(Sum::of_pseudo_header(src, dst, ICMPV6, message.len()))
    }
}

/// Whether the checksum of a parsed ICMP or ICMPv6 message is right.
pub(crate) fn icmp_is_right(packet: &Packet<'_>) -> bool {
    let meta = &packet.meta;
    let message = wire::slice(packet.frame(), meta.l4, meta.l4_end);
    icmp(meta.tuple.src, meta.tuple.dst, message).folded() == 0xffff
}

/// A computed UDP checksum as the field holds it (RFC 768).
#[inline(always)]
pub(crate) fn udp(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

#[inline(always)]
fn fold(sum: u64) -> u16 {
    // Both halves plus the carry between them stand in the upper half.
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::from_v4;
    use proptest::prelude::*;

    /// Straight from RFC 1071 §4.1, slow and plain.
    fn plain_sum(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// 0 and 0xffff are both zero in one's complement.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a == 0 || a == 0xffff) && (b == 0 || b == 0xffff)
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::of(&bytes).folded(), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624() {
        // §4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000.
        assert_eq!(Delta::default().u16(0x5555, 0x3285).applied_to(0xdd2f), 0x0000);
    }

    #[test]
    fn udp_keeps_none_and_never_makes_it() {
        assert_eq!(Delta::default().u16(0x5555, 0x3285).applied_to_udp(0), 0);
        assert_eq!(Delta::default().u16(0x5555, 0x3285).applied_to_udp(0xdd2f), 0xffff);
    }

    #[test]
    fn mapped_addresses_sum_like_plain_ones() {
        let (src, dst) = (from_v4([10, 0, 0, 1]), from_v4([192, 168, 7, 9]));
        let plain = plain_sum(&[10, 0, 0, 1, 192, 168, 7, 9, 0, 6, 0, 20]);
        assert!(same(Sum::of_pseudo_header(src, dst, 6, 20).folded(), plain));
    }

    proptest! {
        #[test]
        fn the_sum_is_the_plain_sum(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            prop_assert!(same(Sum::of(&bytes).folded(), plain_sum(&bytes)));
        }

        #[test]
        fn a_difference_gives_what_a_full_sum_gives(
            mut bytes in proptest::collection::vec(any::<u8>(), 40..200),
            new in any::<[u8; 18]>(),
        ) {
            // An address at 0 and a 16-bit field at 16 change.
            let before = Sum::of(&bytes).checksum();
            let delta = Delta::default()
                .address(wire::u128_at(&bytes, 0), wire::u128_at(&new, 0))
                .u16(wire::u16_at(&bytes, 16), wire::u16_at(&new, 16));
            bytes[..18].copy_from_slice(&new);
            prop_assert!(same(delta.applied_to(before), Sum::of(&bytes).checksum()));
        }
    }
}
