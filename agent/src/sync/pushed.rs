//! The control thread's side of [`Sync`]: takes a wish at a time, and says what
//! became of it.

use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use super::damping::Damping;
use super::{Assignment, Reach, Serving, Sync, Wish};

/// What a controller wants, and how far it is with that here.
#[derive(Debug)]
pub struct Pushed {
    sync: Sync,
    /// The one that was looked at last.
    taken: Option<Arc<Wish>>,
    /// The one whose tables are published.
    current: Option<Arc<Wish>>,
    /// Whether that has been reported.
    reported: bool,
    /// Whether there was a newer one, which could not be used.
    newer_is_refused: bool,
    damping: Damping,
}

impl Pushed {
    /// Nothing is in force yet.
    pub fn new(sync: Sync) -> Self {
        Self {
            sync,
            taken: None,
            current: None,
            reported: true,
            newer_is_refused: false,
            damping: Damping::default(),
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
            changed = self.sync.reach.changed() => changed,
        };
        // It ends with the agent.
        if changed.is_err() {
            pending::<()>().await;
        }
    }

    /// What is wanted now, unless that was looked at already.
    pub fn wanted(&mut self) -> Option<Arc<Wish>> {
        self.sync.reach.mark_unchanged();
        let wish = self.sync.wishes.borrow_and_update().clone()?;
        let is_news = |taken: &Arc<Wish>| !Arc::ptr_eq(taken, &wish);
        let news = self.taken.as_ref().is_none_or(is_news);
        self.taken = Some(wish.clone());
        news.then_some(wish)
    }

    /// How it is with the controller.
    pub fn reach(&self) -> Reach {
        self.sync.reach.borrow().clone()
    }

    /// What is this agent's.
    pub fn assignment(&self) -> Option<&Assignment> {
        self.current.as_ref().map(|wish| &wish.assignment)
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
    /// can't be used, for a reason.
    pub fn adopted(&mut self, unmapped: Option<&String>) {
        let Some(current) = self.current.clone().filter(|_| !self.reported) else { return };
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
    use crate::sync::{Places, Settings};
    use blixt_api::parts::Parts;
    use blixt_model::{Generation, HashSeed, Snapshot};

    fn wish(seed: u64, owned: u8) -> Arc<Wish> {
        let snapshot = Snapshot::new(Generation(1), HashSeed(seed), vec![], vec![]).unwrap();
        let owned = [[192, 0, 2, owned].into()].into();
        let assignment = Assignment { owned, ..Assignment::default() };
        Arc::new(Wish::new(Parts::of(&snapshot), assignment).unwrap())
    }

    #[tokio::test]
    async fn what_became_of_each_wish_is_reported() {
        let state = tempfile::tempdir().unwrap();
        let places = Places::Directory(state.path().join("nothing"));
        let settings = Settings { places, token: state.path().join("token") };
        let mut pushed = Pushed::new(Sync::start(&settings, state.path()));
        let report = pushed.sync.report.subscribe();
        assert_eq!(pushed.wanted(), None);
        let (first, second) = (wish(1, 1), wish(2, 2));
        let digest = |wish: &Wish| Some(wish.parts.digest());

        pushed.published(first.clone());
        assert_eq!(report.borrow().applied, None, "not until workers use it");
        pushed.adopted(None);
        assert_eq!((report.borrow().applied, &report.borrow().refused), (digest(&first), &None));

        // Refused: the first stays, with what the second assigned.
        pushed.refused(&second, "no".to_owned());
        pushed.adopted(None);
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
        pushed.adopted(Some(&"full".to_owned()));
        assert_eq!(report.borrow().refused, Some((second.parts.digest(), "full".to_owned())));
        pushed.adopted(None);
        assert_eq!((report.borrow().applied, &report.borrow().refused), (digest(&second), &None));
        pushed.end().await;
    }
}
