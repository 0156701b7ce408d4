//! The command line, and the settings it becomes once it is checked.
//!
//! What can be wrong without looking at the node is found here; what needs a
//! look, such as whether an address is the node's own, is found at start.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use blixt_afxdp::Sizes;
use blixt_dataplane::{MaglevSize, Timeouts};
use blixt_model::{FlowTimeouts, InterfaceChoice, Port, Settings as Configurable, duration};
use blixt_scrape::{SecureFlags, check_local};
use clap::{Parser, ValueEnum};
use regex_lite::Regex;

use crate::configured::Unusable;
use crate::hostpath::{HOST_END, OUR_END};
use crate::interfaces::{Choice, bare, whole_name};
use crate::sync::{self, Places, Url};
use crate::worker::MAX_INTERFACES;

/// Flows a worker holds unless told otherwise: 32 MB of memory.
pub(crate) const DEFAULT_FLOW_CAPACITY: usize = 262_144;

/// As many queues as are served of each interface.
const MAX_WORKERS: u16 = blixt_xdp_abi::QUEUES_PER_INTERFACE as u16;

/// The ports of a SNAT address unless told otherwise: all but the well-known ones.
pub(crate) const DEFAULT_SNAT_PORTS: RangeInclusive<u16> = 1_024..=65_535;

/// Bounds of `--flow-capacity`: fewer would be of no use, more would not fit the
/// 32 bits that name a flow and its two index entries.
pub(crate) const FLOW_CAPACITIES: RangeInclusive<usize> = 16..=(1 << 28);

/// Bounds of `--ring-entries`: fewer hardly take a burst, more hide that a
/// worker is too slow.
const RING_ENTRIES: RangeInclusive<u32> = 16..=(1 << 15);

/// Balances TCP and UDP traffic to Gateway addresses through XDP and AF_XDP.
///
/// What is wanted comes from the controller of a cluster, or from files: then
/// the agent reads Gateway API objects (GatewayClass, Gateway, TCPRoute,
/// UDPRoute, ReferenceGrant, Service, EndpointSlice, Namespace, AddressPool,
/// GatewayConfig)
/// from the YAML and JSON files of a directory, and follows changes of these
/// files. Traffic to the addresses of Gateways is sent on to the endpoints of
/// their routes; everything else stays with the kernel.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "blixt-agent",
    version,
    after_help = "Example: blixt-agent --manifests /etc/blixt --interface eth0 --snat-address 192.0.2.10\n\n\
                  Look at it with `blixtctl status` and `blixtctl lb`, or at http://127.0.0.1:9875/metrics.",
    max_term_width = 100
)]
pub struct Flags {
    /// Directory of manifests: its *.yaml, *.yml and *.json files, without
    /// subdirectories. Write a new file under another name and rename it, so
    /// that no half of it is ever seen.
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,

    /// Where the controller is, such as https://192.0.2.1:9874; give the flag
    /// once for each replica. A host name means all its addresses. Which
    /// address answers does not matter, its certificate does: it is for
    /// blixt-controller, and signed by --ca.
    #[arg(long = "controller", value_name = "URL")]
    controllers: Vec<Url>,

    /// Directory with the files `urls` (one --controller a line) and `ca.crt`,
    /// both of which may change: where the controller's ConfigMap is mounted.
    #[arg(long, value_name = "DIR")]
    controller_dir: Option<PathBuf>,

    /// What the certificate of a --controller is signed by, as PEM.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Service account token for the audience blixt-controller, with which the
    /// controller is asked for a certificate.
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/blixt/token")]
    token: PathBuf,

    /// The node's name, for people; the host's name if this is not given. The
    /// controller goes by the token.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,

    /// Interface to attach to; give the flag once for each. Clients and
    /// endpoints are reached through these only. Without it, and without
    /// --interface-regex, it is what a GatewayConfig says, or that of the node's
    /// default route.
    #[arg(long = "interface", value_name = "NAME")]
    interfaces: Vec<String>,

