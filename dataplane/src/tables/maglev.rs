//! Maglev hashing (Eisenbud et al., NSDI 2016, §3.4), with weights.
//!
//! Each candidate walks the table in an order of its own and takes turns with
//! the others in claiming free slots. A candidate that leaves frees its slots
//! for the others; few of theirs move.

use std::hash::Hasher;

use blixt_model::HashSeed;
use siphasher::sip128::{Hasher128, SipHasher13};

/// The size of a Maglev table: a prime, so that every stride visits all slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaglevSize(u32);

/// Why a number is no table size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no Maglev table size: it must be a prime from 251 to 16777213")]
pub struct MaglevSizeError(pub u32);

impl MaglevSize {
    /// The paper's small table. Shares stay within 1 % of each other up to
    /// 655 candidates (size > 100 x candidates, §3.4).
    pub const DEFAULT: Self = Self(65_537);

    /// Checks that the number is a prime of a sensible size.
    pub fn new(slots: u32) -> Result<Self, MaglevSizeError> {
        let is_prime = || (2..).take_while(|d| d * d <= slots).all(|d| !slots.is_multiple_of(d));
        if (251..=16_777_213).contains(&slots) && is_prime() {
            Ok(Self(slots))
        } else {
            Err(MaglevSizeError(slots))
        }
    }

    /// The number of slots.
    pub fn slots(self) -> u32 {
        self.0
    }
}

impl Default for MaglevSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Who wants slots: an order of preference, and a weight above 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    offset: u32,
    stride: u32,
    weight: u32,
}

impl Candidate {
    /// The order of preference follows from `identity` alone, so that all
    /// nodes find the same.
    pub(crate) fn new(seed: HashSeed, identity: &[u8], weight: u32, size: MaglevSize) -> Self {
        let mut hasher = SipHasher13::new_with_keys(seed.0, MAGLEV_KEY);
        hasher.write(identity);
        let hash = hasher.finish128();
        let slots = u64::from(size.0);
        Self {
            offset: (hash.h1 % slots) as u32,
            stride: (hash.h2 % (slots - 1) + 1) as u32,
            weight: weight.max(1),
        }
    }
}

/// Sets these hashes apart from those of packets; any constant does.
const MAGLEV_KEY: u64 = u64::from_be_bytes(*b"maglev__");

/// The table: for each slot the candidate, by its place in `candidates`.
///
/// Each gets the slots its weight asks for, to the nearest whole one, and at
/// least one. Empty if there are no candidates.
pub(crate) fn table<T: TryFrom<usize> + Copy>(
    size: MaglevSize,
    candidates: &[Candidate],
) -> Box<[T]> {
    let slots = size.0 as usize;
    let mut table: Vec<Option<T>> = vec![None; slots];
    let mut walks: Vec<Walk> = quotas(slots, candidates)
        .into_iter()
        .zip(candidates)
        .filter_map(|(quota, candidate)| Walk::new(*candidate, quota))
        .collect();
    let mut open = slots;
    while open > 0 && !walks.is_empty() {
        // Turns are dealt in proportion to the weights: the heaviest one that
        // still wants slots takes one a round.
        let heaviest = walks.iter().map(|walk| u64::from(walk.candidate.weight)).max().unwrap_or(1);
        let mut filled = false;
        for walk in &mut walks {
            walk.credit += u64::from(walk.candidate.weight);
            while walk.credit >= heaviest && walk.quota > 0 && open > 0 {
                walk.credit -= heaviest;
                walk.quota -= 1;
                filled |= walk.quota == 0;
                open -= 1;
                walk.claim(&mut table, slots);
            }
        }
        if filled {
            walks.retain(|walk| walk.quota > 0);
        }
    }
    // All slots are claimed, unless there was nobody to claim them.
    table.into_iter().flatten().collect()
}

struct Walk {
    candidate: Candidate,
    index: usize,
    next: usize,
    quota: usize,
    credit: u64,
}

impl Walk {
    fn new(candidate: Candidate, (index, quota): (usize, usize)) -> Option<Self> {
        let next = candidate.offset as usize;
        (quota > 0).then_some(Self { candidate, index, next, quota, credit: 0 })
    }

    /// Takes the next free slot in its order. There is one: quotas add up to
    /// the number of slots.
    fn claim<T: TryFrom<usize> + Copy>(&mut self, table: &mut [Option<T>], slots: usize) {
        for _ in 0..slots {
            let place = self.next;
            self.next = (self.next + self.candidate.stride as usize) % slots;
            match table.get_mut(place) {
                Some(free @ None) => {
                    *free = T::try_from(self.index).ok();
                    return;
                }
                _ => continue,
            }
        }
    }
}

