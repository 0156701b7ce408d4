//! Too many want in: who gives way, who stays, and what recovers.

use std::collections::{HashMap, HashSet};

use blixt_dataplane::{DropReason, InterfaceSlot, Sink, Timeouts};
use blixt_testkit::counters::assert_moved;
use blixt_testkit::frame::{ACK, FIN, PSH, RST, tcp, tcp_syn, tcp_syn_ack, udp};
use proptest::prelude::*;

use crate::world::{DNS, Outcome, Seen, Situation, WEB, World, at, client, ready, web_and_dns};

/// Room for so many flows, and one endpoint.
fn room_for(flows: usize) -> World {
    let situation = Situation { flow_capacity: flows, ..Situation::default() };
    World::new(&situation, &web_and_dns(1, &ready(1)))
}

/// So many SNAT ports, and one endpoint.
fn ports(count: u16) -> World {
    let snat_ports = 50_000..=50_000 + count - 1;
    let situation = Situation { snat_ports, flow_capacity: 64, ..Situation::default() };
    World::new(&situation, &web_and_dns(1, &ready(1)))
}

fn evicted(world: &World) -> u64 {
    world.pipeline.counters().flows_evicted.value()
}

/// What the endpoint gets of an open connection's data, which must be what it
/// always was; and the same the other way.
#[track_caller]
fn still_talks(world: &mut World, n: u16, opened: &Seen) {
    let data = tcp(client(n), at(WEB)).flags(ACK | PSH).seq(1_001).ack(5_001);
    let seen = world.send(data).sent();
    assert_eq!((seen.src, seen.dst), (opened.src, opened.dst));
    let answer = tcp(opened.dst, opened.src).flags(ACK).seq(5_001).ack(1_001);
    let seen = world.send(answer).sent();
    assert_eq!((seen.src, seen.dst), (at(WEB), client(n)));
}

#[test]
fn under_a_flood_half_open_flows_give_way_and_others_go_on() {
    let mut world = room_for(32);
    let opened = world.open(client(0), at(WEB));
    let asked = world.query(1);
    // The endpoint answers all of them; nobody is there to hear it.
    for n in 0..1_000 {
        let spoofed = world.send(tcp_syn(client(1_000 + n), at(WEB))).sent();
        world.send(tcp_syn_ack(spoofed.dst, spoofed.src)).sent();
    }
    assert_eq!(world.entries(), (32, 0));
    assert_eq!(evicted(&world), 970);
    still_talks(&mut world, 0, &opened);
    assert_eq!(world.query(1), asked);
    // A new client is let in in the midst of it, and stays.
    let new = world.open(client(2), at(WEB));
    for n in 0..1_000 {
        world.send(tcp_syn(client(3_000 + n), at(WEB))).sent();
    }
    still_talks(&mut world, 0, &opened);
    still_talks(&mut world, 2, &new);
    assert_eq!(world.query(1), asked);
    assert_eq!(world.query(3).dst, asked.dst, "UDP gets in too");
    let counters = world.pipeline.counters();
    assert_eq!(counters.dropped(DropReason::FlowTableFull).value(), 0);
    let live = counters.flows_created.value() - counters.flows_ended.value();
    assert_eq!(live, 32);
    assert_eq!(world.endpoint("default/web", opened.dst).active_flows.value(), 30);

    // When it is over, what it left behind goes by itself.
    world.later(241);
    world.sweep();
    assert_eq!(world.entries(), (4, 0));
}

#[test]
fn both_directions_of_a_flow_that_gave_way_are_gone_and_it_may_come_again() {
    let mut world = room_for(1);
    let first = world.send(tcp_syn(client(1), at(WEB))).sent();
    let before = world.pipeline.counters().by_name();
    world.send(tcp_syn(client(2), at(WEB))).sent();
    let after = world.pipeline.counters().by_name();
    assert_moved(&before, &after, ["flow.created", "flow.ended", "flow.evicted", "to_endpoints"]);
    // The endpoint is told at once that nobody wants its answer.
    world.send(tcp_syn_ack(first.dst, first.src)).reset();
    world.send(tcp(client(1), at(WEB)).flags(ACK).seq(1_001).ack(5_001)).reset();
    // The client sends its SYN again, as clients do.
    let again = world.send(tcp_syn(client(1), at(WEB))).sent();
    assert_ne!(again.src, first.src);
    assert_eq!(evicted(&world), 2);
}

