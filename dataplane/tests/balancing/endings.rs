//! How flows end: by the two ends, by silence, and by endpoints that go.

use blixt_dataplane::{DropReason, Fate};
use blixt_model::EndpointState::{Draining, Ready};
use blixt_model::Protocol;
use blixt_testkit::counters::assert_moved;
use blixt_testkit::frame::{ACK, Checksum, FIN, PSH, RST, SYN, tcp, tcp_syn, tcp_syn_ack, udp};

use crate::world::{
    DNS, Outcome, Seen, Situation, WEB, World, at, client, endpoint, listener, ready, service,
    snapshot, to_service, web_and_dns,
};

fn world() -> World {
    World::new(&Situation::default(), &web_and_dns(1, &ready(1)))
}

#[test]
fn a_connection_is_counted_from_syn_to_rest() {
    let mut world = world();
    let before = world.pipeline.counters().by_name();
    let opened = world.open(client(1), at(WEB));
    let open = world.pipeline.counters().by_name();
    assert_moved(&before, &open, ["flow.created", "flow.entries", "to_endpoints +2", "to_clients"]);
    let slot = world.endpoint("default/web", opened.dst);
    assert_eq!((slot.flows.value(), slot.active_flows.value()), (1, 1));

    world.close(client(1), at(WEB), &opened);
    let closed = world.pipeline.counters().by_name();
    assert_moved(&open, &closed, ["flow.ended", "flow.resting", "to_endpoints +2", "to_clients"]);
    for slot in [world.endpoint("default/web", opened.dst), world.backend("default/web")] {
        assert_eq!((slot.flows.value(), slot.active_flows.value()), (1, 0));
        assert_eq!((slot.packets_in.value(), slot.packets_out.value()), (4, 2));
        // A SYN with one option, and IP and TCP headers without.
        assert_eq!((slot.bytes_in.value(), slot.bytes_out.value()), (44 + 3 * 40, 2 * 40));
    }
    assert!(!world.endpoint("default/web", opened.dst).is_idle(), "its port rests");

    world.later(61);
    world.sweep();
    let rested = world.pipeline.counters().by_name();
    assert_moved(&closed, &rested, ["flow.entries -1", "flow.resting -1"]);
    assert!(world.endpoint("default/web", opened.dst).is_idle());
}

#[test]
fn late_segments_of_an_ended_connection_still_arrive() {
    let mut world = world();
    let opened = world.open(client(1), at(WEB));
    world.close(client(1), at(WEB), &opened);
    world.later(50);
    // The last ACK was lost: the endpoint sends its FIN again, and is answered.
    let again = world.send(tcp(opened.dst, opened.src).flags(FIN | ACK).seq(5_001).ack(1_002));
    assert_eq!((again.sent().src, again.sent().dst), (at(WEB), client(1)));
    world.later(50);
    world.sweep();
    let ack = world.send(tcp(client(1), at(WEB)).flags(ACK).seq(1_002).ack(5_002)).sent();
    assert_eq!((ack.src, ack.dst), (opened.src, opened.dst));
    world.later(61);
    world.sweep();
    assert_eq!(world.entries(), (0, 0));
}

/// A RST that its receiver does not get, or one from a stranger who happens to
/// know the number.
#[test]
fn who_still_talks_after_a_reset_keeps_the_way_open() {
    let mut world = world();
    let opened = world.open(client(1), at(WEB));
    world.send(tcp(client(1), at(WEB)).flags(RST).seq(1_001)).sent();
    assert_eq!(world.entries(), (1, 1));
    for _ in 0..5 {
        world.later(50);
        world.sweep();
        let data = tcp(client(1), at(WEB)).flags(ACK | PSH).seq(1_001).ack(5_001);
        assert_eq!(world.send(data).sent().dst, opened.dst);
        let answer = tcp(opened.dst, opened.src).flags(ACK).seq(5_001).ack(1_001);
        assert_eq!(world.send(answer).sent().dst, client(1));
    }
    // Resets alone do not.
    world.later(50);
    world.send(tcp(client(1), at(WEB)).flags(RST).seq(1_001)).sent();
    world.later(11);
    world.sweep();
    assert_eq!(world.entries(), (0, 0));
}

