//! What the controller is told at its start.

use std::fs;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;

use blixt_scrape::SecureFlags;
use clap::{Parser, ValueEnum};
use tracing_subscriber::EnvFilter;

/// Serves Gateway API: gives addresses to Gateways, pushes tables to the agents
/// on the nodes, and writes what became of each object into its status.
///
/// It speaks to the API server that its pod's service account, or a
/// kubeconfig, leads to. Several replicas may run: all push to agents, one
/// of them leads, and only that one writes.
#[derive(Debug, Clone, Parser)]
#[command(name = "blixt-controller", version, max_term_width = 100)]
pub struct Flags {
    /// The namespace it runs in, where its lease is.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", default_value = "blixt-system")]
    pub namespace: String,
    /// Its name among the replicas, for people who read the lease and Events. [default: the
    /// host's name]
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: Option<String>,
    /// Where agents find it: gRPC, for those with a certificate of ours only, or
    /// with a token to get one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:9874")]
    pub listen: SocketAddr,
    /// Where /metrics, /healthz and /readyz are served, on localhost alone.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9876")]
    pub http: SocketAddr,
    /// Metrics for scrapers from elsewhere.
    #[command(flatten)]
    pub secure: SecureFlags,
    /// Asks the controller that runs here, by --http, whether it is alive or
    /// ready, and ends with 0 if it is: a probe for where nobody else reaches it.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub probe: Option<Probe>,
    /// What is logged: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
    /// Lines for people, or JSON objects.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// What a controller may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Probe {
    /// Whether it is alive.
    Healthz,
    /// Whether it knows all that it must.
    Readyz,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Which of the libraries' words are not logged unless asked for.
const QUIET: &str = "kube_client=off,kube_runtime=off,tower=off";

impl Flags {
    /// Its name among the replicas.
    pub fn identity(&self) -> Result<String, String> {
        if let Some(identity) = &self.identity {
            return Ok(identity.clone());
        }
        let host = fs::read_to_string("/proc/sys/kernel/hostname");
        let host = host.map(|host| host.trim().to_owned()).unwrap_or_default();
        if host.is_empty() {
            return Err("the host has no name: give this replica one by --identity".to_owned());
        }
        Ok(host)
    }

    /// Begins to log, for the whole process.
    pub fn log(&self) -> Result<(), String> {
        let level = &self.log_level;
        // What goes wrong with requests is told by those who sent them.
        let filter = EnvFilter::builder().parse(format!("{QUIET},{level}")).map_err(|why| {
            format!(
                "--log-level {level:?} cannot be read ({why}): use error, warn, info, debug or trace"
            )
        })?;
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_target(false)
            .with_ansi(io::stderr().is_terminal());
        let begun = match self.log_format {
            LogFormat::Text => log.compact().try_init(),
            LogFormat::Json => log.json().flatten_event(true).with_target(true).try_init(),
        };
        begun.map_err(|why| format!("there is no log: {why}"))
    }
}
