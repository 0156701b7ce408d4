//! A load balancer between clients and endpoints, for packets to pass.
//!
//! ```text
//! client ---- [interface 0]  pipeline  [interface 1] ---- endpoint, router
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use blixt_dataplane::{
    Burst, CompileOptions, DropReason, Fib, HostPath, Interface, InterfaceSlot, Limits, Link, Mac,
    MaglevSize, Neighbour, Owned, Packet, Path, Pipeline, PipelineConfig, Route, RouteAction, Sink,
    SlotStats, Slots, Tables, Tags, Tick, Timeouts, Verdict, View, WorkerId, address,
};
use blixt_model::{
    Affinity, Backend, Endpoint, EndpointState, Gateway, Generation, HashSeed, Listener,
    ListenerName, Port, Protocol, RejectReason, RouteId, RouteKind, ServiceIndex, ServicePort,
    ServicePortId, Snapshot, Target, Weight,
};
use blixt_testkit::counters::{Reading, assert_moved};
use blixt_testkit::frame::Frame;

pub(crate) const CLIENTS: InterfaceSlot = InterfaceSlot(0);
pub(crate) const ENDPOINTS: InterfaceSlot = InterfaceSlot(1);
pub(crate) const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 0xc1];
pub(crate) const ENDPOINT_MAC: Mac = [2, 0, 0, 0, 0, 0xe1];
pub(crate) const OUR_MACS: [Mac; 2] = [[2, 0, 0, 0, 0, 0xb0], [2, 0, 0, 0, 0, 0xb1]];
/// The interface whose other end is the node's kernel, with an MTU of its own.
pub(crate) const HOST: InterfaceSlot = InterfaceSlot(2);
pub(crate) const HOST_MTU: u32 = 1_400;
pub(crate) const HOST_MACS: [Mac; 2] = [[2, 0, 0, 0, 0, 0xa0], [2, 0, 0, 0, 0, 0xa1]];
pub(crate) const IFINDEXES: [u32; 2] = [10, 11];

/// Listeners of the Gateway besides 80 (TCP) and 53 (UDP), each refusing for
/// a reason of its own.
pub(crate) const NO_ROUTE: u16 = 81;
pub(crate) const NO_WEIGHT: u16 = 82;
pub(crate) const BAD_BACKEND: u16 = 83;
pub(crate) const NO_ENDPOINT: u16 = 84;
pub(crate) const NO_LISTENER: u16 = 85;
/// Its endpoint is the node itself, beyond a link that is not attached, not
/// answering, nowhere.
pub(crate) const LOCAL: u16 = 90;
pub(crate) const UNATTACHED: u16 = 91;
pub(crate) const SILENT: u16 = 92;
pub(crate) const NOWHERE: u16 = 93;

/// One cast of addresses; each story is told in both families.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cast {
    pub(crate) client: SocketAddr,
    /// The TCP listener's.
    pub(crate) web: SocketAddr,
    /// The UDP listener's.
    pub(crate) dns: SocketAddr,
    /// The only SNAT port there is.
    pub(crate) snat: SocketAddr,
    /// The same, of what goes through the node's kernel.
    pub(crate) host: SocketAddr,
    pub(crate) web_endpoint: SocketAddr,
    pub(crate) dns_endpoint: SocketAddr,
    /// A router on the way to the endpoints, and one on the way to clients.
    pub(crate) router: IpAddr,
    pub(crate) far_router: IpAddr,
    pub(crate) local: IpAddr,
    pub(crate) unattached: IpAddr,
    pub(crate) silent: IpAddr,
    pub(crate) nowhere: IpAddr,
}

pub(crate) fn casts() -> [Cast; 2] {
    [cast("192.0.2.", "198.51.100.1", "10.0.0.9", "10.1.0.", "169.254.42.1"), cast6()]
}

pub(crate) fn v4() -> Cast {
    let [v4, _] = casts();
    v4
}

pub(crate) fn v6() -> Cast {
    let [_, v6] = casts();
    v6
}

fn cast(client: &str, vip: &str, snat: &str, endpoint: &str, host: &str) -> Cast {
    let ip = |text: String| text.parse::<IpAddr>().unwrap();
    let at = |text: String, port| SocketAddr::new(ip(text), port);
    Cast {
        client: at(format!("{client}7"), 40_000),
        web: at(vip.to_owned(), 80),
        dns: at(vip.to_owned(), 53),
        snat: at(snat.to_owned(), SNAT_PORT),
        host: at(host.to_owned(), SNAT_PORT),
        web_endpoint: at(format!("{endpoint}1"), 8_080),
        dns_endpoint: at(format!("{endpoint}1"), 5_353),
        router: ip(format!("{endpoint}254")),
        far_router: ip(format!("{client}254")),
        local: ip(format!("{endpoint}12")),
        unattached: ip(format!("{endpoint}13")),
        silent: ip(format!("{endpoint}14")),
        nowhere: ip(format!("{endpoint}15")),
    }
}

