//! What of a snapshot becomes of ports, and who is said to be served.

use super::*;
use crate::tables::TablesWriter;
use blixt_dataplane::{CompileOptions, MaglevSize};
use blixt_model::{
    Affinity, Backend, Certificate, CertificateId, Endpoint, EndpointState, HashSeed, ListenerName,
    Port, PrivateKey, Protocol, RejectReason, RouteId, RouteKind, ServiceIndex, ServicePort,
    ServicePortId, Snapshot, Stream, StreamKind, StreamListener, StreamRoute, StreamTls, Target,
    Weight,
};
use blixt_streams::Tls;
use blixt_testkit::netns::{Namespace, program};
use blixt_testkit::require_root;
use rcgen::{CertificateParams, KeyPair};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

pub(super) const VIP: &str = "192.0.2.1:443";

pub(super) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A Gateway with one stream, which has these listeners.
fn snapshot(generation: u64, kind: StreamKind, listeners: Vec<StreamListener>) -> Snapshot {
    let service = ServicePort {
        id: ServicePortId {
            service: "web".parse().unwrap(),
            protocol: Protocol::Tcp,
            port: Port::new(80).unwrap(),
        },
        affinity: Affinity::None,
        endpoints: vec![Endpoint {
            address: [10, 0, 0, 1].into(),
            port: Port::new(8_080).unwrap(),
            state: EndpointState::Ready,
        }],
    };
    let gateway = Gateway {
        name: "edge".parse().unwrap(),
        addresses: vec![at(VIP).ip()],
        listeners: vec![],
        streams: vec![Stream { port: Port::new(443).unwrap(), kind, listeners }],
    };
    Snapshot::new(Generation(generation), HashSeed(0), vec![gateway], vec![service]).unwrap()
}

fn listener(name: &str, tls: StreamTls, routes: Vec<StreamRoute>) -> StreamListener {
    StreamListener { name: ListenerName::new(name).unwrap(), hostname: None, tls, routes }
}

fn route(name: &str, target: Target) -> StreamRoute {
    StreamRoute {
        route: RouteId { kind: RouteKind::Tls, name: name.parse().unwrap() },
        hostnames: vec![format!("{name}.example").parse().unwrap()],
        backends: vec![Backend { weight: Weight::DEFAULT, target }],
    }
}

/// What is wanted once a snapshot is in force.
fn in_force(snapshot: &Snapshot) -> (Arc<Published>, Wish) {
    let published = Arc::new(Published::new(1));
    let options =
        CompileOptions { maglev: MaglevSize::new(251).unwrap(), ..CompileOptions::default() };
    let mut writer = TablesWriter::new(Arc::clone(&published), options, "node".to_owned());
    writer.apply(snapshot).unwrap();
    let applied = writer.applied().load_full();
    let tables = published.tables.load_full();
    (published, Wish { applied, tables, certificates: Certificates::default() })
}

/// A port with two routes, the second of which has no Service, in force.
pub(super) fn applied() -> (Arc<Published>, Arc<Applied>) {
    let routes = vec![
        route("a", Target::Service(ServiceIndex(0))),
        route("b", Target::Rejected(RejectReason::BackendNotFound)),
    ];
    let tls = listener("tls", StreamTls::Passthrough, routes);
    let (published, wish) = in_force(&snapshot(1, StreamKind::Tls, vec![tls]));
    (published, wish.applied)
}

fn certificate(digest: u8) -> Certificate {
    let key = KeyPair::generate().unwrap();
    let made = CertificateParams::new(vec!["a.example".to_owned()]).unwrap().self_signed(&key);
    Certificate {
        id: CertificateId { secret: "shop/cert".parse().unwrap(), sha256: [digest; 32] },
        chain: vec![made.unwrap().der().to_vec()],
        key: PrivateKey(key.serialize_der()),
    }
}

fn ends_tls(certificates: &[&Certificate]) -> Snapshot {
    let certificates = certificates.iter().map(|certificate| certificate.id.clone()).collect();
    let routes = vec![route("a", Target::Service(ServiceIndex(0)))];
    let tls = listener("https", StreamTls::Terminate { certificates }, routes);
    snapshot(1, StreamKind::Tls, vec![tls])
}

fn here(certificates: &[&Certificate]) -> Certificates {
    let all = certificates.iter().map(|&one| (one.id.clone(), Arc::new(one.clone())));
    Arc::new(all.collect())
}

