//! The program's maps, and what is in them.
//!
//! Each map has one writer, this. What was written is remembered, so that a
//! new set of addresses becomes the few updates that differ.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, XskMap};
use aya::{Ebpf, EbpfLoader};
use blixt_xdp_abi::{
    ADDRESSES, AddressKey, COUNTERS, Counter, HAS_STREAMS, HOST_END, INTERFACES,
    QUEUES_PER_INTERFACE, Role, SOCKETS, STREAMS, StreamKey, stream_key,
};

use super::{Capacities, XdpError};

/// What a new set of addresses changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changes {
    /// How many were added, or changed their role.
    pub added: usize,
    /// How many were removed.
    pub removed: usize,
}

/// What the program has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts([u64; Counter::ALL.len()]);

impl Counts {
    /// One of them.
    pub fn of(&self, counter: Counter) -> u64 {
        self.0.get(counter as usize).copied().unwrap_or_default()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> {
        Counter::ALL.into_iter().zip(self.0)
    }
}

/// Which sockets there are, of which interfaces.
pub(super) struct Maps {
    capacities: Capacities,
    interfaces: HashMap<MapData, u32, u32>,
    sockets: XskMap<MapData>,
}

/// Which addresses are ours, and what the program has counted.
pub struct Addresses {
    capacity: u32,
    capacity_of_streams: u32,
    addresses: HashMap<MapData, AddressKey, u32>,
    streams: HashMap<MapData, StreamKey, u32>,
    counters: PerCpuArray<MapData, u64>,
    /// What `addresses` holds.
    present: BTreeMap<AddressKey, u32>,
    /// What `streams` holds.
    ports: BTreeSet<StreamKey>,
}

/// Tells the loader how large the maps shall be.
pub(super) fn size(loader: &mut EbpfLoader<'_>, capacities: Capacities) {
    loader
        // Twice: a whole set can be added before the one before it goes.
        .map_max_entries(ADDRESSES, capacities.addresses.saturating_mul(2))
        .map_max_entries(STREAMS, capacities.streams.saturating_mul(2))
        .map_max_entries(INTERFACES, capacities.interfaces)
        .map_max_entries(SOCKETS, first_socket(capacities.interfaces));
}

/// Where the sockets of the interface in a slot start.
pub(super) fn first_socket(slot: u32) -> u32 {
    slot.saturating_mul(QUEUES_PER_INTERFACE)
}

impl Maps {
    /// Takes them out of a loaded object.
    pub(super) fn take(
        bpf: &mut Ebpf,
        capacities: Capacities,
        origin: &str,
    ) -> Result<Self, XdpError> {
        Ok(Self {
            capacities,
            interfaces: typed(bpf, INTERFACES, origin)?,
            sockets: typed(bpf, SOCKETS, origin)?,
        })
    }

    pub(super) fn capacities(&self) -> Capacities {
        self.capacities
    }

    pub(super) fn add_interface(
        &mut self,
        ifindex: u32,
        slot: u32,
        is_host_end: bool,
    ) -> Result<(), XdpError> {
        let base = first_socket(slot) | if is_host_end { HOST_END } else { 0 };
        self.interfaces.insert(ifindex, base, 0).map_err(in_map(INTERFACES))
    }

    /// Forgets an interface and its sockets.
    pub(super) fn remove_interface(&mut self, ifindex: u32, slot: u32) -> Result<(), XdpError> {
        absent_is_fine(self.interfaces.remove(&ifindex)).map_err(in_map(INTERFACES))?;
        let first = first_socket(slot);
        (first..first + QUEUES_PER_INTERFACE).try_for_each(|index| self.clear_socket(index))
    }

    pub(super) fn set_socket(&mut self, index: u32, socket: impl AsFd) -> Result<(), MapError> {
        self.sockets.set(index, socket.as_fd(), 0)
    }

    /// The kernel does so by itself when a socket closes.
    pub(super) fn clear_socket(&mut self, index: u32) -> Result<(), XdpError> {
        absent_is_fine(self.sockets.unset(index)).map_err(in_map(SOCKETS))
    }
}

impl Addresses {
    /// Takes them out of a loaded object.
    pub(super) fn take(
        bpf: &mut Ebpf,
        capacities: Capacities,
        origin: &str,
    ) -> Result<Self, XdpError> {
        Ok(Self {
            capacity: capacities.addresses,
            capacity_of_streams: capacities.streams,
            addresses: typed(bpf, ADDRESSES, origin)?,
            streams: typed(bpf, STREAMS, origin)?,
            counters: typed(bpf, COUNTERS, origin)?,
            present: BTreeMap::new(),
            ports: BTreeSet::new(),
        })
    }

    /// How many ports of streams there can be.
    pub fn room_for_streams(&self) -> u32 {
        self.capacity_of_streams
    }

