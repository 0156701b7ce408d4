//! Whether an agent can serve traffic, as it says itself. Trouble that comes
//! and goes moves no VIP to and fro: whoever was in trouble has to be out of it
//! for a while. Pure: time is an argument.

use std::time::{Duration, Instant};

/// How long an agent has to be out of trouble before it is given VIPs again,
/// and counts.
pub(crate) const STEADY: Duration = Duration::from_secs(2);

/// What is said of an agent that can serve, and is not relied on.
pub(crate) const UNSTEADY: &str = "it was silent or in trouble again and again of late";

/// How an agent is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Health {
    /// It has not said yet.
    #[default]
    Unknown,
    /// It can serve.
    Well,
    /// It can't, or could not a moment ago.
    Ill {
        /// Why.
        why: String,
        /// Since when it says that it can again.
        over: Option<Instant>,
    },
}

/// What is news of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It can't serve any more.
    Fell,
    /// It can again.
    Recovered,
}

impl Health {
    /// The agent says how it is: an empty reason says well. Agents say it all
    /// the time, so that nobody has to look whether a while is over.
    pub(crate) fn said(&mut self, trouble: &str, unsteady: bool, now: Instant) -> Option<Turn> {
        let is_well = trouble.is_empty();
        match self {
            // It can serve, but its while has not begun yet.
            Self::Ill { over, .. } if is_well && unsteady => *over = Some(now),
            Self::Unknown | Self::Well if is_well && unsteady => {
                *self = Self::Ill { why: UNSTEADY.to_owned(), over: Some(now) };
            }
            Self::Ill { over: Some(since), .. }
                if is_well && now.saturating_duration_since(*since) >= STEADY =>
            {
                *self = Self::Well;
                return Some(Turn::Recovered);
            }
            Self::Ill { over, .. } if is_well => {
                over.get_or_insert(now);
            }
            Self::Ill { why, over } => {
                *over = None;
                if why != trouble {
                    trouble.clone_into(why);
                }
            }
            Self::Unknown | Self::Well if is_well => *self = Self::Well,
            Self::Unknown | Self::Well => {
                *self = Self::Ill { why: trouble.to_owned(), over: None };
                return Some(Turn::Fell);
            }
        }
        None
    }

    /// Whether it may be given VIPs.
    pub(crate) fn is_well(&self) -> bool {
        *self == Self::Well
    }

    /// Whether it says that it can serve, if only since a moment ago.
    pub(crate) fn can_serve(&self) -> bool {
        matches!(self, Self::Well | Self::Ill { over: Some(_), .. })
    }

    /// Why not, if it said so.
    pub(crate) fn trouble(&self) -> Option<&str> {
        match self {
            Self::Ill { why, .. } => Some(why),
            Self::Unknown | Self::Well => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn trouble_is_over_when_it_has_been_over_for_a_while() {
        let (mut health, mut now) = (Health::default(), Instant::now());
        assert!(!health.is_well() && health.trouble().is_none(), "it has said nothing");
        assert_eq!(health.said("", false, now), None);
        assert!(health.is_well());
        assert_eq!(health.said("eth0 is down", false, now), Some(Turn::Fell));
        assert_eq!(health.trouble(), Some("eth0 is down"));
        // It comes and goes, faster than that: told once.
        for _ in 0..10 {
            now += STEADY - Duration::from_millis(250);
            assert_eq!(health.said("", false, now), None);
            now += Duration::from_millis(250);
            assert_eq!(health.said("eth1 is down", false, now), None);
            assert_eq!(health.trouble(), Some("eth1 is down"));
        }
        assert_eq!(health.said("", false, now), None);
        now += STEADY;
        assert_eq!(health.said("", false, now), Some(Turn::Recovered));
        assert!(health.is_well());
    }

    #[test]
    fn one_that_is_unsteady_serves_only_where_nobody_else_can() {
        let now = Instant::now();
        let mut new = Health::default();
        new.said("", true, now);
        let mut ill = Health::default();
        ill.said("eth0 is down", false, now);
        ill.said("", true, now);
        for health in [&mut new, &mut ill] {
            // For as long as it says so, however long, and a while more.
            health.said("", true, now + 10 * STEADY);
            assert!(!health.is_well() && health.can_serve() && health.trouble().is_some());
            assert_eq!(health.said("", false, now + 10 * STEADY + STEADY / 2), None);
            assert!(!health.is_well() && health.can_serve());
            assert_eq!(health.said("", false, now + 11 * STEADY), Some(Turn::Recovered));
            assert!(health.is_well() && health.trouble().is_none());
        }
    }

    proptest! {
        #[test]
        fn whoever_was_in_trouble_within_a_while_is_not_well(
            beats in prop::collection::vec((0_u64..1_500, any::<bool>()), 1..60),
        ) {
            let (mut health, mut now) = (Health::default(), Instant::now());
            let mut ill_at = None;
            for (ms, is_well) in beats {
                now += Duration::from_millis(ms);
                let was_well = health.is_well();
                let turn = health.said(if is_well { "" } else { "no" }, false, now);
                if !is_well {
                    ill_at = Some(now);
                }
                prop_assert!(!health.is_well() || ill_at.is_none_or(|at| now >= at + STEADY));
                prop_assert_eq!(turn == Some(Turn::Recovered), !was_well && health.is_well() && ill_at.is_some());
                prop_assert_eq!(health.trouble().is_some(), !health.is_well());
            }
        }
    }
}