#[test]
fn who_only_claims_to_have_heard_the_endpoint_gives_way() {
    let mut world = room_for(2);
    let opened = world.open(client(1), at(WEB));
    let blind = world.send(tcp_syn(client(2), at(WEB))).sent();
    world.send(tcp_syn_ack(blind.dst, blind.src)).sent();
    // The endpoint began with 5,000.
    for acknowledged in [0, 5_000, 5_001 + (1 << 18), 0x8000_0000] {
        let guess = tcp(client(2), at(WEB)).flags(ACK).seq(1_001).ack(acknowledged);
        world.send(guess).sent();
        world.send(tcp(client(2), at(WEB)).flags(FIN | ACK).seq(1_001).ack(acknowledged)).sent();
    }
    let new = world.open(client(3), at(WEB));
    assert_eq!(evicted(&world), 1);
    still_talks(&mut world, 1, &opened);
    still_talks(&mut world, 3, &new);
    assert_eq!(world.send(tcp_syn(client(4), at(WEB))).dropped(), DropReason::FlowTableFull);
    assert_eq!(evicted(&world), 1);
}

#[test]
fn a_full_table_without_half_open_flows_refuses_and_recovers() {
    let mut world = room_for(3);
    let opened: Vec<_> = (0..3).map(|n| world.open(client(n), at(WEB))).collect();
    for _ in 0..10 {
        let refused = world.send(tcp_syn(client(9), at(WEB)));
        assert_eq!(refused.dropped(), DropReason::FlowTableFull);
    }
    for (n, opened) in (0..).zip(&opened) {
        still_talks(&mut world, n, opened);
    }
    // A port at rest keeps its entry.
    world.close(client(0), at(WEB), &opened[0]);
    assert_eq!(world.send(udp(client(9), at(DNS))).dropped(), DropReason::FlowTableFull);
    world.later(61);
    world.sweep();
    world.open(client(9), at(WEB));
    assert_eq!(evicted(&world), 0);
}

#[test]
fn where_no_port_is_free_a_half_open_flow_gives_its_own() {
    let mut world = ports(4);
    let opened: Vec<_> = (0..3).map(|n| world.open(client(n), at(WEB))).collect();
    let half_open = world.send(tcp_syn(client(3), at(WEB))).sent();
    for n in 4..100 {
        let spoofed = world.send(tcp_syn(client(n), at(WEB))).sent();
        assert_eq!(spoofed.src, half_open.src);
    }
    assert_eq!(evicted(&world), 96);
    assert_eq!(world.entries(), (4, 0));
    let new = world.open(client(100), at(WEB));
    for (n, opened) in [0, 1, 2, 100].into_iter().zip(opened.iter().chain([&new])) {
        still_talks(&mut world, n, opened);
    }
    assert_eq!(world.send(tcp_syn(client(200), at(WEB))).dropped(), DropReason::SnatPorts);
    // Ports of UDP are others.
    world.query(1);
}

/// Half-open flows are no better off because there are many more open ones:
/// some search comes upon them.
#[test]
fn the_one_half_open_flow_among_many_is_found() {
    let mut world = World::new(
        &Situation { snat_ports: 40_001..=42_000, flow_capacity: 4_000, ..Situation::default() },
        &web_and_dns(1, &ready(1)),
    );
    for n in 0..1_000 {
        world.open(client(n), at(WEB));
    }
    let half_open = world.send(tcp_syn(client(1_000), at(WEB))).sent();
    for n in 1_001..2_000 {
        world.open(client(n), at(WEB));
    }
    let tries = (0..).find(|_| match world.send(tcp_syn(client(5_000), at(WEB))) {
        Outcome::Sent(seen) => {
            assert_eq!(seen.src, half_open.src);
            true
        }
        Outcome::Dropped(reason) => {
            assert_eq!(reason, DropReason::SnatPorts);
            false
        }
    });
    // It is the 1,001st from where the rotation stands, of 256 for each try.
    assert_eq!(tries, Some(3));
}

