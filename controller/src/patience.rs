//! What the API server refused is tried again, each time after a longer
//! pause, or as soon as the object is another one; and it is told once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use blixt_gateway::ObjectKey;

/// The first pause, and the longest.
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(30);

/// One write that failed.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// To which object.
    pub(crate) key: ObjectKey,
    /// To which version of it.
    pub(crate) version: Option<String>,
    /// Why.
    pub(crate) why: String,
}

/// The writes that failed and have to wait.
#[derive(Debug, Default)]
pub(crate) struct Patience(BTreeMap<ObjectKey, Wait>);

#[derive(Debug)]
struct Wait {
    /// The version that was to be written to.
    version: Option<String>,
    why: String,
    pause: Duration,
    until: Instant,
}

impl Patience {
    /// It failed. `true` if that is news.
    pub(crate) fn failed(&mut self, failure: Failure, now: Instant) -> bool {
        let Failure { key, version, why } = failure;
        let before = self.0.get(&key);
        let is_new = before.is_none_or(|before| before.why != why);
        let pause = before.map_or(FIRST, |before| (before.pause * 2).min(LAST));
        self.0.insert(key, Wait { version, why, pause, until: now + pause });
        is_new
    }

    /// Whether it may be tried now.
    pub(crate) fn allows(&self, key: &ObjectKey, version: Option<&String>, now: Instant) -> bool {
        let wait = self.0.get(key);
        wait.is_none_or(|wait| wait.until <= now || wait.version.as_ref() != version)
    }

    /// Keeps those only whose write is still due: the others worked, or are
    /// not wanted any more.
    pub(crate) fn retain(&mut self, is_due: impl Fn(&ObjectKey) -> bool) {
        self.0.retain(|key, _| is_due(key));
    }

    /// When something may be tried again.
    pub(crate) fn ends_at(&self) -> Option<Instant> {
        self.0.values().map(|wait| wait.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blixt_gateway::Kind;

    fn key(name: &str) -> ObjectKey {
        ObjectKey { kind: Kind::GatewayClass, namespace: None, name: name.to_owned() }
    }

    fn failure(why: &str) -> Failure {
        Failure { key: key("a"), version: Some("1".to_owned()), why: why.to_owned() }
    }

    #[test]
    fn pauses_grow_and_the_same_reason_is_told_once() {
        let mut patience = Patience::default();
        let mut now = Instant::now();
        let (same, other) = ("1".to_owned(), "2".to_owned());
        let mut pauses = Vec::new();
        for attempt in 0..7 {
            assert_eq!(patience.failed(failure("no"), now), attempt == 0);
            assert!(!patience.allows(&key("a"), Some(&same), now));
            assert!(patience.allows(&key("a"), Some(&other), now));
            assert!(patience.allows(&key("b"), Some(&same), now));
            let until = patience.ends_at().unwrap();
            pauses.push((until - now).as_secs());
            now = until;
            assert!(patience.allows(&key("a"), Some(&same), now));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert!(patience.failed(failure("never"), now));
        patience.retain(|_| false);
        assert_eq!(patience.ends_at(), None);
        assert!(patience.allows(&key("a"), Some(&same), now));
    }
}
