//! Chooses endpoints for streams by the tables, and counts where workers count,
//! in a row of their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use blixt_dataplane::{DropReason, SlotCounters, SlotStats, StreamChoice, Tables};
use blixt_model::Generation;
use blixt_streams::{Balancer, Chosen, Direction, Reason, RoutePlace, Tally};

use crate::worker::Published;

/// Chooses by these tables.
#[derive(Debug)]
pub(super) struct ByTables {
    tables: Arc<Tables>,
    published: Arc<Published>,
}

impl ByTables {
    pub(super) fn new(tables: Arc<Tables>, published: Arc<Published>) -> Self {
        Self { tables, published }
    }

    /// That of its tables.
    pub(super) fn generation(&self) -> Generation {
        self.tables.generation()
    }
}

impl Balancer for ByTables {
    fn choose(
        &self,
        client: SocketAddr,
        vip: SocketAddr,
        place: RoutePlace,
    ) -> Result<Chosen, Reason> {
        let stats = self.published.streams.load_full();
        match self.tables.choose_for_stream(client, vip, place.0) {
            StreamChoice { backend_slot: Some(backend), endpoint: Ok((endpoint, slot)) } => {
                let tally = Box::new(Line::new(stats, [backend, slot]));
                Ok(Chosen { endpoint, slot, backend_slot: backend, tally })
            }
            StreamChoice { backend_slot, endpoint } => {
                if let Some(counters) = backend_slot.and_then(|slot| stats.slot(slot)) {
                    counters.refused.add_shared(1);
                }
                Err(endpoint.err().map_or(Reason::NoRoute, reason))
            }
        }
    }

    fn is_gone(&self, slot: u32) -> bool {
        self.tables.is_gone(slot)
    }
}

/// Why tables refuse a stream.
fn reason(drop: DropReason) -> Reason {
    match drop {
        DropReason::NoWeight => Reason::NoWeight,
        DropReason::BadBackend => Reason::BadBackend,
        DropReason::NoEndpoint => Reason::NoEndpoint,
        // Choosing has no other reasons than these.
        _ => Reason::NoRoute,
    }
}

/// A stream in the counters of its backendRef and its endpoint, whose slots it
/// keeps from others as long as it is there.
#[derive(Debug)]
struct Line {
    stats: Arc<SlotStats>,
    slots: [u32; 2],
    began: AtomicBool,
}

impl Line {
    fn new(stats: Arc<SlotStats>, slots: [u32; 2]) -> Self {
        let line = Self { stats, slots, began: AtomicBool::new(false) };
        line.each(|counters| counters.active_flows.add_shared(1));
        line
    }

    fn each(&self, count: impl Fn(&SlotCounters)) {
        self.slots.iter().filter_map(|slot| self.stats.slot(*slot)).for_each(count);
    }
}

impl Tally for Line {
    fn began(&self) {
        self.began.store(true, Ordering::Relaxed);
        self.each(|counters| counters.flows.add_shared(1));
    }

    fn moved(&self, direction: Direction, bytes: u64) {
        self.each(|counters| match direction {
            Direction::ToEndpoint => counters.bytes_in.add_shared(bytes),
            Direction::ToClient => counters.bytes_out.add_shared(bytes),
        });
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.began.load(Ordering::Relaxed) {
            self.each(|counters| counters.refused.add_shared(1));
        }
        self.each(|counters| counters.active_flows.sub_shared(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::tests::{VIP, applied, at};

    #[test]
    fn a_stream_counts_for_its_backend_and_endpoint_while_it_is_there() {
        let (published, applied) = applied();
        let balancer = ByTables::new(published.tables.load_full(), Arc::clone(&published));
        let choose = |place| balancer.choose(at("198.51.100.7:5000"), at(VIP), RoutePlace(place));
        let sums = || {
            let stats = published.streams.load_full();
            let slots = applied.slots.values().filter_map(|slot| stats.slot(*slot));
            let of = |counters: &SlotCounters| {
                [
                    counters.flows.value(),
                    counters.active_flows.value(),
                    counters.refused.value(),
                    counters.bytes_in.value(),
                    counters.bytes_out.value(),
                ]
            };
            slots.map(of).fold([0; 5], |sum, each| std::array::from_fn(|n| sum[n] + each[n]))
        };
        let chosen = choose(0).unwrap();
        assert_eq!(chosen.endpoint, at("10.0.0.1:8080"));
        assert_eq!(sums(), [0, 2, 0, 0, 0]);
        chosen.tally.began();
        chosen.tally.moved(Direction::ToEndpoint, 5);
        chosen.tally.moved(Direction::ToClient, 7);
        assert_eq!(sums(), [2, 2, 0, 10, 14]);
        drop(chosen);
        assert_eq!(sums(), [2, 0, 0, 10, 14]);
        // One whose endpoint did not answer.
        drop(choose(0).unwrap());
        assert_eq!(sums(), [2, 0, 2, 10, 14]);
        // The second route's only backendRef does not resolve.
        assert_eq!(choose(1).unwrap_err(), Reason::BadBackend);
        assert_eq!(sums(), [2, 0, 3, 10, 14]);
        assert_eq!(choose(2).unwrap_err(), Reason::NoRoute);
    }
}
