//! The flow table: what is known of every flow, found by either of its
//! tuples.
//!
//! One mapping holds the index and the entries. Both directions of a flow
//! come and go together. Looking up neither writes nor allocates; a table that
//! is full takes no more and leaves those it has alone.

use blixt_mem::{Region, RegionError};
use bytemuck::Zeroable;

use super::deadlines::{BLOCK, Deadlines};
use super::entry::{Direction, Flow, Stage};
use super::half_open::HalfOpen;
use super::hash::HashKey;
use super::index::{self, Bucket};
use crate::packet::{FlowId, Tuple};
use crate::timeouts::Millis;

/// What a table for so many flows takes, in bytes: their entries, two places in
/// the index for each, which are half-open, and when they are over. Mappings come
/// in whole huge pages, 2 MiB.
pub(super) const fn bytes(capacity: usize) -> usize {
    let capacity = if capacity < MAX_CAPACITY { capacity } else { MAX_CAPACITY };
    let entries = capacity * size_of::<Flow>();
    let index = index::buckets_for(2 * capacity) * size_of::<Bucket>();
    let region = (entries + index).next_multiple_of(2 << 20);
    region + HalfOpen::bytes(capacity) + Deadlines::bytes(capacity)
}

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
    /// Entries that give way when there is no room.
    half_open: HalfOpen,
    /// When entries are over.
    deadlines: Deadlines,
}

impl FlowTable {
    /// Takes all the memory it will ever need.
    pub(crate) fn new(capacity: usize, key: HashKey) -> Result<Self, RegionError> {
        let capacity = capacity.min(MAX_CAPACITY);
        let buckets = index::buckets_for(2 * capacity);
        Ok(Self {
            region: Region::new(buckets, capacity)?,
            key,
            fresh: 0,
            free: NOBODY,
            used: 0,
            half_open: HalfOpen::new(capacity),
            deadlines: Deadlines::new(capacity),
        })
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
    /// two lines. Says where the flow is likely to be.
    #[inline(always)]
    pub(crate) fn prefetch_entry(&self, hash: u64) -> Likely {
        let (buckets, entries) = self.region.sections();
        let Some(place) = index::likely(buckets, hash) else { return Likely::NOWHERE };
        if let Some(flow) = entries.get(entry_of(place).0.0 as usize) {
            blixt_mem::prefetch(flow);
            blixt_mem::prefetch(&flow.endpoint_ack);
        }
        Likely(place)
    }

    /// Third step: the flow that a packet with this tuple belongs to, if it is
    /// where it was likely to be; that may have changed since.
    #[inline(always)]
    pub(crate) fn find_at(&self, likely: Likely, tuple: &Tuple) -> Option<(FlowId, Direction)> {
        let (id, direction) = entry_of(likely.0);
        self.flow(id)?.is_found_by(tuple, direction).then_some((id, direction))
    }

    /// The flow that a packet with this tuple belongs to. `hash` is the
    /// tuple's.
    #[inline(never)]
    pub(crate) fn find(&self, hash: u64, tuple: &Tuple) -> Option<(FlowId, Direction)> {
        let (buckets, entries) = self.region.sections();
        let is_it = |place| {
            let (id, direction) = entry_of(place);
            entries.get(id.0 as usize).is_some_and(|flow| flow.is_found_by(tuple, direction))
        };
        index::find(buckets, hash, is_it).map(entry_of)
    }

    #[inline(always)]
    pub(crate) fn flow(&self, id: FlowId) -> Option<&Flow> {
        self.region.sections().1.get(id.0 as usize)
    }

    /// Everything but the tuples may be changed; when it is over may only be put
    /// off, see [`FlowTable::set_over`].
    #[inline(always)]
    pub(crate) fn flow_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.region.sections_mut().1.get_mut(id.0 as usize)
    }

    /// Adds a flow, neither of whose tuples is there yet; `hashes` are theirs,
    /// the client's first. `None` if the table is full.
    pub(crate) fn insert(&mut self, flow: &Flow, hashes: [u64; 2]) -> Option<FlowId> {
        let fresh = self.fresh;
        let id = self.take_entry()?;
        *self.flow_mut(id)? = *flow;
        let first = id.0 == fresh && fresh.is_multiple_of(BLOCK);
        self.deadlines.add(id.0, Millis(flow.expires), first);
        if flow.stage().is_half_open() {
            self.half_open.add(id.0);
        }
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
        self.half_open.remove(id.0);
        let behind = self.free;
        if let Some(entry) = self.flow_mut(id) {
            *entry = Flow { expires: behind, ..Flow::zeroed() };
            self.free = id.0;
            self.used -= 1;
        }
    }

    /// Says when an entry is over, which may be earlier than before.
    #[inline(always)]
    pub(crate) fn set_over(&mut self, id: FlowId, over: Millis) {
        let Some(flow) = self.flow_mut(id) else { return };
        let before = std::mem::replace(&mut flow.expires, over.0);
        // Nearly always it is put off.
        if over.is_over(Millis(before)) {
            self.deadlines.add(id.0, over, false);
        }
    }

