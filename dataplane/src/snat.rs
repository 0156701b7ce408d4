//! Which SNAT address and port a new flow leaves from.
//!
//! There is no list of free ports: a source is free towards an endpoint when
//! no entry of the flow table has the tuple that replies to it would have. All
//! sources of a family form a ring; each endpoint hands them out in rotation,
//! so that one just given up is the last to be used again. Where an endpoint's
//! rotation begins is secret and differs between processes (RFC 6056 §3.3.3),
//! so that an agent that starts anew does not use first what the one before it
//! used first.
//!
//! Each of several workers has ports of its own, so that none gives the same
//! source as another, and a reply's port names the worker whose flow it is.
//! Where it is known how the interface spreads what it receives, a worker
//! prefers sources whose replies come to one of its own queues.
//!
//! Where no source is free, one that only a half-open flow has is as good: that
//! flow gives way. The search comes upon it on its way, in the order of the
//! rotation, so the one that has waited longest is the first to go.

use arrayvec::ArrayVec;

use crate::address;
use crate::counters::SlotCounters;
use crate::drops::DropReason;
use crate::fib::Fib;
use crate::flows::{Flow, FlowTable, HashKey, Stage};
use crate::packet::{FlowId, Tuple};
use crate::rss::Rss;
use crate::select::Before;
use crate::tables::EndpointChoice;
use crate::team::{Membership, PortShare};

/// How many sources are tried for the new flows of one burst, all together:
/// some 100 µs of work at most. A search that ends here goes on with the next
/// flow where it stopped.
const PROBES_PER_BURST: u32 = 4_096;

/// How many are tried even when the burst's are used up, or when all seem to
/// be taken.
const PROBES_AT_LEAST: u32 = 16;

/// How many are tried when all are taken, in the hope that a half-open flow has
/// one of them. As with the burst's, the next search goes on from there.
const PROBES_FOR_HALF_OPEN: u32 = 256;

/// How many are looked up together, to wait for memory only once.
const BATCH: usize = 8;

/// How many free sources are looked at, for each worker there is, for one that
/// brings replies home: in 3 of 10,000 searches none of them does (e^-8).
const STEERED_TRIES: u32 = 8;

/// The ports of every SNAT address that are this worker's.
#[derive(Debug)]
pub(crate) struct SnatPorts {
    share: PortShare,
    key: HashKey,
    probes_left: u32,
}

/// Where a flow leaves from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) address: u128,
    pub(crate) port: u16,
    /// Of the replies' tuple.
    pub(crate) hash: u64,
    /// The half-open flow that has it, and is to give way: there is no free one.
    pub(crate) taken_by: Option<FlowId>,
}

impl SnatPorts {
    pub(crate) fn new(share: PortShare, key: HashKey) -> Self {
        Self { share, key, probes_left: PROBES_PER_BURST }
    }

    /// Changes whose ports they are, before there are any flows.
    pub(crate) fn deal(&mut self, share: PortShare) {
        self.share = share;
    }

    /// Gives the searches of the next burst their share of work.
    pub(crate) fn refill(&mut self) {
        self.probes_left = PROBES_PER_BURST;
    }

    /// Finds a source towards `endpoint`: a free one, or else one that a
    /// half-open flow has, if there are any such flows. `rotation` is where the
    /// endpoint's counters keep how far it has come.
    pub(crate) fn find(
        &mut self,
        table: &FlowTable,
        addresses: &[u128],
        endpoint: &EndpointChoice,
        protocol: u8,
        rotation: Option<&SlotCounters>,
        steering: Option<Steering<'_>>,
    ) -> Result<Source, DropReason> {
        let ring = Ring { ports: self, addresses, endpoint, protocol, before: Before::default() };
        let (tried, found) = ring.next(table, self.probes_left, rotation, steering)?;
        if let Some(counters) = rotation {
            counters.turn(tried);
        }
        self.probes_left = self.probes_left.saturating_sub(tried);
        found.ok_or(DropReason::SnatPorts)
    }

    /// What [`SnatPorts::find`] would find for the first new flow of a burst, after
    /// what comes `before`.
    #[expect(clippy::too_many_arguments, reason = "those of `find`, and one")]
    pub(crate) fn foresee(
        &self,
        table: &FlowTable,
        addresses: &[u128],
        endpoint: &EndpointChoice,
        protocol: u8,
        rotation: Option<&SlotCounters>,
        steering: Option<Steering<'_>>,
        before: Before,
    ) -> Result<Source, DropReason> {
        let ring = Ring { ports: self, addresses, endpoint, protocol, before };
        let (_, found) = ring.next(table, PROBES_PER_BURST, rotation, steering)?;
        found.ok_or(DropReason::SnatPorts)
    }
}

/// All sources towards one endpoint, in the order they are handed out.
struct Ring<'a> {
    ports: &'a SnatPorts,
    addresses: &'a [u128],
    endpoint: &'a EndpointChoice,
    protocol: u8,
    /// What there is now and will not be then.
    before: Before,
}

