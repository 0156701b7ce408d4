//! Several workers: whichever of them gets a packet, what becomes of it is the
//! same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use blixt_dataplane::{
    Burst, Directory, DropReason, Fate, Fib, HashedPorts, InterfaceSlot, Limits, Packet, Pipeline,
    PipelineConfig, Rss, SlotStats, Slots, Tables, Team, Tick, Timeouts, Verdict, View, WorkerId,
};
use blixt_testkit::frame::{ACK, FIN, Frame, RST, icmp_error, tcp, tcp_syn, udp};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::explained::{Asked, asked};
use crate::properties::is_right;
use crate::world::{
    CLIENT_MAC, CLIENTS, Cast, ENDPOINT_MAC, ENDPOINTS, OUR_MACS, Outcome, SNAT_PORT, Sent, casts,
    fib, one_endpoint_each, tables, v4,
};

/// A directory as plain as can be.
#[derive(Debug, Default)]
struct Book {
    owners: Mutex<BTreeMap<u64, WorkerId>>,
    questions: AtomicUsize,
}

impl Directory for Book {
    fn owner(&self, flow: u64) -> Option<WorkerId> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        self.owners.lock().unwrap().get(&flow).copied()
    }

    fn claim(&self, flow: u64, worker: WorkerId) -> WorkerId {
        self.questions.fetch_add(1, Ordering::Relaxed);
        *self.owners.lock().unwrap().entry(flow).or_insert(worker)
    }

    fn release(&self, flow: u64, worker: WorkerId) {
        self.questions.fetch_add(1, Ordering::Relaxed);
        let owner = self.owners.lock().unwrap().remove(&flow);
        assert_eq!(owner, Some(worker), "it was not this worker's");
    }
}

/// The SNAT ports there are: few enough to use them up.
const PORTS: u16 = 64;

struct Workers {
    each: Vec<(Pipeline, SlotStats)>,
    directory: Arc<Book>,
    tables: Tables,
    fib: Fib,
    now: Tick,
    handed_off: usize,
    /// Whether [`Pipeline::explain`] can tell who gets a packet: not where the
    /// directory changes its mind.
    is_foretold: bool,
}

impl Workers {
    fn new(count: u16) -> Self {
        let workers = Self::with_directory(count, Arc::default(), |book| book);
        Self { is_foretold: true, ..workers }
    }

