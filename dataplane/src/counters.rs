//! What a worker counts. The worker is the only writer; anybody may read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::drops::DropReason;

/// A number that one thread changes and others read: an ordinary load and
/// store, no locked instruction. Where several threads change one, all of them
/// use [`Counter::add_shared`] and [`Counter::sub_shared`].
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `amount` more. Only ever called by the one writer.
    #[inline(always)]
    pub fn add(&self, amount: u64) {
        self.0.store(self.value().wrapping_add(amount), Ordering::Relaxed);
    }

    /// Counts `amount` less, for what goes up and down; never below 0.
    #[inline(always)]
    pub fn sub(&self, amount: u64) {
        self.0.store(self.value().saturating_sub(amount), Ordering::Relaxed);
    }

    /// Counts `amount` more where several threads do.
    pub fn add_shared(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Counts `amount` less where several threads count; never below 0 if each
    /// takes no more than it has added.
    pub fn sub_shared(&self, amount: u64) {
        self.0.fetch_sub(amount, Ordering::Relaxed);
    }

    /// Puts it to a value.
    #[inline(always)]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it stands at.
    #[inline(always)]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter for each reason, in the order of their numbers.
#[derive(Debug)]
struct Drops([Counter; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

/// What a worker's pipeline counts.
#[derive(Debug, Default)]
pub struct Counters {
    drops: Drops,
    /// Flows started.
    pub flows_created: Counter,
    /// Flows ended, by whatever cause.
    pub flows_ended: Counter,
    /// Half-open flows that gave way to new ones for want of room.
    pub flows_evicted: Counter,
    /// Flows reset because their endpoint is gone.
    pub flows_reset: Counter,
    /// Entries of the flow table in use, resting ones included.
    pub flow_entries: Counter,
    /// Entries that only keep a SNAT port at rest.
    pub flow_entries_resting: Counter,
    /// Entries whose flow goes through the node's kernel, resting ones
    /// included.
    pub flow_entries_by_host: Counter,
    /// Packets given to the worker that owns their flow. Counted by whoever
    /// carries them there, once there was room.
    pub handed_off: Counter,
    /// Packets of known or new flows, sent on towards an endpoint.
    pub packets_to_endpoints: Counter,
    /// Packets of known flows, sent on towards a client.
    pub packets_to_clients: Counter,
    /// ICMP errors sent on.
    pub icmp_errors: Counter,
    /// Checksums completed that a sender on a veth had left partial.
    pub checksums_completed: Counter,
    /// ARP requests answered.
    pub arp_answers: Counter,
    /// Neighbour solicitations answered.
    pub ndp_answers: Counter,
    /// Echo requests answered.
    pub echo_answers: Counter,
    /// Resets sent.
    pub resets: Counter,
    /// ICMP errors of our own sent.
    pub icmp_answers: Counter,
    /// Packets that began to wait for a neighbour.
    pub held: Counter,
}

impl Counters {
    /// How many packets were dropped for `reason`.
    #[inline(always)]
    pub fn dropped(&self, reason: DropReason) -> &Counter {
        // The array has an element for each reason, and reasons are numbered
        // in its order, so the first is never taken for another.
        let Drops(drops) = &self.drops;
        drops.get(reason as usize).unwrap_or(&drops[0])
    }

    /// All of them by name, for tests and for people.
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        let named = [
            ("flow.created", &self.flows_created),
            ("flow.ended", &self.flows_ended),
            ("flow.evicted", &self.flows_evicted),
            ("flow.reset", &self.flows_reset),
            ("flow.entries", &self.flow_entries),
            ("flow.resting", &self.flow_entries_resting),
            ("flow.by_host", &self.flow_entries_by_host),
            ("handed_off", &self.handed_off),
            ("to_endpoints", &self.packets_to_endpoints),
            ("to_clients", &self.packets_to_clients),
            ("icmp.errors", &self.icmp_errors),
            ("checksums.completed", &self.checksums_completed),
            ("answer.arp", &self.arp_answers),
            ("answer.ndp", &self.ndp_answers),
            ("answer.echo", &self.echo_answers),
            ("answer.reset", &self.resets),
            ("answer.icmp", &self.icmp_answers),
            ("held", &self.held),
        ];
        named
            .into_iter()
            .map(|(name, counter)| (name.to_owned(), counter.value()))
            .chain(
                DropReason::ALL.iter().map(|&reason| {
                    (format!("drop.{}", reason.name()), self.dropped(reason).value())
                }),
            )
            .collect()
    }
}

/// What is counted for one backendRef or one endpoint: a cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct SlotCounters {
    /// Flows started.
    pub flows: Counter,
    /// Flows that live.
    pub active_flows: Counter,
    /// Packets from clients.
    pub packets_in: Counter,
    /// Packets to clients.
    pub packets_out: Counter,
    /// Bytes of IP packets from clients.
    pub bytes_in: Counter,
    /// Bytes of IP packets to clients.
    pub bytes_out: Counter,
    /// New flows that were refused here.
    pub refused: Counter,
    /// Where the rotation of SNAT ports stands; see [`crate::snat`].
    next_port: AtomicU32,
    /// How many SNAT ports are taken towards the endpoint, at rest or not.
    ports_taken: AtomicU32,
}

impl SlotCounters {
    /// Whether no entry of the worker's flow table refers to it.
    pub fn is_idle(&self) -> bool {
        self.active_flows.value() == 0 && self.ports_taken() == 0
    }

    /// How far the rotation of SNAT ports has come.
    #[inline(always)]
    pub(crate) fn turned(&self) -> u32 {
        self.next_port.load(Ordering::Relaxed)
    }

    /// Takes the rotation further.
    #[inline(always)]
    pub(crate) fn turn(&self, ports: u32) {
        self.next_port.store(self.turned().wrapping_add(ports), Ordering::Relaxed);
    }

    #[inline(always)]
    pub(crate) fn ports_taken(&self) -> u32 {
        self.ports_taken.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(crate) fn take_port(&self) {
        self.ports_taken.store(self.ports_taken().saturating_add(1), Ordering::Relaxed);
    }

    #[inline(always)]
    pub(crate) fn give_port_back(&self) {
        self.ports_taken.store(self.ports_taken().saturating_sub(1), Ordering::Relaxed);
    }

    /// Back to the start, for the next owner of the slot. Only called when no
    /// worker uses it.
    pub(crate) fn clear(&self) {
        for counter in [
            &self.flows,
            &self.active_flows,
            &self.packets_in,
            &self.packets_out,
            &self.bytes_in,
            &self.bytes_out,
            &self.refused,
        ] {
            counter.set(0);
        }
    }
}

/// How many slots are allocated together.
const CHUNK: usize = 1_024;

/// One worker's counters for all slots. They are grown before tables that need
/// more of them are published; so who takes both takes the tables first.
/// Growing keeps what is there: both the
/// old and the new value count into the same memory.
#[derive(Debug, Clone, Default)]
pub struct SlotStats {
    chunks: Vec<Arc<[SlotCounters; CHUNK]>>,
}

impl SlotStats {
    /// The same counters, with room for at least `slots`.
    #[must_use]
    pub fn grown_to(&self, slots: usize) -> Self {
        let mut chunks = self.chunks.clone();
        while chunks.len() * CHUNK < slots {
            chunks.push(Arc::new(std::array::from_fn(|_| SlotCounters::default())));
        }
        Self { chunks }
    }

    /// For how many slots there is room.
    pub fn room(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    /// Puts a slot's counters back to the start, for its next owner. Only for
    /// slots that [`crate::Slots::reclaim`] gave back.
    pub fn clear(&self, slot: u32) {
        if let Some(counters) = self.slot(slot) {
            counters.clear();
        }
    }

    /// The counters of a slot; `None` beyond the room there is.
    #[inline(always)]
    pub fn slot(&self, slot: u32) -> Option<&SlotCounters> {
        let slot = slot as usize;
        self.chunks.get(slot / CHUNK)?.get(slot % CHUNK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_keeps_the_counts() {
        let small = SlotStats::default().grown_to(1);
        small.slot(0).unwrap().flows.add(3);
        let large = small.grown_to(CHUNK + 1);
        large.slot(0).unwrap().flows.add(1);
        assert_eq!(small.slot(0).unwrap().flows.value(), 4);
        assert!(small.slot(CHUNK as u32).is_none());
        assert!(large.slot(CHUNK as u32).is_some());
        assert!(large.slot(u32::MAX).is_none());
    }

    #[test]
    fn a_slot_is_a_cache_line() {
        assert_eq!(size_of::<SlotCounters>(), 64);
    }

    #[test]
    fn every_drop_has_its_counter() {
        let counters = Counters::default();
        for &reason in DropReason::ALL {
            counters.dropped(reason).add(reason as u64 + 1);
        }
        let names = counters.by_name();
        for &reason in DropReason::ALL {
            assert_eq!(names[&format!("drop.{}", reason.name())], reason as u64 + 1);
        }
    }
}