impl Ring<'_> {
    fn size(&self) -> u64 {
        u64::from(self.ports.share.count()) * self.addresses.len() as u64
    }

    /// Looks for a source where the `rotation` is, trying some `probes`. Says how
    /// many it took.
    fn next(
        &self,
        table: &FlowTable,
        probes: u32,
        rotation: Option<&SlotCounters>,
        steering: Option<Steering<'_>>,
    ) -> Result<(u32, Option<Source>), DropReason> {
        if self.addresses.is_empty() {
            return Err(DropReason::NoSnatAddress);
        }
        let size = self.size();
        let turned = rotation.map_or(0, SlotCounters::turned);
        let all = |counters: &SlotCounters| u64::from(counters.ports_taken()) >= size;
        let taken = self.before.removed.is_none() && rotation.is_some_and(all);
        let allowed = match (taken, table.has_half_open_besides(self.before.rests)) {
            (false, _) => probes,
            (true, true) => probes.min(PROBES_FOR_HALF_OPEN),
            (true, false) => 0,
        };
        let allowed = u64::from(allowed.max(PROBES_AT_LEAST)).min(size) as u32;
        Ok(self.search(table, turned, allowed, steering, taken))
    }

    /// Tries up to `allowed` sources from `turned` on; `taken` says that none of
    /// them is free. Says how many it took.
    fn search(
        &self,
        table: &FlowTable,
        turned: u32,
        allowed: u32,
        steering: Option<Steering<'_>>,
        taken: bool,
    ) -> (u32, Option<Source>) {
        let start = self.ports.key.hash_number(self.endpoint.slot) >> 32;
        let mut tried = 0;
        // The first that is free, though its replies come to another worker.
        let mut next_best = None;
        // The first that is not, but will be if its flow gives way.
        let mut last_resort = None;
        // The first one is nearly always free.
        let mut together = 1;
        while tried < allowed {
            let batch: ArrayVec<_, BATCH> = (tried..allowed)
                .take(together)
                .filter_map(|step| self.source(table, start + u64::from(turned.wrapping_add(step))))
                .collect();
            for (source, _) in &batch {
                table.prefetch_index(source.hash);
            }
            for (source, replies) in &batch {
                tried += 1;
                let user = table.find(source.hash, replies).map(|(id, _)| id);
                if let Some(id) = user.filter(|id| Some(*id) != self.before.removed) {
                    let stage = table.flow(id).map(Flow::stage);
                    if stage.is_some_and(Stage::is_half_open) && Some(id) != self.before.rests {
                        last_resort.get_or_insert(Source { taken_by: Some(id), ..*source });
                        if taken {
                            return (tried, last_resort);
                        }
                    }
                    continue;
                }
                let Some(steering) = steering else { return (tried, Some(*source)) };
                if steering.brings_home(replies) {
                    return (tried, Some(*source));
                }
                next_best.get_or_insert(*source);
                if tried >= steering.tries() {
                    return (tried, next_best);
                }
            }
            if batch.is_empty() {
                break;
            }
            together = BATCH;
        }
        (tried, next_best.or(last_resort))
    }

    /// A source by its place, and the tuple of replies to it. Neighbours
    /// differ in the address, so that each address gets its share.
    fn source(&self, table: &FlowTable, place: u64) -> Option<(Source, Tuple)> {
        let place = place.checked_rem(self.size())?;
        let addresses = self.addresses.len() as u64;
        let address = *self.addresses.get(place.checked_rem(addresses)? as usize)?;
        let port = self.ports.share.port(place.checked_div(addresses)? as u32)?;
        let replies = Tuple {
            src: self.endpoint.address,
            dst: address,
            src_port: self.endpoint.port,
            dst_port: port,
            protocol: self.protocol,
        };
        let hash = table.hash(&replies);
        Some((Source { address, port, hash, taken_by: None }, replies))
    }
}

/// How replies can be brought to this worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steering<'a> {
    rss: &'a Rss,
    team: &'a Membership,
}

impl<'a> Steering<'a> {
    /// For replies from `endpoint`. `None` if the interface they come in on
    /// does not say how it spreads them, or not by ports.
    pub(crate) fn towards(
        endpoint: u128,
        protocol: u8,
        fib: &'a Fib,
        team: &'a Membership,
    ) -> Option<Self> {
        // Nearly always they come the way that packets go.
        let rss = fib.rss_towards(endpoint)?;
        rss.hashes_ports(protocol, address::is_v4(endpoint)).then_some(Self { rss, team })
    }

    fn brings_home(self, replies: &Tuple) -> bool {
        self.rss.worker(replies, self.team.workers) == Some(self.team.me)
    }

    fn tries(self) -> u32 {
        STEERED_TRIES * u32::from(self.team.workers)
    }
}
