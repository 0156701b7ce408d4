//! How many answers may be made: a token bucket.

use crate::packet::Tick;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// Fills with `per_second` tokens a second, and holds as many.
#[derive(Debug)]
pub(super) struct Bucket {
    per_second: u32,
    /// In billionths of a token, so that nothing is lost to rounding: each
    /// nanosecond brings `per_second` of them.
    level: u64,
    filled: Tick,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, level: u64::from(per_second) * NS_PER_SECOND, filled: Tick(0) }
    }

    /// Takes a token if there is one.
    pub(super) fn take(&mut self, now: Tick) -> bool {
        let rate = u64::from(self.per_second);
        // More than a second cannot fill it further.
        let passed_ns = now.0.saturating_sub(self.filled.0).min(NS_PER_SECOND);
        self.filled = self.filled.max(now);
        self.level = (self.level + passed_ns * rate).min(rate * NS_PER_SECOND);
        match self.level.checked_sub(NS_PER_SECOND) {
            Some(left) => {
                self.level = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &mut Bucket, now: Tick) -> usize {
        (0..1_000).take_while(|_| bucket.take(now)).count()
    }

    #[test]
    fn a_second_fills_it_and_no_more() {
        let mut bucket = Bucket::new(10);
        assert_eq!(taken(&mut bucket, Tick(5)), 10);
        assert_eq!(taken(&mut bucket, Tick(5)), 0);
        assert_eq!(taken(&mut bucket, Tick(5 + NS_PER_SECOND / 10 * 3)), 3);
        assert_eq!(taken(&mut bucket, Tick(9 * NS_PER_SECOND)), 10);
    }

    #[test]
    fn small_steps_add_up() {
        let mut bucket = Bucket::new(3);
        taken(&mut bucket, Tick(0));
        // 3 tokens a second, asked for every millisecond for 10 seconds.
        let taken: usize =
            (1..=10_000).filter(|ms| bucket.take(Tick(ms * NS_PER_SECOND / 1_000))).count();
        assert_eq!(taken, 30);
    }

    #[test]
    fn zero_allows_nothing_and_the_most_does_not_overflow() {
        assert!(!Bucket::new(0).take(Tick(u64::MAX)));
        assert!(Bucket::new(u32::MAX).take(Tick(u64::MAX)));
    }

    #[test]
    fn a_clock_that_stands_still_gives_nothing() {
        let mut bucket = Bucket::new(1);
        assert!(bucket.take(Tick(7)));
        assert!(!bucket.take(Tick(7)));
        assert!(!bucket.take(Tick(3)));
    }
}