/// For longer than numbers stay near to those of the end.
#[test]
fn who_hears_much_after_a_reset_keeps_the_way_open() {
    const STEP: u32 = 10 << 20;
    let mut world = world();
    let opened = world.open(client(1), at(WEB));
    world.send(tcp(client(1), at(WEB)).flags(RST).seq(1_001)).sent();
    for step in 0..4 {
        let said = 5_001 + step * STEP;
        let data = tcp(opened.dst, opened.src).flags(ACK | PSH).seq(said).ack(1_001);
        assert_eq!(world.send(data).sent().dst, client(1));
        let answer = tcp(client(1), at(WEB)).flags(ACK).seq(1_001).ack(said + STEP);
        assert_eq!(world.send(answer).sent().dst, opened.dst);
    }
}

/// The client's second connection began at another node, from the port of its first one,
/// and comes here with the VIP.
#[test]
fn a_segment_of_another_connection_is_told_so_after_the_end() {
    let mut world = world();
    let opened = world.open(client(1), at(WEB));
    world.close(client(1), at(WEB), &opened);
    // A client's numbers grow with time, those of two servers have nothing in common.
    let other = |flags| tcp(client(1), at(WEB)).flags(flags).seq(250_000).ack(2_000_000_000);
    for flags in [ACK, ACK | PSH, ACK | FIN] {
        let reset = world.send(other(flags)).reset();
        assert_eq!((reset.src, reset.dst, reset.seq), (at(WEB), client(1), 2_000_000_000));
    }
    assert_eq!(world.send(other(RST | ACK)).dropped(), DropReason::NoFlow);
    assert_eq!(world.entries(), (1, 1), "the first one's port rests");
    // It keeps nothing open, and what is late of the first one arrives.
    world.later(59);
    world.send(other(ACK)).reset();
    let late = world.send(tcp(client(1), at(WEB)).flags(ACK).seq(1_002).ack(5_002)).sent();
    assert_eq!((late.src, late.dst), (opened.src, opened.dst));
    world.later(59);
    world.send(other(ACK)).reset();
    world.later(2);
    world.sweep();
    assert_eq!(world.entries(), (0, 0));
}

#[test]
fn a_syn_after_the_end_starts_another_flow_from_another_port() {
    let mut world = world();
    let opened = world.open(client(1), at(WEB));
    world.close(client(1), at(WEB), &opened);
    let anew = world.send(tcp_syn(client(1), at(WEB)).seq(9_000)).sent();
    assert_ne!(anew.src, opened.src);
    assert_eq!(world.entries(), (2, 1));
    // What the first one's endpoint still says must not reach the second.
    let stray = world.send(tcp(opened.dst, opened.src).flags(ACK).seq(5_001).ack(1_002));
    let reset = stray.reset();
    assert_eq!((reset.src, reset.dst, reset.seq), (opened.src, opened.dst, 1_002));
    world.later(61);
    world.sweep();
    assert_eq!(world.entries(), (1, 0), "the old one's rest is over, the new one lives");
    world.send(tcp_syn_ack(anew.dst, anew.src)).sent();
}

#[test]
fn a_syn_on_a_connection_that_lives_is_for_the_endpoint_to_judge() {
    let mut world = world();
    let opened = world.open(client(1), at(WEB));
    let last_words = [
        None,
        Some(tcp(client(1), at(WEB)).flags(FIN | ACK).seq(1_001).ack(5_001)),
        Some(tcp(opened.dst, opened.src).flags(FIN | ACK).seq(5_001).ack(1_002)),
    ];
    for words in last_words {
        words.map(|words| world.send(words).sent());
        // RFC 5961 §4: the endpoint answers this one with a challenge.
        let challenged = world.send(tcp_syn(client(1), at(WEB)).seq(70_000)).sent();
        assert_eq!(challenged.src, opened.src);
    }
    assert_eq!(world.entries(), (1, 0));
    // To which a client that has forgotten it all answers this.
    world.send(tcp(client(1), at(WEB)).flags(RST).seq(1_002)).sent();
    let anew = world.send(tcp_syn(client(1), at(WEB)).seq(70_000)).sent();
    assert_ne!(anew.src, opened.src);
    assert_eq!(world.pipeline.counters().flows_created.value(), 2);
}

#[test]
fn a_client_that_gives_up_early_does_not_silence_the_endpoint() {
    let mut world = world();
    let syn = world.send(tcp_syn(client(1), at(WEB))).sent();
    world.send(tcp(client(1), at(WEB)).flags(RST).seq(1_001)).sent();
    let answer = world.send(tcp_syn_ack(syn.dst, syn.src)).sent();
    assert_eq!((answer.src, answer.dst), (at(WEB), client(1)));
    // And this is what the client says to it.
    world.send(tcp(client(1), at(WEB)).flags(RST).seq(1_001)).sent();
    assert_eq!(world.entries(), (1, 1));
}

