//! Flows through the node's own kernel: of endpoints and clients that no
//! attached interface leads to, and of all where there is no SNAT address.

use std::net::SocketAddr;

use blixt_dataplane::{DropReason, Fate, View};
use blixt_model::Protocol;
use blixt_testkit::frame::{ACK, RST, icmp_error, tcp, tcp_syn, tcp_syn_ack, udp};

use crate::flows::at_port;
use crate::world::{
    CLIENTS, Cast, HOST, HOST_MACS, HOST_MTU, LOCAL, Situation, UNATTACHED, World, casts, fib,
    given, one_endpoint_each,
};

/// There is a SNAT address, and as many flows as there are may go through the
/// kernel.
fn with_host_path() -> Situation {
    Situation { host: Some(16), ..one_endpoint_each() }
}

/// Nothing else than the kernel.
fn without_snat() -> Situation {
    Situation { snat: false, ..with_host_path() }
}

const BEGINS: [&str; 4] = ["to_endpoints", "flow.created", "flow.entries", "flow.by_host"];

/// An endpoint on a link that is not attached, and one that is the node.
fn out_of_reach(cast: &Cast) -> [(u16, SocketAddr); 2] {
    [(LOCAL, SocketAddr::new(cast.local, 1)), (UNATTACHED, SocketAddr::new(cast.unattached, 1))]
}

#[test]
fn without_a_snat_address_all_flows_go_through_the_kernel() {
    for cast in casts() {
        let Cast { client, web, host, web_endpoint, .. } = cast;
        given(without_snat())
            .client_sends(tcp_syn(client, web))
            .host_gets(tcp_syn(host, web_endpoint).hop_limit(63))
            .moved(BEGINS)
            .host_sends(tcp_syn_ack(web_endpoint, host))
            .client_gets(tcp_syn_ack(web, client).hop_limit(63))
            .moved(["to_clients"])
            .client_sends(tcp(client, web).flags(ACK).seq(1_001).ack(5_001))
            .host_gets(tcp(host, web_endpoint).flags(ACK).seq(1_001).ack(5_001).hop_limit(63))
            .moved(["to_endpoints"]);
    }
}

#[test]
fn with_one_only_those_do_that_no_interface_leads_to() {
    for cast in casts() {
        let Cast { client, web, snat, host, web_endpoint, .. } = cast;
        let mut world = given(with_host_path())
            .client_sends(tcp_syn(client, web))
            .endpoint_gets(tcp_syn(snat, web_endpoint).hop_limit(63))
            .moved(["to_endpoints", "flow.created", "flow.entries"]);
        for (port, endpoint) in out_of_reach(&cast) {
            world = world
                .client_sends(udp(client, at_port(web, port)))
                .host_gets(udp(host, endpoint).hop_limit(63))
                .moved(BEGINS)
                .host_sends(udp(endpoint, host))
                .client_gets(udp(at_port(web, port), client).hop_limit(63))
                .moved(["to_clients"]);
        }
    }
}

#[test]
fn clients_of_the_node_come_and_are_answered_through_it() {
    for cast in casts() {
        let Cast { web, snat, host, web_endpoint, .. } = cast;
        for (situation, is_direct) in [(with_host_path(), true), (without_snat(), false)] {
            for client in [cast.local, cast.unattached].map(|it| SocketAddr::new(it, 40_000)) {
                let world = given(situation.clone()).host_sends(tcp_syn(client, web));
                let world = match is_direct {
                    true => world
                        .endpoint_gets(tcp_syn(snat, web_endpoint).hop_limit(63))
                        .endpoint_sends(tcp_syn_ack(web_endpoint, snat)),
                    false => world
                        .host_gets(tcp_syn(host, web_endpoint).hop_limit(63))
                        .host_sends(tcp_syn_ack(web_endpoint, host)),
                };
                world.host_gets(tcp_syn_ack(web, client).hop_limit(63));
            }
        }
    }
}

/// A pod that gets itself: client and endpoint have one address.
#[test]
fn who_asks_may_be_chosen_to_answer() {
    for cast in casts() {
        for (port, endpoint) in out_of_reach(&cast) {
            let (client, vip) = (at_port(endpoint, 40_000), at_port(cast.web, port));
            given(with_host_path())
                .host_sends(udp(client, vip))
                .host_gets(udp(cast.host, endpoint).hop_limit(63))
                .host_sends(udp(endpoint, cast.host))
                .host_gets(udp(vip, client).hop_limit(63))
                .moved(BEGINS.into_iter().chain(["to_clients"]));
        }
    }
}

