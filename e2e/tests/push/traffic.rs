//! The real agent serves what a controller pushes, and goes on without it.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use blixt_e2e::{Agent, Announcements, ask, ask_over, serve_names};
use blixt_gateway::Programming;
use blixt_model::{
    Gateway, ListenerName, Port, RouteId, RouteKind, Snapshot, Stream, StreamKind, StreamListener,
    StreamRoute, StreamTls,
};
use blixt_testkit::netns::{Lab, LabPlan, eventually_some, net};
use blixt_testkit::require_root;

use crate::replica::{Files, Replica, SOON, ca, snapshot_of};

#[test]
fn an_agent_serves_what_is_pushed_and_after_a_restart_without_a_controller() {
    require_root!();
    let lab = Lab::new(LabPlan::default());
    let [first, second, third] = [0, 1, 2].map(|n| &lab.backends[n]);
    let _servers = [("be0", first), ("be1", second), ("be2", third)]
        .map(|(name, backend)| serve_names(&backend.namespace, 8_080, name));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ca = ca();
    let replica = Replica::serve_in(&lab, &runtime, &ca);
    let vips = lab.vips();
    let before = |hosts: &[&blixt_testkit::netns::Backend]| {
        let endpoints = hosts.iter().flat_map(|host| host.addresses).collect();
        snapshot_of(vips.into(), 80, endpoints, 8_080)
    };
    replica.push.publish(&before(&[first]));
    let files = Files::new(&ca, "token of node-1");
    let source = files.flags(replica.at);
    let served = |name: &str| {
        for vip in vips {
            let answer = eventually_some(format!("{name} behind {vip}"), SOON, || {
                lab.client
                    .namespace
                    .inside(move || ask((vip, 80).into()))
                    .and_then(|answer| match answer == name {
                        true => Ok(answer),
                        false => Err(std::io::Error::other(answer)),
                    })
                    .map_err(|error| error.to_string())
            });
            assert_eq!(answer, name);
        }
    };

    let heard = Announcements::listen(&lab.client.namespace);
    let begin = Instant::now();
    let mut agent = Agent::follow(&lab, &source, &files.path("state"));
    eventually_some("the agent to be ready", SOON, || agent.ready());
    // It owns them when the replica knows who is there: then it says so.
    heard.wait_for(&vips, begin, SOON);
    served("be0");
    eventually_some("it to be programmed", SOON, || match replica.programming() {
        Some(Programming::Applied) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    replica.push.publish(&before(&[second]));
    served("be1");
    let metrics = agent.metrics();
    assert_eq!(metrics.sum("blixt_controller_connected", &[]), 1.0);
    assert_eq!(metrics.sum("blixt_vips_owned", &[]), 2.0);
    // It is written once a second.
    std::thread::sleep(Duration::from_millis(1_500));

    // No controller: it says so, and serves.
    runtime.block_on(replica.stop());
    eventually_some("the agent to miss it", SOON, || match agent.ready() {
        Ok(()) => Err("it is ready".to_owned()),
        Err(why) if why.contains("no controller is in reach") => Ok(()),
        Err(why) => Err(why),
    });
    served("be1");
    agent.stop();

    let mut took: Vec<_> = (0..5)
        .map(|_| {
            // Nobody answers any more, so that the kernel has to look anew.
            lab.client.namespace.ip("neigh flush all");
            let begin = Instant::now();
            let agent = Agent::follow(&lab, &source, &files.path("state"));
            let door = (vips[0], 80).into();
            let took = lab.client.namespace.inside(move || {
                answered(door);
                begin.elapsed()
            });
            served("be1");
            agent.stop();
            took
        })
        .collect();
    took.sort();
    println!("restarted agents without a controller serve after {took:?}");
    // What else the machine has to do only makes it longer.
    assert!(took[2] < Duration::from_secs(1) && took[4] < Duration::from_secs(4), "{took:?}");
}

/// Waits until somebody answers, without waiting for the SYNs that nobody took.
fn answered(door: SocketAddr) {
    let begin = Instant::now();
    let ask = || ask_over(&mut TcpStream::connect_timeout(&door, Duration::from_millis(20))?);
    while let Err(error) = ask() {
        assert!(begin.elapsed() < SOON, "{error}");
    }
}

/// Whoever took this agent for dead gave its VIPs to another node, which told neighbours.
#[test]
fn an_agent_that_was_out_of_reach_announces_again_what_is_still_its_own() {
    require_root!();
    let lab = Lab::new(LabPlan::default());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ca = ca();
    let vips = lab.vips();
    let tables = snapshot_of(vips.into(), 80, vec![], 8_080);
    let files = Files::new(&ca, "token of node-1");
    let heard = Announcements::listen(&lab.client.namespace);
    let mut agent = None;
    for _ in 0..2 {
        let replica = Replica::serve_in(&lab, &runtime, &ca);
        replica.push.publish(&tables);
        let begun = Instant::now();
        agent.get_or_insert_with(|| {
            Agent::follow(&lab, &files.flags(replica.at), &files.path("state"))
        });
        heard.wait_for(&vips, begun, SOON);
        // They are announced twice.
        std::thread::sleep(Duration::from_secs(2));
        let quiet = Instant::now();
        std::thread::sleep(Duration::from_secs(2));
        assert!(vips.iter().all(|vip| heard.announced(*vip, quiet).is_empty()));
        runtime.block_on(replica.stop());
    }
    agent.unwrap().stop();
}

#[test]
fn an_address_of_the_node_stays_its_own_and_the_rest_is_served() {
    require_root!();
    let lab = Lab::new(LabPlan::default());
    let backend = &lab.backends[0];
    let _server = serve_names(&backend.namespace, 8_080, "be0");
    // What the node itself serves on its address must not be taken from it.
    let _own = serve_names(&lab.lb, 80, "node");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ca = ca();
    let replica = Replica::serve_in(&lab, &runtime, &ca);
    let [vip, _] = lab.vips();
    let other = IpAddr::from([192, 0, 2, 77]);
    let own = IpAddr::from(net::FRONT.v4(net::LB));
    let endpoints = || backend.addresses.to_vec();
    let files = Files::new(&ca, "token of node-1");
    let source = files.flags(replica.at);
    let answers = |address: IpAddr, name: &str| {
        eventually_some(format!("{name} behind {address}"), SOON, || {
            let answer = lab.client.namespace.inside(move || ask((address, 80).into()));
            match answer {
                Ok(answer) if answer == name => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    };
    let programming = |name: &str, wanted: &str| {
        eventually_some(format!("{wanted:?}"), SOON, || {
            let found = format!("{:?}", replica.programming_of(name.parse().unwrap()));
            if found.contains(wanted) { Ok(()) } else { Err(found) }
        });
    };
    // Another Gateway, which nothing of this may disturb.
    let with_other = |edge: Vec<IpAddr>, backends: usize| {
        let edge = snapshot_of(edge, 80, endpoints(), 8_080);
        let mut gateways = edge.gateways().to_vec();
        gateways.push(Gateway {
            name: "shop/other".parse().unwrap(),
            addresses: vec![other],
            ..gateways[0].clone()
        });
        let listener = &mut gateways[0].listeners[0];
        listener.backends = vec![listener.backends[0].clone(); backends];
        Snapshot::new(edge.generation(), edge.seed(), gateways, edge.services().to_vec()).unwrap()
    };
    let taken = |address: IpAddr| {
        programming(
            "shop/edge",
            &format!(
                "AddressTaken {{ node: \"node-1\", reason: \"{address} is the node's own address on"
            ),
        );
        programming("shop/other", "Applied");
        answers(other, "be0");
        answers(address, "node");
    };

    replica.push.publish(&with_other(vec![vip, own], 1));
    let mut agent = Agent::follow(&lab, &source, &files.path("state"));
    eventually_some("the agent to be ready", SOON, || agent.ready());
    taken(own);
    answers(vip, "be0");

    replica.push.publish(&with_other(vec![vip], 1));
    programming("shop/edge", "Applied");
    answers(vip, "be0");
    answers(own, "node");

    // An address that the node gets later is its own from then on, and back.
    let device = lab.interfaces()[0];
    let add = || lab.lb.ip(&format!("addr add {vip}/32 dev {device}"));
    let del = || lab.lb.ip(&format!("addr del {vip}/32 dev {device}"));
    add();
    taken(vip);
    del();
    programming("shop/edge", "Applied");
    answers(vip, "be0");

    // So it is while what came after the tables in force is refused.
    replica.push.publish(&with_other(vec![vip], 256));
    programming("shop/edge", "256 backendRefs");
    answers(vip, "be0");
    add();
    taken(vip);
    replica.push.publish(&with_other(vec![vip], 257));
    taken(vip);
    // Over a restart too, from what the agent kept.
    std::thread::sleep(Duration::from_millis(1_500));
    agent.stop();
    agent = Agent::follow(&lab, &source, &files.path("state"));
    eventually_some("the agent to be ready", SOON, || agent.ready());
    taken(vip);
    del();
    programming("shop/edge", "257 backendRefs");
    answers(vip, "be0");
    answers(other, "be0");
    agent.stop();
}

/// What the agent says of a port comes to what the Gateway's status is made of.
#[test]
fn a_port_that_another_program_of_the_node_has_is_told_until_it_is_free() {
    require_root!();
    let lab = Lab::new(LabPlan::default());
    let backend = &lab.backends[0];
    let _server = serve_names(&backend.namespace, 8_080, "be0");
    let other = lab.lb.inside(|| TcpListener::bind("[::]:80").unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ca = ca();
    let replica = Replica::serve_in(&lab, &runtime, &ca);
    let [vip, _] = lab.vips();
    let plain = snapshot_of(vec![vip], 5_000, backend.addresses.to_vec(), 8_080);
    let mut gateways = plain.gateways().to_vec();
    let route = StreamRoute {
        route: RouteId { kind: RouteKind::Http, name: "shop/pages".parse().unwrap() },
        hostnames: vec![],
        backends: gateways[0].listeners[0].backends.clone(),
    };
    let listener = StreamListener {
        name: ListenerName::new("http").unwrap(),
        hostname: None,
        tls: StreamTls::None,
        routes: vec![route],
    };
    let port = Port::new(80).unwrap();
    gateways[0].streams = vec![Stream { port, kind: StreamKind::Plain, listeners: vec![listener] }];
    let services = plain.services().to_vec();
    let wanted = Snapshot::new(plain.generation(), plain.seed(), gateways, services).unwrap();
    replica.push.publish(&wanted);

    let files = Files::new(&ca, "token of node-1");
    let mut agent = Agent::follow(&lab, &files.flags(replica.at), &files.path("state"));
    eventually_some("the agent to be ready", SOON, || agent.ready());
    let becomes = |expected: &Programming| {
        eventually_some(format!("{expected:?}"), SOON, || match replica.programming() {
            Some(found) if found == *expected => Ok(()),
            other => Err(format!("{other:?}")),
        });
    };
    let answers = |port: u16| {
        eventually_some(format!("an answer on port {port}"), SOON, || {
            let answer = lab.client.namespace.inside(move || ask((vip, port).into()));
            match answer {
                Ok(answer) if answer == "be0" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    };
    let reason = "port 80 is taken on this node: `ss -ltnp sport = :80` says who has it, and either \
                  that one or the listener needs another port";
    becomes(&Programming::Refused { node: "node-1".to_owned(), reason: reason.to_owned() });
    answers(5_000);
    drop(other);
    becomes(&Programming::Applied);
    answers(80);
    answers(5_000);
    agent.stop();
}
