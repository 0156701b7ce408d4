//! Snapshot in, tables out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use blixt_model::{
    Affinity, Backend, Bytes, EndpointState, Gateway, HashSeed, ListenerId, ListenerName, Protocol,
    RouteId, ServicePort, ServicePortId, Snapshot, Stream, Target,
};

use super::choice::EndpointChoice;
use super::maglev::{self, Candidate};
use super::size::{self, MOST_BYTES, Mix};
use super::{
    AddressRole, BackendEntry, ByShare, EndpointFate, Known, ListenerKey, ListenerTable,
    MaglevSize, Members, Roles, ServiceTable, Shares, SlotOwner, Slots, SnatAddresses, StreamTable,
    Tables,
};
use crate::address;
use crate::drops::DropReason;

/// What the node adds to a snapshot.
#[derive(Debug, Clone, Default)]
pub struct CompileOptions {
    /// Slots of each Maglev table. All nodes must use the same.
    pub maglev: MaglevSize,
    /// The addresses that flows leave from.
    pub snat_addresses: BTreeSet<IpAddr>,
    /// The address of each family that flows leave from which go through the
    /// node's kernel; see [`crate::HostPath`].
    pub host_addresses: BTreeSet<IpAddr>,
    /// The VIPs that this node answers for.
    pub owned: Owned,
}

/// The VIPs that a node answers ARP and neighbour discovery for, and announces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Owned {
    /// All: there is no other node.
    #[default]
    All,
    /// These. Other nodes have the others.
    Only(BTreeSet<IpAddr>),
}

impl Owned {
    /// Whether a VIP is among them.
    pub fn has(&self, vip: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::Only(vips) => vips.contains(&vip),
        }
    }
}

/// Why a snapshot cannot be compiled. The last tables stay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// One address for clients and for endpoints.
    #[error("gateway {gateway} has the address {address}, which is given as --snat-address")]
    VipIsSnat {
        /// The Gateway.
        gateway: String,
        /// The address.
        address: IpAddr,
    },
    /// One address for clients and for what goes through the node's kernel.
    #[error(
        "gateway {gateway} has the address {address}, which is the agent's own for its host path"
    )]
    VipIsHost {
        /// The Gateway.
        gateway: String,
        /// The address.
        address: IpAddr,
    },
    /// More backendRefs than a first-level table can name.
    #[error("listener {listener} has {count} backendRefs, but at most {max} are possible")]
    TooManyBackends {
        /// The listener.
        listener: ListenerId,
        /// How many it has.
        count: usize,
        /// How many it may have.
        max: usize,
    },
    /// More endpoints than a second-level table can name.
    #[error("service {service} has {count} ready endpoints, but at most {max} are possible")]
    TooManyEndpoints {
        /// The service port.
        service: ServicePortId,
        /// How many it has.
        count: usize,
        /// How many it may have.
        max: usize,
    },
    /// More memory than tables may take.
    #[error(
        "Maglev tables of {slots} slots would take {} for what is wanted, and {} are possible: use a \
         smaller maglevSize (--maglev-size), or fewer Services and listeners",
        Bytes(*.bytes),
        Bytes(MOST_BYTES)
    )]
    TooLarge {
        /// Slots of each table.
        slots: u32,
        /// What all of them would take.
        bytes: u64,
    },
}

const MAX_BACKENDS: usize = u8::MAX as usize;
const MAX_ENDPOINTS: usize = u16::MAX as usize;

