//! A worker's pipeline that has one service, any number of clients, and
//! nothing around it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a measurement that goes wrong should stop"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use blixt_dataplane::{
    BURST, Burst, CompileOptions, Fib, Interface, InterfaceSlot, Limits, Link, Neighbour, Packet,
    Path, Pipeline, PipelineConfig, PipelineStage, Route, RouteAction, Sink, SlotStats, Slots,
    Tables, Tags, Tick, Timeouts, Verdict, View, WorkerId, address,
};
use blixt_model::{
    Affinity, Backend, Endpoint, EndpointState, Gateway, Generation, HashSeed, Listener,
    ListenerName, Port, RouteId, RouteKind, ServiceIndex, ServicePort, ServicePortId, Snapshot,
    Target, Weight,
};
use blixt_testkit::frame::{ACK, Frame, Mac, tcp, tcp_syn, tcp_syn_ack, udp};

const OURS: Mac = [2, 0, 0, 0, 0, 1];
const ROUTER: Mac = [2, 0, 0, 0, 0, 2];
/// Enough that ten million flows fit into the ports of one SNAT address.
const ENDPOINTS: u8 = 200;
const FRAME_ROOM: usize = 2_048;
/// How long a UDP flow is kept in which both ends have spoken: the longest there
/// is.
const EVER: Duration = Duration::from_secs(12 * 86_400);
/// And one of a single packet.
const SOON: Duration = Duration::from_secs(10);

/// Of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Of the flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Connections, which are open both ways.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From a client to the VIP.
    ToEndpoint,
    /// From an endpoint to the SNAT address.
    ToClient,
}

/// How many stages there are.
pub const STAGES: usize = PipelineStage::ALL.len();

/// One worker's pipeline, and room for the frames of a burst.
#[derive(Debug)]
pub struct World {
    family: Family,
    protocol: Protocol,
    pipeline: Pipeline,
    tables: Tables,
    fib: Fib,
    stats: SlotStats,
    now: Tick,
    buffers: Vec<[u8; FRAME_ROOM]>,
    lengths: [usize; BURST],
}

struct NoSink;

impl Sink for NoSink {
    fn send(&mut self, _: InterfaceSlot, _: &[u8]) -> bool {
        false
    }
}

impl World {
    /// Without flows yet.
    pub fn new(family: Family, protocol: Protocol, flow_capacity: usize) -> Self {
        let mut slots = Slots::default();
        let options =
            CompileOptions { snat_addresses: [snat(family)].into(), ..CompileOptions::default() };
        let tables =
            Tables::compile(&snapshot(family, protocol), &options, &mut slots, &Tables::default());
        let config = PipelineConfig {
            worker: WorkerId(0),
            flow_capacity,
            snat_ports: 1_024..=65_535,
            hash_key: [0x0123_4567, 0x89ab_cdef],
            timeouts: Timeouts { udp: EVER, udp_query: SOON, ..Timeouts::default() },
            limits: Limits::default(),
        };
        Self {
            family,
            protocol,
            pipeline: Pipeline::new(&config).unwrap(),
            stats: SlotStats::default().grown_to(slots.capacity()),
            tables: tables.unwrap(),
            fib: fib(family),
            now: Tick(1),
            buffers: vec![[0; FRAME_ROOM]; BURST],
            lengths: [0; BURST],
        }
    }

    /// Opens a flow for each of the first `clients`, and lets either end speak
    /// and the client go on: no packet is among the first ones then.
    #[must_use]
    pub fn with_flows(mut self, clients: u32) -> Self {
        let clients: Vec<_> = (0..clients).collect();
        for clients in clients.chunks(BURST) {
            let opening: Vec<_> = clients.iter().map(|&client| self.opening(client)).collect();
            self.pass(&opening);
            let answers: Vec<_> = (0..clients.len())
                .map(|place| {
                    let (from, to) = self.reversed(place);
                    match self.protocol {
                        Protocol::Tcp => framed(&tcp_syn_ack(from, to)),
                        Protocol::Udp => self.frame(from, to, [0; 2]),
                    }
                })
                .collect();
            self.pass(&answers);
            let more: Vec<_> = clients.iter().map(|&client| self.request(client)).collect();
            self.pass(&more);
        }
        self
    }