    fn with_directory<D: Directory + 'static>(
        count: u16,
        book: Arc<Book>,
        directory: impl Fn(Arc<Book>) -> Arc<D>,
    ) -> Self {
        let situation = one_endpoint_each();
        let mut slots = Slots::default();
        let tables = tables(&situation, true, 1, &mut slots, &Tables::default());
        let worker = |id| {
            let config = PipelineConfig {
                worker: WorkerId(id),
                flow_capacity: 256,
                snat_ports: SNAT_PORT..=SNAT_PORT + PORTS - 1,
                hash_key: [1, 2],
                timeouts: Timeouts::default(),
                limits: Limits::default(),
            };
            let pipeline = Pipeline::new(&config).unwrap();
            let team = Team { workers: count, directory: directory(Arc::clone(&book)) };
            let pipeline = if count == 1 { pipeline } else { pipeline.in_team(&team) };
            (pipeline, SlotStats::default().grown_to(slots.capacity()))
        };
        Self {
            each: (0..count).map(worker).collect(),
            directory: book,
            fib: fib(&situation, &[]),
            tables,
            now: Tick(1_000_000_000),
            handed_off: 0,
            is_foretold: false,
        }
    }

    /// What one worker makes of a frame.
    fn at(
        &mut self,
        worker: usize,
        ingress: InterfaceSlot,
        frame: &[u8],
        handed_over: bool,
    ) -> Outcome {
        let mut buffer = [frame, &[0xa5; 600]].concat();
        let mut burst = Burst::new();
        let packet = Packet::new(&mut buffer, frame.len(), ingress);
        burst.push(if handed_over { packet.handed_over() } else { packet });
        let (pipeline, stats) = &mut self.each[worker];
        let view = View { tables: &self.tables, fib: &self.fib, stats };
        let told = asked(frame).filter(|_| self.is_foretold && !handed_over).map(|asked| {
            let Asked { source, to, protocol, opens } = asked;
            let told = pipeline.explain(source, to, protocol, view, self.now);
            if opens { told.opening } else { told.other.unwrap() }
        });
        pipeline.process(&mut burst, view, self.now, &mut Sent::default());
        if let Some(told) = told {
            let verdict = burst[0].verdict().unwrap();
            match told {
                Fate::HandedOff(owner) => assert_eq!(verdict, Verdict::HandOff(owner)),
                _ => assert!(!matches!(verdict, Verdict::HandOff(_)), "{told:?}: {verdict:?}"),
            }
        }
        Outcome { verdict: burst[0].verdict().unwrap(), frame: burst[0].frame().to_vec() }
    }

    /// What comes of a frame that `worker` receives.
    fn receive(&mut self, worker: usize, ingress: InterfaceSlot, frame: &[u8]) -> Outcome {
        let first = self.at(worker, ingress, frame, false);
        let Verdict::HandOff(owner) = first.verdict else { return first };
        assert_eq!(first.frame, frame, "what is handed off is as it came");
        assert_ne!(usize::from(owner.0), worker);
        self.handed_off += 1;
        let second = self.at(owner.0.into(), ingress, frame, true);
        assert!(!matches!(second.verdict, Verdict::HandOff(_)), "handed off again");
        second
    }

    fn client_sends(&mut self, worker: usize, frame: &Frame) -> Outcome {
        let frame = frame.clone().or_between(CLIENT_MAC, OUR_MACS[0]);
        self.receive(worker, CLIENTS, &frame.bytes())
    }

    fn endpoint_sends(&mut self, worker: usize, frame: &Frame) -> Outcome {
        let frame = frame.clone().or_between(ENDPOINT_MAC, OUR_MACS[1]);
        self.receive(worker, ENDPOINTS, &frame.bytes())
    }

    /// Time goes by; everybody sweeps.
    fn wait(&mut self, seconds: u64) {
        for _ in 0..=seconds * 10 {
            self.now = Tick(self.now.0 + 100_000_000);
            for (pipeline, stats) in &mut self.each {
                let view = View { tables: &self.tables, fib: &self.fib, stats };
                pipeline.sweep(view, self.now, &mut Sent::default());
            }
        }
    }

    fn sum(&self, counter: &str) -> u64 {
        self.each.iter().map(|(pipeline, _)| pipeline.counters().by_name()[counter]).sum()
    }
}

/// The source port of a packet without options or extension headers.
fn source_port(frame: &[u8]) -> u16 {
    let at = if frame[12] == 0x08 { 34 } else { 54 };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

fn client(cast: &Cast, number: u16) -> SocketAddr {
    SocketAddr::new(cast.client.ip(), 40_000 + number)
}

fn at_port(address: SocketAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.ip(), port)
}

#[test]
fn a_reply_that_comes_to_another_worker_is_handed_to_the_owner() {
    for cast in casts() {
        let mut workers = Workers::new(4);
        let query = workers.client_sends(2, &udp(cast.client, cast.dns));
        let snat = at_port(cast.snat, source_port(&query.frame));
        // The ports are dealt out in turn, which is why this one is his.
        assert_eq!((snat.port() - SNAT_PORT) % 4, 2);
        for worker in 0..4 {
            let reply = udp(cast.dns_endpoint, snat).payload(b"answer");
            let got = workers.endpoint_sends(worker, &reply);
            let expected = udp(cast.dns, cast.client).payload(b"answer").hop_limit(63);
            let expected = expected.or_between(OUR_MACS[0], CLIENT_MAC);
            assert_eq!(got.verdict, Verdict::Transmit(CLIENTS));
            assert_eq!(got.frame, expected.bytes());
        }
        assert_eq!(workers.handed_off, 3);
        // A port that is nobody's is nobody's flow, at its owner's as well.
        let stray = udp(cast.dns_endpoint, at_port(snat, SNAT_PORT + PORTS));
        let got = workers.endpoint_sends(0, &stray);
        assert_eq!(got.verdict, Verdict::Drop(DropReason::NoFlow));
        assert_eq!(workers.handed_off, 3);
    }
}

