//! The host path: everybody on a node and outside reaches pods of every kind
//! through the Gateway's addresses, and the node itself does not notice.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with what went wrong"
)]

mod cluster;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::time::Duration;

use blixt_e2e::{Agent, alone, ask, ask_udp, connect, serve_names, stream};
use blixt_testkit::netns::{Namespace, eventually, eventually_some};
use blixt_testkit::require_root;

use crate::cluster::{BACKENDS, Cluster, SNAT, VIPS, to_name, to_streams};

/// The place of the backend that is another node.
const OTHER_NODE: usize = 3;

const MIB: u64 = 1 << 20;

/// What drops whatever nobody has accepted, as Docker leaves it behind, and
/// firewalls do; and a chain that does not.
fn drop_what_is_forwarded(node: &Namespace) {
    for (family, policy) in [("ip", "drop"), ("ip6", "drop"), ("inet", "accept")] {
        let hook = format!("{{ type filter hook forward priority 0; policy {policy}; }}");
        for add in [
            format!("add table {family} filter"),
            format!("add chain {family} filter FORWARD {hook}"),
        ] {
            node.command("nft").arg(add).ok();
        }
    }
}

/// Every client asks every backend, by TCP and UDP, IPv4 and IPv6; its own pod
/// too, which is client and endpoint then.
fn everybody_reaches_everything(cluster: &Cluster) {
    for (who, client) in cluster.clients() {
        for (backend, (name, _)) in BACKENDS.iter().enumerate() {
            let answers = client.inside(move || {
                let questions: [fn(SocketAddr) -> io::Result<String>; 2] = [ask, ask_udp];
                questions.map(|question| to_name(backend).map(question))
            });
            for answer in answers.into_iter().flatten() {
                let said = answer.unwrap_or_else(|error| panic!("{who} to {name}: {error}"));
                assert_eq!(said, *name, "{who}");
            }
        }
    }
}

/// So much that offloads and path MTUs matter, both ways.
fn much_comes_through(client: &Namespace, backend: usize) {
    for to in to_streams(backend) {
        client.inside(move || {
            let mut upload = connect(to).unwrap();
            upload.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            upload.write_all(b"put\n").unwrap();
            stream::send(&mut upload, MIB, || ()).unwrap();
            upload.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            upload.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, format!("{MIB}\n"), "{to}");

            let mut download = connect(to).unwrap();
            download.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            writeln!(download, "get {MIB}").unwrap();
            assert_eq!(stream::receive(&mut download).unwrap(), MIB, "{to}");
        });
    }
}

/// How many packets went into the node's kernel, and came out of it.
fn through_the_kernel(agent: &Agent) -> f64 {
    agent.metrics().sum("blixt_packets_total", &["interface=\"blixt-agent\""])
}

fn nothing_was_dropped(agent: &Agent) {
    let drops = agent.metrics().drops();
    // What devices that come up say to everybody.
    let of_ours = drops.iter().filter(|(reason, _)| !["arp", "ndp"].contains(&reason.as_str()));
    assert_eq!(of_ours.count(), 0, "{drops:?}");
}

#[test]
fn without_a_snat_address_everybody_reaches_everything_through_the_kernel() {
    require_root!();
    let _alone = alone();
    let cluster = Cluster::new(2);
    drop_what_is_forwarded(&cluster.node);
    let agent = cluster.start(&["--workers=2"]);
    everybody_reaches_everything(&cluster);
    let metrics = agent.metrics();
    let flows = metrics.sum("blixt_flow_entries", &[]);
    assert_eq!(flows, metrics.sum("blixt_host_path_flow_entries", &[]));
    assert!(flows >= 80.0, "{flows} flows");
    for (who, client) in cluster.clients() {
        for (backend, (name, _)) in BACKENDS.iter().enumerate() {
            println!("{who} to {name}");
            much_comes_through(client, backend);
        }
    }
    nothing_was_dropped(&agent);
    let status = agent.ctl_text(&["status"]);
    assert!(
        status.contains("for ALL flows to IPv4 and IPv6 endpoints, which is slower"),
        "{status}"
    );
    agent.stop();
}