    /// Whether any of the [`BLOCK`] entries that this one belongs to may be over.
    #[inline(always)]
    pub(crate) fn may_be_over(&self, id: FlowId, now: Millis) -> bool {
        self.deadlines.has_come(id.0, now)
    }

    /// Looks when the entries are over that this one belongs to.
    pub(crate) fn renew_deadline(&mut self, id: FlowId, now: Millis) {
        let first = (id.0 - id.0 % BLOCK) as usize;
        let (_, entries) = self.region.sections();
        let block = entries.get(first..).unwrap_or_default().iter().take(BLOCK as usize);
        let used = block.filter(|flow| flow.stage() != Stage::Free);
        self.deadlines.renew(id.0, now, used.map(|flow| Millis(flow.expires)));
    }

    /// Notes that a flow is half-open no longer.
    pub(crate) fn opened(&mut self, id: FlowId) {
        self.half_open.remove(id.0);
    }

    pub(crate) fn has_half_open(&self) -> bool {
        !self.half_open.is_empty()
    }

    /// Whether there is any half-open flow besides this one.
    pub(crate) fn has_half_open_besides(&self, id: Option<FlowId>) -> bool {
        let flow = id.and_then(|id| self.flow(id));
        let itself = flow.map(Flow::stage).is_some_and(Stage::is_half_open);
        self.half_open.len() > usize::from(itself)
    }

    /// The half-open flow whose turn it is to give way.
    pub(crate) fn next_half_open(&mut self) -> Option<FlowId> {
        self.half_open.next().map(FlowId)
    }

    /// The half-open flows whose turn it is next.
    pub(crate) fn half_open_in_turn(&self) -> impl Iterator<Item = FlowId> {
        self.half_open.in_turn().map(FlowId)
    }

