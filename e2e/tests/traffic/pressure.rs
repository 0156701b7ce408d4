//! Too much at once: clients that do not exist, and more flows than there is
//! memory for. What has begun goes on, and what is refused has a name.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use blixt_e2e::{Agent, Protocol, Server, Stage, StagePlan, ask, connect, serve_names};
use blixt_testkit::frame::tcp_syn;
use blixt_testkit::netns::{LabPlan, eventually, eventually_some};
use blixt_testkit::require_root;
use socket2::{Domain, SockAddr, Socket, Type};

use super::nothing_is_left;

const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn flags(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// A stage of TCP only, with flows that are forgotten soon.
pub(super) fn stage(more: &str, lab: LabPlan) -> Stage {
    let soon = "--tcp-rest 1s --tcp-transitory-timeout 3s";
    let plan = StagePlan { lab, flags: flags(&format!("{soon} {more}")) };
    Stage::new(plan, |_, gateway| {
        gateway.listeners.retain(|listener| listener.protocol == Protocol::Tcp);
    })
}

pub(super) fn everywhere(stage: &Stage, serve: impl Fn(usize) -> Server) -> Vec<Server> {
    (0..stage.lab.backends.len()).map(serve).collect()
}

/// Sends SYNs in the name of clients that do not exist, `per_ms` each
/// millisecond, until it is dropped.
struct Flood {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Flood {
    fn start(stage: &Stage, to: SocketAddr, per_ms: usize) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        // More than any table of these tests holds, of the addresses for
        // benchmarks (RFC 2544).
        let packets: Vec<_> = (0..16_384_u16)
            .map(|n| {
                let [high, low] = n.to_be_bytes();
                let client = SocketAddr::from((Ipv4Addr::new(198, 18, high, low), 1_024 + n));
                tcp_syn(client, to).ip_packet()
            })
            .collect();
        let thread = stage.lab.client.namespace.thread(move || {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(255.into())).unwrap();
            let to = SockAddr::from(to);
            let mut sent = 0;
            for batch in packets.chunks(per_ms).cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                for packet in batch {
                    sent += u64::from(socket.send_to(packet, &to).is_ok());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            sent
        });
        Self { over, thread: Some(thread) }
    }

    fn stop(mut self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Asks over an open connection, however often a segment is lost.
fn talk(stream: &mut BufReader<TcpStream>) -> String {
    stream.get_mut().write_all(b"who\n").unwrap();
    let mut name = String::new();
    stream.read_line(&mut name).unwrap();
    name
}

#[test]
fn a_syn_flood_disturbs_neither_those_who_are_there_nor_those_who_come() {
    require_root!();
    let mut stage = stage("--flow-capacity 1024 --tcp-established-timeout 6s", LabPlan::default());
    let _servers = everywhere(&stage, |n| {
        serve_names(&stage.lab.backends[n].namespace, 8_080, &format!("be{n}"))
    });
    let [to, to6] = stage.vip(80);
    let mut open = stage.lab.client.namespace.inside(move || BufReader::new(connect(to).unwrap()));
    open.get_mut().set_read_timeout(Some(PATIENCE)).unwrap();
    let name = talk(&mut open);
    let metric = |name| stage.agent().metrics().sum(name, &[]);

    let flood = Flood::start(&stage, to, 10);
    eventually("the flow table to be full", PATIENCE, || metric("blixt_evicted_flows_total") > 0.0);
    let (mut clients, mut tries) = (0, 0);
    let began = Instant::now();
    while clients < 20 || metric("blixt_evicted_flows_total") < 10_000.0 {
        assert!(began.elapsed() < 3 * PATIENCE, "{clients} clients in {tries} tries");
        clients += 1;
        // One lost packet is one second (RFC 6298 §2.1): another try, then.
        let to = if clients % 2 == 0 { to } else { to6 };
        eventually_some("a new client to be served", PATIENCE, || {
            tries += 1;
            stage.lab.client.namespace.inside(move || ask(to)).map_err(|error| error.to_string())
        });
        assert_eq!(talk(&mut open), name);
    }
    let sent = flood.stop();
    let metrics = stage.agent().metrics();
    let evicted = metrics.sum("blixt_evicted_flows_total", &[]);
    let drops = metrics.drops();
    println!(
        "{sent} SYNs, {evicted} gave way; {clients} clients were served in {tries} tries: {drops:?}"
    );
    assert!(!drops.contains_key("flow_table_full"), "{drops:?}");
    drop(open);
    // Answers to nobody: no route leads there, and their flow may have given
    // way when the endpoint sends one again. At the start, endpoints' MAC
    // addresses are not known yet.
    let named = ["unroutable", "no_flow", "reset_limit", "tx_ring_full", "no_frame", "hold_full"];
    nothing_is_left(&stage, &named);
    stage.lab.client.namespace.inside(move || ask(to)).unwrap();
    stage.agent.take().unwrap().stop();
}

#[test]
fn ten_million_flows_have_their_memory_and_it_is_told() {
    require_root!();
    let mut stage = stage("--flow-capacity 10000000 --memory-budget 2GiB", LabPlan::default());
    let _servers = everywhere(&stage, |n| {
        serve_names(&stage.lab.backends[n].namespace, 8_080, &format!("be{n}"))
    });
    let metrics = stage.agent().metrics();
    let flows = metrics.sum("blixt_memory_bytes", &["part=\"flows\""]);
    assert!(flows <= 10e6 * 128.0, "{flows}");
    assert_eq!(metrics.sum("blixt_flow_capacity", &[]), 10e6);
    let said = stage.agent().ctl_text(&["status"]);
    assert!(said.contains("\nMemory  1.1 GiB taken: flow tables 1.1 GiB, frames "), "{said}");
    assert!(said.contains("; 2.0 GiB allowed\n"), "{said}");
    assert!(stage.agent().log().contains("has taken 1.1 GiB of memory (flow tables 1.1 GiB"));
    // As the kernel counts it.
    let status = std::fs::read_to_string(format!("/proc/{}/status", stage.agent().pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident: f64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    let taken = metrics.sum("blixt_memory_bytes", &[]) / 1024.0;
    println!("{taken} KiB taken, {resident} KiB resident");
    assert!((taken..taken + 128.0 * 1024.0).contains(&resident));
    for to in stage.vip(80) {
        stage.lab.client.namespace.inside(move || ask(to)).unwrap();
    }
    nothing_is_left(&stage, &[]);
    stage.agent.take().unwrap().stop();

    // And what is not there, or not allowed, is refused at once.
    for (more, part) in [
        ("--flow-capacity 268435456 --workers 64", "are available ("),
        ("--flow-capacity 10000000 --memory-budget 1GiB", "--memory-budget allows 1.0 GiB"),
    ] {
        let agent = Agent::launch(&stage.lab, &stage.manifests, &flags(more));
        eventually("the agent to refuse", PATIENCE, || agent.log().contains(part));
        let log = agent.log();
        assert_eq!(log.matches("ERROR").count(), 1, "{log}");
        assert!(log.contains("give --flow-capacity "), "{log}");
    }
}
