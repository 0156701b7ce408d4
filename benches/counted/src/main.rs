//! How many instructions a packet takes in the pipeline, stage by stage.
//!
//! ```text
//! cargo run --profile counted -p blixt-counted                all cases, minutes
//! cargo run --profile counted -p blixt-counted -- --markdown  as a table of a document
//! cargo run --profile counted -p blixt-counted -- --check     hits, against their ceiling
//! ```
//!
//! It runs itself under valgrind, once for each case.

#![forbid(unsafe_code)]

use std::env;
use std::error::Error;
use std::process::ExitCode;

use blixt_counted::callgrind;
use blixt_counted::{Case, PACKETS, World};
use blixt_dataplane::PipelineStage;
use blixt_mem::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// What no hit may take more of. docs/decisions/0017 says where they go, and
/// why they are not fewer. A little above what is counted, since another
/// version of the compiler counts a little differently.
const CEILING: u64 = 630;

/// How many flows there are where the time to make them does not matter.
const FEW: u32 = 1_000;
const MANY: u32 = 100_000;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["run", ..] => run(args.get(1..).unwrap_or_default()),
        ["--check"] => check(),
        [] => show(false),
        ["--markdown"] => show(true),
        _ => Err("unknown arguments: there are --check and --markdown, or none".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The child's part: what valgrind looks at.
fn run(words: &[String]) -> Result<(), Box<dyn Error>> {
    let case = Case::named(words).ok_or("no such case")?;
    println!("{}", case.run(counted_burst));
    Ok(())
}

/// Callgrind counts from its beginning to its end, and nothing else.
#[inline(never)]
fn counted_burst(world: &mut World, frames: usize) {
    world.burst(frames);
}

/// What one packet took.
struct Count {
    total: f64,
    stages: [f64; PipelineStage::ALL.len()],
    allocations: u64,
}

fn count(case: Case) -> Result<Count, Box<dyn Error>> {
    if !callgrind::is_installed() {
        return Err("instructions are counted by valgrind, which is not installed: \
                    scripts/setup does that"
            .into());
    }
    let mut args = vec!["run".to_owned()];
    args.extend(case.words());
    let (profile, said) =
        callgrind::run(&env::current_exe()?, &args, "counted_burst", &env::temp_dir())?;
    let each = |instructions: u64| instructions as f64 / PACKETS as f64;
    const PROCESS: &str = "Pipeline::process";
    let total = profile.inclusive(PROCESS);
    if total == 0 {
        return Err(format!("{case}: nothing was counted").into());
    }
    let stages = PipelineStage::ALL.map(|stage| each(profile.of_call(PROCESS, stage.name())));
    Ok(Count { total: each(total), stages, allocations: said.trim().parse()? })
}

fn check() -> Result<(), Box<dyn Error>> {
    let mut too_many = Vec::new();
    for case in Case::all(FEW, false) {
        let Count { total, allocations, .. } = count(case)?;
        println!("{case}: {total:.0} instructions, {allocations} allocations");
        if total > CEILING as f64 || allocations > 0 {
            too_many.push(case.to_string());
        }
    }
    if too_many.is_empty() {
        return Ok(());
    }
    let list = too_many.join(", ");
    Err(format!(
        "more than {CEILING} instructions or 0 allocations a packet: {list}. \
         Which stage it is: cargo run --profile counted -p blixt-counted"
    )
    .into())
}

fn show(markdown: bool) -> Result<(), Box<dyn Error>> {
    let cases = Case::all(FEW, true).into_iter().chain(Case::all(MANY, true));
    if markdown {
        let names = PipelineStage::ALL.map(PipelineStage::name);
        println!("| packet | all | {} | allocations |", names.join(" | "));
        println!("|---{}|", "|---".repeat(names.len() + 2));
    }
    for case in cases {
        let Count { total, stages, allocations } = count(case)?;
        if markdown {
            let numbers = stages.map(|each| format!("{each:.0}"));
            println!("| {case} | {total:.0} | {} | {allocations} |", numbers.join(" | "));
        } else {
            let stages: Vec<_> = PipelineStage::ALL
                .into_iter()
                .zip(stages)
                .map(|(stage, each)| format!("{} {each:.0}", stage.name()))
                .collect();
            println!("{case}: {total:.0} ({}), {allocations} allocations", stages.join(", "));
        }
    }
    Ok(())
}
