//! How large a cluster one controller carries: many objects against a real API
//! server, and many agents.
//!
//! The large ones, in minutes (docs/scale.md):
//! `cargo test --release -p blixt-e2e --features lab --test scale -- --ignored --nocapture --test-threads 1`

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with what went wrong"
)]

mod agents;
mod objects;

use std::fs;
use std::time::{Duration, Instant};

use blixt_controller::push::Material;
use blixt_e2e::{ApiServer, Controller, Id, KubeApi, lab};
use blixt_testkit::netns::{eventually_some, root_or_skip};
use serde_json::Value;
use tokio::runtime::Runtime;

use agents::Agents;
use objects::Size;

/// How long anything may take that is only waited for.
const PATIENCE: Duration = Duration::from_secs(180);

const LARGE: Size = Size { gateways: 500, routes: 1_000, endpoints: 10_000 };

/// Small enough for every day: the way there, and that what each agent is told
/// of a change does not grow with what there is.
#[test]
fn a_small_cluster() {
    measure(Size { gateways: 20, routes: 40, endpoints: 400 }, 20, 10);
}

/// The size that is promised, on as many nodes as such a cluster may have.
#[test]
#[ignore = "takes minutes, and means something in a release build on a quiet machine only"]
fn large_on_100_nodes() {
    measure(LARGE, 100, 1_000);
}

/// The same, on as many as one controller has to bear.
#[test]
#[ignore = "takes minutes, and means something in a release build on a quiet machine only"]
fn large_on_1000_nodes() {
    measure(LARGE, 1_000, 300);
}

fn measure(size: Size, number: usize, changes: usize) {
    lab::require(&ApiServer::PROGRAMS);
    if !root_or_skip("scale") {
        return;
    }
    Controller::build();
    let server = ApiServer::start();
    println!("{size:?}, {number} agents, {changes} changes");
    for object in objects::all(size) {
        server.kube.apply_object(&object).unwrap();
    }

    let begin = Instant::now();
    let controller = Controller::start(&server, "scale");
    eventually_some("the first compilation of all objects", PATIENCE, || {
        let endpoints = controller.metrics().sum("blixt_controller_endpoints", &[]);
        (endpoints == size.endpoints as f64).then_some(()).ok_or(format!("{endpoints} endpoints"))
    });
    let compile = controller.metrics().sum("blixt_controller_compile_seconds", &[]);
    println!("start to first compilation of all: {:.2} s", begin.elapsed().as_secs_f64());
    println!("one compilation: {:.1} ms", compile * 1_000.0);
    println!("controller's memory without agents: {} MiB", memory(&controller, "VmRSS"));

    let ca = ca(&server.kube);
    let runtime = runtime(&server);
    let begin = Instant::now();
    let mut agents = Agents::start(runtime, number, controller.agents_port(), &ca);
    let (mut digest, first) = agents.all_apply(&[], PATIENCE);
    println!(
        "all agents connected and up to date: {:.2} s, {} KiB each",
        (first.at - begin).as_secs_f64(),
        first.bytes / 1_024
    );
    let gateway = objects::gateway_name(size.gateways - 1);
    server.kube.eventually(&Id::new("Gateway", &gateway), programmed);
    println!("last Gateway Programmed: {:.2} s", begin.elapsed().as_secs_f64());

    let (mut times, mut bytes) = (Vec::new(), Vec::new());
    for time in 0..changes {
        agents.forget_bytes();
        let begin = Instant::now();
        server.kube.apply_object(&objects::changed(size, time)).unwrap();
        let (now, change) = agents.all_apply(&digest, PATIENCE);
        digest = now;
        times.push(change.at - begin);
        bytes.push(change.bytes);
    }
    times.sort();
    // The nearest rank.
    let ms = |percent: usize| {
        let rank = (changes * percent).div_ceil(100);
        times[rank - 1].as_secs_f64() * 1_000.0
    };
    println!(
        "an EndpointSlice applied until the last agent has it: p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms",
        ms(50),
        ms(99),
        ms(100)
    );
    let most = *bytes.iter().max().unwrap();
    println!("bytes a change, for each agent: {most}");
    println!(
        "controller's memory with agents: {} MiB, at most {} MiB",
        memory(&controller, "VmRSS"),
        memory(&controller, "VmHWM")
    );
    println!("controller's CPU when nothing changes: {:.1} % of a core", idle(&controller));

    // Claimed: 1 s and 1 GiB with 1,000 agents. A busy machine may take longer.
    assert!(ms(100) < 3_000.0, "a change took {:.0} ms", ms(100));
    let most_memory = memory(&controller, "VmHWM");
    assert!(most_memory < 1_024, "{most_memory} MiB");
    // The aims of docs/scale.md.
    if !cfg!(debug_assertions) {
        let aim = if number > 100 { 1_000.0 } else { 250.0 };
        assert!(ms(99) < aim, "p99 is {:.0} ms, the aim {aim:.0} ms", ms(99));
    }
    // What has changed is one service: its part and no other is told.
    let endpoints = size.endpoints.div_ceil(size.routes) as u64;
    assert!(most < 400 + 40 * endpoints, "{most} bytes for a service of {endpoints} endpoints");
    println!();
    drop(agents);
    controller.stop();
}

fn programmed(gateway: &Value) -> Result<(), String> {
    let conditions = gateway.pointer("/status/conditions").and_then(Value::as_array);
    let programmed = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Programmed" && condition["status"] == "True");
    programmed.then_some(()).ok_or("it is not programmed".to_owned())
}

/// Threads beside the controller.
fn runtime(server: &ApiServer) -> Runtime {
    server.namespace.inside(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().unwrap()
    })
}

/// The CA that the controller has made.
fn ca(kube: &KubeApi) -> Material {
    let text = |secret: &Value, key: &str| {
        let value: k8s_openapi::ByteString =
            serde_json::from_value(secret["data"][key].clone()).map_err(|why| why.to_string())?;
        String::from_utf8(value.0).map_err(|why| why.to_string())
    };
    eventually_some("the CA", PATIENCE, || {
        let id = Id::new("Secret", "blixt-system/blixt-ca");
        let secret = kube.get(&id).ok_or("it is not there")?;
        Ok::<_, String>(Material {
            certificate: text(&secret, "tls.crt")?,
            key: text(&secret, "tls.key")?,
            bundle: text(&secret, "ca.crt")?,
            next: None,
        })
    })
}

/// One of its memory's sizes (proc(5), status), in MiB.
fn memory(controller: &Controller, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", controller.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1_024
}

/// What it takes of a core while nothing changes, in percent.
fn idle(controller: &Controller) -> f64 {
    /// Clock ticks of /proc are these (proc(5), USER_HZ).
    const TICKS_PER_SECOND: f64 = 100.0;
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", controller.pid())).unwrap();
        let behind_name = stat.rsplit_once(')').unwrap().1;
        let fields: Vec<_> = behind_name.split_whitespace().collect();
        fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()
    };
    let (before, begin) = (ticks(), Instant::now());
    std::thread::sleep(Duration::from_secs(5));
    (ticks() - before) / TICKS_PER_SECOND / begin.elapsed().as_secs_f64() * 100.0
}
