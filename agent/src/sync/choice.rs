//! Which replica tables are taken from: the same one as long as it lives and
//! keeps up. What replicas see of the world differs for moments, so that each
//! change of replica may take tables back for one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use blixt_api::parts::Digest;
use blixt_api::sync::BEAT;
use blixt_api::sync::v1alpha1::ControllerBeat;

/// A replica that has said nothing for so long, four beats, is not followed where
/// another one speaks: it may be what died with the node whose VIPs are to move.
const QUIET: Duration = BEAT.saturating_mul(4);

/// How long another replica may be ahead. Far more than replicas differ by
/// where all is well, and where the Kubernetes API is slow.
const BEHIND: Duration = Duration::from_secs(10);

/// What is known of each replica that a stream leads to.
#[derive(Debug, Default)]
pub(super) struct Replicas {
    by_name: BTreeMap<String, Heard>,
    /// The one that tables are taken from.
    from: Option<String>,
}

/// What a replica said last.
#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    /// When that was.
    at: Option<Instant>,
    /// The newest snapshot it has.
    digest: Option<Digest>,
    settled: bool,
    /// Since when it has had something newer than the one that tables are taken
    /// from, which has had nothing new since.
    ahead: Option<Instant>,
}

impl Replicas {
    /// A stream leads to it.
    pub(super) fn up(&mut self, replica: &str) {
        self.by_name.insert(replica.to_owned(), Heard::default());
    }

    /// It does no more.
    pub(super) fn down(&mut self, replica: &str) {
        self.by_name.remove(replica);
        if self.from() == Some(replica) {
            self.from = None;
        }
    }

    /// It says how it is.
    pub(super) fn beat(&mut self, replica: &str, beat: &ControllerBeat, now: Instant) {
        let followed = self.from.as_ref().and_then(|from| self.by_name.get(from));
        let followed = followed.and_then(|heard| heard.digest);
        let is_followed = self.from() == Some(replica);
        let Some(heard) = self.by_name.get_mut(replica) else { return };
        let before = heard.digest;
        heard.at = Some(now);
        heard.digest = Digest::read(&beat.digest);
        heard.settled = beat.settled;
        let changed = before.is_some() && heard.digest != before;
        if heard.digest == followed {
            heard.ahead = None;
        } else if changed && !is_followed {
            heard.ahead.get_or_insert(now);
        }
        // It keeps up, whatever the others have by now.
        if changed && is_followed {
            self.nobody_is_ahead();
        }
    }

    /// How many there are.
    pub(super) fn connected(&self) -> usize {
        self.by_name.len()
    }

    /// The one that tables are taken from.
    pub(super) fn from(&self) -> Option<&str> {
        self.from.as_deref()
    }

    /// Chooses anew where that is needed. `true` if it is another one now.
    pub(super) fn choose(&mut self, now: Instant) -> bool {
        let best = self.best(now).map(str::to_owned);
        let news = best != self.from;
        if news {
            self.from = best;
            self.nobody_is_ahead();
        }
        news
    }

    /// One that has run for a while is better than one that has just begun:
    /// that one has yet to hear of all agents. All agents choose alike where
    /// they can, so that they mostly follow one.
    fn best(&self, now: Instant) -> Option<&str> {
        let is_ahead = |heard: &Heard| {
            let for_long = |since| now.saturating_duration_since(since) >= BEHIND;
            heard.settled && heard.ahead.is_some_and(for_long)
        };
        let speaks =
            |heard: &Heard| heard.at.is_some_and(|at| now.saturating_duration_since(at) < QUIET);
        let has_tables = |heard: &Heard| heard.digest.is_some();
        let some_speak = self.by_name.values().any(|heard| has_tables(heard) && speaks(heard));
        let fit = |heard: &Heard| has_tables(heard) && (speaks(heard) || !some_speak);
        let with_tables = || self.by_name.iter().filter(|(_, heard)| fit(heard));
        let ahead = with_tables().find(|(_, heard)| is_ahead(heard));
        let settled = || with_tables().filter(|(_, heard)| heard.settled);
        let stays = |(replica, _): &(&String, &Heard)| self.from() == Some(replica);
        ahead
            .or_else(|| settled().find(stays))
            .or_else(|| settled().next())
            .or_else(|| with_tables().find(stays))
            .or_else(|| with_tables().next())
            .map(|(replica, _)| replica.as_str())
    }