#[test]
fn with_snat_addresses_only_those_go_through_the_kernel_that_must() {
    require_root!();
    let _alone = alone();
    let cluster = Cluster::new(1);
    let agent = cluster.start(&SNAT);
    let before = through_the_kernel(&agent);
    cluster.outside.inside(|| {
        for to in to_name(OTHER_NODE) {
            ask(to).unwrap();
            ask_udp(to).unwrap();
        }
    });
    assert_eq!(through_the_kernel(&agent), before, "the other node is reached directly");
    everybody_reaches_everything(&cluster);
    // From outside all but to the other node; clients on the node do too, and
    // their packets come through the kernel.
    let flows = agent.metrics().sum("blixt_host_path_flow_entries", &[]);
    assert_eq!(flows, 4.0 * 4.0 * 4.0);
    much_comes_through(&cluster.bridged, OTHER_NODE);
    much_comes_through(&cluster.outside, 1);
    nothing_was_dropped(&agent);

    let explained = |backend: usize| {
        let to = to_name(backend)[0].to_string();
        agent.ctl_text(&["explain", &format!("tcp 10.9.0.100:999 -> {to}")])
    };
    assert!(explained(0).contains("takes the host path"), "{}", explained(0));
    assert!(explained(OTHER_NODE).contains("leaves through eth0"), "{}", explained(OTHER_NODE));
    agent.stop();
}

/// What the node serves and answers itself, of all sizes.
fn the_node_goes_on(cluster: &Cluster) {
    for node in ["10.9.0.1", "fd09::1"] {
        for size in ["56", "4000"] {
            let ping = cluster.outside.command("ping");
            ping.args(["-c", "2", "-i", "0.05", "-W", "1", "-s", size, node]).ok();
        }
        let to = SocketAddr::new(node.parse().unwrap(), 2_222);
        let answer = cluster.outside.inside(move || ask(to));
        assert_eq!(answer.unwrap(), "sshd");
    }
    // Through the node, to a pod.
    for pod in BACKENDS[1].1 {
        cluster.node.command("ping").args(["-c", "1", "-W", "1", pod]).ok();
    }
}

#[test]
fn the_node_goes_on_whatever_becomes_of_the_agent() {
    require_root!();
    let _alone = alone();
    let cluster = Cluster::new(1);
    let _sshd = serve_names(&cluster.node, 2_222, "sshd");
    drop_what_is_forwarded(&cluster.node);
    let before = cluster.inventory();

    let agent = cluster.start(&[]);
    the_node_goes_on(&cluster);
    agent.kill();
    the_node_goes_on(&cluster);
    nothing_goes_round(&cluster);

    // The next one takes over what is left, and takes it away when it ends.
    let agent = cluster.start(&[]);
    everybody_reaches_everything(&cluster);
    the_node_goes_on(&cluster);
    agent.stop();
    the_node_goes_on(&cluster);
    let after = cluster.inventory();
    let left: Vec<_> = after.symmetric_difference(&before).collect();
    assert!(left.is_empty(), "not as it was: {left:#?}");
}

/// A dead agent's routes still lead into its pair, whose other end forwards
/// nothing: what is sent to a VIP ends there.
fn nothing_goes_round(cluster: &Cluster) {
    const EACH: u64 = 10;

    let (sent, back) = cluster.on_the_pair();
    for (_, client) in cluster.clients() {
        client.inside(|| {
            for vip in VIPS {
                let any = if vip.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
                let socket = UdpSocket::bind(any).unwrap();
                for _ in 0..EACH {
                    // From outside nobody answers for the address any more.
                    let _ = socket.send_to(b"round", (vip, 80));
                }
            }
        });
    }
    let expected = |from: u64| from * 2 * EACH;
    eventually("what was sent to reach the pair", Duration::from_secs(5), || {
        cluster.on_the_pair().0 - sent >= expected(3)
    });
    std::thread::sleep(Duration::from_millis(100));
    let (sent_now, back_now) = cluster.on_the_pair();
    // The kernel may report a multicast group meanwhile; all that goes round comes back.
    assert!(back_now - back < EACH, "{} came back out of the pair", back_now - back);
    assert!(sent_now - sent <= expected(4) + 20, "{} packets", sent_now - sent);
}

