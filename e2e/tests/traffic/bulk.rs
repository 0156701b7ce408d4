//! Much at once: long transfers in both directions, many short connections.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use blixt_e2e::{Protocol, Stage, StagePlan, ask, connect, serve_names, serve_streams, stream};
use blixt_testkit::netns::{Arms, LabPlan, Offloads, eventually};
use blixt_testkit::require_root;

use super::balance::short_rest;
use super::nothing_is_left;

const MIB: u64 = 1 << 20;

/// How long a transfer may hang.
const PATIENCE: Duration = Duration::from_secs(30);

fn patient(to: SocketAddr) -> TcpStream {
    let stream = connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Gets `bytes` of the stream; panics if one of them is wrong.
pub(super) fn download(to: SocketAddr, bytes: u64) {
    let mut connection = patient(to);
    writeln!(connection, "get {bytes}").unwrap();
    let got = stream::receive(&mut connection).unwrap_or_else(|error| panic!("{to}: {error}"));
    assert_eq!(got, bytes, "{to}");
}

/// Sends `bytes` of the stream; panics if the server misses one of them.
pub(super) fn upload(to: SocketAddr, bytes: u64) {
    let mut connection = patient(to);
    connection.write_all(b"put\n").unwrap();
    stream::send(&mut connection, bytes, || ()).unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, format!("{bytes}\n"), "{to}");
}

fn transfers(lab: LabPlan, bytes: u64) {
    let stage = Stage::new(StagePlan { lab, flags: short_rest() }, |_, _| ());
    let _servers: Vec<_> =
        stage.lab.backends.iter().map(|backend| serve_streams(&backend.namespace, 8_080)).collect();
    for to in stage.vip(80) {
        for transfer in [download, upload] {
            let start = Instant::now();
            stage.lab.client.namespace.inside(move || transfer(to, bytes));
            let mbits = bytes as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e6;
            println!("{to}: {bytes} bytes at {mbits:.0} Mbit/s");
        }
    }
    nothing_is_left(&stage, &[]);
    stage_ends_well(stage);
}

fn stage_ends_well(mut stage: Stage) {
    stage.agent.take().unwrap().stop();
}

#[test]
fn a_gigabyte_in_both_families_and_directions_is_byte_exact() {
    require_root!();
    // A GiB and some in all.
    transfers(LabPlan::default(), 260 * MIB);
}

#[test]
fn transfers_on_one_arm_without_offloads_are_byte_exact() {
    require_root!();
    let lab = LabPlan { arms: Arms::One, offloads: Offloads::Off, ..LabPlan::default() };
    transfers(lab, 16 * MIB);
}

#[test]
fn transfers_on_one_arm_with_offloads_are_byte_exact() {
    require_root!();
    transfers(LabPlan { arms: Arms::One, ..LabPlan::default() }, 16 * MIB);
}

#[test]
fn transfers_over_four_queues_are_byte_exact() {
    require_root!();
    transfers(LabPlan { queues: 4, ..LabPlan::default() }, 16 * MIB);
}

#[test]
#[ignore = "takes minutes: scripts/test long"]
fn ten_gigabytes_are_byte_exact() {
    require_root!();
    transfers(LabPlan::default(), 2_560 * MIB);
}

/// iperf3 opens a control connection and others for its data, to one port, so
/// they have to meet the same server.
#[test]
fn iperf3_finds_its_server_by_tcp_and_udp() {
    require_root!();
    let stage =
        Stage::new(StagePlan { flags: short_rest(), ..StagePlan::default() }, |_, gateway| {
            gateway.listeners.retain_mut(|listener| {
                listener.backends.truncate(1);
                listener.port = 5_201;
                true
            });
            for service in &mut gateway.services {
                service.target_port = 5_201;
            }
        });
    let server =
        stage.lab.backends[0].namespace.command("iperf3").args(["-s", "--forceflush"]).spawn();
    eventually("iperf3 to listen", PATIENCE, || server.stdout().contains("Server listening"));
    for vip in stage.lab.vips() {
        let iperf3 = |arguments: &[&str]| {
            let program = stage.lab.client.namespace.command("iperf3");
            let report = program
                .args(["-J", "-c", &vip.to_string()])
                .args(arguments)
                .limit(Duration::from_secs(90))
                .ok();
            serde_json::from_str::<serde_json::Value>(&report).unwrap()
        };
        // From the client, to the client, and over several connections.
        for direction in [&["-n", "64M"][..], &["-n", "64M", "-R"], &["-n", "64M", "-P", "4"]] {
            let end = &iperf3(direction)["end"];
            let received = end["sum_received"]["bytes"].as_f64().unwrap();
            // What is under way when the sender is done is not counted: some MB of
            // each connection.
            assert!(received > 40e6, "{vip} {direction:?}: {end:#}");
        }
        let end = &iperf3(&["-u", "-b", "20M", "-l", "1200", "-t", "2"])["end"];
        let lost = end["sum"]["lost_percent"].as_f64().unwrap();
        assert!(lost < 1.0, "{vip}: {end:#}");
    }
    drop(server);
    // Data that comes after its connection's end is refused, as a server of
    // its own would.
    nothing_is_left(&stage, &["no_flow"]);
}

fn short_connections(count: usize) {
    const CLIENTS: usize = 8;
    let plan = StagePlan { flags: short_rest(), ..StagePlan::default() };
    let stage = Stage::new(plan, |_, gateway| {
        gateway.listeners.retain(|listener| listener.protocol == Protocol::Tcp);
    });
    let _servers: Vec<_> = (0..3)
        .map(|n| serve_names(&stage.lab.backends[n].namespace, 8_080, &format!("be{n}")))
        .collect();
    // More ports, and those of ended connections again after a second, or one
    // client would run out of them (net.ipv4.tcp_tw_reuse in ip-sysctl.rst).
    stage.lab.client.namespace.sysctl("net.ipv4.ip_local_port_range", "1024 65535");
    stage.lab.client.namespace.sysctl("net.ipv4.tcp_tw_reuse", "1");
    let vips = stage.vip(80);
    let start = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            stage.lab.client.namespace.thread(move || {
                let mut failures = BTreeMap::<String, usize>::new();
                for n in 0..count / CLIENTS {
                    if let Err(error) = ask(vips[(client + n) % 2]) {
                        *failures.entry(error.to_string()).or_default() += 1;
                    }
                }
                failures
            })
        })
        .collect();
    for client in clients {
        let failures = client.join().unwrap();
        assert!(failures.is_empty(), "{failures:?}\n{:?}", stage.agent().metrics().drops());
    }
    println!("{count} connections in {:?}", start.elapsed());
    let metrics = stage.agent().metrics();
    assert_eq!(metrics.sum("blixt_new_flows_total", &[]), count as f64);
    nothing_is_left(&stage, &[]);
    stage_ends_well(stage);
}

#[test]
fn ten_thousand_short_connections_leave_nothing_behind() {
    require_root!();
    short_connections(10_000);
}

#[test]
#[ignore = "takes minutes: scripts/test long"]
fn two_hundred_thousand_short_connections_leave_nothing_behind() {
    require_root!();
    short_connections(200_000);
}