/// What the one listener ends TLS with, as a number that others have not.
fn config(made: &Made) -> Option<usize> {
    let blixt_streams::Port::Tls(listeners) = &*made.ports[&at(VIP)] else { panic!("no TLS") };
    match &listeners[0].tls {
        Tls::Terminate(config) => config.as_ref().map(|config| Arc::as_ptr(config).addr()),
        Tls::Passthrough => panic!("it ends nothing"),
    }
}

#[test]
fn bytes_go_to_the_first_route_or_to_nobody() {
    let made = |routes| {
        let plain = listener("http", StreamTls::None, routes);
        let made = Ports::default()
            .make(&snapshot(1, StreamKind::Plain, vec![plain]), &Certificates::default());
        assert_eq!((made.owners.len(), made.troubles.len()), (1, 0));
        format!("{:?}", made.ports[&at(VIP)])
    };
    assert_eq!(made(vec![]), "Plain(None)");
    let to_web =
        |name| StreamRoute { hostnames: vec![], ..route(name, Target::Service(ServiceIndex(0))) };
    assert_eq!(made(["a", "b"].map(to_web).into()), "Plain(Some(RoutePlace(0)))");
    // Where a hostname decides, somebody has to look for it.
    assert!(made(vec![route("a", Target::Service(ServiceIndex(0)))]).starts_with("Http(["));
}

#[test]
fn routes_are_counted_through_all_listeners() {
    let to_web = || route("a", Target::Service(ServiceIndex(0)));
    let mut one = listener("one", StreamTls::Passthrough, vec![to_web(), to_web()]);
    one.hostname = Some("*.example".parse().unwrap());
    let two = listener("two", StreamTls::Passthrough, vec![to_web()]);
    let wanted = snapshot(1, StreamKind::Tls, vec![one, two]);
    let made = Ports::default().make(&wanted, &Certificates::default());
    let shown = format!("{:?}", made.ports[&at(VIP)]);
    let places: Vec<_> = shown.split("RoutePlace(").skip(1).map(|rest| &rest[..1]).collect();
    assert_eq!(places, ["0", "1", "2"]);
}

#[test]
fn what_ends_tls_stays_until_there_is_something_newer_that_works() {
    let (first, second) = (certificate(1), certificate(2));
    let broken = Certificate { key: first.key.clone(), ..certificate(3) };
    let mut ports = Ports::default();
    let mut make = |wanted: &[&Certificate], present: &[&Certificate]| {
        let made = ports.make(&ends_tls(wanted), &here(present));
        (config(&made), made.troubles.get(&"edge".parse().unwrap()).cloned())
    };
    let (none, why) = make(&[&first], &[]);
    assert_eq!(none, None);
    assert!(why.unwrap().contains("the certificate of Secret shop/cert has not come"));
    let (with_first, why) = make(&[&first], &[&first]);
    assert_eq!((with_first.is_some(), why), (true, None));
    assert_eq!(make(&[&first], &[&first]), (with_first, None), "it is not made again");
    // The snapshot is there before the certificate.
    let (still, why) = make(&[&second], &[&first]);
    assert_eq!(still, with_first);
    assert!(why.is_some());
    // A key that is another's.
    let (still, why) = make(&[&broken], &[&first, &broken]);
    assert_eq!(still, with_first);
    let why = why.unwrap();
    assert!(why.starts_with("listener https: of its Secrets (shop/cert), "), "{why}");
    let (with_second, why) = make(&[&second], &[&second]);
    assert_eq!((with_second.is_some(), why), (true, None));
    assert_ne!(with_second, with_first);
}

#[test]
fn a_gateway_is_served_when_all_its_ports_are() {
    let wanted = ends_tls(&[&certificate(1)]);
    let gateway = &wanted.gateways()[0];
    let mut shown = Shown::default();
    let passed = [at(VIP)].into();
    assert_eq!(shown.of(gateway, &BTreeSet::new()), None);
    assert_eq!(shown.of(gateway, &passed), Some(Ok(())));
    shown.troubles = [("edge".parse().unwrap(), "it is taken".to_owned())].into();
    assert_eq!(shown.of(gateway, &passed), Some(Err("it is taken".to_owned())));
    let other = Gateway { name: "other".parse().unwrap(), ..Gateway::clone(gateway) };
    assert_eq!(shown.of(&other, &passed), Some(Ok(())));
}

#[test]
fn tables_are_kept_in_mind_as_long_as_somebody_chooses_by_them() {
    let (published, _) = applied();
    let choosing = Choosing::default();
    assert_eq!(choosing.oldest(), None);
    let old = Arc::new(ByTables::new(Arc::default(), Arc::clone(&published)));
    let new = Arc::new(ByTables::new(published.tables.load_full(), published));
    choosing.add(&old);
    choosing.add(&new);
    assert_eq!(choosing.oldest(), Some(Generation(0)));
    drop(old);
    assert_eq!(choosing.oldest(), Some(Generation(1)));
}

