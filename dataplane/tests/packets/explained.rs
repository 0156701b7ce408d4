//! What is told of a packet is what becomes of it.

use std::net::SocketAddr;

use blixt_dataplane::{
    DropReason, Explanation, Fate, Fib, FlowFilter, FlowState, Interface, InterfaceSlot, Link,
    Neighbour, Network, Path, PeerFilter, Route, RouteAction, Tags, Verdict, View, address,
};
use blixt_mem::allocations_of_this_thread;
use blixt_model::Protocol;
use blixt_testkit::frame::{ACK, FIN, Frame, RST, SYN, tcp, tcp_syn, udp};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::flows::at_port;
use crate::world::{
    BAD_BACKEND, CLIENT_MAC, CLIENTS, Cast, ENDPOINT_MAC, ENDPOINTS, HOST, IFINDEXES, LOCAL,
    NO_ENDPOINT, NO_LISTENER, NO_ROUTE, NO_WEIGHT, NOWHERE, OUR_MACS, SILENT, Situation,
    UNATTACHED, World, casts, given, one_endpoint_each, v4,
};

impl World {
    fn explain(&self, source: SocketAddr, to: SocketAddr, protocol: Protocol) -> Explanation {
        let view = View { tables: &self.tables, fib: &self.fib, stats: &self.stats };
        self.pipeline.explain(source, to, protocol, view, self.now)
    }

    /// The reasons for which packets were dropped so far, each as often.
    fn drops(&self) -> Vec<DropReason> {
        let counters = self.pipeline.counters();
        let all = DropReason::ALL.iter();
        all.flat_map(|&reason| {
            std::iter::repeat_n(reason, counters.dropped(reason).value() as usize)
        })
        .collect()
    }
}

/// Who sends what: numbers that choose among the few who take part.
#[derive(Debug, Clone, Copy)]
struct Sent {
    v6: bool,
    from_client: bool,
    /// Which client's port, or which of the endpoint's.
    port: u16,
    /// Which listener, or which SNAT port.
    to: usize,
    flags: u8,
    /// Seconds before it.
    wait: u64,
}

fn a_packet() -> impl Strategy<Value = Sent> {
    let flags = prop_oneof![
        4 => Just(SYN),
        2 => Just(SYN | ACK),
        2 => Just(ACK),
        2 => Just(FIN | ACK),
        1 => Just(RST | ACK),
    ];
    let wait = prop_oneof![8 => Just(0_u64), 1 => 1..30_u64, 1 => 30..400_u64];
    // Most of it between the same two, so that flows come and go.
    let to = prop_oneof![5 => Just(0_usize), 2 => Just(1), 3 => 2..TO_CLIENTS];
    let port = prop_oneof![4 => Just(0_u16), 1 => 0..3_u16];
    (any::<bool>(), any::<bool>(), port, to, flags, wait).prop_map(
        |(v6, from_client, port, to, flags, wait)| Sent { v6, from_client, port, to, flags, wait },
    )
}

/// How many destinations of clients there are below.
const TO_CLIENTS: usize = 15;

impl Sent {
    fn tuple(&self) -> (SocketAddr, SocketAddr, Protocol) {
        let cast = casts()[usize::from(self.v6)];
        if !self.from_client {
            return match self.to {
                0 => (cast.web_endpoint, cast.snat, Protocol::Tcp),
                1 => (cast.dns_endpoint, cast.snat, Protocol::Udp),
                2 => (cast.web, cast.snat, Protocol::Tcp),
                3 => (cast.web_endpoint, cast.host, Protocol::Tcp),
                4 => (SocketAddr::new(cast.local, 1), cast.host, Protocol::Udp),
                _ => (cast.web_endpoint, at_port(cast.snat, 1_024), Protocol::Tcp),
            };
        }
        let (to, protocol) = match self.to {
            0 => (cast.web, Protocol::Tcp),
            1 => (cast.dns, Protocol::Udp),
            2 => (at_port(cast.web, 53), Protocol::Tcp),
            3 => (at_port(cast.web, 80), Protocol::Udp),
            4 => (at_port(cast.web, LOCAL), Protocol::Udp),
            5 => (at_port(cast.web, UNATTACHED), Protocol::Udp),
            6 => (at_port(cast.web, SILENT), Protocol::Udp),
            7 => (at_port(cast.web, NOWHERE), Protocol::Udp),
            8 => (at_port(cast.web, NO_ROUTE), Protocol::Tcp),
            9 => (at_port(cast.web, NO_WEIGHT), Protocol::Tcp),
            10 => (at_port(cast.web, BAD_BACKEND), Protocol::Tcp),
            11 => (at_port(cast.web, NO_ENDPOINT), Protocol::Tcp),
            12 => (at_port(cast.web, NO_LISTENER), Protocol::Tcp),
            13 => (at_port(cast.snat, 80), Protocol::Tcp),
            _ => (cast.web_endpoint, Protocol::Tcp),
        };
        (at_port(cast.client, cast.client.port() + self.port), to, protocol)
    }

