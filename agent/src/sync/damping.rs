//! Flapping is damped: an agent that could not serve again and again of late says
//! so, and others are better until it has served for a while. It says that itself,
//! so that all replicas hear the same. Pure: time is an argument.

use std::time::{Duration, Instant};

/// How often it may fall without a word: replicas wait for two seconds anyway.
const PARDONED: u32 = 2;

/// How long it waits after the next fall; twice as long after each more.
const FIRST: Duration = Duration::from_secs(4);
const LONGEST: Duration = Duration::from_secs(64);

/// Who has served for so long has never fallen.
const CALM: Duration = Duration::from_secs(120);

/// How often an agent fell.
#[derive(Debug, Default)]
pub(super) struct Damping {
    falls: u32,
    /// Since when it serves, if it does.
    since: Option<Instant>,
}

impl Damping {
    /// It is so now. Gives until when it is not to be relied on, though it serves.
    pub(super) fn now(&mut self, serves: bool, now: Instant) -> Option<Instant> {
        let since = if serves { Some(*self.since.get_or_insert(now)) } else { self.since };
        if since.is_some_and(|since| now.saturating_duration_since(since) >= CALM) {
            self.falls = 0;
        }
        if !serves {
            self.falls += u32::from(self.since.take().is_some());
            return None;
        }
        let more = self.falls.checked_sub(PARDONED + 1)?;
        let wait = FIRST.saturating_mul(1 << more.min(16)).min(LONGEST);
        since.map(|since| since + wait).filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn each_fall_costs_twice_the_time() {
        let (mut damping, mut now) = (Damping::default(), Instant::now());
        assert_eq!(damping.now(false, now), None, "it has not begun yet");
        let mut waits = Vec::new();
        for _ in 0..9 {
            let until = damping.now(true, now).unwrap_or(now);
            waits.push((until - now).as_secs());
            assert_eq!(damping.now(true, until), None);
            now = until + S;
            damping.now(false, now);
            now += S;
        }
        assert_eq!(waits, [0, 0, 0, 4, 8, 16, 32, 64, 64]);
        // It comes to rest.
        damping.now(true, now);
        damping.now(true, now + CALM);
        damping.now(false, now + CALM);
        assert_eq!(damping.now(true, now + CALM + S), None);
    }

    proptest! {
        #[test]
        fn whoever_serves_long_enough_is_relied_on(
            turns in prop::collection::vec((any::<bool>(), 0_u64..200_000), 0..100),
        ) {
            let (mut damping, mut now) = (Damping::default(), Instant::now());
            for (serves, ms) in turns {
                let until = damping.now(serves, now);
                prop_assert!(until.is_none_or(|until| serves && until > now && until <= now + LONGEST));
                now += Duration::from_millis(ms);
            }
            damping.now(true, now);
            prop_assert_eq!(damping.now(true, now + LONGEST), None);
        }
    }
}