#[test]
fn a_blind_reset_ends_nothing_and_only_the_right_one_lets_a_syn_in() {
    let mut world = room_for(8);
    let opened = world.open(client(1), at(WEB));
    // Far off, or near: passed on, for the endpoint to judge.
    for ahead in [1, 1_000, 1 << 24, 1 << 25, u32::MAX] {
        let seq = 1_001_u32.wrapping_add(ahead);
        world.send(tcp(client(1), at(WEB)).flags(RST).seq(seq)).sent();
        assert_eq!(world.send(tcp_syn(client(1), at(WEB)).seq(7)).sent().src, opened.src);
    }
    still_talks(&mut world, 1, &opened);
    assert_eq!(world.entries(), (1, 0));
    // So is one that acknowledges what nobody has said.
    world.send(tcp(client(1), at(WEB)).flags(RST | ACK).seq(9).ack(9)).sent();
    assert_eq!(world.entries(), (1, 0));
    // The near one counts if silence follows it: RFC 7857 §2.2.
    world.send(tcp(client(1), at(WEB)).flags(RST).seq(1_001 + 1_000)).sent();
    world.later(230);
    world.sweep();
    still_talks(&mut world, 1, &opened);
    world.later(7_000);
    world.sweep();
    still_talks(&mut world, 1, &opened);
    world.send(tcp(client(1), at(WEB)).flags(RST).seq(1_001 + 1_000)).sent();
    world.later(241);
    world.sweep();
    assert_eq!(world.entries(), (1, 1), "ended, its port at rest");
}

#[test]
fn a_fin_from_nowhere_does_not_shorten_a_connection_s_life() {
    let mut world = room_for(8);
    let opened = world.open(client(1), at(WEB));
    world.send(tcp(client(1), at(WEB)).flags(FIN | ACK).seq(0x4000_0000).ack(9)).sent();
    world.send(tcp(opened.dst, opened.src).flags(FIN | ACK).seq(0x4000_0000).ack(9)).sent();
    world.later(3_600);
    world.sweep();
    still_talks(&mut world, 1, &opened);
}

/// Whatever is under way: the one who sends this knows the connection.
#[test]
fn a_real_end_is_believed_however_far_ahead_it_is() {
    let mut world = room_for(8);
    // A server that gives up in the middle of a long answer.
    let opened = world.open(client(1), at(WEB));
    let abort = tcp(opened.dst, opened.src).flags(RST | ACK).seq(5_001 + 50_000_000).ack(1_001);
    world.send(abort).sent();
    assert_eq!(world.entries(), (1, 1));
    // A FIN at the end of data that was sent again, after part of it arrived.
    let opened = world.open(client(2), at(WEB));
    world.send(tcp(opened.dst, opened.src).flags(ACK).seq(5_001).ack(2_001)).sent();
    let again = tcp(client(2), at(WEB)).flags(FIN | ACK).seq(1_001).ack(5_001);
    world.send(again.payload(&[0; 1_200])).sent();
    world.send(tcp(opened.dst, opened.src).flags(FIN | ACK).seq(5_001).ack(2_202)).sent();
    world.send(tcp(client(2), at(WEB)).flags(ACK).seq(2_202).ack(5_002)).sent();
    assert_eq!(world.entries(), (2, 2));
}