impl Tables {
    /// Compiles `snapshot`. What has not changed since `previous` is shared
    /// with it rather than made again. On an error nothing has changed but
    /// that `slots` may have leased some, which the next success retires.
    pub fn compile(
        snapshot: &Snapshot,
        options: &CompileOptions,
        slots: &mut Slots,
        previous: &Tables,
    ) -> Result<Self, CompileError> {
        let addresses = addresses(snapshot, options)?;
        Self::fit(snapshot, options.maglev)?;
        let mut named = HashSet::new();
        let known: HashMap<_, _> =
            previous.services.iter().map(|known| (&known.source.id, known)).collect();
        let reusable = |service: &ServicePort| {
            known.get(&service.id).copied().filter(|known| {
                known.source == *service
                    && known.size == options.maglev
                    && previous.seed == snapshot.seed()
            })
        };
        let services = snapshot
            .services()
            .iter()
            .map(|service| {
                let known = reusable(service);
                service_table(service, snapshot.seed(), options.maglev, slots, &mut named, known)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let (mut listeners, mut streams) = (Known::default(), Known::default());
        let mut levels = Levels {
            snapshot,
            size: options.maglev,
            slots,
            named: &mut named,
            made: HashMap::new(),
        };
        for gateway in snapshot.gateways() {
            let keys = |port, protocol: Protocol| {
                gateway.addresses.iter().map(move |&vip| ListenerKey {
                    vip: address::from_ip(vip),
                    port,
                    protocol: protocol.ip_number(),
                })
            };
            for listener in &gateway.listeners {
                let backends = Backends {
                    listener: id(gateway, &listener.name),
                    route: None,
                    refused: match listener.route {
                        None => DropReason::NoRoute,
                        Some(_) => DropReason::NoWeight,
                    },
                    refs: &listener.backends,
                };
                let shares = Arc::new(levels.shares(backends, &mut BTreeMap::new())?);
                for key in keys(listener.port.number(), listener.protocol) {
                    listeners.insert(key, ListenerTable { shares: Arc::clone(&shares) });
                }
            }
            for stream in &gateway.streams {
                let routes: Arc<[_]> = levels.routes(gateway, stream)?.into();
                for key in keys(stream.port.number(), Protocol::Tcp) {
                    streams.insert(key, StreamTable { routes: Arc::clone(&routes) });
                }
            }
        }
        slots.retire_all_but(&named, snapshot.generation());
        let endpoints = fates(snapshot, slots, &named);
        Ok(Self {
            generation: snapshot.generation(),
            seed: snapshot.seed(),
            addresses,
            elsewhere: snapshot
                .vips()
                .into_iter()
                .filter(|vip| !options.owned.has(*vip))
                .map(address::from_ip)
                .collect(),
            listeners,
            streams,
            services,
            endpoints,
            snat: snat_addresses(options),
            host: host_addresses(options),
        })
    }
}

fn snat_addresses(options: &CompileOptions) -> SnatAddresses {
    let (v4, v6): (Vec<_>, Vec<_>) = options
        .snat_addresses
        .iter()
        .map(|&snat| address::from_ip(snat))
        .partition(|&snat| address::is_v4(snat));
    SnatAddresses { v4: v4.into(), v6: v6.into() }
}

fn host_addresses(options: &CompileOptions) -> [u128; 2] {
    let of = |v4: bool| {
        let mut addresses = options.host_addresses.iter();
        addresses.find(|address| address.is_ipv4() == v4).map_or(0, |&it| address::from_ip(it))
    };
    [of(true), of(false)]
}

fn addresses(snapshot: &Snapshot, options: &CompileOptions) -> Result<Roles, CompileError> {
    let snat = options.snat_addresses.iter().map(|&snat| (snat, AddressRole::Snat));
    let host = options.host_addresses.iter().map(|&host| (host, AddressRole::Host));
    let mut addresses: Vec<_> =
        snat.chain(host).map(|(ours, role)| (address::from_ip(ours), role)).collect();
    for gateway in snapshot.gateways() {
        for &vip in &gateway.addresses {
            if options.snat_addresses.contains(&vip) {
                let gateway = gateway.name.to_string();
                return Err(CompileError::VipIsSnat { gateway, address: vip });
            }
            if options.host_addresses.contains(&vip) {
                let gateway = gateway.name.to_string();
                return Err(CompileError::VipIsHost { gateway, address: vip });
            }
            addresses.push((address::from_ip(vip), AddressRole::Vip));
        }
    }
    Ok(Roles::new(addresses))
}

fn service_table(
    service: &ServicePort,
    seed: HashSeed,
    size: MaglevSize,
    slots: &mut Slots,
    named: &mut HashSet<u32>,
    known: Option<&Arc<ServiceTable>>,
) -> Result<Arc<ServiceTable>, CompileError> {
    let mut ready = Vec::new();
    for endpoint in &service.endpoints {
        let slot = slots.lease(SlotOwner::Endpoint {
            service: service.id.clone(),
            address: endpoint.address,
            port: endpoint.port,
        });
        named.insert(slot);
        if endpoint.state == EndpointState::Ready {
            ready.push(EndpointChoice {
                slot,
                address: address::from_ip(endpoint.address),
                port: endpoint.port.number(),
            });
        }
    }
    if let Some(known) = known {
        return Ok(Arc::clone(known));
    }
    // Nodes may list endpoints in different orders; the table must not care.
    ready.sort_by_key(|endpoint| (endpoint.address, endpoint.port));
    let (v4, v6): (Vec<_>, Vec<_>) =
        ready.into_iter().partition(|endpoint| address::is_v4(endpoint.address));
    let members = |endpoints: Vec<EndpointChoice>| {
        if endpoints.len() > MAX_ENDPOINTS {
            return Err(CompileError::TooManyEndpoints {
                service: service.id.clone(),
                count: endpoints.len(),
                max: MAX_ENDPOINTS,
            });
        }
        if let [_] = endpoints.as_slice() {
            // The one gets everything, so a table of one slot does.
            return Ok(Members { by_slot: Box::new([0]), endpoints });
        }
        let candidates: Vec<_> = endpoints
            .iter()
            .map(|endpoint| {
                let mut identity = [0_u8; 18];
                crate::wire::put_u128(&mut identity, 0, endpoint.address);
                crate::wire::put_u16(&mut identity, 16, endpoint.port);
                Candidate::new(seed, &identity, 1, size)
            })
            .collect();
        Ok(Members { by_slot: maglev::table(size, &candidates), endpoints })
    };
    Ok(Arc::new(ServiceTable { source: service.clone(), size, v4: members(v4)?, v6: members(v6)? }))
}

fn id(gateway: &Gateway, listener: &ListenerName) -> ListenerId {
    ListenerId { gateway: gateway.name.clone(), listener: listener.clone() }
}

/// The backendRefs of a listener, or of one route of it.
struct Backends<'a> {
    listener: ListenerId,
    /// See [`SlotOwner::Backend`].
    route: Option<RouteId>,
    /// Why flows are refused if nobody has a weight.
    refused: DropReason,
    refs: &'a [Backend],
}

/// References to each target so far, by which those to the same one are told
/// apart.
type Occurrences = BTreeMap<(Option<RouteId>, Option<ServicePortId>), u32>;

/// Makes first levels.
struct Levels<'a> {
    snapshot: &'a Snapshot,
    size: MaglevSize,
    slots: &'a mut Slots,
    named: &'a mut HashSet<u32>,
    /// The tables so far. Listeners and routes with the same backendRefs share one.
    made: HashMap<Mix, Arc<[u8]>>,
}