    fn nobody_is_ahead(&mut self) {
        self.by_name.values_mut().for_each(|heard| heard.ahead = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(tables: u8, settled: bool) -> ControllerBeat {
        let digest = if tables > 0 { vec![tables; 32] } else { vec![] };
        ControllerBeat { digest, settled, unsteady_ms: 0 }
    }

    struct Told {
        replicas: Replicas,
        now: Instant,
        switches: usize,
        /// What each has said last, which it goes on to say.
        last: BTreeMap<String, (u8, bool)>,
    }

    impl Told {
        fn new(up: &[&str]) -> Self {
            let mut replicas = Replicas::default();
            up.iter().for_each(|replica| replicas.up(replica));
            Self { replicas, now: Instant::now(), switches: 0, last: BTreeMap::new() }
        }

        /// Some time passes, in which all that are up speak.
        fn pass(&mut self, time: Duration) {
            let end = self.now + time;
            while self.now < end {
                self.now += BEAT;
                for (replica, (tables, settled)) in &self.last {
                    self.replicas.beat(replica, &beat(*tables, *settled), self.now);
                }
                self.choose();
            }
        }

        fn beat(&mut self, replica: &str, tables: u8, settled: bool) -> Option<&str> {
            self.last.insert(replica.to_owned(), (tables, settled));
            self.replicas.beat(replica, &beat(tables, settled), self.now);
            self.choose()
        }

        fn choose(&mut self) -> Option<&str> {
            self.switches += usize::from(self.replicas.choose(self.now));
            self.replicas.from()
        }
    }

    #[test]
    fn one_that_has_tables_is_followed_for_as_long_as_it_lives() {
        let mut told = Told::new(&["a", "b", "c"]);
        assert_eq!(told.choose(), None, "none has tables");
        assert_eq!(told.replicas.connected(), 3);
        assert_eq!(told.beat("b", 0, true), None);
        assert_eq!(told.beat("c", 1, false), Some("c"));
        for (replica, settled) in
            [("b", false), ("a", false), ("c", true), ("b", true), ("a", true)]
        {
            assert_eq!(told.beat(replica, 1, settled), Some("c"), "{replica} is no better");
        }
        assert_eq!(told.switches, 1);
        told.replicas.down("c");
        assert_eq!(told.choose(), Some("a"), "all agents choose alike");
        told.replicas.up("c");
        assert_eq!(told.beat("c", 1, true), Some("a"));
        told.replicas.beat("gone", &beat(1, true), told.now);
        assert_eq!(told.choose(), Some("a"));
        assert_eq!(told.switches, 2);
    }

    #[test]
    fn one_that_knows_its_agents_is_better_than_one_that_does_not_yet() {
        let mut told = Told::new(&["a", "b"]);
        assert_eq!(told.beat("a", 1, false), Some("a"));
        assert_eq!(told.beat("b", 1, true), Some("b"));
        assert_eq!(told.beat("a", 1, true), Some("b"));
        // It lost its tables: it started anew behind one address.
        assert_eq!(told.beat("b", 0, false), Some("a"));
    }

    #[test]
    fn one_that_is_quiet_is_left_where_another_one_speaks() {
        let mut told = Told::new(&["a", "b"]);
        told.beat("a", 1, true);
        told.beat("b", 1, true);
        told.now += QUIET;
        assert_eq!(
            told.choose(),
            Some("a"),
            "nobody speaks: it may be this agent that stood still"
        );
        assert_eq!(told.beat("b", 1, true), Some("b"));
        assert_eq!(told.beat("a", 1, true), Some("b"), "not to and fro");
        assert_eq!(told.switches, 2);
    }

    #[test]
    fn one_that_is_behind_for_long_is_left() {
        let mut told = Told::new(&["a", "b"]);
        told.beat("a", 1, true);
        told.beat("b", 1, true);
        // Both change, one a moment later than the other: for as long as it likes.
        for tables in 2..50 {
            assert_eq!(told.beat("b", tables, true), Some("a"));
            told.pass(BEHIND / 2);
            assert_eq!(told.beat("a", tables, true), Some("a"));
            told.pass(BEHIND / 2);
        }
        // One changes no more.
        for tables in 50..53 {
            assert_eq!(told.beat("b", tables, true), Some("a"));
            told.pass(BEHIND / 4);
        }
        told.pass(BEHIND / 4);
        assert_eq!(told.beat("b", 53, true), Some("b"));
        // Not back to what is old, whether it comes anew or not.
        told.replicas.down("a");
        told.replicas.up("a");
        told.beat("a", 49, true);
        told.pass(10 * BEHIND);
        assert_eq!(told.beat("a", 49, true), Some("b"));
        assert_eq!(told.switches, 2);
    }
}