#[test]
fn there_are_only_as_many_as_the_kernel_tracks() {
    let Cast { client, web, dns, host, web_endpoint, dns_endpoint, .. } = casts()[0];
    // A datagram's flow stays, so there is room for nobody else.
    given(Situation { host: Some(1), ..without_snat() })
        .client_sends(udp(client, dns))
        .host_gets(udp(host, dns_endpoint).hop_limit(63))
        .moved(BEGINS)
        .client_sends(tcp_syn(client, web))
        .dropped_for(DropReason::HostPathFull)
        .moved(["drop.host_path_full"])
        .host_sends(udp(dns_endpoint, host))
        .client_gets(udp(dns, client).hop_limit(63))
        .moved(["to_clients"]);
    // A connection that is half-open makes way.
    given(Situation { host: Some(1), ..without_snat() })
        .client_sends(tcp_syn(client, web))
        .host_gets(tcp_syn(host, web_endpoint).hop_limit(63))
        .moved(BEGINS)
        .client_sends(udp(client, dns))
        .host_gets(udp(host, dns_endpoint).hop_limit(63))
        .moved(["to_endpoints", "flow.created", "flow.ended", "flow.evicted"]);
}

#[test]
fn room_comes_back_when_flows_end() {
    let Cast { client, web, dns, .. } = casts()[0];
    let world = given(Situation { host: Some(1), ..without_snat() });
    let (mut world, _) = world.client_sends(udp(client, dns)).outcome();
    assert_eq!(world.pipeline.counters().flow_entries_by_host.value(), 1);
    world = world.later(400);
    world.sweep(0);
    assert_eq!(world.pipeline.counters().flow_entries_by_host.value(), 0);
    let (_, outcome) = world.client_sends(tcp_syn(client, web)).outcome();
    assert!(matches!(outcome.verdict, blixt_dataplane::Verdict::Transmit(HOST)), "{outcome:?}");
}

/// What comes from a SNAT address is not answered by way of the kernel. So it
/// does not go there, even where that way is known from others.
#[test]
fn a_flow_keeps_to_its_way() {
    for cast in casts() {
        let Cast { client, web, snat, web_endpoint, .. } = cast;
        let mut world = given(with_host_path())
            .client_sends(tcp_syn(client, web))
            .endpoint_gets(tcp_syn(snat, web_endpoint).hop_limit(63))
            .whatever_moved();
        // The route to the endpoint is taken away; what it asks itself comes
        // and goes through the kernel.
        world.fib = without_routes_to_endpoints();
        let as_client = at_port(web_endpoint, 40_000);
        world
            .host_sends(udp(as_client, at_port(web, LOCAL)))
            .host_gets(udp(cast.host, SocketAddr::new(cast.local, 1)).hop_limit(63))
            .host_sends(udp(SocketAddr::new(cast.local, 1), cast.host))
            .host_gets(udp(at_port(web, LOCAL), as_client).hop_limit(63))
            .whatever_moved()
            .client_sends(tcp(client, web).flags(ACK).seq(1_001).ack(5_001))
            .dropped_for(DropReason::Unroutable)
            .moved(["drop.unroutable"]);
    }
}

fn without_routes_to_endpoints() -> blixt_dataplane::Fib {
    let all = fib(&with_host_path(), &[]);
    let path = *all.host_path().unwrap();
    blixt_dataplane::Fib::new(all.interfaces().to_vec(), [], [], []).with_host_path(path)
}

#[test]
fn without_the_pair_its_flows_have_no_way() {
    let Cast { client, web, host, web_endpoint, .. } = casts()[0];
    let mut world = given(without_snat())
        .client_sends(tcp_syn(client, web))
        .host_gets(tcp_syn(host, web_endpoint).hop_limit(63))
        .whatever_moved();
    world.fib = fib(&Situation { host: None, ..without_snat() }, &[]);
    world
        .client_sends(tcp(client, web).flags(ACK).seq(1_001).ack(5_001))
        .dropped_for(DropReason::NotAttached)
        .client_sends(udp(client, casts()[0].dns))
        .dropped_for(DropReason::NoSnatAddress)
        .moved(["drop.not_attached", "drop.no_snat_address"]);
}