#[test]
fn a_client_whose_packets_come_to_another_worker_keeps_its_flow() {
    for cast in casts() {
        let mut workers = Workers::new(2);
        let Cast { client, web, dns, .. } = cast;
        let syn = workers.client_sends(0, &tcp_syn(client, web));
        let query = workers.client_sends(1, &udp(client, dns));
        for worker in [1, 0] {
            let ack = tcp(client, web).flags(ACK).seq(1_001);
            let again = workers.client_sends(worker, &tcp_syn(client, web));
            assert_eq!(again, syn, "a SYN sent again");
            let got = workers.client_sends(worker, &ack);
            assert_eq!(source_port(&got.frame), source_port(&syn.frame));
            let got = workers.client_sends(worker, &udp(client, dns));
            assert_eq!(got, query);
        }
        assert_eq!(workers.sum("flow.created"), 2);
        assert_eq!(workers.handed_off, 3);
        // Those that nobody has are refused where they come in.
        let unknown = tcp(SocketAddr::new(client.ip(), 1), web).flags(RST);
        assert_eq!(workers.client_sends(1, &unknown).verdict, Verdict::Drop(DropReason::NoFlow));
    }
}

#[test]
fn errors_reach_the_owner_of_the_flow_they_quote() {
    for cast in casts() {
        let mut workers = Workers::new(3);
        let Cast { client, dns, dns_endpoint, router, far_router, .. } = cast;
        let kind = if client.is_ipv4() { [3, 3] } else { [1, 4] };
        let query = workers.client_sends(2, &udp(client, dns));
        let snat = at_port(cast.snat, source_port(&query.frame));
        let sent = udp(snat, dns_endpoint);
        let error = icmp_error(router, snat.ip(), kind, 0, &sent, 99);
        let expected = workers.endpoint_sends(2, &error);
        assert_eq!(expected.verdict, Verdict::Transmit(CLIENTS));
        for worker in [0, 1] {
            assert_eq!(workers.endpoint_sends(worker, &error), expected);
        }
        let sent = udp(dns, client);
        let error = icmp_error(far_router, dns.ip(), kind, 0, &sent, 99);
        let expected = workers.client_sends(2, &error);
        assert_eq!(expected.verdict, Verdict::Transmit(ENDPOINTS));
        for worker in [0, 1] {
            assert_eq!(workers.client_sends(worker, &error), expected);
        }
        assert_eq!(workers.handed_off, 4);
    }
}

#[test]
fn a_packet_is_handed_over_once() {
    let Cast { client, web, .. } = v4();
    let mut workers = Workers::new(2);
    workers.client_sends(0, &tcp_syn(client, web));
    // Worker 1 gets what it should have given away; so the flow was its own a
    // moment ago.
    let ack = tcp(client, web).flags(ACK).seq(1_001).or_between(CLIENT_MAC, OUR_MACS[0]);
    let got = workers.at(1, CLIENTS, &ack.bytes(), true);
    assert_eq!(got.verdict, Verdict::Drop(DropReason::HandOffLost));
    assert_eq!(workers.sum("drop.hand_off_lost"), 1);
}

/// Says at first that nobody has the flow, and then that another was faster.
#[derive(Debug)]
struct AlwaysTooLate;

impl Directory for AlwaysTooLate {
    fn owner(&self, _: u64) -> Option<WorkerId> {
        None
    }

    fn claim(&self, _: u64, _: WorkerId) -> WorkerId {
        WorkerId(1)
    }

    fn release(&self, _: u64, _: WorkerId) {}
}

