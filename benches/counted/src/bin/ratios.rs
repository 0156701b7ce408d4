//! How much time a hit takes, and what is gained by bursts and by a second
//! worker: each against its opposite, in turn, so that what else the machine
//! does falls on both.
//!
//! ```text
//! cargo run --release -p blixt-counted --bin ratios                  about two minutes
//! cargo run --release -p blixt-counted --bin ratios -- 1000 1000000  other numbers of flows
//! ```
//!
//! Prints tables for a document. Times are those that the pipeline alone had a
//! core, with packets made and verdicts read, in nanoseconds a packet.

#![forbid(unsafe_code)]

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use blixt_counted::{Family, Protocol, World};
use blixt_dataplane::BURST;
use nix::time::{ClockId, clock_gettime};

const FLOWS: [u32; 4] = [1_000, 100_000, 1_000_000, 10_000_000];

/// How often each of two is measured; the median counts.
const ROUNDS: usize = 41;

/// Short enough that what else the machine does falls on both.
const BURSTS_PER_ROUND: usize = 100;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut flows =
        env::args().skip(1).map(|flows| flows.parse()).collect::<Result<Vec<u32>, _>>()?;
    if flows.is_empty() {
        flows = FLOWS.to_vec();
    }
    println!("| flows | family | bursts of {BURST}, ns | one at a time, ns | ratio | quartiles |");
    println!("|---|---|---|---|---|---|");
    for &flows in &flows {
        for family in [Family::V4, Family::V6] {
            burst_or_not(flows, family);
        }
    }
    println!();
    println!(
        "| flows of each | one worker, ns | each of two, ns | times as many packets | quartiles |"
    );
    println!("|---|---|---|---|---|");
    for &flows in flows.iter().filter(|flows| **flows <= 1_000_000) {
        one_or_two(flows)?;
    }
    Ok(())
}

/// One burst after the other of hits on flows in no order.
struct Bench {
    world: World,
    flows: u32,
    random: u64,
}

impl Bench {
    fn new(flows: u32, family: Family) -> Self {
        let world = World::new(family, Protocol::Udp, flows as usize).with_flows(flows);
        Self { world, flows, random: 1 }
    }

    /// Nanoseconds a packet.
    fn round(&mut self, process: fn(&mut World, usize)) -> f64 {
        let mut total = Duration::ZERO;
        for _ in 0..BURSTS_PER_ROUND {
            let frames: Vec<_> = (0..BURST)
                .map(|_| {
                    let client = self.next();
                    self.world.request(client)
                })
                .collect();
            self.world.receive(frames.iter().map(Vec::as_slice));
            let start = cpu_time();
            process(&mut self.world, BURST);
            total += cpu_time() - start;
        }
        total.as_nanos() as f64 / (BURSTS_PER_ROUND * BURST) as f64
    }

    /// A flow (Knuth's MMIX generator, TAOCP 2, §3.3.4).
    fn next(&mut self) -> u32 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005);
        self.random = self.random.wrapping_add(1_442_695_040_888_963_407);
        (((self.random >> 32) * u64::from(self.flows)) >> 32) as u32
    }
}

/// What this thread has had of its core: where others want it too, waiting for
/// it is not the pipeline's doing.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

fn burst_or_not(flows: u32, family: Family) {
    let mut bench = Bench::new(flows, family);
    let (mut together, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        together.push(bench.round(World::burst));
        alone.push(bench.round(World::one_by_one));
    }
    let ratios = quotients(&together, &alone);
    let [_, together, _] = quartiles(together);
    let [_, alone, _] = quartiles(alone);
    let [low, ratio, high] = quartiles(ratios);
    println!(
        "| {flows} | {family:?} | {together:.0} | {alone:.0} | {ratio:.2} | {low:.2} to {high:.2} |"
    );
}

/// Two pinned threads, each with a pipeline and flows of its own: the first
/// one alone, then both, and so on.
fn one_or_two(flows: u32) -> Result<(), Box<dyn Error>> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let &[first, second, ..] = cores.as_slice() else {
        println!("| {flows} | | | a second worker takes a second core | |");
        return Ok(());
    };
    let meet = Barrier::new(2);
    let (one, two) = thread::scope(|scope| {
        let other = scope.spawn(|| {
            core_affinity::set_for_current(second);
            let mut bench = Bench::new(flows, Family::V4);
            let mut both = Vec::new();
            for _ in 0..ROUNDS {
                // The other one is measured alone in between.
                meet.wait();
                meet.wait();
                both.push(bench.round(World::burst));
            }
            both
        });
        let this = scope.spawn(|| {
            core_affinity::set_for_current(first);
            let mut bench = Bench::new(flows, Family::V4);
            let (mut alone, mut both) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                meet.wait();
                alone.push(bench.round(World::burst));
                meet.wait();
                both.push(bench.round(World::burst));
            }
            (alone, both)
        });
        let (alone, both) = this.join().map_err(|_| "a worker panicked")?;
        let others = other.join().map_err(|_| "a worker panicked")?;
        let each: Vec<_> =
            both.iter().zip(&others).map(|(a, b)| 2.0 / (1.0 / a + 1.0 / b)).collect();
        Ok::<_, Box<dyn Error>>((alone, each))
    })?;
    let gains = quotients(&one, &two).into_iter().map(|ratio| 2.0 * ratio).collect();
    let [_, one, _] = quartiles(one);
    let [_, two, _] = quartiles(two);
    let [low, gain, high] = quartiles(gains);
    println!("| {flows} | {one:.0} | {two:.0} | {gain:.2} | {low:.2} to {high:.2} |");
    Ok(())
}

fn quotients(these: &[f64], those: &[f64]) -> Vec<f64> {
    these.iter().zip(those).map(|(this, that)| this / that).collect()
}

/// The lower quartile, the median and the upper quartile.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values.get(values.len() * quarter / 4).copied().unwrap_or(f64::NAN))
}
