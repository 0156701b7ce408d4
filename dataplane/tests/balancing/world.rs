//! A Gateway with a few services, clients anywhere, and one router between
//! them all.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use blixt_dataplane::{
    Burst, CompileOptions, DropReason, Fib, Interface, InterfaceSlot, Limits, Link, MaglevSize,
    Neighbour, Packet, Path, Pipeline, PipelineConfig, Route, RouteAction, Sink, SlotCounters,
    SlotOwner, SlotStats, Slots, Tables, Tags, Tick, Timeouts, Verdict, View, WorkerId, address,
};
use blixt_model::{
    Affinity, Backend, Endpoint, EndpointState, Gateway, Generation, HashSeed, Listener,
    ListenerName, Port, Protocol, RouteId, RouteKind, ServiceIndex, ServicePort, ServicePortId,
    Snapshot, Target, Weight,
};
use blixt_testkit::frame::{ACK, FIN, Frame, RST, tcp, tcp_syn, tcp_syn_ack, udp};
use etherparse::{NetHeaders, PacketHeaders, TransportHeader};

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const WEB: &str = "198.51.100.1:80";
pub(crate) const DNS: &str = "198.51.100.1:53";
pub(crate) const WEB6: &str = "[2001:db8:f::1]:80";

pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The `n`-th of many clients.
pub(crate) fn client(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 10_000 + n))
}

pub(crate) fn endpoint(text: &str, state: EndpointState) -> Endpoint {
    let at = at(text);
    Endpoint { address: at.ip(), port: Port::new(at.port()).unwrap(), state }
}

/// Endpoints 10.1.0.1, 10.1.0.2 and so on, all ready.
pub(crate) fn ready(count: u8) -> Vec<Endpoint> {
    (1..=count).map(|n| endpoint(&format!("10.1.0.{n}:8080"), EndpointState::Ready)).collect()
}

pub(crate) fn service(name: &str, protocol: Protocol, endpoints: Vec<Endpoint>) -> ServicePort {
    ServicePort {
        id: ServicePortId { service: name.parse().unwrap(), protocol, port: port(8_080) },
        affinity: Affinity::None,
        endpoints,
    }
}

fn port(number: u16) -> Port {
    Port::new(number).unwrap()
}

pub(crate) fn to_service(index: u32, weight: u32) -> Backend {
    Backend { weight: Weight::new(weight).unwrap(), target: Target::Service(ServiceIndex(index)) }
}

pub(crate) fn listener(
    name: &str,
    protocol: Protocol,
    number: u16,
    backends: Vec<Backend>,
) -> Listener {
    let kind = if protocol == Protocol::Tcp { RouteKind::Tcp } else { RouteKind::Udp };
    Listener {
        name: ListenerName::new(name).unwrap(),
        protocol,
        port: port(number),
        route: Some(RouteId { kind, name: name.parse().unwrap() }),
        backends,
    }
}

pub(crate) fn snapshot(
    generation: u64,
    listeners: Vec<Listener>,
    services: Vec<ServicePort>,
) -> Snapshot {
    let gateway = Gateway {
        name: "edge".parse().unwrap(),
        addresses: vec![at(WEB).ip(), at(WEB6).ip()],
        listeners,
        streams: vec![],
    };
    Snapshot::new(Generation(generation), HashSeed(7), vec![gateway], services).unwrap()
}

/// A web and a DNS listener in front of the same endpoints.
pub(crate) fn web_and_dns(generation: u64, endpoints: &[Endpoint]) -> Snapshot {
    snapshot(
        generation,
        vec![
            listener("web", Protocol::Tcp, 80, vec![to_service(0, 1)]),
            listener("dns", Protocol::Udp, 53, vec![to_service(1, 1)]),
        ],
        vec![
            service("web", Protocol::Tcp, endpoints.to_vec()),
            service("dns", Protocol::Udp, endpoints.to_vec()),
        ],
    )
}

/// What can be different from one story to another.
pub(crate) struct Situation {
    pub(crate) flow_capacity: usize,
    pub(crate) snat_ports: RangeInclusive<u16>,
    pub(crate) snat_addresses: &'static [&'static str],
    pub(crate) timeouts: Timeouts,
    pub(crate) hash_key: [u64; 2],
}

impl Default for Situation {
    fn default() -> Self {
        Self {
            flow_capacity: 1_000,
            snat_ports: 32_768..=60_999,
            snat_addresses: &["10.0.0.9", "2001:db8:a::9"],
            // Most stories ask once, and mean a flow that stays.
            timeouts: Timeouts { udp_query: Timeouts::default().udp, ..Timeouts::default() },
            hash_key: [11, 12],
        }
    }
}

pub(crate) struct World {
    pub(crate) pipeline: Pipeline,
    pub(crate) tables: Tables,
    pub(crate) stats: SlotStats,
    pub(crate) now: Tick,
    options: CompileOptions,
    slots: Slots,
    fib: Fib,
}