#[test]
fn a_question_and_its_answer_keep_a_port_for_half_a_minute() {
    let situation = Situation { timeouts: Timeouts::default(), ..Situation::default() };
    let mut world = World::new(&situation, &web_and_dns(1, &ready(1)));
    let unanswered = world.query(1);
    let answered = world.query(2);
    world.send(udp(answered.dst, answered.src)).sent();
    let talking = world.query(3);
    world.send(udp(talking.dst, talking.src)).sent();
    assert_eq!(world.query(3), talking);
    world.later(29);
    for (n, seen) in [(1, unanswered), (2, answered)] {
        // Whoever asks again in time keeps it.
        assert_eq!(world.query(n), seen);
    }
    world.later(31);
    world.sweep();
    // The second one has said more by now than a question.
    assert_eq!(world.entries(), (2, 0));
    world.later(300);
    world.sweep();
    assert_eq!(world.entries(), (0, 0));
}

/// Nothing that a sweep sends is looked at.
struct Nowhere;

impl Sink for Nowhere {
    fn send(&mut self, _egress: InterfaceSlot, _frame: &[u8]) -> bool {
        true
    }
}

/// However many flows there are, and however many of them are due, a burst
/// waits for a few hundred entries at most; and still all are seen to.
#[test]
fn a_sweep_looks_at_so_many_entries_and_no_more() {
    const FLOWS: u16 = 20_000;
    /// Of those that are left alone it would be 256.
    const MOST: u64 = 32;
    let mut world = room_for(FLOWS.into());
    for n in 0..FLOWS {
        world.query(n);
    }
    world.sweep();
    world.later(3_600);
    let (mut left, mut calls) = (u64::from(FLOWS), 0);
    loop {
        let now = world.now;
        let (pipeline, view) = world.parts();
        let more = pipeline.sweep(view, now, &mut Nowhere);
        let entries = world.entries().0;
        assert!(left - entries <= MOST, "{} ended in one call", left - entries);
        (left, calls) = (entries, calls + 1);
        if !more {
            break;
        }
    }
    assert_eq!(left, 0);
    assert_eq!(calls, u64::from(FLOWS).div_ceil(MOST));
}

const CLIENTS: u16 = 12;

#[derive(Debug, Clone, Copy)]
enum Step {
    Syn(u16),
    SynAck(u16),
    /// Acknowledges what the endpoint said, or something else.
    Ack(u16, bool),
    Data(u16),
    Query(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..CLIENTS;
    prop_oneof![
        6 => who().prop_map(Step::Syn),
        3 => who().prop_map(Step::SynAck),
        3 => (who(), any::<bool>()).prop_map(|(n, right)| Step::Ack(n, right)),
        3 => who().prop_map(Step::Data),
        1 => who().prop_map(Step::Query),
    ]
}

/// What plain maps know of flows that never end, but may give way.
#[derive(Default)]
struct Model {
    open: HashMap<u16, Seen>,
    /// With whether the endpoint has agreed. At most these: some may have given
    /// way by now.
    half_open: HashMap<u16, (Seen, bool)>,
    udp: HashMap<u16, Seen>,
}

impl Model {
    /// Sources that nobody else may get.
    fn kept(&self) -> HashSet<(bool, std::net::SocketAddr)> {
        let tcp = self.open.values().map(|seen| (true, seen.src));
        tcp.chain(self.udp.values().map(|seen| (false, seen.src))).collect()
    }