    /// One of them gives way out of turn.
    pub(crate) fn takes_its_turn(&mut self, id: FlowId) {
        self.half_open.taken(id.0);
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

/// A place of the index that a look-up saw on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Likely(u32);

impl Likely {
    /// No entry has this number.
    pub(crate) const NOWHERE: Self = Self(u32::MAX);
}

impl Default for Likely {
    fn default() -> Self {
        Self::NOWHERE
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address;
    use crate::udp::UdpState;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn table(capacity: usize) -> FlowTable {
        FlowTable::new(capacity, HashKey::new([7, 8])).unwrap()
    }

    /// A flow of client number `client`, with SNAT port `port`.
    fn flow(client: u16, port: u16) -> Flow {
        let ip = |last: u8| address::from_v4([10, 0, 0, last]);
        let mut flow = Flow {
            client: ip(1),
            vip: ip(2),
            endpoint: ip(3),
            snat: ip(4),
            client_port: client,
            vip_port: 80,
            endpoint_port: 8080,
            snat_port: port,
            protocol: 17,
            ..Flow::zeroed()
        };
        flow.set_stage(Stage::Udp(UdpState::Asked));
        flow
    }

    const BOTH: [Direction; 2] = [Direction::ToEndpoint, Direction::ToClient];

    fn insert(table: &mut FlowTable, flow: &Flow) -> Option<FlowId> {
        let hashes = BOTH.map(|direction| table.hash(&flow.tuple(direction)));
        table.insert(flow, hashes)
    }

    fn find(table: &FlowTable, tuple: &Tuple) -> Option<(FlowId, Direction)> {
        let hash = table.hash(tuple);
        table.prefetch_index(hash);
        let likely = table.prefetch_entry(hash);
        let found = table.find(hash, tuple);
        // Whatever has happened in between.
        for likely in (0..40).map(Likely).chain([likely]) {
            let at = table.find_at(likely, tuple);
            assert!(at.is_none() || at == found, "{at:?} for {found:?}");
        }
        found
    }

    #[test]
    fn a_flow_takes_two_lines_and_its_share_of_the_index() {
        assert_eq!(size_of::<Flow>(), 96);
        for capacity in [1, 1_000, 1 << 18] {
            let beside = HalfOpen::bytes(capacity) + Deadlines::bytes(capacity);
            assert_eq!(table(capacity).region.bytes() + beside, bytes(capacity));
        }
        assert!(bytes(1 << 18) <= (1 << 18) * 118 + (2 << 20));
    }

    #[test]
    fn both_directions_come_and_go_together() {
        let mut table = table(4);
        let flow = flow(1_000, 2_000);
        let id = insert(&mut table, &flow).unwrap();
        for direction in BOTH {
            assert_eq!(find(&table, &flow.tuple(direction)), Some((id, direction)));
            assert_eq!(find(&table, &flow.rewritten(direction)), None);
        }
        table.remove(id);
        for direction in BOTH {
            assert_eq!(find(&table, &flow.tuple(direction)), None);
        }
        assert_eq!(table.len(), 0);
        table.remove(id);
        assert_eq!(table.len(), 0, "once is enough");
    }

    #[test]
    fn a_full_table_takes_no_more_and_keeps_what_it_has() {
        let mut table = table(100);
        for n in 0..100 {
            assert!(insert(&mut table, &flow(n, n)).is_some());
        }
        assert!(table.is_full());
        assert_eq!(insert(&mut table, &flow(100, 100)), None);
        assert_eq!(table.len(), 100);
        for n in 0..100 {
            let (id, _) = find(&table, &flow(n, n).tuple(Direction::ToClient)).unwrap();
            assert_eq!(table.flow(id), Some(&flow(n, n)));
        }
        let (id, _) = find(&table, &flow(50, 50).tuple(Direction::ToClient)).unwrap();
        table.remove(id);
        assert!(insert(&mut table, &flow(100, 100)).is_some(), "one left, one comes");
    }

    #[test]
    fn a_table_without_room_is_full_from_the_start() {
        let mut table = table(0);
        assert!(table.is_full());
        assert_eq!(insert(&mut table, &flow(1, 1)), None);
        assert_eq!(find(&table, &flow(1, 1).tuple(Direction::ToClient)), None);
    }

    #[test]
    fn a_replaced_flow_is_found_by_replies_only() {
        let mut table = table(4);
        let (old, new) = (flow(1, 1), flow(1, 2));
        let old_id = insert(&mut table, &old).unwrap();
        table.replace(old_id);
        table.replace(old_id);
        let new_id = insert(&mut table, &new).unwrap();
        let by_client = find(&table, &old.tuple(Direction::ToEndpoint));
        assert_eq!(by_client, Some((new_id, Direction::ToEndpoint)));
        let by_reply = find(&table, &old.tuple(Direction::ToClient));
        assert_eq!(by_reply, Some((old_id, Direction::ToClient)));
        table.remove(old_id);
        assert_eq!(find(&table, &old.tuple(Direction::ToClient)), None);
        assert_eq!(find(&table, &new.tuple(Direction::ToEndpoint)).unwrap().0, new_id);
    }

    /// What a million comings and goings leave behind is as good as new.
    #[test]
    fn churn_does_not_degrade_the_index() {
        let mut table = table(64);
        let mut ids = std::collections::VecDeque::new();
        for n in 0..100_000_u32 {
            if ids.len() == 64 {
                table.remove(ids.pop_front().unwrap());
            }
            let client = (n % 60_000) as u16;
            ids.push_back(insert(&mut table, &flow(client, client)).unwrap());
        }
        for id in ids {
            table.remove(id);
        }
        let (buckets, entries) = table.region.sections();
        assert!(buckets.iter().all(Bucket::is_as_new));
        assert!(entries.iter().all(|flow| flow.stage() == Stage::Free));
        assert_eq!(table.high_water(), 64);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert { client: u16, port: u16 },
        Remove(usize),
        Replace(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u16..30, 0_u16..30).prop_map(|(client, port)| Step::Insert { client, port }),
            3 => any::<usize>().prop_map(Step::Remove),
            1 => any::<usize>().prop_map(Step::Replace),
        ]
    }

    proptest! {
        /// After any sequence the table knows what two plain maps know.
        #[test]
        fn equals_its_model(steps in proptest::collection::vec(step(), 1..120)) {
            const CAPACITY: usize = 12;
            let mut table = table(CAPACITY);
            let mut by_tuple: HashMap<Tuple, (FlowId, Direction)> = HashMap::new();
            let mut flows: Vec<(FlowId, Flow)> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert { client, port } => {
                        let flow = flow(client, port);
                        let tuples = BOTH.map(|direction| flow.tuple(direction));
                        if tuples.iter().any(|tuple| by_tuple.contains_key(tuple)) {
                            continue;
                        }
                        let id = insert(&mut table, &flow);
                        prop_assert_eq!(id.is_some(), flows.len() < CAPACITY);
                        let Some(id) = id else { continue };
                        prop_assert!(flows.iter().all(|(other, _)| *other != id));
                        for direction in BOTH {
                            by_tuple.insert(flow.tuple(direction), (id, direction));
                        }
                        flows.push((id, flow));
                    }
                    Step::Remove(nth) if !flows.is_empty() => {
                        let (id, _) = flows.swap_remove(nth % flows.len());
                        table.remove(id);
                        by_tuple.retain(|_, (other, _)| *other != id);
                    }
                    Step::Replace(nth) if !flows.is_empty() => {
                        let (id, flow) = flows[nth % flows.len()];
                        table.replace(id);
                        let client = flow.tuple(Direction::ToEndpoint);
                        if by_tuple.get(&client).is_some_and(|found| found.0 == id) {
                            by_tuple.remove(&client);
                        }
                    }
                    Step::Remove(_) | Step::Replace(_) => {}
                }
                prop_assert_eq!(table.len(), flows.len());
                prop_assert_eq!(table.is_full(), flows.len() == CAPACITY);
                for n in 0..30 {
                    for tuple in BOTH.map(|direction| flow(n, n).tuple(direction)) {
                        prop_assert_eq!(find(&table, &tuple), by_tuple.get(&tuple).copied());
                    }
                }
                for (id, flow) in &flows {
                    let kept = table.flow(*id).unwrap();
                    prop_assert_eq!(kept.tuple(Direction::ToClient), flow.tuple(Direction::ToClient));
                }
            }
        }
    }
}
