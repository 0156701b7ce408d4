//! The kernel's links, addresses, routes and neighbours, mirrored.
//!
//! [`Mirror`] follows netlink, publishes a [`blixt_dataplane::Fib`] for the
//! workers whenever anything that matters changed, and tells the control
//! thread which devices and addresses there are. It changes nothing in the
//! kernel but for asking it to resolve neighbours.

mod connection;
mod fib;
mod messages;
mod mirror;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use blixt_dataplane::{InterfaceSlot, Mac, Neighbour, Routes, Rss};

pub use mirror::{Mirror, MirrorError, Publish, Resolver, look};

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The kernel's number for it.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address; zero if it has none.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is up and has a carrier: frames can come and go.
    pub running: bool,
    /// How often it got a carrier: a link that was down for less time than it
    /// takes to look has been down all the same.
    pub carrier_ups: u32,
    /// What it is on top of, if it is a VLAN.
    pub vlan: Option<Vlan>,
}

/// A VLAN on top of another device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vlan {
    /// The device below.
    pub below: u32,
    /// TPID and TCI of its frames.
    pub tag: [u16; 2],
}

/// What the control thread wants to know of the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The devices, by number.
    pub devices: BTreeMap<u32, Device>,
    /// The node's own addresses, with the devices they are on.
    pub addresses: BTreeSet<(IpAddr, u32)>,
}

impl View {
    /// The device with a name.
    pub fn device(&self, name: &str) -> Option<&Device> {
        self.devices.values().find(|device| device.name == name)
    }

    /// The node's own addresses, each with the name of its device.
    pub fn own_addresses(&self) -> BTreeMap<IpAddr, String> {
        let name = |ifindex| match self.devices.get(ifindex) {
            Some(device) => device.name.clone(),
            None => format!("interface number {ifindex}"),
        };
        self.addresses.iter().map(|(address, ifindex)| (*address, name(ifindex))).collect()
    }
}

/// An interface that is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachedInterface {
    /// Its place among the interfaces.
    pub slot: InterfaceSlot,
    /// The kernel's number for it.
    pub ifindex: u32,
    /// See [`blixt_dataplane::Interface::partial_checksums`].
    pub partial_checksums: bool,
    /// It is our end of the host path.
    pub host: Option<HostEnd>,
}

/// What our end of the host path is to workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostEnd {
    /// The kernel's station, and ours.
    pub stations: [Mac; 2],
    /// How many flows each worker may have the kernel track.
    pub flows_per_worker: usize,
}

/// Which interfaces are attached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attachments {
    /// How many slots there are, attached or not.
    pub slots: usize,
    /// Those that are attached.
    pub attached: Vec<AttachedInterface>,
    /// How those spread what they receive that tell it.
    pub rss: BTreeMap<InterfaceSlot, Arc<Rss>>,
}

/// All that a [`blixt_dataplane::Fib`] is made of.
#[derive(Debug, Default)]
struct State {
    view: View,
    routes: Arc<Routes>,
    neighbours: BTreeMap<Neighbour, NeighbourEntry>,
}

/// What the kernel knows of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NeighbourEntry {
    mac: Mac,
    /// Nobody has confirmed it for a while, and nobody but us uses it.
    stale: bool,
}
