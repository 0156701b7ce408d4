//! The node agent of Blixt: reads its flags and runs.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use blixt_agent::flags::Flags;
use blixt_agent::{logs, run};
use clap::Parser;
use tracing::error;

/// What clap exits with when flags can't be read; the same for those that are
/// refused.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let (format, level) = flags.log();
    if let Err(error) = logs::init(format, level) {
        eprintln!("blixt-agent: {error}");
        return ExitCode::from(USAGE);
    }
    let settings = match flags.settings() {
        Ok(settings) => settings,
        Err(error) => {
            error!("{error}");
            return ExitCode::from(USAGE);
        }
    };
    match run::block_on(run::run(settings)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            error!("{error}");
            ExitCode::FAILURE
        }
        Err(error) => {
            error!("the agent gets no threads: {error}");
            ExitCode::FAILURE
        }
    }
}
