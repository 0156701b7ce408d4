use super::*;
use blixt_model::{
    Affinity, Backend, Certificate, CertificateId, Endpoint, EndpointState, Gateway, Generation,
    HashSeed, Listener, ListenerName, Port, PrivateKey, Protocol, RejectReason, RouteId, RouteKind,
    ServiceIndex, ServicePort, ServicePortId, Snapshot, Stream, StreamKind, StreamListener,
    StreamRoute, StreamTls, Target, Weight,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

fn port(number: u16) -> Port {
    Port::new(number).unwrap()
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::Tcp, Protocol::Udp])
}

fn endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
    let addresses: Vec<IpAddr> =
        ["10.0.0.1", "10.0.0.2", "2001:db8::1"].map(|text| text.parse().unwrap()).into();
    let state = select(vec![EndpointState::Ready, EndpointState::Draining]);
    (subsequence(addresses, 0..=3), 1..3_u16, state).prop_map(|(addresses, number, state)| {
        let endpoint = |address| Endpoint { address, port: port(number), state };
        addresses.into_iter().map(endpoint).collect()
    })
}

/// Services by identity, as the compiler orders them. With names that order
/// otherwise by key than by name.
fn services() -> impl Strategy<Value = Vec<ServicePort>> {
    let one = (
        select(vec!["a/web", "a-b/web", "a/api"]),
        protocol(),
        select(vec![80, 443, 8_080]),
        any::<bool>(),
        endpoints(),
    );
    prop::collection::vec(one, 0..5).prop_map(|all| {
        let services = all.into_iter().map(|(name, protocol, number, sticky, endpoints)| {
            let id = ServicePortId { service: name.parse().unwrap(), protocol, port: port(number) };
            let affinity = if sticky { Affinity::ClientIp } else { Affinity::None };
            (id.clone(), ServicePort { id, affinity, endpoints })
        });
        services.collect::<BTreeMap<_, _>>().into_values().collect()
    })
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    let reason = select(vec![
        RejectReason::BackendNotFound,
        RejectReason::InvalidKind,
        RejectReason::RefNotPermitted,
    ]);
    let backend = (0..1_000_u32, any::<prop::sample::Index>(), reason);
    let listener = (1..4_u16, protocol(), any::<bool>(), prop::collection::vec(backend, 0..3));
    let gateway = (prop::collection::vec(listener, 0..3), prop::collection::vec(stream(), 0..3));
    let names = subsequence(vec!["a-b/edge", "a/edge", "b/edge"], 0..=3);
    (names, prop::collection::vec(gateway, 3), services(), any::<u64>()).prop_map(
        |(names, listeners, services, seed)| {
            let mut names: Vec<model::ObjectName> =
                names.into_iter().map(|name| name.parse().unwrap()).collect();
            names.sort();
            let gateways = names.into_iter().zip(listeners).zip(1..).map(
                |((name, (listeners, streams)), host): ((_, (Vec<_>, Vec<_>)), u8)| Gateway {
                    name,
                    addresses: vec![[192, 0, 2, host].into()],
                    listeners: listeners
                        .into_iter()
                        .enumerate()
                        .map(|(place, all)| listener_of(place, all, &services))
                        .collect(),
                    streams: streams
                        .into_iter()
                        .enumerate()
                        .map(|(place, listeners)| stream_of(place, listeners, &services))
                        .collect(),
                },
            );
            let gateways = gateways.collect();
            Snapshot::new(Generation(7), HashSeed(seed), gateways, services).unwrap()
        },
    )
}

/// Hostname, whether from a ListenerSet, TLS mode, and the hostnames and
/// backend of its routes.
type ChosenStream = Vec<(String, bool, u8, Vec<(Vec<String>, u32)>)>;

fn stream() -> impl Strategy<Value = ChosenStream> {
    let texts = ["a.example", "*.example", "b.a.example"].map(str::to_owned);
    let hostnames = move || subsequence(texts.to_vec(), 0..=3);
    let route = (hostnames(), 0..1_000_u32);
    let routes = prop::collection::vec(route, 0..3);
    let listener = (any::<bool>(), 0..3_u8, routes);
    let listeners = prop::collection::vec(listener, 4);
    (hostnames(), listeners).prop_map(|(mut hostnames, listeners)| {
        hostnames.push(String::new());
        let all = hostnames.into_iter().zip(listeners);
        all.map(|(hostname, (set, tls, routes))| (hostname, set, tls, routes)).collect()
    })
}

