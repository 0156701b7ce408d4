//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Shows what the Blixt agent of this node does.
///
/// blixtctl asks the agent over its unix socket, which only root can open. It
/// never changes anything: what is balanced is written in Gateway API objects.
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
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
  watch -n1 blixtctl lb                 the same, live
  blixtctl status -o json | jq '.drops[] | select(.packets > 0)'
  blixtctl lb -o json | jq '.listeners[].backends[].traffic.flows'

Exit codes:
  0  the agent answered
  1  it did not, and the message says what to do
  2  the command line was wrong";

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
