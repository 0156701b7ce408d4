//! Whether an agent can serve traffic, as it says itself. Trouble that comes
//! and goes moves no VIP to and fro: whoever was in trouble has to be out of it
//! for a while. Pure: time is an argument.

use std::time::{Duration, Instant};

/// How long an agent has to be out of trouble before it is given VIPs again,
/// and counts.
pub(crate) const STEADY: Duration = Duration::from_secs(2);

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
    pub(crate) fn said(&mut self, trouble: &str, now: Instant) -> Option<Turn> {
        let is_well = trouble.is_empty();
        match self {
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
        assert_eq!(health.said("", now), None);
        assert!(health.is_well());
        assert_eq!(health.said("eth0 is down", now), Some(Turn::Fell));
        assert_eq!(health.trouble(), Some("eth0 is down"));
        // It comes and goes, faster than that: told once.
        for _ in 0..10 {
            now += STEADY - Duration::from_millis(250);
            assert_eq!(health.said("", now), None);
            now += Duration::from_millis(250);
            assert_eq!(health.said("eth1 is down", now), None);
            assert_eq!(health.trouble(), Some("eth1 is down"));
        }
        assert_eq!(health.said("", now), None);
        now += STEADY;
        assert_eq!(health.said("", now), Some(Turn::Recovered));
        assert!(health.is_well());
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
                let turn = health.said(if is_well { "" } else { "no" }, now);
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
