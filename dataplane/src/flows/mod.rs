//! The flows of one worker: the table, and how a flow begins and ends in it.
//!
//! Whatever begins or ends a flow goes through here, so that the counters
//! always tell the same as the table.

mod deadlines;
mod entry;
mod half_open;
mod hash;
mod index;
mod listing;
mod table;

use std::ops::RangeInclusive;
use std::sync::Arc;

use blixt_mem::RegionError;

pub(crate) use deadlines::BLOCK;
pub(crate) use entry::{Direction, Flow, Stage};
pub(crate) use hash::HashKey;
pub use listing::{FLOWS_AT_ONCE, FlowFilter, FlowRecord, FlowState, Network, PeerFilter, Scanned};
pub(crate) use table::{FlowTable, Likely};

use crate::counters::{Counters, SlotCounters, SlotStats};
use crate::drops::DropReason;
use crate::packet::{FlowId, Side, Tuple, WorkerId};
use crate::pipeline::PipelineConfig;
use crate::select::Before;
use crate::snat::SnatPorts;
use crate::sweep::Cursor;
use crate::tcp::TcpState;
use crate::team::{Membership, PortDeal, Team};
use crate::timeouts::{Idle, Millis, Timeouts};
use crate::udp::UdpState;

/// What one flow takes of the worker's memory at most, in bytes, where there
/// are many: both its directions, whether it is half-open, and when it is over.
pub const BYTES_PER_FLOW: usize = flow_bytes(MANY).div_ceil(MANY);
const MANY: usize = 1 << 24;
// With the 10 bytes of a directory of several workers' flows: 128.
const _: () = assert!(BYTES_PER_FLOW <= 118);

/// What room for so many flows takes of a worker's memory, in bytes.
pub const fn flow_bytes(capacity: usize) -> usize {
    table::bytes(capacity)
}

/// How many half-open flows are looked at for one that goes through the node's
/// kernel: where these are too many, nearly all of them do.
const HALF_OPEN_LOOKED_AT: usize = 16;

/// All that a worker remembers.
#[derive(Debug)]
pub(crate) struct Flows {
    pub(crate) table: FlowTable,
    pub(crate) snat: SnatPorts,
    pub(crate) cursor: Cursor,
    idle: IdleTimes,
    me: WorkerId,
    ports: RangeInclusive<u16>,
    deal: PortDeal,
    /// The other workers; `None` if there are none.
    pub(crate) team: Option<Membership>,
    /// Entries that only keep a SNAT port at rest.
    resting: usize,
    /// Entries whose flow goes through the node's kernel, resting or not.
    by_host: usize,
}

/// What a tuple belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) id: FlowId,
    pub(crate) direction: Direction,
}

/// When something happens, and where it is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment<'a> {
    pub(crate) now: Millis,
    pub(crate) stats: &'a SlotStats,
    pub(crate) counters: &'a Counters,
}

/// [`Timeouts`], as entries need them.
#[derive(Debug)]
struct IdleTimes {
    tcp_established: Idle,
    tcp_transitory: Idle,
    tcp_rest: Idle,
    udp: Idle,
    udp_query: Idle,
}

impl Flows {
    /// Takes all the memory they will ever need.
    pub(crate) fn new(config: &PipelineConfig) -> Result<Self, RegionError> {
        let key = HashKey::new(config.hash_key);
        let deal = PortDeal::new(&config.snat_ports, 1);
        Ok(Self {
            snat: SnatPorts::new(deal.share(WorkerId(0)), key.clone()),
            me: config.worker,
            ports: config.snat_ports.clone(),
            deal,
            team: None,
            table: FlowTable::new(config.flow_capacity, key)?,
            cursor: Cursor::default(),
            idle: IdleTimes::new(&config.timeouts),
            resting: 0,
            by_host: 0,
        })
    }

    /// Changes how long flows are kept: of those that there are, too, in the next
    /// rounds of the sweep.
    pub(crate) fn keep_for(&mut self, timeouts: &Timeouts) {
        self.idle = IdleTimes::new(timeouts);
        self.cursor.look_at_all();
    }

    /// No entry is kept for longer than one that has seen a packet now.
    pub(crate) fn bring_in_line(&mut self, id: FlowId, now: Millis) {
        let Some(flow) = self.table.flow(id) else { return };
        let latest = self.expiry(flow.stage(), now);
        if latest.is_over(Millis(flow.expires)) {
            self.table.set_over(id, latest);
        }
    }

