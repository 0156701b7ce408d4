//! From when on entries may be over, so that the sweep need not look at those
//! that cannot be yet.
//!
//! One moment for each 64 entries: none of them is over before it. Most flows
//! are silent for hours or talk all the time, so that the entries of a
//! million are looked at a few times in all that time, instead of each second. It
//! takes a sixteenth of a byte a flow.
//!
//! A moment is never too late. It may be too early, as packets put off when
//! their flow is over without coming here; who then looks at the entries
//! [renews](Deadlines::renew) it.

use crate::timeouts::Millis;

/// How many entries have a moment together.
pub(crate) const BLOCK: u32 = 64;

/// The moments of all entries.
#[derive(Debug)]
pub(super) struct Deadlines(Box<[u32]>);

impl Deadlines {
    /// For so many entries, none of which is in use.
    pub(super) fn new(capacity: usize) -> Self {
        Self(vec![0; capacity.div_ceil(BLOCK as usize)].into())
    }

    /// What one for so many takes, in bytes.
    pub(super) const fn bytes(capacity: usize) -> usize {
        capacity.div_ceil(BLOCK as usize) * size_of::<u32>()
    }

    /// An entry is over at this moment, which may be earlier than before.
    /// `first` says that it is the first one ever of its block.
    #[inline]
    pub(super) fn add(&mut self, number: u32, over: Millis, first: bool) {
        if let Some(known) = self.0.get_mut((number / BLOCK) as usize)
            && (first || over.is_over(Millis(*known)))
        {
            *known = over.0;
        }
    }

    /// Whether an entry of this one's block may be over.
    #[inline(always)]
    pub(super) fn has_come(&self, number: u32, now: Millis) -> bool {
        let known = self.0.get((number / BLOCK) as usize);
        known.is_none_or(|known| Millis(*known).is_over(now))
    }

    /// The entries of this one's block that are in use are over at these
    /// moments.
    pub(super) fn renew(&mut self, number: u32, now: Millis, over: impl Iterator<Item = Millis>) {
        let earliest =
            over.fold(
                now.farthest(),
                |earliest, over| {
                    if over.is_over(earliest) { over } else { earliest }
                },
            );
        if let Some(known) = self.0.get_mut((number / BLOCK) as usize) {
            *known = earliest.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(u32::MAX - 50);

    fn at(millis: u32) -> Millis {
        Millis(NOW.0.wrapping_add(millis))
    }

    #[test]
    fn the_earliest_of_a_block_counts() {
        let mut deadlines = Deadlines::new(130);
        deadlines.add(64, at(500), true);
        deadlines.add(65, at(300), false);
        deadlines.add(127, at(400), false);
        let has_come = |deadlines: &Deadlines, millis| deadlines.has_come(100, at(millis));
        assert!(!has_come(&deadlines, 299) && has_come(&deadlines, 300));
        deadlines.renew(64, at(300), [at(500), at(400)].into_iter());
        assert!(!has_come(&deadlines, 399) && has_come(&deadlines, 400));
        // The last block is a short one.
        deadlines.add(129, at(10), true);
        assert!(!deadlines.has_come(128, at(9)) && deadlines.has_come(128, at(10)));
    }

    #[test]
    fn an_empty_block_is_looked_at_again_before_the_circle_closes() {
        let mut deadlines = Deadlines::new(64);
        deadlines.renew(0, NOW, std::iter::empty());
        assert!(!deadlines.has_come(0, at(1)));
        assert!(deadlines.has_come(0, NOW.farthest()));
        deadlines.add(3, at(70), false);
        assert!(!deadlines.has_come(0, at(69)) && deadlines.has_come(0, at(70)));
    }

    #[test]
    fn it_takes_a_sixteenth_of_a_byte_each() {
        for capacity in [0, 1, 64, 65, 10_000_000] {
            assert_eq!(Deadlines::bytes(capacity), Deadlines::new(capacity).0.len() * 4);
        }
        assert_eq!(Deadlines::bytes(1 << 20), (1 << 20) / 16);
    }
}