/// A plain stream if the first listener is to be one, and then only that.
fn stream_of(place: usize, mut chosen: ChosenStream, services: &[ServicePort]) -> Stream {
    let plain = chosen[0].2 == 0;
    if plain {
        chosen.truncate(1);
    }
    let tcp = services.iter().position(|service| service.id.protocol == Protocol::Tcp);
    let target = match tcp {
        Some(index) => Target::Service(ServiceIndex(index as u32)),
        None => Target::Rejected(RejectReason::InvalidKind),
    };
    let id = |number| CertificateId { secret: "a/cert".parse().unwrap(), sha256: [number; 32] };
    let listeners = (0_u8..).zip(chosen).map(|(number, (hostname, set, tls, routes))| {
        let name = ListenerName::new(format!("s{place}-{number}")).unwrap();
        let set = set.then(|| "b/set".parse().unwrap());
        let routes = routes.into_iter().map(|(hostnames, weight)| StreamRoute {
            route: RouteId { kind: RouteKind::Tls, name: "a/route".parse().unwrap() },
            hostnames: hostnames.iter().map(|hostname| hostname.parse().unwrap()).collect(),
            backends: vec![Backend { weight: Weight::new(weight).unwrap(), target }],
        });
        StreamListener {
            name: set.into_iter().fold(name, ListenerName::in_set),
            hostname: Some(hostname).filter(|it| !it.is_empty()).map(|it| it.parse().unwrap()),
            tls: match tls {
                _ if plain => StreamTls::None,
                1 => StreamTls::Passthrough,
                _ => StreamTls::Terminate { certificates: vec![id(number), id(9)] },
            },
            routes: routes.collect(),
        }
    });
    Stream {
        port: port(1_000 + place as u16),
        kind: if plain { StreamKind::Plain } else { StreamKind::Tls },
        listeners: listeners.collect(),
    }
}

type Chosen = (u16, Protocol, bool, Vec<(u32, prop::sample::Index, RejectReason)>);

fn listener_of(
    place: usize,
    (number, protocol, routed, backends): Chosen,
    services: &[ServicePort],
) -> Listener {
    let fitting: Vec<_> = (0..)
        .zip(services)
        .filter(|(_, service)| service.id.protocol == protocol)
        .map(|(number, _)| ServiceIndex(number))
        .collect();
    let backends = backends.into_iter().map(|(weight, which, reason)| Backend {
        weight: Weight::new(weight).unwrap(),
        target: match fitting.is_empty() || weight % 5 == 0 {
            true => Target::Rejected(reason),
            false => Target::Service(*which.get(&fitting)),
        },
    });
    let kind = if protocol == Protocol::Tcp { RouteKind::Tcp } else { RouteKind::Udp };
    Listener {
        name: ListenerName::new(format!("l{place}")).unwrap(),
        protocol,
        // No two listeners of a Gateway have one port.
        port: port(number + 10 * place as u16),
        route: routed.then(|| RouteId { kind, name: "a/route".parse().unwrap() }),
        backends: backends.collect(),
    }
}