#[test]
fn of_two_that_start_one_flow_at_once_one_does() {
    let Cast { client, dns, .. } = v4();
    let mut workers = Workers::with_directory(2, Arc::default(), |_| Arc::new(AlwaysTooLate));
    let query = udp(client, dns).or_between(CLIENT_MAC, OUR_MACS[0]).bytes();
    let got = workers.at(0, CLIENTS, &query, false);
    assert_eq!(got.verdict, Verdict::HandOff(WorkerId(1)));
    assert_eq!(workers.sum("flow.created"), 0);
    assert_eq!(workers.sum("flow.entries"), 0);
}

#[test]
fn no_two_live_flows_have_one_source_and_all_ports_are_used() {
    let cast = v4();
    let mut workers = Workers::new(3);
    let mut sources = BTreeSet::new();
    let mut refused = 0;
    for number in 0..100 {
        let got =
            workers.client_sends(usize::from(number) % 3, &udp(client(&cast, number), cast.dns));
        match got.verdict {
            Verdict::Transmit(_) => assert!(sources.insert(source_port(&got.frame))),
            verdict => {
                assert_eq!(verdict, Verdict::Drop(DropReason::SnatPorts));
                refused += 1;
            }
        }
    }
    assert_eq!(sources.len(), usize::from(PORTS));
    assert_eq!(refused, 100 - usize::from(PORTS));
    // What was refused is nobody's; the rest is forgotten with its flows.
    assert_eq!(workers.directory.owners.lock().unwrap().len(), usize::from(PORTS));
    workers.wait(302);
    assert_eq!(workers.sum("flow.entries"), 0);
    assert!(workers.directory.owners.lock().unwrap().is_empty());
}

/// A worker whose ports are all taken by half-open flows has them give way, and
/// the others know: a client that comes again may come to any of them.
#[test]
fn a_flow_that_gave_way_is_nobody_s_for_all_workers() {
    let cast = v4();
    let mut workers = Workers::new(2);
    let ports = PORTS / 2;
    let mut sources = BTreeSet::new();
    for number in 0..3 * ports {
        let got = workers.client_sends(0, &tcp_syn(client(&cast, number), cast.web));
        assert_eq!(got.verdict, Verdict::Transmit(ENDPOINTS));
        sources.insert(source_port(&got.frame));
    }
    assert_eq!(sources.len(), usize::from(ports), "its own, and no other's");
    assert_eq!(workers.sum("flow.evicted"), u64::from(2 * ports));
    assert_eq!(workers.directory.owners.lock().unwrap().len(), usize::from(ports));
    // This one gave way; it begins anew where its SYN comes in now.
    let again = workers.client_sends(1, &tcp_syn(client(&cast, 0), cast.web));
    assert!(!sources.contains(&source_port(&again.frame)));
    // And this one still has its flow.
    workers.client_sends(1, &tcp_syn(client(&cast, 3 * ports - 1), cast.web));
    assert_eq!(workers.handed_off, 1);
}

#[test]
fn a_packet_of_a_known_flow_asks_nobody() {
    let cast = v4();
    let mut workers = Workers::new(2);
    let query = workers.client_sends(0, &udp(cast.client, cast.dns));
    let snat = at_port(cast.snat, source_port(&query.frame));
    let before = workers.directory.questions.load(Ordering::Relaxed);
    for _ in 0..10 {
        workers.client_sends(0, &udp(cast.client, cast.dns));
        workers.endpoint_sends(0, &udp(cast.dns_endpoint, snat));
        // By its port, without a question either.
        workers.endpoint_sends(1, &udp(cast.dns_endpoint, snat));
    }
    assert_eq!(workers.directory.questions.load(Ordering::Relaxed), before);
}

/// Microsoft's example key.
const RSS_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// The definition, bit by bit: independent of the one that is tested.
fn hash_of(frame: &[u8]) -> u32 {
    let addresses_and_ports = if frame[12] == 0x08 { &frame[26..38] } else { &frame[22..58] };
    let bit = |bytes: &[u8], place: usize| bytes[place / 8] >> (7 - place % 8) & 1 == 1;
    (0..addresses_and_ports.len() * 8)
        .filter(|&place| bit(addresses_and_ports, place))
        .map(|place| (0..32).fold(0, |hash, n| hash << 1 | u32::from(bit(&RSS_KEY, place + n))))
        .fold(0, |hash, window| hash ^ window)
}

