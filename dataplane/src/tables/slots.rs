//! Numbers for backendRefs and endpoints that stay the same while anything
//! still uses them.
//!
//! Flows remember a number rather than a place in a table that the next
//! snapshot shifts. A number is given to somebody else only when no table
//! names it, each worker has left the tables that did, and no flow counts on
//! it any more.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use blixt_model::{Generation, ListenerId, Port, RouteId, ServicePortId};

/// Who has a slot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotOwner {
    /// The `occurrence`-th backendRef of a listener to the same target.
    Backend {
        /// The listener.
        listener: ListenerId,
        /// The route, where a listener has several at once: those of streams.
        route: Option<RouteId>,
        /// The service, or `None` for references that do not resolve.
        service: Option<ServicePortId>,
        /// Counts references of one listener to the same target.
        occurrence: u32,
    },
    /// One endpoint of one service port.
    Endpoint {
        /// The service port.
        service: ServicePortId,
        /// The endpoint's address.
        address: IpAddr,
        /// The endpoint's port.
        port: Port,
    },
}

/// Hands out slots. Owned by the one who compiles tables.
#[derive(Debug, Default)]
pub struct Slots {
    owners: BTreeMap<SlotOwner, Lease>,
    free: Vec<u32>,
    next: u32,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    slot: u32,
    /// The generation since which no table names it.
    retired: Option<Generation>,
}

impl Slots {
    /// How many slots there are, used or free.
    pub fn capacity(&self) -> usize {
        self.next as usize
    }

    /// Who has slots now, retired owners included.
    pub fn owners(&self) -> impl Iterator<Item = (&SlotOwner, u32)> {
        self.owners.iter().map(|(owner, lease)| (owner, lease.slot))
    }

    /// The owner's slot: the one it has, or a new one.
    pub(crate) fn lease(&mut self, owner: SlotOwner) -> u32 {
        if let Some(lease) = self.owners.get_mut(&owner) {
            lease.retired = None;
            return lease.slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = self.next;
            self.next = self.next.saturating_add(1);
            slot
        });
        self.owners.insert(owner, Lease { slot, retired: None });
        slot
    }

    /// Notes which slots the tables of `generation` no longer name.
    pub(crate) fn retire_all_but(&mut self, named: &HashSet<u32>, generation: Generation) {
        for lease in self.owners.values_mut() {
            if !named.contains(&lease.slot) && lease.retired.is_none() {
                lease.retired = Some(generation);
            }
        }
    }

    /// Takes back retired slots that nothing uses any more: every worker has
    /// `adopted` a generation that does not name them, and `is_idle` says
    /// that no flow counts on them. Returns them for their counters to be
    /// cleared.
    pub fn reclaim(&mut self, adopted: Generation, is_idle: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut reclaimed = Vec::new();
        self.owners.retain(|_, lease| {
            let unused = lease.retired.is_some_and(|since| since <= adopted);
            let keep = !unused || !is_idle(lease.slot);
            if !keep {
                reclaimed.push(lease.slot);
            }
            keep
        });
        self.free.extend(&reclaimed);
        reclaimed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blixt_model::Protocol;

    fn owner(host: u8) -> SlotOwner {
        SlotOwner::Endpoint {
            service: ServicePortId {
                service: "web".parse().unwrap(),
                protocol: Protocol::Tcp,
                port: Port::new(80).unwrap(),
            },
            address: IpAddr::from([10, 1, 0, host]),
            port: Port::new(8080).unwrap(),
        }
    }

    #[test]
    fn an_owner_keeps_its_slot() {
        let mut slots = Slots::default();
        let (a, b) = (slots.lease(owner(1)), slots.lease(owner(2)));
        assert_ne!(a, b);
        assert_eq!(slots.lease(owner(1)), a);
        assert_eq!(slots.capacity(), 2);
    }

    #[test]
    fn a_slot_is_reused_only_when_nothing_uses_it() {
        let mut slots = Slots::default();
        let a = slots.lease(owner(1));
        slots.retire_all_but(&HashSet::new(), Generation(5));
        assert_eq!(slots.reclaim(Generation(4), |_| true), [], "a worker still has old tables");
        assert_eq!(slots.reclaim(Generation(5), |_| false), [], "a flow still counts on it");
        assert_ne!(slots.lease(owner(2)), a);
        assert_eq!(slots.reclaim(Generation(5), |_| true), [a]);
        assert_eq!(slots.lease(owner(3)), a);
    }

    #[test]
    fn an_owner_that_comes_back_is_not_retired() {
        let mut slots = Slots::default();
        let a = slots.lease(owner(1));
        slots.retire_all_but(&HashSet::new(), Generation(5));
        assert_eq!(slots.lease(owner(1)), a);
        assert_eq!(slots.reclaim(Generation(9), |_| true), []);
    }
}