impl Levels<'_> {
    /// Those of a port's routes, in the order of its listeners and theirs.
    fn routes(&mut self, gateway: &Gateway, stream: &Stream) -> Result<Vec<Shares>, CompileError> {
        let mut all = Vec::new();
        for listener in &stream.listeners {
            let mut occurrences = Occurrences::new();
            for route in &listener.routes {
                let backends = Backends {
                    listener: id(gateway, &listener.name),
                    route: Some(route.route.clone()),
                    refused: DropReason::NoWeight,
                    refs: &route.backends,
                };
                all.push(self.shares(backends, &mut occurrences)?);
            }
        }
        Ok(all)
    }

    fn shares(
        &mut self,
        of: Backends<'_>,
        occurrences: &mut Occurrences,
    ) -> Result<Shares, CompileError> {
        let Backends { listener, route, refused, refs } = of;
        if refs.len() > MAX_BACKENDS {
            let count = refs.len();
            return Err(CompileError::TooManyBackends { listener, count, max: MAX_BACKENDS });
        }
        let mut backends = Vec::new();
        let mut weighted = Vec::new();
        let mut by_client = true;
        for (place, backend) in refs.iter().enumerate() {
            let service = service_of(backend, self.snapshot);
            let service_id = service.map(|service| service.id.clone());
            let occurrence = occurrences.entry((route.clone(), service_id.clone())).or_default();
            let identity = match &service_id {
                Some(service) => format!("{service}#{occurrence}"),
                None => format!("#{occurrence}"),
            };
            let slot = self.slots.lease(SlotOwner::Backend {
                listener: listener.clone(),
                route: route.clone(),
                service: service_id,
                occurrence: *occurrence,
            });
            *occurrence += 1;
            self.named.insert(slot);
            backends.push(BackendEntry {
                slot,
                service: match backend.target {
                    Target::Service(index) => Some(index.0),
                    Target::Rejected(_) => None,
                },
            });
            if backend.weight.number() > 0 {
                by_client &= service.is_none_or(|s| s.affinity == Affinity::ClientIp);
                weighted.push((place, backend.weight.number(), identity));
            }
        }
        let by_slot = match weighted.as_slice() {
            [] => ByShare::Nobody(refused),
            [(place, ..)] => ByShare::One(narrow(*place)),
            _ => {
                let make = || first_level(weighted, self.snapshot.seed(), self.size);
                ByShare::Table(self.made.entry(size::mix(refs)).or_insert_with(make).clone())
            }
        };
        Ok(Shares { backends, by_slot, by_client })
    }
}

