//! The addresses that are ours: what the XDP program and neighbours are told of
//! them, and which nobody can have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use blixt_dataplane::AddressRole;
use blixt_dataplane::address::to_ip;
use tracing::error;

use super::Control;
use crate::worker::Command;
use crate::xdp::Role;

/// Announcements are repeated once: they may be lost, and a switch port that
/// has just come up drops what comes first.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(1);

impl Control {
    /// The node's own addresses, and why no Gateway can have them.
    pub(super) fn own_addresses(&self) -> BTreeMap<IpAddr, String> {
        let own = self.mirror.view.borrow().own_addresses().into_iter();
        let why =
            |device| format!("is the node's own address on {device}: use one that no node has");
        own.map(|(address, device)| (address, why(device))).collect()
    }

    /// Why Gateways can't have some addresses.
    pub(super) fn unusable_addresses(&self) -> BTreeMap<IpAddr, String> {
        let snat = self.settings.snat_addresses.iter().map(|&address| {
            (address, "is given as --snat-address: use one that nothing else has".to_owned())
        });
        let host = self.host.iter().flat_map(|host| host.addresses().both()).map(|address| {
            (address, "is what the agent's host path has on each node: use another".to_owned())
        });
        self.own_addresses().into_iter().chain(snat).chain(host).collect()
    }

    /// Has the XDP program see to the addresses that the workers know.
    pub(super) fn map_addresses(&mut self) {
        let tables = self.state.published.tables.load();
        let wanted: BTreeMap<_, _> = tables
            .addresses()
            .map(|(address, role)| {
                let role = match role {
                    AddressRole::Vip => Role::Vip,
                    AddressRole::Snat => Role::Snat,
                    AddressRole::Host => Role::Host,
                };
                (to_ip(address), role)
            })
            .collect();
        let ours = tables.addresses().map(|(address, _)| address);
        let answered: BTreeSet<_> =
            ours.filter(|&address| tables.is_answered_for(address)).map(to_ip).collect();
        let news = !answered.is_subset(&self.answered);
        let passed = self.stream_ports(&tables);
        if wanted == self.addresses && passed == self.passed && self.unmapped.is_none() {
            self.answered = answered;
            if news {
                self.announce();
            }
            return;
        }
        match self.map.set(&wanted, &passed) {
            Ok(_) => {
                self.unmapped = None;
                // No neighbour asks for those of the host path.
                let v6 = wanted.iter().filter_map(|it| match it {
                    (IpAddr::V6(v6), Role::Vip | Role::Snat) => Some(*v6),
                    _ => None,
                });
                self.interfaces.join_groups(v6.collect());
                if let Some(host) = &self.host {
                    let vips = wanted.iter().filter(|(_, role)| **role == Role::Vip);
                    host.lead(vips.map(|(vip, _)| *vip).collect());
                }
                self.addresses = wanted;
                self.passed = passed;
                self.answered = answered;
                if news {
                    self.announce();
                }
            }
            Err(error) => {
                error!("{error}");
                self.unmapped = Some(error.to_string());
            }
        }
    }

    /// Tells the neighbours where our addresses are, now and once more.
    pub(super) fn announce(&mut self) {
        self.announce_once();
        self.announce_at = Some(Instant::now() + ANNOUNCE_AGAIN);
    }

    /// Tells them once more, in a moment: another node may have told them that our
    /// addresses are there, and all replicas have said by then whose they are.
    pub(super) fn announce_later(&mut self) {
        match self.announce_at {
            Some(_) => self.announce_more = true,
            None => self.announce_at = Some(Instant::now() + ANNOUNCE_AGAIN),
        }
    }

    pub(super) fn announce_again(&mut self) {
        self.announce_once();
        let more = std::mem::take(&mut self.announce_more);
        self.announce_at = more.then(|| Instant::now() + ANNOUNCE_AGAIN);
    }

    pub(super) fn announce_once(&self) {
        // Each worker has a socket on each interface, so one is enough.
        if let Some(worker) = self.workers.first() {
            worker.send(Command::Announce);
        }
    }

    /// SNAT addresses that somebody gave to an interface meanwhile.
    pub(super) fn stolen_addresses(&self) -> Vec<String> {
        let own = self.mirror.view.borrow().own_addresses();
        let snat = self.tables.snat_addresses().iter();
        snat.filter_map(|address| {
            let device = own.get(address)?;
            Some(format!(
                "the --snat-address {address} is now an address of {device}: take it off there"
            ))
        })
        .collect()
    }
}
