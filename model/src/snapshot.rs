//! The wanted state: Gateways, their listeners, and the services behind them.

mod kept;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::{
    CertificateId, Generation, HashSeed, ListenerId, ListenerName, ObjectName, Port, Protocol,
    RouteId, ServicePortId, Settings, Stream, StreamTls, Weight,
};

/// Everything that is wanted, at one moment.
///
/// Made only through [`Snapshot::new`], so that these hold: every
/// [`ServiceIndex`] in it points at a service of it with the listener's
/// protocol, no service, Gateway, or listener of a Gateway appears twice, no
/// two listeners or streams want the same address, protocol and port, a
/// stream's listeners can be told apart, no endpoint is listed twice, and
/// every address is one that a host can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    generation: Generation,
    seed: HashSeed,
    settings: Settings,
    gateways: Vec<Gateway>,
    services: Vec<ServicePort>,
}

/// One Gateway that is to be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Its namespace and name.
    pub name: ObjectName,
    /// Its addresses (VIPs). Each listener listens on each of them.
    pub addresses: Vec<IpAddr>,
    /// The TCP and UDP listeners that were accepted.
    pub listeners: Vec<Listener>,
    /// The ports of those HTTP, HTTPS and TLS listeners that were accepted.
    pub streams: Vec<Stream>,
}

/// One accepted listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its name within the Gateway.
    pub name: ListenerName,
    /// What it speaks.
    pub protocol: Protocol,
    /// The port on every address of the Gateway.
    pub port: Port,
    /// The route that sends its traffic somewhere; `None` refuses all of it.
    pub route: Option<RouteId>,
    /// Where the route sends it. All weights 0, or none at all, refuses all.
    pub backends: Vec<Backend>,
}

/// One backendRef of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Its share of the listener's new flows.
    pub weight: Weight,
    /// Who gets this share.
    pub target: Target,
}

/// Who gets a backendRef's share of the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The endpoints of a service.
    Service(ServiceIndex),
    /// Nobody: the reference is bad, and its share is refused rather than
    /// given to the others (Gateway API, `ResolvedRefs`).
    Rejected(RejectReason),
}

/// Why a backendRef's share is refused. The names are Gateway API's reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectReason {
    /// No such Service, no such port in it, or it is of type ExternalName.
    BackendNotFound,
    /// Not a Service.
    InvalidKind,
    /// In another namespace, and no ReferenceGrant allows it.
    RefNotPermitted,
}

impl RejectReason {
    /// The reason as Gateway API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BackendNotFound => "BackendNotFound",
            Self::InvalidKind => "InvalidKind",
            Self::RefNotPermitted => "RefNotPermitted",
        }
    }
}

/// Points into [`Snapshot::services`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceIndex(pub u32);

/// One port of a Service, with the endpoints behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Which Service and port.
    pub id: ServicePortId,
    /// Whether a client stays with an endpoint.
    pub affinity: Affinity,
    /// Its endpoints, of both address families.
    pub endpoints: Vec<Endpoint>,
}

/// `Service.spec.sessionAffinity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Affinity {
    /// Each flow chooses by itself.
    #[default]
    None,
    /// All flows of one client address choose the same endpoint.
    ClientIp,
}

/// One place that takes the traffic of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// The port it listens on there.
    pub port: Port,
    /// Whether it takes new flows.
    pub state: EndpointState,
}

/// Whether an endpoint takes new flows. One that takes none and has no old
/// ones either is simply not in the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointState {
    /// New flows are sent to it.
    Ready,
    /// Its old flows stay, new ones go elsewhere (terminating, or not ready).
    Draining,
}

