//! Pauses between attempts: they grow, and differ from agent to agent, so that
//! many who fail together do not come back together.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The pauses of one thing that is tried again and again.
#[derive(Debug)]
pub(super) struct Pauses {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Pauses {
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The one after another failure; twice the last, as far as that goes.
    pub(super) fn grow(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        jittered(pause)
    }

    /// It has worked.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Something between half and all of it.
pub(super) fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(());
    pause / 2 + pause.mul_f64((random % 1_000) as f64 / 2_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_differ_and_are_bounded() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut pauses = Pauses::new(first, longest);
        assert!(pauses.grow() <= first);
        let (second, third) = (pauses.grow(), pauses.grow());
        assert!((first..=2 * first).contains(&second), "{second:?}");
        assert!((2 * first..=4 * first).contains(&third), "{third:?}");
        let long: Vec<_> = (0..100).map(|_| pauses.grow()).skip(5).collect();
        assert!(long.iter().all(|pause| (longest / 2..=longest).contains(pause)));
        assert!(long.iter().any(|pause| *pause != long[0]));
        pauses.reset();
        assert!(pauses.grow() <= first);
    }
}
