//! The keyed hash of tuples.

use std::fmt;

use siphasher::sip::SipHasher13;

use crate::address;
use crate::packet::Tuple;
use crate::wire;

/// The worker's secret: who does not know it cannot choose tuples that fall
/// into the same bucket (SipHash, Aumasson and Bernstein 2012).
#[derive(Clone)]
pub(crate) struct HashKey(SipHasher13);

impl HashKey {
    pub(crate) fn new([k0, k1]: [u64; 2]) -> Self {
        Self(SipHasher13::new_with_keys(k0, k1))
    }

    /// IPv4 tuples are hashed without the mapped prefix, which is a third of
    /// the work. SipHash hashes the length along, so that no tuple of one
    /// family can stand for one of the other.
    #[inline]
    pub(crate) fn hash(&self, tuple: &Tuple) -> u64 {
        if address::is_v4(tuple.src) && address::is_v4(tuple.dst) {
            let mut bytes = [0; 13];
            wire::put_u32(&mut bytes, 0, address::v4_bits(tuple.src));
            wire::put_u32(&mut bytes, 4, address::v4_bits(tuple.dst));
            put_ports(&mut bytes, 8, tuple);
            self.0.hash(&bytes)
        } else {
            let mut bytes = [0; 37];
            wire::put_u128(&mut bytes, 0, tuple.src);
            wire::put_u128(&mut bytes, 16, tuple.dst);
            put_ports(&mut bytes, 32, tuple);
            self.0.hash(&bytes)
        }
    }

    /// Of a number, for what else should not be guessed.
    pub(crate) fn hash_number(&self, number: u32) -> u64 {
        self.0.hash(&number.to_be_bytes())
    }
}

#[inline(always)]
fn put_ports(bytes: &mut [u8], at: usize, tuple: &Tuple) {
    wire::put_u16(bytes, at, tuple.src_port);
    wire::put_u16(bytes, at + 2, tuple.dst_port);
    wire::put_u8(bytes, at + 4, tuple.protocol);
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn tuple(src: &str, dst: &str) -> Tuple {
        Tuple {
            src: address::from_ip(src.parse().unwrap()),
            dst: address::from_ip(dst.parse().unwrap()),
            src_port: 1,
            dst_port: 2,
            protocol: 6,
        }
    }

    #[test]
    fn every_field_counts() {
        let key = HashKey::new([1, 2]);
        for base in [tuple("10.0.0.1", "10.0.0.2"), tuple("2001:db8::1", "2001:db8::2")] {
            let variants = [
                base,
                base.reversed(),
                Tuple { src: base.src + 1, ..base },
                Tuple { dst: base.dst + 8, ..base },
                Tuple { src_port: 3, ..base },
                Tuple { dst_port: 3, ..base },
                Tuple { protocol: 17, ..base },
            ];
            let hashes: HashSet<_> = variants.iter().map(|tuple| key.hash(tuple)).collect();
            assert_eq!(hashes.len(), variants.len());
        }
    }

    #[test]
    fn another_key_is_another_hash() {
        let tuple = tuple("10.0.0.1", "10.0.0.2");
        assert_ne!(HashKey::new([1, 2]).hash(&tuple), HashKey::new([1, 3]).hash(&tuple));
        assert_eq!(format!("{:?}", HashKey::new([1, 2])), "HashKey(secret)");
    }
}
