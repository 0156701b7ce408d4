//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use blixt_dataplane::{CompileOptions, MaglevSize};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::counters::LONGEST;

/// Shows what the Blixt agent of this node does, and why.
///
/// blixtctl asks the agent over its unix socket, which only root can open. It
/// never changes anything: what is balanced is written in Gateway API objects.
/// What reads manifests needs neither an agent nor root.
#[derive(Debug, Parser)]
#[command(name = "blixtctl", version, after_help = EXAMPLES)]
pub(crate) struct Flags {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// How to print: a table for people, or JSON for programs.
    ///
    /// The JSON is the message of the agent's API as it came (see
    /// docs/blixtctl.md): its names stay, later versions only add some.
    #[arg(short, long, value_enum, default_value_t = Output::Table, global = true)]
    pub(crate) output: Output,

    /// The agent's socket, as the agent's flag of the same name says it.
    #[arg(long, value_name = "PATH", default_value = blixt_api::DEFAULT_SOCKET, global = true)]
    pub(crate) socket: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(crate) enum Command {
    /// Is the agent well: interfaces, workers, tables, conditions, drops.
    ///
    /// Look here first when something is wrong. It says in which mode each
    /// interface is attached, whether the workers have the newest tables, what
    /// is refused of the manifests and why, which conditions of which objects
    /// do not hold, and for which reasons packets were dropped.
    Status,

    /// What is balanced to where: listeners, backends, endpoints, with counts.
    ///
    /// Like `ipvsadm -Ln --stats`. SHARE is the part of new flows that a
    /// backendRef gets by its weight. FLOWS counts the flows started, ACTIVE
    /// those that live, REFUSED those turned away. IN is from clients, OUT to
    /// clients; bytes are those of IP packets. An endpoint's numbers are those
    /// of its Service port, so backendRefs to the same one show the same.
    Lb,

    /// What was counted, what it means, and what to do about it.
    ///
    /// All metrics of the agent with their meanings, and for each reason for
    /// which packets were dropped what it means and what to do. A few of most
    /// reasons are ordinary on any network; look at what grows, and how fast:
    /// --over tells it.
    #[command(after_help = COUNTERS_EXAMPLES)]
    Counters {
        /// Shows also what is 0, or with --over what stands still.
        #[arg(short, long)]
        all: bool,

        /// Counts for so long, and shows what has grown, with rates.
        #[arg(long, value_name = "SECONDS",
            value_parser = clap::value_parser!(u64).range(1..=LONGEST.as_secs()))]
        over: Option<u64>,
    },

    /// What an agent would make of manifests: no agent needed, nothing changed.
    ///
    /// Reads Gateway API objects as an agent does, and prints the conditions
    /// of each object, the tables that would be in force, and, with file and
    /// line, what would be refused. SHARE is what a backendRef really gets of
    /// a listener's new flows, and an endpoint of its Service port's: SLOTS
    /// of a Maglev table OF so many. A lone one gets 1 of 1.
    ///
    /// Exits with 3 if anything is refused, so that it can guard a repository.
    #[command(after_help = TRANSLATE_EXAMPLES)]
    Translate {
        /// Files, directories (of which the .yaml, .yml and .json files are
        /// read), or - for standard input.
        #[arg(required = true, value_name = "FILE|DIR")]
        paths: Vec<PathBuf>,

        #[command(flatten)]
        node: Node,
    },
}

/// What an agent's flags add to manifests.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct Node {
    /// An address that flows would leave from, as the agent's flag of the same
    /// name says it. May be given several times.
    #[arg(long = "snat-address", value_name = "IP")]
    pub(crate) snat_addresses: Vec<IpAddr>,

    /// Slots of each Maglev table, as the agent's flag of the same name says
    /// it: a prime.
    #[arg(long, value_name = "PRIME", default_value_t = MaglevSize::DEFAULT.slots(),
        value_parser = maglev_size)]
    pub(crate) maglev_size: u32,
}

impl Node {
    pub(crate) fn options(&self) -> CompileOptions {
        CompileOptions {
            maglev: MaglevSize::new(self.maglev_size).unwrap_or_default(),
            snat_addresses: self.snat_addresses.iter().copied().collect(),
        }
    }
}

fn maglev_size(text: &str) -> Result<u32, String> {
    let number: u32 = text.parse().map_err(|_| format!("{text} is no number"))?;
    MaglevSize::new(number).map(MaglevSize::slots).map_err(|error| error.to_string())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people; fits the terminal, or COLUMNS if that is set.
    Table,
    /// For programs.
    Json,
}

const EXAMPLES: &str = "\
Examples:
  blixtctl status                       is everything as it should be?
  blixtctl lb                           who gets how much?
  blixtctl counters --over 10           what grows, and how fast?
  blixtctl translate manifests/         what would an agent make of these?
  watch -n1 blixtctl lb                 the same, live
  blixtctl lb -o json | jq '.listeners[].backends[].traffic.flows'

Exit codes:
  0  it is as printed
  1  there is no answer, and the message says what to do
  2  the command line was wrong
  3  translate: something is refused";

const COUNTERS_EXAMPLES: &str = "\
Examples:
  blixtctl counters                  since the agent's start, but for what is 0
  blixtctl counters --over 10        what has grown within 10 seconds
  blixtctl counters --all            each counter and each reason there is
  blixtctl counters -o json | jq '.counters[] | select(.labels.reason == \"no_listener\").value'";

const TRANSLATE_EXAMPLES: &str = "\
Examples:
  blixtctl translate /etc/blixt/manifests
  blixtctl translate gateway.yaml routes.yaml
  kubectl get gatewayclasses,gateways,tcproutes,services,endpointslices -A -o yaml | blixtctl translate -
  blixtctl translate -o json . | jq '.listeners[].backends[] | {weight, maglev}'";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Flags::command().debug_assert();
    }

    #[test]
    fn options_may_stand_before_and_after_the_command() {
        let before = Flags::parse_from(["blixtctl", "-o", "json", "--socket", "/s", "lb"]);
        let after = Flags::parse_from(["blixtctl", "lb", "-o", "json", "--socket", "/s"]);
        for flags in [before, after] {
            assert_eq!(flags.command, Command::Lb);
            assert_eq!(flags.output, Output::Json);
            assert_eq!(flags.socket, PathBuf::from("/s"));
        }
    }
}
