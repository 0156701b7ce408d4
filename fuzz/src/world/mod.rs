//! Workers' pipelines between clients and endpoints, small enough that
//! everything runs out, and the laws that each packet through them is held to.

mod given;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use blixt_dataplane::{
    Burst, CompileOptions, Counters, Directory, DropReason, Fib, InterfaceSlot, Limits, MaglevSize,
    Packet, Pipeline, PipelineConfig, Sink, SlotCounters, SlotOwner, SlotStats, Slots, Tables,
    Team, Tick, Timeouts, Verdict, View, WorkerId,
};
use blixt_model::Generation;
use blixt_testkit::frame::RST;

use crate::model::{Model, tuple};
use crate::reader::{Datagram, Seen, TCP, read};

use given::{CAPACITY, ENDPOINTS, PORTS, ROOM, fib, snapshot};
pub(crate) use given::{
    LISTENER_PORTS, OUR_MACS, Roads, THEIR_MACS, Wish, client, endpoint, snat, vip,
};

/// A directory as plain as can be.
#[derive(Debug, Default)]
struct Book(Mutex<BTreeMap<u64, WorkerId>>);

impl Directory for Book {
    fn owner(&self, flow: u64) -> Option<WorkerId> {
        self.0.lock().unwrap().get(&flow).copied()
    }

    fn claim(&self, flow: u64, worker: WorkerId) -> WorkerId {
        *self.0.lock().unwrap().entry(flow).or_insert(worker)
    }

    fn release(&self, flow: u64, worker: WorkerId) {
        let owner = self.0.lock().unwrap().remove(&flow);
        assert_eq!(owner, Some(worker), "it was not this worker's");
    }
}

struct Worker {
    pipeline: Pipeline,
    stats: SlotStats,
}

pub(crate) struct World {
    workers: Vec<Worker>,
    book: Arc<Book>,
    tables: Tables,
    slots: Slots,
    fib: Fib,
    partial_checksums: bool,
    generation: u64,
    now_ms: u64,
    swept_ms: u64,
    model: Model,
    /// By the worker that holds them.
    held: Vec<Vec<(InterfaceSlot, Vec<u8>)>>,
}

/// What a sink got.
#[derive(Default)]
struct Sent {
    frames: Vec<(InterfaceSlot, Vec<u8>)>,
    refuses: bool,
}

impl Sink for Sent {
    fn send(&mut self, egress: InterfaceSlot, frame: &[u8]) -> bool {
        if !self.refuses {
            self.frames.push((egress, frame.to_vec()));
        }
        !self.refuses
    }
}

impl World {
    /// So many workers, who share the ports and each have a table of their own.
    pub(crate) fn new(workers: u16) -> Self {
        let book = Arc::<Book>::default();
        let team = Team { workers, directory: Arc::clone(&book) as Arc<dyn Directory> };
        let worker = |id| {
            let config = PipelineConfig {
                worker: WorkerId(id),
                flow_capacity: CAPACITY,
                snat_ports: PORTS,
                hash_key: [11, 12],
                timeouts: Timeouts::default(),
                limits: Limits { resets_per_second: 40, icmp_per_second: 20 },
            };
            let pipeline = Pipeline::new(&config).unwrap();
            let pipeline = if workers > 1 { pipeline.in_team(&team) } else { pipeline };
            Worker { pipeline, stats: SlotStats::default() }
        };
        let roads = Roads { unknown: 0, links: 0, route: 0 };
        let mut world = Self {
            workers: (0..workers).map(worker).collect(),
            book,
            tables: Tables::default(),
            slots: Slots::default(),
            fib: fib(roads),
            partial_checksums: false,
            generation: 0,
            now_ms: 1_000_000,
            swept_ms: 1_000_000,
            model: Model::default(),
            held: vec![Vec::new(); usize::from(workers)],
        };
        world.wish(Wish { there: 0b111, draining: 0, variety: 0 });
        world
    }

    pub(crate) fn wish(&mut self, wish: Wish) {
        self.generation += 1;
        let snat_addresses = [false, true]
            .into_iter()
            .filter(|&v6| wish.variety & if v6 { 0x10 } else { 0x08 } == 0)
            .map(snat)
            .collect();
        let options = CompileOptions {
            maglev: MaglevSize::new(251).unwrap(),
            snat_addresses,
            ..CompileOptions::default()
        };
        let snapshot = snapshot(self.generation, wish);
        self.tables = Tables::compile(&snapshot, &options, &mut self.slots, &self.tables).unwrap();
        for worker in &mut self.workers {
            worker.stats = worker.stats.grown_to(self.slots.capacity());
        }
        let is_there = |protocol, at: SocketAddr| {
            (0..ENDPOINTS)
                .any(|n| wish.there & 1 << n != 0 && at == endpoint(n, at.is_ipv6(), protocol))
        };
        self.model.endpoints(is_there);
        // The workers have adopted them, since they are this thread.
        let is_idle = |slot| {
            self.workers.iter().all(|it| it.stats.slot(slot).is_none_or(SlotCounters::is_idle))
        };
        for slot in self.slots.reclaim(Generation(self.generation), is_idle) {
            for worker in &self.workers {
                worker.stats.clear(slot);
            }
        }
    }

