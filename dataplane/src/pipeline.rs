//! The list of stages, and the state that one worker owns.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use blixt_mem::RegionError;
use blixt_model::Protocol;

use crate::answers::{self, Allowance};
use crate::counters::{Counters, SlotStats};
use crate::explain::{self, Explanation};
use crate::fib::Fib;
use crate::flows::{FlowFilter, FlowRecord, Flows, Scanned};
use crate::hops::Hops;
use crate::packet::{Burst, InterfaceSlot, Tick, WorkerId};
use crate::tables::Tables;
use crate::team::Team;
use crate::timeouts::Timeouts;
use crate::{classify, forward, icmp, parse, rewrite, sweep, track};

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
    /// The ports that are used of each SNAT address; those of a [`Team`] deal
    /// them out among themselves.
    pub snat_ports: RangeInclusive<u16>,
    /// Keys the flow table's hash; random, and secret. The same for all workers
    /// of a [`Team`].
    pub hash_key: [u64; 2],
    /// How long flows are kept.
    pub timeouts: Timeouts,
    /// How much it answers by itself.
    pub limits: Limits,
}

/// How many answers a worker makes a second: enough for people and for path
/// MTU discovery, too few to be worth reflecting off (RFC 4443 §2.4 (f)). As
/// many may come at once after a quiet second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Resets that refuse TCP segments.
    pub resets_per_second: u32,
    /// Echo replies and ICMP errors of our own.
    pub icmp_per_second: u32,
}

impl Default for Limits {
    /// ICMP as the sysctl `icmp_msgs_per_sec` long had it for a whole Linux
    /// host. Refused connections deserve more, since each one that is not
    /// answered leaves a client waiting.
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

/// What is done with a burst, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipelineStage {
    /// Finds the headers.
    Parse,
    /// Tells apart what is ours.
    Classify,
    /// Finds or starts flows.
    Track,
    /// Translates ICMP errors.
    Icmp,
    /// Finds next hops.
    Resolve,
    /// Rewrites addresses and ports.
    Rewrite,
    /// Addresses frames to their next hops.
    Forward,
    /// Answers what asks us, or is refused.
    Answers,
}

impl PipelineStage {
    /// All of them, in their order.
    pub const ALL: [Self; 8] = [
        Self::Parse,
        Self::Classify,
        Self::Track,
        Self::Icmp,
        Self::Resolve,
        Self::Rewrite,
        Self::Forward,
        Self::Answers,
    ];

    /// The function that it is.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse::burst",
            Self::Classify => "classify::burst",
            Self::Track => "track::burst",
            Self::Icmp => "icmp::burst",
            Self::Resolve => "forward::resolve",
            Self::Rewrite => "rewrite::burst",
            Self::Forward => "forward::burst",
            Self::Answers => "answers::burst",
        }
    }
}

/// One worker's pipeline.
#[derive(Debug)]
pub struct Pipeline {
    flows: Flows,
    hops: Hops,
    allowance: Allowance,
    counters: Arc<Counters>,
}

impl Pipeline {
    /// Makes it, with all the memory it will ever need.
    pub fn new(config: &PipelineConfig) -> Result<Self, RegionError> {
        Ok(Self {
            flows: Flows::new(config)?,
            hops: Hops::new(),
            allowance: Allowance::new(config.limits),
            counters: Arc::default(),
        })
    }

    /// Makes it one of several: it uses only its share of the SNAT ports, and
    /// leaves packets of the others' flows to them. Before the first packet.
    #[must_use]
    pub fn in_team(mut self, team: &Team) -> Self {
        self.flows.join(team);
        self
    }

    /// What it counts.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Decides about each packet of a burst: afterwards each has a verdict.
    /// Whatever is answered is answered in place, so nothing goes to the sink
    /// so far.
    pub fn process(
        &mut self,
        burst: &mut Burst<'_>,
        view: View<'_>,
        now: Tick,
        _sink: &mut dyn Sink,
    ) {
        self.run(burst, view, now, |_| ());
    }

    /// The same, and says after each stage which one it was: to whoever
    /// measures what each of them takes.
    pub fn process_watched(
        &mut self,
        burst: &mut Burst<'_>,
        view: View<'_>,
        now: Tick,
        after: &mut dyn FnMut(PipelineStage),
    ) {
        self.run(burst, view, now, after);
    }

    /// The stages, in their order.
    #[inline(always)]
    fn run(
        &mut self,
        burst: &mut Burst<'_>,
        view: View<'_>,
        now: Tick,
        mut after: impl FnMut(PipelineStage),
    ) {
        let counters = &*self.counters;
        parse::burst(burst, view.fib);
        after(PipelineStage::Parse);
        classify::burst(burst, view.tables, view.fib);
        after(PipelineStage::Classify);
        track::burst(burst, &mut self.flows, view, now, counters);
        after(PipelineStage::Track);
        icmp::burst(burst, &self.flows);
        after(PipelineStage::Icmp);
        forward::resolve(burst, &mut self.hops, view.tables, view.fib);
        after(PipelineStage::Resolve);
        rewrite::burst(burst, counters);
        after(PipelineStage::Rewrite);
        let waiting = forward::burst(burst, view.fib, counters);
        counters.held.add(waiting);
        after(PipelineStage::Forward);
        answers::burst(burst, &mut self.allowance, view, now, counters);
        after(PipelineStage::Answers);
    }

    /// Tries packets again that were held for a neighbour. They are as they
    /// are to leave, but for the frame's head; so nobody can be told any more
    /// of those that cannot go on.
    pub fn retry(&mut self, burst: &mut Burst<'_>, view: View<'_>, _now: Tick) {
        let counters = &*self.counters;
        parse::burst(burst, view.fib);
        classify::as_rewritten(burst, view.tables);
        forward::resolve(burst, &mut self.hops, view.tables, view.fib);
        forward::burst(burst, view.fib, counters);
        answers::drop_refused(burst, counters);
    }

    /// Changes how long flows are kept: of those that there are, too, within the
    /// next two seconds.
    pub fn keep_for(&mut self, timeouts: &Timeouts) {
        self.flows.keep_for(timeouts);
    }

    /// Looks for flows that have expired or whose endpoint is gone, and resets
    /// the clients of the latter: as many as are due since the last call, and
    /// not more than a bounded number. `true` if more are due already.
    pub fn sweep(&mut self, view: View<'_>, now: Tick, sink: &mut dyn Sink) -> bool {
        let counters = &*self.counters;
        sweep::run(&mut self.flows, view, now, counters, &mut |reset| {
            answers::reset::send(reset, view.fib, sink, counters);
        })
    }

    /// Looks at some of its flows, from entry `from` on, for those that `filter`
    /// asks for: a bounded number at a time. To be called again with what it
    /// says comes next.
    pub fn list_flows(
        &self,
        from: u32,
        filter: &FlowFilter,
        now: Tick,
        each: &mut dyn FnMut(FlowRecord),
    ) -> Scanned {
        self.flows.list(from, filter, now, each)
    }

    /// Tells what would become of a packet. Changes nothing.
    pub fn explain(
        &self,
        source: SocketAddr,
        destination: SocketAddr,
        protocol: Protocol,
        view: View<'_>,
        now: Tick,
    ) -> Explanation {
        explain::explain(&self.flows, source, destination, protocol, view, now)
    }

    /// Announces every address that is answered for on every attached interface: gratuitous ARP
    /// and unsolicited neighbour advertisements.
    pub fn announce(&mut self, view: View<'_>, sink: &mut dyn Sink) {
        answers::announce(view, sink, &self.counters);
    }
}
