//! What anybody can cause as often as they like is logged seldom.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often it may be logged as a warning.
const SELDOM: Duration = Duration::from_secs(1);

/// When it was last.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Whether it may be logged as a warning now.
    pub(crate) fn turn(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|at| now.saturating_duration_since(at) >= SELDOM);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_in_a_while_it_is_its_turn() {
        let (seldom, now) = (Seldom::default(), Instant::now());
        let turns = [0, 1, 999, 1_000, 1_001, 1_999, 2_000];
        let turns = turns.map(|ms| seldom.turn(now + Duration::from_millis(ms)));
        assert_eq!(turns, [true, false, false, true, false, false, true]);
    }
}
