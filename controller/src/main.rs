//! The controller of Blixt: reads its flags and runs.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use blixt_controller::flags::Flags;
use blixt_controller::{probe, run};
use blixt_scrape::check_local;
use clap::Parser;
use tracing::error;

/// What clap exits with when flags can't be read.
const USAGE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let flags = Flags::parse();
    if let Some(what) = flags.probe {
        return match probe::ask(flags.http, what) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("{why}");
                ExitCode::FAILURE
            }
        };
    }
    let checked = flags.log().and_then(|()| check_local(flags.http));
    let identity = match checked.and_then(|()| flags.identity()) {
        Ok(identity) => identity,
        Err(why) => {
            eprintln!("blixt-controller: {why}");
            return ExitCode::from(USAGE);
        }
    };
    match run::run(&flags, identity).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error}");
            ExitCode::FAILURE
        }
    }
}