fn cast6() -> Cast {
    cast("2001:db8:c::", "2001:db8:f::1", "2001:db8:a::9", "2001:db8:e::", "fd62:6c69:7874:2a::1")
}

pub(crate) const SNAT_PORT: u16 = 50_000;

/// What can be different from one story to another.
#[derive(Debug, Clone)]
pub(crate) struct Situation {
    pub(crate) mtu: u32,
    pub(crate) client_tags: Tags,
    pub(crate) endpoint_tags: Tags,
    pub(crate) partial_checksums: bool,
    pub(crate) limits: Limits,
    pub(crate) flow_capacity: usize,
    pub(crate) snat: bool,
    /// How many flows may go through the node's kernel, if any may.
    pub(crate) host: Option<usize>,
    /// Whether the VIPs are this node's; all others are served all the same.
    pub(crate) owned: bool,
    /// Bytes a frame's buffer has.
    pub(crate) room: usize,
}

/// A web and a DNS listener with one endpoint each.
pub(crate) fn one_endpoint_each() -> Situation {
    Situation {
        mtu: 1_500,
        client_tags: Tags::new(),
        endpoint_tags: Tags::new(),
        partial_checksums: false,
        limits: Limits::default(),
        flow_capacity: 16,
        snat: true,
        host: None,
        owned: true,
        room: 2_048,
    }
}

/// What came of one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) frame: Vec<u8>,
}

pub(crate) struct World {
    situation: Situation,
    pub(crate) pipeline: Pipeline,
    pub(crate) tables: Tables,
    pub(crate) fib: Fib,
    pub(crate) stats: SlotStats,
    slots: Slots,
    pub(crate) now: Tick,
    outcome: Option<Outcome>,
    before: Reading,
}

/// A sink with room for some frames.
#[derive(Debug, Default)]
pub(crate) struct Sent(pub(crate) Vec<(InterfaceSlot, Vec<u8>)>, pub(crate) usize);

impl Sink for Sent {
    fn send(&mut self, egress: InterfaceSlot, frame: &[u8]) -> bool {
        if self.0.len() == self.1 {
            return false;
        }
        self.0.push((egress, frame.to_vec()));
        true
    }
}

pub(crate) fn given(situation: Situation) -> World {
    let mut slots = Slots::default();
    let tables = tables(&situation, true, 1, &mut slots, &Tables::default());
    let config = PipelineConfig {
        worker: WorkerId(0),
        flow_capacity: situation.flow_capacity,
        snat_ports: SNAT_PORT..=SNAT_PORT,
        hash_key: [1, 2],
        timeouts: Timeouts::default(),
        limits: situation.limits,
    };
    let pipeline = Pipeline::new(&config).unwrap();
    let before = pipeline.counters().by_name();
    World {
        fib: fib(&situation, &[]),
        stats: SlotStats::default().grown_to(slots.capacity()),
        situation,
        pipeline,
        tables,
        slots,
        now: Tick(1_000_000_000),
        outcome: None,
        before,
    }
}

impl World {
    /// A client's frame comes in.
    #[track_caller]
    pub(crate) fn client_sends(self, frame: Frame) -> Self {
        let frame = frame.or_between(CLIENT_MAC, OUR_MACS[0]);
        self.receives(CLIENTS, &frame.bytes())
    }

    /// An endpoint's frame, or one of a router there.
    #[track_caller]
    pub(crate) fn endpoint_sends(self, frame: Frame) -> Self {
        let frame = frame.or_between(ENDPOINT_MAC, OUR_MACS[1]);
        self.receives(ENDPOINTS, &frame.bytes())
    }

    /// A frame comes out of the node's kernel.
    #[track_caller]
    pub(crate) fn host_sends(self, frame: Frame) -> Self {
        let [kernel, ours] = HOST_MACS;
        self.receives(HOST, &frame.or_between(kernel, ours).bytes())
    }

    #[track_caller]
    pub(crate) fn host_gets(self, frame: Frame) -> Self {
        let [kernel, ours] = HOST_MACS;
        self.leaves(HOST, &frame.or_between(ours, kernel).bytes())
    }

