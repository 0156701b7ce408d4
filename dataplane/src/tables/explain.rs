//! Tables, as tools tell of them: who gets which share, and which way a packet
//! that starts a flow would go.
//!
//! Nothing is decided here: a choice is told as [`Tables::choose`] made it.

use std::net::{IpAddr, SocketAddr};

use blixt_model::{Port, Protocol};

use super::choice::Choice;
use super::{AddressRole, ByShare, EndpointFate, ListenerKey, Members, Shares, Tables};
use crate::address;
use crate::classify;
use crate::drops::DropReason;
use crate::packet::Tuple;

/// A part of a Maglev table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    /// Slots of the table.
    pub slots: u32,
    /// All the slots there are; 1 where one gets everything, and 0 where
    /// nobody gets anything.
    pub of: u32,
}

/// A slot of a Maglev table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaglevSlot {
    /// Its number, from 0.
    pub slot: u32,
    /// How many slots the table has.
    pub of: u32,
}

/// What becomes of a packet that starts a flow, as far as tables decide it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Why the destination is ours, if it is.
    pub role: Option<AddressRole>,
    /// The backendRef, by its place in the listener, and its slot of the
    /// listener's table.
    pub backend: Option<(usize, MaglevSlot)>,
    /// The endpoint, and its slot of its Service port's table.
    pub endpoint: Option<(SocketAddr, MaglevSlot)>,
    /// Why the flow does not start all the same, if it does not.
    pub refused: Option<DropReason>,
    /// It is a connection that ends on the node's own TCP stack. Of a port with
    /// several routes its first bytes decide who gets it.
    pub stream: bool,
}

impl Tables {
    /// What a listener's backendRefs get of its new flows, in the order of the
    /// snapshot. `None` if nothing listens there.
    pub fn backend_shares(&self, vip: SocketAddr, protocol: Protocol) -> Option<Vec<Share>> {
        Some(count_places(&self.listeners.get(&ListenerKey::of(vip, protocol))?.shares))
    }

    /// What the endpoints of a Service port get of the new flows of their
    /// address family; `service` is the port's place in the snapshot. Those
    /// that take no new flows are missing.
    pub fn endpoint_shares(&self, service: usize) -> Vec<(SocketAddr, Share)> {
        let Some(service) = self.services.get(service) else { return Vec::new() };
        [&service.v4, &service.v6].into_iter().flat_map(Members::shares).collect()
    }

    /// Which way a packet from `client` to `vip` goes that starts a flow.
    pub fn decide(&self, client: SocketAddr, vip: SocketAddr, protocol: Protocol) -> Decision {
        let tuple = Tuple {
            src: address::from_ip(client.ip()),
            dst: address::from_ip(vip.ip()),
            src_port: client.port(),
            dst_port: vip.port(),
            protocol: protocol.ip_number(),
        };
        let role = self.role(tuple.dst);
        let refused = |reason| Decision { role, refused: Some(reason), ..Decision::default() };
        let possible = classify::is_possible_source(tuple.src, self);
        match (self.inadmissible(&tuple), role) {
            (Some(reason), _) => refused(reason),
            (None, _) if !possible => refused(DropReason::SourceAddress),
            (None, Some(AddressRole::Vip)) => self.decide_for_vip(&tuple),
            // What comes from endpoints starts nothing.
            (None, _) => refused(DropReason::NoFlow),
        }
    }

    /// Why a packet is refused before anybody looks for its flow, if it is.
    pub(crate) fn inadmissible(&self, tuple: &Tuple) -> Option<DropReason> {
        if tuple.src_port == 0 || tuple.dst_port == 0 {
            return Some(DropReason::L4Header);
        }
        // Where it is for somebody, its flow vouches for its source, if it has one.
        self.role(tuple.dst).is_none().then(|| {
            match classify::is_possible_source(tuple.src, self) {
                true => DropReason::NotOurAddress,
                false => DropReason::SourceAddress,
            }
        })
    }

    /// Whether flows to endpoints of a family have an address to leave from.
    fn has_source(&self, v4: bool) -> bool {
        !self.snat_addresses(v4).is_empty() || !self.host_addresses(v4).is_empty()
    }

