//! What is wanted and known in these tests: one UDP listener with one endpoint,
//! two links, and how a worker is made.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use blixt_afxdp::{FrameBytes, Sizes};
use blixt_agent::worker::{HoldLimits, WorkerConfig};
use blixt_dataplane::{
    CompileOptions, Fib, Interface, InterfaceSlot, Limits, Link, Mac, Neighbour, Path,
    PipelineConfig, Route, RouteAction, SlotStats, Slots, Tables, Tags, Timeouts, WorkerId,
    address,
};
use blixt_model::{
    Affinity, Backend, Endpoint, EndpointState, Gateway, Generation, HashSeed, Listener,
    ListenerName, Port, Protocol, RouteId, RouteKind, ServiceIndex, ServicePort, ServicePortId,
    Snapshot, Target, Weight,
};
use nix::net::if_::if_nametoindex;

pub(super) const CLIENTS: InterfaceSlot = InterfaceSlot(0);
pub(super) const ENDPOINTS: InterfaceSlot = InterfaceSlot(1);
pub(super) const OUR_MACS: [Mac; 2] = [[2, 0, 0, 0, 0, 0xb0], [2, 0, 0, 0, 0, 0xb1]];
pub(super) const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 0xc1];
pub(super) const ENDPOINT_MAC: Mac = [2, 0, 0, 0, 0, 0xe1];
pub(super) const LIMIT: Duration = Duration::from_secs(10);
pub(super) const SIZES: Sizes =
    Sizes { frames: 2_048, frame_bytes: FrameBytes::Half, ring_entries: 512 };

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn client(number: u16) -> SocketAddr {
    SocketAddr::new(ip("192.0.2.2"), 20_000 + number)
}

/// One whose MAC address is known only when the endpoint's is.
pub(super) fn late_client() -> SocketAddr {
    SocketAddr::new(ip("192.0.2.3"), 20_000)
}

pub(super) fn vip() -> SocketAddr {
    SocketAddr::new(ip("192.0.2.100"), 53)
}

pub(super) fn endpoint() -> SocketAddr {
    SocketAddr::new(ip("10.1.0.2"), 5_353)
}

/// One UDP listener with one endpoint.
pub(super) fn tables(generation: u64) -> (Tables, SlotStats) {
    let name = || "default/dns".parse().unwrap();
    let service = ServicePort {
        id: ServicePortId {
            service: name(),
            protocol: Protocol::Udp,
            port: Port::new(53).unwrap(),
        },
        affinity: Affinity::None,
        endpoints: vec![Endpoint {
            address: endpoint().ip(),
            port: Port::new(endpoint().port()).unwrap(),
            state: EndpointState::Ready,
        }],
    };
    let listener = Listener {
        name: ListenerName::new("dns").unwrap(),
        protocol: Protocol::Udp,
        port: Port::new(53).unwrap(),
        route: Some(RouteId { kind: RouteKind::Udp, name: name() }),
        backends: vec![Backend {
            weight: Weight::new(1).unwrap(),
            target: Target::Service(ServiceIndex(0)),
        }],
    };
    let gateway = Gateway {
        name: name(),
        addresses: vec![vip().ip()],
        listeners: vec![listener],
        streams: vec![],
    };
    let snapshot =
        Snapshot::new(Generation(generation), HashSeed(1), vec![gateway], vec![service]).unwrap();
    let options = CompileOptions {
        snat_addresses: BTreeSet::from([ip("10.1.0.100")]),
        ..CompileOptions::default()
    };
    let mut slots = Slots::default();
    let tables = Tables::compile(&snapshot, &options, &mut slots, &Tables::default()).unwrap();
    let stats = SlotStats::default().grown_to(slots.capacity());
    (tables, stats)
}

/// The two links, with the client known, and the endpoint if it has answered.
pub(super) fn fib(endpoint_answered: bool) -> Fib {
    let ifindexes = ["n0", "n1"].map(|name| if_nametoindex(name).unwrap_or(0));
    let interfaces = ifindexes.iter().zip(OUR_MACS).map(|(&ifindex, mac)| Interface {
        ifindex,
        mac,
        partial_checksums: true,
    });
    let links = ifindexes.iter().zip(OUR_MACS).enumerate().map(|(slot, (&ifindex, mac))| Link {
        ifindex,
        attached: Some(InterfaceSlot(slot as u16)),
        mac,
        mtu: 1_500,
        tags: Tags::new(),
    });
    let to = |side: usize| RouteAction::Forward(vec![Path { ifindex: ifindexes[side], via: None }]);
    let routes =
        [Route::new(ip("192.0.2.0"), 24, 0, to(0)), Route::new(ip("10.1.0.0"), 24, 0, to(1))];
    let mut neighbours = vec![(neighbour(0, client(0).ip()), CLIENT_MAC)];
    if endpoint_answered {
        neighbours.push((neighbour(1, endpoint().ip()), ENDPOINT_MAC));
        neighbours.push((neighbour(0, late_client().ip()), CLIENT_MAC));
    }
    Fib::new(interfaces.collect(), links, routes, neighbours)
}

pub(super) fn neighbour(side: usize, address: IpAddr) -> Neighbour {
    let ifindex = if_nametoindex(["n0", "n1"][side]).unwrap_or(0);
    Neighbour { ifindex, address: address::from_ip(address) }
}

pub(super) fn config(id: WorkerId, hold: HoldLimits) -> WorkerConfig {
    WorkerConfig {
        id,
        core: Some(0),
        pipeline: PipelineConfig {
            worker: id,
            flow_capacity: 4_096,
            snat_ports: 1_024..=65_535,
            hash_key: [1, 2],
            timeouts: Timeouts::default(),
            limits: Limits::default(),
        },
        sizes: SIZES,
        hold,
        spin: false,
    }
}
