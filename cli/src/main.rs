//! `blixtctl`: asks the agent of this node what it does, and prints the answer
//! for people or as JSON.
//!
//! It only asks. What is wanted is written in Gateway API objects, never here.

#![forbid(unsafe_code)]

mod amounts;
mod connect;
mod flags;
mod lb;
mod status;
mod table;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use connect::Failure;
use flags::{Command, Flags, Output};
use serde::Serialize;

fn main() -> ExitCode {
    let flags = Flags::parse();
    match run(&flags) {
        Ok(text) => print(&text),
        Err(failure) => {
            // Nothing is left to do if even that can't be written.
            let _ = writeln!(io::stderr(), "blixtctl: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Result<String, Failure> {
    let width = table::terminal_width();
    match flags.command {
        Command::Status => {
            let status = connect::ask(&flags.socket, async |agent| {
                agent.get_status(blixt_api::v1alpha1::GetStatusRequest {}).await
            })?;
            match flags.output {
                Output::Json => json(&status),
                Output::Table => Ok(status::draw(&status, now_unix_ms(), width)),
            }
        }
        Command::Lb => {
            let balancing = connect::ask(&flags.socket, async |agent| {
                agent.get_load_balancing(blixt_api::v1alpha1::GetLoadBalancingRequest {}).await
            })?;
            match flags.output {
                Output::Json => json(&balancing),
                Output::Table => Ok(lb::draw(&balancing, width)),
            }
        }
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

fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // `blixtctl lb | head`: the reader has all it wants.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "blixtctl: can't write the answer: {error}");
            ExitCode::FAILURE
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
