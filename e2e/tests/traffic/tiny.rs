//! Little of everything, and many who want it: each worker has 64 flows, 16
//! SNAT ports and 32 frames. What has begun goes on, what is refused has a
//! name, and afterwards everything is as before.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use blixt_e2e::{Metrics, Stage, connect, get_over, put_over, serve_digests};
use blixt_testkit::netns::{Arms, LabPlan};
use blixt_testkit::require_root;
use socket2::SockRef;

use super::nothing_is_left;
use super::pressure::{everywhere, stage};

const FLOWS: u32 = 64;
const PORTS: u32 = 16;
const FRAMES: u32 = 32;
/// Of an MTU of 1,500.
const FRAME_BYTES: u32 = 2_048;

/// How long a short connection may take: a lost packet or two, and then its
/// client comes again.
const SHORT: Duration = Duration::from_secs(2);

/// How much of a transfer is under way, or half of it (socket(7)): four of them
/// do not by themselves fill rings of 16 places over and over.
const BUFFER: usize = 4 << 10;

/// Reasons that say what there is too little of.
const TOO_LITTLE: [&str; 4] = ["flow_table_full", "snat_ports", "no_frame", "tx_ring_full"];

/// Those, and what comes of them: packets that wait for a neighbour where few
/// can, and packets of a flow that gave way or whose end was lost.
const NAMED: [&str; 7] = [
    "flow_table_full",
    "snat_ports",
    "no_frame",
    "tx_ring_full",
    "no_flow",
    "hold_full",
    "unresolved",
];

/// A stage with one interface, and of that one queue for each worker. A queue has
/// as many frames as two of its rings, of which the shortest has 16 places.
fn tiny(workers: u32) -> Stage {
    let last = 50_000 + PORTS * workers - 1;
    let flags = format!(
        "--workers {workers} --flow-capacity {FLOWS} --snat-ports 50000-{last} --ring-entries {} \
         --tcp-established-timeout 12s",
        FRAMES / 2
    );
    stage(&flags, LabPlan { arms: Arms::One, queues: workers, ..LabPlan::default() })
}

/// A few bytes there and their digest back, on a connection of their own.
fn short(to: SocketAddr) -> io::Result<()> {
    let mut stream = connect(to)?;
    stream.set_read_timeout(Some(SHORT))?;
    stream.write_all(b"put\nten bytes.")?;
    stream.shutdown(Shutdown::Write)?;
    let mut digest = String::new();
    stream.read_to_string(&mut digest)?;
    if digest.len() == 64 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Connections, until one cannot be had: for three tries, since packets are
/// lost where rings are short, and wait where a neighbour is not known.
fn as_many(to: SocketAddr) -> Vec<TcpStream> {
    std::iter::from_fn(|| (0..3).find_map(|_| connect(to).ok())).take(20).collect()
}

/// Has the kernels' TCP ask again after a second at most for what is lost several
/// times, and not after many seconds, when its flow has been idle for too long
/// (tcp_rto_max_ms in ip-sysctl.rst; where Linux is older than 6.15 it waits).
fn impatient(stage: &Stage) {
    let hosts = stage.lab.backends.iter().chain([&stage.lab.client]);
    for host in hosts {
        let write = "echo 1000 > /proc/sys/net/ipv4/tcp_rto_max_ms";
        host.namespace.command("sh").args(["-c", write]).run();
    }
}

/// Transfers with a digest, one in each direction over each family. All are
/// connected before the first of them begins.
fn transfers(stage: &Stage, enough: &Arc<AtomicBool>) -> Vec<(String, JoinHandle<u64>)> {
    type Transfer = fn(TcpStream, &AtomicBool) -> io::Result<u64>;
    let ways = [("get", get_over as Transfer), ("put", put_over as Transfer)];
    let client = &stage.lab.client.namespace;
    let all = stage.vip(80).into_iter().flat_map(|to| ways.map(|(what, way)| (what, to, way)));
    let connected: Vec<_> = all
        .map(|(what, to, way)| {
            let stream = client.inside(move || connect(to).unwrap());
            let socket = SockRef::from(&stream);
            socket.set_recv_buffer_size(BUFFER).unwrap();
            socket.set_send_buffer_size(BUFFER).unwrap();
            (format!("{what} {to}"), stream, way)
        })
        .collect();
    let begin = |(what, stream, way): (String, TcpStream, Transfer)| {
        let (named, enough) = (what.clone(), Arc::clone(enough));
        let transfer = client.thread(move || {
            way(stream, &enough).unwrap_or_else(|error| panic!("{named}: {error}"))
        });
        (what, transfer)
    };
    connected.into_iter().map(begin).collect()
}

/// Clients that come and go for so long: how many were served, and how many
/// not.
fn come_and_go(stage: &Stage, clients: usize, duration: Duration) -> (usize, usize) {
    let vips = stage.vip(80);
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..clients)
        .map(|client| {
            let over = Arc::clone(&over);
            stage.lab.client.namespace.thread(move || {
                let (mut good, mut bad) = (0, 0);
                while !over.load(Ordering::Relaxed) {
                    let outcome = short(vips[client % 2]);
                    *if outcome.is_ok() { &mut good } else { &mut bad } += 1;
                }
                (good, bad)
            })
        })
        .collect();
    std::thread::sleep(duration);
    over.store(true, Ordering::Relaxed);
    clients.into_iter().map(|client| client.join().unwrap()).fold((0, 0), |sum, each| {
        let each: (usize, usize) = each;
        (sum.0 + each.0, sum.1 + each.1)
    })
}

