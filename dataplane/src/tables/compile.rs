//! Snapshot in, tables out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use blixt_model::{
    Affinity, Backend, EndpointState, Gateway, HashSeed, Listener, ListenerId, ServicePort,
    ServicePortId, Snapshot, Target,
};

use super::choice::EndpointChoice;
use super::maglev::{self, Candidate};
use super::{
    AddressRole, BackendEntry, ByShare, EndpointFate, ListenerKey, ListenerTable, MaglevSize,
    Members, ServiceTable, Shares, SlotOwner, Slots, SnatAddresses, Tables,
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
        let mut listeners = HashMap::new();
        for gateway in snapshot.gateways() {
            for listener in &gateway.listeners {
                let shares =
                    shares(gateway, listener, snapshot, options.maglev, slots, &mut named)?;
                let shares = Arc::new(shares);
                for &vip in &gateway.addresses {
                    let key = ListenerKey {
                        vip: address::from_ip(vip),
                        port: listener.port.number(),
                        protocol: listener.protocol.ip_number(),
                    };
                    listeners.insert(key, ListenerTable { shares: Arc::clone(&shares) });
                }
            }
        }
        slots.retire_all_but(&named, snapshot.generation());
        let endpoints = fates(snapshot, slots, &named);
        Ok(Self {
            generation: snapshot.generation(),
            seed: snapshot.seed(),
            addresses,
            listeners,
            services,
            endpoints,
            snat: snat_addresses(options),
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

fn addresses(
    snapshot: &Snapshot,
    options: &CompileOptions,
) -> Result<HashMap<u128, AddressRole>, CompileError> {
    let mut addresses: HashMap<_, _> = options
        .snat_addresses
        .iter()
        .map(|&snat| (address::from_ip(snat), AddressRole::Snat))
        .collect();
    for gateway in snapshot.gateways() {
        for &vip in &gateway.addresses {
            if options.snat_addresses.contains(&vip) {
                let gateway = gateway.name.to_string();
                return Err(CompileError::VipIsSnat { gateway, address: vip });
            }
            addresses.insert(address::from_ip(vip), AddressRole::Vip);
        }
    }
    Ok(addresses)
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

fn shares(
    gateway: &Gateway,
    listener: &Listener,
    snapshot: &Snapshot,
    size: MaglevSize,
    slots: &mut Slots,
    named: &mut HashSet<u32>,
) -> Result<Shares, CompileError> {
    let id = ListenerId { gateway: gateway.name.clone(), listener: listener.name.clone() };
    if listener.backends.len() > MAX_BACKENDS {
        return Err(CompileError::TooManyBackends {
            listener: id,
            count: listener.backends.len(),
            max: MAX_BACKENDS,
        });
    }
    let mut backends = Vec::new();
    let mut weighted = Vec::new();
    let mut occurrences: BTreeMap<Option<ServicePortId>, u32> = BTreeMap::new();
    let mut by_client = true;
    for (place, backend) in listener.backends.iter().enumerate() {
        let service = service_of(backend, snapshot);
        let service_id = service.map(|service| service.id.clone());
        let occurrence = occurrences.entry(service_id.clone()).or_default();
        let identity = match &service_id {
            Some(service) => format!("{service}#{occurrence}"),
            None => format!("#{occurrence}"),
        };
        let slot = slots.lease(SlotOwner::Backend {
            listener: id.clone(),
            service: service_id,
            occurrence: *occurrence,
        });
        *occurrence += 1;
        named.insert(slot);
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
    let by_slot = by_share(listener, &mut weighted, snapshot.seed(), size);
    Ok(Shares { backends, by_slot, by_client })
}

fn by_share(
    listener: &Listener,
    weighted: &mut [(usize, u32, String)],
    seed: HashSeed,
    size: MaglevSize,
) -> ByShare {
    // `shares` refused more backends than a u8 can count.
    let narrow = |place: usize| u8::try_from(place).unwrap_or(u8::MAX);
    match weighted {
        [] if listener.route.is_none() => ByShare::Nobody(DropReason::NoRoute),
        [] => ByShare::Nobody(DropReason::NoWeight),
        [(place, ..)] => ByShare::One(narrow(*place)),
        weighted => {
            weighted.sort_by(|a, b| a.2.cmp(&b.2));
            let candidates: Vec<_> = weighted
                .iter()
                .map(|(_, weight, identity)| {
                    Candidate::new(seed, identity.as_bytes(), *weight, size)
                })
                .collect();
            let table = maglev::table::<u8>(size, &candidates);
            ByShare::Table(
                table
                    .iter()
                    .filter_map(|&index| weighted.get(usize::from(index)))
                    .map(|(place, ..)| narrow(*place))
                    .collect(),
            )
        }
    }
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