    /// The frame, and whether it can start a flow.
    fn frame(&self) -> (InterfaceSlot, Vec<u8>, bool) {
        let (source, to, protocol) = self.tuple();
        let (frame, opens): (Frame, bool) = match protocol {
            Protocol::Udp => (udp(source, to).payload(b"?"), true),
            Protocol::Tcp if self.flags == SYN => (tcp_syn(source, to), true),
            // Numbers that either end finds credible.
            Protocol::Tcp => (tcp(source, to).flags(self.flags).seq(1_001).ack(1_001), false),
        };
        match self.from_client {
            true => (CLIENTS, frame.or_between(CLIENT_MAC, OUR_MACS[0]).bytes(), opens),
            false => (ENDPOINTS, frame.or_between(ENDPOINT_MAC, OUR_MACS[1]).bytes(), opens),
        }
    }
}

/// A packet, as one asks about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) source: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) protocol: Protocol,
    /// It can start a flow.
    pub(crate) opens: bool,
}

/// Reads a TCP or UDP packet, as an independent reader finds it.
pub(crate) fn asked(frame: &[u8]) -> Option<Asked> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let (source, to) = match sliced.net? {
        NetSlice::Ipv4(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        NetSlice::Ipv6(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        NetSlice::Arp(_) => return None,
    };
    let (protocol, [source_port, to_port], opens) = match sliced.transport? {
        TransportSlice::Tcp(tcp) => {
            let opens = tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin();
            (Protocol::Tcp, [tcp.source_port(), tcp.destination_port()], opens)
        }
        TransportSlice::Udp(udp) => {
            (Protocol::Udp, [udp.source_port(), udp.destination_port()], true)
        }
        _ => return None,
    };
    let (source, to) = (SocketAddr::new(source, source_port), SocketAddr::new(to, to_port));
    Some(Asked { source, to, protocol, opens })
}

/// Source and destination of a frame.
fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let Asked { source, to, .. } = asked(frame).unwrap();
    (source, to)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_told_is_what_happens(
        packets in vec(a_packet(), 1..40),
        endpoints_go_at in 0..80_usize,
        flow_capacity in prop_oneof![Just(16_usize), 1..4_usize],
        snat in prop_oneof![3 => Just(true), 1 => Just(false)],
        host in prop_oneof![Just(None), (0..3_usize).prop_map(Some), Just(Some(16))],
    ) {
        let mut world = given(Situation { flow_capacity, snat, host, ..one_endpoint_each() });
        for (place, sent) in packets.iter().enumerate() {
            if place == endpoints_go_at {
                world = world.endpoints_go();
            }
            world = world.later(sent.wait);
            let (source, to, protocol) = sent.tuple();
            let (ingress, bytes, opens) = sent.frame();
            let told = world.explain(source, to, protocol);
            prop_assert_eq!(told.other.is_some(), protocol == Protocol::Tcp);
            let fate = if opens { told.opening.clone() } else { told.other.clone().unwrap() };
            let before = world.drops();
            let outcome = world.process(ingress, &bytes);
            let mut dropped = world.drops();
            for reason in before {
                dropped.swap_remove(dropped.iter().position(|other| *other == reason).unwrap());
            }
            match fate {
                Fate::Refused(reason) | Fate::Becomes { hop: Err(reason), .. } => {
                    prop_assert_eq!(dropped, [reason], "{:?}: {:?}", sent, told);
                }
                Fate::Becomes { source, destination, hop: Ok(hop) } => {
                    prop_assert_eq!(dropped, [], "{:?}: {:?}", sent, told);
                    prop_assert_eq!(hop.by_host, outcome.verdict == Verdict::Transmit(HOST));
                    let verdict = match hop.mac {
                        Some(mac) => {
                            prop_assert_eq!(&outcome.frame[..6], mac);
                            Verdict::Transmit(hop.egress)
                        }
                        None => Verdict::Hold(hop.neighbour),
                    };
                    prop_assert_eq!(outcome.verdict, verdict);
                    prop_assert_eq!(ends(&outcome.frame), (source, destination));
                    // And now it has a flow, which says the same.
                    let again = world.explain(sent.tuple().0, to, protocol);
                    let flow = again.flow.unwrap();
                    let leaves_as = if sent.from_client {
                        (flow.snat, flow.endpoint)
                    } else {
                        (flow.vip, flow.client)
                    };
                    prop_assert_eq!(leaves_as, (source, destination));
                }
                Fate::HandedOff(_) => prop_assert!(false, "there is only one worker"),
            }
        }
    }
}