#[test]
fn a_refused_connection_ends_at_once() {
    let mut world = world();
    let syn = world.send(tcp_syn(client(1), at(WEB))).sent();
    world.send(tcp(syn.dst, syn.src).flags(RST | ACK).seq(0).ack(1_001)).reset();
    assert_eq!(world.entries(), (1, 1));
}

#[test]
fn a_reset_that_was_guessed_does_not_end_a_flow() {
    let mut world = world();
    let opened = world.open(client(1), at(WEB));
    for guess in [0, 0x8000_0000, 1_000] {
        let passed = world.send(tcp(client(1), at(WEB)).flags(RST).seq(guess)).sent();
        assert_eq!(passed.seq, guess, "the endpoint may judge");
    }
    world.send(tcp(opened.dst, opened.src).flags(RST).seq(4_000)).sent();
    assert_eq!(world.entries(), (1, 0));
    world.later(3_600);
    world.sweep();
    world.send(tcp(client(1), at(WEB)).flags(ACK).seq(1_001).ack(5_001)).sent();
    world.send(tcp(client(1), at(WEB)).flags(RST).seq(1_001)).sent();
    assert_eq!(world.entries(), (1, 1));
}

#[test]
fn silence_ends_flows_when_their_time_is_up() {
    let mut world = world();
    world.open(client(1), at(WEB));
    world.send(tcp_syn(client(2), at(WEB))).sent();
    world.query(3);
    assert_eq!(world.entries(), (3, 0));
    // 4 minutes, 5 minutes, 2 hours and 4 minutes, and the port's rest of a
    // minute; a round takes a second.
    let left = [(235, 3), (10, 2), (50, 2), (10, 1), (7_120, 1), (20, 1), (55, 1), (10, 0)];
    for (seconds, left) in left {
        world.later(seconds);
        world.sweep();
        assert_eq!(world.entries().0, left, "after {seconds} s more");
    }
    assert_eq!(world.pipeline.counters().flows_ended.value(), 3);
}

#[test]
fn packets_of_either_end_keep_a_flow() {
    let mut world = world();
    let asked = world.query(1);
    for _ in 0..3 {
        world.later(200);
        world.sweep();
        world.send(udp(asked.dst, asked.src)).sent();
    }
    assert_eq!(world.entries(), (1, 0));
    assert_eq!(world.query(1).src, asked.src);
}

#[test]
fn an_expired_flow_is_over_even_if_the_sweep_is_late() {
    let mut world = world();
    let opened = world.open(client(1), at(WEB));
    world.later(7_441);
    world.send(tcp(client(1), at(WEB)).flags(ACK).seq(1_001).ack(5_001)).reset();
    assert_eq!(world.entries(), (1, 1), "its port rests");
    world.send(tcp(opened.dst, opened.src).flags(ACK).seq(5_001).ack(1_001)).reset();
    world.later(61);
    world.sweep();
    assert_eq!(world.entries(), (0, 0));
    let asked = world.query(2);
    world.later(301);
    assert_ne!(world.query(2).src, asked.src);
    world.later(301);
    let stray = world.send(tcp(opened.dst, opened.src).flags(ACK).seq(5_001).ack(1_001));
    stray.reset();
}

#[test]
fn what_cannot_start_a_flow_is_named() {
    let mut world = world();
    let from = |flags| tcp(client(1), at(WEB)).flags(flags);
    for flags in [ACK, FIN | ACK, SYN | ACK, SYN | FIN, 0, PSH | ACK] {
        world.send(from(flags)).reset();
    }
    for flags in [RST, RST | ACK, SYN | RST] {
        assert_eq!(world.send(from(flags)).dropped(), DropReason::NoFlow);
    }
    let wrong = tcp_syn(client(1), at(WEB)).checksum(Checksum::Wrong(1));
    assert_eq!(world.send(wrong).dropped(), DropReason::L4Checksum);
    let reply = udp(at("10.1.0.1:8080"), at("10.0.0.9:50000"));
    assert_eq!(world.send(reply).dropped(), DropReason::NoFlow);
    assert_eq!(world.pipeline.counters().flows_created.value(), 0);
}

