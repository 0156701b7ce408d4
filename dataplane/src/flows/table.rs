//! The flow table: what is known of every flow, found by either of its
//! tuples.
//!
//! One mapping holds the index and the entries. Both directions of a flow
//! come and go together. Looking up neither writes nor allocates; a table that
//! is full takes no more and leaves those it has alone.

use blixt_mem::{Region, RegionError};
use bytemuck::Zeroable;

use super::entry::{Direction, Flow, Stage};
use super::hash::HashKey;
use super::index::{self, Bucket};
use crate::packet::{FlowId, Tuple};

/// Half of the places an index can name, each flow having two.
const MAX_CAPACITY: usize = 1 << 30;

/// Ends the list of free entries.
const NOBODY: u32 = u32::MAX;

/// A fixed number of entries, and the index to find them by.
#[derive(Debug)]
pub(crate) struct FlowTable {
    region: Region<Bucket, Flow>,
    key: HashKey,
    /// Entries from here on have never been used.
    fresh: u32,
    /// The entry given back last; each names the one before in `expires`.
    free: u32,
    used: usize,
}

impl FlowTable {
    /// Takes all the memory it will ever need.
    pub(crate) fn new(capacity: usize, key: HashKey) -> Result<Self, RegionError> {
        let capacity = capacity.min(MAX_CAPACITY);
        let buckets = index::buckets_for(2 * capacity);
        Ok(Self { region: Region::new(buckets, capacity)?, key, fresh: 0, free: NOBODY, used: 0 })
    }

    /// How many entries are in use.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    pub(crate) fn is_full(&self) -> bool {
        self.used == self.region.sections().1.len()
    }

    /// Every entry in use has a number below this.
    pub(crate) fn high_water(&self) -> u32 {
        self.fresh
    }

    #[inline(always)]
    pub(crate) fn hash(&self, tuple: &Tuple) -> u64 {
        self.key.hash(tuple)
    }

    /// First step of a look-up that will come: its line of the index.
    #[inline(always)]
    pub(crate) fn prefetch_index(&self, hash: u64) {
        let (buckets, _) = self.region.sections();
        if let Some(bucket) = buckets.get(index::home(buckets, hash)) {
            blixt_mem::prefetch(bucket);
        }
    }

    /// Second step, when the first has had its time: the entry, which lies on
    /// two lines.
    #[inline(always)]
    pub(crate) fn prefetch_entry(&self, hash: u64) {
        let (buckets, entries) = self.region.sections();
        let likely = index::find(buckets, hash, |_| true);
        if let Some(flow) = likely.and_then(|place| entries.get(entry_of(place).0.0 as usize)) {
            blixt_mem::prefetch(flow);
            blixt_mem::prefetch(&flow.endpoint_ack);
        }
    }

    /// The flow that a packet with this tuple belongs to. `hash` is the
    /// tuple's.
    #[inline]
    pub(crate) fn find(&self, hash: u64, tuple: &Tuple) -> Option<(FlowId, Direction)> {
        let (buckets, entries) = self.region.sections();
        let is_it = |place| {
            let (id, direction) = entry_of(place);
            entries.get(id.0 as usize).is_some_and(|flow| flow.tuple(direction) == *tuple)
        };
        index::find(buckets, hash, is_it).map(entry_of)
    }

    #[inline(always)]
    pub(crate) fn flow(&self, id: FlowId) -> Option<&Flow> {
        self.region.sections().1.get(id.0 as usize)
    }

    /// Everything but the tuples may be changed.
    #[inline(always)]
    pub(crate) fn flow_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.region.sections_mut().1.get_mut(id.0 as usize)
    }

    /// Adds a flow, neither of whose tuples is there yet; `hashes` are theirs,
    /// the client's first. `None` if the table is full.
    pub(crate) fn insert(&mut self, flow: &Flow, hashes: [u64; 2]) -> Option<FlowId> {
        let id = self.take_entry()?;
        *self.flow_mut(id)? = *flow;
        let (buckets, _) = self.region.sections_mut();
        let [client, endpoint] = hashes;
        // The index has more than twice the room that all flows need.
        index::insert(buckets, client, place_of(id, Direction::ToEndpoint));
        index::insert(buckets, endpoint, place_of(id, Direction::ToClient));
        Some(id)
    }

    /// Forgets a flow, both directions at once.
    pub(crate) fn remove(&mut self, id: FlowId) {
        let Some(&flow) = self.flow(id).filter(|flow| flow.stage() != Stage::Free) else { return };
        if !flow.is_replaced() {
            self.leave_index(id, &flow, Direction::ToEndpoint);
        }
        self.leave_index(id, &flow, Direction::ToClient);
        let behind = self.free;
        if let Some(entry) = self.flow_mut(id) {
            *entry = Flow { expires: behind, ..Flow::zeroed() };
            self.free = id.0;
            self.used -= 1;
        }
    }

    /// Lets another flow have the client's tuple, while the endpoint's stays
    /// taken.
    pub(crate) fn replace(&mut self, id: FlowId) {
        let Some(&flow) = self.flow(id).filter(|flow| !flow.is_replaced()) else { return };
        self.leave_index(id, &flow, Direction::ToEndpoint);
        if let Some(entry) = self.flow_mut(id) {
            entry.replace();
        }
    }

    fn leave_index(&mut self, id: FlowId, flow: &Flow, direction: Direction) {
        let hash = self.key.hash(&flow.tuple(direction));
        index::remove(self.region.sections_mut().0, hash, place_of(id, direction));
    }

    fn take_entry(&mut self) -> Option<FlowId> {
        let id = if let Some(given_back) = self.flow(FlowId(self.free)) {
            let behind = given_back.expires;
            FlowId(std::mem::replace(&mut self.free, behind))
        } else {
            let id = FlowId(self.fresh);
            self.flow(id)?;
            self.fresh += 1;
            id
        };
        self.used += 1;
        Some(id)
    }
}

/// The index tells the directions apart by the lowest bit.
#[inline(always)]
fn place_of(id: FlowId, direction: Direction) -> u32 {
    id.0 << 1 | u32::from(direction == Direction::ToClient)
}

#[inline(always)]
fn entry_of(place: u32) -> (FlowId, Direction) {
    let direction = if place & 1 == 0 { Direction::ToEndpoint } else { Direction::ToClient };
    (FlowId(place >> 1), direction)
}
