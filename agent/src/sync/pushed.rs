//! The control thread's side of [`Sync`]: takes a wish at a time, and says what
//! became of it.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use blixt_api::damping::Damping;
use blixt_model::{ObjectName, Snapshot};

use super::{Assignment, Reach, Serving, Sync, Wish};
use crate::streams::Certificates;

/// How often it may be in trouble without a word: replicas wait for two seconds anyway.
const PARDONED: u32 = 2;

/// What a controller wants, and how far it is with that here.
#[derive(Debug)]
pub struct Pushed {
    sync: Sync,
    /// What was kept over the start, until it was looked at: what has come since
    /// may be refused, and then it is what stays.
    kept: Option<Arc<Wish>>,
    /// The one that was looked at last.
    taken: Option<Arc<Wish>>,
    /// The one whose tables are published.
    current: Option<Arc<Wish>>,
    /// Whether that has been reported.
    reported: bool,
    /// Addresses that are wanted and stay the node's own, with the reason.
    own: BTreeMap<IpAddr, String>,
    /// Whether there was a newer one, which could not be used.
    newer_is_refused: bool,
    damping: Damping,
}

impl Pushed {
    /// Nothing is in force yet.
    pub fn new(sync: Sync) -> Self {
        let kept = sync.wishes.borrow().clone();
        Self {
            sync,
            kept,
            taken: None,
            current: None,
            reported: true,
            own: BTreeMap::new(),
            newer_is_refused: false,
            damping: Damping::pardoning(PARDONED),
        }
    }

    /// The way to the controller.
    pub fn sync(&self) -> &Sync {
        &self.sync
    }

    /// Waits until something else is wanted, or the controller is farther or
    /// nearer. May be cut short.
    pub async fn changed(&mut self) {
        let changed = tokio::select! {
            changed = self.sync.wishes.changed() => changed,
            changed = self.sync.certificates.changed() => changed,
            changed = self.sync.reach.changed() => changed,
        };
        // It ends with the agent.
        if changed.is_err() {
            pending::<()>().await;
        }
    }

    /// What is wanted now, unless that was looked at already.
    pub fn wanted(&mut self) -> Option<Arc<Wish>> {
        if let Some(kept) = self.kept.take() {
            self.taken = Some(kept.clone());
            return Some(kept);
        }
        self.sync.reach.mark_unchanged();
        let wish = self.sync.wishes.borrow_and_update().clone()?;
        let is_news = |taken: &Arc<Wish>| !Arc::ptr_eq(taken, &wish);
        let news = self.taken.as_ref().is_none_or(is_news);
        self.taken = Some(wish.clone());
        news.then_some(wish)
    }

    /// The certificates of what is wanted.
    pub fn certificates(&self) -> Certificates {
        self.sync.certificates.borrow().clone()
    }

    /// How it is with the controller.
    pub fn reach(&self) -> Reach {
        self.sync.reach.borrow().clone()
    }

    /// What is this agent's.
    pub fn assignment(&self) -> Option<&Assignment> {
        self.current.as_ref().map(|wish| &wish.assignment)
    }

    /// The newest that was looked at.
    pub fn newest(&self) -> Option<Arc<Wish>> {
        self.taken.clone()
    }

    /// What is in force, with all addresses that it has elsewhere.
    pub fn in_force(&self) -> Option<&Snapshot> {
        self.current.as_ref().map(|wish| &wish.snapshot)
    }

    /// Those of the addresses that are wanted now which the node has itself:
    /// there are no tables with them.
    pub fn own_among_wanted(&self, own: &BTreeMap<IpAddr, String>) -> BTreeMap<IpAddr, String> {
        let mut taken = BTreeMap::new();
        for wish in self.taken.iter().chain(&self.current) {
            taken.extend(wish.own_addresses(own));
        }
        taken
    }

    /// What was told of these.
    pub fn own(&self) -> &BTreeMap<IpAddr, String> {
        &self.own
    }