#[test]
fn a_damaged_syn_ends_nothing() {
    let mut world = world();
    let opened = world.open(client(1), at(WEB));
    world.close(client(1), at(WEB), &opened);
    let damaged = tcp_syn(client(1), at(WEB)).checksum(Checksum::Wrong(1));
    assert_eq!(world.send(damaged).dropped(), DropReason::L4Checksum);
    let late = world.send(tcp(opened.dst, opened.src).flags(ACK).seq(5_002).ack(1_002));
    assert_eq!(late.sent().dst, client(1));
}

#[test]
fn packets_of_one_burst_see_each_other() {
    let mut world = world();
    let syn = tcp_syn(client(1), at(WEB));
    let query = udp(client(2), at(DNS));
    let outcomes = world.send_all(&[syn.clone(), query.clone(), syn, query]);
    assert_eq!(outcomes[0], outcomes[2]);
    assert_eq!(outcomes[1], outcomes[3]);
    assert_eq!(world.pipeline.counters().flows_created.value(), 2);
}

#[test]
fn a_full_table_refuses_new_flows_and_serves_old_ones() {
    let situation = Situation { flow_capacity: 2, ..Situation::default() };
    let mut world = World::new(&situation, &web_and_dns(1, &ready(1)));
    let old = world.query(1);
    world.query(2);
    let refused = world.send(udp(client(3), at(DNS)));
    assert_eq!(refused.dropped(), DropReason::FlowTableFull);
    assert_eq!(world.query(1), old);
    assert_eq!(world.backend("default/dns").refused.value(), 1);
    world.later(301);
    world.sweep();
    world.query(3);
}

/// Which of two endpoints a client talks to, and the other.
fn two_endpoints(seen: &Seen) -> (Vec<blixt_model::Endpoint>, std::net::SocketAddr) {
    let (gone, stays): (Vec<_>, Vec<_>) =
        ready(2).into_iter().partition(|endpoint| endpoint.address == seen.dst.ip());
    assert_eq!(gone.len(), 1);
    let other = std::net::SocketAddr::new(stays[0].address, 8_080);
    (stays, other)
}

#[test]
fn an_endpoint_that_is_gone_resets_its_connections() {
    let mut world = World::new(&Situation::default(), &web_and_dns(1, &ready(2)));
    let talks = world.open(client(1), at(WEB));
    let (stays, other) = two_endpoints(&talks);
    // A client of each kind: one that talks, one that is silent, one that is
    // only about to open; all with the same endpoint.
    let mut more = (2..200).filter_map(|n| {
        let syn = world.send(tcp_syn(client(n), at(WEB))).sent();
        (syn.dst == talks.dst).then_some((n, syn))
    });
    let (silent, opens) = (more.next().unwrap(), more.next().unwrap());
    drop(more);
    world.send(tcp_syn_ack(silent.1.dst, silent.1.src)).sent();
    world.send(tcp(client(silent.0), at(WEB)).flags(ACK).seq(1_001).ack(5_001)).sent();
    world.send(tcp(client(silent.0), at(WEB)).flags(ACK).seq(1_001).ack(6_001)).sent();

    world.apply(&web_and_dns(2, &stays));
    // Its endpoint is told at once, and leaves the flow to the sweep.
    world.send(tcp(silent.1.dst, silent.1.src).flags(ACK).seq(6_001).ack(1_001)).reset();
    let told = world.send(tcp(client(1), at(WEB)).flags(ACK).seq(1_001).ack(5_001)).reset();
    assert_eq!((told.src, told.dst, told.seq), (at(WEB), client(1), 5_001));
    let anew = world.send(tcp_syn(client(opens.0), at(WEB))).sent();
    assert_eq!(anew.dst, other);

    let sent = world.sweep();
    let reset = sent.iter().find(|seen| seen.dst == client(silent.0)).unwrap();
    assert_eq!((reset.src, reset.seq, reset.ack), (at(WEB), 6_001, 1_001));
    assert_eq!(reset.flags, RST | ACK);
    assert!(sent.iter().all(|seen| seen.dst != client(1) && seen.dst != client(opens.0)));
    // Whoever was still opening is refused in the way a SYN is.
    assert!(sent.iter().filter(|seen| seen.dst != client(silent.0)).all(|seen| seen.ack == 1_001));
    assert_eq!(world.sweep(), [], "once");
    let resets = world.pipeline.counters().flows_reset.value();
    assert_eq!(resets, sent.len() as u64 + 1);
    assert_eq!(world.endpoint("default/web", talks.dst).active_flows.value(), 0);
    // And they reconnect at once.
    assert_eq!(world.open(client(silent.0), at(WEB)).dst, other);
}

