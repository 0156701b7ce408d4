//! What is wanted and what the kernel knows, by a few bits of an input.

use std::net::{IpAddr, SocketAddr};

use blixt_dataplane::{
    Fib, Interface, InterfaceSlot, Link, Mac, Neighbour, Path, Route, RouteAction, Tags, address,
};
use blixt_model::{
    Affinity, Backend, Endpoint, EndpointState, Gateway, Generation, HashSeed, Listener,
    ListenerName, Port, Protocol, RejectReason, RouteId, RouteKind, ServiceIndex, ServicePort,
    ServicePortId, Snapshot, Target, Weight,
};

use crate::reader::{TCP, UDP};

pub(crate) const OUR_MACS: [Mac; 2] = [[2, 0, 0, 0, 0, 0xb0], [2, 0, 0, 0, 0, 0xb1]];
pub(crate) const THEIR_MACS: [Mac; 2] = [[2, 0, 0, 0, 0, 0xc1], [2, 0, 0, 0, 0, 0xe1]];
pub(super) const IFINDEXES: [u32; 2] = [10, 11];
pub(super) const CAPACITY: usize = 10;
/// Fewer than there are flows, even towards one endpoint.
pub(super) const PORTS: std::ops::RangeInclusive<u16> = 50_000..=50_002;
pub(super) const ENDPOINTS: u8 = 3;
/// Bytes a frame's buffer has beyond the frame.
pub(super) const ROOM: usize = 256;

/// Port 80 is TCP, 53 both, 81 refuses, and there is no 82.
pub(crate) const LISTENER_PORTS: [u16; 4] = [80, 53, 81, 82];

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn vip(v6: bool) -> IpAddr {
    ip(if v6 { "2001:db8:f::1" } else { "198.51.100.1" })
}

pub(crate) fn snat(v6: bool) -> IpAddr {
    ip(if v6 { "2001:db8:a::9" } else { "10.0.0.9" })
}

pub(crate) fn client(n: u8, v6: bool) -> SocketAddr {
    let host = 1 + n % 2;
    let text = if v6 { format!("2001:db8:c::{host}") } else { format!("192.0.2.{host}") };
    SocketAddr::new(ip(&text), 40_000 + u16::from(n))
}

pub(super) fn endpoint_ip(n: u8, v6: bool) -> IpAddr {
    ip(&if v6 { format!("2001:db8:e::{}", n + 1) } else { format!("10.1.0.{}", n + 1) })
}

pub(crate) fn endpoint(n: u8, v6: bool, protocol: u8) -> SocketAddr {
    SocketAddr::new(endpoint_ip(n, v6), if protocol == TCP { 8_080 } else { 5_353 })
}

/// What is wanted, as bits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    /// A bit for each endpoint that is there.
    pub(crate) there: u8,
    /// A bit for each of them that is draining.
    pub(crate) draining: u8,
    /// Bit 0: no web listener. Bit 1: no DNS listener. Bit 2: ClientIP
    /// affinity. Bits 3 and 4: no SNAT address. Bit 5: half the web listener's
    /// weight goes to a bad backendRef.
    pub(crate) variety: u8,
}

/// What the kernel knows, as bits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Roads {
    /// A bit for each of endpoints (low) and clients (high) whose MAC address
    /// is not known.
    pub(crate) unknown: u8,
    /// Bits 0 and 1: MTU. Bits 2 and 3: tags towards clients. Bits 4 and 5:
    /// tags towards endpoints. Bit 6: partial checksums.
    pub(crate) links: u8,
    /// How the endpoints' network is routed.
    pub(crate) route: u8,
}

pub(super) fn port(number: u16) -> Port {
    Port::new(number).unwrap()
}

