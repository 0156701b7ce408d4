//! When it is said that no controller is in reach: once, again when it is about
//! other replicas, and now and then as long as it lasts. Why one is not in reach
//! may be another with every attempt.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// How often it is said of the same replicas.
const AGAIN: Duration = Duration::from_secs(60);

/// What was said last, and when; nothing while one is in reach.
#[derive(Debug, Default)]
pub(super) struct Outage(Option<(Vec<String>, Instant)>);

impl Outage {
    /// Whether these troubles, by replica, are to be said.
    pub(super) fn is_news(&mut self, troubles: &BTreeMap<String, String>, now: Instant) -> bool {
        let replicas = || troubles.keys();
        let is_known = self.0.as_ref().is_some_and(|(known, at)| {
            known.iter().eq(replicas()) && now.saturating_duration_since(*at) < AGAIN
        });
        if is_known || troubles.is_empty() {
            return false;
        }
        self.0 = Some((replicas().cloned().collect(), now));
        true
    }

    /// One is in reach.
    pub(super) fn is_over(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_and_again_when_it_lasts() {
        let now = Instant::now();
        let mut outage = Outage::default();
        let mut is_news = |troubles: &[(&str, &str)], after_s| {
            let troubles = troubles.iter().map(|&(who, why)| (who.to_owned(), why.to_owned()));
            outage.is_news(&troubles.collect(), now + Duration::from_secs(after_s))
        };
        assert!(!is_news(&[], 0), "it is being connected");
        assert!(is_news(&[("a", "refused")], 1));
        assert!(!is_news(&[("a", "reset")], 2), "the same in other words");
        assert!(is_news(&[("a", "reset"), ("b", "refused")], 3), "another one too");
        assert!(!is_news(&[("a", "reset"), ("b", "refused")], 62));
        assert!(is_news(&[("a", "reset"), ("b", "refused")], 63));
        outage.is_over();
        let troubles = BTreeMap::from([("a".to_owned(), "refused".to_owned())]);
        assert!(outage.is_news(&troubles, now));
    }
}
