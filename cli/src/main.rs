//! `blixtctl`: asks the agent of this node what it does, and prints the answer
//! for people or as JSON. What manifests say it tells without an agent.
//!
//! It only asks. What is wanted is written in Gateway API objects, never here.

#![forbid(unsafe_code)]

mod amounts;
mod connect;
mod counters;
mod explain;
mod flags;
mod flows;
mod lb;
mod manual;
mod offline;
mod status;
mod table;
mod top;
mod translate;
mod tuple;

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blixt_api::v1alpha1::{GetCountersRequest, GetCountersResponse};
use clap::Parser;
use connect::Failure;
use counters::Shown;
use flags::{Command, Flags, FlowArguments, Node, Output};
use flows::{Printer, Unprinted};
use serde::Serialize;
use translate::Translation;

fn main() -> ExitCode {
    let flags = Flags::parse();
    match run(&flags) {
        Ok(answer) => print(&answer),
        Err(failure) => {
            // Nothing is left to do if even that can't be written.
            let _ = writeln!(io::stderr(), "blixtctl: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// What is printed, and how it ends.
struct Answer {
    text: String,
    /// What is to be said besides: the answer is complete, but not good.
    complaint: Option<String>,
}

/// The exit code of an answer with a complaint.
const NOT_GOOD: u8 = 3;

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Self { text, complaint: None }
    }
}

fn run(flags: &Flags) -> Result<Answer, Failure> {
    let width = table::terminal_width();
    let text = match &flags.command {
        Command::Status => {
            let status = connect::ask(&flags.socket, async |agent| {
                agent.get_status(blixt_api::v1alpha1::GetStatusRequest {}).await
            })?;
            match flags.output {
                Output::Json => json(&status)?,
                Output::Table => status::draw(&status, now_unix_ms(), width),
            }
        }
        Command::Lb => {
            let balancing = connect::ask(&flags.socket, async |agent| {
                agent.get_load_balancing(blixt_api::v1alpha1::GetLoadBalancingRequest {}).await
            })?;
            match flags.output {
                Output::Json => json(&balancing)?,
                Output::Table => lb::draw(&balancing, width),
            }
        }
        Command::Counters { all, over } => {
            let shown = Shown { all: *all, width };
            let first = counters(&flags.socket)?;
            let (before, now) = match over {
                None => (None, first),
                Some(seconds) => {
                    std::thread::sleep(Duration::from_secs(*seconds));
                    (Some(first), counters(&flags.socket)?)
                }
            };
            match (flags.output, before) {
                (Output::Json, _) => json(&now)?,
                (Output::Table, None) => counters::draw(&now, shown),
                (Output::Table, Some(before)) => counters::draw_growth(&before, &now, shown),
            }
        }
        Command::Explain { tuple, files, node } => return explain(flags, tuple, files, node),
        Command::Flows(arguments) => {
            list_flows(flags, arguments)?;
            String::new()
        }
        Command::Top { interval, once } => {
            let interval = Duration::from_secs(*interval);
            match (flags.output, once) {
                (Output::Json, _) => return Err(Failure::NoTerminal),
                (Output::Table, true) => top::once(&flags.socket, interval)?,
                (Output::Table, false) => {
                    top::run(&flags.socket, interval)?;
                    String::new()
                }
            }
        }
        Command::Completion { shell } => manual::completion(*shell),
        Command::Man { directory } => manual::pages(directory)?,
        Command::Translate { paths, node } => {
            let translation = Translation::of(&offline::world(paths, &node.options())?);
            let text = match flags.output {
                Output::Json => json(&translation)?,
                Output::Table => translation.draw(width),
            };
            let complaint = match translation.refused() {
                0 => None,
                1 => Some("1 thing is refused".to_owned()),
                many => Some(format!("{many} things are refused")),
            };
            return Ok(Answer { text, complaint });
        }
    };
    Ok(text.into())
}

fn counters(socket: &Path) -> Result<GetCountersResponse, Failure> {
    connect::ask(socket, async |agent| agent.get_counters(GetCountersRequest {}).await)
}

/// Packets that are not delivered are a complaint.
fn explain(
    flags: &Flags,
    tuple: &[String],
    files: &[PathBuf],
    node: &Node,
) -> Result<Answer, Failure> {
    let asked = tuple::asked(tuple).map_err(Failure::Tuple)?;
    let told = if files.is_empty() {
        let request = explain::request(asked);
        connect::ask(&flags.socket, async |agent| agent.explain(request).await)?
    } else {
        let world = offline::world(files, &node.options())?;
        explain::offline(asked, &world, !node.snat_addresses.is_empty())
    };
    let text = match flags.output {
        Output::Json => json(&told)?,
        Output::Table => explain::draw(&told, table::terminal_width()),
    };
    let complaint =
        explain::refusal(&told).map(|drop| format!("it would be dropped: {}", drop.reason));
    Ok(Answer { text, complaint })
}

fn list_flows(flags: &Flags, arguments: &FlowArguments) -> Result<(), Failure> {
    let request = flows::request(arguments);
    let mut printer = Printer::new(io::BufWriter::new(io::stdout().lock()), flags.output);
    let printed = connect::ask_for_many(
        &flags.socket,
        async |agent| agent.list_flows(request).await,
        |some| printer.print(&some),
    )
    .and_then(|()| printer.end(arguments.count));
    match printed {
        Ok(()) | Err(Unprinted::Enough) => Ok(()),
        Err(Unprinted::Failed(failure)) => Err(failure),
    }
}

fn json(answer: &impl Serialize) -> Result<String, Failure> {
    let mut text = serde_json::to_string_pretty(answer).map_err(Failure::Json)?;
    text.push('\n');
    Ok(text)
}

fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn print(answer: &Answer) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(answer.text.as_bytes()).and_then(|()| out.flush()) {
        // `blixtctl lb | head`: the reader has all it wants.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let _ = writeln!(io::stderr(), "blixtctl: can't write the answer: {error}");
            return ExitCode::FAILURE;
        }
        _ => {}
    }
    match &answer.complaint {
        None => ExitCode::SUCCESS,
        Some(complaint) => {
            let _ = writeln!(io::stderr(), "blixtctl: {complaint}");
            ExitCode::from(NOT_GOOD)
        }
    }
}

/// A text that is "-" where there is nothing to say.
fn or_dash(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
#[path = "../tests/fixture/mod.rs"]
mod fixture;
