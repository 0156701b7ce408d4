//! What a change costs the control thread: files and tables of many endpoints of
//! which one changes, routes of the whole Internet of which none changes.
//!
//! `cargo bench -p blixt-benches --bench changes`. No worker waits for any of
//! it; a change is in force that much later.

#![allow(clippy::unwrap_used, reason = "a bench that goes wrong should stop")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use blixt_dataplane::{
    CompileOptions, Fib, InterfaceSlot, Link, Mac, Neighbour, Path, Route, RouteAction, Routes,
    Slots, Tables, Tags, address,
};
use blixt_gateway::{
    CONTROLLER_NAME, CrdVersion, Environment, Index, Manifests, Programming, SEED, compile,
};
use blixt_model::{
    Affinity, Backend, Endpoint, EndpointState, Gateway, Generation, HashSeed, Listener,
    ListenerName, Port, Protocol, ServiceIndex, ServicePort, ServicePortId, Snapshot, Target,
    Weight,
};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};

fn service(name: &str, endpoints: std::ops::Range<u32>) -> ServicePort {
    let id = ServicePortId {
        service: name.parse().unwrap(),
        protocol: Protocol::Tcp,
        port: Port::new(80).unwrap(),
    };
    let endpoint = |number: u32| Endpoint {
        address: Ipv4Addr::from_bits(0x0a00_0000 + number).into(),
        port: Port::new(8_080).unwrap(),
        state: EndpointState::Ready,
    };
    ServicePort { id, affinity: Affinity::None, endpoints: endpoints.map(endpoint).collect() }
}

/// One listener, to a service of many endpoints and one of few.
fn snapshot(generation: u64, many: std::ops::Range<u32>, few: std::ops::Range<u32>) -> Snapshot {
    let backend =
        |index| Backend { weight: Weight::DEFAULT, target: Target::Service(ServiceIndex(index)) };
    let listener = Listener {
        name: ListenerName::new("tcp").unwrap(),
        protocol: Protocol::Tcp,
        port: Port::new(80).unwrap(),
        route: None,
        backends: vec![backend(0), backend(1)],
    };
    let gateway = Gateway {
        name: "web".parse().unwrap(),
        addresses: vec![Ipv4Addr::new(198, 51, 100, 1).into()],
        listeners: vec![listener],
        streams: vec![],
    };
    let services = vec![service("many", many), service("few", few)];
    Snapshot::new(Generation(generation), HashSeed(0), vec![gateway], services).unwrap()
}

fn tables(criterion: &mut Criterion) {
    let options = CompileOptions::default();
    let mut group = criterion.benchmark_group("tables");
    group.sample_size(20);
    for endpoints in [10, 1_000, 10_000] {
        let (old, few) = (snapshot(1, 0..endpoints, 0..3), snapshot(2, 0..endpoints, 0..4));
        let many = snapshot(2, 1..endpoints + 1, 0..3);
        group.bench_function(BenchmarkId::new("first", endpoints), |bencher| {
            bencher.iter_batched(
                Slots::default,
                |mut slots| {
                    let tables = Tables::compile(&old, &options, &mut slots, &Tables::default());
                    (tables.unwrap(), slots)
                },
                BatchSize::LargeInput,
            );
        });
        let mut slots = Slots::default();
        let before = Tables::compile(&old, &options, &mut slots, &Tables::default()).unwrap();
        for (what, next) in [("one_of_many_changes", &many), ("another_service_changes", &few)] {
            group.bench_function(BenchmarkId::new(what, endpoints), |bencher| {
                bencher.iter(|| Tables::compile(next, &options, &mut slots, &before).unwrap());
            });
        }
    }
    group.finish();
}

/// A service of so many endpoints in slices of 1,000, each in a file, and one
/// of three in a file of its own.
fn files(endpoints: u32, newest: u32) -> BTreeMap<String, Result<Vec<u8>, String>> {
    let mut files: BTreeMap<_, Result<Vec<u8>, String>> = BTreeMap::new();
    let base = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\n\
        metadata: {name: blixt}\nspec: {controllerName: gateway.networking.k8s.io/blixt}\n---\n\
        apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:\n  \
        gatewayClassName: blixt\n  addresses: [{type: IPAddress, value: 198.51.100.1}]\n  \
        listeners: [{name: tcp, protocol: TCP, port: 80}]\n---\n\
        apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {name: tcp}\nspec:\n  \
        parentRefs: [{name: edge}]\n  rules: [{backendRefs: [{name: many, port: 80}, {name: few, port: 80}]}]\n---\n\
        apiVersion: v1\nkind: Service\nmetadata: {name: many}\nspec: {ports: [{name: it, port: 80}]}\n---\n\
        apiVersion: v1\nkind: Service\nmetadata: {name: few}\nspec: {ports: [{name: it, port: 80}]}\n";
    files.insert("base.yaml".to_owned(), Ok(base.as_bytes().to_vec()));
    for first in (0..endpoints).step_by(1_000) {
        let numbers = first..endpoints.min(first + 1_000);
        files.insert(format!("many-{first}.yaml"), Ok(slice("many", first, numbers)));
    }
    files.insert("few.yaml".to_owned(), Ok(slice("few", 0, newest..newest + 3)));
    files
}

