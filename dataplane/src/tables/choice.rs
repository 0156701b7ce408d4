//! Who gets a new flow.
//!
//! Every node must choose alike, so the hash's input is fixed: source and
//! destination address (16 bytes each, IPv4 as IPv4-mapped), source and
//! destination port, protocol number, all big-endian; or, with ClientIP
//! affinity, the source address alone.

use std::cell::LazyCell;
use std::hash::Hasher;

use blixt_model::{Affinity, HashSeed};
use siphasher::sip128::{Hash128, Hasher128, SipHasher13};

use super::{ByShare, ListenerKey, Members, ServiceTable, Shares, Tables};
use crate::address;
use crate::drops::DropReason;
use crate::packet::Tuple;

/// The outcome for one new flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The backendRef's slot, where one was chosen.
    pub(crate) backend_slot: Option<u32>,
    pub(crate) endpoint: Result<EndpointChoice, DropReason>,
    pub(crate) trail: Trail,
}

/// Which places of which tables led to a choice: what a tool tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Trail {
    /// The backendRef, by its place in the listener.
    pub(crate) backend: usize,
    /// Its slot of the first table.
    pub(crate) backend_maglev: u32,
    /// The endpoint's slot of the second table.
    pub(crate) endpoint_maglev: u32,
}

/// The endpoint a flow goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EndpointChoice {
    pub(crate) slot: u32,
    pub(crate) address: u128,
    pub(crate) port: u16,
}

impl Choice {
    fn refused(reason: DropReason) -> Self {
        Self { backend_slot: None, endpoint: Err(reason), trail: Trail::default() }
    }
}

impl Tables {
    /// Chooses for the first packet of a flow from a client to a VIP.
    pub(crate) fn choose(&self, tuple: &Tuple) -> Choice {
        let key = ListenerKey { vip: tuple.dst, port: tuple.dst_port, protocol: tuple.protocol };
        let Some(listener) = self.listeners.get(&key) else {
            return Choice::refused(DropReason::NoListener);
        };
        self.choose_by(&listener.shares, tuple)
    }

    /// Chooses by these shares.
    #[inline]
    pub(super) fn choose_by(&self, shares: &Shares, tuple: &Tuple) -> Choice {
        // Mostly one of them is asked for.
        let by_flow = LazyCell::new(|| hash(self.seed, tuple, Affinity::None));
        let by_client = LazyCell::new(|| hash(self.seed, tuple, Affinity::ClientIp));
        let hash_for = |affinity| match affinity {
            Affinity::None => *by_flow,
            Affinity::ClientIp => *by_client,
        };

        let share_affinity = if shares.by_client { Affinity::ClientIp } else { Affinity::None };
        let (backend_maglev, place) = match &shares.by_slot {
            ByShare::Nobody(reason) => return Choice::refused(*reason),
            ByShare::One(place) => (0, *place),
            ByShare::Table(table) => match pick(table, hash_for(share_affinity).h1) {
                Some(picked) => picked,
                None => return Choice::refused(DropReason::NoWeight),
            },
        };
        let Some(backend) = shares.backends.get(usize::from(place)) else {
            return Choice::refused(DropReason::NoWeight);
        };
        let service = backend.service.and_then(|index| self.services.get(index as usize));
        let mut trail = Trail { backend: usize::from(place), backend_maglev, ..Trail::default() };
        let endpoint = match service {
            None => Err(DropReason::BadBackend),
            Some(service) => match service.choose(tuple, hash_for(service.source.affinity).h2) {
                None => Err(DropReason::NoEndpoint),
                Some((maglev, endpoint)) => {
                    trail.endpoint_maglev = maglev;
                    Ok(endpoint)
                }
            },
        };
        Choice { backend_slot: Some(backend.slot), endpoint, trail }
    }
}

impl ServiceTable {
    /// The endpoint, and its slot of the table. `hash` is by its affinity.
    fn choose(&self, tuple: &Tuple, hash: u64) -> Option<(u32, EndpointChoice)> {
        let members: &Members = if address::is_v4(tuple.dst) { &self.v4 } else { &self.v6 };
        let (maglev, place) = pick(&members.by_slot, hash)?;
        Some((maglev, members.endpoints.get(usize::from(place)).copied()?))
    }
}

/// The slot that a hash falls on, and what is there.
fn pick<T: Copy>(table: &[T], hash: u64) -> Option<(u32, T)> {
    let slots = table.len() as u64;
    if slots == 0 {
        return None;
    }
    let slot = hash % slots;
    Some((slot as u32, table.get(slot as usize).copied()?))
}

fn hash(seed: HashSeed, tuple: &Tuple, affinity: Affinity) -> Hash128 {
    let mut hasher = SipHasher13::new_with_keys(seed.0, FLOW_KEY);
    hasher.write(&tuple.src.to_be_bytes());
    if affinity == Affinity::None {
        hasher.write(&tuple.dst.to_be_bytes());
        hasher.write(&tuple.src_port.to_be_bytes());
        hasher.write(&tuple.dst_port.to_be_bytes());
        hasher.write(&[tuple.protocol]);
    }
    hasher.finish128()
}

/// Sets these hashes apart from those of candidates; any constant does.
const FLOW_KEY: u64 = u64::from_be_bytes(*b"flow____");
