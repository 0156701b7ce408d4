//! Which replica tables are taken from. All agents choose alike, so that they
//! mostly follow one: what replicas see of the world differs for moments.

use std::collections::BTreeMap;

use blixt_api::parts::Digest;
use blixt_api::sync::v1alpha1::ControllerBeat;

/// What is known of each replica that a stream leads to.
#[derive(Debug, Default)]
pub(super) struct Replicas(BTreeMap<String, Heard>);

/// What a replica said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Heard {
    /// The newest snapshot it has.
    digest: Option<Digest>,
    settled: bool,
}

impl Replicas {
    /// A stream leads to it.
    pub(super) fn up(&mut self, replica: &str) {
        self.0.insert(replica.to_owned(), Heard::default());
    }

    /// It does no more.
    pub(super) fn down(&mut self, replica: &str) {
        self.0.remove(replica);
    }

    /// It says how it is.
    pub(super) fn beat(&mut self, replica: &str, beat: &ControllerBeat) {
        if let Some(heard) = self.0.get_mut(replica) {
            *heard = Heard { digest: Digest::read(&beat.digest), settled: beat.settled };
        }
    }

    /// How many there are.
    pub(super) fn connected(&self) -> usize {
        self.0.len()
    }

    /// The first by name that has tables; one that has run for a while is
    /// better than one that has just begun.
    pub(super) fn best(&self) -> Option<&str> {
        let with_tables = || self.0.iter().filter(|(_, heard)| heard.digest.is_some());
        let settled = with_tables().find(|(_, heard)| heard.settled);
        settled.or_else(|| with_tables().next()).map(|(replica, _)| replica.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_has_tables_and_knows_its_agents_is_best() {
        let mut replicas = Replicas::default();
        let beat = |tables: bool, settled| ControllerBeat {
            digest: if tables { vec![1; 32] } else { vec![] },
            settled,
        };
        assert_eq!(replicas.best(), None);
        for replica in ["a", "b", "c"] {
            replicas.up(replica);
        }
        assert_eq!((replicas.best(), replicas.connected()), (None, 3), "none has tables");
        replicas.beat("c", &beat(true, false));
        assert_eq!(replicas.best(), Some("c"));
        replicas.beat("b", &beat(true, false));
        assert_eq!(replicas.best(), Some("b"));
        replicas.beat("c", &beat(true, true));
        assert_eq!(replicas.best(), Some("c"));
        replicas.beat("b", &beat(true, true));
        replicas.beat("a", &beat(false, true));
        assert_eq!(replicas.best(), Some("b"));
        replicas.down("b");
        replicas.beat("b", &beat(true, true));
        assert_eq!(replicas.best(), Some("c"));
    }
}
