//! A snapshot in parts, as it travels and is kept: one part for each Gateway
//! and each service, by key. Here snapshots become parts and parts snapshots;
//! nobody else knows both.
//!
//! Parts are canonical: the same wishes give the same bytes, on whichever
//! replica, and these bytes have one digest. A part that is not understood is
//! kept as it is: it may be of a newer version.

mod settings;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use blixt_model as model;
use prost::Message;
use prost::bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::sync::v1alpha1 as wire;

pub use streams::{certificates_in, certificates_out};

/// The kinds of parts that are understood.
const SETTINGS: &str = "Settings";
const GATEWAY: &str = "Gateway";
const SERVICE: &str = "Service";

/// The key of the one part that is always there.
const ALL_SETTINGS: &str = "Settings all";

/// Names a snapshot: SHA-256 over its parts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Takes 32 bytes off the wire; `None` if these are not as many.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// That of bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// For the wire.
    pub fn to_vec(self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl fmt::Display for Digest {
    /// The first 12 digits, which tell snapshots apart in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A snapshot in parts. Cheap to clone part by part: bodies are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    by_key: BTreeMap<String, Bytes>,
    digest: Digest,
}

/// What is wrong with parts off the wire or off a disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartsError {
    /// The bytes are no message.
    #[error("the bytes are no parts of a snapshot ({0})")]
    Undecodable(String),
    /// One key twice.
    #[error("part {0:?} is there twice")]
    Twice(String),
    /// They are not what they are said to be.
    #[error(
        "the parts have digest {found}, and should have {expected}: some are missing or damaged"
    )]
    OtherDigest {
        /// What it should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// A delta for another snapshot.
    #[error("the changes are to snapshot {base}, but {have} is here")]
    WrongBase {
        /// What it changes.
        base: Digest,
        /// What there is.
        have: Digest,
    },
    /// No digest at all.
    #[error("a digest has 32 bytes, and the one of {0} has {1}")]
    NoDigest(&'static str, usize),
    /// A part makes no sense.
    #[error("part {key:?}: {what}")]
    Malformed {
        /// Which.
        key: String,
        /// What is wrong, and where in it.
        what: String,
    },
    /// The parts make no sense together.
    #[error("the parts do not fit together: {0}")]
    Snapshot(#[from] model::SnapshotError),
}

impl Parts {
    /// Takes a snapshot apart. Its generation is not in it: everybody counts
    /// by himself.
    pub fn of(snapshot: &model::Snapshot) -> Self {
        let settings = settings::out(snapshot.seed(), snapshot.settings());
        let settings = (ALL_SETTINGS.to_owned(), body(&settings));
        let gateways = snapshot.gateways().iter().map(|gateway| {
            (Self::gateway_key(&gateway.name), body(&gateway_out(gateway, snapshot)))
        });
        let services = snapshot
            .services()
            .iter()
            .map(|service| (format!("{SERVICE} {}", service.id), body(&service_out(service))));
        Self::new([settings].into_iter().chain(gateways).chain(services).collect())
    }

    fn new(by_key: BTreeMap<String, Bytes>) -> Self {
        let digest = Digest::of(&encode(&by_key));
        Self { by_key, digest }
    }

    /// Their name.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The part of a Gateway, encoded: what tells whether it has changed. What
    /// endpoints its services have is not in it.
    pub fn gateway(&self, name: &model::ObjectName) -> Option<&Bytes> {
        self.by_key.get(&Self::gateway_key(name))
    }

    fn gateway_key(name: &model::ObjectName) -> String {
        format!("{GATEWAY} {name}")
    }

    /// The same parts; those that `other` has too share their bytes with it.
    #[must_use]
    pub fn sharing(mut self, other: &Self) -> Self {
        for (key, body) in &mut self.by_key {
            if let Some(known) = other.by_key.get(key).filter(|known| *known == body) {
                *body = known.clone();
            }
        }
        self
    }

    /// The snapshot they are parts of.
    pub fn snapshot(&self, generation: model::Generation) -> Result<model::Snapshot, PartsError> {
        let mut settings = None;
        let mut gateways = Vec::new();
        let mut services = Vec::new();
        for (key, body) in &self.by_key {
            let malformed = |what| PartsError::Malformed { key: key.clone(), what };
            match key.split(' ').next().unwrap_or_default() {
                SETTINGS if key == ALL_SETTINGS => {
                    let message = decode(body).map_err(malformed)?;
                    settings = Some(settings::read(message).map_err(malformed)?);
                }
                GATEWAY => {
                    let gateway: wire::Gateway = decode(body).map_err(malformed)?;
                    gateways.push((key, gateway));
                }
                SERVICE => {
                    let service = decode(body).and_then(|service| service_in(&service));
                    let service = service.map_err(malformed)?;
                    if *key != format!("{SERVICE} {}", service.id) {
                        return Err(malformed(format!("is called service {}", service.id)));
                    }
                    services.push(service);
                }
                // Of a newer version.
                _ => {}
            }
        }
        // Keys have another order than what they name.
        services.sort_by(|a, b| a.id.cmp(&b.id));
        let numbers: Numbers = services
            .iter()
            .map(|service| service.id.clone())
            .zip((0..).map(model::ServiceIndex))
            .collect();
        let mut gateways = gateways
            .into_iter()
            .map(|(key, gateway)| {
                let malformed = |what| PartsError::Malformed { key: key.clone(), what };
                let gateway = gateway_in(gateway, &numbers).map_err(malformed)?;
                if *key != Self::gateway_key(&gateway.name) {
                    return Err(malformed(format!("is called Gateway {}", gateway.name)));
                }
                Ok(gateway)
            })
            .collect::<Result<Vec<_>, _>>()?;
        gateways.sort_by(|a, b| a.name.cmp(&b.name));
        let (seed, settings) = settings.ok_or_else(|| PartsError::Malformed {
            key: ALL_SETTINGS.to_owned(),
            what: "is missing".to_owned(),
        })?;
        let snapshot = model::Snapshot::new(generation, seed, gateways, services)?;
        Ok(snapshot.with_settings(settings))
    }

    /// How many bytes they are as a message: as a [`wire::Snapshot`].
    pub fn message_bytes(&self) -> usize {
        self.to_snapshot().encoded_len()
    }

    /// For the wire.
    pub fn to_snapshot(&self) -> wire::Snapshot {
        wire::Snapshot { digest: self.digest.to_vec(), parts: parts(&self.by_key).collect() }
    }

    /// Off the wire: all of them, and undamaged.
    pub fn from_snapshot(snapshot: wire::Snapshot) -> Result<Self, PartsError> {
        let expected = digest("the snapshot", &snapshot.digest)?;
        Self::gathered(snapshot.parts)?.expected_to_be(expected)
    }

    /// For a disk.
    pub fn to_wire(&self) -> wire::Parts {
        wire::Parts { parts: parts(&self.by_key).collect() }
    }

    /// Off a disk.
    pub fn from_wire(parts: wire::Parts) -> Result<Self, PartsError> {
        Self::gathered(parts.parts)
    }

    /// As the digest is made of them.
    pub fn encode(&self) -> Vec<u8> {
        encode(&self.by_key)
    }

    /// And back.
    pub fn decode(bytes: &[u8]) -> Result<Self, PartsError> {
        let read = wire::Parts::decode(bytes);
        Self::from_wire(read.map_err(|error| PartsError::Undecodable(error.to_string()))?)
    }

    /// What turns `base` into these.
    pub fn since(&self, base: &Self) -> wire::Delta {
        let is_new = |(key, body): &(&String, &Bytes)| base.by_key.get(*key) != Some(*body);
        let changed = self.by_key.iter().filter(is_new);
        let removed = base.by_key.keys().filter(|key| !self.by_key.contains_key(*key));
        wire::Delta {
            base: base.digest.to_vec(),
            digest: self.digest.to_vec(),
            changed: changed.map(|(key, body)| part(key, body)).collect(),
            removed: removed.cloned().collect(),
        }
    }

    /// What a delta makes of these.
    pub fn changed_by(&self, delta: wire::Delta) -> Result<Self, PartsError> {
        let base = digest("the delta's base", &delta.base)?;
        if base != self.digest {
            return Err(PartsError::WrongBase { base, have: self.digest });
        }
        let expected = digest("the delta", &delta.digest)?;
        let mut by_key = self.by_key.clone();
        for key in &delta.removed {
            by_key.remove(key);
        }
        by_key.extend(delta.changed.into_iter().map(|part| (part.key, part.body)));
        Self::new(by_key).expected_to_be(expected)
    }

    fn gathered(parts: Vec<wire::Part>) -> Result<Self, PartsError> {
        let mut by_key = BTreeMap::new();
        for part in parts {
            if by_key.contains_key(&part.key) {
                return Err(PartsError::Twice(part.key));
            }
            by_key.insert(part.key, part.body);
        }
        Ok(Self::new(by_key))
    }

    fn expected_to_be(self, expected: Digest) -> Result<Self, PartsError> {
        let found = self.digest;
        if found == expected { Ok(self) } else { Err(PartsError::OtherDigest { expected, found }) }
    }
}

type Numbers = BTreeMap<model::ServicePortId, model::ServiceIndex>;

fn body(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

fn part(key: &str, body: &Bytes) -> wire::Part {
    wire::Part { key: key.to_owned(), body: body.clone() }
}

fn parts(by_key: &BTreeMap<String, Bytes>) -> impl Iterator<Item = wire::Part> {
    by_key.iter().map(|(key, body)| part(key, body))
}

fn encode(by_key: &BTreeMap<String, Bytes>) -> Vec<u8> {
    wire::Parts { parts: parts(by_key).collect() }.encode_to_vec()
}

fn decode<M: Message + Default>(body: &Bytes) -> Result<M, String> {
    M::decode(body.clone()).map_err(|error| error.to_string())
}

fn digest(whose: &'static str, bytes: &[u8]) -> Result<Digest, PartsError> {
    Digest::read(bytes).ok_or(PartsError::NoDigest(whose, bytes.len()))
}

/// An address for the wire.
fn address_out(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// What a node is assigned, for the wire: the VIPs that it owns, and its SNAT
/// addresses.
pub fn assignment_out(owned: &BTreeSet<IpAddr>, snat: &BTreeSet<IpAddr>) -> wire::Assignment {
    let out = |addresses: &BTreeSet<IpAddr>| {
        addresses.iter().map(|&address| address_out(address)).collect()
    };
    wire::Assignment { owned_vips: out(owned), snat_addresses: out(snat) }
}

/// Addresses that stay a node's own, with the reason, for the wire.
pub fn taken_out(taken: &BTreeMap<IpAddr, String>) -> Vec<wire::Taken> {
    let out = |(&address, reason): (&IpAddr, &String)| wire::Taken {
        address: address_out(address),
        reason: reason.clone(),
    };
    taken.iter().map(out).collect()
}

/// And back; what is no address is left out.
pub fn taken_in(taken: Vec<wire::Taken>) -> BTreeMap<IpAddr, String> {
    let read = taken.into_iter().filter_map(|it| Some((address_in(&it.address).ok()?, it.reason)));
    read.collect()
}

/// An address off the wire.
pub fn address_in(bytes: &[u8]) -> Result<IpAddr, String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .map_err(|_| format!("an address has 4 or 16 bytes, and this one has {}", bytes.len()))
}

/// A name for the wire.
pub fn name_out(name: &model::ObjectName) -> wire::ObjectName {
    wire::ObjectName { namespace: name.namespace().to_owned(), name: name.name().to_owned() }
}

/// A name off the wire.
pub fn name_in(name: Option<wire::ObjectName>) -> Result<model::ObjectName, String> {
    let name = name.ok_or("has no name")?;
    model::ObjectName::new(name.namespace, name.name).map_err(|error| error.to_string())
}

fn protocol_out(protocol: model::Protocol) -> i32 {
    match protocol {
        model::Protocol::Tcp => wire::Protocol::Tcp,
        model::Protocol::Udp => wire::Protocol::Udp,
    }
    .into()
}

fn protocol_in(number: i32) -> Result<model::Protocol, String> {
    match wire::Protocol::try_from(number) {
        Ok(wire::Protocol::Tcp) => Ok(model::Protocol::Tcp),
        Ok(wire::Protocol::Udp) => Ok(model::Protocol::Udp),
        Ok(wire::Protocol::Unspecified) | Err(_) => Err(format!("protocol {number} is unknown")),
    }
}

fn port_in(number: u32) -> Result<model::Port, String> {
    model::Port::new(number).map_err(|error| error.to_string())
}

fn key_out(id: &model::ServicePortId) -> wire::ServiceKey {
    wire::ServiceKey {
        name: Some(name_out(&id.service)),
        protocol: protocol_out(id.protocol),
        port: id.port.number().into(),
    }
}

fn key_in(key: Option<wire::ServiceKey>) -> Result<model::ServicePortId, String> {
    let key = key.ok_or("has no key")?;
    Ok(model::ServicePortId {
        service: name_in(key.name)?,
        protocol: protocol_in(key.protocol)?,
        port: port_in(key.port)?,
    })
}

fn gateway_out(gateway: &model::Gateway, snapshot: &model::Snapshot) -> wire::Gateway {
    wire::Gateway {
        name: Some(name_out(&gateway.name)),
        addresses: gateway.addresses.iter().map(|&address| address_out(address)).collect(),
        listeners: gateway
            .listeners
            .iter()
            .map(|listener| listener_out(listener, snapshot))
            .collect(),
        streams: gateway.streams.iter().map(|stream| streams::out(stream, snapshot)).collect(),
    }
}

fn gateway_in(gateway: wire::Gateway, numbers: &Numbers) -> Result<model::Gateway, String> {
    let addresses = gateway.addresses.iter().map(|address| address_in(address));
    let listeners = gateway.listeners.into_iter().map(|listener| {
        let name = listener.name.clone();
        listener_in(listener, numbers).map_err(|what| format!("listener {name:?}: {what}"))
    });
    let streams = gateway.streams.into_iter().map(|stream| {
        let port = stream.port;
        streams::taken_in(stream, numbers).map_err(|what| format!("stream on port {port}: {what}"))
    });
    Ok(model::Gateway {
        name: name_in(gateway.name)?,
        addresses: addresses.collect::<Result<_, _>>()?,
        listeners: listeners.collect::<Result<_, _>>()?,
        streams: streams.collect::<Result<_, _>>()?,
    })
}

fn listener_out(listener: &model::Listener, snapshot: &model::Snapshot) -> wire::Listener {
    wire::Listener {
        name: listener.name.as_str().to_owned(),
        protocol: protocol_out(listener.protocol),
        port: listener.port.number().into(),
        route: listener.route.as_ref().map(route_out),
        backends: listener.backends.iter().map(|backend| backend_out(backend, snapshot)).collect(),
        set: listener.name.set().map(name_out),
    }
}

fn listener_name_in(
    name: String,
    set: Option<wire::ObjectName>,
) -> Result<model::ListenerName, String> {
    let name = model::ListenerName::new(name).map_err(|error| error.to_string())?;
    Ok(match set {
        Some(set) => name.in_set(name_in(Some(set))?),
        None => name,
    })
}

fn backends_in(
    backends: Vec<wire::Backend>,
    numbers: &Numbers,
) -> Result<Vec<model::Backend>, String> {
    let backends = (0..).zip(backends).map(|(place, backend): (usize, _)| {
        backend_in(backend, numbers).map_err(|what| format!("backend {place}: {what}"))
    });
    backends.collect()
}

fn listener_in(listener: wire::Listener, numbers: &Numbers) -> Result<model::Listener, String> {
    Ok(model::Listener {
        name: listener_name_in(listener.name, listener.set)?,
        protocol: protocol_in(listener.protocol)?,
        port: port_in(listener.port)?,
        route: listener.route.map(route_in).transpose()?,
        backends: backends_in(listener.backends, numbers)?,
    })
}

fn route_out(route: &model::RouteId) -> wire::Route {
    let kind = match route.kind {
        model::RouteKind::Tcp => wire::RouteKind::Tcp,
        model::RouteKind::Udp => wire::RouteKind::Udp,
        model::RouteKind::Http => wire::RouteKind::Http,
        model::RouteKind::Tls => wire::RouteKind::Tls,
    };
    wire::Route { kind: kind.into(), name: Some(name_out(&route.name)) }
}

fn route_in(route: wire::Route) -> Result<model::RouteId, String> {
    let kind = match wire::RouteKind::try_from(route.kind) {
        Ok(wire::RouteKind::Tcp) => model::RouteKind::Tcp,
        Ok(wire::RouteKind::Udp) => model::RouteKind::Udp,
        Ok(wire::RouteKind::Http) => model::RouteKind::Http,
        Ok(wire::RouteKind::Tls) => model::RouteKind::Tls,
        Ok(wire::RouteKind::Unspecified) | Err(_) => {
            return Err(format!("route kind {} is unknown", route.kind));
        }
    };
    Ok(model::RouteId { kind, name: name_in(route.name)? })
}

fn backend_out(backend: &model::Backend, snapshot: &model::Snapshot) -> wire::Backend {
    use wire::backend::Target;

    let target = match backend.target {
        // A snapshot points at no service that it does not hold.
        model::Target::Service(index) => {
            snapshot.service(index).map(|service| Target::Service(key_out(&service.id)))
        }
        model::Target::Rejected(reason) => Some(Target::Rejected(reason_out(reason).into())),
    };
    wire::Backend { weight: backend.weight.number(), target }
}

fn backend_in(backend: wire::Backend, numbers: &Numbers) -> Result<model::Backend, String> {
    use wire::backend::Target;

    let target = match backend.target {
        Some(Target::Service(key)) => {
            let id = key_in(Some(key))?;
            let number = numbers.get(&id).ok_or_else(|| format!("there is no service {id}"))?;
            model::Target::Service(*number)
        }
        Some(Target::Rejected(reason)) => model::Target::Rejected(reason_in(reason)),
        None => return Err("has no target".to_owned()),
    };
    let weight = model::Weight::new(backend.weight).map_err(|error| error.to_string())?;
    Ok(model::Backend { weight, target })
}

fn reason_out(reason: model::RejectReason) -> wire::RejectReason {
    match reason {
        model::RejectReason::BackendNotFound => wire::RejectReason::BackendNotFound,
        model::RejectReason::InvalidKind => wire::RejectReason::InvalidKind,
        model::RejectReason::RefNotPermitted => wire::RejectReason::RefNotPermitted,
    }
}

/// A share that is refused for a reason that is not known yet is refused.
fn reason_in(reason: i32) -> model::RejectReason {
    match wire::RejectReason::try_from(reason) {
        Ok(wire::RejectReason::RefNotPermitted) => model::RejectReason::RefNotPermitted,
        Ok(wire::RejectReason::InvalidKind) => model::RejectReason::InvalidKind,
        Ok(wire::RejectReason::BackendNotFound | wire::RejectReason::Unspecified) | Err(_) => {
            model::RejectReason::BackendNotFound
        }
    }
}

fn service_out(service: &model::ServicePort) -> wire::Service {
    let affinity = match service.affinity {
        model::Affinity::None => wire::Affinity::None,
        model::Affinity::ClientIp => wire::Affinity::ClientIp,
    };
    wire::Service {
        key: Some(key_out(&service.id)),
        affinity: affinity.into(),
        endpoints: service.endpoints.iter().map(endpoint_out).collect(),
    }
}

fn service_in(service: &wire::Service) -> Result<model::ServicePort, String> {
    let affinity = match wire::Affinity::try_from(service.affinity) {
        Ok(wire::Affinity::None) => model::Affinity::None,
        Ok(wire::Affinity::ClientIp) => model::Affinity::ClientIp,
        Ok(wire::Affinity::Unspecified) | Err(_) => {
            return Err(format!("affinity {} is unknown", service.affinity));
        }
    };
    let endpoints = (0..).zip(&service.endpoints).map(|(place, endpoint): (usize, _)| {
        endpoint_in(endpoint).map_err(|what| format!("endpoint {place}: {what}"))
    });
    Ok(model::ServicePort {
        id: key_in(service.key.clone())?,
        affinity,
        endpoints: endpoints.collect::<Result<_, _>>()?,
    })
}

fn endpoint_out(endpoint: &model::Endpoint) -> wire::Endpoint {
    let state = match endpoint.state {
        model::EndpointState::Ready => wire::EndpointState::Ready,
        model::EndpointState::Draining => wire::EndpointState::Draining,
    };
    wire::Endpoint {
        address: address_out(endpoint.address),
        port: endpoint.port.number().into(),
        state: state.into(),
    }
}

fn endpoint_in(endpoint: &wire::Endpoint) -> Result<model::Endpoint, String> {
    let state = match wire::EndpointState::try_from(endpoint.state) {
        Ok(wire::EndpointState::Ready) => model::EndpointState::Ready,
        Ok(wire::EndpointState::Draining) => model::EndpointState::Draining,
        Ok(wire::EndpointState::Unspecified) | Err(_) => {
            return Err(format!("state {} is unknown", endpoint.state));
        }
    };
    Ok(model::Endpoint {
        address: address_in(&endpoint.address)?,
        port: port_in(endpoint.port)?,
        state,
    })
}

#[cfg(test)]
mod tests;
