//! Writes the first inputs of each target into `corpus/`: what the fuzzer
//! starts from.
//!
//!     cargo run -p blixt-fuzz --example seeds

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "it is run by hand, and says where it fails"
)]

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use blixt_api::parts::Parts;
use blixt_api::sync::v1alpha1::{FollowResponse, follow_response};
use blixt_api::v1alpha1::{
    Agent, Backend, Endpoint, Gateway, GetLoadBalancingResponse, GetStatusResponse, Interface,
    Listener, ObjectName, Queue, Worker,
};
use blixt_model::{Generation, HashSeed, Snapshot};
use blixt_testkit::frame::{
    self, Checksum, DESTINATION_OPTIONS, Frame, HOP_BY_HOP, ROUTING, arp_request, echo_request,
    icmp_error, solicitation, tcp, tcp_syn, udp,
};
use prost::Message;

fn main() {
    for (number, frame) in frames().into_iter().enumerate() {
        keep("packet", &format!("seed-{number:02}"), &frame);
    }
    for (name, steps) in stories(|| 7) {
        keep("pipeline", name, &steps);
    }
    // The same, each burst at the next of three workers.
    let mut bursts = 0..;
    for (name, steps) in stories(|| 7 + 14 * (bursts.next().unwrap_or(0) % 3)) {
        keep("team", name, &steps);
    }
    // A good file as it is, and with its first bytes gone.
    for number in 0..6 {
        keep("manifests", &format!("seed-{number}"), &[number]);
    }
    keep("manifests", "seed-edit", &[0, 0, 40, 10, 3, b'a', b':', b' ']);
    keep("manifests", "seed-whole", b"apiVersion: v1\nkind: Service\nmetadata: {name: a}\n");
    for (number, bytes) in messages().into_iter().enumerate() {
        keep("api", &format!("seed-{number}"), &bytes);
    }
    for (name, bytes) in told() {
        keep("sync", name, &bytes);
    }
    for (name, bytes) in hellos() {
        keep("hello", name, &bytes);
    }
}

/// ClientHellos: with a name, with an address, in several records, and without
/// extensions. The first byte says how they are cut.
fn hellos() -> Vec<(&'static str, Vec<u8>)> {
    let hello = |name: &str| {
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    };
    let named = hello("www.example.com");
    let (start, end) = named.split_at(105);
    let record =
        |part: &[u8]| [&[22, 3, 1, (part.len() >> 8) as u8, part.len() as u8], part].concat();
    let two = [record(&start[5..]), record(end)].concat();
    let bare =
        [&[22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    let all = [
        (named, "seed-name"),
        (hello("192.0.2.1"), "seed-address"),
        (two, "seed-records"),
        (bare, "seed-bare"),
    ];
    all.map(|(bytes, name)| (name, [vec![64], bytes].concat())).into()
}

fn keep(target: &str, name: &str, bytes: &[u8]) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(name), bytes).unwrap();
}

/// Frames of every kind, behind the byte that says where they come in.
fn frames() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for [client, vip, endpoint, snat] in [
        ["192.0.2.1", "198.51.100.1", "10.1.0.1", "10.0.0.9"],
        ["2001:db8:c::1", "2001:db8:f::1", "2001:db8:e::1", "2001:db8:a::9"],
    ] {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let at = |text: &str, port| SocketAddr::new(ip(text), port);
        let (web, dns, from) = (at(vip, 80), at(vip, 53), at(client, 40_000));
        let error = if ip(vip).is_ipv4() { [3, 4] } else { [2, 0] };
        let about = udp(at(snat, 50_000), at(endpoint, 5_353)).payload(b"question");
        let asker = ([2, 0, 0, 0, 0, 0xc1], ip(client));
        let who_has = if ip(vip).is_ipv4() {
            arp_request(asker, ip(vip))
        } else {
            solicitation(Some(asker), ip(vip))
        };
        let by_client: Vec<Frame> = vec![
            tcp_syn(from, web),
            tcp(from, web).flags(frame::ACK).payload(b"hello"),
            tcp_syn(from, at(vip, 81)),
            udp(from, dns).payload(b"question"),
            udp(from, dns).checksum(Checksum::Partial).vlan(0x88a8, 1).vlan(0x8100, 2),
            udp(from, dns).hop_limit(1).options(&[1; 8]),
            udp(from, dns)
                .extension(HOP_BY_HOP, &[0, 1, 4, 0, 0, 0, 0])
                .extension(ROUTING, &[0, 4, 0, 0, 0, 0, 0])
                .extension(DESTINATION_OPTIONS, &[0; 7]),
            udp(from, dns).fragment(0, true),
            echo_request(ip(client), ip(vip)),
            who_has,
        ];
        let by_endpoint = vec![
            icmp_error(ip(endpoint), ip(snat), error, 1_400, &about, 64),
            udp(at(endpoint, 5_353), at(snat, 50_000)),
        ];
        for (side, frames) in [by_client, by_endpoint].into_iter().enumerate() {
            let (theirs, ours) = [
                ([2, 0, 0, 0, 0, 0xc1], [2, 0, 0, 0, 0, 0xb0]),
                ([2, 0, 0, 0, 0, 0xe1], [2, 0, 0, 0, 0, 0xb1]),
            ][side];
            for frame in frames {
                let mut bytes = vec![side as u8 | 0x40];
                bytes.extend(frame.or_between(theirs, ours).bytes());
                all.push(bytes);
            }
        }
    }
    all
}