    /// Bytes come in as they are.
    #[track_caller]
    pub(crate) fn receives(mut self, ingress: InterfaceSlot, bytes: &[u8]) -> Self {
        assert_eq!(self.outcome, None, "what came of the last frame was not looked at");
        self.outcome = Some(self.process(ingress, bytes));
        self
    }

    #[track_caller]
    pub(crate) fn client_gets(self, frame: Frame) -> Self {
        let frame = frame.or_between(OUR_MACS[0], CLIENT_MAC);
        self.leaves(CLIENTS, &frame.bytes())
    }

    #[track_caller]
    pub(crate) fn endpoint_gets(self, frame: Frame) -> Self {
        let frame = frame.or_between(OUR_MACS[1], ENDPOINT_MAC);
        self.leaves(ENDPOINTS, &frame.bytes())
    }

    #[track_caller]
    fn leaves(self, egress: InterfaceSlot, bytes: &[u8]) -> Self {
        let (world, outcome) = self.outcome();
        assert_eq!(outcome.verdict, Verdict::Transmit(egress));
        assert_eq!(hex(&outcome.frame), hex(bytes), "(left: the frame; right: expected)");
        world
    }

    #[track_caller]
    pub(crate) fn dropped_for(self, reason: DropReason) -> Self {
        let (world, outcome) = self.outcome();
        assert_eq!(outcome.verdict, Verdict::Drop(reason));
        world
    }

    /// What came of the last frame, to look at by hand.
    #[track_caller]
    pub(crate) fn outcome(mut self) -> (Self, Outcome) {
        let outcome = self.outcome.take().expect("no frame was sent");
        (self, outcome)
    }

    /// Exactly these counters moved since the last time.
    #[track_caller]
    pub(crate) fn moved<'a>(mut self, expected: impl IntoIterator<Item = &'a str>) -> Self {
        let after = self.pipeline.counters().by_name();
        assert_moved(&self.before, &after, expected);
        self.before = after;
        self
    }

    /// Whatever moved is another story's.
    pub(crate) fn whatever_moved(mut self) -> Self {
        self.before = self.pipeline.counters().by_name();
        self
    }

    /// A flow from the client to the web listener, open.
    pub(crate) fn with_web_flow(self, cast: &Cast) -> Self {
        use blixt_testkit::frame::{ACK, tcp, tcp_syn, tcp_syn_ack};
        let syn = tcp_syn(cast.client, cast.web);
        let syn_ack = tcp_syn_ack(cast.web_endpoint, cast.snat);
        let ack = tcp(cast.client, cast.web).flags(ACK).seq(1_001).ack(5_001);
        let (world, _) = self.client_sends(syn).outcome();
        let (world, _) = world.endpoint_sends(syn_ack).outcome();
        let (world, _) = world.client_sends(ack).outcome();
        world.whatever_moved()
    }

    /// A flow from the client to the DNS listener.
    pub(crate) fn with_dns_flow(self, cast: &Cast) -> Self {
        let query = blixt_testkit::frame::udp(cast.client, cast.dns);
        let (world, _) = self.client_sends(query).outcome();
        world.whatever_moved()
    }

    /// New tables, without the endpoints.
    pub(crate) fn endpoints_go(mut self) -> Self {
        self.tables = tables(&self.situation, false, 2, &mut self.slots, &self.tables);
        self.stats = self.stats.grown_to(self.slots.capacity());
        self
    }

    pub(crate) fn later(mut self, seconds: u64) -> Self {
        self.now = Tick(self.now.0 + seconds * 1_000_000_000);
        self
    }

    /// The kernel has found out the MAC address of a neighbour.
    pub(crate) fn neighbour_answers(mut self, address: IpAddr) -> Self {
        self.fib = fib(&self.situation, &[address]);
        self
    }

    /// A held frame is tried again.
    #[track_caller]
    pub(crate) fn retried(mut self, frame: &[u8]) -> Self {
        let mut buffer = self.buffer(frame);
        let mut burst = Burst::new();
        burst.push(Packet::new(&mut buffer, frame.len(), CLIENTS));
        let view = View { tables: &self.tables, fib: &self.fib, stats: &self.stats };
        self.pipeline.retry(&mut burst, view, self.now);
        self.outcome = Some(outcome(&burst[0]));
        self
    }

    /// Frames in one burst.
    pub(crate) fn process_all(&mut self, frames: &[(InterfaceSlot, Vec<u8>)]) -> Vec<Outcome> {
        let mut buffers: Vec<_> = frames.iter().map(|(_, bytes)| self.buffer(bytes)).collect();
        let mut burst = Burst::new();
        for (buffer, (ingress, bytes)) in buffers.iter_mut().zip(frames) {
            burst.push(Packet::new(buffer, bytes.len(), *ingress));
        }
        let view = View { tables: &self.tables, fib: &self.fib, stats: &self.stats };
        self.pipeline.process(&mut burst, view, self.now, &mut Sent::default());
        burst.iter().map(outcome).collect()
    }

    pub(crate) fn process(&mut self, ingress: InterfaceSlot, bytes: &[u8]) -> Outcome {
        self.process_all(&[(ingress, bytes.to_vec())]).remove(0)
    }

    /// Two seconds of sweeping; what was sent besides.
    pub(crate) fn sweep(&mut self, room: usize) -> Vec<(InterfaceSlot, Vec<u8>)> {
        let mut sent = Sent(vec![], room);
        for _ in 0..20 {
            self.now = Tick(self.now.0 + 100_000_000);
            let view = View { tables: &self.tables, fib: &self.fib, stats: &self.stats };
            self.pipeline.sweep(view, self.now, &mut sent);
        }
        sent.0
    }

    pub(crate) fn announce(&mut self, room: usize) -> Vec<(InterfaceSlot, Vec<u8>)> {
        let mut sent = Sent(vec![], room);
        let view = View { tables: &self.tables, fib: &self.fib, stats: &self.stats };
        self.pipeline.announce(view, &mut sent);
        sent.0
    }

    fn buffer(&self, bytes: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0xa5; self.situation.room.max(bytes.len())];
        buffer[..bytes.len()].copy_from_slice(bytes);
        buffer
    }
}

