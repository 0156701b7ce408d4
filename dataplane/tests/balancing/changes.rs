//! What existing flows keep while everything around them changes: endpoints,
//! weights, listeners, services, and who has which slot.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use blixt_dataplane::Tick;
use blixt_model::{EndpointState, Protocol, Snapshot};
use blixt_testkit::frame::{ACK, Frame, SYN, tcp, tcp_syn, tcp_syn_ack, udp};
use proptest::prelude::*;

use crate::world::{
    DNS, Outcome, Seen, Situation, WEB, World, at, client, endpoint, listener, service, snapshot,
    to_service,
};

const CLIENTS: u16 = 12;
/// Two services behind the web listener, one behind the other.
const SERVICES: [(&str, Protocol); 3] =
    [("red", Protocol::Tcp), ("blue", Protocol::Tcp), ("dns", Protocol::Udp)];
const ENDPOINTS: u8 = 4;
/// Less than the five minutes after which a silent UDP flow ends.
const SILENCE_NS: u64 = 290_000_000_000;

/// What a snapshot wants of everything that can change.
#[derive(Debug, Clone)]
struct Wish {
    /// How it is with each endpoint of each service; `None` if it is not listed.
    endpoints: [[Option<EndpointState>; ENDPOINTS as usize]; SERVICES.len()],
    weights: [u32; 2],
    /// Whether there is a web listener, and a DNS listener.
    listens: [bool; 2],
    /// So many services that nothing refers to come before those.
    others: u8,
}

#[derive(Debug, Clone)]
enum Step {
    /// A client opens a connection, or says something on the one it has.
    Segment(u16),
    /// The endpoint says something on it.
    Reply(u16),
    Query(u16),
    Answer(u16),
    Wait(u64),
    Sweep,
    Change(Wish),
    /// Slots that nothing uses are given to whoever comes next.
    Reclaim,
}

fn wish() -> impl Strategy<Value = Wish> {
    let state = prop_oneof![
        6 => Just(Some(EndpointState::Ready)),
        2 => Just(Some(EndpointState::Draining)),
        3 => Just(None),
    ];
    let states = prop::array::uniform3(prop::array::uniform4(state));
    let listens = prop::array::uniform2(prop::bool::weighted(0.8));
    (states, prop::array::uniform2(0_u32..4), listens, 0_u8..3).prop_map(
        |(endpoints, weights, listens, others)| Wish { endpoints, weights, listens, others },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..CLIENTS).prop_map(Step::Segment),
        5 => (0..CLIENTS).prop_map(Step::Reply),
        5 => (0..CLIENTS).prop_map(Step::Query),
        3 => (0..CLIENTS).prop_map(Step::Answer),
        1 => (0_u64..30).prop_map(Step::Wait),
        2 => Just(Step::Sweep),
        4 => wish().prop_map(Step::Change),
        2 => Just(Step::Reclaim),
    ]
}

fn address(service: usize, number: u8) -> SocketAddr {
    at(&format!("10.{}.0.{}:8080", service + 1, number + 1))
}

impl Wish {
    /// Everything there is.
    fn all() -> Self {
        let ready = [Some(EndpointState::Ready); ENDPOINTS as usize];
        Self { endpoints: [ready; 3], weights: [1, 1], listens: [true, true], others: 0 }
    }

    fn snapshot(&self, generation: u64) -> Snapshot {
        let others = (0..self.others)
            .map(|n| service(&format!("other{n}-{generation}"), Protocol::Tcp, vec![]));
        let wanted = SERVICES.iter().enumerate().map(|(number, (name, protocol))| {
            let listed = (0..ENDPOINTS)
                .zip(self.endpoints[number])
                .filter_map(|(n, state)| Some(endpoint(&address(number, n).to_string(), state?)));
            service(name, *protocol, listed.collect())
        });
        let place = |n: u32| u32::from(self.others) + n;
        let [red, blue] = self.weights;
        let web = vec![to_service(place(0), red), to_service(place(1), blue)];
        let web = listener("web", Protocol::Tcp, 80, web);
        let dns = listener("dns", Protocol::Udp, 53, vec![to_service(place(2), 1)]);
        let listeners = [web, dns].into_iter().zip(self.listens);
        let listeners = listeners.filter(|(_, listens)| *listens).map(|(listener, _)| listener);
        snapshot(generation, listeners.collect(), others.chain(wanted).collect())
    }

    fn listed(&self) -> BTreeSet<SocketAddr> {
        let services = self.endpoints.iter().enumerate();
        let listed = services.flat_map(|(service, states)| {
            let numbers = (0..ENDPOINTS).zip(states).filter(|(_, state)| state.is_some());
            numbers.map(move |(n, _)| address(service, n))
        });
        listed.collect()
    }
}

/// A flow whose endpoint has been there ever since it began.
#[derive(Debug, Clone, Copy)]
struct Flow {
    /// Its first packet, as the endpoint saw it.
    seen: Seen,
    used: Tick,
}

struct Run {
    world: World,
    generation: u64,
    /// Of those of which it is known, by client, TCP and UDP apart.
    flows: BTreeMap<(bool, u16), Flow>,
    /// Clients take another port for each connection.
    opened: u16,
    ports: BTreeMap<u16, u16>,
}