/// Both interfaces lead to the clients.
fn two_ways(client: SocketAddr) -> Fib {
    let interface = |side: usize| Interface {
        ifindex: IFINDEXES[side],
        mac: OUR_MACS[side],
        partial_checksums: false,
    };
    let link = |side: usize| Link {
        ifindex: IFINDEXES[side],
        attached: Some(InterfaceSlot(side as u16)),
        mac: OUR_MACS[side],
        mtu: 1_500,
        tags: Tags::new(),
    };
    let paths = IFINDEXES.map(|ifindex| Path { ifindex, via: None });
    let route = Route::new(client.ip(), 32, 0, RouteAction::Forward(paths.into()));
    let near = IFINDEXES
        .map(|ifindex| (Neighbour { ifindex, address: address::from_ip(client.ip()) }, CLIENT_MAC));
    Fib::new(vec![interface(0), interface(1)], [link(0), link(1)], [route], near)
}

#[test]
fn of_several_ways_the_one_that_is_taken_is_told() {
    for port in 40_000..40_016 {
        let cast = Cast { client: at_port(v4().client, port), ..v4() };
        let mut world = given(one_endpoint_each()).with_web_flow(&cast);
        world.fib = two_ways(cast.client);
        let told = world.explain(cast.web_endpoint, cast.snat, Protocol::Tcp);
        let Some(Fate::Becomes { hop: Ok(hop), .. }) = told.other else { unreachable!("{told:?}") };
        let reply = tcp(cast.web_endpoint, cast.snat).flags(ACK).seq(5_001).ack(1_001);
        let outcome =
            world.process(ENDPOINTS, &reply.or_between(ENDPOINT_MAC, OUR_MACS[1]).bytes());
        assert_eq!(outcome.verdict, Verdict::Transmit(hop.egress), "port {port}");
    }
}

#[test]
fn a_flow_is_told_with_how_far_it_has_got() {
    let cast = v4();
    let world = given(one_endpoint_each()).with_web_flow(&cast).later(90);
    let told = world.explain(cast.client, cast.web, Protocol::Tcp);
    let flow = told.flow.unwrap();
    assert_eq!(flow.state, FlowState::Established);
    assert_eq!((flow.client, flow.vip), (cast.client, cast.web));
    assert_eq!((flow.snat, flow.endpoint), (cast.snat, cast.web_endpoint));
    assert_eq!(flow.idle.as_secs(), 90);
    assert_eq!(flow.forgotten_in.as_secs(), 2 * 3_600 + 4 * 60 - 90);
    assert!(!flow.replaced);
    let by_reply = world.explain(cast.web_endpoint, cast.snat, Protocol::Tcp);
    assert_eq!(by_reply.flow, Some(flow));
    let nobody = world.explain(at_port(cast.client, 1), cast.web, Protocol::Tcp);
    assert_eq!(nobody.flow, None);
}

#[test]
fn flows_are_listed_by_what_is_asked_for() {
    let mut world = given(one_endpoint_each());
    for cast in casts() {
        world = world.with_web_flow(&cast).with_dns_flow(&cast);
    }
    let list = |filter: &FlowFilter| {
        let mut flows = Vec::with_capacity(4);
        let allocated = allocations_of_this_thread();
        let scanned = world.pipeline.list_flows(0, filter, world.now, &mut |flow| flows.push(flow));
        assert_eq!(allocations_of_this_thread(), allocated, "a worker lists them");
        assert_eq!((scanned.next, scanned.matched as usize), (None, flows.len()));
        flows
    };
    let all = FlowFilter::default();
    assert_eq!(list(&all).len(), 4);
    let udp = FlowFilter { protocol: Some(Protocol::Udp), ..all.clone() };
    assert!(list(&udp).iter().all(|flow| flow.state == FlowState::Udp));
    assert_eq!(list(&udp).len(), 2);
    let open = FlowFilter { states: vec![FlowState::Established], ..all.clone() };
    assert_eq!(list(&open).len(), 2);
    let cast = v4();
    let near = |address: std::net::IpAddr, bits| PeerFilter {
        network: Network::new(address, bits),
        port: None,
    };
    let by_client = FlowFilter { client: near(cast.client.ip(), 24), ..all.clone() };
    assert!(list(&by_client).iter().all(|flow| flow.client == cast.client));
    assert_eq!(list(&by_client).len(), 2);
    let web = PeerFilter { port: Some(80), ..near(cast.web.ip(), 32) };
    let found = list(&FlowFilter { vip: web, ..by_client.clone() });
    assert_eq!(found.len(), 1);
    let slots = Some(vec![found[0].endpoint_slot]);
    let by_slot = list(&FlowFilter { endpoint_slots: slots, ..by_client.clone() });
    assert_eq!(by_slot, found);
    let elsewhere = FlowFilter { endpoint: near(cast.client.ip(), 8), ..all.clone() };
    assert_eq!(list(&elsewhere), []);
    let by_snat = FlowFilter { snat: near(cast.snat.ip(), 32), ..all };
    assert_eq!(list(&by_snat).len(), 2);
}