    pub(crate) fn roads(&mut self, roads: Roads) {
        self.partial_checksums = roads.links & 0x40 != 0;
        self.fib = fib(roads);
    }

    /// Time passes. The clock of flows needs a sweep now and then, as every
    /// worker makes them.
    pub(crate) fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
        if self.now_ms - self.swept_ms > 6 * 86_400_000 {
            self.sweep(false);
        }
    }

    fn tick(&self) -> Tick {
        Tick(self.now_ms * 1_000_000)
    }

    /// What all workers have counted.
    fn sum(&self, count: impl Fn(&Counters) -> u64) -> u64 {
        self.workers.iter().map(|worker| count(worker.pipeline.counters())).sum()
    }

    fn dropped(&self) -> u64 {
        self.sum(|it| DropReason::ALL.iter().map(|&reason| it.dropped(reason).value()).sum())
    }

    fn answered(&self) -> u64 {
        self.sum(|it| it.resets.value() + it.icmp_answers.value())
    }

    fn transmitted(&self) -> u64 {
        let in_place = |it: &Counters| {
            [
                &it.packets_to_endpoints,
                &it.packets_to_clients,
                &it.icmp_errors,
                &it.arp_answers,
                &it.ndp_answers,
                &it.echo_answers,
            ]
            .map(|counter| counter.value())
            .iter()
            .sum()
        };
        self.sum(in_place) + self.answered()
    }

    /// A sweep over the whole table; without free frames if `refuses`.
    pub(crate) fn sweep(&mut self, refuses: bool) {
        let mut sent = Sent { refuses, ..Sent::default() };
        for _ in 0..11 {
            self.now_ms += 100;
            let now = self.tick();
            for Worker { pipeline, stats } in &mut self.workers {
                let view = View { tables: &self.tables, fib: &self.fib, stats };
                while pipeline.sweep(view, now, &mut sent) {}
            }
        }
        self.swept_ms = self.now_ms;
        for (egress, frame) in sent.frames {
            let Seen::Ip(reset) = sane(egress, &frame) else { panic!("a reset is IP") };
            assert!(reset.protocol == TCP && reset.flags & RST != 0, "{reset:?}");
            assert!(self.model.may_be_reset(&reset, self.now_ms - 1_100), "{reset:?}");
        }
        self.books_balance();
    }

    pub(crate) fn announce(&mut self) {
        let mut sent = Sent::default();
        for Worker { pipeline, stats } in &mut self.workers {
            let view = View { tables: &self.tables, fib: &self.fib, stats };
            pipeline.announce(view, &mut sent);
        }
        for (egress, frame) in sent.frames {
            sane(egress, &frame);
        }
    }

    /// Frames that come in together, at one of the workers.
    pub(crate) fn receive(&mut self, worker: usize, frames: &[(InterfaceSlot, Vec<u8>)]) {
        for frames in frames.chunks(64) {
            self.burst(worker, frames);
        }
    }

    fn burst(&mut self, worker: usize, frames: &[(InterfaceSlot, Vec<u8>)]) {
        let before = (self.transmitted(), self.dropped(), self.answered());
        let held_before = self.sum(|it| it.held.value());
        let mut results = self.process(worker, frames, false);
        self.hand_over(frames, &mut results);
        let (mut transmitted, mut held, mut dropped) = (0, 0, 0);
        for ((at, verdict, frame), (ingress, received)) in results.iter().zip(frames) {
            match verdict {
                Verdict::Transmit(_) => transmitted += 1,
                Verdict::Hold(_) => held += 1,
                Verdict::Drop(_) => dropped += 1,
                Verdict::HandOff(_) => panic!("handed off again"),
            }
            self.judge(received, *verdict, frame);
            if matches!(verdict, Verdict::Hold(_)) && self.held[*at].len() < 8 {
                self.held[*at].push((*ingress, frame.clone()));
            }
        }
        let answered = self.answered() - before.2;
        assert_eq!(self.transmitted() - before.0, transmitted);
        assert_eq!(self.sum(|it| it.held.value()) - held_before, held);
        assert_eq!(self.dropped() - before.1, dropped + answered);
        self.books_balance();
    }

    /// What one worker makes of frames: its number, the verdict, the frame.
    fn process(
        &mut self,
        at: usize,
        frames: &[(InterfaceSlot, Vec<u8>)],
        handed_over: bool,
    ) -> Vec<(usize, Verdict, Vec<u8>)> {
        let now = self.tick();
        let mut buffers = with_room(frames);
        let burst = burst_of(frames, &mut buffers).into_iter();
        let mut burst: Burst<'_> =
            burst.map(|it| if handed_over { it.handed_over() } else { it }).collect();
        let Worker { pipeline, stats } = &mut self.workers[at];
        let view = View { tables: &self.tables, fib: &self.fib, stats };
        let mut sent = Sent::default();
        pipeline.process(&mut burst, view, now, &mut sent);
        assert!(sent.frames.is_empty(), "whatever is answered is answered in place");
        let end = |packet: &Packet<'_>| {
            (at, packet.verdict().expect("a verdict"), packet.frame().to_vec())
        };
        burst.iter().map(end).collect()
    }

    /// Gives what was handed off to its owners, each in one burst.
    fn hand_over(
        &mut self,
        frames: &[(InterfaceSlot, Vec<u8>)],
        results: &mut [(usize, Verdict, Vec<u8>)],
    ) {
        for owner in 0..self.workers.len() {
            let is_for_it = |(_, verdict, _): &(usize, Verdict, Vec<u8>)| matches!(verdict, Verdict::HandOff(to) if usize::from(to.0) == owner);
            let places: Vec<_> = (0..results.len()).filter(|&n| is_for_it(&results[n])).collect();
            for &place in &places {
                assert_ne!(results[place].0, owner, "to itself");
                assert_eq!(results[place].2, frames[place].1, "what is handed off is as it came");
            }
            let handed: Vec<_> = places.iter().map(|&place| frames[place].clone()).collect();
            for (place, result) in places.into_iter().zip(self.process(owner, &handed, true)) {
                results[place] = result;
            }
        }
    }

    /// Those that were held are tried again.
    pub(crate) fn retry(&mut self) {
        for at in 0..self.workers.len() {
            self.retry_at(at);
        }
    }

    fn retry_at(&mut self, at: usize) {
        let held = std::mem::take(&mut self.held[at]);
        let (transmitted, dropped) = (self.transmitted(), self.dropped());
        let now = self.tick();
        let mut buffers = with_room(&held);
        let mut burst = burst_of(&held, &mut buffers);
        let Worker { pipeline, stats } = &mut self.workers[at];
        let view = View { tables: &self.tables, fib: &self.fib, stats };
        pipeline.retry(&mut burst, view, now);
        let (mut sent, mut refused, mut again) = (0, 0, Vec::new());
        for (packet, (ingress, before)) in burst.iter().zip(&held) {
            match packet.verdict().expect("a verdict") {
                Verdict::Transmit(egress) => {
                    sent += 1;
                    assert_eq!(Ok(sane(egress, packet.frame())), read(before));
                }
                Verdict::Drop(_) => refused += 1,
                Verdict::Hold(_) => again.push((*ingress, packet.frame().to_vec())),
                Verdict::HandOff(_) => panic!("what waits is where its flow is"),
            }
        }
        assert_eq!(self.transmitted() - transmitted, sent);
        assert_eq!(self.dropped() - dropped, refused);
        self.held[at] = again;
    }

    /// Holds one packet to the laws.
    fn judge(&mut self, received: &[u8], verdict: Verdict, frame: &[u8]) {
        let came = read(received);
        if let Ok(Seen::Ip(came)) = &came {
            self.keeps_its_promise(came, verdict, frame);
            self.model.received(came);
        }
        let sent = match verdict {
            Verdict::Transmit(egress) => sane(egress, frame),
            Verdict::Hold(_) => read(frame).expect("what waits can be read"),
            Verdict::Drop(_) | Verdict::HandOff(_) => return,
        };
        let Ok(came) = came else { panic!("nobody else can read what came: {came:?}") };
        let (Seen::Ip(came), Seen::Ip(sent)) = (came, sent) else { return };
        if sent.src.ip() == came.dst.ip() || !came.is_balanced() {
            // An answer, a translated ICMP error, an advertisement: made by
            // us, at least in part.
            assert!(sent.is_right, "{came:?} {sent:?}");
            return;
        }
        translated(&came, &sent, self.partial_checksums);
        let v6 = came.dst.is_ipv6();
        if came.dst.ip() == vip(v6) {
            let (_, from, to) = tuple(&sent);
            assert!(from.ip() == snat(v6) && PORTS.contains(&from.port()), "{sent:?}");
            assert!((0..ENDPOINTS).any(|n| to == endpoint(n, v6, sent.protocol)), "{sent:?}");
            self.model.went_to_endpoint(&came, &sent, self.now_ms);
        } else {
            assert!(came.dst.ip() == snat(v6) && sent.src.ip() == vip(v6), "{came:?} {sent:?}");
            self.model.went_to_client(&came, &sent, self.now_ms);
        }
        assert!(self.model.given <= self.sum(|it| it.flows_created.value()));
    }

    /// A flow that must go on is refused for no reason of its own.
    fn keeps_its_promise(&self, came: &Datagram, verdict: Verdict, frame: &[u8]) {
        if !self.model.must_go_on(came, self.now_ms) {
            return;
        }
        let refused = match verdict {
            Verdict::Drop(reason) => matches!(
                reason,
                DropReason::NoFlow
                    | DropReason::NoListener
                    | DropReason::NoEndpoint
                    | DropReason::EndpointGone
                    | DropReason::FlowTableFull
                    | DropReason::SnatPorts
            ),
            Verdict::Transmit(_) => matches!(
                read(frame),
                Ok(Seen::Ip(sent)) if came.is_balanced()
                    && sent.protocol == TCP
                    && sent.src == came.dst
                    && sent.flags & RST != 0
            ),
            _ => false,
        };
        assert!(!refused, "{came:?} belongs to a flow that lives, and got {verdict:?}");
    }

    /// Every counter tells the same as the tables.
    fn books_balance(&self) {
        for Worker { pipeline, stats } in &self.workers {
            let it = pipeline.counters();
            let (entries, resting) = (it.flow_entries.value(), it.flow_entries_resting.value());
            let live = it.flows_created.value() - it.flows_ended.value();
            assert!(entries <= CAPACITY as u64);
            assert_eq!(live, entries - resting);
            for backends in [true, false] {
                let active: u64 = self
                    .slots
                    .owners()
                    .filter(|(owner, _)| matches!(owner, SlotOwner::Backend { .. }) == backends)
                    .map(|(_, slot)| stats.slot(slot).unwrap().active_flows.value())
                    .sum();
                assert_eq!(active, live);
            }
        }
    }

    /// After a long silence nothing is left.
    pub(crate) fn ends(&mut self) {
        // Connections end, and their ports rest.
        for ms in [8_000_000, 61_000] {
            self.wait(ms);
            self.sweep(false);
        }
        assert_eq!(self.sum(|it| it.flow_entries.value() + it.flow_entries_resting.value()), 0);
        assert_eq!(*self.book.0.lock().unwrap(), BTreeMap::new());
        for (owner, slot) in self.slots.owners() {
            for worker in &self.workers {
                assert!(worker.stats.slot(slot).unwrap().is_idle(), "{owner:?}");
            }
        }
    }
}