#[test]
fn replies_come_to_the_owner_s_queues_where_it_is_known_how() {
    let all = HashedPorts { tcp_v4: true, udp_v4: true, tcp_v6: true, udp_v6: true };
    // As drivers fill it at first, `ethtool_rxfh_indir_default`: 8 queues.
    let queues: Vec<u32> = (0..128).map(|place| place % 8).collect();
    for cast in casts() {
        let mut workers = Workers::new(4);
        let rss = Arc::new(Rss::new(&RSS_KEY, &queues, all).unwrap());
        workers.fib = fib(&one_endpoint_each(), &[]).with_rss(ENDPOINTS, rss);
        // A quarter of each worker's 16 ports fits, more or less.
        for number in 0..8 {
            let worker = usize::from(number % 4);
            let query = workers.client_sends(worker, &udp(client(&cast, number), cast.dns));
            let snat = at_port(cast.snat, source_port(&query.frame));
            let reply = udp(cast.dns_endpoint, snat).or_between(ENDPOINT_MAC, OUR_MACS[1]).bytes();
            let queue = queues[hash_of(&reply) as usize % queues.len()] as usize;
            assert_eq!(queue % 4, worker, "{snat}");
            let got = workers.receive(queue % 4, ENDPOINTS, &reply);
            assert_eq!(got.verdict, Verdict::Transmit(CLIENTS));
        }
        assert_eq!(workers.handed_off, 0);
        // When those are used up, the others serve as well.
        for number in 8..200 {
            workers.client_sends(usize::from(number % 4), &udp(client(&cast, number), cast.dns));
        }
        assert_eq!(workers.sum("flow.created"), PORTS.into());
    }
}

#[test]
fn where_ports_are_not_hashed_no_port_is_better_than_another() {
    let cast = v4();
    let mut workers = Workers::new(4);
    let rss = Arc::new(Rss::new(&RSS_KEY, &[3], HashedPorts::default()).unwrap());
    workers.fib = fib(&one_endpoint_each(), &[]).with_rss(ENDPOINTS, rss);
    for number in 0..16 {
        let got = workers.client_sends(0, &udp(client(&cast, number), cast.dns));
        assert_eq!(got.verdict, Verdict::Transmit(ENDPOINTS));
    }
}