    fn kept_count(&self, of_tcp: bool) -> usize {
        if of_tcp { self.open.len() } else { self.udp.len() }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever gives way is half-open; nobody who is open notices, no two that
    /// live have one source, and a new flow is refused only where nobody can
    /// give way.
    #[test]
    fn open_flows_keep_their_place_and_new_ones_find_any_that_is_left(
        capacity in 1_usize..10,
        port_count in 1_u16..8,
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        let situation = Situation {
            flow_capacity: capacity,
            snat_ports: 50_000..=50_000 + port_count - 1,
            ..Situation::default()
        };
        let mut world = World::new(&situation, &web_and_dns(1, &ready(1)));
        let mut model = Model::default();
        for step in steps {
            let (created, before) = (world.pipeline.counters().flows_created.value(), evicted(&world));
            let (entries, _) = world.entries();
            let half_open = entries as usize - model.open.len() - model.udp.len();
            match step {
                Step::Syn(n) | Step::Query(n) => {
                    let is_tcp = matches!(step, Step::Syn(_));
                    let known = if is_tcp { model.open.get(&n) } else { model.udp.get(&n) }.copied();
                    let frame = if is_tcp { tcp_syn(client(n), at(WEB)) } else { udp(client(n), at(DNS)) };
                    let outcome = world.send(frame);
                    let is_new = world.pipeline.counters().flows_created.value() > created;
                    match (outcome, known) {
                        (Outcome::Sent(seen), Some(known)) => {
                            prop_assert_eq!((seen.src, seen.dst), (known.src, known.dst));
                            prop_assert!(!is_new);
                        }
                        (Outcome::Sent(seen), None) if is_new => {
                            prop_assert!(!model.kept().contains(&(is_tcp, seen.src)));
                            if is_tcp {
                                // Whoever had its source has it no longer.
                                model.half_open.retain(|_, (other, _)| other.src != seen.src);
                                model.half_open.insert(n, (seen, false));
                            } else {
                                model.udp.insert(n, seen);
                            }
                        }
                        (Outcome::Sent(seen), None) => {
                            prop_assert_eq!(model.half_open.get(&n).map(|(known, _)| *known), Some(seen));
                        }
                        (Outcome::Dropped(reason), known) => {
                            prop_assert_eq!(known, None);
                            match reason {
                                DropReason::FlowTableFull => {
                                    prop_assert!(entries as usize == capacity && half_open == 0);
                                }
                                DropReason::SnatPorts => {
                                    let kept = model.kept_count(is_tcp);
                                    prop_assert_eq!(kept, usize::from(port_count));
                                }
                                other => prop_assert!(false, "{:?}", other),
                            }
                        }
                    }
                    // One came, so at most one went, and only for want of room.
                    let gone = evicted(&world) - before;
                    prop_assert!(gone <= u64::from(is_new));
                    if gone == 1 {
                        let tcp_entries = half_open + model.open.len();
                        prop_assert!(
                            entries as usize == capacity
                                || is_tcp && tcp_entries == usize::from(port_count)
                        );
                    }
                }
                Step::SynAck(n) => {
                    if let Some((seen, agreed)) = model.half_open.get_mut(&n) {
                        let told = world.send(tcp_syn_ack(seen.dst, seen.src)).sent();
                        if told.dst == client(n) {
                            *agreed = true;
                        } else {
                            // It gave way, and the endpoint is told.
                            prop_assert_eq!((told.flags & RST, told.dst), (RST, seen.dst));
                            model.half_open.remove(&n);
                        }
                    }
                }
                Step::Ack(n, right) => {
                    let ack = if right { 5_001 } else { 99_999_999 };
                    let sent = world.send(tcp(client(n), at(WEB)).flags(ACK).seq(1_001).ack(ack));
                    if let Some((seen, agreed)) = model.half_open.get(&n).copied() {
                        let sent = sent.sent();
                        if sent.dst == client(n) {
                            model.half_open.remove(&n);
                        } else {
                            prop_assert_eq!((sent.src, sent.dst), (seen.src, seen.dst));
                            if right && agreed {
                                model.half_open.remove(&n);
                                model.open.insert(n, seen);
                            }
                        }
                    }
                }
                Step::Data(n) => {
                    if let Some(seen) = model.open.get(&n).copied() {
                        still_talks(&mut world, n, &seen);
                    }
                }
            }
            prop_assert!(world.entries().0 as usize <= capacity);
            prop_assert_eq!(world.entries().1, 0);
            let all = model.open.len() + model.udp.len();
            prop_assert!(all <= world.entries().0 as usize);
            let sources: HashSet<_> = model.open.values().map(|seen| seen.src).collect();
            prop_assert_eq!(sources.len(), model.open.len());
        }
        for (n, seen) in model.open.clone() {
            still_talks(&mut world, n, &seen);
        }
        for (n, seen) in &model.udp {
            prop_assert_eq!(world.query(*n), *seen);
        }
    }
}