fn too_little(metrics: &Metrics) -> BTreeMap<String, f64> {
    let mut drops = metrics.drops();
    drops.retain(|reason, _| TOO_LITTLE.contains(&reason.as_str()));
    drops
}

fn everything_is_short(workers: u32) {
    let mut stage = tiny(workers);
    let metrics = stage.agent().metrics();
    let frames = metrics.sum("blixt_memory_bytes", &["part=\"frames\""]);
    assert_eq!(frames, f64::from(workers * FRAMES * FRAME_BYTES));
    assert_eq!(metrics.sum("blixt_flow_capacity", &[]), f64::from(workers * FLOWS));
    impatient(&stage);
    let _servers = everywhere(&stage, |n| serve_digests(&stage.lab.backends[n].namespace, 8_080));

    let hosts = stage.lab.backends.iter().chain([&stage.lab.client]);
    for address in hosts.flat_map(|host| host.addresses) {
        stage.lab.lb.command("ping").args(["-c", "1", "-W", "2", &address.to_string()]).ok();
    }

    // The transfers have their flows before the others come.
    let enough = Arc::new(AtomicBool::new(false));
    let transfers = transfers(&stage, &enough);
    let new = stage.agent().metrics().sum("blixt_new_flows_total", &[]);
    assert_eq!(new, transfers.len() as f64);

    // Who has a connection keeps it: the ports for each of three endpoints are
    // soon taken, and with both families the table is full.
    let mut open = Vec::new();
    for to in stage.vip(80) {
        let clients: Vec<_> =
            (0..10).map(|_| stage.lab.client.namespace.thread(move || as_many(to))).collect();
        open.extend(clients.into_iter().flat_map(|client| client.join().unwrap()));
    }
    let drops = stage.agent().metrics().drops();
    println!("{workers} workers: {} connections at once: {drops:?}", open.len());
    assert!(drops.contains_key("snat_ports") && drops.contains_key("flow_table_full"), "{drops:?}");
    assert!(transfers.iter().all(|(_, transfer)| !transfer.is_finished()));
    drop(open);

    let (good, bad) = come_and_go(&stage, 12, Duration::from_secs(3));
    println!(
        "{good} short connections, {bad} refused or lost: {:?}",
        stage.agent().metrics().drops()
    );
    assert!(good > 0);
    // Rings of 16 packets take no burst of TCP's; the kernel says which was full.
    let metrics = stage.agent().metrics();
    let rings = ["fill_ring_empty", "rx_ring_full", "tx_ring_full"]
        .map(|ring| metrics.sum(&format!("blixt_xsk_{ring}_total"), &[]));
    println!("fill rings empty, rx rings full, tx rings full: {rings:?}");
    assert!(rings[0] + rings[1] > 0.0);

    // Nothing of that has touched what was there.
    enough.store(true, Ordering::Relaxed);
    for (what, transfer) in transfers {
        let bytes = transfer.join().unwrap();
        println!("{what}: {bytes} bytes, both ends agree");
        assert!(bytes > 0, "{what}");
    }
    nothing_is_left(&stage, &NAMED);

    // And everything is as before.
    let before = too_little(&stage.agent().metrics());
    for to in stage.vip(80).into_iter().flat_map(|to| [to; 3]) {
        stage.lab.client.namespace.inside(move || short(to)).unwrap();
    }
    assert_eq!(too_little(&stage.agent().metrics()), before);
    nothing_is_left(&stage, &NAMED);
    let stopped = stage.agent.take().unwrap().stop();
    let accounts = stopped.log.lines().filter(|line| line.contains("all frames are home"));
    let all = accounts.filter(|line| line.contains(&format!("frames={FRAMES}"))).count();
    assert_eq!(all, workers as usize, "{}", stopped.log);
}

#[test]
fn with_64_flows_16_ports_and_32_frames_transfers_go_on_and_the_rest_is_named() {
    require_root!();
    everything_is_short(1);
}

#[test]
fn two_workers_with_as_little_keep_what_they_have_too() {
    require_root!();
    everything_is_short(2);
}
