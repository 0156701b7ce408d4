//! Changes while traffic flows: in force at once, and no flow that exists
//! notices.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use blixt_e2e::{Answer, Prober, Stage, StagePlan, Starved, ask, ask_over, connect, serve_streams};
use blixt_testkit::netns::eventually;
use blixt_testkit::require_root;
use socket2::{Domain, Socket, Type};

use super::balance::short_rest;
use super::names_everywhere;

/// What a change may take, from the moment when the file has its new contents.
const IN_FORCE: Duration = Duration::from_millis(100);

/// How long a question on a flow that stays open waits for its answer: longer
/// than a busy machine takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a change lasts until the next.
const UNTIL_THE_NEXT: Duration = Duration::from_millis(400);

/// All weight to one backend of TCP port 80 and UDP port 80.
pub(super) fn all_to(stage: &mut Stage, wanted: usize) {
    for listener in &mut stage.gateway.listeners {
        for (n, (_, weight)) in listener.backends.iter_mut().enumerate() {
            *weight = u32::from(n == wanted);
        }
    }
}

/// A question on one flow that stays open: its answers must keep their order
/// and their server.
pub(super) fn udp_flow(
    to: std::net::SocketAddr,
    patience: Duration,
) -> impl FnMut() -> io::Result<String> + Send {
    let mut socket = None;
    let mut number = 0_u64;
    move || {
        let socket = connected(&mut socket, to, patience)?;
        number += 1;
        socket.send(number.to_string().as_bytes())?;
        let mut answer = [0; 64];
        let length = socket.recv(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        match answer.split_once(' ') {
            Some((name, echo)) if echo == number.to_string() => Ok(name.to_owned()),
            _ => Err(io::Error::other(format!("{answer:?} answers question {number}"))),
        }
    }
}

/// The socket for questions. It is made when the first one is asked, where the
/// thread is in the client's namespace.
pub(super) fn connected(
    socket: &mut Option<UdpSocket>,
    to: std::net::SocketAddr,
    patience: Duration,
) -> io::Result<&UdpSocket> {
    if socket.is_none() {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let new = UdpSocket::bind(any)?;
        new.connect(to)?;
        new.set_read_timeout(Some(patience))?;
        *socket = Some(new);
    }
    Ok(socket.as_ref().unwrap())
}

/// A question on one TCP connection that stays open.
fn tcp_flow(to: std::net::SocketAddr) -> impl FnMut() -> io::Result<String> + Send {
    let mut stream = None;
    move || {
        let stream = match &mut stream {
            Some(stream) => stream,
            None => stream.insert(connect(to)?),
        };
        ask_over(stream)
    }
}

/// Every question was answered, by this server.
pub(super) fn all_by(what: &str, answers: &[Answer], server: &str) {
    assert!(answers.len() > 50, "{what} had {} answers only", answers.len());
    for (n, answer) in answers.iter().enumerate() {
        match &answer.name {
            Ok(name) => assert_eq!(name, server, "{what}, question {n}"),
            Err(error) => panic!("{what}, question {n} of {}: {error}", answers.len()),
        }
    }
}

#[test]
fn a_change_is_in_force_in_100_ms_and_no_flow_that_exists_notices() {
    require_root!();
    let plan = StagePlan { flags: short_rest(), ..StagePlan::default() };
    let mut stage = Stage::new(plan, |_, _| ());
    all_to(&mut stage, 0);
    stage.start_agent_with_new_manifests();
    let _servers = names_everywhere(&stage);
    let client = &stage.lab.client.namespace;
    let [v4, v6] = stage.vip(80);
    let pause = Duration::from_millis(1);
    // Flows from before all changes.
    let old = [
        ("a TCP flow", Prober::start(client, pause, tcp_flow(v4))),
        ("a TCP flow over IPv6", Prober::start(client, pause, tcp_flow(v6))),
        ("a UDP flow", Prober::start(client, pause, udp_flow(v4, PATIENCE))),
        ("a UDP flow over IPv6", Prober::start(client, pause, udp_flow(v6, PATIENCE))),
    ];
    // New connections, one after the other.
    let new = Prober::start(client, pause, move || ask(v4));
    std::thread::sleep(Duration::from_millis(300));

    let mut changes = Vec::new();
    let mut starved = Starved::of(stage.agent().pid());
    for wanted in [1, 2, 0, 1, 2] {
        all_to(&mut stage, wanted);
        stage.tell();
        changes.push((Instant::now(), format!("be{wanted}")));
        starved.watch(UNTIL_THE_NEXT);
    }

    let answers = new.stop();
    for (what, prober) in old {
        all_by(what, &prober.stop(), "be0");
    }
    let mut latencies = Vec::new();
    for (n, (changed, server)) in changes.iter().enumerate() {
        let until = changes.get(n + 1).map_or(answers.last().unwrap().asked, |next| next.0);
        // A name that came before the change belongs to what was before.
        let during: Vec<_> = answers
            .iter()
            .filter(|answer| answer.asked >= *changed && answer.answered < until)
            .collect();
        let name = |answer: &Answer| match &answer.name {
            Ok(name) => name.clone(),
            Err(error) => panic!("a new connection failed: {error}"),
        };
        let first = during.iter().position(|&answer| name(answer) == *server);
        let first = first.unwrap_or_else(|| panic!("{server} was never asked"));
        assert!(during[first..].iter().all(|&answer| name(answer) == *server));
        // Whoever came later than that came to the new one. What the agent was
        // ready for and had no CPU for is the machine's.
        let last = during[..first].last().map_or(*changed, |answer| answer.asked);
        let (latency, waited) = (last - *changed, starved.between(*changed, last));
        latencies.push((latency, waited));
        assert!(
            latency <= IN_FORCE + waited,
            "the change to {server} took {latency:?}, with {waited:?} without a CPU"
        );
    }
    println!("changes were in force after (without a CPU for) {latencies:?}");
}

#[test]
fn clients_of_an_endpoint_that_is_gone_are_reset_and_others_stay() {
    require_root!();
    let mut stage = Stage::new(StagePlan::default(), |lab, gateway| {
        // All backends in one Service.
        let everybody = lab.backends.iter().flat_map(|backend| backend.addresses).collect();
        gateway.service("be0").endpoints = everybody;
        gateway.listeners[0].backends.truncate(1);
    });
    let _servers = names_everywhere(&stage);
    for to in stage.vip(80) {
        let mut flows = stage.lab.client.namespace.inside(move || {
            (0..30)
                .map(|_| {
                    let mut stream = connect(to).unwrap();
                    let name = ask_over(&mut stream).unwrap();
                    (name, stream)
                })
                .collect::<Vec<_>>()
        });
        assert!(flows.iter().any(|(name, _)| name == "be1"));

        let gone = stage.lab.backends[1].addresses;
        let with = stage.gateway.clone();
        stage.gateway.service("be0").endpoints.retain(|address| !gone.contains(address));
        stage.tell();
        for (name, stream) in &mut flows {
            if name == "be1" {
                stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
                let error = stream.read(&mut [0]).expect_err("the endpoint is gone");
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{to}: {error}");
            } else {
                assert_eq!(ask_over(stream).unwrap(), *name, "{to}");
            }
        }
        // Who connects again reaches those that are left.
        stage.lab.client.namespace.inside(move || {
            for _ in 0..20 {
                assert_ne!(ask(to).unwrap(), "be1");
            }
        });
        stage.gateway = with;
        stage.tell();
        let client = &stage.lab.client.namespace;
        eventually("be1 to be back", Duration::from_secs(3), || {
            client.inside(move || ask(to).unwrap() == "be1")
        });
    }
}

/// A client's second connection is from the port of its first one, and to somebody else
/// who has the VIP; then that comes back. The first one's endpoint still remembers it.
#[test]
fn a_connection_that_began_elsewhere_is_reset_where_one_from_its_port_has_ended() {
    require_root!();
    let stage = Stage::new(StagePlan::default(), |_, _| ());
    let backends = stage.lab.backends.iter();
    let _servers: Vec<_> =
        backends.map(|backend| serve_streams(&backend.namespace, 8_080)).collect();
    let client = &stage.lab.client.namespace;
    for to in stage.vip(80) {
        let from = client.inside(move || {
            let mut first = connect(to).unwrap();
            first.write_all(b"get 5\n").unwrap();
            // The server ends it first, and so waits for what is late.
            assert_eq!(first.read_to_end(&mut Vec::new()).unwrap(), 5);
            first.local_addr().unwrap()
        });
        client.ip(&format!("address add {} dev lo", to.ip()));
        let (mut second, other_end) = client.inside(move || {
            let somebody = TcpListener::bind(to).unwrap();
            let second = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            second.bind(&from.into()).unwrap();
            second.connect(&to.into()).unwrap();
            (TcpStream::from(second), somebody.accept().unwrap())
        });
        let dropped = || stage.agent().metrics().sum("blixt_drops_total", &["reason=\"no_flow\""]);
        let before = dropped();
        client.ip(&format!("address del {} dev lo", to.ip()));
        second.write_all(b"get 5\n").unwrap();
        second.set_read_timeout(Some(PATIENCE)).unwrap();
        let error = second.read(&mut [0]).expect_err("nobody knows it");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{to}: {error}");
        assert_eq!(dropped(), before + 1.0, "{to}");
        drop(other_end);
    }
}

#[test]
fn what_is_invalid_leaves_everything_as_it_was() {
    require_root!();
    let stage = Stage::new(StagePlan::default(), |_, _| ());
    let _servers = names_everywhere(&stage);
    let client = &stage.lab.client.namespace;
    let [to, _] = stage.vip(80);
    let path = stage.manifests.path().join("all.yaml");
    let good = stage.gateway.yaml();
    for (bad, part) in [
        (good.replace("port: 80, weight", "port: [80, weight"), "last good contents"),
        (good.replace("port: 80}", "port: 65536}"), "65536"),
        (good.replace("weight: 1}", "weight: 1000001}"), "1000001"),
    ] {
        assert_ne!(bad, good);
        std::fs::write(&path, bad).unwrap();
        eventually(format!("a complaint about {part}"), Duration::from_secs(3), || {
            stage.agent().log().contains(part)
        });
        client.inside(move || (0..10).for_each(|_| drop(ask(to).unwrap())));
    }
}