    /// Attach to all interfaces whose whole names match, such as "eth.*" or
    /// "ens1f[01]np.". They are looked for once, when the agent starts.
    #[arg(long, value_name = "RE", value_parser = whole_name, conflicts_with = "interfaces")]
    interface_regex: Option<Regex>,

    /// Worker threads, each on a core of its own where there are as many. Queue
    /// Q of every interface is served by worker Q modulo N, so each interface
    /// needs at least N queues (`ethtool -l`).
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: u16,

    /// Address that flows to endpoints leave from; give the flag once for
    /// each, and best one of each IP version that is used: flows without one go
    /// through the node's kernel (see --host-path). A controller may assign
    /// more. It must be a free address of a network of the node: the agent
    /// answers ARP and neighbour discovery for it, and no interface may have it.
    #[arg(long = "snat-address", value_name = "IP")]
    snat_addresses: Vec<IpAddr>,

    /// Ports that are used of each SNAT address. Several workers share them
    /// equally. [default: what a GatewayConfig says, or 1024-65535]
    #[arg(long, value_name = "LO-HI", value_parser = port_range)]
    snat_ports: Option<RangeInclusive<u16>>,

    /// Flows that each worker can hold. Where the table is full, connections
    /// that only one end wants give way to new ones; if there are none, new
    /// ones are refused, and old ones go on. A flow takes 118 bytes, and with
    /// several workers 10 more to tell which of them has it. [default: what a
    /// GatewayConfig says, or 262144]
    #[arg(long, value_name = "N")]
    flow_capacity: Option<usize>,

    /// Packets that wait at each queue in each direction: a power of two. Twice
    /// as many frames of 2 or 4 KiB are taken for each queue.
    #[arg(long, value_name = "N", default_value_t = Sizes::default().ring_entries)]
    ring_entries: u32,

    /// Most memory that flows and frames may take, such as 512MiB or 2GiB. All
    /// of it is taken at the start, and the log and `blixtctl status` say how
    /// much it is; an agent that would take more does not start. Without this
    /// flag what is available bounds it.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory_budget: Option<u64>,

    /// Whether packets may go through the node's own kernel, which takes longer:
    /// where no attached interface leads (a pod or process of this node, a
    /// tunnel), and where there is no SNAT address. It makes a pair of veths,
    /// blixt-host and blixt-agent, routes to the Gateways' addresses, and a
    /// table in nf_tables.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = HostPathMode::Auto)]
    host_path: HostPathMode,

    /// How the XDP program is attached: by the driver (native), by the kernel
    /// (generic; slow, and wrong on veth), or native with generic where the
    /// driver has no XDP (auto).
    #[arg(long, value_name = "MODE", value_enum, default_value_t = XdpMode::Auto)]
    xdp_mode: XdpMode,

    /// Where /metrics, /healthz and /readyz are served, on localhost alone.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9875")]
    http: SocketAddr,

    #[command(flatten)]
    secure: SecureFlags,

    /// Where blixtctl finds the agent. Only root may connect.
    #[arg(long, value_name = "PATH", default_value = blixt_api::DEFAULT_SOCKET)]
    socket: PathBuf,

    /// Directory for what must outlive the agent: how interfaces were before
    /// it changed them, and the last that a controller wanted.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/blixt")]
    state_dir: PathBuf,

    /// Slots of each Maglev table: a prime. More spread more evenly; 100 for
    /// each endpoint keep shares within 1 %. Must be equal on all nodes. [default:
    /// what a GatewayConfig says, or 65537]
    #[arg(long, value_name = "PRIME")]
    maglev_size: Option<u32>,

    /// Idle time after which an open TCP connection is forgotten.
    /// [default: what a GatewayConfig says, or 2h4m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    tcp_established_timeout: Option<Duration>,

    /// Idle time after which a TCP connection that is opening or closing is
    /// forgotten.
    /// [default: what a GatewayConfig says, or 4m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    tcp_transitory_timeout: Option<Duration>,

