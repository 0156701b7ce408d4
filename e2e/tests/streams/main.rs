//! HTTP, HTTPS and TLS listeners: connections that end on the node's own TCP
//! stack, with nginx behind them and curl in front.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with what went wrong"
)]

mod capabilities;
mod changes;
mod limits;
mod world;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use blixt_e2e::{Agent, alone, connect};
use blixt_testkit::netns::eventually;
use blixt_testkit::require_root;

use crate::world::{VIPS, World, curl, get, vips};

/// Ports with a listener.
const TCP: u16 = 5_000;
const HTTP: u16 = 80;

/// curl's numbers: a connection that was reset, in the TLS handshake or later.
const RESET: [i32; 2] = [35, 56];

/// What was counted for a listener's backendRefs.
fn counted(agent: &Agent, metric: &str, listener: &str) -> f64 {
    agent.metrics().sum(metric, &[&format!("listener=\"{listener}\"")])
}

fn refused(agent: &Agent, reason: &str) -> f64 {
    let label = format!("reason=\"{reason}\"");
    agent.metrics().sum("blixt_streams_refused_total", &[&label])
}

#[test]
fn everybody_reaches_every_kind_of_listener() {
    require_root!();
    let _alone = alone();
    let world = World::new();
    let before = world.inventory();
    let agent = world.start();
    let (https, itself) =
        (world.trusting(&[&world.wanted.certificate]), world.trusting(&[&world.own]));
    for (who, client) in world.clients() {
        for port in [HTTP, TCP] {
            for to in vips(port) {
                // Both of them, by and by.
                let mut seen = BTreeMap::new();
                for _ in 0..24 {
                    let name = client.inside(move || get(to));
                    let name = name.unwrap_or_else(|error| panic!("{who} to {to}: {error}"));
                    *seen.entry(name).or_insert(0) += 1;
                }
                let names: Vec<_> = seen.keys().map(String::as_str).collect();
                assert_eq!(names, ["a", "b"], "{who} to {to}");
            }
        }
        for vip in VIPS {
            let name = curl(client, "www.example.com", vip, &https);
            let name = name.unwrap_or_else(|code| panic!("{who} to {vip}: curl ends with {code}"));
            assert!(["a", "b"].contains(&name.as_str()), "{who} to {vip}: {name}");
            // Passed through: it is the endpoint's own certificate that is trusted.
            let name = curl(client, "db.example.com", vip, &itself);
            let name = name.unwrap_or_else(|code| panic!("{who} to {vip}: curl ends with {code}"));
            assert!(["a itself", "b itself"].contains(&name.as_str()), "{who} to {vip}: {name}");
            let code = curl(client, "www.example.org", vip, &https).unwrap_err();
            assert!(RESET.contains(&code), "{who} to {vip}: curl ends with {code}");
        }
    }
    let clients = world.clients().len() as f64;
    assert_eq!(refused(&agent, "no_server_name"), clients * 2.0);
    for (listener, each) in [("http", 48.0), ("https", 2.0), ("passed", 2.0), ("tcp", 48.0)] {
        let flows = counted(&agent, "blixt_backend_new_flows_total", listener);
        assert_eq!(flows, clients * each, "{listener}");
        assert!(counted(&agent, "blixt_backend_bytes_total", listener) > flows * 10.0);
        assert_eq!(counted(&agent, "blixt_backend_refused_flows_total", listener), 0.0);
    }
    eventually("all streams to end", Duration::from_secs(5), || {
        agent.metrics().sum("blixt_streams", &[]) == 0.0
            && counted(&agent, "blixt_backend_flows", "https") == 0.0
    });
    assert!(agent.metrics().drops().is_empty(), "{:?}", agent.metrics().drops());
    what_blixtctl_shows(&world, &agent);
    the_kernel_answers_for_no_vip(&world);
    agent.stop();
    let after = world.inventory();
    let left: Vec<_> = after.symmetric_difference(&before).collect();
    assert!(left.is_empty(), "not as it was: {left:#?}");
}