/// Why parts do not make a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Two Gateways of one name.
    #[error("gateway {0} is listed twice")]
    DuplicateGateway(ObjectName),
    /// Two services of one identity.
    #[error("service {0} is listed twice")]
    DuplicateService(ServicePortId),
    /// One endpoint twice in a service.
    #[error("service {service} lists endpoint {address} port {port} twice")]
    DuplicateEndpoint {
        /// The service.
        service: ServicePortId,
        /// The endpoint's address.
        address: IpAddr,
        /// The endpoint's port.
        port: Port,
    },
    /// An endpoint where no host can be.
    #[error("service {service} has the endpoint {address}, which is no unicast address of a host")]
    BadEndpoint {
        /// The service.
        service: ServicePortId,
        /// The endpoint's address.
        address: IpAddr,
    },
    /// Two listeners of one name in a Gateway.
    #[error("listener {0} is listed twice")]
    DuplicateListener(ListenerId),
    /// Two listeners on one address, protocol and port.
    #[error("listener {listener} wants {address} port {port}/{protocol}, already taken by {owner}")]
    PortTaken {
        /// Who comes too late.
        listener: ListenerId,
        /// The address both want.
        address: IpAddr,
        /// The protocol both want.
        protocol: Protocol,
        /// The port both want.
        port: Port,
        /// Who has it.
        owner: ListenerId,
    },
    /// A backend that points at no service of this snapshot.
    #[error(
        "listener {listener} points at service number {index}, but the snapshot has {services}"
    )]
    DanglingService {
        /// The listener.
        listener: ListenerId,
        /// Where it points.
        index: u32,
        /// How many there are.
        services: usize,
    },
    /// A TCP listener with a UDP service, or the other way round.
    #[error("listener {listener} speaks {protocol}, but its backend is {service}")]
    ProtocolMismatch {
        /// The listener.
        listener: ListenerId,
        /// What it speaks.
        protocol: Protocol,
        /// The service it points at.
        service: ServicePortId,
    },
    /// A stream whose listeners can't be told apart.
    #[error("gateway {gateway}: the stream on port {port} {fault}")]
    BadStream {
        /// The Gateway.
        gateway: ObjectName,
        /// The port.
        port: Port,
        /// What is wrong.
        fault: &'static str,
    },
    /// An address that no listener can have.
    #[error("gateway {gateway} has the address {address}, which is no unicast address of a host")]
    BadAddress {
        /// The Gateway.
        gateway: ObjectName,
        /// The address.
        address: IpAddr,
    },
}

impl Snapshot {
    /// Puts the parts together and checks what [`Snapshot`] promises.
    pub fn new(
        generation: Generation,
        seed: HashSeed,
        gateways: Vec<Gateway>,
        services: Vec<ServicePort>,
    ) -> Result<Self, SnapshotError> {
        check_services(&services)?;
        check_gateways(&gateways, &services)?;
        Ok(Self { generation, seed, settings: Settings::default(), gateways, services })
    }

    /// A snapshot that wants nothing.
    pub fn empty(generation: Generation) -> Self {
        Self {
            generation,
            seed: HashSeed::default(),
            settings: Settings::default(),
            gateways: Vec::new(),
            services: Vec::new(),
        }
    }

    /// Which snapshot this is.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The same wishes under another number.
    #[must_use]
    pub fn with_generation(self, generation: Generation) -> Self {
        Self { generation, ..self }
    }

    /// The same wishes, of agents that work in another way.
    #[must_use]
    pub fn with_settings(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }

    /// The same wishes with those addresses only that `keep` is true for, by
    /// Gateway; a Gateway without any is left out.
    #[must_use]
    pub fn retain_addresses(mut self, keep: impl Fn(&ObjectName, IpAddr) -> bool) -> Self {
        for gateway in &mut self.gateways {
            let name = &gateway.name;
            gateway.addresses.retain(|address| keep(name, *address));
        }
        self.gateways.retain(|gateway| !gateway.addresses.is_empty());
        self
    }

    /// Whether both want the same, whatever their generations.
    pub fn same_wishes(&self, other: &Self) -> bool {
        self.seed == other.seed
            && self.settings == other.settings
            && self.gateways == other.gateways
            && self.services == other.services
    }

    /// What seeds the choice of backends.
    pub fn seed(&self) -> HashSeed {
        self.seed
    }

    /// How agents are to work.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The Gateways, in the order they were given.
    pub fn gateways(&self) -> &[Gateway] {
        &self.gateways
    }

    /// The services that backends point at.
    pub fn services(&self) -> &[ServicePort] {
        &self.services
    }

    /// The service a backend points at. `None` only for an index that was
    /// made for another snapshot.
    pub fn service(&self, index: ServiceIndex) -> Option<&ServicePort> {
        self.services.get(usize::try_from(index.0).ok()?)
    }

    /// The certificates that its streams need, each once, in order.
    pub fn certificates(&self) -> BTreeSet<&CertificateId> {
        let streams = self.gateways.iter().flat_map(|gateway| &gateway.streams);
        let listeners = streams.flat_map(|stream| &stream.listeners);
        listeners
            .flat_map(|listener| match &listener.tls {
                StreamTls::Terminate { certificates } => certificates.as_slice(),
                StreamTls::None | StreamTls::Passthrough => &[],
            })
            .collect()
    }