    /// How long an ended TCP connection keeps its SNAT port from being used
    /// again towards the same endpoint.
    /// [default: what a GatewayConfig says, or 1m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    tcp_rest: Option<Duration>,

    /// Idle time after which a UDP flow is forgotten.
    /// [default: what a GatewayConfig says, or 5m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    udp_timeout: Option<Duration>,

    /// The same for a UDP flow that is a question and at most one answer, as
    /// of DNS. Each of them takes a SNAT port for so long.
    /// [default: what a GatewayConfig says, or 30s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    udp_query_timeout: Option<Duration>,

    /// Workers never sleep: each takes a whole core and saves the time of
    /// waking up. Not on a core that serves interrupts of the interfaces.
    #[arg(long)]
    spin: bool,

    /// Form of the log on standard error.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// What is logged: error, warn, info, debug or trace; or a list for parts
    /// of the agent, such as "info,blixt_agent::kernel=debug".
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
}

/// How the XDP program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum XdpMode {
    /// Native, or generic where the driver has no XDP.
    Auto,
    /// By the driver, or not at all.
    Native,
    /// By the kernel's stack.
    Generic,
}

/// Whether packets may go through the node's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HostPathMode {
    /// Where nothing else does.
    Auto,
    /// Never.
    Off,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// A JSON object on each line.
    Json,
}

/// What the agent was told, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where is told what is wanted.
    pub source: Source,
    /// The node's name.
    pub node_name: Option<String>,
    /// What flags say of what a GatewayConfig may say too: flags win.
    pub given: Configurable,
    /// What is in force of that, or was when the agent started.
    pub said: Configurable,
    /// What a GatewayConfig says and this node could not take up when the agent
    /// started.
    pub unusable: Vec<Unusable>,
    /// How interfaces are chosen.
    pub choice: Choice,
    /// The interfaces, by slot: each once. At least one, once they are chosen.
    pub interfaces: Vec<String>,
    /// How many workers there are.
    pub workers: u16,
    /// The SNAT addresses: with manifests at least one, unless there is a host path.
    pub snat_addresses: BTreeSet<IpAddr>,
    /// The ports that are used of each.
    pub snat_ports: RangeInclusive<u16>,
    /// Flows a worker holds.
    pub flow_capacity: usize,
    /// Entries of each ring of a queue.
    pub ring_entries: u32,
    /// The most memory that may be taken, in bytes.
    pub memory_budget: Option<u64>,
    /// Whether packets may go through the node's kernel.
    pub host_path: HostPathMode,
    /// How the XDP program is attached.
    pub xdp_mode: XdpMode,
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Where metrics are served to scrapers.
    pub secure: SecureFlags,
    /// Where the local API is served.
    pub socket: PathBuf,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// Slots of each Maglev table.
    pub maglev: MaglevSize,
    /// How long flows are kept.
    pub timeouts: Timeouts,
    /// Whether workers never sleep.
    pub spin: bool,
}

/// Where is told what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In files of this directory.
    Manifests(PathBuf),
    /// By a controller.
    Controller(sync::Settings),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifests(path) => write!(f, "{}", path.display()),
            Self::Controller(settings) => settings.places.fmt(f),
        }
    }
}

