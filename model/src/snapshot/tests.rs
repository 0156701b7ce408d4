//! What a snapshot promises: every broken promise is refused.

use super::*;
use crate::{RouteKind, StreamKind, StreamListener, StreamRoute};

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
        streams: vec![],
    }
}

fn stream_listener(name: &str, tls: StreamTls) -> StreamListener {
    let backend = Backend { weight: Weight::DEFAULT, target: Target::Service(ServiceIndex(0)) };
    StreamListener {
        name: ListenerName::new(name).unwrap(),
        hostname: None,
        tls,
        routes: vec![StreamRoute {
            route: RouteId { kind: RouteKind::Tls, name: "web".parse().unwrap() },
            hostnames: vec![],
            backends: vec![backend],
        }],
    }
}

/// A Gateway with listener `web` on TCP port 80, and one stream.
fn streaming(kind: StreamKind, port: u16, listeners: Vec<StreamListener>) -> Gateway {
    let stream = Stream { port: Port::new(port).unwrap(), kind, listeners };
    Gateway { streams: vec![stream], ..gateway("a", "10.0.0.10", 0) }
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

#[test]
fn streams_are_listeners_too() {
    let secret = CertificateId { secret: "cert".parse().unwrap(), sha256: [1; 32] };
    let ended = StreamTls::Terminate { certificates: vec![secret.clone()] };
    let mut one = stream_listener("one", ended.clone());
    one.hostname = Some("a.example".parse().unwrap());
    let two = stream_listener("two", StreamTls::Passthrough);
    let both = streaming(StreamKind::Tls, 443, vec![one, two]);
    let services = vec![service("web", Protocol::Tcp)];
    let made = snapshot(vec![both], services.clone()).unwrap();
    assert_eq!(made.certificates(), [&secret].into());
    assert!(made.gateways()[0].streams[0].asks_for_name());

    let mut named = stream_listener("named", StreamTls::None);
    let all = stream_listener("all", StreamTls::None);
    let opaque = streaming(StreamKind::Plain, 80, vec![all.clone()]);
    assert!(!opaque.streams[0].asks_for_name());
    named.hostname = Some("a.example".parse().unwrap());
    let by_host = streaming(StreamKind::Plain, 81, vec![named, all]);
    assert!(by_host.streams[0].asks_for_name());
    assert!(snapshot(vec![by_host], services.clone()).is_ok());

    let refused = |gateway: Gateway| snapshot(vec![gateway], services.clone()).unwrap_err();
    let plain = || stream_listener("plain", StreamTls::None);
    let taken = refused(streaming(StreamKind::Plain, 80, vec![plain()]));
    assert_eq!(
        taken.to_string(),
        "listener default/a/plain wants 10.0.0.10 port 80/TCP, already taken by default/a/web"
    );
    let named =
        refused(streaming(StreamKind::Plain, 81, vec![stream_listener("web", StreamTls::None)]));
    assert_eq!(named.to_string(), "listener default/a/web is listed twice");
    let mut dangling = plain();
    dangling.routes[0].backends[0].target = Target::Service(ServiceIndex(1));
    let dangling = refused(streaming(StreamKind::Plain, 81, vec![dangling]));
    assert!(matches!(dangling, SnapshotError::DanglingService { .. }), "{dangling}");

    let bare = stream_listener("bare", StreamTls::Terminate { certificates: vec![] });
    let passed = |name| stream_listener(name, StreamTls::Passthrough);
    for (kind, listeners, fault) in [
        (StreamKind::Plain, vec![], "has no listener"),
        (
            StreamKind::Plain,
            vec![plain(), stream_listener("b", StreamTls::None)],
            "has two listeners for one hostname",
        ),
        (StreamKind::Plain, vec![passed("b")], "is plain, and has a listener with TLS"),
        (StreamKind::Tls, vec![plain()], "is for TLS, and has a listener without"),
        (StreamKind::Tls, vec![bare], "has a listener that ends TLS without a certificate"),
        (StreamKind::Tls, vec![passed("b"), passed("c")], "has two listeners for one hostname"),
    ] {
        let refused = refused(streaming(kind, 443, listeners)).to_string();
        assert_eq!(refused, format!("gateway default/a: the stream on port 443 {fault}"));
    }
}

#[test]
fn one_gateway_can_stay_as_it_was() {
    let named = |name: &str| service(name, Protocol::Tcp);
    let (web, old, new) = (named("web"), named("old"), named("new"));
    let drained = ServicePort { endpoints: vec![], ..web.clone() };
    let gateways =
        |a: u32, b: u32| vec![gateway("a", "10.0.0.10", a), gateway("b", "10.0.0.11", b)];
    // In other places, as services come and go.
    let last = snapshot(gateways(0, 1), vec![old.clone(), web]).unwrap();
    let newest = snapshot(gateways(0, 1), vec![new.clone(), drained.clone()]).unwrap();
    let kept = newest.with_last_of(&"a".parse().unwrap(), &last).unwrap();
    assert_eq!(kept.services(), [old, drained.clone()]);
    assert_eq!(kept.gateways(), last.gateways());
    let settings = Settings { maglev_size: Some(251), ..Settings::default() };
    let newest = newest.with_settings(settings.clone());
    let kept = newest.with_last_of(&"b".parse().unwrap(), &Snapshot::empty(Generation(0))).unwrap();
    assert_eq!((kept.gateways(), kept.services()), (&newest.gateways()[..1], &[new][..]));
    assert_eq!(kept.settings(), &settings);

    // Its address is another's by now, and it has one of that.
    let moved = vec![gateway("a", "10.0.0.11", 0), gateway("b", "10.0.0.10", 0)];
    let newest = snapshot(moved, vec![drained]).unwrap();
    let kept = newest.with_last_of(&"a".parse().unwrap(), &last).unwrap();
    assert_eq!(kept.gateways()[0].addresses, newest.gateways()[0].addresses);
    assert_eq!(kept.gateways()[0].listeners, last.gateways()[0].listeners);
}
