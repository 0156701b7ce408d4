//! What holds after any sequence of packets, waits and changes.

use std::collections::{HashMap, HashSet};

use blixt_dataplane::{DropReason, FlowFilter, SlotOwner};
use blixt_testkit::frame::{ACK, FIN, RST, SYN, tcp, udp};
use proptest::prelude::*;

use crate::world::{DNS, Outcome, Seen, Situation, WEB, World, at, client, ready, web_and_dns};

/// Few clients, few ports and a small table, so that everything runs out.
const CLIENTS: u16 = 8;
const CAPACITY: usize = 10;

#[derive(Debug, Clone)]
enum Step {
    /// A segment from a client, its sequence number so far from the start.
    Segment {
        from: u16,
        flags: u8,
        ahead: u32,
    },
    /// A segment from where a client's last one went.
    Answer {
        to: u16,
        flags: u8,
        ahead: u32,
    },
    Query(u16),
    Reply(u16),
    Wait(u64),
    Sweep,
    /// So many endpoints are left.
    Endpoints(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![
        3 => Just(SYN), 2 => Just(SYN | ACK), 4 => Just(ACK), 3 => Just(FIN | ACK), 1 => Just(RST),
        1 => any::<u8>(),
    ];
    let ahead = prop_oneof![4 => 0_u32..3, 1 => any::<u32>()];
    prop_oneof![
        8 => (0..CLIENTS, flags.clone(), ahead.clone())
            .prop_map(|(from, flags, ahead)| Step::Segment { from, flags, ahead }),
        6 => (0..CLIENTS, flags, ahead)
            .prop_map(|(to, flags, ahead)| Step::Answer { to, flags, ahead }),
        4 => (0..CLIENTS).prop_map(Step::Query),
        3 => (0..CLIENTS).prop_map(Step::Reply),
        2 => prop_oneof![0_u64..5, 55_u64..65, 235_u64..310, 7_400_u64..7_500].prop_map(Step::Wait),
        2 => Just(Step::Sweep),
        1 => (0_u8..4).prop_map(Step::Endpoints),
    ]
}

/// A world, and where each client's last packet went.
struct Run {
    world: World,
    generation: u64,
    tcp: HashMap<u16, Seen>,
    udp: HashMap<u16, Seen>,
}

impl Run {
    fn new() -> Self {
        let situation = Situation {
            flow_capacity: CAPACITY,
            snat_ports: 50_000..=50_004,
            ..Situation::default()
        };
        let world = World::new(&situation, &web_and_dns(1, &ready(3)));
        Self { world, generation: 1, tcp: HashMap::new(), udp: HashMap::new() }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Segment { from, flags, ahead } => {
                let seq = 1_000_u32.wrapping_add(ahead);
                let segment = tcp(client(from), at(WEB)).flags(flags).seq(seq).ack(5_001);
                self.note(from, segment, true);
            }
            Step::Query(from) => self.note(from, udp(client(from), at(DNS)), false),
            Step::Answer { to, flags, ahead } => {
                if let Some(seen) = self.tcp.get(&to) {
                    let seq = 5_000_u32.wrapping_add(ahead);
                    let answer = tcp(seen.dst, seen.src).flags(flags).seq(seq).ack(1_001);
                    self.world.send(answer);
                }
            }
            Step::Reply(to) => {
                if let Some(seen) = self.udp.get(&to) {
                    self.world.send(udp(seen.dst, seen.src));
                }
            }
            Step::Wait(seconds) => self.world.later(seconds),
            Step::Sweep => {
                self.world.sweep();
            }
            Step::Endpoints(left) => {
                self.generation += 1;
                self.world.apply(&web_and_dns(self.generation, &ready(left)));
            }
        }
    }

    fn note(&mut self, from: u16, frame: blixt_testkit::frame::Frame, is_tcp: bool) {
        match self.world.send(frame) {
            // To an endpoint, not an answer of our own.
            Outcome::Sent(seen) if seen.dst != client(from) => {
                if is_tcp { &mut self.tcp } else { &mut self.udp }.insert(from, seen);
            }
            _ => {}
        }
    }

    /// Live flows as the slots count them: by backendRef, by endpoint.
    fn active(&self) -> [u64; 2] {
        let sum = |is_backend| {
            self.world
                .slots()
                .filter(|(owner, _)| matches!(owner, SlotOwner::Backend { .. }) == is_backend)
                .map(|(_, counters)| counters.active_flows.value())
                .sum()
        };
        [sum(true), sum(false)]
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn counters_agree_with_the_table_and_silence_ends_everything(
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        let mut run = Run::new();
        for step in steps {
            let (begun, sweeps) = (run.world.now, matches!(step, Step::Sweep));
            run.take(step);
            let counters = run.world.pipeline.counters().clone();
            let (entries, resting) = run.world.entries();
            if sweeps {
                // Whatever was over then is gone, or rests.
                let all = FlowFilter::default();
                let left = run.world.pipeline.list_flows(0, &all, begun, &mut |_| ());
                prop_assert_eq!(u64::from(left.matched), entries);
            }
            let live = counters.flows_created.value() - counters.flows_ended.value();
            prop_assert!(entries <= CAPACITY as u64);
            prop_assert_eq!(live, entries - resting);
            prop_assert_eq!(run.active(), [live, live]);
        }
        // Until the last connection is forgotten, and until its port has rested.
        for seconds in [8_000, 61] {
            run.world.later(seconds);
            run.world.sweep();
        }
        prop_assert_eq!(run.world.entries(), (0, 0));
        prop_assert!(run.world.slots().all(|(_, counters)| counters.is_idle()));
    }

    /// A plain map knows when each UDP flow ends: until then it keeps its
    /// endpoint and its source, and nobody else has them.
    #[test]
    fn udp_flows_equal_their_model(steps in proptest::collection::vec(step(), 1..150)) {
        let mut run = Run::new();
        let mut model: HashMap<u16, (Seen, u64)> = HashMap::new();
        for step in steps {
            let from = match step {
                Step::Query(from) => from,
                Step::Wait(_) | Step::Sweep => {
                    run.take(step);
                    continue;
                }
                _ => continue,
            };
            let now = run.world.now.0;
            model.retain(|_, (_, ends)| *ends / 1_000_000 > now / 1_000_000);
            let ends = now + 300_000_000_000;
            match (run.world.send(udp(client(from), at(DNS))), model.get(&from)) {
                (Outcome::Sent(seen), Some((kept, _))) => {
                    prop_assert_eq!(seen, *kept);
                    model.insert(from, (seen, ends));
                }
                (Outcome::Sent(seen), None) => {
                    model.insert(from, (seen, ends));
                }
                (Outcome::Dropped(reason), kept) => {
                    prop_assert_eq!(kept, None, "{:?}", reason);
                    // Entries that have expired are still there until the sweep.
                    let full = run.world.entries().0 >= CAPACITY as u64;
                    let expected =
                        if full { DropReason::FlowTableFull } else { DropReason::SnatPorts };
                    prop_assert_eq!(reason, expected);
                }
            }
            let tuples: HashSet<_> = model.values().map(|(seen, _)| (seen.src, seen.dst)).collect();
            prop_assert_eq!(tuples.len(), model.len());
        }
        let before = run.world.now.0;
        run.world.sweep();
        let after = run.world.now.0;
        let alive_at = |when| model.values().filter(|(_, ends)| *ends > when).count() as u64;
        let entries = run.world.entries().0;
        prop_assert!((alive_at(after)..=alive_at(before)).contains(&entries), "{entries}");
    }
}