    /// Makes them those of one worker among several. There are none yet.
    pub(crate) fn join(&mut self, team: &Team) {
        self.deal = PortDeal::new(&self.ports, team.workers);
        self.snat.deal(self.deal.share(self.me));
        let directory = Arc::clone(&team.directory);
        self.team = Some(Membership { me: self.me, workers: team.workers, directory });
    }

    /// Which other worker has the flow of a packet that is not found here.
    /// `hash` is the tuple's.
    pub(crate) fn other_owner(&self, side: Side, tuple: &Tuple, hash: u64) -> Option<WorkerId> {
        let team = self.team.as_ref()?;
        match side {
            Side::ToVip => team.other_owner(hash),
            Side::ToSnat => self.deal.owner(tuple.dst_port).filter(|owner| *owner != self.me),
        }
    }

    /// Lets the other workers know that a flow is about to begin here; or says
    /// where it has begun already. `hash` is that of the client's tuple.
    pub(crate) fn claim(&self, hash: u64) -> Result<(), WorkerId> {
        self.team.as_ref().map_or(Ok(()), |team| team.claim(hash))
    }

    /// Lets the other workers know that a client's tuple is free again.
    fn release(&self, flow: &Flow) {
        if let Some(team) = &self.team {
            team.release(self.table.hash(&flow.tuple(Direction::ToEndpoint)));
        }
    }

    /// A flow by its number.
    #[inline(always)]
    pub(crate) fn flow(&self, id: FlowId) -> Option<&Flow> {
        self.table.flow(id)
    }

    /// When a flow that sees a packet now will have been idle for too long.
    #[inline(always)]
    pub(crate) fn expiry(&self, stage: Stage, now: Millis) -> Millis {
        now.after(self.idle_time(stage))
    }

    /// How long an entry may be idle.
    #[inline(always)]
    fn idle_time(&self, stage: Stage) -> Idle {
        match stage {
            Stage::Udp(UdpState::Talking) => self.idle.udp,
            Stage::Udp(_) => self.idle.udp_query,
            Stage::Tcp(TcpState::Established) => self.idle.tcp_established,
            Stage::Tcp(_) => self.idle.tcp_transitory,
            Stage::Resting | Stage::Free => self.idle.tcp_rest,
        }
    }

    /// Begins a flow that is claimed. `hashes` are those of its tuples, the client's first;
    /// neither is in the table. `None` if there is no room.
    pub(crate) fn begin(
        &mut self,
        flow: &Flow,
        hashes: [u64; 2],
        moment: Moment<'_>,
    ) -> Option<FlowId> {
        let id = self.table.insert(flow, hashes)?;
        self.by_host += usize::from(flow.is_by_host());
        for_slots(flow, moment.stats, |slot| {
            slot.flows.add(1);
            slot.active_flows.add(1);
        });
        if let Some(endpoint) = moment.stats.slot(flow.endpoint_slot) {
            endpoint.take_port();
        }
        moment.counters.flows_created.add(1);
        Some(id)
    }

    /// Notes that a flow has seen a packet, and what it is now.
    #[inline(always)]
    pub(crate) fn touch(&mut self, id: FlowId, stage: Stage, now: Millis) {
        let expiry = self.expiry(stage, now);
        if let Some(flow) = self.table.flow_mut(id) {
            flow.set_stage(stage);
        }
        self.table.set_over(id, expiry);
    }

    /// Has a flow forgotten as soon as one that is not open, unless a packet
    /// says that it goes on.
    #[cold]
    pub(crate) fn doubt(&mut self, id: FlowId, now: Millis) {
        let soon = now.after(self.idle.tcp_transitory);
        if self.table.flow(id).is_some_and(|flow| soon.is_over(Millis(flow.expires))) {
            self.table.set_over(id, soon);
        }
    }

    /// Ends a TCP flow: its entry rests, and late segments still find it.
    pub(crate) fn rest(&mut self, id: FlowId, moment: Moment<'_>) {
        let expiry = self.expiry(Stage::Resting, moment.now);
        let Some(flow) = self.table.flow_mut(id).filter(|flow| flow.stage().is_live()) else {
            return;
        };
        flow.set_stage(Stage::Resting);
        ended(flow, moment);
        self.table.set_over(id, expiry);
        self.resting += 1;
        self.table.opened(id);
    }