/// For each slot the backendRef, by its place.
fn first_level(
    mut weighted: Vec<(usize, u32, String)>,
    seed: HashSeed,
    size: MaglevSize,
) -> Arc<[u8]> {
    weighted.sort_by(|a, b| a.2.cmp(&b.2));
    let candidates: Vec<_> = weighted
        .iter()
        .map(|(_, weight, identity)| Candidate::new(seed, identity.as_bytes(), *weight, size))
        .collect();
    let table = maglev::table::<u8>(size, &candidates);
    table
        .iter()
        .filter_map(|&index| weighted.get(usize::from(index)))
        .map(|(place, ..)| narrow(*place))
        .collect()
}

/// `shares` refuses more backends than a u8 can count.
fn narrow(place: usize) -> u8 {
    u8::try_from(place).unwrap_or(u8::MAX)
}

fn service_of<'a>(backend: &Backend, snapshot: &'a Snapshot) -> Option<&'a ServicePort> {
    match backend.target {
        Target::Service(index) => snapshot.service(index),
        Target::Rejected(_) => None,
    }
}

/// An endpoint is gone when its service is still here and no longer lists it.
/// A service that nothing refers to any more says nothing about its
/// endpoints, so their flows go on.
fn fates(snapshot: &Snapshot, slots: &Slots, named: &HashSet<u32>) -> Vec<EndpointFate> {
    let services: HashSet<_> = snapshot.services().iter().map(|service| &service.id).collect();
    let mut fates = vec![EndpointFate::Keeps; slots.capacity()];
    for (owner, slot) in slots.owners() {
        let SlotOwner::Endpoint { service, .. } = owner else { continue };
        if services.contains(service)
            && !named.contains(&slot)
            && let Some(fate) = fates.get_mut(slot as usize)
        {
            *fate = EndpointFate::Gone;
        }
    }
    fates
}

#[cfg(test)]
mod tests {
    use super::*;
    use blixt_model::{
        Endpoint, Generation, Listener, Port, RejectReason, RouteKind, ServiceIndex, StreamKind,
        StreamListener, StreamRoute, StreamTls, Weight,
    };

    fn port(number: u16) -> Port {
        Port::new(number).unwrap()
    }

    fn service(name: &str, endpoints: impl IntoIterator<Item = u32>) -> ServicePort {
        ServicePort {
            id: ServicePortId {
                service: name.parse().unwrap(),
                protocol: Protocol::Tcp,
                port: port(80),
            },
            affinity: Affinity::None,
            endpoints: endpoints
                .into_iter()
                .map(|n| Endpoint {
                    address: IpAddr::from((0x0a01_0000 + n).to_be_bytes()),
                    port: port(8_080),
                    state: EndpointState::Ready,
                })
                .collect(),
        }
    }