fn with_room(frames: &[(InterfaceSlot, Vec<u8>)]) -> Vec<Vec<u8>> {
    // Junk behind the frame: what was received before.
    frames.iter().map(|(_, frame)| [&frame[..], &[0xa5; ROOM]].concat()).collect()
}

fn burst_of<'a>(frames: &[(InterfaceSlot, Vec<u8>)], buffers: &'a mut [Vec<u8>]) -> Burst<'a> {
    let packets = frames.iter().zip(buffers);
    packets.map(|((ingress, frame), buffer)| Packet::new(buffer, frame.len(), *ingress)).collect()
}

/// What leaves comes from us and can be read.
fn sane(egress: InterfaceSlot, frame: &[u8]) -> Seen {
    assert_eq!(frame[6..12], OUR_MACS[usize::from(egress.0)]);
    let seen = read(frame).unwrap_or_else(|error| panic!("{error}: {frame:02x?}"));
    if let Seen::Ip(sent) = &seen {
        assert!(sent.src.ip() != sent.dst.ip(), "{sent:?}");
    }
    seen
}

/// Addresses and ports change, the hop limit goes down, checksums stay what
/// they were: right or wrong.
fn translated(came: &Datagram, sent: &Datagram, partial_checksums: bool) {
    assert_eq!(came.protocol, sent.protocol);
    assert_eq!(came.body, sent.body, "{came:?}");
    assert_eq!(came.hop_limit, sent.hop_limit + 1);
    let expected = came.is_right || partial_checksums && came.is_partial;
    assert_eq!(sent.is_right, expected, "{came:?} {sent:?}");
}
