//! What Maglev tables take, before they are made: two bytes for each slot of a
//! service with several endpoints of a family, one for each slot of several
//! backendRefs, however many listeners and routes have just these. One choice needs
//! no table.

use std::collections::{BTreeSet, HashSet};

use blixt_model::{Backend, EndpointState, Gateway, ServicePort, Snapshot, Target};

use super::{CompileError, MaglevSize, Tables};

/// The most that Maglev tables may take, in bytes: those of 8,000 Service ports of
/// the usual size. While tables are exchanged there are twice as many.
pub(super) const MOST_BYTES: u64 = 1 << 30;

/// What a first level follows from: the weight and the service of each backendRef.
pub(super) type Mix = Vec<(u32, Option<u32>)>;

pub(super) fn mix(backends: &[Backend]) -> Mix {
    let of = |backend: &Backend| (backend.weight.number(), service_of(backend));
    backends.iter().map(of).collect()
}

impl Tables {
    /// Whether there may be tables of that size for a snapshot.
    pub fn fit(snapshot: &Snapshot, size: MaglevSize) -> Result<(), CompileError> {
        let bytes = bytes(snapshot.gateways(), snapshot.services(), size);
        match bytes > MOST_BYTES {
            true => Err(CompileError::TooLarge { slots: size.slots(), bytes }),
            false => Ok(()),
        }
    }

    /// What those of one Gateway take, with all that it shares with others.
    pub fn bytes_of(snapshot: &Snapshot, gateway: &Gateway, size: MaglevSize) -> u64 {
        let named: BTreeSet<_> = all_backends(gateway).flatten().filter_map(service_of).collect();
        let services = (0..).zip(snapshot.services()).filter(|(index, _)| named.contains(index));
        bytes([gateway], services.map(|(_, service)| service), size)
    }
}

fn bytes<'a>(
    gateways: impl IntoIterator<Item = &'a Gateway>,
    services: impl IntoIterator<Item = &'a ServicePort>,
    size: MaglevSize,
) -> u64 {
    let weighted = |backends: &[Backend]| {
        backends.iter().filter(|backend| backend.weight.number() > 0).count()
    };
    let backends = gateways.into_iter().flat_map(all_backends);
    let mixes: HashSet<_> =
        backends.filter(|backends| weighted(backends) > 1).map(|it| mix(it)).collect();
    let families = services.into_iter().flat_map(ready_by_family).filter(|&ready| ready > 1);
    (2 * families.count() + mixes.len()) as u64 * u64::from(size.slots())
}

/// The backendRefs of each listener, and of each route of a stream's listener.
fn all_backends(gateway: &Gateway) -> impl Iterator<Item = &Vec<Backend>> {
    let routes = gateway.streams.iter().flat_map(|stream| &stream.listeners);
    let routes = routes.flat_map(|listener| &listener.routes);
    let listeners = gateway.listeners.iter().map(|listener| &listener.backends);
    listeners.chain(routes.map(|route| &route.backends))
}

fn ready_by_family(service: &ServicePort) -> [usize; 2] {
    let ready = service.endpoints.iter().filter(|it| it.state == EndpointState::Ready);
    let v4 = ready.clone().filter(|endpoint| endpoint.address.is_ipv4()).count();
    [v4, ready.count() - v4]
}

fn service_of(backend: &Backend) -> Option<u32> {
    match backend.target {
        Target::Service(index) => Some(index.0),
        Target::Rejected(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blixt_model::{
        Affinity, Endpoint, Generation, HashSeed, Listener, ListenerName, Port, Protocol,
        RejectReason, RouteId, RouteKind, ServiceIndex, ServicePortId, Stream, StreamKind,
        StreamListener, StreamRoute, StreamTls, Weight,
    };

    fn port(number: u16) -> Port {
        Port::new(number).unwrap()
    }

    fn service(name: &str, endpoints: u8) -> ServicePort {
        let service = name.parse().unwrap();
        ServicePort {
            id: ServicePortId { service, protocol: Protocol::Tcp, port: port(80) },
            affinity: Affinity::None,
            endpoints: (1..=endpoints)
                .map(|host| Endpoint {
                    address: [10, 1, 0, host].into(),
                    port: port(8_080),
                    state: EndpointState::Ready,
                })
                .collect(),
        }
    }

    fn share(weight: u32, service: Option<u32>) -> Backend {
        let target = service.map_or(Target::Rejected(RejectReason::InvalidKind), |index| {
            Target::Service(ServiceIndex(index))
        });
        Backend { weight: Weight::new(weight).unwrap(), target }
    }

    fn gateway(name: &str, host: u8, backends: Vec<Backend>) -> Gateway {
        let listener = Listener {
            name: ListenerName::new("tcp").unwrap(),
            protocol: Protocol::Tcp,
            port: port(80),
            route: None,
            backends,
        };
        Gateway {
            name: name.parse().unwrap(),
            addresses: vec![[192, 0, 2, host].into()],
            listeners: vec![listener],
            streams: vec![],
        }
    }

    #[test]
    fn each_choice_among_several_takes_a_table_once() {
        let size = MaglevSize::new(251).unwrap();
        let (two, one) = (
            vec![share(1, Some(0)), share(1, None), share(0, None)],
            vec![share(1, Some(1)), share(0, None)],
        );
        let route = |name: &str, backends: &[Backend]| StreamRoute {
            route: RouteId { kind: RouteKind::Http, name: name.parse().unwrap() },
            hostnames: vec![],
            backends: backends.to_vec(),
        };
        let other = vec![share(1, Some(0)), share(2, None)];
        let listener = StreamListener {
            name: ListenerName::new("http").unwrap(),
            hostname: None,
            tls: StreamTls::None,
            routes: vec![route("a", &two), route("b", &one), route("c", &two), route("d", &other)],
        };
        let stream = Stream { port: port(81), kind: StreamKind::Plain, listeners: vec![listener] };
        let streaming = Gateway { streams: vec![stream], ..gateway("a", 1, two.clone()) };
        let gateways = vec![streaming, gateway("b", 2, two), gateway("c", 3, one)];
        let services = vec![service("x", 2), service("y", 1), service("unused", 2)];
        let all = Snapshot::new(Generation(1), HashSeed(7), gateways, services).unwrap();
        let of = |place: usize| Tables::bytes_of(&all, &all.gateways()[place], size);
        assert_eq!([of(0), of(1), of(2)], [(2 + 2) * 251, (2 + 1) * 251, 0]);
        assert_eq!(bytes(all.gateways(), all.services(), size), (2 + 2 + 2) * 251);
        assert_eq!(Tables::fit(&all, size), Ok(()));
    }
}
