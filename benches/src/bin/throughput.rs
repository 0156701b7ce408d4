//! How fast Blixt forwards, beside a forwarder that decides nothing and beside
//! the kernel.
//!
//! `scripts/bench --help`

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use blixt_benches::chart;
use blixt_benches::plan::Plan;
use blixt_benches::report::Report;
use blixt_benches::{Error, rig};
use blixt_counted::Machine;
use blixt_testkit::netns::root_or_skip;
use clap::{Parser, ValueEnum};

/// Measures what Blixt forwards on veths, in network namespaces of its own,
/// beside a bare AF_XDP forwarder and beside the kernel's DNAT and
/// masquerading by nftables, in turn.
///
/// benches/README.md says what the numbers mean.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench")]
struct Flags {
    /// In a minute or so, with little to rely on: 3 rounds of 0.25 s, fewer
    /// loads
    #[arg(long)]
    quick: bool,
    /// How often each of them has its turn
    #[arg(long)]
    rounds: Option<usize>,
    /// How long it is measured each time, in seconds
    #[arg(long)]
    seconds: Option<f64>,
    /// How long UDP frames are, in bytes
    #[arg(long, value_delimiter = ',')]
    frame_bytes: Vec<usize>,
    /// How many UDP flows there are, up to 1,048,576
    #[arg(long, value_delimiter = ',')]
    flows: Vec<u32>,
    /// What to measure; all of it unless said
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Where to write the report as JSON; beside it go the chart (.svg) and
    /// what is printed (.txt). Without --only it is benches/results/throughput.json,
    /// or quick.json there with --quick
    #[arg(long)]
    json: Option<PathBuf>,
    /// Fail if a goal is missed
    #[arg(long)]
    check: bool,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// UDP through Blixt, the bare forwarder and the kernel
    Udp,
    /// TCP through the same
    Tcp,
    /// One worker and two
    Workers,
    /// Replies on the right queue and on the wrong one
    HandOff,
    /// A worker without traffic
    Idle,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if !root_or_skip("the throughput run") {
        return ExitCode::FAILURE;
    }
    match run(&flags) {
        Ok(report) if flags.check && !report.is_good() => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scripts/bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Result<Report, Error> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores <= rig::CORE {
        return Err("this takes two cores: one makes packets, one forwards them".into());
    }
    let begin = Instant::now();
    let plan = flags.plan()?;
    let machine = Machine::here("scripts/bench");
    let wanted = |part| flags.only.is_empty() || flags.only.contains(&part);
    let say = |what: &str| eprintln!("{:>4} s  {what}", begin.elapsed().as_secs());
    let mut generator = Vec::new();
    let mut cells = Vec::new();
    if wanted(Part::Udp) {
        say("the generator alone");
        generator = plan.alone()?;
        cells.extend(plan.udp(&say)?);
    }
    if wanted(Part::Tcp) {
        cells.extend(plan.tcp(&say)?);
    }
    if wanted(Part::Workers) {
        cells.push(plan.workers(&say)?);
    }
    if wanted(Part::HandOff) {
        cells.push(plan.hand_off(&say)?);
    }
    let idle = if wanted(Part::Idle) {
        say("a worker without traffic");
        Some(plan.idle()?)
    } else {
        None
    };
    say("done\n");
    let report = Report::new(machine, plan.interval.as_secs_f64(), generator, cells, idle);
    let text = report.text();
    print!("{text}");
    if let Some(path) = flags.path() {
        write(&path, &(serde_json::to_string_pretty(&report)? + "\n"))?;
        write(&path.with_extension("svg"), &chart::svg(&report))?;
        write(&path.with_extension("txt"), &text)?;
        println!("\nwritten to {}, .svg and .txt", path.display());
    }
    Ok(report)
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    let refused = |error| format!("{} can't be written: {error}", path.display());
    Ok(std::fs::write(path, text).map_err(refused)?)
}

impl Flags {
    fn path(&self) -> Option<PathBuf> {
        match (&self.json, self.only.is_empty(), self.quick) {
            (Some(path), ..) => Some(path.clone()),
            (None, true, true) => Some("benches/results/quick.json".into()),
            (None, true, false) => Some("benches/results/throughput.json".into()),
            (None, false, _) => None,
        }
    }

    fn plan(&self) -> Result<Plan, Error> {
        let (rounds, seconds) = if self.quick { (3, 0.25) } else { (11, 0.7) };
        let (rounds, seconds) = (self.rounds.unwrap_or(rounds), self.seconds.unwrap_or(seconds));
        if rounds == 0 || !(0.05..=3_600.0).contains(&seconds) {
            return Err("at least one round of 0.05 s to 3,600 s".into());
        }
        let or = |given: &[usize], otherwise: &[usize]| match given {
            [] => otherwise.to_vec(),
            given => given.to_vec(),
        };
        let flows = match (self.flows.as_slice(), self.quick) {
            ([], true) => vec![1, 1_000],
            ([], false) => vec![1, 1_000, 100_000],
            (given, _) => given.to_vec(),
        };
        if flows.iter().any(|flows| !(1..=1 << 20).contains(flows)) {
            return Err("--flows takes numbers from 1 to 1,048,576".into());
        }
        let frame_bytes = or(&self.frame_bytes, &[60, 1_400]);
        if frame_bytes.iter().any(|bytes| !(60..=1_514).contains(bytes)) {
            return Err("--frame-bytes takes numbers from 60 to 1,514".into());
        }
        Ok(Plan { rounds, interval: Duration::from_secs_f64(seconds), frame_bytes, flows })
    }
}