fn what_blixtctl_shows(world: &World, agent: &Agent) {
    let shown = agent.ctl_text(&["lb"]);
    for part in [
        "TCP 10.9.0.50:5000",
        "TCP 10.9.0.50:80",
        "default/edge/http, HTTPRoute default/web\nends on the node\n",
        "default/edge/https, HTTPRoute default/web\nTLS ends on the node, for *.example.com\n",
        "TCP [fd09::50]:443\n",
        "default/edge/passed, TLSRoute default/db\nTLS is passed through, for db.example.com\n",
    ] {
        let lines: String = shown.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
        assert!(lines.contains(part), "{part:?} is not in\n{shown}");
    }
    // What decides is told; of a name that nobody has said yet nothing can be.
    for (port, parts) in [
        ("80", ["default/edge/http, HTTPRoute default/web", "its bytes go to 10."]),
        ("443", ["one of several", "the name that it asks for decides"]),
    ] {
        let to = format!("10.9.0.50:{port}");
        let told = agent.ctl_text(&["explain", "198.51.100.7:4711", &to]);
        let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in parts {
            assert!(told.contains(part), "{part:?} is not in {told}");
        }
    }
    // One that stays open is listed.
    let open = world.outside.inside(|| connect(vips(HTTP)[0]).unwrap());
    eventually("the stream to be listed", Duration::from_secs(5), || {
        let flows = agent.ctl_text(&["flows", "--vip", "10.9.0.50:80"]);
        flows.contains("10.9.0.50:80") && flows.contains("established")
    });
    assert_eq!(agent.ctl_text(&["flows", "--count", "--vip", "10.9.0.50:80"]).trim(), "1");
    drop(open);
}

/// The VIP is nobody's address on the node: its neighbours on the bridge ask in
/// vain who has it. Whoever asks by the interface with our program is answered by
/// the agent, and so are pings.
fn the_kernel_answers_for_no_vip(world: &World) {
    assert!(!world.node.ip("-o address show").contains(VIPS[0]));
    world.pod.ip("route add 10.9.0.50/32 dev eth0");
    let ping = world.pod.command("ping").args(["-c", "1", "-W", "2", VIPS[0]]).run();
    assert!(!ping.status.success(), "somebody answers: {}", ping.stdout);
    world.pod.ip("route del 10.9.0.50/32 dev eth0");
    for vip in VIPS {
        world.outside.command("ping").args(["-c", "1", "-W", "2", vip]).ok();
    }
}

#[test]
fn shares_are_kept_and_those_that_nobody_serves_are_reset() {
    require_root!();
    let _alone = alone();
    let mut world = World::new();
    world.tell(|wanted| wanted.weights = [2, 1, 1]);
    let agent = world.start();
    const ASKED: usize = 400;
    for to in vips(HTTP) {
        let answers = world.outside.inside(move || {
            (0..ASKED).map(|_| get(to).map_err(|error| error.kind())).collect::<Vec<_>>()
        });
        let count = |wanted: Result<&str, ErrorKind>| {
            let is_it = |answer: &&Result<String, ErrorKind>| match (answer, &wanted) {
                (Ok(name), Ok(wanted)) => name == wanted,
                (Err(kind), Err(wanted)) => kind == wanted,
                _ => false,
            };
            answers.iter().filter(is_it).count()
        };
        let (a, b) = (count(Ok("a")), count(Ok("b")));
        let reset = count(Err(ErrorKind::ConnectionReset));
        assert_eq!(a + b + reset, ASKED, "{answers:?}");
        // Four standard deviations of so many throws.
        for (share, found) in [(0.5, a), (0.25, b), (0.25, reset)] {
            let expected = ASKED as f64 * share;
            let deviation = (ASKED as f64 * share * (1.0 - share)).sqrt();
            let off = (found as f64 - expected).abs();
            assert!(off < 4.0 * deviation, "{found} of {ASKED}, expected {expected}");
        }
    }
    let new = counted(&agent, "blixt_backend_new_flows_total", "http");
    let rejected = counted(&agent, "blixt_backend_refused_flows_total", "http");
    assert_eq!(new + rejected, 2.0 * ASKED as f64);
    assert_eq!(refused(&agent, "bad_backend"), rejected);
    agent.stop();
}

#[test]
fn the_path_of_packets_beside_it_is_undisturbed() {
    require_root!();
    let _alone = alone();
    let world = World::new();
    let agent = world.start();
    // Flows through the packet path stay open while streams come and go.
    let mut flows: Vec<_> = vips(TCP)
        .into_iter()
        .map(|to| world.outside.inside(move || connect(to).unwrap()))
        .collect();
    for to in vips(HTTP) {
        world.outside.inside(move || (0..50).for_each(|_| drop(get(to).unwrap())));
    }
    for flow in &mut flows {
        flow.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        flow.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        flow.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // A port of the VIP without a listener is refused by the agent, not the kernel.
    let to = SocketAddr::new(VIPS[0].parse().unwrap(), 81);
    let error = world.outside.inside(move || connect(to).map(drop)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    eventually("it to be counted", Duration::from_secs(3), || {
        agent.metrics().drops().get("no_listener") == Some(&1.0)
    });
    agent.stop();
}
