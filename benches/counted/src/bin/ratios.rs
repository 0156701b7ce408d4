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

use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use blixt_counted::{Error, Family, Filled, Spread, World, flows_to_measure};
use blixt_dataplane::BURST;
use nix::time::{ClockId, clock_gettime};

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

fn run() -> Result<(), Error> {
    let flows = flows_to_measure()?;
    println!("| flows | family | bursts of {BURST}, ns | one at a time, ns | ratio | quartiles |");
    println!("|---|---|---|---|---|---|");
    for &flows in &flows {
        for family in [Family::V4, Family::V6] {
            burst_or_not(flows, family)?;
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

/// Nanoseconds a packet, of bursts of hits on flows in no order.
fn round(filled: &mut Filled, process: fn(&mut World, usize)) -> f64 {
    let mut total = Duration::ZERO;
    for _ in 0..BURSTS_PER_ROUND {
        filled.receive_hits();
        let start = cpu_time();
        process(&mut filled.world, BURST);
        total += cpu_time() - start;
    }
    total.as_nanos() as f64 / (BURSTS_PER_ROUND * BURST) as f64
}

/// What this thread has had of its core: where others want it too, waiting for
/// it is not the pipeline's doing.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

fn burst_or_not(flows: u32, family: Family) -> Result<(), Error> {
    let mut filled = Filled::new(flows, family);
    let (mut together, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        together.push(round(&mut filled, World::burst));
        alone.push(round(&mut filled, World::one_by_one));
    }
    let ratio = Spread::of_ratios(&together, &alone)?;
    let [together, alone] = [together, alone].map(Spread::new);
    println!(
        "| {flows} | {family:?} | {:.0} | {:.0} | {:.2} | {:.2} to {:.2} |",
        together?.median, alone?.median, ratio.median, ratio.lower_quartile, ratio.upper_quartile
    );
    Ok(())
}

/// Two pinned threads, each with a pipeline and flows of its own: the first
/// one alone, then both, and so on.
fn one_or_two(flows: u32) -> Result<(), Error> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let &[first, second, ..] = cores.as_slice() else {
        println!("| {flows} | | | a second worker takes a second core | |");
        return Ok(());
    };
    let meet = Barrier::new(2);
    let (one, two) = thread::scope(|scope| {
        let other = scope.spawn(|| {
            core_affinity::set_for_current(second);
            let mut filled = Filled::new(flows, Family::V4);
            let mut both = Vec::new();
            for _ in 0..ROUNDS {
                // The other one is measured alone in between.
                meet.wait();
                meet.wait();
                both.push(round(&mut filled, World::burst));
            }
            both
        });
        let this = scope.spawn(|| {
            core_affinity::set_for_current(first);
            let mut filled = Filled::new(flows, Family::V4);
            let (mut alone, mut both) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                meet.wait();
                alone.push(round(&mut filled, World::burst));
                meet.wait();
                both.push(round(&mut filled, World::burst));
            }
            (alone, both)
        });
        let (alone, both) = this.join().map_err(|_| "a worker panicked")?;
        let others = other.join().map_err(|_| "a worker panicked")?;
        let each: Vec<_> =
            both.iter().zip(&others).map(|(a, b)| 2.0 / (1.0 / a + 1.0 / b)).collect();
        Ok::<_, Error>((alone, each))
    })?;
    let gains = one.iter().zip(&two).map(|(one, two)| 2.0 * one / two);
    let gain = Spread::new(gains.collect())?;
    let [one, two] = [one, two].map(Spread::new);
    println!(
        "| {flows} | {:.0} | {:.0} | {:.2} | {:.2} to {:.2} |",
        one?.median, two?.median, gain.median, gain.lower_quartile, gain.upper_quartile
    );
    Ok(())
}