    fn decide_for_vip(&self, tuple: &Tuple) -> Decision {
        let key = ListenerKey { vip: tuple.dst, port: tuple.dst_port, protocol: tuple.protocol };
        let role = Some(AddressRole::Vip);
        match (self.streams.get(&key).map(|port| &*port.routes), self.listeners.get(&key)) {
            (Some([shares]), _) => {
                let (backend, endpoint, refused) =
                    self.told(Some(shares), self.choose_by(shares, tuple), tuple);
                // The kernel has an address for it to leave from.
                let refused = refused.filter(|reason| *reason != DropReason::NoSnatAddress);
                Decision { role, backend, endpoint, refused, stream: true }
            }
            (Some(routes), _) => {
                let refused = routes.is_empty().then_some(DropReason::NoRoute);
                Decision { role, refused, stream: true, ..Decision::default() }
            }
            (None, listener) => {
                let shares = listener.map(|listener| &*listener.shares);
                let (backend, endpoint, refused) = self.told(shares, self.choose(tuple), tuple);
                Decision { role, backend, endpoint, refused, stream: false }
            }
        }
    }

    /// A choice, with its places in the tables.
    fn told(&self, shares: Option<&Shares>, choice: Choice, tuple: &Tuple) -> Told {
        let maglev = |slot, of: usize| MaglevSlot { slot, of: of as u32 };
        let backend = shares.filter(|_| choice.backend_slot.is_some()).map(|shares| {
            let of = match &shares.by_slot {
                ByShare::Table(table) => table.len(),
                ByShare::Nobody(_) | ByShare::One(_) => 1,
            };
            (choice.trail.backend, maglev(choice.trail.backend_maglev, of))
        });
        let service = backend
            .and_then(|(place, _)| shares?.backends.get(place)?.service)
            .and_then(|service| self.services.get(service as usize));
        let endpoint = choice.endpoint.ok().zip(service).map(|(endpoint, service)| {
            let members = if address::is_v4(tuple.dst) { &service.v4 } else { &service.v6 };
            let at = SocketAddr::new(address::to_ip(endpoint.address), endpoint.port);
            (at, maglev(choice.trail.endpoint_maglev, members.by_slot.len()))
        });
        let refused = match choice.endpoint {
            Err(reason) => Some(reason),
            Ok(endpoint) if self.fate(endpoint.slot) == EndpointFate::Gone => {
                Some(DropReason::EndpointGone)
            }
            Ok(endpoint) if !self.has_source(address::is_v4(endpoint.address)) => {
                Some(DropReason::NoSnatAddress)
            }
            Ok(_) => None,
        };
        (backend, endpoint, refused)
    }
}

/// What of a choice is in a [`Decision`].
type Told = (Option<(usize, MaglevSlot)>, Option<(SocketAddr, MaglevSlot)>, Option<DropReason>);

impl ListenerKey {
    pub(super) fn of(vip: SocketAddr, protocol: Protocol) -> Self {
        Self { vip: address::from_ip(vip.ip()), port: vip.port(), protocol: protocol.ip_number() }
    }
}

impl Members {
    fn shares(&self) -> Vec<(SocketAddr, Share)> {
        let mut each = vec![Share::default(); self.endpoints.len()];
        let places = self.by_slot.iter().map(|&place| usize::from(place));
        count(&mut each, places, self.by_slot.len());
        let endpoints = self
            .endpoints
            .iter()
            .map(|endpoint| SocketAddr::new(address::to_ip(endpoint.address), endpoint.port));
        endpoints.zip(each).collect()
    }
}

/// What each backendRef gets.
pub(super) fn count_places(shares: &Shares) -> Vec<Share> {
    let mut each = vec![Share::default(); shares.backends.len()];
    match &shares.by_slot {
        ByShare::Nobody(_) => {}
        ByShare::One(place) => count(&mut each, [usize::from(*place)], 1),
        ByShare::Table(table) => {
            count(&mut each, table.iter().map(|&place| usize::from(place)), table.len());
        }
    }
    each
}

fn count(each: &mut [Share], places: impl IntoIterator<Item = usize>, of: usize) {
    for share in each.iter_mut() {
        share.of = of as u32;
    }
    for place in places {
        if let Some(share) = each.get_mut(place) {
            share.slots += 1;
        }
    }
}

/// Which endpoint a new flow would go to, whether there is a SNAT address or
/// not.
pub fn choose_offline(
    tables: &Tables,
    client: SocketAddr,
    vip: SocketAddr,
    protocol: Protocol,
) -> Result<(IpAddr, Port), DropReason> {
    let Decision { endpoint, refused, .. } = tables.decide(client, vip, protocol);
    match (endpoint, refused) {
        (Some((at, _)), None | Some(DropReason::NoSnatAddress)) => {
            Port::new(at.port()).map(|port| (at.ip(), port)).map_err(|_| DropReason::L4Header)
        }
        (_, refused) => Err(refused.unwrap_or(DropReason::NoEndpoint)),
    }
}