fn outcome(packet: &Packet<'_>) -> Outcome {
    Outcome { verdict: packet.verdict().expect("no verdict"), frame: packet.frame().to_vec() }
}

/// Rows of 16 bytes, so that a difference is found at a glance.
pub(crate) fn hex(bytes: &[u8]) -> Vec<String> {
    let row = |(number, row): (usize, &[u8])| {
        let bytes: Vec<_> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:04x}  {}", number * 16, bytes.join(" "))
    };
    bytes.chunks(16).enumerate().map(row).collect()
}

pub(crate) fn fib(situation: &Situation, answered: &[IpAddr]) -> Fib {
    let interfaces = IFINDEXES.iter().zip(OUR_MACS).map(|(&ifindex, mac)| Interface {
        ifindex,
        mac,
        partial_checksums: situation.partial_checksums,
    });
    let link = |side: usize, tags: &Tags| Link {
        // A VLAN's link is another than its interface's.
        ifindex: IFINDEXES[side] + if tags.is_empty() { 0 } else { 100 },
        attached: Some(InterfaceSlot(side as u16)),
        mac: OUR_MACS[side],
        mtu: situation.mtu,
        tags: tags.clone(),
    };
    let links = [
        link(0, &situation.client_tags),
        link(1, &situation.endpoint_tags),
        Link { ifindex: 99, attached: None, mac: [9; 6], mtu: 1_500, tags: Tags::new() },
    ];
    let [to_clients, to_endpoints, elsewhere] = [0, 1, 2].map(|place| links[place].ifindex);
    let mut routes = Vec::new();
    let mut neighbours = Vec::new();
    for cast in casts() {
        let (bits, all) = if cast.client.is_ipv4() { (24, 32) } else { (64, 128) };
        let to = |ifindex| RouteAction::Forward(vec![Path { ifindex, via: None }]);
        routes.push(Route::new(cast.client.ip(), bits, 0, to(to_clients)).masked(bits));
        routes.push(Route::new(cast.web_endpoint.ip(), bits, 0, to(to_endpoints)).masked(bits));
        routes.push(Route::new(cast.local, all, 0, RouteAction::Local));
        routes.push(Route::new(cast.unattached, all, 0, to(elsewhere)));
        routes.push(Route::new(cast.nowhere, all, 0, RouteAction::Refuse));
        let near = |ifindex, ip| Neighbour { ifindex, address: address::from_ip(ip) };
        neighbours.push((near(to_clients, cast.client.ip()), CLIENT_MAC));
        neighbours.push((near(to_endpoints, cast.web_endpoint.ip()), ENDPOINT_MAC));
    }
    for &address in answered {
        let address = address::from_ip(address);
        neighbours.push((Neighbour { ifindex: to_endpoints, address }, ENDPOINT_MAC));
    }
    let host = Interface { ifindex: 12, mac: HOST_MACS[1], partial_checksums: false };
    let interfaces = interfaces.chain(situation.host.map(|_| host)).collect();
    let fib = Fib::new(interfaces, links, routes, neighbours);
    match situation.host {
        None => fib,
        Some(flows_per_worker) => fib.with_host_path(HostPath {
            egress: HOST,
            mtu: HOST_MTU,
            stations: HOST_MACS,
            flows_per_worker,
        }),
    }
}