/// How many slots each gets: in proportion to the weights, by largest
/// remainder, none less than 1 (while there are slots).
fn quotas(slots: usize, candidates: &[Candidate]) -> Vec<(usize, usize)> {
    let total: u128 = candidates.iter().map(|c| u128::from(c.weight)).sum();
    let mut shares: Vec<(usize, usize, u128)> = candidates
        .iter()
        .enumerate()
        .map(|(index, candidate)| {
            let exact = slots as u128 * u128::from(candidate.weight);
            let quota = (exact / total.max(1)) as usize;
            (index, quota.max(1), if quota == 0 { 0 } else { exact % total.max(1) })
        })
        .collect();
    let given: usize = shares.iter().map(|share| share.1).sum();
    if given <= slots {
        // The left-over slots go to the largest remainders.
        shares.sort_by_key(|&(index, _, remainder)| (std::cmp::Reverse(remainder), index));
        for share in shares.iter_mut().take(slots - given) {
            share.1 += 1;
        }
    } else {
        // The least ones were given slots they do not quite deserve; the
        // largest ones give them back.
        let mut excess = given - slots;
        while excess > 0 {
            shares.sort_by_key(|&(index, quota, _)| (std::cmp::Reverse(quota), index));
            let Some(largest) = shares.first_mut() else { break };
            let back = excess.min((largest.1 / 2).max(1));
            largest.1 = largest.1.saturating_sub(back);
            excess -= back;
        }
    }
    shares.sort_by_key(|&(index, ..)| index);
    shares.into_iter().map(|(index, quota, _)| (index, quota)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEED: HashSeed = HashSeed(42);

    fn equal(names: impl IntoIterator<Item = u32>, size: MaglevSize) -> Vec<Candidate> {
        names.into_iter().map(|n| Candidate::new(SEED, &n.to_be_bytes(), 1, size)).collect()
    }

    fn shares(table: &[u16], candidates: usize) -> Vec<usize> {
        let mut shares = vec![0; candidates];
        for &index in table {
            shares[index as usize] += 1;
        }
        shares
    }

    #[test]
    fn sizes_are_primes() {
        assert_eq!(MaglevSize::new(65_537), Ok(MaglevSize::DEFAULT));
        for bad in [0, 1, 2, 250, 65_536, 65_535, u32::MAX] {
            assert_eq!(MaglevSize::new(bad), Err(MaglevSizeError(bad)));
        }
    }

    #[test]
    fn nobody_gets_an_empty_table() {
        assert!(table::<u16>(MaglevSize::DEFAULT, &[]).is_empty());
    }

    #[test]
    fn equal_candidates_get_equal_shares() {
        for count in [1, 2, 3, 10, 655, 10_000] {
            let candidates = equal(0..count, MaglevSize::DEFAULT);
            let shares = shares(&table(MaglevSize::DEFAULT, &candidates), count as usize);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= 1, "{count}: {least}..{most}");
            assert_eq!(shares.iter().sum::<usize>(), 65_537);
        }
    }

    #[test]
    fn weights_are_honoured_to_a_slot() {
        let size = MaglevSize::DEFAULT;
        let candidates = [(1, 70), (2, 30)].map(|(name, weight): (u32, u32)| {
            Candidate::new(SEED, &name.to_be_bytes(), weight, size)
        });
        let shares = shares(&table(size, &candidates), 2);
        assert_eq!(shares, [45_876, 19_661]);
    }

    #[test]
    fn the_smallest_weight_has_a_slot() {
        let size = MaglevSize::DEFAULT;
        let mut candidates = equal(0..15, size);
        candidates.push(Candidate::new(SEED, b"large", 1_000_000, size));
        let shares = shares(&table(size, &candidates), 16);
        assert!(shares[..15].iter().all(|&share| share == 1), "{shares:?}");
        assert_eq!(shares[15], 65_537 - 15);
    }

    #[test]
    fn more_candidates_than_slots_still_make_a_table() {
        let size = MaglevSize::new(251).unwrap();
        let made = table::<u16>(size, &equal(0..1_000, size));
        assert_eq!(made.len(), 251);
    }

    /// Taking one of ten away moves less than 2 % of the others' slots.
    #[test]
    fn taking_one_of_ten_away_moves_little() {
        let size = MaglevSize::DEFAULT;
        let before = table::<u16>(size, &equal(0..10, size));
        let mut worst = 0.0_f64;
        for gone in 0..10_u32 {
            let after = table::<u16>(size, &equal((0..10).filter(|&n| n != gone), size));
            let renamed = |index: u16| if u32::from(index) < gone { index } else { index + 1 };
            let survivors = before.iter().filter(|&&index| u32::from(index) != gone).count();
            let moved = before
                .iter()
                .zip(&after)
                .filter(|&(&b, &a)| u32::from(b) != gone && b != renamed(a))
                .count();
            worst = worst.max(moved as f64 / survivors as f64);
        }
        println!(
            "taking one of ten away moves at most {:.2} % of the others' slots",
            worst * 100.0
        );
        assert!(worst < 0.02, "{worst}");
    }

    #[test]
    fn the_order_of_candidates_changes_who_is_called_what_and_little_else() {
        // Turns go round in the given order, so callers sort by identity.
        let size = MaglevSize::new(1_021).unwrap();
        let forward = table::<u16>(size, &equal(0..5, size));
        let again = table::<u16>(size, &equal(0..5, size));
        assert_eq!(forward, again);
    }

    proptest! {
        #[test]
        fn quotas_fill_the_table(weights in proptest::collection::vec(1_u32..=1_000_000, 1..300)) {
            let size = MaglevSize::new(1_021).unwrap();
            let candidates: Vec<_> = weights
                .iter()
                .enumerate()
                .map(|(n, &weight)| Candidate::new(SEED, &n.to_be_bytes(), weight, size))
                .collect();
            let made = table::<u16>(size, &candidates);
            prop_assert_eq!(made.len(), 1_021);
            let shares = shares(&made, weights.len());
            let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
            for (share, weight) in shares.iter().zip(&weights) {
                prop_assert!(*share >= 1);
                let exact = 1_021.0 * f64::from(*weight) / total as f64;
                // The least ones are lifted to 1 at the others' cost.
                prop_assert!(*share as f64 <= exact + 1.0, "{share} of {exact}");
            }
        }
    }
}