    /// Takes the client's tuple from a flow, so that another can have it. If
    /// it still lives it ends. Its SNAT port rests.
    pub(crate) fn replace(&mut self, id: FlowId, moment: Moment<'_>) {
        self.rest(id, moment);
        if let Some(flow) = self.table.flow(id).filter(|flow| !flow.is_replaced()) {
            self.release(flow);
        }
        self.table.replace(id);
    }

    /// Ends a flow that has been idle for too long. The port of a connection
    /// rests, and whichever end still talks is told that it is over.
    pub(crate) fn expire(&mut self, id: FlowId, moment: Moment<'_>) {
        if self.table.flow(id).map(Flow::stage).is_some_and(Stage::rests) {
            self.replace(id, moment);
        } else {
            self.remove(id, moment);
        }
    }

    /// Has a half-open flow give way to a new one, if there is any.
    #[cold]
    pub(crate) fn make_room(&mut self, moment: Moment<'_>) {
        if let Some(id) = self.table.next_half_open() {
            self.evict(id, moment);
        }
    }

    /// Looks for room for one more flow through the node's kernel, which takes
    /// `most` from this worker, after what comes before. `Ok(Some(_))` is a
    /// half-open one that has to give way for it.
    pub(crate) fn room_by_host(
        &self,
        most: usize,
        Before { removed, rests }: Before,
    ) -> Result<Option<FlowId>, DropReason> {
        let is_by_host = |id: &FlowId| self.flow(*id).is_some_and(Flow::is_by_host);
        let freed = usize::from(removed.is_some_and(|id| is_by_host(&id)));
        if self.by_host - freed < most {
            return Ok(None);
        }
        let half_open = self.table.half_open_in_turn().filter(|id| Some(*id) != rests);
        half_open
            .take(HALF_OPEN_LOOKED_AT)
            .find(is_by_host)
            .map(Some)
            .ok_or(DropReason::HostPathFull)
    }

    /// Has a half-open flow of those give way.
    #[cold]
    pub(crate) fn give_way_by_host(&mut self, id: FlowId, moment: Moment<'_>) {
        self.table.takes_its_turn(id);
        self.evict(id, moment);
    }

    /// Has this half-open flow give way.
    #[cold]
    pub(crate) fn evict(&mut self, id: FlowId, moment: Moment<'_>) {
        moment.counters.flows_evicted.add(1);
        self.remove(id, moment);
    }

    /// Forgets a flow and frees its SNAT port at once. If it still lives it
    /// ends.
    pub(crate) fn remove(&mut self, id: FlowId, moment: Moment<'_>) {
        let Some(flow) = self.table.flow(id) else { return };
        let by_host = usize::from(flow.is_by_host());
        match flow.stage() {
            Stage::Free => return,
            Stage::Resting => self.resting -= 1,
            Stage::Udp(_) | Stage::Tcp(_) => ended(flow, moment),
        }
        if let Some(endpoint) = moment.stats.slot(flow.endpoint_slot) {
            endpoint.give_port_back();
        }
        if !flow.is_replaced() {
            self.release(flow);
        }
        self.table.remove(id);
        self.by_host -= by_host;
    }

    /// Shows how many entries there are.
    pub(crate) fn publish(&self, counters: &Counters) {
        counters.flow_entries.set(self.table.len() as u64);
        counters.flow_entries_resting.set(self.resting as u64);
        counters.flow_entries_by_host.set(self.by_host as u64);
    }
}

fn ended(flow: &Flow, moment: Moment<'_>) {
    for_slots(flow, moment.stats, |slot| slot.active_flows.sub(1));
    moment.counters.flows_ended.add(1);
}

/// The counters of a flow's backendRef and of its endpoint.
#[inline(always)]
pub(crate) fn for_slots(flow: &Flow, stats: &SlotStats, count: impl Fn(&SlotCounters)) {
    for slot in [flow.backend_slot, flow.endpoint_slot] {
        if let Some(counters) = stats.slot(slot) {
            count(counters);
        }
    }
}

impl IdleTimes {
    fn new(timeouts: &Timeouts) -> Self {
        Self {
            tcp_established: Idle::new(timeouts.tcp_established),
            tcp_transitory: Idle::new(timeouts.tcp_transitory),
            tcp_rest: Idle::new(timeouts.tcp_rest),
            udp: Idle::new(timeouts.udp),
            udp_query: Idle::new(timeouts.udp.min(timeouts.udp_query)),
        }
    }
}
