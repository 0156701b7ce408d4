//! What the whole pipeline costs for a packet, without I/O: frames that hit a
//! flow, among few and among many, and frames that start one.
//!
//! `cargo bench -p blixt-benches --bench pipeline`. The time is that of a full
//! burst; criterion's throughput divides it by the packets.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a bench that goes wrong should stop"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use blixt_dataplane::{
    BURST, Burst, CompileOptions, Fib, Interface, InterfaceSlot, Limits, Link, Neighbour, Packet,
    Path, Pipeline, PipelineConfig, Route, RouteAction, Sink, SlotStats, Slots, Tables, Tags, Tick,
    Timeouts, Verdict, View, WorkerId, address,
};
use blixt_model::{
    Affinity, Backend, Endpoint, EndpointState, Gateway, Generation, HashSeed, Listener,
    ListenerName, Port, Protocol, RouteId, RouteKind, ServiceIndex, ServicePort, ServicePortId,
    Snapshot, Target, Weight,
};
use blixt_testkit::frame::{Mac, udp};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const OURS: Mac = [2, 0, 0, 0, 0, 1];
const ROUTER: Mac = [2, 0, 0, 0, 0, 2];
/// Enough that a million flows fit into the ports of one SNAT address.
const ENDPOINTS: u8 = 64;
const FRAME_ROOM: usize = 2_048;

#[derive(Debug, Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn vip(self) -> SocketAddr {
        match self {
            Self::V4 => (Ipv4Addr::new(198, 51, 100, 1), 53).into(),
            Self::V6 => (Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 1), 53).into(),
        }
    }

    fn snat(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 0, 0, 9).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 9).into(),
        }
    }

    fn endpoint(self, number: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 1, 0, number).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, number.into()).into(),
        }
    }

    /// One of 2^32 clients.
    fn client(self, number: u32) -> SocketAddr {
        let port = 1_024 + (number % 60_000) as u16;
        let host = number / 60_000;
        let [.., b, c, d] = host.to_be_bytes();
        match self {
            Self::V4 => (Ipv4Addr::new(172, b, c, d), port).into(),
            Self::V6 => {
                let low = (host & 0xffff) as u16;
                (Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, u16::from(b), low), port).into()
            }
        }
    }

    /// 64 bytes of Ethernet frame (without its check sequence), or what IPv6
    /// needs.
    fn query(self, client: u32) -> Vec<u8> {
        let payload = if matches!(self, Self::V4) { [0; 18].to_vec() } else { vec![] };
        udp(self.client(client), self.vip()).payload(&payload).from(ROUTER).to(OURS).bytes()
    }
}

struct World {
    family: Family,
    pipeline: Pipeline,
    tables: Tables,
    fib: Fib,
    stats: SlotStats,
    now: Tick,
    buffers: Vec<[u8; FRAME_ROOM]>,
}

struct NoSink;

impl Sink for NoSink {
    fn send(&mut self, _: InterfaceSlot, _: &[u8]) -> bool {
        false
    }
}

impl World {
    fn new(family: Family, flow_capacity: usize) -> Self {
        let mut slots = Slots::default();
        let options =
            CompileOptions { snat_addresses: [family.snat()].into(), ..CompileOptions::default() };
        let tables =
            Tables::compile(&snapshot(family), &options, &mut slots, &Tables::default()).unwrap();
        let config = PipelineConfig {
            worker: WorkerId(0),
            flow_capacity,
            snat_ports: 1_024..=65_535,
            hash_key: [0x0123_4567, 0x89ab_cdef],
            timeouts: Timeouts { udp: Duration::from_secs(60), ..Timeouts::default() },
            limits: Limits::default(),
        };
        Self {
            family,
            pipeline: Pipeline::new(&config).unwrap(),
            stats: SlotStats::default().grown_to(slots.capacity()),
            tables,
            fib: fib(family),
            now: Tick(1),
            buffers: vec![[0; FRAME_ROOM]; BURST],
        }
    }

    /// Puts frames through, and says how long the pipeline had them.
    fn burst(&mut self, frames: &[&[u8]]) -> Duration {
        let mut burst = Burst::new();
        for (buffer, frame) in self.buffers.iter_mut().zip(frames) {
            buffer[..frame.len()].copy_from_slice(frame);
            burst.push(Packet::new(buffer, frame.len(), InterfaceSlot(0)));
        }
        let view = View { tables: &self.tables, fib: &self.fib, stats: &self.stats };
        let start = Instant::now();
        self.pipeline.process(&mut burst, view, self.now, &mut NoSink);
        let elapsed = start.elapsed();
        for packet in &burst {
            assert_eq!(packet.verdict(), Some(Verdict::Transmit(InterfaceSlot(0))));
        }
        elapsed
    }

