//! Who gets a connection that ends on the node's own TCP stack.
//!
//! Chosen as packets' flows are, by the same tables and the same hash: of the
//! four numbers of the connection, or of the client's address. Which route of
//! the port a connection means is for whoever reads it to say.

use std::net::SocketAddr;

use blixt_model::Protocol;

use super::explain::count_places;
use super::{EndpointFate, ListenerKey, Share, Tables};
use crate::address;
use crate::drops::DropReason;
use crate::packet::Tuple;

/// The outcome for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamChoice {
    /// The backendRef's slot, where one was chosen.
    pub backend_slot: Option<u32>,
    /// The endpoint and its slot, or why there is none.
    pub endpoint: Result<(SocketAddr, u32), DropReason>,
}

impl Tables {
    /// The ports of VIPs whose connections end on the node's own TCP stack.
    pub fn stream_ports(&self) -> impl Iterator<Item = SocketAddr> {
        self.streams.keys().map(|key| SocketAddr::new(address::to_ip(key.vip), key.port))
    }

    /// Chooses for a connection by one of its port's routes, which are counted
    /// through all of the port's listeners.
    pub fn choose_for_stream(
        &self,
        client: SocketAddr,
        vip: SocketAddr,
        route: usize,
    ) -> StreamChoice {
        let port = self.streams.get(&ListenerKey::of(vip, Protocol::Tcp));
        let Some(shares) = port.and_then(|port| port.routes.get(route)) else {
            return StreamChoice { backend_slot: None, endpoint: Err(DropReason::NoRoute) };
        };
        let tuple = Tuple {
            src: address::from_ip(client.ip()),
            dst: address::from_ip(vip.ip()),
            src_port: client.port(),
            dst_port: vip.port(),
            protocol: Protocol::Tcp.ip_number(),
        };
        let choice = self.choose_by(shares, &tuple);
        let endpoint = choice.endpoint.map(|endpoint| {
            (SocketAddr::new(address::to_ip(endpoint.address), endpoint.port), endpoint.slot)
        });
        StreamChoice { backend_slot: choice.backend_slot, endpoint }
    }

    /// What the backendRefs of one of a port's routes get of its connections, in
    /// the order of the snapshot.
    pub fn stream_shares(&self, vip: SocketAddr, route: usize) -> Option<Vec<Share>> {
        let port = self.streams.get(&ListenerKey::of(vip, Protocol::Tcp))?;
        Some(count_places(port.routes.get(route)?))
    }

    /// Whether the endpoint of a slot is gone, so that what goes to it has to end.
    pub fn is_gone(&self, endpoint_slot: u32) -> bool {
        self.fate(endpoint_slot) == EndpointFate::Gone
    }
}