/// Why flags are refused. Each says what to give instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// Nothing says what is wanted.
    #[error(
        "--manifests is missing: give a directory of Gateway API manifests, such as --manifests /etc/blixt; or, in a cluster, --controller or --controller-dir"
    )]
    NoManifests,
    /// Too much says what is wanted.
    #[error("{0} and {1} are both given: what is wanted comes from one place, so leave one out")]
    TwoSources(&'static str, &'static str),
    /// Nobody could be trusted.
    #[error(
        "--ca is missing: give the file with the CA that the controller's certificate is signed by"
    )]
    NoCa,
    /// HTTP that others could reach.
    #[error("{0}")]
    Http(String),
    /// No controller knows who may read metrics.
    #[error(
        "--secure-metrics asks a controller who may read metrics, and there is none with --manifests: leave it out, and scrape --http on the node"
    )]
    NobodyToAsk,
    /// One interface twice.
    #[error("--interface {0} is given twice: give each interface once")]
    InterfaceTwice(String),
    /// No interface has such a name.
    #[error("--interface {0:?} is no interface name: use one that `ip link` shows")]
    InterfaceName(String),
    /// It is the agent's own.
    #[error(
        "--interface {0} is an end of the agent's own host path: name the interfaces of the node"
    )]
    HostPathEnd(String),
    /// No name can match.
    #[error("the interfaces can't be chosen: {0}")]
    InterfaceRegex(String),
    /// There is no number for one more.
    #[error("--interface is given {0} times: at most {most} interfaces are possible", most = MAX_INTERFACES - 1)]
    TooManyInterfaces(usize),
    /// Every flow needs an address of ours.
    #[error(
        "--snat-address is missing, and --host-path is off: give a free address of the node's network, which the agent will answer ARP for and endpoints reply to, such as --snat-address 192.0.2.10"
    )]
    NoSnatAddress,
    /// An address that no packet can come from.
    #[error(
        "--snat-address {0} is no address of a host: give a unicast address of the node's network that nobody has"
    )]
    SnatAddress(IpAddr),
    /// Too few flows, or too many.
    #[error("--flow-capacity {0} is out of range: use {lo} to {hi}", lo = FLOW_CAPACITIES.start(), hi = FLOW_CAPACITIES.end())]
    FlowCapacity(usize),
    /// Too few for a ring, too many, or no power of two.
    #[error("--ring-entries {0} is not possible: use a power of two from {lo} to {hi}", lo = RING_ENTRIES.start(), hi = RING_ENTRIES.end())]
    RingEntries(u32),
    /// None, or more than there could be queues for.
    #[error("--workers {0} is out of range: use 1 to {MAX_WORKERS}")]
    Workers(u16),
    /// Some worker would have no port.
    #[error(
        "--snat-ports has {ports} ports for --workers {workers}: give at least one for each worker, better thousands"
    )]
    FewPorts {
        /// How many there are.
        ports: u32,
        /// For how many workers.
        workers: u16,
    },
    /// No prime, or no sensible one.
    #[error("--maglev-size {0} is not possible: use a prime from 251 to 16777213, such as 65537")]
    Maglev(u32),
}

impl Flags {
    /// What the log looks like, and what goes into it.
    pub fn log(&self) -> (LogFormat, &str) {
        (self.log_format, &self.log_level)
    }