/// What came of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Sent(Seen),
    Dropped(DropReason),
}

/// What can be seen of a sent packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) flags: u8,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
}

impl Outcome {
    #[track_caller]
    pub(crate) fn sent(self) -> Seen {
        match self {
            Self::Sent(seen) => seen,
            Self::Dropped(reason) => panic!("dropped: {reason:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn dropped(self) -> DropReason {
        match self {
            Self::Sent(seen) => panic!("sent: {seen:?}"),
            Self::Dropped(reason) => reason,
        }
    }

    /// Asserts that it was answered with a reset, and gives it.
    #[track_caller]
    pub(crate) fn reset(self) -> Seen {
        let seen = self.sent();
        assert_eq!(seen.flags & RST, RST, "{seen:?}");
        seen
    }
}

/// Keeps what a sweep sends.
#[derive(Default)]
struct Kept(Vec<Seen>);

impl Sink for Kept {
    fn send(&mut self, _egress: InterfaceSlot, frame: &[u8]) -> bool {
        self.0.push(seen(frame));
        true
    }
}

impl World {
    pub(crate) fn new(situation: &Situation, snapshot: &Snapshot) -> Self {
        let config = PipelineConfig {
            worker: WorkerId(0),
            flow_capacity: situation.flow_capacity,
            snat_ports: situation.snat_ports.clone(),
            hash_key: situation.hash_key,
            timeouts: situation.timeouts,
            limits: Limits::default(),
        };
        let snat = situation.snat_addresses.iter().map(|text| text.parse::<IpAddr>().unwrap());
        let mut world = Self {
            pipeline: Pipeline::new(&config).unwrap(),
            tables: Tables::default(),
            stats: SlotStats::default(),
            now: Tick(1_000_000_000_000),
            options: CompileOptions {
                maglev: MaglevSize::new(1_021).unwrap(),
                snat_addresses: snat.collect(),
                ..CompileOptions::default()
            },
            slots: Slots::default(),
            fib: fib(),
        };
        world.apply(snapshot);
        world
    }

    pub(crate) fn apply(&mut self, snapshot: &Snapshot) {
        self.tables =
            Tables::compile(snapshot, &self.options, &mut self.slots, &self.tables).unwrap();
        self.stats = self.stats.grown_to(self.slots.capacity());
    }

    /// Gives back the slots that nothing uses, as the writer of tables does once
    /// the newest are in use.
    pub(crate) fn reclaim(&mut self) {
        let Self { slots, stats, tables, .. } = self;
        let is_idle = |slot| stats.slot(slot).is_none_or(SlotCounters::is_idle);
        for slot in slots.reclaim(tables.generation(), is_idle) {
            stats.clear(slot);
        }
    }

    /// The pipeline, and what it judges by.
    pub(crate) fn parts(&mut self) -> (&mut Pipeline, View<'_>) {
        let view = View { tables: &self.tables, fib: &self.fib, stats: &self.stats };
        (&mut self.pipeline, view)
    }

    pub(crate) fn later(&mut self, seconds: u64) {
        self.now = Tick(self.now.0 + Duration::from_secs(seconds).as_nanos() as u64);
    }

    /// Frames that come in together.
    pub(crate) fn send_all(&mut self, frames: &[Frame]) -> Vec<Outcome> {
        let mut buffers: Vec<_> = frames.iter().map(buffer).collect();
        let mut burst = Burst::new();
        for (bytes, buffer) in &mut buffers {
            burst.push(Packet::new(buffer, *bytes, InterfaceSlot(0)));
        }
        let now = self.now;
        let (pipeline, view) = self.parts();
        pipeline.process(&mut burst, view, now, &mut Kept::default());
        burst.iter().map(outcome).collect()
    }

    pub(crate) fn send(&mut self, frame: Frame) -> Outcome {
        self.send_all(&[frame]).remove(0)
    }

    /// Sweeps a whole round; what was sent besides.
    pub(crate) fn sweep(&mut self) -> Vec<Seen> {
        let mut sent = Kept::default();
        self.sweep_into(&mut sent);
        sent.0
    }

    /// As a worker does that has little else to do.
    pub(crate) fn sweep_into(&mut self, sink: &mut dyn Sink) {
        for _ in 0..11 {
            self.now = Tick(self.now.0 + 100_000_000);
            let now = self.now;
            let (pipeline, view) = self.parts();
            while pipeline.sweep(view, now, sink) {}
        }
    }

    /// Opens a connection from both ends. What the endpoint sees of it.
    #[track_caller]
    pub(crate) fn open(&mut self, client: SocketAddr, vip: SocketAddr) -> Seen {
        let syn = self.send(tcp_syn(client, vip)).sent();
        self.send(tcp_syn_ack(syn.dst, syn.src)).sent();
        self.send(tcp(client, vip).flags(ACK).seq(1_001).ack(5_001)).sent();
        syn
    }

    /// Closes it from both ends, the client first.
    #[track_caller]
    pub(crate) fn close(&mut self, client: SocketAddr, vip: SocketAddr, opened: &Seen) {
        self.send(tcp(client, vip).flags(FIN | ACK).seq(1_001).ack(5_001)).sent();
        let last = tcp(opened.dst, opened.src).flags(FIN | ACK).seq(5_001).ack(1_002);
        self.send(last).sent();
        self.send(tcp(client, vip).flags(ACK).seq(1_002).ack(5_002)).sent();
    }

    /// A UDP query. What the endpoint sees of it.
    #[track_caller]
    pub(crate) fn query(&mut self, n: u16) -> Seen {
        self.send(udp(client(n), at(DNS))).sent()
    }

    /// Entries in use, and those of them that rest.
    pub(crate) fn entries(&self) -> (u64, u64) {
        let counters = self.pipeline.counters();
        (counters.flow_entries.value(), counters.flow_entries_resting.value())
    }

    /// The counters of a backendRef, by its service's name.
    pub(crate) fn backend(&self, name: &str) -> &SlotCounters {
        self.counters_of(|owner| match owner {
            SlotOwner::Backend { service, .. } => {
                service.as_ref().is_some_and(|id| id.service == name.parse().unwrap())
            }
            SlotOwner::Endpoint { .. } => false,
        })
    }

    /// The counters of an endpoint of a service.
    pub(crate) fn endpoint(&self, name: &str, endpoint: SocketAddr) -> &SlotCounters {
        self.counters_of(|owner| match owner {
            SlotOwner::Endpoint { service, address, .. } => {
                service.service == name.parse().unwrap() && *address == endpoint.ip()
            }
            SlotOwner::Backend { .. } => false,
        })
    }

    /// All slots with their counters.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (&SlotOwner, &SlotCounters)> {
        self.slots.owners().map(|(owner, slot)| (owner, self.stats.slot(slot).unwrap()))
    }

    fn counters_of(&self, is_it: impl Fn(&SlotOwner) -> bool) -> &SlotCounters {
        self.slots().find(|(owner, _)| is_it(owner)).unwrap().1
    }
}

/// A frame in a buffer with some room behind it.
pub(crate) fn buffer(frame: &Frame) -> (usize, Vec<u8>) {
    let mut buffer = frame.clone().or_between(ROUTER, OURS).bytes();
    let bytes = buffer.len();
    buffer.resize(2_048, 0);
    (bytes, buffer)
}

fn outcome(packet: &Packet<'_>) -> Outcome {
    match packet.verdict().unwrap() {
        Verdict::Transmit(_) => Outcome::Sent(seen(packet.frame())),
        Verdict::Drop(reason) => Outcome::Dropped(reason),
        other => panic!("{other:?}"),
    }
}

fn seen(frame: &[u8]) -> Seen {
    let headers = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let (src, dst): (IpAddr, IpAddr) = match headers.net.unwrap() {
        NetHeaders::Ipv4(ip, _) => (ip.source.into(), ip.destination.into()),
        NetHeaders::Ipv6(ip, _) => (ip.source.into(), ip.destination.into()),
        other => panic!("{other:?}"),
    };
    match headers.transport.unwrap() {
        TransportHeader::Tcp(tcp) => Seen {
            src: SocketAddr::new(src, tcp.source_port),
            dst: SocketAddr::new(dst, tcp.destination_port),
            flags: tcp.to_bytes()[13],
            seq: tcp.sequence_number,
            ack: tcp.acknowledgment_number,
        },
        TransportHeader::Udp(udp) => Seen {
            src: SocketAddr::new(src, udp.source_port),
            dst: SocketAddr::new(dst, udp.destination_port),
            flags: 0,
            seq: 0,
            ack: 0,
        },
        other => panic!("{other:?}"),
    }
}

/// Everything goes to one router.
fn fib() -> Fib {
    let ifindex = 10;
    let link = Link {
        ifindex,
        attached: Some(InterfaceSlot(0)),
        mac: OURS,
        mtu: 1_500,
        tags: Tags::new(),
    };
    let routers = ["10.0.0.254", "2001:db8:a::fe"].map(|text| text.parse::<IpAddr>().unwrap());
    let routes = routers.map(|router| {
        let everything = if router.is_ipv4() { "0.0.0.0" } else { "::" };
        let path = Path { ifindex, via: Some(address::from_ip(router)) };
        Route::new(everything.parse().unwrap(), 0, 0, RouteAction::Forward(vec![path]))
    });
    let neighbours =
        routers.map(|router| (Neighbour { ifindex, address: address::from_ip(router) }, ROUTER));
    let interface = Interface { ifindex, mac: OURS, partial_checksums: false };
    Fib::new(vec![interface], [link], routes, neighbours)
}
