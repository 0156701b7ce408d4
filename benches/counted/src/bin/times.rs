//! How much time a packet takes, stage by stage: one of a flow among few and
//! among many, and one that begins a flow while there are as many.
//!
//! ```text
//! cargo run --release -p blixt-counted --bin times > benches/results/times.md
//! cargo run --release -p blixt-counted --bin times -- 1000 1000000    other numbers of flows
//! ```
//!
//! Prints the whole page, in some three minutes. What stages take is measured
//! between them, by bursts that are watched; what all of it takes by others
//! that are not, in turn with them. What else has the core meanwhile counts too,
//! so the machine should have nothing else to do.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use blixt_counted::{Error, Family, Filled, Machine, STAGES, Spread, flows_to_measure};
use blixt_dataplane::{BURST, PipelineStage};

const COMMAND: &str = "cargo run --release -p blixt-counted --bin times";

/// How many bursts are measured of each kind, watched and not; medians count.
const BURSTS: usize = 4_000;

/// And before that, so that nothing is for the first time.
const WARM_UP: usize = 100;

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
    head()?;
    for flows in flows {
        for family in [Family::V4, Family::V6] {
            let mut filled = Filled::half(flows, family);
            row("hit", family, flows, &measure(&mut filled, Filled::receive_hits))?;
            row("miss", family, flows, &measure(&mut filled, Filled::receive_misses))?;
        }
    }
    Ok(())
}

fn head() -> Result<(), Error> {
    let Machine { kernel, cpu, cores, load, date, commit, .. } = Machine::here(COMMAND);
    println!("# Time a packet, stage by stage\n");
    println!("`{COMMAND}`, {date}, commit {commit}.");
    println!("{cpu}, {cores} cores, Linux {kernel}, load {load} at the start.\n");
    println!(
        "Nanoseconds a packet, medians of {BURSTS} bursts of {BURST} UDP packets, and between which\n\
         values half of the bursts lie. A hit belongs to one of the flows, in no order; a miss\n\
         begins one while there are as many. \"All\" is measured without looking at the clock\n\
         between stages, which adds {:.1} ns a packet to each of them.\n",
        clock()?
    );
    let names = PipelineStage::ALL.map(PipelineStage::name);
    println!("| packet | flows | all | {} |", names.join(" | "));
    println!("|---|---{}|", "|---".repeat(names.len() + 1));
    Ok(())
}

/// What one look at the clock takes of a packet's time.
fn clock() -> Result<f64, Error> {
    let looks = (0..BURSTS).map(|_| {
        let begin = Instant::now();
        for _ in 0..BURST {
            let _ = std::hint::black_box(Instant::now());
        }
        each(begin.elapsed()) / BURST as f64
    });
    Ok(Spread::new(looks.collect())?.median)
}

/// Of some bursts each.
struct Measured {
    all: Vec<f64>,
    stages: [Vec<f64>; STAGES],
}

fn measure(filled: &mut Filled, receive: fn(&mut Filled)) -> Measured {
    let mut measured = Measured { all: Vec::new(), stages: Default::default() };
    for burst in 0..WARM_UP + BURSTS {
        receive(filled);
        let begin = Instant::now();
        filled.world.burst(BURST);
        let all = begin.elapsed();
        receive(filled);
        let stages = filled.world.burst_by_stage(BURST);
        if burst >= WARM_UP {
            measured.all.push(each(all));
            for (stage, taken) in measured.stages.iter_mut().zip(stages) {
                stage.push(each(taken));
            }
        }
    }
    measured
}

/// Nanoseconds a packet.
fn each(burst: Duration) -> f64 {
    burst.as_nanos() as f64 / BURST as f64
}

fn row(kind: &str, family: Family, flows: u32, measured: &Measured) -> Result<(), Error> {
    let spreads = [&measured.all].into_iter().chain(&measured.stages);
    let cells: Result<Vec<_>, Error> = spreads
        .map(|values| {
            let Spread { median, lower_quartile, upper_quartile, .. } =
                Spread::new(values.clone())?;
            Ok(format!("{median:.1} ({lower_quartile:.1} to {upper_quartile:.1})"))
        })
        .collect();
    println!("| {kind} {family:?} | {flows} | {} |", cells?.join(" | "));
    Ok(())
}
