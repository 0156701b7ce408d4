//! What a snapshot promises holds for whatever parts it was made of, and
//! parts that keep the promises are never refused.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests say what they expect by unwrapping"
)]

use std::collections::BTreeSet;
use std::net::IpAddr;

use blixt_model::{
    Affinity, Backend, Endpoint, EndpointState, Gateway, Generation, HashSeed, Listener,
    ListenerName, Port, Protocol, RejectReason, ServiceIndex, ServicePort, ServicePortId, Snapshot,
    Target, Weight,
};
use proptest::prelude::*;
use proptest::sample::select;

fn address() -> impl Strategy<Value = IpAddr> {
    let good = ["10.0.0.1", "10.0.0.2", "2001:db8::1"];
    let bad = ["::ffff:10.0.0.1", "127.0.0.1", "ff02::1", "0.0.0.0"];
    let read = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
    prop_oneof![20 => select(read(&good)), 1 => select(read(&bad))]
}

fn port() -> impl Strategy<Value = Port> {
    (1..5_i64).prop_map(|number| Port::new(number).unwrap())
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::Tcp, Protocol::Udp])
}

fn service() -> impl Strategy<Value = ServicePort> {
    let state = select(vec![EndpointState::Ready, EndpointState::Draining]);
    let endpoint = (address(), port(), state).prop_map(|(address, port, state)| Endpoint {
        address,
        port,
        state,
    });
    let endpoints = prop::collection::vec(endpoint, 0..3);
    (select(vec!["a", "b", "c"]), protocol(), port(), endpoints).prop_map(
        |(name, protocol, port, endpoints)| ServicePort {
            id: ServicePortId { service: name.parse().unwrap(), protocol, port },
            affinity: Affinity::None,
            endpoints,
        },
    )
}

fn listener() -> impl Strategy<Value = Listener> {
    let target = prop_oneof![
        (0..4_u32).prop_map(|index| Target::Service(ServiceIndex(index))),
        Just(Target::Rejected(RejectReason::BackendNotFound)),
    ];
    let backend = target.prop_map(|target| Backend { weight: Weight::DEFAULT, target });
    let backends = prop::collection::vec(backend, 0..2);
    (select(vec!["a", "b", "c"]), protocol(), port(), backends).prop_map(
        |(name, protocol, port, backends)| Listener {
            name: ListenerName::new(name).unwrap(),
            protocol,
            port,
            route: None,
            backends,
        },
    )
}

fn gateway() -> impl Strategy<Value = Gateway> {
    let addresses = prop::collection::vec(address(), 0..3);
    let listeners = prop::collection::vec(listener(), 0..3);
    (select(vec!["a", "b", "c", "d"]), addresses, listeners).prop_map(
        |(name, addresses, listeners)| Gateway {
            name: name.parse().unwrap(),
            addresses,
            listeners,
            streams: vec![],
        },
    )
}

/// The promises again, in the plainest words.
fn keeps_its_promises(gateways: &[Gateway], services: &[ServicePort]) -> bool {
    fn distinct<T: Ord>(items: impl IntoIterator<Item = T>) -> bool {
        let mut seen = BTreeSet::new();
        items.into_iter().all(|item| seen.insert(item))
    }
    let is_host = |address: IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_loopback(),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_none() && !v6.is_multicast(),
    };
    let sockets = gateways.iter().flat_map(|gateway| {
        gateway.listeners.iter().flat_map(|listener| {
            let socket = |&address| (address, listener.protocol, listener.port);
            gateway.addresses.iter().map(socket)
        })
    });
    let reaches = |listener: &Listener, backend: &Backend| match backend.target {
        Target::Rejected(_) => true,
        Target::Service(ServiceIndex(index)) => services
            .get(index as usize)
            .is_some_and(|service| service.id.protocol == listener.protocol),
    };
    distinct(gateways.iter().map(|gateway| &gateway.name))
        && distinct(services.iter().map(|service| &service.id))
        && distinct(sockets)
        && gateways.iter().all(|gateway| {
            distinct(gateway.listeners.iter().map(|listener| &listener.name))
                && gateway.addresses.iter().all(|&address| is_host(address))
                && gateway.listeners.iter().all(|listener| {
                    listener.backends.iter().all(|backend| reaches(listener, backend))
                })
        })
        && services.iter().all(|service| {
            distinct(service.endpoints.iter().map(|endpoint| (endpoint.address, endpoint.port)))
                && service.endpoints.iter().all(|endpoint| is_host(endpoint.address))
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn parts_make_a_snapshot_if_they_keep_its_promises(
        gateways in prop::collection::vec(gateway(), 0..3),
        services in prop::collection::vec(service(), 0..4),
    ) {
        let good = keeps_its_promises(&gateways, &services);
        let made =
            Snapshot::new(Generation(1), HashSeed(1), gateways.clone(), services.clone());
        prop_assert_eq!(made.is_ok(), good, "{:?}", made);
        if let Ok(snapshot) = made {
            prop_assert_eq!(snapshot.gateways(), &gateways);
            prop_assert_eq!(snapshot.services(), &services);
            for (number, service) in (0..).zip(&services) {
                prop_assert_eq!(snapshot.service(ServiceIndex(number)), Some(service));
            }
        }
    }
}
