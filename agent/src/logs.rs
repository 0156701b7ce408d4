//! The log: lines for people or JSON objects, on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::flags::LogFormat;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level can't be read.
    #[error("--log-level {level:?} cannot be read ({why}): use error, warn, info, debug or trace")]
    Level {
        /// As given.
        level: String,
        /// Why not.
        why: String,
    },
    /// There is one already.
    #[error("the log is already set up")]
    Twice,
}

/// Begins to log for the whole process.
pub fn init(format: LogFormat, level: &str) -> Result<(), LogError> {
    let filter = EnvFilter::builder()
        .parse(level)
        .map_err(|error| LogError::Level { level: level.to_owned(), why: error.to_string() })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => builder.compact().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_target(true).try_init(),
    };
    started.map_err(|_| LogError::Twice)
}
