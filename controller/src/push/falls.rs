//! Which agents fell silent again and again of late: others get their VIPs until they
//! have been heard for a while. Who cuts a link is not seen from one of its ends, so what
//! may have been this replica's own silence is nobody's fall. Pure: time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use blixt_api::damping::Damping;

use super::agents::LIVES;

/// How often an agent may fall silent without a word. A node that dies once an hour is
/// to be back at once.
const PARDONED: u32 = 1;

/// The API server answers every two seconds (`crate::leader`). Where it has not for so
/// long, it may be the replica that nobody reaches.
const ANSWERS: Duration = Duration::from_secs(3);

/// Who has been silent for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(3_600);

/// How silent all agents were.
#[derive(Debug, Default)]
pub(super) struct Falls {
    by_node: BTreeMap<String, Voice>,
    /// When the API server answered last, as far as somebody tells.
    answered: Option<Instant>,
    /// The last time that it did not for long.
    unanswered: Option<Silence>,
}

/// How an agent was heard.
#[derive(Debug)]
struct Voice {
    heard: Instant,
    /// The last silence that has ended.
    silence: Option<Silence>,
    damping: Damping,
    /// Until when it is not to be relied on.
    until: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Silence {
    from: Instant,
    to: Instant,
}

impl Falls {
    /// An agent is heard. Gives for how long it is not to be relied on, if that is news.
    pub(super) fn heard(&mut self, node: &str, now: Instant) -> Option<Duration> {
        let Some(voice) = self.by_node.get_mut(node) else {
            let mut damping = Damping::pardoning(PARDONED);
            damping.now(true, now);
            let voice = Voice { heard: now, silence: None, damping, until: None };
            self.by_node.insert(node.to_owned(), voice);
            return None;
        };
        let from = std::mem::replace(&mut voice.heard, now);
        if now.saturating_duration_since(from) < LIVES {
            return None;
        }
        voice.silence = Some(Silence { from, to: now });
        if self.may_be_ours(from, now) {
            return None;
        }
        let voice = self.by_node.get_mut(node)?;
        // It spoke until then.
        voice.damping.now(true, from);
        voice.damping.now(false, from);
        voice.until = voice.damping.now(true, now);
        voice.until.map(|until| until.saturating_duration_since(now))
    }

    /// An agent has ended in order: whoever starts it again has looked after it.
    pub(super) fn ended(&mut self, node: &str) {
        self.by_node.remove(node);
    }

    /// The API server has answered.
    pub(super) fn answered(&mut self, now: Instant) {
        if let Some(from) = self.answered.replace(now)
            && now.saturating_duration_since(from) > ANSWERS
        {
            self.unanswered = Some(Silence { from, to: now });
        }
    }