    fn snapshot(generation: u64, backends: Vec<Backend>, services: Vec<ServicePort>) -> Snapshot {
        let listener = Listener {
            name: ListenerName::new("web").unwrap(),
            protocol: Protocol::Tcp,
            port: port(80),
            route: None,
            backends,
        };
        let gateway = Gateway {
            name: "edge".parse().unwrap(),
            addresses: vec![IpAddr::from([198, 51, 100, 1])],
            listeners: vec![listener],
            streams: vec![],
        };
        Snapshot::new(Generation(generation), HashSeed(7), vec![gateway], services).unwrap()
    }

    fn options() -> CompileOptions {
        CompileOptions { maglev: MaglevSize::new(251).unwrap(), ..CompileOptions::default() }
    }

    #[test]
    fn services_that_have_not_changed_are_shared() {
        let mut slots = Slots::default();
        let mut compile = |snapshot: &Snapshot, options: &CompileOptions, before: &Tables| {
            Tables::compile(snapshot, options, &mut slots, before).unwrap()
        };
        let (a, b) = (service("a", 1..4), service("b", 4..7));
        let options = options();
        let first = compile(&snapshot(1, vec![], vec![a.clone(), b]), &options, &Tables::default());
        let second =
            compile(&snapshot(2, vec![], vec![service("b", 4..6), a.clone()]), &options, &first);
        assert!(Arc::ptr_eq(&first.services[0], &second.services[1]));
        assert_eq!(second.services[0].v4.endpoints.len(), 2);

        let larger = CompileOptions { maglev: MaglevSize::new(1_021).unwrap(), ..options };
        let third = compile(&snapshot(3, vec![], vec![a]), &larger, &second);
        assert_eq!(third.services[0].v4.by_slot.len(), 1_021);
    }

    #[test]
    fn endpoints_are_gone_when_their_service_says_so() {
        let mut slots = Slots::default();
        let options = options();
        let wanted = |generation, endpoints: &[u32]| {
            snapshot(generation, vec![], vec![service("a", endpoints.iter().copied())])
        };
        let first =
            Tables::compile(&wanted(1, &[1, 2]), &options, &mut slots, &Tables::default()).unwrap();
        let second = Tables::compile(&wanted(2, &[2]), &options, &mut slots, &first).unwrap();
        let fates = |tables: &Tables| [tables.fate(0), tables.fate(1)];
        assert_eq!(fates(&first), [EndpointFate::Keeps; 2]);
        assert_eq!(fates(&second), [EndpointFate::Gone, EndpointFate::Keeps]);
        // Nothing is known of a service that nobody refers to.
        let third =
            Tables::compile(&snapshot(3, vec![], vec![]), &options, &mut slots, &second).unwrap();
        assert_eq!(fates(&third), [EndpointFate::Keeps; 2]);
        // Back again, under the same number.
        let fourth = Tables::compile(&wanted(4, &[1]), &options, &mut slots, &third).unwrap();
        assert_eq!(fates(&fourth), [EndpointFate::Keeps, EndpointFate::Gone]);
        assert_eq!(fourth.fate(u32::MAX), EndpointFate::Keeps);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let refuse = |snapshot: &Snapshot, options: &CompileOptions| {
            Tables::compile(snapshot, options, &mut Slots::default(), &Tables::default())
                .unwrap_err()
                .to_string()
        };
        let rejected =
            Backend { weight: Weight::ZERO, target: Target::Rejected(RejectReason::InvalidKind) };
        assert_eq!(
            refuse(&snapshot(1, vec![rejected.clone(); 256], vec![]), &options()),
            "listener default/edge/web has 256 backendRefs, but at most 255 are possible"
        );
        let to_it = Backend { weight: Weight::DEFAULT, target: Target::Service(ServiceIndex(0)) };
        assert_eq!(
            refuse(&snapshot(1, vec![to_it], vec![service("a", 0..65_536)]), &options()),
            "service default/a:80/TCP has 65536 ready endpoints, but at most 65535 are possible"
        );
        // Before a table is made.
        let many = (0..48).map(|n| service(&format!("s{n}"), 0..2)).collect();
        let maglev = MaglevSize::new(16_777_213).unwrap();
        assert_eq!(
            refuse(&snapshot(1, vec![], many), &CompileOptions { maglev, ..options() }),
            "Maglev tables of 16777213 slots would take 1.5 GiB for what is wanted, and 1.0 GiB are \
             possible: use a smaller maglevSize (--maglev-size), or fewer Services and listeners"
        );
        let snat_addresses = [IpAddr::from([198, 51, 100, 1])].into();
        assert_eq!(
            refuse(&snapshot(1, vec![], vec![]), &CompileOptions { snat_addresses, ..options() }),
            "gateway default/edge has the address 198.51.100.1, which is given as --snat-address"
        );
    }