/// Something that happens to one of a few flows.
#[derive(Debug, Clone)]
enum Event {
    Syn,
    Segment {
        flags: u8,
        payload: u8,
    },
    Query {
        payload: u8,
    },
    Reply {
        flags: u8,
        payload: u8,
    },
    /// A router beyond the endpoint, or before the client, complains.
    ErrorFromEndpoint,
    ErrorFromClient,
    Wait {
        seconds: u16,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let flags = prop_oneof![4 => Just(ACK), 1 => Just(ACK | FIN), 1 => Just(RST | ACK)];
    prop_oneof![
        3 => Just(Event::Syn),
        4 => (flags.clone(), any::<u8>()).prop_map(|(flags, payload)| Event::Segment { flags, payload }),
        4 => any::<u8>().prop_map(|payload| Event::Query { payload }),
        6 => (flags, any::<u8>()).prop_map(|(flags, payload)| Event::Reply { flags, payload }),
        1 => Just(Event::ErrorFromEndpoint),
        1 => Just(Event::ErrorFromClient),
        1 => prop_oneof![Just(1_u16), Just(61), Just(301)].prop_map(|seconds| Event::Wait { seconds }),
    ]
}

/// Plays events, each with a flow and the worker that gets the packet. Gives
/// what came of each, told without the SNAT port, which is the only thing that
/// may differ from one arrangement of workers to another.
fn play(count: u16, events: &[(Event, u16, usize)]) -> (Vec<(Verdict, Vec<u8>)>, Workers) {
    let mut workers = Workers::new(count);
    // The last source of each flow, by protocol.
    let mut sources: BTreeMap<(u16, bool), u16> = BTreeMap::new();
    let mut told = Vec::new();
    for (event, flow, worker) in events {
        let (flow, worker) = (*flow, worker % usize::from(count));
        let cast = casts()[usize::from(flow % 2)];
        let Cast { web, dns, .. } = cast;
        let from = client(&cast, flow);
        let kind = if from.is_ipv4() { [3, 1] } else { [1, 3] };
        // Even payloads are about the UDP flow.
        let about = |payload: u8| payload.is_multiple_of(2);
        let snat = |udp: bool, sources: &BTreeMap<_, _>| {
            sources.get(&(flow, udp)).map(|&port| at_port(cast.snat, port))
        };
        let from_client =
            |workers: &mut Workers, frame: Frame| workers.client_sends(worker, &frame);
        let outcome = match event {
            Event::Syn => from_client(&mut workers, tcp_syn(from, web)),
            Event::Segment { flags, payload } => from_client(
                &mut workers,
                tcp(from, web).flags(*flags).seq(1_001).ack(5_001).payload(&[*payload]),
            ),
            Event::Query { payload } => {
                from_client(&mut workers, udp(from, dns).payload(&[*payload]))
            }
            Event::Reply { flags, payload } => {
                let is_udp = about(*payload);
                let Some(snat) = snat(is_udp, &sources) else { continue };
                let reply = if is_udp {
                    udp(cast.dns_endpoint, snat)
                } else {
                    tcp(cast.web_endpoint, snat).flags(*flags).seq(5_001).ack(1_001)
                };
                workers.endpoint_sends(worker, &reply.payload(&[*payload]))
            }
            Event::ErrorFromEndpoint => {
                let Some(snat) = snat(true, &sources) else { continue };
                let sent = udp(snat, cast.dns_endpoint);
                let error = icmp_error(cast.router, snat.ip(), kind, 0, &sent, 99);
                workers.endpoint_sends(worker, &error)
            }
            Event::ErrorFromClient => {
                let error = icmp_error(cast.far_router, dns.ip(), kind, 0, &udp(dns, from), 99);
                from_client(&mut workers, error)
            }
            Event::Wait { seconds } => {
                workers.wait((*seconds).into());
                continue;
            }
        };
        let mut frame = outcome.frame;
        if outcome.verdict == Verdict::Transmit(ENDPOINTS) {
            assert!(is_right(&frame));
            match event {
                Event::Syn | Event::Segment { .. } | Event::Query { .. } => {
                    let is_udp = matches!(event, Event::Query { .. });
                    sources.insert((flow, is_udp), source_port(&frame));
                    let l4 = if frame[12] == 0x08 { 34 } else { 54 };
                    let checksum = l4 + if is_udp { 6 } else { 16 };
                    frame[l4..l4 + 2].fill(0);
                    frame[checksum..checksum + 2].fill(0);
                }
                // It quotes what has the SNAT port.
                _ => frame.clear(),
            }
        }
        // What is dropped is nothing any more.
        if matches!(outcome.verdict, Verdict::Drop(_)) {
            frame.clear();
        }
        told.push((outcome.verdict, frame));
    }
    (told, workers)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whoever_gets_a_packet_the_outcome_is_the_same(
        events in vec((event(), 0_u16..6, 0_usize..12), 1..80),
        count in 2_u16..5,
    ) {
        let (alone, one) = play(1, &events);
        let (together, several) = play(count, &events);
        prop_assert_eq!(alone, together);
        for counter in ["flow.created", "flow.ended", "flow.entries", "flow.resting"] {
            prop_assert_eq!(one.sum(counter), several.sum(counter), "{}", counter);
        }
        prop_assert_eq!(several.sum("drop.hand_off_lost"), 0);
        let live = several.directory.owners.lock().unwrap().len() as u64;
        prop_assert!(live <= several.sum("flow.entries"));
    }
}