trait Masked {
    fn masked(self, bits: u8) -> Self;
}

impl Masked for Route {
    /// Without the bits behind the prefix.
    fn masked(mut self, bits: u8) -> Self {
        let host_bits = if bits == 24 { 8 } else { 64 };
        self.prefix = self.prefix >> host_bits << host_bits;
        self
    }
}

pub(crate) fn tables(
    situation: &Situation,
    with_endpoints: bool,
    generation: u64,
    slots: &mut Slots,
    previous: &Tables,
) -> Tables {
    let mut services = Vec::new();
    let mut listeners = Vec::new();
    let ips = |pick: fn(&Cast) -> IpAddr| casts().map(|cast| pick(&cast)).to_vec();
    let endpoint = ips(|cast| cast.web_endpoint.ip());
    for (name, protocol, port, addresses, target_port) in [
        ("web", Protocol::Tcp, 80, endpoint.clone(), 8_080),
        ("dns", Protocol::Udp, 53, endpoint, 5_353),
        ("local", Protocol::Udp, LOCAL, ips(|cast| cast.local), 1),
        ("unattached", Protocol::Udp, UNATTACHED, ips(|cast| cast.unattached), 1),
        ("silent", Protocol::Udp, SILENT, ips(|cast| cast.silent), 1),
        ("nowhere", Protocol::Udp, NOWHERE, ips(|cast| cast.nowhere), 1),
        ("empty", Protocol::Tcp, NO_ENDPOINT, vec![], 1),
    ] {
        let target = Target::Service(ServiceIndex(services.len() as u32));
        listeners.push(listener(name, protocol, port, true, vec![(1, target)]));
        services.push(service(name, protocol, port, &addresses, target_port));
    }
    if !with_endpoints {
        services.iter_mut().for_each(|service| service.endpoints.clear());
    }
    let web = Target::Service(ServiceIndex(0));
    let bad = Target::Rejected(RejectReason::BackendNotFound);
    listeners.push(listener("no-route", Protocol::Tcp, NO_ROUTE, false, vec![]));
    listeners.push(listener("no-weight", Protocol::Tcp, NO_WEIGHT, true, vec![(0, web)]));
    listeners.push(listener("bad", Protocol::Tcp, BAD_BACKEND, true, vec![(1, bad)]));
    let gateway = Gateway {
        name: "gateway".parse().unwrap(),
        addresses: ips(|cast| cast.web.ip()),
        listeners,
        streams: vec![],
    };
    let snapshot =
        Snapshot::new(Generation(generation), HashSeed(1), vec![gateway], services).unwrap();
    let snat_addresses: BTreeSet<_> =
        casts().iter().filter(|_| situation.snat).map(|cast| cast.snat.ip()).collect();
    let host_addresses =
        casts().iter().filter(|_| situation.host.is_some()).map(|cast| cast.host.ip()).collect();
    let owned = match situation.owned {
        true => Owned::All,
        false => Owned::Only(BTreeSet::new()),
    };
    let options = CompileOptions {
        maglev: MaglevSize::new(251).unwrap(),
        snat_addresses,
        host_addresses,
        owned,
    };
    Tables::compile(&snapshot, &options, slots, previous).unwrap()
}

fn service(
    name: &str,
    protocol: Protocol,
    port: u16,
    addresses: &[IpAddr],
    target_port: u16,
) -> ServicePort {
    let port_of = |port: u16| Port::new(i64::from(port)).unwrap();
    ServicePort {
        id: ServicePortId { service: name.parse().unwrap(), protocol, port: port_of(port) },
        affinity: Affinity::None,
        endpoints: addresses
            .iter()
            .map(|&address| Endpoint {
                address,
                port: port_of(target_port),
                state: EndpointState::Ready,
            })
            .collect(),
    }
}

fn listener(
    name: &str,
    protocol: Protocol,
    port: u16,
    has_route: bool,
    backends: Vec<(i64, Target)>,
) -> Listener {
    let kind = if protocol == Protocol::Tcp { RouteKind::Tcp } else { RouteKind::Udp };
    Listener {
        name: ListenerName::new(name).unwrap(),
        protocol,
        port: Port::new(i64::from(port)).unwrap(),
        route: has_route.then(|| RouteId { kind, name: name.parse().unwrap() }),
        backends: backends
            .into_iter()
            .map(|(weight, target)| Backend { weight: Weight::new(weight).unwrap(), target })
            .collect(),
    }
}
