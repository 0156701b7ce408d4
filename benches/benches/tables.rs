//! What a change costs before workers see it: manifests to objects, objects to
//! a snapshot, a snapshot to tables with their Maglev tables; with 10, 1,000
//! and 10,000 endpoints behind one route.
//!
//! `cargo bench -p blixt-benches --bench tables`

#![allow(clippy::unwrap_used, reason = "a bench that goes wrong should stop")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

use blixt_dataplane::{CompileOptions, Slots, Tables};
use blixt_gateway::{
    CONTROLLER_NAME, Compiled, CrdVersion, Environment, Index, Manifests, Programming, SEED,
    compile,
};
use blixt_model::Generation;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const ENDPOINTS: [u32; 3] = [10, 1_000, 10_000];

/// How many an EndpointSlice can have.
const SLICE: u32 = 1_000;

type Files = BTreeMap<String, Result<Vec<u8>, String>>;

/// A Gateway, a route, a Service, and its endpoints from `first` on.
fn files(first: u32, endpoints: u32) -> Files {
    let mut yaml = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: blixt}
spec: {controllerName: gateway.networking.k8s.io/blixt}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: blixt
  addresses: [{value: 192.0.2.10}]
  listeners: [{name: web, protocol: TCP, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: edge, sectionName: web}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80, targetPort: 8080}]}
"
    .to_owned();
    for slice in 0..endpoints.div_ceil(SLICE) {
        write!(
            yaml,
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-{slice}, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints:
"
        )
        .unwrap();
        for number in slice * SLICE..endpoints.min((slice + 1) * SLICE) {
            let address = Ipv4Addr::from_bits(u32::from_be_bytes([10, 1, 0, 0]) + first + number);
            writeln!(yaml, "- {{addresses: [{address}]}}").unwrap();
        }
    }
    [("all.yaml".to_owned(), Ok(yaml.into_bytes()))].into()
}

fn index(files: &Files) -> Index {
    let mut index = Index::default();
    let update = Manifests::default().update(files);
    assert!(update.refusals.is_empty(), "{:?}", update.refusals);
    for event in update.events {
        index.apply(event);
    }
    index
}

fn compiled(index: &Index) -> Compiled {
    let environment = Environment {
        controller_name: CONTROLLER_NAME,
        seed: SEED,
        generation: Generation(1),
        crds: CrdVersion::Supported,
        unusable_addresses: &BTreeMap::new(),
        assigned: &BTreeMap::new(),
        programmed: &|_| Programming::Applied,
    };
    compile(index, &environment).unwrap()
}

fn options() -> CompileOptions {
    let snat = IpAddr::from([10, 0, 0, 9]);
    CompileOptions { snat_addresses: [snat].into(), ..CompileOptions::default() }
}

fn manifests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("manifests");
    group.sample_size(20);
    for endpoints in ENDPOINTS {
        let files = files(1, endpoints);
        group.bench_function(BenchmarkId::from_parameter(endpoints), |bencher| {
            bencher.iter(|| index(&files));
        });
    }
    group.finish();
}

fn snapshot(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("snapshot");
    group.sample_size(20);
    for endpoints in ENDPOINTS {
        let index = index(&files(1, endpoints));
        group.bench_function(BenchmarkId::from_parameter(endpoints), |bencher| {
            bencher.iter(|| compiled(&index));
        });
    }
    group.finish();
}

/// All of a service's tables, from nothing.
fn maglev(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("maglev");
    group.sample_size(20);
    for endpoints in ENDPOINTS {
        let snapshot = compiled(&index(&files(1, endpoints))).snapshot;
        group.bench_function(BenchmarkId::from_parameter(endpoints), |bencher| {
            bencher.iter(|| {
                let mut slots = Slots::default();
                Tables::compile(&snapshot, &options(), &mut slots, &Tables::default()).unwrap()
            });
        });
    }
    group.finish();
}

/// One endpoint goes and one comes: what a rollout asks for again and again.
fn change(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("change");
    group.sample_size(20);
    for endpoints in ENDPOINTS {
        let [before, after] =
            [1, 2].map(|first| compiled(&index(&files(first, endpoints))).snapshot);
        let mut slots = Slots::default();
        let old = Tables::compile(&before, &options(), &mut slots, &Tables::default()).unwrap();
        group.bench_function(BenchmarkId::from_parameter(endpoints), |bencher| {
            bencher.iter(|| Tables::compile(&after, &options(), &mut slots, &old).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, manifests, snapshot, maglev, change);
criterion_main!(benches);