/// Sequences of steps; see `src/pipeline.rs` for what the numbers mean. `go` is
/// the step that lets frames come in.
fn stories(mut go: impl FnMut() -> u8) -> Vec<(&'static str, Vec<u8>)> {
    const SYN: u8 = 1 << 5;
    const SYN_ACK: u8 = 2 << 5;
    const ACK: u8 = 3 << 5;
    const FIN: u8 = 4 << 5;
    let mut connection = Vec::new();
    for (n, port) in (0..8).zip((0..5).cycle()) {
        connection.extend([0, n, SYN, 0, 0, go()]);
        // Where the SYN went is not known here: every endpoint says so.
        for endpoint in 0..3 {
            connection.extend([2, endpoint | n & 4 | port << 3, SYN_ACK, 0, 0]);
        }
        connection.extend([go(), 0, n, ACK, 1, 0, 0, n, ACK, 1, 4, 50, go()]);
    }
    connection.extend([0, 0, FIN, 51, 0, 8, 2, 0, 70, 9, 0, 0, 0, SYN, 9, 0, go()]);
    let queries: Vec<u8> = (0..8).flat_map(|n| [1, n, 4, n * 20, 3, n | 8, 0]).collect();
    let mut changes = queries.clone();
    changes.extend([
        go(),
        10,
        0b011,
        0,
        0,
        9,
        0,
        1,
        0,
        0,
        go(),
        10,
        0b110,
        0b010,
        4,
        1,
        1,
        0,
        go(),
    ]);
    changes.extend([11, 7, 0, 0, 1, 2, 0, go(), 12, 11, 0, 0x54, 7, 12, 1, 3, 0, 13]);
    let mut errors = queries.clone();
    errors.extend([go()]);
    errors.extend([4, 0, 0x80, 36, 0, 4, 8, 0x80, 36, 0, 4, 0x80, 0x81, 60, 0, 5, 0, 0, 5, 4, 0]);
    vec![
        ("seed-connections", connection),
        ("seed-queries", queries),
        ("seed-changes", changes),
        ("seed-errors", errors),
        ("seed-raw", [vec![6, 0, 14], vec![0; 14], vec![go(), 8, 3, 0xff, 0xff, 9, 0xff]].concat()),
    ]
}

fn messages() -> Vec<Vec<u8>> {
    let name = ObjectName { namespace: "shop".to_owned(), name: "web".to_owned() };
    let status = GetStatusResponse {
        agent: Some(Agent { version: "0.1.0".to_owned(), pid: 7, ..Agent::default() }),
        interfaces: vec![Interface {
            name: "eth0".to_owned(),
            queues: vec![Queue { queue: 0, worker: 0, mode: 1 }],
            ..Interface::default()
        }],
        workers: vec![Worker::default()],
        gateways: vec![Gateway { name: Some(name), ..Gateway::default() }],
        ..GetStatusResponse::default()
    };
    let backend = Backend { endpoints: vec![Endpoint::default()], ..Backend::default() };
    let balancing = GetLoadBalancingResponse {
        listeners: vec![Listener { backends: vec![backend], ..Listener::default() }],
        ..GetLoadBalancingResponse::default()
    };
    vec![
        [vec![0], status.encode_to_vec()].concat(),
        [vec![1], balancing.encode_to_vec()].concat(),
        vec![2],
        vec![3],
    ]
}

/// What a controller says; see `src/sync.rs` for what the first byte means.
fn told() -> Vec<(&'static str, Vec<u8>)> {
    let (before, after) = (parts(&[1]), parts(&[1, 2]));
    let message = |message| FollowResponse { message: Some(message) }.encode_to_vec();
    let snapshot = message(follow_response::Message::Snapshot(after.to_snapshot()));
    let delta = message(follow_response::Message::Delta(after.since(&before)));
    let first = before.encode();
    let length = u16::try_from(first.len()).unwrap().to_be_bytes();
    vec![
        ("seed-parts", [vec![0], after.encode()].concat()),
        ("seed-snapshot", [vec![1], snapshot].concat()),
        ("seed-delta", [vec![1], delta].concat()),
        ("seed-change", [vec![3], length.to_vec(), first, after.encode()].concat()),
    ]
}

/// A Gateway with a listener for each port, all with one service behind them.
fn parts(ports: &[u16]) -> Parts {
    use blixt_model::{
        Affinity, Backend, Endpoint, EndpointState, Gateway, Listener, ListenerName, Port,
        Protocol, ServiceIndex, ServicePort, ServicePortId, Target, Weight,
    };

    let port = |number| Port::new(number).unwrap();
    let endpoint =
        Endpoint { address: [10, 0, 0, 1].into(), port: port(80), state: EndpointState::Ready };
    let id = ServicePortId {
        service: "a/web".parse().unwrap(),
        protocol: Protocol::Tcp,
        port: port(80_u16),
    };
    let service = ServicePort { id, affinity: Affinity::None, endpoints: vec![endpoint] };
    let listener = |&number: &u16| Listener {
        name: ListenerName::new(format!("l{number}")).unwrap(),
        protocol: Protocol::Tcp,
        port: port(number),
        route: None,
        backends: vec![Backend {
            weight: Weight::DEFAULT,
            target: Target::Service(ServiceIndex(0)),
        }],
    };
    let gateway = Gateway {
        name: "a/edge".parse().unwrap(),
        addresses: vec![[192, 0, 2, 1].into()],
        listeners: ports.iter().map(listener).collect(),
        streams: vec![],
    };
    let snapshot = Snapshot::new(Generation(1), HashSeed(1), vec![gateway], vec![service]);
    Parts::of(&snapshot.unwrap())
}
