//! IP addresses as the data plane keeps them: one number of 128 bits.
//!
//! An IPv4 address is its IPv4-mapped IPv6 address, `::ffff:a.b.c.d`
//! (RFC 4291 §2.5.5.2): one key type for both families, and one checksum rule
//! (see [`crate::checksum`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `::ffff:0:0`.
const V4_PREFIX: u128 = 0xffff_0000_0000;

/// An address as a number.
pub fn from_ip(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => from_v4(v4.octets()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// And back.
pub fn to_ip(address: u128) -> IpAddr {
    if is_v4(address) {
        IpAddr::V4(Ipv4Addr::from_bits(v4_bits(address)))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(address))
    }
}

/// Four bytes off the wire.
#[inline(always)]
pub(crate) fn from_v4(octets: [u8; 4]) -> u128 {
    V4_PREFIX | u32::from_be_bytes(octets) as u128
}

/// Whether it is an IPv4 address.
#[inline(always)]
pub(crate) fn is_v4(address: u128) -> bool {
    address >> 32 == V4_PREFIX >> 32
}

/// The 32 bits of an IPv4 address.
#[inline(always)]
pub(crate) fn v4_bits(address: u128) -> u32 {
    address as u32
}

/// Both halves in one, for hashes that need no key.
#[inline(always)]
pub(crate) fn folded(address: u128) -> u64 {
    (address as u64) ^ ((address >> 64) as u64).rotate_left(32)
}

/// Whether a packet may come from it: RFC 1812 §5.3.7 and RFC 4291 §2.7
/// forbid unspecified, loopback, multicast and broadcast sources.
#[inline]
pub(crate) fn is_valid_source(address: u128) -> bool {
    if is_v4(address) {
        let bits = v4_bits(address);
        let first = bits >> 24;
        // 0/8, 127/8, and everything from 224.0.0.0 up (multicast, class E,
        // broadcast).
        first != 0 && first != 127 && first < 224
    } else {
        // Not ::, ::1, ff00::/8.
        address > 1 && address >> 120 != 0xff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_go_there_and_back() {
        for text in ["10.1.2.3", "255.255.255.255", "0.0.0.0", "2001:db8::1", "::1", "fe80::ffff:1"]
        {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(to_ip(from_ip(address)), address);
        }
    }

    #[test]
    fn sources_that_no_host_has() {
        let valid = |text: &str| is_valid_source(from_ip(text.parse().unwrap()));
        for good in ["10.0.0.1", "223.255.255.255", "2001:db8::1", "fe80::1", "::2"] {
            assert!(valid(good), "{good}");
        }
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
        ] {
            assert!(!valid(bad), "{bad}");
        }
    }
}
