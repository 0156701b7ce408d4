//! Where it is measured: one network namespace, everything in it on veths.
//!
//! ```text
//! generator -> g0 == n0  contestant  n1 == s0 -> sink
//!   (core 0)              (core 1)
//! ```
//!
//! The generator is an XDP program that the kernel runs again and again; the
//! sink is one that drops everything. Neither needs a socket, so that the
//! contestant is what limits.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use blixt_afxdp::lab::{Attached, Hook, Program};
use blixt_afxdp::{FrameBytes, Sizes, nic};
use blixt_testkit::frame;
use blixt_testkit::netns::{Namespace, program};

use crate::Error;

/// The interface that packets come in by.
pub const NEAR_IN: &str = "n0";
/// The one they leave by.
pub const NEAR_OUT: &str = "n1";
/// Where the contestant runs; the generator runs on core 0.
pub const CORE: usize = 1;
/// MAC addresses of `n0` and `n1`.
pub const OUR_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0xb0], [2, 0, 0, 0, 0, 0xb1]];
/// The MAC address of the next hop behind `n1`.
pub const NEXT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xe1];
/// Both contestants' frames and rings.
pub const SIZES: Sizes =
    Sizes { frames: 8_192, frame_bytes: FrameBytes::Half, ring_entries: 2_048 };

/// A client, and what it sends to.
pub const CLIENT: &str = "192.0.2.2:32768";
/// The listener.
pub const VIP: &str = "192.0.2.100:53";

/// The namespace, its links and its programs.
#[derive(Debug)]
pub struct Rig {
    name: String,
    generator: Arc<Program>,
    frame: Arc<Vec<u8>>,
    _sink: Attached,
    _inputs: Vec<Attached>,
    programs: [Program; 2],
}

/// What one interval gave.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Packets a second that arrived at the sink.
    pub packets_per_second: f64,
    /// Nanoseconds of the contestant's own CPU time for each.
    pub cpu_ns_per_packet: f64,
    /// Packets a second that the generator made.
    pub offered_per_second: f64,
}

impl Rig {
    /// Builds it. To be called by a thread inside of `namespace`, which
    /// nobody else uses.
    pub fn new(name: &str, flows: u32, frame_bytes: usize) -> Result<Self, Error> {
        let rig_ip = |arguments: &str| {
            program("ip").args(["-n", name]).args(arguments.split_whitespace()).ok();
        };
        for (near, far, mac) in [(NEAR_IN, "g0", OUR_MACS[0]), (NEAR_OUT, "s0", OUR_MACS[1])] {
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            rig_ip(&format!("link add {near} address {mac} type veth peer name {far}"));
            for device in [near, far] {
                rig_ip(&format!("link set {device} up"));
            }
        }
        let sink = Program::drop_all()?.attach("s0", Hook::Native)?;
        let programs = [Program::redirect_all(1)?, Program::redirect_all(1)?];
        let mut inputs = Vec::new();
        for (interface, program) in [NEAR_IN, NEAR_OUT].iter().zip(&programs) {
            inputs.push(program.attach(interface, Hook::Native)?);
        }
        let out = nic::ifindex("g0").ok_or("there is no g0")?;
        let generator = Program::generate(out, flows)?;
        let empty = frame::udp(CLIENT.parse()?, VIP.parse()?).bytes().len();
        let payload = vec![0; frame_bytes.saturating_sub(empty)];
        let frame = frame::udp(CLIENT.parse()?, VIP.parse()?)
            .payload(&payload)
            .from([2, 0, 0, 0, 0, 0xc1])
            .to(OUR_MACS[0])
            .bytes();
        Ok(Self {
            name: name.to_owned(),
            generator: Arc::new(generator),
            frame: Arc::new(frame),
            _sink: sink,
            _inputs: inputs,
            programs,
        })
    }

    /// Gives `n0` (0) or `n1` (1) its socket.
    pub fn set_socket(&self, side: usize, socket: impl AsFd) -> Result<(), Error> {
        let program = self.programs.get(side).ok_or("there are two sides")?;
        Ok(program.set_socket(0, socket.as_fd())?)
    }

    /// Sends for `warm_up`, and then for `interval`, which is measured.
    /// `thread` is the name of the contestant's.
    pub fn measure(
        &self,
        thread: &str,
        warm_up: Duration,
        interval: Duration,
    ) -> Result<Measured, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        // The kernel takes 20 ms to begin a run; meanwhile the other one runs.
        let sending = [self.generate(&stop), self.generate(&stop)];
        std::thread::sleep(warm_up);
        let before = self.reading(thread)?;
        std::thread::sleep(interval);
        let after = self.reading(thread)?;
        stop.store(true, Ordering::Relaxed);
        let mut offered_per_second = 0.0;
        for generator in sending {
            offered_per_second += generator.join().map_err(|_| "the generator panicked")??;
        }
        let seconds = (after.at - before.at).as_secs_f64();
        let packets = (after.packets - before.packets) as f64;
        Ok(Measured {
            packets_per_second: packets / seconds,
            cpu_ns_per_packet: (after.cpu_ns - before.cpu_ns) as f64 / packets.max(1.0),
            offered_per_second,
        })
    }

    /// A generator's thread; it ends with what it made a second.
    fn generate(&self, stop: &Arc<AtomicBool>) -> JoinHandle<Result<f64, std::io::Error>> {
        const ROUND: u32 = 1 << 18;
        let (program, frame) = (Arc::clone(&self.generator), Arc::clone(&self.frame));
        let stop = Arc::clone(stop);
        // A new thread is in the namespace of the one that starts it.
        std::thread::spawn(move || {
            core_affinity::set_for_current(core_affinity::CoreId { id: 0 });
            let start = Instant::now();
            let mut made: u64 = 0;
            while !stop.load(Ordering::Relaxed) {
                program.run(&frame, ROUND)?;
                made += u64::from(ROUND);
            }
            Ok(made as f64 / start.elapsed().as_secs_f64())
        })
    }

    fn reading(&self, thread: &str) -> Result<Reading, Error> {
        let text = program("ip").args(["-n", &self.name, "-j", "-s", "link", "show", "s0"]).ok();
        let at = Instant::now();
        let json: serde_json::Value = serde_json::from_str(&text)?;
        let packets = json.pointer("/0/stats64/rx/packets").and_then(serde_json::Value::as_u64);
        let packets = packets.ok_or("ip tells no count of packets")?;
        Ok(Reading { at, packets, cpu_ns: cpu_ns_of(thread)? })
    }
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    packets: u64,
    cpu_ns: u64,
}

/// The CPU time of this process's thread of this name (proc(5), schedstat).
fn cpu_ns_of(thread: &str) -> Result<u64, Error> {
    for task in std::fs::read_dir("/proc/self/task")?.flatten() {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.trim() == thread {
            let stat = std::fs::read_to_string(task.path().join("schedstat"))?;
            return Ok(stat.split_whitespace().next().unwrap_or_default().parse()?);
        }
    }
    Err(format!("there is no thread {thread}").into())
}

/// Runs `work` in a thread inside a namespace of its own, which goes when it
/// is done.
pub fn in_namespace<T: Send + 'static>(work: impl FnOnce(&str) -> T + Send + 'static) -> T {
    let namespace = Namespace::new("rig");
    let name = namespace.name().to_owned();
    namespace.inside(move || work(&name))
}