    /// Has replicas told of these, with what is told next.
    pub fn set_own(&mut self, own: BTreeMap<IpAddr, String>) {
        self.own = own;
        self.reported = false;
    }

    /// The tables of this are published.
    pub fn published(&mut self, wish: Arc<Wish>) {
        self.current = Some(wish);
        self.reported = false;
        self.newer_is_refused = false;
    }

    /// There are no tables of this, for a reason. Those before stay, with what
    /// is assigned now.
    pub fn refused(&mut self, wish: &Wish, reason: String) {
        let digest = wish.parts.digest();
        if let Some(current) = &self.current {
            let assignment = wish.assignment.clone();
            self.current = Some(Arc::new(Wish { assignment, ..Wish::clone(current) }));
        }
        self.sync.report.send_modify(|report| report.refused = Some((digest, reason)));
        // What is kept says what is assigned.
        self.reported = false;
        self.newer_is_refused = true;
    }

    /// All workers use the tables that are published, or an address of theirs
    /// can't be used, for a reason. Some Gateways may not be served as they should
    /// be all the same.
    pub fn adopted(&mut self, unmapped: Option<&String>, troubles: &BTreeMap<ObjectName, String>) {
        let Some(current) = self.current.clone().filter(|_| !self.reported) else {
            self.sync.report.send_if_modified(|report| {
                let news = report.troubles != *troubles;
                report.troubles.clone_from(troubles);
                news
            });
            return;
        };
        let digest = current.parts.digest();
        if let Some(reason) = unmapped {
            let refused = Some((digest, reason.clone()));
            self.sync.report.send_if_modified(|report| {
                let news = report.refused != refused;
                report.refused = refused;
                news
            });
            return;
        }
        self.reported = true;
        let refused = self.newer_is_refused;
        self.sync.report.send_modify(|report| {
            if !refused {
                report.refused = None;
            }
            report.applied = Some(digest);
            report.taken.clone_from(&self.own);
            report.troubles.clone_from(troubles);
            report.kept = Some(current);
        });
    }

    /// Says whether traffic can be served, and if not, why.
    pub fn serves(&mut self, trouble: Option<String>) {
        let unsteady = self.damping.now(trouble.is_none(), Instant::now());
        self.sync.serving.send_replace(Serving::now(trouble, unsteady));
    }