/// Nobody can be asked what iptables-legacy drops, or what a rule rejects that comes
/// before ours.
#[test]
fn a_firewall_that_drops_in_silence_is_named() {
    require_root!();
    let _alone = alone();
    let cluster = Cluster::new(1);
    let agent = cluster.start(&[]);
    everybody_reaches_everything(&cluster);
    let named = |what: &'static str, word: &'static str| {
        eventually_some(what, Duration::from_secs(15), || match agent.get("/readyz") {
            Err(why) if why.contains(word) => Ok(why),
            other => Err(format!("{other:?}")),
        })
    };
    let ready = || {
        eventually_some("the agent to be ready", Duration::from_secs(15), || agent.get("/readyz"));
        assert_eq!(agent.metrics().sum("blixt_host_path_faults", &[]), 0.0);
        everybody_reaches_everything(&cluster);
    };
    for (tables, other) in
        [("iptables-legacy", "ip6tables-legacy"), ("ip6tables-legacy", "iptables-legacy")]
    {
        let firewall = |rule: &str| {
            cluster.node.command(tables).args(rule.split(' ')).ok();
        };
        firewall("-P FORWARD DROP");
        let why = named("readiness to name it", tables);
        assert!(!why.contains(&format!("`{other}")), "{why}");
        assert_eq!(agent.metrics().sum("blixt_host_path_faults", &[]), 1.0);
        // What it tells to do helps. The policy stays.
        firewall("-A FORWARD -i blixt-host -j ACCEPT");
        firewall("-A FORWARD -o blixt-host -j ACCEPT");
        ready();
    }

    let reject =
        "table inet other { chain forward { type filter hook forward priority 10; reject; }; }";
    cluster.node.command("nft").arg(reject).ok();
    named("readiness to name it", "rules that reject the rest");
    cluster.node.command("nft").arg("delete table inet other").ok();
    ready();
    agent.stop();
}

#[test]
fn what_the_kernel_lacks_is_named_where_it_is_needed() {
    require_root!();
    let _alone = alone();
    let cluster = Cluster::new(1);
    cluster.node.sysctl("net.ipv4.ip_forward", "0");
    let agent = cluster.launch(&SNAT);
    let unready = eventually_some("readiness to say it", Duration::from_secs(15), || {
        match agent.get("/readyz") {
            Err(why) if why.contains("sysctl -w net.ipv4.ip_forward=1") => Ok(why),
            other => Err(format!("{other:?}")),
        }
    });
    assert!(!unready.contains("conf.all.forwarding"), "{unready}");
    assert_eq!(agent.metrics().sum("blixt_host_path_faults", &[]), 1.0);
    cluster.node.sysctl("net.ipv4.ip_forward", "1");
    for device in ["all", "default", "eth0"] {
        cluster.node.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "1");
    }
    eventually_some("the agent to be ready", Duration::from_secs(15), || agent.get("/readyz"));

    // Whoever takes the pair away gets another one.
    cluster.node.ip("link del blixt-host");
    eventually("everything to work again", Duration::from_secs(15), || {
        cluster.outside.inside(|| to_name(0).iter().all(|to| ask(*to).is_ok()))
    });
    everybody_reaches_everything(&cluster);

    // Routes to VIPs come and go with them.
    let led = || cluster.node.ip("route show dev blixt-host").contains(VIPS[0]);
    assert!(led());
    cluster.serve_on(&["10.9.0.51"]);
    eventually("the route to go", Duration::from_secs(5), || !led());
    assert!(cluster.node.ip("route show dev blixt-host").contains("10.9.0.51"));
    // Nobody speaks IPv6 now, so a node without it is as good.
    cluster.node.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
    cluster.node.sysctl("net.ipv6.conf.default.disable_ipv6", "1");
    cluster.node.sysctl("net.ipv6.conf.all.forwarding", "0");
    cluster.node.ip("link del blixt-host");
    eventually_some("IPv4 to work again", Duration::from_secs(15), || {
        let to = SocketAddr::new("10.9.0.51".parse().unwrap(), to_name(0)[0].port());
        cluster.outside.inside(move || ask(to)).map_err(|error| error.to_string())
    });
    eventually_some("the agent to be ready", Duration::from_secs(15), || agent.get("/readyz"));
    assert_eq!(agent.metrics().sum("blixt_host_path_faults", &[]), 0.0);
    for scope in ["all", "default"] {
        cluster.node.sysctl(&format!("net.ipv6.conf.{scope}.disable_ipv6"), "0");
    }
    cluster.serve_on(&VIPS);
    eventually("the route to come", Duration::from_secs(5), led);
    agent.stop();
}
