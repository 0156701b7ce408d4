//! What workers look up: a snapshot, compiled.
//!
//! Tables are made whole by one writer, never changed, and shared by all
//! workers. They hold no pointers into the snapshot they came from.

mod choice;
mod compile;
mod explain;
mod maglev;
mod roles;
mod size;
mod slots;
mod streams;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use blixt_model::{Generation, HashSeed};
use rustc_hash::FxBuildHasher;

pub(crate) use choice::EndpointChoice;
pub use compile::{CompileError, CompileOptions, Owned};
pub use explain::{Decision, MaglevSlot, Share, choose_offline};
pub use maglev::{MaglevSize, MaglevSizeError};
pub use roles::AddressRole;
use roles::Roles;
pub use slots::{SlotOwner, Slots};
pub use streams::StreamChoice;

/// The compiled tables of one snapshot.
#[derive(Debug, Default)]
pub struct Tables {
    generation: Generation,
    seed: HashSeed,
    addresses: Roles,
    /// VIPs of ours that another node answers for. Apart from the roles, which
    /// every packet asks for: these are asked for only where somebody looks for
    /// an address.
    elsewhere: HashSet<u128, FxBuildHasher>,
    listeners: Known<ListenerKey, ListenerTable>,
    /// Ports whose connections end on the node's own TCP stack. No packet asks
    /// for them.
    streams: Known<ListenerKey, StreamTable>,
    services: Vec<Arc<ServiceTable>>,
    /// By slot.
    endpoints: Vec<EndpointFate>,
    snat: SnatAddresses,
    /// The addresses of the host path, IPv4 first; 0 where there is none.
    host: [u128; 2],
}

/// A map that is asked for keys off the wire, but holds only those of our own
/// configuration: no sender can make its buckets long, so that its hash can be
/// a fast one without a key.
type Known<K, V> = HashMap<K, V, FxBuildHasher>;

/// The addresses that flows leave from, in order.
#[derive(Debug, Default)]
struct SnatAddresses {
    v4: Box<[u128]>,
    v6: Box<[u128]>,
}

/// Whether flows to an endpoint may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum EndpointFate {
    /// It exists, or nothing is known of it any more: flows go on.
    #[default]
    Keeps,
    /// Its service no longer lists it: flows end.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ListenerKey {
    vip: u128,
    port: u16,
    protocol: u8,
}

/// A listener's first level: shares of backendRefs.
#[derive(Debug)]
struct ListenerTable {
    shares: Arc<Shares>,
}

/// The first level of a port's routes, in the order of its listeners and theirs.
#[derive(Debug)]
struct StreamTable {
    routes: Arc<[Shares]>,
}

#[derive(Debug)]
struct Shares {
    backends: Vec<BackendEntry>,
    by_slot: ByShare,
    /// Each flow of one client gets the same backendRef: all of them point at
    /// services with ClientIP affinity.
    by_client: bool,
}

#[derive(Debug)]
enum ByShare {
    /// Everything is refused.
    Nobody(crate::DropReason),
    /// There is just one with a weight.
    One(u8),
    /// A Maglev table of places in `backends`.
    Table(Arc<[u8]>),
}

#[derive(Debug, Clone, Copy)]
struct BackendEntry {
    slot: u32,
    /// Place in [`Tables::services`]; `None` refuses the share.
    service: Option<u32>,
}

/// A service port's second level: shares of endpoints, by address family.
#[derive(Debug)]
struct ServiceTable {
    /// What it was made of, to see whether it has changed.
    source: blixt_model::ServicePort,
    size: MaglevSize,
    v4: Members,
    v6: Members,
}

#[derive(Debug, Default)]
struct Members {
    endpoints: Vec<EndpointChoice>,
    by_slot: Box<[u16]>,
}

impl Tables {
    /// Which snapshot they came from.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Why an address is ours, if it is.
    #[inline(always)]
    pub fn role(&self, address: u128) -> Option<AddressRole> {
        self.addresses.get(address)
    }

    /// Whether it is this node that answers ARP and neighbour discovery for an
    /// address of ours. What is sent here is served all the same.
    pub fn is_answered_for(&self, address: u128) -> bool {
        self.role(address).is_some() && !self.elsewhere.contains(&address)
    }

    /// All addresses that are ours.
    pub fn addresses(&self) -> impl Iterator<Item = (u128, AddressRole)> {
        self.addresses.iter()
    }

    /// The addresses that flows to endpoints of a family leave from.
    #[inline]
    pub(crate) fn snat_addresses(&self, v4: bool) -> &[u128] {
        if v4 { &self.snat.v4 } else { &self.snat.v6 }
    }

    /// The address that flows leave from which go through the node's kernel;
    /// at most one.
    pub(crate) fn host_addresses(&self, v4: bool) -> &[u128] {
        let [four, six] = &self.host;
        let address = if v4 { four } else { six };
        if *address == 0 { &[] } else { std::slice::from_ref(address) }
    }

    /// Whether what comes from there goes through the node's kernel.
    #[inline(always)]
    pub(crate) fn is_host_address(&self, address: u128) -> bool {
        let [four, six] = self.host;
        // Half of it says no for nearly every packet.
        let low = address as u64;
        (low == four as u64 || low == six as u64) && self.is_whole_host_address(address)
    }

    #[cold]
    fn is_whole_host_address(&self, address: u128) -> bool {
        self.host.contains(&address)
    }

    /// Whether flows to the endpoint of this slot may go on.
    #[inline(always)]
    pub(crate) fn fate(&self, endpoint_slot: u32) -> EndpointFate {
        self.endpoints.get(endpoint_slot as usize).copied().unwrap_or_default()
    }
}