    /// Says goodbye.
    pub async fn end(&mut self) {
        self.sync.end().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{Places, Report, Settings};
    use blixt_api::parts::Parts;
    use blixt_model::{Gateway, Generation, HashSeed, Snapshot};

    fn wish(seed: u64, owned: u8) -> Arc<Wish> {
        let snapshot = Snapshot::new(Generation(1), HashSeed(seed), vec![], vec![]).unwrap();
        let owned = [[192, 0, 2, owned].into()].into();
        let assignment = Assignment { owned, ..Assignment::default() };
        Arc::new(Wish::new(Parts::of(&snapshot), assignment).unwrap())
    }

    #[tokio::test]
    async fn what_was_kept_comes_first_whatever_has_come_since() {
        let state = tempfile::tempdir().unwrap();
        let places = Places::Directory(state.path().join("nothing"));
        let settings = Settings { places, token: state.path().join("token") };
        let mut sync = Sync::start(&settings, state.path(), None);
        let (kept, newer) = (wish(1, 1), wish(2, 2));
        let (wishes, wanted) = tokio::sync::watch::channel(Some(kept.clone()));
        sync.wishes = wanted;
        let mut pushed = Pushed::new(sync);
        wishes.send_replace(Some(newer.clone()));
        assert_eq!(pushed.wanted(), Some(kept));
        pushed.changed().await;
        assert_eq!(pushed.wanted(), Some(newer));
        assert_eq!(pushed.wanted(), None);
    }

    #[tokio::test]
    async fn what_became_of_each_wish_is_reported() {
        let state = tempfile::tempdir().unwrap();
        let places = Places::Directory(state.path().join("nothing"));
        let settings = Settings { places, token: state.path().join("token") };
        let mut pushed = Pushed::new(Sync::start(&settings, state.path(), None));
        let report = pushed.sync.report.subscribe();
        assert_eq!(pushed.wanted(), None);
        let (first, second) = (wish(1, 1), wish(2, 2));
        let none = BTreeMap::new();
        let digest = |wish: &Wish| Some(wish.parts.digest());

        pushed.published(first.clone());
        assert_eq!(report.borrow().applied, None, "not until workers use it");
        pushed.adopted(None, &none);
        assert_eq!((report.borrow().applied, &report.borrow().refused), (digest(&first), &None));

        // Refused: the first stays, with what the second assigned.
        pushed.refused(&second, "no".to_owned());
        pushed.adopted(None, &none);
        {
            let report = report.borrow();
            assert_eq!(report.applied, digest(&first));
            assert_eq!(report.refused, Some((second.parts.digest(), "no".to_owned())));
            let kept = report.kept.as_ref().unwrap();
            assert_eq!((&kept.parts, &kept.assignment), (&first.parts, &second.assignment));
        }
        // An address that the XDP program does not take is a refusal as long as
        // it does not.
        pushed.published(second.clone());
        pushed.adopted(Some(&"full".to_owned()), &none);
        assert_eq!(report.borrow().refused, Some((second.parts.digest(), "full".to_owned())));
        pushed.adopted(None, &none);
        assert_eq!((report.borrow().applied, &report.borrow().refused), (digest(&second), &None));
        // A port is taken, and free again.
        let taken = [("edge".parse().unwrap(), "it is taken".to_owned())].into();
        pushed.adopted(None, &taken);
        assert_eq!(report.borrow().troubles, taken);
        pushed.adopted(None, &none);
        assert_eq!(
            *report.borrow(),
            Report { applied: digest(&second), kept: Some(second.clone()), ..Report::default() }
        );
        pushed.end().await;
    }

    #[tokio::test]
    async fn what_stays_the_nodes_own_is_looked_for_in_all_that_may_be_in_force() {
        let state = tempfile::tempdir().unwrap();
        let places = Places::Directory(state.path().join("nothing"));
        let settings = Settings { places, token: state.path().join("token") };
        let mut pushed = Pushed::new(Sync::start(&settings, state.path(), None));
        let report = pushed.sync.report.subscribe();
        let address = |host: u8| IpAddr::from([192, 0, 2, host]);
        let wish = |vip: u8, snat: u8| {
            let name = "shop/edge".parse().unwrap();
            let gateway =
                Gateway { name, addresses: vec![address(vip)], listeners: vec![], streams: vec![] };
            let gateways = vec![gateway];
            let snapshot = Snapshot::new(Generation(1), HashSeed(1), gateways, vec![]).unwrap();
            let snat = [address(snat)].into();
            let assignment = Assignment { snat, ..Assignment::default() };
            Arc::new(Wish::new(Parts::of(&snapshot), assignment).unwrap())
        };
        let (first, second) = (wish(1, 11), wish(2, 12));
        let all = [1, 2, 3, 11, 12].map(|host| (address(host), format!("is {host}"))).into();
        let among = |pushed: &Pushed| {
            let own = pushed.own_among_wanted(&all);
            own.into_keys().collect::<Vec<_>>()
        };
        assert!(among(&pushed).is_empty());
        pushed.taken = Some(first.clone());
        pushed.published(first);
        assert_eq!(among(&pushed), [1, 11].map(address));
        // The newest is refused: what is in force counts as much.
        pushed.taken = Some(second.clone());
        pushed.refused(&second, "no".to_owned());
        assert_eq!(among(&pushed), [1, 2, 12].map(address));
        let own: BTreeMap<_, _> = [(address(1), "is 1".to_owned())].into();
        pushed.set_own(own.clone());
        pushed.adopted(None, &BTreeMap::new());
        assert_eq!(report.borrow().taken, own);
        assert_eq!(*pushed.own(), own);
        pushed.end().await;
    }
}
