//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use blixt_api::v1alpha1::{FlowState, ObjectName, PeerFilter, Protocol};
use blixt_dataplane::{CompileOptions, MaglevSize};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::counters::LONGEST;
use crate::{top, tuple};

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

#[derive(Debug, Clone, PartialEq, Subcommand)]
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

    /// What happens now: rates, live, on a screen.
    ///
    /// Packets and bits a second, new flows, drops by reason, how busy each
    /// worker is, and the listeners and backends with the most traffic. BUSY
    /// is the share of time that a worker's thread runs. Keys: q quits; p, b,
    /// f and n sort by packets, bits, new flows and name; e shows endpoints;
    /// arrows and page keys scroll.
    #[command(after_help = TOP_EXAMPLES)]
    Top {
        /// Seconds from one look at the agent to the next.
        #[arg(long, value_name = "SECONDS", default_value_t = 1,
            value_parser = clap::value_parser!(u64).range(1..=top::LONGEST))]
        interval: u64,

        /// Prints the rates of one interval as text, and ends.
        #[arg(long)]
        once: bool,
    },

    /// Which way a packet goes, or why it does not.
    ///
    /// Tells which listener takes a packet, which backend and endpoint a new
    /// flow gets and by which slots of the Maglev tables, the flow it belongs
    /// to if there is one, where it leaves, or for which reason it would be
    /// dropped and what to do about it. Packets from endpoints are told of,
    /// too.
    ///
    /// The packet may be copied from the output of tcpdump -n, ss -n or
    /// blixtctl flows: the first two addresses with ports count, the rest of
    /// the line is passed over. One that names no protocol is taken as TCP.
    ///
    /// With --files it tells, without an agent, what tables made of these
    /// manifests decide.
    ///
    /// Exits with 3 if the packet would be dropped.
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain {
        /// Protocol, source and destination, such as tcp 192.0.2.9:4711
        /// 203.0.113.10:80; IPv6 addresses as [2001:db8::1]:80.
        #[arg(required = true, value_name = "TUPLE")]
        tuple: Vec<String>,

        /// Manifests to tell from, instead of asking an agent: files and
        /// directories, or - for standard input. May be given several times.
        #[arg(long, value_name = "FILE|DIR")]
        files: Vec<PathBuf>,

        #[command(flatten)]
        node: Node,
    },

    /// The flows there are: who talks to whom, through which addresses.
    ///
    /// They are printed as they are found, in no order, without disturbing
    /// traffic: millions are no trouble. A flow that lives all the while is
    /// printed once. IDLE is the time since its last packet. SERVICE is the
    /// one that its endpoint belongs to.
    ///
    /// With several filters a flow must match all of them. PEER is an address,
    /// a network, or a port with or without one: 192.0.2.9, 192.0.2.0/24,
    /// 192.0.2.9:80, [2001:db8::/32]:80, :80.
    #[command(after_help = FLOWS_EXAMPLES)]
    Flows(FlowArguments),

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

    /// Prints a script that completes blixtctl's command line in a shell.
    #[command(after_help = COMPLETION_EXAMPLES)]
    Completion {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },

    /// Writes pages for man: one for blixtctl, and one for each command.
    #[command(after_help = MAN_EXAMPLES)]
    Man {
        /// Where they go; it is made if it does not exist.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

/// Which flows are asked for.
#[derive(Debug, Clone, PartialEq, Args)]
pub(crate) struct FlowArguments {
    /// Those of clients there.
    #[arg(long, value_name = "PEER", value_parser = tuple::peer)]
    pub(crate) client: Option<PeerFilter>,

    /// Those to a Gateway's address or port.
    #[arg(long, value_name = "PEER", value_parser = tuple::peer)]
    pub(crate) vip: Option<PeerFilter>,

    /// Those that leave from a SNAT address or port.
    #[arg(long, value_name = "PEER", value_parser = tuple::peer)]
    pub(crate) snat: Option<PeerFilter>,

    /// Those to an endpoint.
    #[arg(long, value_name = "PEER", value_parser = tuple::peer)]
    pub(crate) endpoint: Option<PeerFilter>,

    /// Those to endpoints of this Service.
    #[arg(long, value_name = "[NAMESPACE/]NAME", value_parser = service)]
    pub(crate) backend: Option<ObjectName>,

    /// Those that speak this.
    #[arg(long, value_enum)]
    pub(crate) protocol: Option<Speaks>,

    /// Those that have got this far. May be given several times.
    #[arg(long = "state", value_enum, value_name = "STATE", value_delimiter = ',')]
    pub(crate) states: Vec<State>,

    /// Not more than so many.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,

    /// Only how many they are.
    #[arg(long)]
    pub(crate) count: bool,
}

/// The protocols that are balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Speaks {
    Tcp,
    Udp,
}