    /// Makes these the addresses that are ours, but for TCP to these ports of
    /// them, which is the kernel's. New ones are added before old ones go, and
    /// those that stay are not touched: there is no moment at which one of them
    /// is missing.
    pub fn set(
        &mut self,
        wanted: &BTreeMap<IpAddr, Role>,
        streams: &BTreeSet<SocketAddr>,
    ) -> Result<Changes, XdpError> {
        let (capacity, most) = (self.capacity, self.capacity_of_streams);
        let fits = |count: usize, most| u32::try_from(count).is_ok_and(|count| count <= most);
        if !fits(wanted.len(), capacity) {
            return Err(XdpError::TooManyAddresses { wanted: wanted.len(), capacity });
        }
        if !fits(streams.len(), most) {
            return Err(XdpError::TooManyStreams { wanted: streams.len(), capacity: most });
        }
        let ports: BTreeSet<_> = streams.iter().map(port_key).collect();
        for port in ports.difference(&self.ports.clone()) {
            self.streams.insert(port, 1, 0).map_err(in_map(STREAMS))?;
            self.ports.insert(*port);
        }
        let having: BTreeSet<_> = streams.iter().map(|at| at.ip()).collect();
        let value = |(address, role): (&IpAddr, &Role)| {
            let flag = if having.contains(address) { HAS_STREAMS } else { 0 };
            (key(*address), role.value() | flag)
        };
        let wanted = wanted.iter().map(value).collect();
        let (added, removed) = difference(&self.present, &wanted);
        for (key, value) in &added {
            self.addresses.insert(key, value, 0).map_err(in_map(ADDRESSES))?;
            self.present.insert(*key, *value);
        }
        for key in &removed {
            absent_is_fine(self.addresses.remove(key)).map_err(in_map(ADDRESSES))?;
            self.present.remove(key);
        }
        for port in self.ports.clone().difference(&ports) {
            absent_is_fine(self.streams.remove(port)).map_err(in_map(STREAMS))?;
            self.ports.remove(port);
        }
        Ok(Changes { added: added.len(), removed: removed.len() })
    }

    /// What the program has counted since it was loaded, over all CPUs.
    pub fn counters(&self) -> Result<Counts, XdpError> {
        let mut counts = Counts::default();
        for (count, counter) in counts.0.iter_mut().zip(Counter::ALL) {
            let per_cpu = self.counters.get(&counter.index(), 0).map_err(in_map(COUNTERS))?;
            *count = per_cpu.iter().sum();
        }
        Ok(counts)
    }
}

/// What to write, and what to take away.
fn difference(
    present: &BTreeMap<AddressKey, u32>,
    wanted: &BTreeMap<AddressKey, u32>,
) -> (Vec<(AddressKey, u32)>, Vec<AddressKey>) {
    let added = wanted
        .iter()
        .filter(|(key, value)| present.get(*key) != Some(*value))
        .map(|(key, value)| (*key, *value))
        .collect();
    let removed = present.keys().filter(|key| !wanted.contains_key(*key)).copied().collect();
    (added, removed)
}

fn key(address: IpAddr) -> AddressKey {
    match address {
        IpAddr::V4(v4) => blixt_xdp_abi::v4_key(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn port_key(at: &SocketAddr) -> StreamKey {
    stream_key(key(at.ip()), at.port().to_be_bytes())
}

fn typed<M: TryFrom<Map, Error = MapError>>(
    bpf: &mut Ebpf,
    name: &'static str,
    origin: &str,
) -> Result<M, XdpError> {
    bpf.take_map(name)
        .and_then(|map| M::try_from(map).ok())
        .ok_or_else(|| XdpError::ForeignObject { origin: origin.into(), lacks: name })
}

fn in_map(map: &'static str) -> impl Fn(MapError) -> XdpError {
    move |source| XdpError::Map { map, source }
}

fn absent_is_fine(answer: Result<(), MapError>) -> Result<(), MapError> {
    /// linux/errno.h: no such entry.
    const ENOENT: i32 = 2;

    match answer {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(ENOENT) => {
            Ok(())
        }
        answer => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[(&str, Role)]) -> BTreeMap<AddressKey, u32> {
        let list = list.iter();
        list.map(|(address, role)| (key(address.parse().unwrap()), role.value())).collect()
    }

    #[test]
    fn only_what_differs_is_written() {
        let before = addresses(&[("192.0.2.1", Role::Vip), ("2001:db8::1", Role::Vip)]);
        let after = addresses(&[("192.0.2.1", Role::Vip), ("192.0.2.2", Role::Snat)]);
        let (added, removed) = difference(&before, &after);
        assert_eq!(added, [(key("192.0.2.2".parse().unwrap()), Role::Snat.value())]);
        assert_eq!(removed, [key("2001:db8::1".parse().unwrap())]);
    }

    #[test]
    fn a_role_that_changes_is_overwritten_in_place() {
        let before = addresses(&[("192.0.2.1", Role::Vip)]);
        let after = addresses(&[("192.0.2.1", Role::Snat)]);
        let (added, removed) = difference(&before, &after);
        assert_eq!((added.len(), removed.len()), (1, 0));
    }

    #[test]
    fn the_same_set_again_changes_nothing() {
        let set = addresses(&[("192.0.2.1", Role::Vip), ("2001:db8::1", Role::Snat)]);
        let (added, removed) = difference(&set, &set);
        assert!(added.is_empty() && removed.is_empty());
    }
}