    /// Checks everything that needs no look at the node.
    pub fn settings(self) -> Result<Settings, FlagError> {
        let source =
            source(self.manifests, self.controllers, self.controller_dir, self.ca, self.token)?;
        check_local(self.http).map_err(FlagError::Http)?;
        if self.secure.secure_metrics.is_some() && matches!(source, Source::Manifests(_)) {
            return Err(FlagError::NobodyToAsk);
        }
        if self.workers == 0 || self.workers > MAX_WORKERS {
            return Err(FlagError::Workers(self.workers));
        }
        let no_way = self.snat_addresses.is_empty() && self.host_path == HostPathMode::Off;
        if no_way && matches!(source, Source::Manifests(_)) {
            return Err(FlagError::NoSnatAddress);
        }
        if let Some(&bad) = self.snat_addresses.iter().find(|address| !is_host_unicast(**address)) {
            return Err(FlagError::SnatAddress(bad));
        }
        if !RING_ENTRIES.contains(&self.ring_entries) || !self.ring_entries.is_power_of_two() {
            return Err(FlagError::RingEntries(self.ring_entries));
        }
        let flow_capacity = self
            .flow_capacity
            .map(|flows| u32::try_from(flows).map_err(|_| FlagError::FlowCapacity(flows)));
        let given = Configurable {
            timeouts: FlowTimeouts {
                tcp_established: self.tcp_established_timeout,
                tcp_transitory: self.tcp_transitory_timeout,
                tcp_rest: self.tcp_rest,
                udp: self.udp_timeout,
                udp_query: self.udp_query_timeout,
            },
            maglev_size: self.maglev_size,
            flow_capacity: flow_capacity.transpose()?,
            // `port_range` has looked at both.
            snat_ports: self.snat_ports.and_then(|ports| {
                Some(Port::new(*ports.start()).ok()?..=Port::new(*ports.end()).ok()?)
            }),
            interfaces: match (self.interface_regex, self.interfaces) {
                (Some(pattern), _) => Some(InterfaceChoice::Matching(bare(&pattern))),
                (None, names) if names.is_empty() => None,
                (None, names) => Some(InterfaceChoice::Names(names)),
            },
        };
        let settings = Settings {
            source,
            node_name: self.node_name.filter(|name| !name.is_empty()),
            said: given.clone(),
            given,
            unusable: Vec::new(),
            choice: Choice::DefaultRoute,
            interfaces: Vec::new(),
            workers: self.workers,
            snat_addresses: self.snat_addresses.into_iter().collect(),
            snat_ports: DEFAULT_SNAT_PORTS,
            flow_capacity: DEFAULT_FLOW_CAPACITY,
            ring_entries: self.ring_entries,
            memory_budget: self.memory_budget,
            host_path: self.host_path,
            xdp_mode: self.xdp_mode,
            http: self.http,
            secure: self.secure,
            socket: self.socket,
            state_dir: self.state_dir,
            maglev: MaglevSize::DEFAULT,
            timeouts: Timeouts::default(),
            spin: self.spin,
        };
        settings.with(&Configurable::default())
    }
}

fn source(
    manifests: Option<PathBuf>,
    urls: Vec<Url>,
    directory: Option<PathBuf>,
    ca: Option<PathBuf>,
    token: PathBuf,
) -> Result<Source, FlagError> {
    let controller = |places| Ok(Source::Controller(sync::Settings { places, token }));
    match (manifests, urls.is_empty(), directory) {
        (None, true, None) => Err(FlagError::NoManifests),
        (Some(path), true, None) => Ok(Source::Manifests(path)),
        (None, false, None) => controller(Places::Given { urls, ca: ca.ok_or(FlagError::NoCa)? }),
        (None, true, Some(path)) => controller(Places::Directory(path)),
        (Some(_), false, _) => Err(FlagError::TwoSources("--manifests", "--controller")),
        (Some(_), true, Some(_)) => Err(FlagError::TwoSources("--manifests", "--controller-dir")),
        (None, false, Some(_)) => Err(FlagError::TwoSources("--controller", "--controller-dir")),
    }
}

pub(crate) fn check_interfaces(names: &[String]) -> Result<(), FlagError> {
    // One place is for the host path.
    if names.len() >= MAX_INTERFACES {
        return Err(FlagError::TooManyInterfaces(names.len()));
    }
    let mut seen = BTreeSet::new();
    for name in names {
        // What `dev_valid_name` allows (net/core/dev.c).
        let valid = !name.is_empty()
            && name.len() <= 15
            && name != "."
            && name != ".."
            && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
        if !valid {
            return Err(FlagError::InterfaceName(name.clone()));
        }
        if [HOST_END, OUR_END].contains(&name.as_str()) {
            return Err(FlagError::HostPathEnd(name.clone()));
        }
        if !seen.insert(name) {
            return Err(FlagError::InterfaceTwice(name.clone()));
        }
    }
    Ok(())
}