    #[test]
    fn listeners_with_the_same_backends_share_a_table() {
        let share = |weight, index| Backend {
            weight: Weight::new(weight).unwrap(),
            target: Target::Service(ServiceIndex(index)),
        };
        let (mix, other) = (vec![share(1, 0), share(2, 1)], vec![share(1, 0), share(3, 1)]);
        let listener = |place: u16, backends: &[Backend]| StreamListener {
            name: ListenerName::new(format!("l{place}")).unwrap(),
            hostname: None,
            tls: StreamTls::None,
            routes: vec![StreamRoute {
                route: RouteId { kind: RouteKind::Http, name: "web".parse().unwrap() },
                hostnames: vec![],
                backends: backends.to_vec(),
            }],
        };
        let stream = |place: u16, backends: &[Backend]| Stream {
            port: port(8_000 + place),
            kind: StreamKind::Plain,
            listeners: vec![listener(place, backends)],
        };
        let services = vec![service("a", 0..2), service("b", 2..3)];
        let packets = snapshot(1, mix.clone(), services.clone());
        let streams = vec![stream(0, &mix), stream(1, &mix), stream(2, &other)];
        let gateway = Gateway { streams, ..packets.gateways()[0].clone() };
        let all = Snapshot::new(Generation(1), HashSeed(7), vec![gateway], services).unwrap();
        let compile =
            |it| Tables::compile(it, &options(), &mut Slots::default(), &Tables::default());
        let tables = compile(&all).unwrap();
        let table = |shares: &Shares| match &shares.by_slot {
            ByShare::Table(table) => Arc::clone(table),
            other => panic!("{other:?} is no table"),
        };
        let mut streams: Vec<_> = tables.streams.iter().collect();
        streams.sort_by_key(|(key, _)| key.port);
        let of_streams: Vec<_> = streams.iter().map(|(_, it)| table(&it.routes[0])).collect();
        let of_packets = table(&tables.listeners.values().next().unwrap().shares);
        let is_same = |other: &Arc<[u8]>| Arc::ptr_eq(&of_packets, other);
        assert_eq!(of_streams.iter().map(is_same).collect::<Vec<_>>(), [true, true, false]);
        // Each counts for itself all the same.
        let slots: BTreeSet<_> =
            streams.iter().map(|(_, it)| it.routes[0].backends[0].slot).collect();
        assert_eq!(slots.len(), 3);
    }

    #[test]
    fn snat_addresses_are_told_apart_by_family() {
        let snat_addresses: BTreeSet<IpAddr> =
            ["10.0.0.9", "2001:db8::9", "10.0.0.8"].map(|text| text.parse().unwrap()).into();
        let options = CompileOptions { snat_addresses, ..options() };
        let tables = Tables::compile(
            &snapshot(1, vec![], vec![]),
            &options,
            &mut Slots::default(),
            &Tables::default(),
        )
        .unwrap();
        let v4 = ["10.0.0.8", "10.0.0.9"].map(|text| address::from_ip(text.parse().unwrap()));
        assert_eq!(tables.snat_addresses(true), v4);
        assert_eq!(tables.snat_addresses(false).len(), 1);
        assert!(v4.iter().all(|&snat| tables.role(snat) == Some(AddressRole::Snat)));
        assert_eq!(tables.addresses().count(), 4);
    }
}