    /// The frame that opens a client's flow.
    pub fn opening(&self, client: u32) -> Vec<u8> {
        match self.protocol {
            Protocol::Tcp => framed(&tcp_syn(self.client(client), vip(self.family))),
            Protocol::Udp => self.request(client),
        }
    }

    /// A frame of a client's flow, some way into it.
    pub fn request(&self, client: u32) -> Vec<u8> {
        self.frame(self.client(client), vip(self.family), [1_001, 5_001])
    }

    /// The frame that answers a client's [`World::request`].
    pub fn reply(&mut self, client: u32) -> Vec<u8> {
        let request = self.request(client);
        self.pass(&[request]);
        let (from, to) = self.reversed(0);
        self.frame(from, to, [5_001, 1_001])
    }

    /// As short as frames are, or as short as IPv6 can be.
    fn frame(&self, from: SocketAddr, to: SocketAddr, [seq, ack]: [u32; 2]) -> Vec<u8> {
        match self.protocol {
            Protocol::Tcp => framed(&tcp(from, to).flags(ACK).seq(seq).ack(ack)),
            Protocol::Udp => {
                let payload: &[u8] = if self.family == Family::V4 { &[0; 18] } else { &[] };
                framed(&udp(from, to).payload(payload))
            }
        }
    }

    /// One of 2^32 clients.
    fn client(&self, number: u32) -> SocketAddr {
        let port = 1_024 + (number % 60_000) as u16;
        let host = number / 60_000;
        let [.., b, c, d] = host.to_be_bytes();
        match self.family {
            Family::V4 => (Ipv4Addr::new(172, b, c, d), port).into(),
            Family::V6 => {
                let low = (host & 0xffff) as u16;
                (Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, u16::from(b), low), port).into()
            }
        }
    }

    /// Whom the packet that left `place` went to, and whom it came from.
    fn reversed(&self, place: usize) -> (SocketAddr, SocketAddr) {
        let frame = &self.buffers[place];
        let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let (from, to, l4): (IpAddr, IpAddr, _) = match self.family {
            Family::V4 => {
                let ip = |at: usize| <[u8; 4]>::try_from(&frame[at..at + 4]).unwrap().into();
                (ip(26), ip(30), 34)
            }
            Family::V6 => {
                let ip = |at: usize| <[u8; 16]>::try_from(&frame[at..at + 16]).unwrap().into();
                (ip(22), ip(38), 54)
            }
        };
        ((to, port(l4 + 2)).into(), (from, port(l4)).into())
    }

    /// Receives frames and sends them on.
    fn pass(&mut self, frames: &[Vec<u8>]) {
        self.receive(frames.iter().map(Vec::as_slice));
        self.burst(frames.len());
    }

    /// Puts up to a burst of frames where they are received.
    pub fn receive<'a>(&mut self, frames: impl IntoIterator<Item = &'a [u8]>) {
        for ((buffer, length), frame) in self.buffers.iter_mut().zip(&mut self.lengths).zip(frames)
        {
            buffer[..frame.len()].copy_from_slice(frame);
            *length = frame.len();
        }
    }

    /// Puts what was received through the pipeline, all of it together.
    pub fn burst(&mut self, frames: usize) {
        let view = View { tables: &self.tables, fib: &self.fib, stats: &self.stats };
        let mut burst = Burst::new();
        for (buffer, &length) in self.buffers.iter_mut().zip(&self.lengths).take(frames) {
            burst.push(Packet::new(buffer, length, InterfaceSlot(0)));
        }
        self.pipeline.process(&mut burst, view, self.now, &mut NoSink);
        for packet in &burst {
            sent(packet);
        }
    }

    /// Puts what was received through the pipeline, one packet after the other.
    pub fn one_by_one(&mut self, frames: usize) {
        let view = View { tables: &self.tables, fib: &self.fib, stats: &self.stats };
        for (buffer, &length) in self.buffers.iter_mut().zip(&self.lengths).take(frames) {
            let mut burst = Burst::new();
            burst.push(Packet::new(buffer, length, InterfaceSlot(0)));
            self.pipeline.process(&mut burst, view, self.now, &mut NoSink);
            for packet in &burst {
                sent(packet);
            }
        }
    }

    /// The same as [`World::burst`]; how long each stage had all the packets.
    pub fn burst_by_stage(&mut self, frames: usize) -> [Duration; STAGES] {
        let view = View { tables: &self.tables, fib: &self.fib, stats: &self.stats };
        let mut burst = Burst::new();
        for (buffer, &length) in self.buffers.iter_mut().zip(&self.lengths).take(frames) {
            burst.push(Packet::new(buffer, length, InterfaceSlot(0)));
        }
        let mut taken = [Duration::ZERO; STAGES];
        let mut last = Instant::now();
        self.pipeline.process_watched(&mut burst, view, self.now, &mut |stage| {
            let now = Instant::now();
            taken[stage as usize] = now - last;
            last = now;
        });
        for packet in &burst {
            sent(packet);
        }
        taken
    }

    /// Lets so much time go by that UDP flows of which only one packet was seen
    /// are forgotten, and no others.
    pub fn beginnings_expire(&mut self) {
        let view = View { tables: &self.tables, fib: &self.fib, stats: &self.stats };
        // From here on time counts.
        self.pipeline.sweep(view, self.now, &mut NoSink);
        self.now = Tick(self.now.0 + 2 * SOON.as_nanos() as u64);
        while self.pipeline.sweep(view, self.now, &mut NoSink) {}
    }

    /// How many flows there are.
    pub fn flows(&self) -> u64 {
        self.pipeline.counters().flow_entries.value()
    }
}