#[test]
fn udp_leaves_an_endpoint_that_is_gone_at_once() {
    let mut world = World::new(&Situation::default(), &web_and_dns(1, &ready(2)));
    let asked = world.query(1);
    let (stays, other) = two_endpoints(&asked);
    world.apply(&web_and_dns(2, &stays));
    assert_eq!(world.query(1).dst, other);
    let late = world.send(udp(asked.dst, asked.src));
    assert_eq!(late.dropped(), DropReason::NoFlow);
    assert_eq!(world.entries(), (1, 0));
    assert_eq!(world.pipeline.counters().flows_reset.value(), 0);
}

#[test]
fn draining_keeps_old_flows_and_takes_no_new_ones() {
    let mut world = World::new(&Situation::default(), &web_and_dns(1, &ready(2)));
    let opened = world.open(client(1), at(WEB));
    let (mut endpoints, other) = two_endpoints(&opened);
    endpoints.push(endpoint(&opened.dst.to_string(), Draining));
    world.apply(&web_and_dns(2, &endpoints));
    world.sweep();
    let goes_on = world.send(tcp(client(1), at(WEB)).flags(ACK).seq(1_001).ack(5_001)).sent();
    assert_eq!((goes_on.src, goes_on.dst), (opened.src, opened.dst));
    for n in 2..50 {
        assert_eq!(world.send(tcp_syn(client(n), at(WEB))).sent().dst, other);
    }
}

#[test]
fn weight_0_and_a_listener_that_goes_keep_old_flows() {
    let two = |generation, weights: [u32; 2]| {
        let backends = vec![to_service(0, weights[0]), to_service(1, weights[1])];
        let services = ["a", "b"].into_iter().zip(1..).map(|(name, n)| {
            let at = format!("10.1.0.{n}:8080");
            service(name, blixt_model::Protocol::Tcp, vec![endpoint(&at, Ready)])
        });
        let listener = listener("web", blixt_model::Protocol::Tcp, 80, backends);
        snapshot(generation, vec![listener], services.collect())
    };
    let mut world = World::new(&Situation::default(), &two(1, [1, 1]));
    let opened: Vec<_> = (0..20).map(|n| world.open(client(n), at(WEB))).collect();
    world.apply(&two(2, [0, 1]));
    world.sweep();
    let b = at("10.1.0.2:8080");
    for n in 20..40 {
        assert_eq!(world.send(tcp_syn(client(n), at(WEB))).sent().dst, b);
    }
    // The Gateway stays, with nothing to listen on.
    world.apply(&snapshot(3, vec![], vec![]));
    world.sweep();
    for (n, opened) in (0..).zip(&opened) {
        let goes_on = world.send(tcp(client(n), at(WEB)).flags(ACK).seq(1_001).ack(5_001)).sent();
        assert_eq!((goes_on.src, goes_on.dst), (opened.src, opened.dst));
    }
    assert!(
        matches!(world.send(tcp_syn(client(90), at(WEB))), Outcome::Sent(seen) if seen.flags & RST != 0)
    );
}

/// A half-open flow whose endpoint is gone rests when its SYN comes again: it is
/// none that could give way to the one that the SYN starts.
#[test]
fn of_a_syn_that_comes_again_after_its_endpoint_went_the_truth_is_told() {
    for (capacity, others, fits) in [(1, 0, false), (2, 0, true), (2, 1, true)] {
        let situation = Situation { flow_capacity: capacity, ..Situation::default() };
        let mut world = World::new(&situation, &web_and_dns(1, &ready(1)));
        let syn = || tcp_syn(client(1), at(WEB));
        world.send(syn()).sent();
        for other in 0..others {
            world.send(tcp_syn(client(2 + other), at(WEB))).sent();
        }
        world.apply(&web_and_dns(2, &[endpoint("10.1.0.2:8080", Ready)]));
        let now = world.now;
        let (pipeline, view) = world.parts();
        let told = pipeline.explain(client(1), at(WEB), Protocol::Tcp, view, now).opening;
        match (fits, world.send(syn())) {
            (true, Outcome::Sent(seen)) => {
                let Fate::Becomes { source, destination, .. } = told else { panic!("{told:?}") };
                assert_eq!((source, destination), (seen.src, seen.dst));
            }
            (false, Outcome::Dropped(reason)) => {
                assert_eq!(reason, DropReason::FlowTableFull);
                assert_eq!(told, Fate::Refused(reason));
            }
            (_, outcome) => panic!("{outcome:?} with room for {capacity}"),
        }
    }
}