pub(super) fn snapshot(generation: u64, wish: Wish) -> Snapshot {
    let service = |name: &str, protocol, number| ServicePort {
        id: ServicePortId { service: name.parse().unwrap(), protocol, port: port(8_080) },
        affinity: if wish.variety & 4 != 0 { Affinity::ClientIp } else { Affinity::None },
        endpoints: (0..ENDPOINTS)
            .filter(|n| wish.there & 1 << n != 0)
            .flat_map(|n| {
                let draining = wish.draining & 1 << n != 0;
                let state = if draining { EndpointState::Draining } else { EndpointState::Ready };
                [false, true].map(|v6| Endpoint {
                    address: endpoint(n, v6, number).ip(),
                    port: port(endpoint(n, v6, number).port()),
                    state,
                })
            })
            .collect(),
    };
    let to = |index, weight: u16| Backend {
        weight: Weight::new(weight).unwrap(),
        target: Target::Service(ServiceIndex(index)),
    };
    let bad = |weight: u16| Backend {
        weight: Weight::new(weight).unwrap(),
        target: Target::Rejected(RejectReason::BackendNotFound),
    };
    let listener = |name: &str, protocol, number, backends| Listener {
        name: ListenerName::new(name).unwrap(),
        protocol,
        port: port(number),
        route: Some(RouteId {
            kind: if protocol == Protocol::Tcp { RouteKind::Tcp } else { RouteKind::Udp },
            name: name.parse().unwrap(),
        }),
        backends,
    };
    let [web, dns, refusing, _] = LISTENER_PORTS;
    let mut listeners = vec![
        listener("bad", Protocol::Tcp, refusing, vec![bad(1)]),
        listener("dns-tcp", Protocol::Tcp, dns, vec![to(0, 1)]),
    ];
    if wish.variety & 1 == 0 {
        let half = u16::from(wish.variety & 0x20 != 0);
        listeners.push(listener("web", Protocol::Tcp, web, vec![to(0, 1), bad(half)]));
    }
    if wish.variety & 2 == 0 {
        listeners.push(listener("dns", Protocol::Udp, dns, vec![to(1, 3), to(1, 1)]));
    }
    let gateway = Gateway {
        name: "edge".parse().unwrap(),
        addresses: vec![vip(false), vip(true)],
        listeners,
        streams: vec![],
    };
    let services = vec![service("web", Protocol::Tcp, TCP), service("dns", Protocol::Udp, UDP)];
    Snapshot::new(Generation(generation), HashSeed(7), vec![gateway], services).unwrap()
}

pub(super) fn fib(roads: Roads) -> Fib {
    let partial_checksums = roads.links & 0x40 != 0;
    let interfaces = IFINDEXES
        .iter()
        .zip(OUR_MACS)
        .map(|(&ifindex, mac)| Interface { ifindex, mac, partial_checksums })
        .collect();
    let mtu = [1_500, 1_280, 9_000, 576][usize::from(roads.links & 3)];
    let link = |side: usize, tags: u8| Link {
        // A VLAN's link is another than its interface's.
        ifindex: IFINDEXES[side] + if tags == 0 { 0 } else { 100 },
        attached: (side == 0 || roads.route % 8 != 3).then_some(InterfaceSlot(side as u16)),
        mac: OUR_MACS[side],
        mtu,
        tags: (0..tags.min(2)).map(|n| [0x8100, 7 + u16::from(n)]).collect::<Tags>(),
    };
    let links = [link(0, roads.links >> 2 & 3), link(1, roads.links >> 4 & 3)];
    let [to_clients, to_endpoints] = [0, 1].map(|side: usize| links[side].ifindex);
    let router = |v6: bool| endpoint_ip(253, v6);
    let mut routes = Vec::new();
    let mut neighbours = Vec::new();
    for v6 in [false, true] {
        let bits = if v6 { 64 } else { 24 };
        let net = |text: &str, action| Route::new(ip(text), bits, 0, action);
        let on_link = Path { ifindex: to_endpoints, via: None };
        let via = Path { via: Some(address::from_ip(router(v6))), ..on_link };
        let action = match roads.route % 8 {
            4 => Some(RouteAction::Local),
            5 => Some(RouteAction::Refuse),
            6 => None,
            7 => Some(RouteAction::Forward(vec![on_link, via])),
            2 => Some(RouteAction::Forward(vec![via])),
            _ => Some(RouteAction::Forward(vec![on_link])),
        };
        let clients = RouteAction::Forward(vec![Path { ifindex: to_clients, via: None }]);
        routes.push(net(if v6 { "2001:db8:c::" } else { "192.0.2.0" }, clients));
        routes.extend(action.map(|it| net(if v6 { "2001:db8:e::" } else { "10.1.0.0" }, it)));
        let mut knows = |bit: u8, ifindex, at, mac| {
            if roads.unknown & 1 << bit == 0 {
                neighbours.push((Neighbour { ifindex, address: address::from_ip(at) }, mac));
            }
        };
        for n in 0..ENDPOINTS {
            knows(n, to_endpoints, endpoint_ip(n, v6), THEIR_MACS[1]);
        }
        knows(3, to_endpoints, router(v6), THEIR_MACS[1]);
        for n in 0..2 {
            knows(4 + n, to_clients, client(n, v6).ip(), THEIR_MACS[0]);
        }
    }
    Fib::new(interfaces, links, routes, neighbours)
}