/// Plain bytes to the one endpoint, for Gateways with these addresses.
fn plain(generation: u64, gateways: &[(&str, u8)]) -> Snapshot {
    let to_web = StreamRoute { hostnames: vec![], ..route("a", Target::Service(ServiceIndex(0))) };
    let one = snapshot(
        generation,
        StreamKind::Plain,
        vec![listener("http", StreamTls::None, vec![to_web])],
    );
    let gateway = &one.gateways()[0];
    let gateways = gateways.iter().map(|(name, host)| Gateway {
        name: name.parse().unwrap(),
        addresses: vec![[192, 0, 2, *host].into()],
        ..Gateway::clone(gateway)
    });
    let services = one.services().iter().cloned();
    Snapshot::new(one.generation(), HashSeed(0), gateways.collect(), services.collect()).unwrap()
}

/// Runs on a node of its own.
fn on_a_node<F: Future<Output = ()>>(work: impl FnOnce() -> F + Send + 'static) {
    Namespace::new("node").inside(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(work());
    });
}

const ROOM: Room = Room { ports: 1, numbers: 1 };

#[test]
fn who_is_served_stays_where_the_kernel_refuses_later() {
    require_root!();
    on_a_node(|| async {
        let ip = |what: &str| program("ip").args(what.split(' ')).ok();
        ip("address add 10.0.0.1/32 dev lo");
        let endpoint = TcpListener::bind("10.0.0.1:8080").unwrap();
        let (published, wish) = in_force(&plain(1, &[("edge", 1)]));
        let mut task = Task::new(published, vec!["lo".to_owned()], ROOM);
        let shown = task.look(wish.clone()).await;
        assert_eq!((shown.served, shown.troubles), ([at(VIP)].into(), BTreeMap::new()));
        let mut client = TcpStream::connect(VIP).unwrap();
        let (mut server, _) = endpoint.accept().unwrap();
        let mut says = |what: &[u8]| {
            client.write_all(what).unwrap();
            let mut heard = vec![0; what.len()];
            server.read_exact(&mut heard).unwrap();
            assert_eq!(heard, what);
        };
        says(b"before");
        // Others tidy up, and take away the address that the route is to name.
        ip("route flush table 178000443");
        ip("address del 127.0.0.1/8 dev lo");
        let shown = task.look(wish.clone()).await;
        let why = &shown.troubles[&"edge".parse().unwrap()];
        assert!(why.contains("the kernel takes no rule or route for 192.0.2.1:443"), "{why}");
        assert_eq!(shown.served, [at(VIP)].into());
        ip("address add 127.0.0.1/8 dev lo");
        let shown = task.look(wish).await;
        assert_eq!((shown.served, shown.troubles), ([at(VIP)].into(), BTreeMap::new()));
        says(b"after");
        let streams = task.running.get().unwrap();
        assert_eq!(streams.counts().live, 1);
        drop(TcpStream::connect(VIP).unwrap());
    });
}

#[test]
fn there_is_room_for_so_many_ports_and_who_has_it_keeps_it() {
    require_root!();
    on_a_node(|| async {
        let (published, first) = in_force(&plain(1, &[("b", 2)]));
        let (_, both) = in_force(&plain(2, &[("a", 1), ("b", 2)]));
        let (_, other) = in_force(&plain(3, &[("a", 1)]));
        let mut task = Task::new(published, vec![], ROOM);
        let [a, b] = ["192.0.2.1:443", "192.0.2.2:443"].map(at);
        assert_eq!(task.look(first).await.served, [b].into());
        let shown = task.look(both.clone()).await;
        assert_eq!(shown.served, [b].into());
        let all: Vec<_> = shown.troubles.iter().collect();
        let [(name, why)] = &all[..] else { panic!("{all:?}") };
        assert_eq!(**name, "a".parse().unwrap());
        assert!(why.contains("room for 1 TCP ports"), "{why}");
        let shown = task.look(other).await;
        assert_eq!((shown.served, shown.troubles), ([a].into(), BTreeMap::new()));
        // Who starts with both goes by their names.
        let (published, _) = in_force(&plain(2, &[]));
        drop(task);
        let mut task = Task::new(published, vec![], ROOM);
        let mut shown = task.look(both.clone()).await;
        // The other one's sockets take a moment to close.
        for _ in 0..100 {
            if shown.served.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                shown = task.look(both.clone()).await;
            }
        }
        assert_eq!(shown.served, [a].into());
    });
}