#[test]
fn its_mtu_is_told() {
    for cast in casts() {
        let Cast { client, web, host, web_endpoint, .. } = cast;
        let headers = if client.is_ipv4() { 40 } else { 60 };
        let (world, _) = given(without_snat()).client_sends(tcp_syn(client, web)).outcome();
        let segment = |payload: usize| {
            tcp(client, web).flags(ACK).seq(1_001).ack(5_001).payload(&vec![7; payload])
        };
        let fits = HOST_MTU as usize - headers;
        let (world, outcome) = world
            .host_sends(tcp_syn_ack(web_endpoint, host))
            .client_gets(tcp_syn_ack(web, client).hop_limit(63))
            .client_sends(segment(fits))
            .outcome();
        assert_eq!(outcome.frame.len(), 14 + HOST_MTU as usize);
        world
            .whatever_moved()
            .client_sends(segment(fits + 1))
            .outcome()
            .0
            .moved(["drop.too_big", "answer.icmp"]);
    }
}

/// The kernel says that a tunnel is narrower, or that nobody listens.
#[test]
fn the_kernels_icmp_errors_find_their_client() {
    let Cast { client, dns, host, dns_endpoint, router, .. } = casts()[0];
    let (world, _) = given(without_snat()).client_sends(udp(client, dns)).outcome();
    let about = udp(host, dns_endpoint);
    let (world, outcome) = world
        .whatever_moved()
        .host_sends(icmp_error(router, host.ip(), [3, 4], 1_200, &about, 28))
        .outcome();
    assert_eq!(outcome.verdict, blixt_dataplane::Verdict::Transmit(CLIENTS));
    world.moved(["icmp.errors"]);
}

#[test]
fn a_client_of_the_node_is_reset_when_its_endpoint_goes() {
    let Cast { web, host, web_endpoint, local, .. } = casts()[0];
    let client = SocketAddr::new(local, 40_000);
    let mut world = given(without_snat())
        .host_sends(tcp_syn(client, web))
        .host_gets(tcp_syn(host, web_endpoint).hop_limit(63))
        .host_sends(tcp_syn_ack(web_endpoint, host))
        .host_gets(tcp_syn_ack(web, client).hop_limit(63))
        .host_sends(tcp(client, web).flags(ACK).seq(1_001).ack(5_001))
        .host_gets(tcp(host, web_endpoint).flags(ACK).seq(1_001).ack(5_001).hop_limit(63))
        .endpoints_go();
    let [(egress, frame)] = &world.sweep(1)[..] else { panic!("one reset") };
    let reset = tcp(web, client).flags(RST | ACK).seq(5_001).ack(1_001).window(0);
    let [kernel, ours] = HOST_MACS;
    assert_eq!((*egress, frame), (HOST, &reset.or_between(ours, kernel).bytes()));
}

#[test]
fn nobody_else_is_told_of_its_address() {
    let told = |situation: Situation| {
        let mut told = given(situation).announce(100);
        told.sort();
        told
    };
    let with = told(Situation { host: Some(1), ..one_endpoint_each() });
    assert_eq!(with, told(one_endpoint_each()));
}

#[test]
fn it_is_explained() {
    for cast in casts() {
        let Cast { client, web, host, .. } = cast;
        let world = given(with_host_path());
        for (port, endpoint) in out_of_reach(&cast) {
            let told = fate(&world, client, at_port(web, port), Protocol::Udp);
            let Fate::Becomes { source, destination, hop: Ok(hop) } = told else {
                panic!("{told:?}")
            };
            assert_eq!((source, destination), (host, endpoint));
            assert!(hop.by_host && hop.egress == HOST && hop.mac == Some(HOST_MACS[0]), "{hop:?}");
        }
        let told = fate(&world, client, web, Protocol::Tcp);
        assert!(matches!(told, Fate::Becomes { hop: Ok(hop), .. } if !hop.by_host), "{told:?}");
        let decided = world.tables.decide(client, at_port(web, LOCAL), Protocol::Udp);
        assert_eq!(decided.refused, None);

        let full = given(Situation { host: Some(0), ..with_host_path() });
        let told = fate(&full, client, at_port(web, LOCAL), Protocol::Udp);
        assert_eq!(told, Fate::Refused(DropReason::HostPathFull));
    }
}

fn fate(world: &World, source: SocketAddr, to: SocketAddr, protocol: Protocol) -> Fate {
    let view = View { tables: &world.tables, fib: &world.fib, stats: &world.stats };
    world.pipeline.explain(source, to, protocol, view, world.now).opening
}