fn slice(service: &str, number: u32, endpoints: std::ops::Range<u32>) -> Vec<u8> {
    let endpoints: Vec<_> = endpoints
        .map(|n| format!("{{addresses: [\"{}\"]}}", Ipv4Addr::from_bits(0x0a00_0000 + n)))
        .collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {service}-{number}\n  \
         labels: {{kubernetes.io/service-name: {service}}}\naddressType: IPv4\n\
         ports: [{{name: it, protocol: TCP, port: 8080}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
    .into_bytes()
}

/// What happens before tables are made: files to objects, objects to a snapshot.
fn objects(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("objects");
    group.sample_size(10);
    for endpoints in [10, 1_000, 10_000] {
        let (old, new) = (files(endpoints, 0x10_0000), files(endpoints, 0x10_0001));
        group.bench_function(BenchmarkId::new("first_files", endpoints), |bencher| {
            bencher.iter(|| Manifests::default().update(&old));
        });
        let mut manifests = Manifests::default();
        let mut index = Index::default();
        for event in manifests.update(&old).events {
            index.apply(event);
        }
        let mut turn = [&new, &old].into_iter().cycle();
        group.bench_function(BenchmarkId::new("one_file_changes", endpoints), |bencher| {
            bencher.iter(|| manifests.update(turn.next().unwrap()));
        });
        group.bench_function(BenchmarkId::new("snapshot", endpoints), |bencher| {
            bencher.iter(|| {
                let environment = Environment {
                    controller_name: CONTROLLER_NAME,
                    seed: SEED,
                    generation: Generation(2),
                    crds: CrdVersion::Supported,
                    unusable_addresses: &BTreeMap::new(),
                    assigned: &BTreeMap::new(),
                    nodes: &BTreeMap::new(),
                    programmed: &|_| Programming::Applied,
                };
                compile(&index, &environment).unwrap()
            });
        });
    }
    group.finish();
}

const LINK: u32 = 2;

/// Networks as the Internet has them, most of them 24 bits long, over a few
/// dozen routers.
fn routes(count: u32) -> impl Iterator<Item = Route> {
    (0..count).map(|number| {
        // Odd, so that all are different; far apart, as they are.
        let network = Ipv4Addr::from_bits(number.wrapping_mul(0x9e37_79b1) & 0xffff_ff00);
        let bits = if number % 8 < 5 { 24 } else { 16 + (number % 8) as u8 };
        let path = Path { ifindex: LINK, via: Some(router(number % 40)) };
        Route::new(network.into(), bits, 20, RouteAction::Forward(vec![path]))
    })
}

fn router(number: u32) -> u128 {
    address::from_ip(IpAddr::from(Ipv4Addr::from_bits(0x0a00_0001 + number)))
}

fn link() -> Link {
    Link {
        ifindex: LINK,
        attached: Some(InterfaceSlot(0)),
        mac: [2; 6],
        mtu: 1_500,
        tags: Tags::new(),
    }
}

fn neighbours(count: u32) -> Vec<(Neighbour, Mac)> {
    let neighbour = |number| Neighbour { ifindex: LINK, address: router(number) };
    (0..count).map(|number| (neighbour(number), [4; 6])).collect()
}

fn fib(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fib");
    group.sample_size(10);
    for count in [10_000, 1_000_000] {
        let list: Vec<_> = routes(count).collect();
        group.bench_function(BenchmarkId::new("routes_change", count), |bencher| {
            bencher.iter_batched(|| list.clone(), Routes::new, BatchSize::PerIteration);
        });
        let routes = Arc::new(Routes::new(list));
        for neighbours in [40, 10_000].map(neighbours) {
            let name = format!("{count} routes, {} neighbours", neighbours.len());
            group.bench_function(BenchmarkId::new("neighbour_changes", name), |bencher| {
                bencher.iter(|| {
                    let neighbours = neighbours.iter().copied();
                    Fib::with_routes(vec![], [link()], Arc::clone(&routes), neighbours)
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, objects, tables, fib);
criterion_main!(benches);
