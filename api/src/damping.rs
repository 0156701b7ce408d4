//! Flapping is damped: an agent that fell again and again of late is not relied on
//! until it has served for a while, and others are better. Agents count how often they
//! could not serve, and replicas of the controller how often an agent was silent. Pure:
//! time is an argument.

use std::time::{Duration, Instant};

/// How long is waited after the first fall that is not pardoned; twice as long after
/// each more.
const FIRST: Duration = Duration::from_secs(4);
const LONGEST: Duration = Duration::from_secs(64);

/// Who has served for so long has never fallen.
const CALM: Duration = Duration::from_secs(120);

/// How often an agent fell.
#[derive(Debug)]
pub struct Damping {
    /// How often it may without a word.
    pardoned: u32,
    falls: u32,
    /// Since when it serves, if it does.
    since: Option<Instant>,
}

impl Damping {
    /// It has not fallen yet, and may do so this often.
    pub fn pardoning(pardoned: u32) -> Self {
        Self { pardoned, falls: 0, since: None }
    }

    /// It is so now. Gives until when it is not to be relied on, though it serves.
    pub fn now(&mut self, serves: bool, now: Instant) -> Option<Instant> {
        let since = if serves { Some(*self.since.get_or_insert(now)) } else { self.since };
        if since.is_some_and(|since| now.saturating_duration_since(since) >= CALM) {
            self.falls = 0;
        }
        if !serves {
            self.falls += u32::from(self.since.take().is_some());
            return None;
        }
        let more = self.falls.checked_sub(self.pardoned + 1)?;
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
        let (mut damping, mut now) = (Damping::pardoning(2), Instant::now());
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
            pardoned in 0_u32..4,
            turns in prop::collection::vec((any::<bool>(), 0_u64..200_000), 0..100),
        ) {
            let (mut damping, mut now) = (Damping::pardoning(pardoned), Instant::now());
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