impl Run {
    fn new() -> Self {
        let world = World::new(&Situation::default(), &Wish::all().snapshot(1));
        Self { world, generation: 1, flows: BTreeMap::new(), opened: 0, ports: BTreeMap::new() }
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Segment(from) if self.flows.contains_key(&(true, from)) => {
                let segment = tcp(self.client(from), at(WEB)).flags(ACK).seq(1_001).ack(5_001);
                self.goes_on(true, from, segment)
            }
            Step::Segment(from) => {
                self.open(from);
                Ok(())
            }
            Step::Query(from) => {
                let query = udp(client(from), at(DNS));
                if self.flows.contains_key(&(false, from)) {
                    return self.goes_on(false, from, query);
                }
                let outcome = self.world.send(query);
                self.begins(false, from, outcome);
                Ok(())
            }
            Step::Reply(to) => self.comes_back(true, to, |seen| {
                tcp(seen.dst, seen.src).flags(ACK).seq(5_001).ack(1_001)
            }),
            Step::Answer(to) => self.comes_back(false, to, |seen| udp(seen.dst, seen.src)),
            Step::Wait(seconds) => {
                self.world.later(seconds);
                let now = self.world.now.0;
                self.flows.retain(|(is_tcp, _), flow| *is_tcp || now - flow.used.0 < SILENCE_NS);
                Ok(())
            }
            Step::Sweep => {
                for reset in self.world.sweep() {
                    let of = |flow: &Flow| flow.seen.dst;
                    let kept = self
                        .flows
                        .iter()
                        .find(|((is_tcp, from), _)| *is_tcp && self.client(*from) == reset.dst);
                    prop_assert_eq!(kept.map(|(_, flow)| of(flow)), None, "{:?}", reset);
                }
                Ok(())
            }
            Step::Change(wish) => {
                self.generation += 1;
                self.world.apply(&wish.snapshot(self.generation));
                let listed = wish.listed();
                self.flows.retain(|_, flow| listed.contains(&flow.seen.dst));
                Ok(())
            }
            Step::Reclaim => {
                self.world.reclaim();
                Ok(())
            }
        }
    }

    fn client(&self, n: u16) -> SocketAddr {
        client(1_000 + self.ports.get(&n).copied().unwrap_or_default())
    }

    fn open(&mut self, from: u16) {
        self.opened += 1;
        self.ports.insert(from, self.opened);
        let (client, web) = (self.client(from), at(WEB));
        let outcome = self.world.send(tcp_syn(client, web));
        if let Some(syn) = self.begins(true, from, outcome) {
            self.world.send(tcp_syn_ack(syn.dst, syn.src)).sent();
            self.world.send(tcp(client, web).flags(ACK).seq(1_001).ack(5_001)).sent();
        }
    }

    /// Notes a flow, unless there was nobody for it.
    fn begins(&mut self, is_tcp: bool, from: u16, outcome: Outcome) -> Option<Seen> {
        let Outcome::Sent(seen) = outcome else { return None };
        // Not an answer of our own, such as a reset.
        if is_tcp && seen.flags != SYN {
            return None;
        }
        self.flows.insert((is_tcp, from), Flow { seen, used: self.world.now });
        Some(seen)
    }

    /// From the client to where its first packet went, by the same source.
    fn goes_on(&mut self, is_tcp: bool, from: u16, frame: Frame) -> Result<(), TestCaseError> {
        let flow = self.flows[&(is_tcp, from)];
        match self.world.send(frame) {
            Outcome::Sent(seen) => {
                prop_assert_eq!((seen.src, seen.dst), (flow.seen.src, flow.seen.dst));
            }
            Outcome::Dropped(reason) => prop_assert!(false, "{reason:?}: {flow:?}"),
        }
        self.used(is_tcp, from);
        Ok(())
    }

    /// From the endpoint to the client, by the VIP.
    fn comes_back(
        &mut self,
        is_tcp: bool,
        to: u16,
        answer: impl FnOnce(&Seen) -> Frame,
    ) -> Result<(), TestCaseError> {
        let Some(flow) = self.flows.get(&(is_tcp, to)).copied() else { return Ok(()) };
        let (vip, to_client) =
            if is_tcp { (at(WEB), self.client(to)) } else { (at(DNS), client(to)) };
        match self.world.send(answer(&flow.seen)) {
            Outcome::Sent(seen) => prop_assert_eq!((seen.src, seen.dst), (vip, to_client)),
            Outcome::Dropped(reason) => prop_assert!(false, "{reason:?}: {flow:?}"),
        }
        self.used(is_tcp, to);
        Ok(())
    }

    fn used(&mut self, is_tcp: bool, who: u16) {
        let now = self.world.now;
        self.flows.entry((is_tcp, who)).and_modify(|flow| flow.used = now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_flow_keeps_its_endpoint_while_that_exists(
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut run = Run::new();
        for step in steps {
            run.take(step)?;
        }
        for ((is_tcp, from), _) in run.flows.clone() {
            run.take(if is_tcp { Step::Segment(from) } else { Step::Query(from) })?;
        }
    }
}