impl Speaks {
    pub(crate) fn wire(self) -> Protocol {
        match self {
            Self::Tcp => Protocol::Tcp,
            Self::Udp => Protocol::Udp,
        }
    }
}

/// How far a flow has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum State {
    /// UDP: packets have been seen.
    Udp,
    /// TCP: the client has sent a SYN.
    SynSent,
    /// TCP: the endpoint has answered it.
    SynReceived,
    /// TCP: open both ways.
    Established,
    /// TCP: the client has sent a FIN.
    ClientFinished,
    /// TCP: the endpoint has sent a FIN.
    EndpointFinished,
    /// TCP: both have, and one is to acknowledge the other's.
    Closing,
    /// TCP: over, its SNAT port rests.
    Resting,
}

impl State {
    pub(crate) fn wire(self) -> FlowState {
        match self {
            Self::Udp => FlowState::Udp,
            Self::SynSent => FlowState::SynSent,
            Self::SynReceived => FlowState::SynReceived,
            Self::Established => FlowState::Established,
            Self::ClientFinished => FlowState::ClientFinished,
            Self::EndpointFinished => FlowState::EndpointFinished,
            Self::Closing => FlowState::Closing,
            Self::Resting => FlowState::Resting,
        }
    }
}

fn service(text: &str) -> Result<ObjectName, String> {
    let name: blixt_model::ObjectName = text.parse().map_err(|error| format!("{error}"))?;
    Ok((&name).into())
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
            ..CompileOptions::default()
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
  blixtctl explain tcp 192.0.2.9:4711 203.0.113.10:80
                                        where does this go, or why does it not?
  blixtctl flows --client 192.0.2.9     who is this client connected to?
  blixtctl translate manifests/         what would an agent make of these?
  blixtctl top                          what happens now?
  blixtctl lb -o json | jq '.listeners[].backends[].traffic.flows'

Exit codes:
  0  it is as printed
  1  there is no answer, and the message says what to do
  2  the command line was wrong
  3  translate: something is refused; explain: the packet would be dropped";

const COUNTERS_EXAMPLES: &str = "\
Examples:
  blixtctl counters                  since the agent's start, but for what is 0
  blixtctl counters --over 10        what has grown within 10 seconds
  blixtctl counters --all            each counter and each reason there is
  blixtctl counters -o json | jq '.counters[] | select(.labels.reason == \"no_listener\").value'";

const TOP_EXAMPLES: &str = "\
Examples:
  blixtctl top
  blixtctl top --interval 5
  blixtctl top --once --interval 10 >> rates.txt";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  blixtctl explain tcp 192.0.2.9:4711 203.0.113.10:80
  blixtctl explain udp '[2001:db8::9]:5000' '[2001:db8::10]:53'
  blixtctl explain 'IP 192.0.2.9.4711 > 203.0.113.10.80: Flags [S]'
  blixtctl explain $(blixtctl flows --limit 1 | tail -1)
  blixtctl explain tcp 192.0.2.9:4711 203.0.113.10:80 --files manifests/";

const FLOWS_EXAMPLES: &str = "\
Examples:
  blixtctl flows --client 192.0.2.9
  blixtctl flows --client 198.51.100.0/24 --vip :443 --state established
  blixtctl flows --backend shop/web --count
  blixtctl flows --state syn_sent,syn_received --limit 20
  blixtctl flows -o json | jq -r .client.address | sort | uniq -c | sort -n | tail";

const COMPLETION_EXAMPLES: &str = "\
Examples:
  source <(blixtctl completion bash)     in this shell, for as long as it lives
  blixtctl completion bash > /etc/bash_completion.d/blixtctl
  blixtctl completion zsh > /usr/local/share/zsh/site-functions/_blixtctl
  blixtctl completion fish > /etc/fish/completions/blixtctl.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  blixtctl man /usr/local/share/man/man1 && man blixtctl-explain";

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