    /// All addresses of all Gateways, each once, in order.
    pub fn vips(&self) -> BTreeSet<IpAddr> {
        self.gateways.iter().flat_map(|gateway| gateway.addresses.iter().copied()).collect()
    }
}

fn check_services(services: &[ServicePort]) -> Result<(), SnapshotError> {
    let mut seen = BTreeSet::new();
    for service in services {
        if !seen.insert(&service.id) {
            return Err(SnapshotError::DuplicateService(service.id.clone()));
        }
        let mut endpoints = BTreeSet::new();
        for endpoint in &service.endpoints {
            if !is_host_unicast(endpoint.address) {
                return Err(SnapshotError::BadEndpoint {
                    service: service.id.clone(),
                    address: endpoint.address,
                });
            }
            if !endpoints.insert((endpoint.address, endpoint.port)) {
                return Err(SnapshotError::DuplicateEndpoint {
                    service: service.id.clone(),
                    address: endpoint.address,
                    port: endpoint.port,
                });
            }
        }
    }
    Ok(())
}

fn check_gateways(gateways: &[Gateway], services: &[ServicePort]) -> Result<(), SnapshotError> {
    let mut names = BTreeSet::new();
    let mut owners: BTreeMap<(IpAddr, Protocol, Port), ListenerId> = BTreeMap::new();
    for gateway in gateways {
        if !names.insert(&gateway.name) {
            return Err(SnapshotError::DuplicateGateway(gateway.name.clone()));
        }
        for &address in &gateway.addresses {
            if !is_host_unicast(address) {
                return Err(SnapshotError::BadAddress { gateway: gateway.name.clone(), address });
            }
        }
        let mut listener_names = BTreeSet::new();
        let mut named = |name: &ListenerName| {
            let id = ListenerId { gateway: gateway.name.clone(), listener: name.clone() };
            match listener_names.insert(name.clone()) {
                true => Ok(id),
                false => Err(SnapshotError::DuplicateListener(id)),
            }
        };
        let mut take = |listener: ListenerId, protocol, port| {
            for &address in &gateway.addresses {
                if let Some(owner) = owners.insert((address, protocol, port), listener.clone()) {
                    return Err(SnapshotError::PortTaken {
                        listener,
                        address,
                        protocol,
                        port,
                        owner,
                    });
                }
            }
            Ok(())
        };
        for listener in &gateway.listeners {
            let id = named(&listener.name)?;
            check_backends(&id, listener.protocol, &listener.backends, services)?;
            take(id, listener.protocol, listener.port)?;
        }
        for stream in &gateway.streams {
            if let Some(fault) = stream.fault() {
                let (gateway, port) = (gateway.name.clone(), stream.port);
                return Err(SnapshotError::BadStream { gateway, port, fault });
            }
            let mut first = None;
            for listener in &stream.listeners {
                let id = named(&listener.name)?;
                for route in &listener.routes {
                    check_backends(&id, Protocol::Tcp, &route.backends, services)?;
                }
                first.get_or_insert(id);
            }
            if let Some(first) = first {
                take(first, Protocol::Tcp, stream.port)?;
            }
        }
    }
    Ok(())
}

fn check_backends(
    id: &ListenerId,
    protocol: Protocol,
    backends: &[Backend],
    services: &[ServicePort],
) -> Result<(), SnapshotError> {
    for backend in backends {
        let Target::Service(index) = backend.target else { continue };
        let service = usize::try_from(index.0).ok().and_then(|index| services.get(index));
        let Some(service) = service else {
            return Err(SnapshotError::DanglingService {
                listener: id.clone(),
                index: index.0,
                services: services.len(),
            });
        };
        if service.id.protocol != protocol {
            return Err(SnapshotError::ProtocolMismatch {
                listener: id.clone(),
                protocol,
                service: service.id.clone(),
            });
        }
    }
    Ok(())
}

/// Whether a host can have the address, beyond itself. Not this network
/// (0.0.0.0/8, RFC 1122 §3.2.1.3), loopback, multicast, or what is reserved
/// with the broadcast address (240.0.0.0/4, RFC 1112 §4); and not an IPv4
/// address written as IPv6 (RFC 4291 §2.5.5.2), which would be the same
/// address under two names.
pub fn is_host_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            first != 0 && first < 224 && !v4.is_loopback()
        }
        IpAddr::V6(v6) => {
            !(v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_multicast()
                || v6.to_ipv4_mapped().is_some())
        }
    }
}

#[cfg(test)]
mod tests;
