//! What tables say of a packet, in the words of the API: told alike by an agent
//! and by who compiles the same files without one.

use std::net::SocketAddr;

use blixt_dataplane::{AddressRole, Decision, DropReason, Tables, address};
use blixt_model::{Backend, Gateway, Listener, ListenerName, Protocol, Snapshot, Stream, Target};

use crate::v1alpha1;

/// A packet that is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// What it speaks.
    pub protocol: Protocol,
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes to.
    pub destination: SocketAddr,
}

impl Asked {
    /// The packet that answers this one.
    #[must_use]
    pub fn turned_round(self) -> Self {
        Self { source: self.destination, destination: self.source, ..self }
    }

    /// Whether it is one that an agent with these tables sends itself, rather
    /// than one that it receives.
    pub fn is_ours(&self, tables: &Tables) -> bool {
        let role = |at: SocketAddr| tables.role(address::from_ip(at.ip()));
        role(self.source).is_some() && role(self.destination).is_none()
    }
}

/// Who the packet is for and which way a new flow goes. What becomes of the
/// packet is left open, since that is for workers to say. `tables` are those
/// made of `snapshot`.
pub fn of_tables(
    asked: &Asked,
    snapshot: &Snapshot,
    tables: &Tables,
) -> (v1alpha1::ExplainResponse, Decision) {
    let Asked { protocol, source, destination } = *asked;
    let decision = tables.decide(source, destination, protocol);
    let side = match decision.role {
        Some(AddressRole::Vip) => v1alpha1::Side::ToVip,
        Some(AddressRole::Snat | AddressRole::Host) => v1alpha1::Side::ToSnat,
        None => v1alpha1::Side::NotOurs,
    };
    let wire: v1alpha1::Protocol = protocol.into();
    let told = v1alpha1::ExplainResponse {
        protocol: wire.into(),
        source: Some(source.into()),
        destination: Some(destination.into()),
        side: side.into(),
        endpoint: decision.endpoint.map(|(address, maglev)| v1alpha1::EndpointChoice {
            address: Some(address.into()),
            slot: maglev.slot,
            of: maglev.of,
        }),
        ..v1alpha1::ExplainResponse::default()
    };
    let told = match decision.stream {
        true => of_stream(told, asked, snapshot, &decision),
        false => of_packet(told, asked, snapshot, &decision),
    };
    (told, decision)
}

fn of_packet(
    told: v1alpha1::ExplainResponse,
    asked: &Asked,
    snapshot: &Snapshot,
    decision: &Decision,
) -> v1alpha1::ExplainResponse {
    let is_for_vip = told.side() == v1alpha1::Side::ToVip;
    let listener = listener(asked, snapshot).filter(|_| is_for_vip);
    v1alpha1::ExplainResponse {
        listener: listener.map(|(gateway, listener)| told_of(gateway, &listener.name)),
        route: listener.and_then(|(_, listener)| Some(listener.route.as_ref()?.into())),
        backend: listener.and_then(|(_, listener)| backend(decision, &listener.backends, snapshot)),
        ..told
    }
}

/// The same for a connection that ends on the node. Where its port has several
/// listeners or routes, its first bytes decide between them.
fn of_stream(
    told: v1alpha1::ExplainResponse,
    asked: &Asked,
    snapshot: &Snapshot,
    decision: &Decision,
) -> v1alpha1::ExplainResponse {
    let gateway = gateway(asked, snapshot);
    let stream = gateway.and_then(|gateway| {
        let port = asked.destination.port();
        gateway.streams.iter().find(|stream| stream.port.number() == port)
    });
    let listeners = stream.map_or(&[][..], |stream| &stream.listeners);
    let mut routes = listeners.iter().flat_map(|listener| &listener.routes);
    let route = routes.next().filter(|_| routes.next().is_none());
    let listener = match listeners {
        [listener] => Some(listener),
        _ => None,
    };
    v1alpha1::ExplainResponse {
        listener: gateway.zip(listener).map(|(gateway, it)| told_of(gateway, &it.name)),
        route: route.map(|route| (&route.route).into()),
        backend: route.and_then(|route| backend(decision, &route.backends, snapshot)),
        stream: true,
        by_name: stream.is_some_and(Stream::asks_for_name),
        ..told
    }
}

fn told_of(gateway: &Gateway, listener: &ListenerName) -> v1alpha1::ListenerRef {
    v1alpha1::ListenerRef { gateway: Some((&gateway.name).into()), name: listener.to_string() }
}

/// The Gateway that has the destination.
fn gateway<'a>(asked: &Asked, snapshot: &'a Snapshot) -> Option<&'a Gateway> {
    let vip = asked.destination.ip();
    snapshot.gateways().iter().find(|gateway| gateway.addresses.contains(&vip))
}

fn listener<'a>(asked: &Asked, snapshot: &'a Snapshot) -> Option<(&'a Gateway, &'a Listener)> {
    let Asked { protocol, destination, .. } = *asked;
    let gateway = gateway(asked, snapshot)?;
    let mut listeners = gateway.listeners.iter();
    let listener = listeners.find(|listener| {
        listener.protocol == protocol && listener.port.number() == destination.port()
    })?;
    Some((gateway, listener))
}

fn backend(
    decision: &Decision,
    backends: &[Backend],
    snapshot: &Snapshot,
) -> Option<v1alpha1::BackendChoice> {
    let (place, maglev) = decision.backend?;
    let backend = backends.get(place)?;
    let mut told = v1alpha1::BackendChoice {
        place: place as u32,
        weight: backend.weight.number(),
        slot: maglev.slot,
        of: maglev.of,
        ..v1alpha1::BackendChoice::default()
    };
    match backend.target {
        Target::Rejected(reason) => told.reject_reason = Some(reason.as_str().to_owned()),
        Target::Service(index) => {
            let service = snapshot.service(index)?;
            let affinity: v1alpha1::Affinity = service.affinity.into();
            told.service = Some((&service.id).into());
            told.affinity = Some(affinity.into());
        }
    }
    Some(told)
}

impl From<DropReason> for v1alpha1::Drop {
    fn from(reason: DropReason) -> Self {
        Self {
            reason: reason.name().to_owned(),
            meaning: reason.meaning().to_owned(),
            advice: reason.advice().to_owned(),
        }
    }
}