#[inline(always)]
fn sent(packet: &Packet<'_>) {
    let verdict = packet.verdict();
    assert!(matches!(verdict, Some(Verdict::Transmit(_))), "{verdict:?}");
}

fn framed(frame: &Frame) -> Vec<u8> {
    frame.clone().from(ROUTER).to(OURS).bytes()
}

fn vip(family: Family) -> SocketAddr {
    match family {
        Family::V4 => (Ipv4Addr::new(198, 51, 100, 1), 53).into(),
        Family::V6 => (Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 1), 53).into(),
    }
}

fn snat(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 0, 0, 9).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 9).into(),
    }
}

fn endpoint(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 1, 0, number).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, number.into()).into(),
    }
}

fn router(family: Family) -> IpAddr {
    endpoint(family, u8::MAX)
}

fn snapshot(family: Family, protocol: Protocol) -> Snapshot {
    let port = |number| Port::new(number).unwrap();
    let (protocol, kind) = match protocol {
        Protocol::Tcp => (blixt_model::Protocol::Tcp, RouteKind::Tcp),
        Protocol::Udp => (blixt_model::Protocol::Udp, RouteKind::Udp),
    };
    let service = ServicePort {
        id: ServicePortId { service: "dns".parse().unwrap(), protocol, port: port(53) },
        affinity: Affinity::None,
        endpoints: (1..=ENDPOINTS)
            .map(|number| Endpoint {
                address: endpoint(family, number),
                port: port(5_353),
                state: EndpointState::Ready,
            })
            .collect(),
    };
    let listener = Listener {
        name: ListenerName::new("dns").unwrap(),
        protocol,
        port: port(53),
        route: Some(RouteId { kind, name: "dns".parse().unwrap() }),
        backends: vec![Backend {
            weight: Weight::DEFAULT,
            target: Target::Service(ServiceIndex(0)),
        }],
    };
    let gateway = Gateway {
        name: "gateway".parse().unwrap(),
        addresses: vec![vip(family).ip()],
        listeners: vec![listener],
        streams: vec![],
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
    let over = |via: Option<IpAddr>| {
        RouteAction::Forward(vec![Path { ifindex: 1, via: via.map(address::from_ip) }])
    };
    let (endpoints, bits, everybody) = match family {
        Family::V4 => (Ipv4Addr::new(10, 1, 0, 0).into(), 24, Ipv4Addr::UNSPECIFIED.into()),
        Family::V6 => {
            let endpoints = Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, 0);
            (endpoints.into(), 64, Ipv6Addr::UNSPECIFIED.into())
        }
    };
    let neighbours = (1..=ENDPOINTS)
        .map(|number| (endpoint(family, number), [2, 0, 0, 0, 1, number]))
        .chain([(router(family), ROUTER)])
        .map(|(address, mac)| (Neighbour { ifindex: 1, address: address::from_ip(address) }, mac));
    let routes = [
        Route::new(endpoints, bits, 0, over(None)),
        Route::new(everybody, 0, 0, over(Some(router(family)))),
    ];
    Fib::new(vec![interface], [link], routes, neighbours)
}
