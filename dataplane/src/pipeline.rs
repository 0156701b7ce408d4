//! The list of stages, and the state that one worker owns.

use std::ops::RangeInclusive;
use std::sync::Arc;

use blixt_mem::RegionError;

use crate::counters::{Counters, SlotStats};
use crate::fib::Fib;
use crate::packet::{Burst, InterfaceSlot, Tick, WorkerId};
use crate::tables::Tables;
use crate::timeouts::Timeouts;

/// What a burst is judged by: read once by the worker, the same for the whole
/// burst.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The compiled snapshot.
    pub tables: &'a Tables,
    /// The kernel's routes and neighbours.
    pub fib: &'a Fib,
    /// The worker's counters for backendRefs and endpoints.
    pub stats: &'a SlotStats,
}

/// What one worker's pipeline is made with.
#[derive(Debug, Clone)]
pub struct PipelineConfig {
    /// Which worker it belongs to.
    pub worker: WorkerId,
    /// How many flows it can hold.
    pub flow_capacity: usize,
    /// The ports it may use on each SNAT address.
    pub snat_ports: RangeInclusive<u16>,
    /// Keys the flow table's hash; random, and secret.
    pub hash_key: [u64; 2],
    /// How long flows are kept.
    pub timeouts: Timeouts,
    /// How much it answers by itself.
    pub limits: Limits,
}

/// How many answers a worker makes a second: enough for people and for path
/// MTU discovery, too few to be worth reflecting off (RFC 4443 §2.4 (f),
/// RFC 5961 §7). As many may come at once after a quiet second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Resets that refuse TCP segments.
    pub resets_per_second: u32,
    /// Echo replies and ICMP errors of our own.
    pub icmp_per_second: u32,
}

impl Default for Limits {
    /// Linux allows 1,000 ICMP messages a second for the whole host
    /// (`icmp_msgs_per_sec`); refused connections deserve more, since each
    /// one not answered leaves a client waiting.
    fn default() -> Self {
        Self { resets_per_second: 10_000, icmp_per_second: 1_000 }
    }
}

/// Takes packets that are made besides those received: resets, announcements.
pub trait Sink {
    /// Sends a copy of `frame` out of `egress`. `false` if there was no free
    /// frame for it; the caller counts that.
    fn send(&mut self, egress: InterfaceSlot, frame: &[u8]) -> bool;
}

/// One worker's pipeline.
#[derive(Debug)]
pub struct Pipeline {
    counters: Arc<Counters>,
}

impl Pipeline {
    /// Makes it, with all the memory it will ever need.
    pub fn new(_config: &PipelineConfig) -> Result<Self, RegionError> {
        Ok(Self { counters: Arc::default() })
    }

    /// What it counts.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Decides about each packet of a burst: afterwards each has a verdict.
    pub fn process(
        &mut self,
        _burst: &mut Burst<'_>,
        _view: View<'_>,
        _now: Tick,
        _sink: &mut dyn Sink,
    ) {
    }

    /// Tries packets again that were held for a neighbour.
    pub fn retry(&mut self, _burst: &mut Burst<'_>, _view: View<'_>, _now: Tick) {}

    /// Looks for flows that have expired or whose endpoint is gone: as many
    /// as are due since the last call, and not more than a bounded number.
    pub fn sweep(&mut self, _view: View<'_>, _now: Tick, _sink: &mut dyn Sink) {}

    /// Announces every address on every attached interface: gratuitous ARP
    /// and unsolicited neighbour advertisements.
    pub fn announce(&mut self, _view: View<'_>, _sink: &mut dyn Sink) {}
}