    /// For how long an agent is not to be relied on.
    pub(super) fn of(&self, node: &str, now: Instant) -> Option<Duration> {
        let left = self.by_node.get(node)?.until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Forgets those who have been away for long.
    pub(super) fn forget(&mut self, now: Instant) {
        self.by_node.retain(|_, voice| now.saturating_duration_since(voice.heard) < FORGOTTEN);
    }

    /// Whether a silence from then on may have been this replica's: the API server did
    /// not answer it either, or most agents fell silent at the same time.
    fn may_be_ours(&self, from: Instant, now: Instant) -> bool {
        let is_cut_off =
            self.answered.is_some_and(|at| now.saturating_duration_since(at) > ANSWERS);
        if is_cut_off || self.unanswered.is_some_and(|silence| silence.to >= from) {
            return true;
        }
        let (mut there, mut together) = (0, 0);
        for voice in self.by_node.values() {
            let fell_then = |at: Instant| at + LIVES >= from && at <= from + LIVES;
            let is_silent = now.saturating_duration_since(voice.heard) >= LIVES;
            let was_silent = voice.silence.is_some_and(|silence| fell_then(silence.from));
            if was_silent || is_silent && fell_then(voice.heard) {
                together += 1;
            }
            // Who was silent before is no witness.
            there += usize::from(was_silent || voice.heard + LIVES >= from);
        }
        2 * together > there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Agents that speak ten times a second, but for those that are silent.
    struct Cluster {
        falls: Falls,
        now: Instant,
        nodes: Vec<&'static str>,
        /// Whether the API server answers.
        answers: bool,
    }

    impl Cluster {
        fn new(nodes: &[&'static str]) -> Self {
            let mut cluster = Self {
                falls: Falls::default(),
                now: Instant::now(),
                nodes: nodes.to_vec(),
                answers: true,
            };
            cluster.pass(10_000, &[]);
            cluster
        }

        /// Gives for how long those who speak again are not relied on.
        fn pass(&mut self, ms: u64, silent: &[&str]) -> Vec<(&'static str, u64)> {
            let mut news = Vec::new();
            for tick in 0..ms / 100 {
                self.now += Duration::from_millis(100);
                if self.answers && tick % 20 == 0 {
                    self.falls.answered(self.now);
                }
                for node in self.nodes.iter().filter(|node| !silent.contains(*node)) {
                    let wait = self.falls.heard(node, self.now);
                    news.extend(wait.map(|wait| (*node, wait.as_secs())));
                }
            }
            news
        }

        fn waits(&mut self, silent_ms: u64, node: &'static str) -> u64 {
            self.pass(silent_ms, &[node]);
            self.pass(5_000, &[]).into_iter().map(|(_, wait)| wait).sum()
        }
    }

    #[test]
    fn each_silence_after_the_first_costs_twice_the_time() {
        let mut cluster = Cluster::new(&["a", "b"]);
        let waits: Vec<_> = (0..7).map(|_| cluster.waits(2_000, "a")).collect();
        assert_eq!(waits, [0, 4, 8, 16, 32, 64, 64]);
        assert_eq!(cluster.falls.of("a", cluster.now).map(|left| left.as_secs()), Some(59));
        assert_eq!(cluster.falls.of("b", cluster.now), None);
        // It is over, and forgotten.
        cluster.pass(120_000, &[]);
        assert_eq!(cluster.falls.of("a", cluster.now), None);
        assert_eq!([0; 2].map(|_| cluster.waits(2_000, "a")), [0, 4]);
        // Whoever ends in order begins anew.
        cluster.falls.ended("a");
        cluster.pass(1_000, &[]);
        assert_eq!([0; 2].map(|_| cluster.waits(30_000, "a")), [0, 4]);
    }

    #[test]
    fn a_node_that_dies_once_an_hour_is_back_at_once() {
        let mut cluster = Cluster::new(&["a", "b"]);
        for _ in 0..5 {
            assert_eq!(cluster.waits(60_000, "a"), 0);
            cluster.pass(3_540_000, &[]);
        }
        // One that never comes back is nobody's concern.
        cluster.pass(3_600_000, &["a"]);
        cluster.falls.forget(cluster.now);
        assert_eq!(cluster.falls.by_node.len(), 1);
    }

    #[test]
    fn what_was_shorter_than_a_second_moved_nothing() {
        let mut cluster = Cluster::new(&["a", "b"]);
        for _ in 0..9 {
            assert_eq!(cluster.waits(800, "a"), 0);
        }
    }

    #[test]
    fn a_replica_that_loses_sight_of_most_agents_blames_nobody() {
        let mut cluster = Cluster::new(&["a", "b", "c", "d"]);
        for _ in 0..9 {
            cluster.pass(3_000, &["a", "b", "c"]);
            // They come back one after the other.
            assert_eq!(cluster.pass(1_500, &["b", "c"]), []);
            assert_eq!(cluster.pass(1_500, &["c"]), []);
            assert_eq!(cluster.pass(5_000, &[]), []);
        }
        // One that has been gone for long is no witness of that, nor against it.
        cluster.pass(60_000, &["d"]);
        let mut waits = Vec::new();
        for _ in 0..2 {
            cluster.pass(2_000, &["a", "d"]);
            waits.extend(cluster.pass(5_000, &["d"]));
        }
        assert_eq!(waits, [("a", 4)]);
    }

    #[test]
    fn a_replica_that_the_api_server_does_not_answer_blames_nobody() {
        let mut cluster = Cluster::new(&["a", "b"]);
        for _ in 0..9 {
            cluster.answers = false;
            cluster.pass(4_000, &["a"]);
            // Whoever answers first.
            cluster.answers = true;
            cluster.pass(200, &["a"]);
            assert_eq!(cluster.pass(10_000, &[]), []);
            cluster.answers = false;
            cluster.pass(4_000, &["a"]);
            assert_eq!(cluster.pass(200, &[]), []);
            cluster.answers = true;
            cluster.pass(10_000, &[]);
        }
    }
}
