//! The keyed hash of tuples.
//!
//! Every packet pays for it, so it is no cryptographic one, but of a family
//! for which it is proven what a key does that the sender does not know: NH
//! (UMAC, Black et al. 1999, §4). Two tuples, however chosen, have the same
//! 128-bit sum under one key in 2^64. What is left of the sum is mixed by two
//! more secret words, so that neither the bucket nor the tag shows it.

use std::fmt;

use siphasher::sip::SipHasher13;

use crate::packet::Tuple;

/// The worker's secret: who does not know it cannot choose tuples that fall
/// into the same bucket more often than chance has it.
#[derive(Clone)]
pub(crate) struct HashKey {
    /// One for each word of a tuple.
    words: [u64; 6],
    /// For what becomes of their sum.
    mixing: [u64; 2],
    numbers: SipHasher13,
}

impl HashKey {
    /// As many words as it takes, out of two (SipHash, Aumasson and Bernstein
    /// 2012, as a pseudo-random function).
    pub(crate) fn new([k0, k1]: [u64; 2]) -> Self {
        let numbers = SipHasher13::new_with_keys(k0, k1);
        let word = |n: usize| numbers.hash(&(n as u64).to_le_bytes());
        Self {
            words: std::array::from_fn(word),
            mixing: std::array::from_fn(|n| word(6 + n)),
            numbers,
        }
    }

    /// Of a tuple. NH multiplies words in pairs, each with its own part of the
    /// key added; ports and protocol make a pair with nothing.
    #[inline(always)]
    pub(crate) fn hash(&self, tuple: &Tuple) -> u64 {
        let [k0, k1, k2, k3, k4, k5] = self.words;
        let rest = u64::from(tuple.src_port)
            | u64::from(tuple.dst_port) << 16
            | u64::from(tuple.protocol) << 32;
        let sum = product(upper(tuple.src).wrapping_add(k0), lower(tuple.src).wrapping_add(k1))
            .wrapping_add(product(
                upper(tuple.dst).wrapping_add(k2),
                lower(tuple.dst).wrapping_add(k3),
            ))
            .wrapping_add(product(rest.wrapping_add(k4), k5));
        let [m0, m1] = self.mixing;
        let mixed = product(lower(sum) ^ m0, upper(sum) ^ m1);
        lower(mixed) ^ upper(mixed)
    }

    /// Of a number, for what else should not be guessed.
    pub(crate) fn hash_number(&self, number: u32) -> u64 {
        self.numbers.hash(&number.to_be_bytes())
    }
}

#[inline(always)]
fn product(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

#[inline(always)]
fn upper(number: u128) -> u64 {
    (number >> 64) as u64
}

#[inline(always)]
fn lower(number: u128) -> u64 {
    number as u64
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address;
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

    /// What clients really look like: addresses and ports in a row, towards
    /// one VIP. Buckets and tags must get no more than their share of them,
    /// whatever the key.
    #[test]
    fn neighbours_are_spread_like_strangers() {
        const BUCKETS: usize = 1 << 12;
        const TUPLES: u32 = 1 << 17;
        for (base, low) in [("10.0.0.0", 0), ("2001:db8::", 0), ("2001:db8::", 64)] {
            for key in [[0, 0], [1, 2], [u64::MAX, 1 << 63]].map(HashKey::new) {
                let mut buckets = vec![0_u32; BUCKETS];
                let mut tags = vec![0_u32; BUCKETS];
                let mut hashes = HashSet::new();
                for n in 0..TUPLES {
                    let mut tuple = tuple(base, base);
                    tuple.dst += 1 << 20;
                    tuple.src += u128::from(n >> 9) << low;
                    tuple.src_port = 1_024 + (n & 511) as u16;
                    let hash = key.hash(&tuple);
                    assert!(hashes.insert(hash), "two of 2^17 are the same");
                    buckets[(hash >> 52) as usize] += 1;
                    tags[hash as usize % BUCKETS] += 1;
                }
                // Poisson with mean 32: more than 80, or fewer than 5, has a
                // probability of less than 10^-10 in all buckets together.
                for counts in [&buckets, &tags] {
                    let (least, most) =
                        (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                    assert!(*least >= 5 && *most <= 80, "{least} to {most} of 32");
                }
            }
        }
    }
}
