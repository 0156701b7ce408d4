//! How fast Blixt's worker is, against a forwarder that decides nothing.
//!
//! `cargo run --release -p blixt-benches --bin throughput -- --help`

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use blixt_benches::report::{Machine, Report};
use blixt_benches::rig::{Rig, in_namespace};
use blixt_benches::{Error, balancer, bare};
use blixt_testkit::netns::root_or_skip;
use clap::Parser;

/// Measures packets a second through Blixt's worker and through a bare AF_XDP
/// forwarder, in turn, on veths in a network namespace of its own.
#[derive(Debug, Parser)]
struct Flags {
    /// How often each of them is measured
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// How long each time, in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// How many flows; a power of two up to 32,768
    #[arg(long, default_value_t = 1_024)]
    flows: u32,
    /// How long frames are, in bytes
    #[arg(long, default_value_t = 60)]
    frame_bytes: usize,
    /// Where to write the report as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if !root_or_skip("the throughput run") {
        return ExitCode::FAILURE;
    }
    match in_namespace(move |name| run(name, &flags)) {
        Ok(report) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("throughput: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(namespace: &str, flags: &Flags) -> Result<String, Error> {
    let machine = Machine::here();
    let rig = Rig::new(namespace, flags.flows, flags.frame_bytes)?;
    // Long enough for every flow to have begun.
    let warm_up = Duration::from_millis(500);
    let interval = Duration::from_secs_f64(flags.seconds);
    let mut rounds = Vec::new();
    for number in 1..=flags.rounds {
        let bare = bare::measure(&rig, warm_up, interval)?;
        let blixt = balancer::measure(&rig, warm_up, interval)?;
        eprintln!(
            "round {number} of {}: bare {:.0}, blixt {:.0} packets/s",
            flags.rounds, bare.packets_per_second, blixt.packets_per_second
        );
        rounds.push((bare, blixt));
    }
    let report = Report::new(machine, (flags.frame_bytes, flags.flows, flags.seconds), &rounds)?;
    if let Some(path) = &flags.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(report.text())
}
