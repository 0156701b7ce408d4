//! What a snapshot promises: every broken promise is refused.

use super::*;

fn service(name: &str, protocol: Protocol) -> ServicePort {
    ServicePort {
        id: ServicePortId {
            service: name.parse().unwrap(),
            protocol,
            port: Port::new(80).unwrap(),
        },
        affinity: Affinity::None,
        endpoints: vec![Endpoint {
            address: "10.1.0.1".parse().unwrap(),
            port: Port::new(8080).unwrap(),
            state: EndpointState::Ready,
        }],
    }
}

fn gateway(name: &str, address: &str, index: u32) -> Gateway {
    Gateway {
        name: name.parse().unwrap(),
        addresses: vec![address.parse().unwrap()],
        listeners: vec![Listener {
            name: ListenerName::new("web").unwrap(),
            protocol: Protocol::Tcp,
            port: Port::new(80).unwrap(),
            route: None,
            backends: vec![Backend {
                weight: Weight::DEFAULT,
                target: Target::Service(ServiceIndex(index)),
            }],
        }],
    }
}

fn snapshot(gateways: Vec<Gateway>, services: Vec<ServicePort>) -> Result<Snapshot, SnapshotError> {
    Snapshot::new(Generation(1), HashSeed(0), gateways, services)
}

#[test]
fn a_whole_snapshot_is_accepted() {
    let made = snapshot(
        vec![gateway("a", "10.0.0.10", 0), gateway("b", "10.0.0.11", 0)],
        vec![service("web", Protocol::Tcp)],
    )
    .unwrap();
    assert_eq!(made.vips().len(), 2);
    assert_eq!(made.service(ServiceIndex(0)).unwrap().endpoints.len(), 1);
    assert!(made.service(ServiceIndex(1)).is_none());
    assert!(made.same_wishes(&made.clone().with_generation(Generation(9))));
}

#[test]
fn a_dangling_service_is_refused() {
    let error = snapshot(vec![gateway("a", "10.0.0.10", 1)], vec![service("web", Protocol::Tcp)])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "listener default/a/web points at service number 1, but the snapshot has 1"
    );
}

#[test]
fn one_address_and_port_has_one_owner() {
    let error = snapshot(
        vec![gateway("a", "10.0.0.10", 0), gateway("b", "10.0.0.10", 0)],
        vec![service("web", Protocol::Tcp)],
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "listener default/b/web wants 10.0.0.10 port 80/TCP, already taken by default/a/web"
    );
}

#[test]
fn protocols_must_agree() {
    let error = snapshot(vec![gateway("a", "10.0.0.10", 0)], vec![service("dns", Protocol::Udp)])
        .unwrap_err();
    assert!(matches!(error, SnapshotError::ProtocolMismatch { .. }), "{error}");
}

#[test]
fn duplicates_are_refused() {
    let twice = vec![service("web", Protocol::Tcp), service("web", Protocol::Tcp)];
    assert!(matches!(snapshot(vec![], twice), Err(SnapshotError::DuplicateService(_))));

    let mut doubled = service("web", Protocol::Tcp);
    let mut again = doubled.endpoints[0];
    again.state = EndpointState::Draining;
    doubled.endpoints.push(again);
    assert!(matches!(
        snapshot(vec![], vec![doubled]),
        Err(SnapshotError::DuplicateEndpoint { .. })
    ));

    let gateways = vec![gateway("a", "10.0.0.10", 0), gateway("a", "10.0.0.11", 0)];
    assert!(matches!(
        snapshot(gateways, vec![service("web", Protocol::Tcp)]),
        Err(SnapshotError::DuplicateGateway(_))
    ));
}

#[test]
fn a_listener_has_one_name() {
    let mut doubled = gateway("a", "10.0.0.10", 0);
    let mut again = doubled.listeners[0].clone();
    again.port = Port::new(81).unwrap();
    doubled.listeners.push(again);
    let error = snapshot(vec![doubled], vec![service("web", Protocol::Tcp)]).unwrap_err();
    assert_eq!(error.to_string(), "listener default/a/web is listed twice");
}

#[test]
fn only_unicast_addresses_of_hosts_are_taken() {
    for bad in [
        "0.0.0.0",
        "0.1.2.3",
        "240.0.0.1",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "ff02::1",
        "::ffff:10.0.0.1",
    ] {
        let made = snapshot(vec![gateway("a", bad, 0)], vec![service("web", Protocol::Tcp)]);
        assert!(matches!(made, Err(SnapshotError::BadAddress { .. })), "{bad}");
        let mut service = service("web", Protocol::Tcp);
        service.endpoints[0].address = bad.parse().unwrap();
        let made = snapshot(vec![], vec![service]);
        assert!(matches!(made, Err(SnapshotError::BadEndpoint { .. })), "{bad}");
    }
}

#[test]
fn addresses_that_are_not_kept_take_their_gateways_along() {
    let made = snapshot(
        vec![gateway("a", "10.0.0.10", 0), gateway("b", "10.0.0.11", 0)],
        vec![service("web", Protocol::Tcp)],
    )
    .unwrap();
    let all = made.clone().retain_addresses(|_, _| true);
    assert_eq!(all, made);
    let one = made.retain_addresses(|gateway, _| gateway.name() == "b");
    assert_eq!(one.gateways().len(), 1);
    assert_eq!(one.vips(), ["10.0.0.11".parse().unwrap()].into());
}