proptest! {
    #[test]
    fn a_snapshot_comes_back_from_its_parts(snapshot in snapshot()) {
        let parts = Parts::of(&snapshot);
        prop_assert_eq!(parts.snapshot(Generation(7)), Ok(snapshot));
        prop_assert_eq!(&Parts::from_snapshot(parts.to_snapshot()).unwrap(), &parts);
        prop_assert_eq!(&Parts::decode(&parts.encode()).unwrap(), &parts);
    }

    #[test]
    fn changes_lead_from_one_to_the_other(a in snapshot(), b in snapshot()) {
        let (a, b) = (Parts::of(&a), Parts::of(&b).sharing(&Parts::of(&b)));
        let delta = b.since(&a);
        prop_assert_eq!(a.changed_by(delta.clone()), Ok(b.clone()));
        prop_assert_eq!(a == b, a.digest() == b.digest());
        prop_assert_eq!(delta.changed.is_empty() && delta.removed.is_empty(), a == b);
        if a != b {
            let refused = b.changed_by(delta);
            prop_assert_eq!(
                refused, Err(PartsError::WrongBase { base: a.digest(), have: b.digest() })
            );
        }
    }

    #[test]
    fn the_digest_knows_no_generation(snapshot in snapshot(), generation in any::<u64>()) {
        let again = snapshot.clone().with_generation(Generation(generation));
        prop_assert_eq!(Parts::of(&again).digest(), Parts::of(&snapshot).digest());
    }

    /// Cut off or flipped anywhere: refused, or at least not believed to be
    /// the same.
    #[test]
    fn damage_is_seen(snapshot in snapshot(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let parts = Parts::of(&snapshot);
        let bytes = parts.encode();
        let cut = &bytes[..at.index(bytes.len())];
        prop_assert_ne!(Parts::decode(cut).map(|parts| parts.digest()), Ok(parts.digest()));
        let mut flipped = bytes.clone();
        flipped[at.index(bytes.len())] ^= 1 << bit;
        prop_assert_ne!(Parts::decode(&flipped).map(|parts| parts.digest()), Ok(parts.digest()));
    }
}

fn example() -> Snapshot {
    let service = ServicePort {
        id: ServicePortId {
            service: "shop/web".parse().unwrap(),
            protocol: Protocol::Tcp,
            port: port(80),
        },
        affinity: Affinity::None,
        endpoints: vec![],
    };
    let backend = Backend { weight: Weight::DEFAULT, target: Target::Service(ServiceIndex(0)) };
    let listener = Listener {
        name: ListenerName::new("tcp").unwrap(),
        protocol: Protocol::Tcp,
        port: port(80),
        route: None,
        backends: vec![backend],
    };
    let gateway = Gateway {
        name: "shop/edge".parse().unwrap(),
        addresses: vec![[192, 0, 2, 1].into()],
        listeners: vec![listener],
        streams: vec![],
    };
    Snapshot::new(Generation(1), HashSeed(1), vec![gateway], vec![service]).unwrap()
}

/// The example with one part replaced, or taken out.
fn with(key: &str, message: Option<Vec<u8>>) -> Result<Snapshot, PartsError> {
    let mut by_key = Parts::of(&example()).by_key;
    match message {
        Some(bytes) => by_key.insert(key.to_owned(), bytes.into()),
        None => by_key.remove(key),
    };
    Parts::new(by_key).snapshot(Generation(1))
}

#[test]
fn keys_are_those_that_are_documented() {
    let keys: Vec<_> = Parts::of(&example()).by_key.into_keys().collect();
    assert_eq!(keys, ["Gateway shop/edge", "Service shop/web:80/TCP", "Settings all"]);
}

#[test]
fn what_makes_no_sense_is_refused_with_what_and_where() {
    let (gateway, service) = ("Gateway shop/edge", "Service shop/web:80/TCP");
    let changed = |change: fn(&mut wire::Gateway)| {
        let mut gateway = gateway_out(&example().gateways()[0], &example());
        change(&mut gateway);
        Some(gateway.encode_to_vec())
    };
    let endpoint = |change: fn(&mut wire::Endpoint)| {
        let mut endpoint = wire::Endpoint { address: vec![10, 0, 0, 1], port: 80, state: 1 };
        change(&mut endpoint);
        let mut service = service_out(&example().services()[0]);
        service.endpoints.push(endpoint);
        Some(service.encode_to_vec())
    };
    for (key, message, why) in [
        ("Settings all", None, "part \"Settings all\": is missing"),
        (service, None, "listener \"tcp\": backend 0: there is no service shop/web:80/TCP"),
        (gateway, Some(vec![0xff]), "part \"Gateway shop/edge\": "),
        (gateway, changed(|it| it.name = None), "has no name"),
        (gateway, changed(|it| it.name.as_mut().unwrap().name = "A".into()), "is not a name"),
        (
            gateway,
            changed(|it| it.name.as_mut().unwrap().name = "x".into()),
            "is called Gateway shop/x",
        ),
        (gateway, changed(|it| it.addresses[0].push(0)), "4 or 16 bytes, and this one has 5"),
        (gateway, changed(|it| it.addresses[0] = vec![127, 0, 0, 1]), "no unicast address"),
        (
            gateway,
            changed(|it| it.listeners[0].port = 0),
            "listener \"tcp\": port 0 is out of range",
        ),
        (
            gateway,
            changed(|it| it.listeners[0].protocol = 9),
            "listener \"tcp\": protocol 9 is unknown",
        ),
        (
            gateway,
            changed(|it| it.listeners[0].backends[0].target = None),
            "backend 0: has no target",
        ),
        (
            gateway,
            changed(|it| it.listeners[0].backends[0].weight = u32::MAX),
            "backend 0: weight 4294967295",
        ),
        (service, endpoint(|it| it.port = 65_536), "endpoint 0: port 65536 is out of range"),
        (service, endpoint(|it| it.state = 0), "endpoint 0: state 0 is unknown"),
        (service, endpoint(|it| it.address.clear()), "endpoint 0: an address has 4 or 16 bytes"),
        (service, endpoint(|it| it.address = vec![0; 4]), "has the endpoint 0.0.0.0"),
    ] {
        let refused = with(key, message).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    let mut twice = Parts::of(&example()).to_snapshot();
    twice.parts.push(twice.parts[0].clone());
    assert_eq!(
        Parts::from_snapshot(twice).unwrap_err().to_string(),
        "part \"Gateway shop/edge\" is there twice"
    );
    let mut short = Parts::of(&example()).to_snapshot();
    short.parts.pop();
    let why = Parts::from_snapshot(short).unwrap_err().to_string();
    assert!(why.ends_with("some are missing or damaged"), "{why}");
    let none = wire::Snapshot::default();
    let why = Parts::from_snapshot(none).unwrap_err().to_string();
    assert_eq!(why, "a digest has 32 bytes, and the one of the snapshot has 0");
}

/// A newer controller's fields and parts are kept, so that its digests and
/// changes hold, and do not disturb.
#[test]
fn what_is_of_a_newer_version_is_kept_and_left_alone() {
    let mut newer = Parts::of(&example()).by_key;
    // Field 100, a number.
    let with_field = |body: &Bytes| Bytes::from([body, &[0xa0_u8, 0x06, 1][..]].concat());
    newer.values_mut().for_each(|body| *body = with_field(body));
    newer.insert("Certificate shop/edge".to_owned(), vec![0xff].into());
    let newer = Parts::new(newer);
    assert_eq!(newer.snapshot(Generation(1)), Ok(example()));
    let there = Parts::from_snapshot(newer.to_snapshot()).unwrap();
    assert_eq!(there, newer);

    let mut newest = newer.by_key.clone();
    newest.insert("Certificate shop/edge".to_owned(), vec![0xfe].into());
    let newest = Parts::new(newest);
    assert_eq!(there.changed_by(newest.since(&newer)), Ok(newest));
}

/// What agents and replicas of other versions say: more than is known, or less.
#[test]
fn messages_of_other_versions_are_read_as_far_as_they_go() {
    use wire::follow_request::Message as Said;
    use wire::follow_response::Message as Told;

    // Field 100, two bytes.
    let newer = [0xa2_u8, 0x06, 2, 1, 2];
    let with_field = |message: Vec<u8>| [message, newer.to_vec()].concat();
    let told = |bytes: &[u8]| wire::FollowResponse::decode(bytes).unwrap().message;
    let said = |bytes: &[u8]| wire::FollowRequest::decode(bytes).unwrap().message;
    // A message of a kind that is not known.
    assert_eq!((told(&newer), said(&newer)), (None, None));

    // One with a field that is not known: field 5 of the response, 4 of the request.
    let beat = wire::ControllerBeat {
        digest: vec![1; 32],
        settled: true,
        ..wire::ControllerBeat::default()
    };
    let inner = with_field(beat.encode_to_vec());
    let outer = [&[0x2a, inner.len() as u8][..], &inner].concat();
    assert_eq!(told(&outer), Some(Told::Beat(beat)));
    let beat = wire::AgentBeat { trouble: "no link".to_owned(), unsteady: true };
    let inner = with_field(beat.encode_to_vec());
    let outer = [&[0x22, inner.len() as u8][..], &inner].concat();
    assert_eq!(said(&outer), Some(Said::Beat(beat)));

    // One without: an agent that can't say what is wrong with it serves.
    assert_eq!(said(&[0x22, 0]), Some(Said::Beat(wire::AgentBeat::default())));
    assert_eq!(wire::AgentBeat::default().trouble, "");
}

#[test]
fn certificates_come_back() {
    let certificate = |number: u8| Certificate {
        id: CertificateId { secret: "shop/cert".parse().unwrap(), sha256: [number; 32] },
        chain: vec![vec![number, 1], vec![number, 2]],
        key: PrivateKey(vec![number, 3]),
    };
    let all = vec![certificate(1), certificate(201)];
    let shown = format!("{:?}", certificates_out(&all));
    assert_eq!(shown.matches("201").count(), 32, "no byte of the key or the chain: {shown}");
    assert_eq!(certificates_in(certificates_out(&all)), Ok(all.clone()));
    let mut short = certificates_out(&all);
    short.certificates[1].id.as_mut().unwrap().sha256.pop();
    let why = certificates_in(short).unwrap_err();
    assert_eq!(why, "a certificate's digest has 32 bytes, and this one has 31");
}