/// What `blixt_model::Snapshot` asks of a VIP is asked of a SNAT address too.
fn is_host_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !v4.is_unspecified()
                && !v4.is_loopback()
                && !v4.is_link_local()
                && v4.octets() < [224, 0, 0, 0]
        }
        IpAddr::V6(v6) => {
            !v6.is_unspecified()
                && !v6.is_loopback()
                && !v6.is_multicast()
                && !v6.is_unicast_link_local()
                && v6.to_ipv4_mapped().is_none()
        }
    }
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let wrong = || "write two ports from 1 to 65535, the lower one first, such as 1024-65535";
    let (low, high) = text.split_once('-').ok_or_else(wrong)?;
    let port = |text: &str| text.trim().parse::<u16>().map_err(|_| wrong());
    let (low, high) = (port(low)?, port(high)?);
    if low == 0 || low > high { Err(wrong().to_owned()) } else { Ok(low..=high) }
}

/// A number with a binary unit: `512MiB`, or `512M` for short.
fn size(text: &str) -> Result<u64, String> {
    let wrong = || "write a size with a unit, such as 512MiB or 2GiB".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let shift = match unit.strip_suffix("iB").unwrap_or(unit) {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    const GOOD: &str = "--manifests /m --interface eth0 --snat-address 192.0.2.10";

    fn parse(line: &str) -> Result<Flags, String> {
        Flags::try_parse_from(["blixt-agent"].into_iter().chain(line.split_whitespace()))
            .map_err(|error| error.to_string())
    }

    fn refused(line: &str) -> String {
        parse(line).unwrap().settings().unwrap_err().to_string()
    }

    #[test]
    fn the_command_line_is_sound() {
        Flags::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_that_are_documented() {
        let settings = parse(GOOD).unwrap().settings().unwrap();
        assert_eq!(settings.http.to_string(), "127.0.0.1:9875");
        assert_eq!(settings.socket, PathBuf::from("/run/blixt/agent.sock"));
        assert_eq!(settings.snat_ports, 1_024..=65_535);
        assert_eq!(settings.timeouts, Timeouts::default());
        assert_eq!(settings.maglev, MaglevSize::DEFAULT);
        assert_eq!(settings.xdp_mode, XdpMode::Auto);
        assert_eq!(settings.host_path, HostPathMode::Auto);
    }

    #[test]
    fn the_host_path_needs_no_snat_address() {
        let settings = parse("--manifests /m --interface eth0").unwrap().settings().unwrap();
        assert!(settings.snat_addresses.is_empty());
    }

    #[test]
    fn both_families_and_many_interfaces_are_taken() {
        let line = format!("{GOOD} --interface eth1 --snat-address 2001:db8::10 --snat-ports 2-9");
        let settings = parse(&line).unwrap().settings().unwrap();
        assert_eq!(settings.interfaces, ["eth0", "eth1"]);
        assert_eq!(settings.snat_addresses.len(), 2);
        assert_eq!(settings.snat_ports, 2..=9);
    }

    #[test]
    fn interfaces_are_named_or_match_or_are_those_of_the_default_route() {
        let choice = |more: &str| {
            let line = format!("--manifests /m --snat-address 192.0.2.10 {more}");
            parse(&line).unwrap().settings().unwrap().choice
        };
        assert!(matches!(choice("--interface eth0"), Choice::Named(names) if names == ["eth0"]));
        let Choice::Matching(pattern) = choice("--interface-regex eth|ens.*") else { panic!() };
        assert!(pattern.is_match("ens5") && !pattern.is_match("eth0"));
        assert!(matches!(choice(""), Choice::DefaultRoute));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (line, start) in [
            ("--interface eth0 --snat-address 192.0.2.10", "--manifests is missing"),
            (
                "--manifests /m --interface eth0 --host-path off",
                "--snat-address is missing, and --host-path is off: give a free address",
            ),
        ] {
            assert!(refused(line).starts_with(start), "{}", refused(line));
        }
    }

    #[test]
    fn what_is_wrong_is_refused_with_advice() {
        for (more, part) in [
            ("--interface eth0", "given twice"),
            ("--interface a/b", "no interface name"),
            ("--interface sixteen-letters-", "no interface name"),
            ("--interface blixt-agent", "the agent's own host path"),
            ("--workers 0", "use 1 to 256"),
            ("--workers 257", "use 1 to 256"),
            ("--workers 4 --snat-ports 7-9", "3 ports for --workers 4"),
            ("--flow-capacity 0", "use 16 to 268435456"),
            ("--ring-entries 8", "use a power of two from 16 to 32768"),
            ("--ring-entries 100", "use a power of two"),
            ("--maglev-size 100", "use a prime"),
            ("--snat-address 127.0.0.1", "unicast"),
            ("--snat-address 0.0.0.0", "unicast"),
            ("--snat-address 224.0.0.1", "unicast"),
            ("--snat-address 255.255.255.255", "unicast"),
            ("--snat-address 169.254.1.1", "unicast"),
            ("--snat-address fe80::1", "unicast"),
            ("--snat-address ::ffff:10.0.0.1", "unicast"),
        ] {
            let why = refused(&format!("{GOOD} {more}"));
            assert!(why.contains(part), "{more}: {why}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_its_flag() {
        for (more, part) in [
            ("--snat-ports 0-9", "two ports from 1 to 65535"),
            ("--snat-ports 9-2", "the lower one first"),
            ("--snat-ports 9", "such as 1024-65535"),
            ("--snat-ports 1-65536", "two ports"),
            ("--udp-timeout 5", "time with units"),
            ("--udp-timeout 0s", "time with units"),
            ("--udp-timeout 5d", "time with units"),
            ("--memory-budget 5", "size with a unit"),
            ("--memory-budget 5GB", "size with a unit"),
            ("--snat-address 192.0.2", "--snat-address"),
            ("--host-path on", "[possible values: auto, off]"),
            ("--xdp-mode fast", "[possible values: auto, native, generic]"),
            ("--controller http://x", "write https://HOST:PORT"),
            ("--interface-regex eth.*", "cannot be used with"),
            ("--interface-regex [", "regular expression"),
        ] {
            let why = parse(&format!("{GOOD} {more}")).unwrap_err();
            assert!(why.contains(part), "{more}: {why}");
        }
    }

    #[test]
    fn what_is_wanted_comes_from_one_place() {
        let of = |line: &str| {
            parse(&format!("{line} --interface eth0")).unwrap().settings().map(|it| it.source)
        };
        let Ok(Source::Controller(found)) =
            of("--controller https://a:1 --controller https://b --ca /ca")
        else {
            panic!()
        };
        assert_eq!(found.token, PathBuf::from("/var/run/secrets/blixt/token"));
        assert_eq!(found.places.to_string(), "https://a:1, https://b:9874");
        // Where a controller assigns SNAT addresses none need be given.
        let Ok(Source::Controller(found)) = of("--controller-dir /etc/blixt/controller") else {
            panic!()
        };
        assert_eq!(found.places, Places::Directory("/etc/blixt/controller".into()));
        for (line, part) in [
            ("--controller https://a", "--ca is missing"),
            ("--manifests /m --secure-metrics [::]:9877", "there is none with --manifests"),
            ("--controller-dir /d --http 0.0.0.0:9875", "--http 0.0.0.0:9875 is not on localhost"),
            ("--controller https://a --controller-dir /d", "--controller and --controller-dir"),
            ("--controller-dir /d --manifests /m", "--manifests and --controller-dir"),
            (
                "--controller https://a --manifests /m",
                "--manifests and --controller are both given",
            ),
        ] {
            let why = of(line).unwrap_err().to_string();
            assert!(why.contains(part), "{why}");
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(size("512MiB").unwrap(), 512 << 20);
        assert_eq!((size("2G").unwrap(), size("1TiB").unwrap()), (2 << 30, 1 << 40));
        for bad in ["", "5", "MiB", "0GiB", "1.5GiB", "5 GiB", "5MB", "99999999999999T"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
