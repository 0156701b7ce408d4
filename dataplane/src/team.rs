//! The workers of one agent, and how each of them finds out which one has a
//! flow.
//!
//! Towards endpoints the SNAT port says it: the ports are dealt out in turn,
//! so a reply's own header names its owner. Towards clients nothing does, so
//! there is a directory of all flows. A packet whose worker knows its flow
//! asks neither.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::packet::WorkerId;

/// Which worker has which flow, for all workers together.
///
/// Flows are named by a hash of the client's tuple under the key that the
/// workers share. It is secret, so nobody can choose two flows with one name.
/// That two of 10 million have one by chance has a probability of 3 in a
/// million; then the one that lives longer can be cut off when the other ends.
pub trait Directory: fmt::Debug + Send + Sync {
    /// The worker that has this flow, if one has.
    fn owner(&self, flow: u64) -> Option<WorkerId>;

    /// Notes that `worker` has this flow, unless another has it already. Says
    /// who has it now. Of several that try at once one wins.
    fn claim(&self, flow: u64, worker: WorkerId) -> WorkerId;

    /// Forgets that `worker` has this flow.
    fn release(&self, flow: u64, worker: WorkerId);
}

/// What a pipeline must know of the others.
#[derive(Debug, Clone)]
pub struct Team {
    /// How many workers there are: their numbers are below it.
    pub workers: u16,
    /// Where they look up whose flow it is.
    pub directory: Arc<dyn Directory>,
}

/// One worker in its team.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) me: WorkerId,
    pub(crate) workers: u16,
    pub(crate) directory: Arc<dyn Directory>,
}

impl Membership {
    /// Whoever else has the flow.
    pub(crate) fn other_owner(&self, flow: u64) -> Option<WorkerId> {
        self.directory.owner(flow).filter(|owner| *owner != self.me)
    }

    /// Takes a flow, or says who has it already.
    pub(crate) fn claim(&self, flow: u64) -> Result<(), WorkerId> {
        let owner = self.directory.claim(flow, self.me);
        if owner == self.me { Ok(()) } else { Err(owner) }
    }

    pub(crate) fn release(&self, flow: u64) {
        self.directory.release(flow, self.me);
    }
}

/// How the SNAT ports are dealt out: one to each worker, in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortDeal {
    first: u16,
    last: u16,
    workers: u16,
}

/// The ports of one worker: `first`, and every `step`th after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortShare {
    first: u32,
    step: u32,
    count: u32,
}

impl PortDeal {
    pub(crate) fn new(ports: &RangeInclusive<u16>, workers: u16) -> Self {
        // Port 0 is none.
        Self { first: (*ports.start()).max(1), last: *ports.end(), workers: workers.max(1) }
    }

    /// The worker whose port it is; `None` for a port that is not dealt out.
    pub(crate) fn owner(self, port: u16) -> Option<WorkerId> {
        if port > self.last {
            return None;
        }
        let place = port.checked_sub(self.first)?;
        Some(WorkerId(place.checked_rem(self.workers)?))
    }

    pub(crate) fn share(self, worker: WorkerId) -> PortShare {
        let (first, step) = (u32::from(self.first) + u32::from(worker.0), u32::from(self.workers));
        let count = (u32::from(self.last) + 1).saturating_sub(first).div_ceil(step);
        let count = if worker.0 < self.workers { count } else { 0 };
        PortShare { first, step, count }
    }
}

impl PortShare {
    pub(crate) fn count(self) -> u32 {
        self.count
    }

    /// A port by its place, below `count`.
    pub(crate) fn port(self, place: u32) -> Option<u16> {
        if place >= self.count {
            return None;
        }
        u16::try_from(self.first + place * self.step).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Each port has one owner, who has it once; nobody has more than one
        /// more than another.
        #[test]
        fn every_port_is_dealt_to_one_worker(
            first in 0_u16..=u16::MAX, length in 0_u16..2_000, workers in 1_u16..70,
        ) {
            let last = first.saturating_add(length);
            let deal = PortDeal::new(&(first..=last), workers);
            let mut owners = BTreeMap::new();
            let mut counts = Vec::new();
            for worker in (0..workers).map(WorkerId) {
                let share = deal.share(worker);
                counts.push(share.count());
                prop_assert_eq!(share.port(share.count()), None);
                for place in 0..share.count() {
                    let port = share.port(place).unwrap();
                    prop_assert_eq!(deal.owner(port), Some(worker));
                    prop_assert_eq!(owners.insert(port, worker), None);
                }
            }
            let dealt: Vec<_> = owners.into_keys().collect();
            let all: Vec<_> = (first.max(1)..=last).collect();
            prop_assert_eq!(dealt, all);
            let (most, least) = (counts.iter().max().unwrap(), counts.iter().min().unwrap());
            prop_assert!(most - least <= 1);
            prop_assert_eq!(deal.owner(0), None);
            if first > 1 {
                prop_assert_eq!(deal.owner(first - 1), None);
            }
            if last < u16::MAX {
                prop_assert_eq!(deal.owner(last + 1), None);
            }
        }
    }

    #[test]
    fn who_is_not_of_the_team_has_nothing() {
        let deal = PortDeal::new(&(1..=65_535), 4);
        assert_eq!(deal.share(WorkerId(4)).count(), 0);
        let none = RangeInclusive::new(9, 2);
        assert_eq!(PortDeal::new(&none, 2).share(WorkerId(0)).count(), 0);
    }
}
