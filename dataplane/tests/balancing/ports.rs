//! SNAT addresses and ports: rotation, rest, and what happens without.

use std::collections::{HashMap, HashSet};

use blixt_dataplane::DropReason;
use blixt_model::EndpointState::Ready;
use blixt_testkit::frame::{RST, tcp, tcp_syn, udp};

use crate::world::{
    DNS, Outcome, Situation, WEB, WEB6, World, at, client, endpoint, ready, web_and_dns,
};

fn world(situation: &Situation) -> World {
    World::new(situation, &web_and_dns(1, &ready(1)))
}

#[test]
fn sources_go_round_all_addresses_and_ports_before_one_comes_again() {
    let mut world = world(&Situation {
        snat_ports: 50_000..=50_024,
        snat_addresses: &["10.0.0.8", "10.0.0.9"],
        ..Situation::default()
    });
    let mut sources = Vec::new();
    for n in 0..100 {
        sources.push(world.query(n).src);
        // Each flow ends before the next begins: nothing but the rotation
        // keeps its source from being used again.
        world.later(301);
        world.sweep();
    }
    let (first, second) = sources.split_at(50);
    assert_eq!(first, second, "the same order again");
    assert_eq!(first.iter().collect::<HashSet<_>>().len(), 50);
    let mut by_address = HashMap::new();
    for source in first {
        *by_address.entry(source.ip()).or_insert(0) += 1;
        assert!((50_000..=50_024).contains(&source.port()), "{source}");
    }
    assert!(by_address.values().all(|&count| count == 25), "{by_address:?}");
    assert!(first.windows(2).all(|pair| pair[0].ip() != pair[1].ip()), "turn by turn");
}

#[test]
fn a_port_serves_many_endpoints_at_once() {
    let situation =
        Situation { snat_ports: 50_000..=50_000, flow_capacity: 8, ..Situation::default() };
    let mut world = World::new(&situation, &web_and_dns(1, &ready(2)));
    let endpoints: HashSet<_> = (0..40)
        .filter_map(|n| match world.send(tcp_syn(client(n), at(WEB))) {
            Outcome::Sent(seen) => Some(seen.dst),
            Outcome::Dropped(_) => None,
        })
        .collect();
    assert_eq!(endpoints.len(), 2);
    // And UDP's ports are none of TCP's.
    world.query(1);
}

#[test]
fn the_last_free_port_is_found_whichever_it_is() {
    let situation = Situation { snat_ports: 50_000..=50_015, ..Situation::default() };
    for idle in 0..16 {
        let mut world = world(&situation);
        let sources: Vec<_> = (0..16).map(|n| world.query(n).src).collect();
        world.later(200);
        for n in (0..16).filter(|&n| n != idle) {
            world.query(n);
        }
        let full = world.send(udp(client(99), at(DNS)));
        assert_eq!(full.dropped(), DropReason::SnatPorts);
        world.later(150);
        world.sweep();
        assert_eq!(world.query(99).src, sources[usize::from(idle)]);
        assert_eq!(world.entries(), (16, 0));
    }
}

#[test]
fn a_search_that_is_bounded_goes_on_with_the_next_flow() {
    // More ports than one search may try.
    let situation =
        Situation { snat_ports: 40_001..=50_000, flow_capacity: 11_000, ..Situation::default() };
    let mut world = world(&situation);
    let sources: Vec<_> = (0..10_000).map(|n| world.query(n).src).collect();
    assert_eq!(sources.iter().collect::<HashSet<_>>().len(), 10_000);
    world.later(200);
    for n in (0..10_000).filter(|&n| n != 9_000) {
        world.query(n);
    }
    world.later(150);
    world.sweep();
    for _ in 0..10 {
        world.sweep();
    }
    assert_eq!(world.entries().0, 9_999);
    let tries = (0..)
        .find(|_| {
            let outcome = world.send(udp(client(20_000), at(DNS)));
            match outcome {
                Outcome::Sent(seen) => {
                    assert_eq!(seen.src, sources[9_000]);
                    true
                }
                Outcome::Dropped(reason) => {
                    assert_eq!(reason, DropReason::SnatPorts);
                    false
                }
            }
        })
        .unwrap();
    assert_eq!(tries, 2, "4,096 sources a try, the one that is free is the 9,001st");
}

#[test]
fn the_port_of_an_ended_connection_rests() {
    let mut world = world(&Situation { snat_ports: 50_000..=50_001, ..Situation::default() });
    for n in 0..2 {
        let opened = world.open(client(n), at(WEB));
        if n == 0 {
            world.close(client(n), at(WEB), &opened);
        } else {
            world.send(tcp(client(n), at(WEB)).flags(RST).seq(1_001)).sent();
        }
    }
    assert_eq!(world.entries(), (2, 2));
    world.later(58);
    world.sweep();
    let early = world.send(tcp_syn(client(2), at(WEB)));
    assert_eq!(early.dropped(), DropReason::SnatPorts);
    world.later(1);
    world.sweep();
    assert_eq!(world.entries(), (0, 0));
    world.open(client(2), at(WEB));
    assert_eq!(world.endpoint("default/web", at("10.1.0.1:8080")).refused.value(), 1);
    assert_eq!(world.backend("default/web").refused.value(), 1);
}

#[test]
fn without_an_address_of_the_family_there_is_no_flow() {
    let endpoints: Vec<_> =
        ready(1).into_iter().chain([endpoint("[2001:db8:e::1]:8080", Ready)]).collect();
    let situation = Situation { snat_addresses: &["10.0.0.9"], ..Situation::default() };
    let mut world = World::new(&situation, &web_and_dns(1, &endpoints));
    world.open(client(1), at(WEB));
    let client6 = at("[2001:db8:c::7]:40000");
    let refused = world.send(tcp_syn(client6, at(WEB6)));
    assert_eq!(refused.dropped(), DropReason::NoSnatAddress);
}

#[test]
fn processes_and_endpoints_begin_at_places_of_their_own() {
    let mut first_ports = HashSet::new();
    for key in 0..10 {
        let situation = Situation { hash_key: [key, 99], ..Situation::default() };
        let mut world = World::new(&situation, &web_and_dns(1, &ready(2)));
        let mut first = HashMap::new();
        for n in 0..50 {
            let seen = world.send(tcp_syn(client(n), at(WEB))).sent();
            first.entry(seen.dst).or_insert(seen.src.port());
        }
        assert_eq!(first.len(), 2);
        first_ports.extend(first.into_values());
    }
    assert!(first_ports.len() > 17, "20 beginnings among 28,232 ports: {first_ports:?}");
}