    /// Starts a flow for each client.
    fn with_flows(mut self, clients: u32) -> Self {
        let clients: Vec<_> = (0..clients).collect();
        for clients in clients.chunks(BURST) {
            let frames: Vec<_> = clients.iter().map(|&client| self.family.query(client)).collect();
            self.burst(&frames.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        self
    }

    /// Long enough for every flow to be forgotten.
    fn everything_expires(&mut self) {
        for _ in 0..2_000 {
            self.now = Tick(self.now.0 + 70_000_000);
            let view = View { tables: &self.tables, fib: &self.fib, stats: &self.stats };
            self.pipeline.sweep(view, self.now, &mut NoSink);
        }
    }
}

fn hits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hit");
    group.throughput(Throughput::Elements(BURST as u64));
    for family in [Family::V4, Family::V6] {
        for flows in [1_000_u32, 1_000_000] {
            let mut world = World::new(family, flows as usize).with_flows(flows);
            let frames: Vec<_> = (0..flows).map(|client| family.query(client)).collect();
            // A stride that shares no factor with their number visits them
            // all, in no order that a prefetcher could guess.
            let mut next = 0;
            group.bench_function(BenchmarkId::new(format!("{family:?}"), flows), |bencher| {
                bencher.iter_custom(|bursts| {
                    (0..bursts)
                        .map(|_| {
                            let burst: [&[u8]; BURST] = std::array::from_fn(|_| {
                                next = (next + 611_953) % frames.len();
                                frames[next].as_slice()
                            });
                            world.burst(&burst)
                        })
                        .sum()
                });
            });
        }
    }
    group.finish();
}

fn misses(criterion: &mut Criterion) {
    const CAPACITY: u32 = 100_000;
    let mut group = criterion.benchmark_group("miss");
    group.throughput(Throughput::Elements(BURST as u64));
    for family in [Family::V4, Family::V6] {
        let mut world = World::new(family, CAPACITY as usize);
        let frames: Vec<_> = (0..CAPACITY).map(|client| family.query(client)).collect();
        let mut bursts_of_new = frames.chunks_exact(BURST);
        group.bench_function(format!("{family:?}"), |bencher| {
            bencher.iter_custom(|bursts| {
                (0..bursts)
                    .map(|_| {
                        let chunk = match bursts_of_new.next() {
                            Some(chunk) => chunk,
                            None => {
                                world.everything_expires();
                                bursts_of_new = frames.chunks_exact(BURST);
                                bursts_of_new.next().unwrap()
                            }
                        };
                        let burst: Vec<_> = chunk.iter().map(Vec::as_slice).collect();
                        world.burst(&burst)
                    })
                    .sum()
            });
        });
    }
    group.finish();
}

fn snapshot(family: Family) -> Snapshot {
    let port = |number| Port::new(number).unwrap();
    let service = ServicePort {
        id: ServicePortId {
            service: "dns".parse().unwrap(),
            protocol: Protocol::Udp,
            port: port(53),
        },
        affinity: Affinity::None,
        endpoints: (1..=ENDPOINTS)
            .map(|number| Endpoint {
                address: family.endpoint(number),
                port: port(5_353),
                state: EndpointState::Ready,
            })
            .collect(),
    };
    let listener = Listener {
        name: ListenerName::new("dns").unwrap(),
        protocol: Protocol::Udp,
        port: port(53),
        route: Some(RouteId { kind: RouteKind::Udp, name: "dns".parse().unwrap() }),
        backends: vec![Backend {
            weight: Weight::DEFAULT,
            target: Target::Service(ServiceIndex(0)),
        }],
    };
    let gateway = Gateway {
        name: "gateway".parse().unwrap(),
        addresses: vec![family.vip().ip()],
        listeners: vec![listener],
    };
    Snapshot::new(Generation(1), HashSeed(1), vec![gateway], vec![service]).unwrap()
}

/// One-armed: everything on one interface, endpoints on the link, clients
/// behind a router.
fn fib(family: Family) -> Fib {
    let interface = Interface { ifindex: 1, mac: OURS, partial_checksums: false };
    let link = Link {
        ifindex: 1,
        attached: Some(InterfaceSlot(0)),
        mac: OURS,
        mtu: 1_500,
        tags: Tags::new(),
    };
    let path = Path { ifindex: 1, via: None };
    let (network, bits) = match family {
        Family::V4 => (Ipv4Addr::new(10, 1, 0, 0).into(), 24),
        Family::V6 => (Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, 0).into(), 64),
    };
    let neighbours = (1..=ENDPOINTS).map(|number| {
        let address = address::from_ip(family.endpoint(number));
        (Neighbour { ifindex: 1, address }, [2, 0, 0, 0, 1, number])
    });
    let route = Route::new(network, bits, 0, RouteAction::Forward(vec![path]));
    Fib::new(vec![interface], [link], [route], neighbours)
}

criterion_group!(benches, hits, misses);
criterion_main!(benches);
