//! Which entries hold half-open flows, so that one of them can be found at
//! once when a new flow needs its place.
//!
//! A bit for each entry; above each 64 of these a bit that says whether one of
//! them is set, and so on up to a single word. Finding the next one reads a
//! word of each level up and down again: ten for 16 million entries, however
//! many or few of them are half-open. It takes an eighth of a byte a flow, and
//! never allocates.
//!
//! Entries are taken in turn, as by the hand of a clock. One that was given
//! away lies just behind the hand and is used for the new flow, so that under
//! a flood each half-open flow is left alone for a whole turn: whoever was
//! there first goes first, nearly.

/// The bits of a word.
const WIDTH: usize = u64::BITS as usize;

/// A set of numbers, with a hand that goes round.
#[derive(Debug)]
pub(super) struct HalfOpen {
    /// From the single bits up to one word.
    levels: Vec<Box<[u64]>>,
    hand: u32,
    count: usize,
}

impl HalfOpen {
    /// An empty one for numbers below `capacity`.
    pub(super) fn new(capacity: usize) -> Self {
        let mut levels = Vec::new();
        let mut words = capacity.div_ceil(WIDTH).max(1);
        loop {
            levels.push(vec![0; words].into());
            if words == 1 {
                break;
            }
            words = words.div_ceil(WIDTH);
        }
        Self { levels, hand: 0, count: 0 }
    }

    /// What one for so many numbers takes, in bytes.
    pub(super) const fn bytes(capacity: usize) -> usize {
        let mut words = capacity.div_ceil(WIDTH);
        let mut sum = words;
        while words > 1 {
            words = words.div_ceil(WIDTH);
            sum += words;
        }
        sum * size_of::<u64>()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn add(&mut self, number: u32) {
        let mut at = number as usize;
        for (height, level) in self.levels.iter_mut().enumerate() {
            let Some(word) = level.get_mut(at / WIDTH) else { return };
            let (before, bit) = (*word, 1 << (at % WIDTH));
            *word |= bit;
            if height == 0 && before & bit == 0 {
                self.count += 1;
            }
            if before != 0 {
                return;
            }
            at /= WIDTH;
        }
    }

    /// Nothing happens if it is not there.
    pub(super) fn remove(&mut self, number: u32) {
        let mut at = number as usize;
        for (height, level) in self.levels.iter_mut().enumerate() {
            let Some(word) = level.get_mut(at / WIDTH) else { return };
            let bit = 1 << (at % WIDTH);
            if height == 0 {
                if *word & bit == 0 {
                    return;
                }
                self.count -= 1;
            }
            *word &= !bit;
            if *word != 0 {
                return;
            }
            at /= WIDTH;
        }
    }

    /// The one whose turn it is; it stays in the set.
    pub(super) fn next(&mut self) -> Option<u32> {
        let next = self.first_from(self.hand).or_else(|| self.first_from(0))?;
        self.hand = next + 1;
        Some(next)
    }

    /// Those whose turn it is next, in their order, each once.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = u32> {
        let mut hand = self.hand;
        (0..self.count).map_while(move |_| {
            let next = self.first_from(hand).or_else(|| self.first_from(0))?;
            hand = next + 1;
            Some(next)
        })
    }

    /// One of those was taken out of turn: the hand goes on behind it.
    pub(super) fn taken(&mut self, number: u32) {
        self.hand = number + 1;
    }

    fn first_from(&self, number: u32) -> Option<u32> {
        let mut at = number as usize;
        for (height, level) in self.levels.iter().enumerate() {
            let (word, bit) = (at / WIDTH, at % WIDTH);
            let found = level.get(word)? >> bit << bit;
            if found != 0 {
                return self.lowest_below(height, place(word, found));
            }
            at = word + 1;
        }
        None
    }

    /// The lowest number below the bit at `at` of the level at `height`.
    fn lowest_below(&self, height: usize, mut at: usize) -> Option<u32> {
        for level in self.levels.get(..height)?.iter().rev() {
            at = place(at, *level.get(at)?);
        }
        u32::try_from(at).ok()
    }
}

/// The place of the lowest bit of a word.
fn place(word: usize, bits: u64) -> usize {
    word * WIDTH + bits.trailing_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_full_one_goes_round_and_an_empty_one_has_nothing() {
        for capacity in [1, 63, 64, 65, 4_096, 5_000, 300_000] {
            let mut set = HalfOpen::new(capacity);
            assert_eq!(set.next(), None);
            for number in 0..capacity as u32 {
                set.add(number);
            }
            let round: Vec<_> = (0..capacity).map(|_| set.next().unwrap()).collect();
            assert!(round.into_iter().eq(0..capacity as u32));
            assert_eq!(set.next(), Some(0));
            for number in 0..capacity as u32 {
                set.remove(number);
            }
            assert!(set.is_empty() && set.next().is_none());
            assert!(set.levels.iter().flatten().all(|word| *word == 0));
        }
    }

    #[test]
    fn whose_turn_it_is_can_be_looked_at() {
        let mut set = HalfOpen::new(200);
        for number in [3, 70, 150, 199] {
            set.add(number);
        }
        let all = |set: &HalfOpen| set.in_turn().collect::<Vec<_>>();
        assert_eq!(all(&set), [3, 70, 150, 199]);
        assert_eq!(set.next(), Some(3));
        assert_eq!(all(&set), [70, 150, 199, 3]);
        set.taken(150);
        assert_eq!((all(&set), set.next()), (vec![199, 3, 70, 150], Some(199)));
        assert_eq!(all(&HalfOpen::new(200)), [0; 0]);
    }

    #[test]
    fn what_is_out_of_range_is_not_there() {
        let mut set = HalfOpen::new(10);
        set.add(1_000);
        set.remove(1_000);
        assert!(set.is_empty());
        let mut none = HalfOpen::new(0);
        assert_eq!((none.next(), HalfOpen::bytes(0)), (None, 0));
    }

    #[test]
    fn it_takes_an_eighth_of_a_byte_each() {
        for capacity in [64, 10_000, 10_000_000] {
            let words: usize = HalfOpen::new(capacity).levels.iter().map(|level| level.len()).sum();
            assert_eq!(HalfOpen::bytes(capacity), words * 8);
        }
        assert!(HalfOpen::bytes(10_000_000) < 10_000_000 / 7);
    }

    proptest! {
        /// After any sequence it knows what a plain set knows, and gives the
        /// next one as that does.
        #[test]
        fn equals_a_set(steps in proptest::collection::vec((0..3_u8, 0..9_000_u32), 1..300)) {
            let mut set = HalfOpen::new(9_000);
            let mut model = BTreeSet::new();
            let mut hand = 0;
            for (step, number) in steps {
                match step {
                    0 => {
                        set.add(number);
                        model.insert(number);
                    }
                    1 => {
                        // Mostly one that is there.
                        let number = model.range(number..).next().copied().unwrap_or(number);
                        set.remove(number);
                        model.remove(&number);
                    }
                    _ => {
                        let expected = model.range(hand..).chain(&model).next().copied();
                        prop_assert_eq!(set.next(), expected);
                        hand = expected.map_or(hand, |next| next + 1);
                    }
                }
                prop_assert_eq!(set.is_empty(), model.is_empty());
            }
        }
    }
}
