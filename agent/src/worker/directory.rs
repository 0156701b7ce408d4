//! Which worker has which flow: the one table that all workers write. Only
//! misses and new flows come here.

use std::hash::{BuildHasherDefault, Hasher};

use blixt_dataplane::{Directory, WorkerId};
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

/// A map in parts, each with its own lock.
#[derive(Debug)]
pub(crate) struct FlowDirectory(DashMap<u64, WorkerId, BuildHasherDefault<AlreadyHashed>>);

/// 285 MB of address space. Beyond that it grows when it has to: a reservation
/// that the kernel refuses would end the process.
const MOST_RESERVED: usize = 1 << 24;

impl FlowDirectory {
    /// With room for so many flows, or the most that is reserved, so that it
    /// need not grow while packets wait. What is not used takes no memory
    /// beyond a byte a flow.
    pub(crate) fn new(flows: usize) -> Self {
        let reserved = flows.min(MOST_RESERVED);
        Self(DashMap::with_capacity_and_hasher(reserved, BuildHasherDefault::default()))
    }
}

impl Directory for FlowDirectory {
    fn owner(&self, flow: u64) -> Option<WorkerId> {
        self.0.get(&flow).map(|owner| *owner)
    }

    fn claim(&self, flow: u64, worker: WorkerId) -> WorkerId {
        match self.0.entry(flow) {
            Entry::Occupied(owner) => *owner.get(),
            Entry::Vacant(free) => *free.insert(worker),
        }
    }

    fn release(&self, flow: u64, worker: WorkerId) {
        self.0.remove_if(&flow, |_, owner| *owner == worker);
    }
}

/// Names of flows are hashes under a secret key: they need no other.
#[derive(Debug, Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Never called for a u64; right for everything else all the same.
        self.0 = bytes.iter().fold(self.0, |sum, &byte| sum.rotate_left(8) ^ u64::from(byte));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const A: WorkerId = WorkerId(0);
    const B: WorkerId = WorkerId(1);

    #[test]
    fn who_comes_first_has_the_flow_until_he_gives_it_back() {
        let directory = FlowDirectory::new(4);
        assert_eq!(directory.owner(7), None);
        assert_eq!(directory.claim(7, A), A);
        assert_eq!(directory.claim(7, B), A);
        directory.release(7, B);
        assert_eq!(directory.owner(7), Some(A), "it was not his");
        directory.release(7, A);
        assert_eq!(directory.claim(7, B), B);
    }

    #[test]
    fn of_many_that_claim_at_once_one_gets_it() {
        let directory = FlowDirectory::new(0);
        let directory = &directory;
        let winners: Vec<Vec<WorkerId>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|id| {
                    scope.spawn(move || {
                        (0..10_000).map(|flow| directory.claim(flow, WorkerId(id))).collect()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(winners.iter().all(|each| *each == winners[0]));
    }
}
