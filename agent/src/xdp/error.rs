//! What can go wrong with XDP, said to a person: one sentence each, with what
//! to do.

use std::io;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::{ProgramError, loaded_programs};
use blixt_xdp_abi::{PROGRAM, QUEUES_PER_INTERFACE};

use super::AttachedMode;
use super::link::{Kind, Link};

/// Numbers of linux/errno.h.
const EPERM: i32 = 1;
const E2BIG: i32 = 7;
const ENOMEM: i32 = 12;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;
const ERANGE: i32 = 34;
const EOPNOTSUPP: i32 = 95;

/// The largest MTU of a veth's peer with pages of 4 KiB.
const VETH_MTU: u32 = 3_498;

/// Why the XDP program could not be loaded, attached or changed.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// The kernel lacks what we need.
    #[error("the kernel is {running}, and Blixt needs {oldest} or newer: start a newer kernel")]
    KernelTooOld {
        /// What `uname -r` says.
        running: String,
        /// The oldest that will do.
        oldest: String,
    },

    /// The process may not.
    #[error(
        "the agent lacks {}: run it as root, or give it these capabilities (systemd: \
         AmbientCapabilities, Kubernetes: securityContext.capabilities.add)",
        missing.join(" and ")
    )]
    Unprivileged {
        /// The capabilities.
        missing: Vec<&'static str>,
    },

    /// It has the capabilities, and may not nevertheless.
    #[error(
        "the kernel forbids {what} though the agent has the capabilities for it: a seccomp profile, \
         kernel lockdown, or a user namespace stands in the way; run the agent in the host's user \
         namespace with bpf() allowed"
    )]
    Forbidden {
        /// What was tried.
        what: &'static str,
    },

    /// The agent was built without the program.
    #[error(
        "this agent was built without its XDP program ({why}): run scripts/setup and build again, \
         or name a compiled program in BLIXT_XDP_OBJECT"
    )]
    NoObject {
        /// What the build said.
        why: &'static str,
    },

    /// The program's file can't be read.
    #[error("cannot read the XDP program {path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// The system's answer.
        source: io::Error,
    },

    /// The file is no BPF object.
    #[error("{origin} is not a BPF object that can be loaded ({reason}): build the agent again")]
    Unparsable {
        /// Where the object is from.
        origin: String,
        /// What was wrong.
        reason: String,
    },

    /// The file is a BPF object, but not ours.
    #[error(
        "{origin} has no {lacks}: it is not the XDP program of this version of Blixt, build both again"
    )]
    ForeignObject {
        /// Where the object is from.
        origin: String,
        /// The map or program that is missing.
        lacks: &'static str,
    },

    /// The kernel would not make a map.
    #[error(
        "the kernel refused memory for the BPF map {map} ({source}): raise the memory limit of the \
         agent's container or service, or configure fewer addresses"
    )]
    MapRefused {
        /// The map.
        map: String,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The verifier said no.
    #[error(
        "the kernel refused the XDP program ({source}): please report it with the kernel's version \
         and this log: {log}"
    )]
    ProgramRefused {
        /// The kernel's answer.
        source: io::Error,
        /// What the verifier wrote.
        log: String,
    },

    /// Something else failed while loading.
    #[error("the XDP program could not be loaded: {reason}")]
    Load {
        /// What happened.
        reason: String,
    },

    /// No such interface.
    #[error("there is no interface {interface}: `ip link` lists those there are")]
    NoInterface {
        /// Its name.
        interface: String,
    },

    /// A bond.
    #[error("{interface} is a bond: attach to its members instead{}", as_flags(members))]
    Bond {
        /// Its name.
        interface: String,
        /// Its members' names.
        members: Vec<String>,
    },

    /// Packets without an Ethernet header.
    #[error(
        "{interface} is no Ethernet interface (its packets begin with the IP header): give the \
         interface that they come in by"
    )]
    NoEthernet {
        /// Its name.
        interface: String,
    },

    /// Somebody else's program.
    #[error(
        "{interface} runs the XDP program {id} ({program}) already, and Blixt never replaces \
         another: {}",
        how_to_remove(program)
    )]
    OtherProgram {
        /// The interface.
        interface: String,
        /// The program's number.
        id: u32,
        /// Its name.
        program: String,
    },

    /// Somebody else's program on a device that this one belongs to.
    #[error(
        "a device that {interface} belongs to (a bond, for example) runs an XDP program, so the \
         kernel allows none on {interface}: take that one off first"
    )]
    ProgramAbove {
        /// The interface.
        interface: String,
    },

    /// The driver would not.
    #[error("{interface} refuses XDP in {mode} mode: {reason}")]
    Refused {
        /// The interface.
        interface: String,
        /// The mode.
        mode: &'static str,
        /// Why, and what to do.
        reason: String,
    },

    /// All places are taken.
    #[error("no room for {interface}: the program serves {capacity} interfaces at most")]
    TooManyInterfaces {
        /// The interface.
        interface: String,
        /// How many there can be.
        capacity: u32,
    },

    /// More addresses than room.
    #[error(
        "{wanted} VIPs and SNAT addresses are more than the {capacity} that the program has room for"
    )]
    TooManyAddresses {
        /// How many.
        wanted: usize,
        /// How many there can be.
        capacity: u32,
    },

    /// More ports of streams than the map has room for.
    #[error(
        "{wanted} TCP ports of Gateways' HTTP, HTTPS and TLS listeners are wanted, but at most {capacity} are possible: \
         have fewer of them, or fewer addresses"
    )]
    TooManyStreams {
        /// How many.
        wanted: usize,
        /// How many there can be.
        capacity: u32,
    },

    /// A socket for an interface that has no program.
    #[error("interface number {ifindex} is not attached")]
    NotAttached {
        /// The interface.
        ifindex: u32,
    },

    /// A socket for a queue beyond the map.
    #[error(
        "{interface} has a queue {queue}, and Blixt serves {QUEUES_PER_INTERFACE} queues of an \
         interface: reduce them with `ethtool -L`"
    )]
    NoSuchQueue {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },

    /// The kernel would not take a socket.
    #[error("the socket of queue {queue} of {interface} was not accepted: {}", chain(source))]
    Socket {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The kernel's answer.
        source: MapError,
    },

    /// The kernel did not answer about an interface.
    #[error("the kernel does not say what {interface} is: {source}")]
    Netlink {
        /// The interface.
        interface: String,
        /// What happened.
        source: io::Error,
    },

    /// A map could not be read or written.
    #[error("the BPF map {map} could not be used: {}", chain(source))]
    Map {
        /// The map.
        map: &'static str,
        /// What happened.
        source: MapError,
    },
}

/// An error while the object is read and its maps are made.
pub(super) fn loading(origin: &str, error: EbpfError) -> XdpError {
    match error {
        EbpfError::MapError(MapError::CreateError { name, io_error }) => {
            match io_error.raw_os_error() {
                Some(EPERM) => XdpError::Forbidden { what: "BPF maps" },
                _ => XdpError::MapRefused { map: name, source: io_error },
            }
        }
        EbpfError::ParseError(error) => {
            XdpError::Unparsable { origin: origin.into(), reason: chain(&error) }
        }
        other => XdpError::Load { reason: chain(&other) },
    }
}

/// An error while the program is given to the kernel.
pub(super) fn verifying(error: ProgramError) -> XdpError {
    match error {
        ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(EPERM) => {
            XdpError::Forbidden { what: "BPF programs" }
        }
        ProgramError::LoadError { io_error, verifier_log } => {
            XdpError::ProgramRefused { source: io_error, log: verifier_log.to_string() }
        }
        other => XdpError::Load { reason: chain(&other) },
    }
}

/// Names a program that is on an interface.
pub(super) fn other_program(interface: &str, id: &u32) -> XdpError {
    let program = loaded_programs()
        .filter_map(Result::ok)
        .find(|info| info.id() == *id)
        .and_then(|info| info.name_as_str().map(str::to_owned))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "without a name".into());
    XdpError::OtherProgram { interface: interface.into(), id: *id, program }
}

/// Says what an error of the driver means.
pub(super) fn refused(
    interface: &str,
    mode: AttachedMode,
    link: &Link,
    errno: Option<io::Error>,
    error: &ProgramError,
) -> XdpError {
    let code = errno.as_ref().and_then(io::Error::raw_os_error);
    let reason = match code {
        Some(EPERM) => return XdpError::Forbidden { what: "XDP on an interface" },
        Some(EEXIST) => return XdpError::ProgramAbove { interface: interface.into() },
        Some(EOPNOTSUPP) => {
            "the driver cannot, or not with the offloads that are on (LRO, GRO-HW); \
                             --xdp-mode generic always works"
                .into()
        }
        // `veth_xdp_set` in drivers/net/veth.c: what the other end sends has
        // to fit into a page.
        Some(ERANGE) if link.kind == Kind::Veth => format!(
            "its peer has too large an MTU for XDP, which takes some {VETH_MTU} on a veth: use \
             `ip link set dev PEER mtu 1500` at the other end (the MTU of {interface} itself, {}, \
             does not matter for that)",
            link.mtu
        ),
        Some(ENOSPC) if link.kind == Kind::Veth => format!(
            "its peer has more transmit queues than {interface} has receive queues: use \
             `ethtool -L {interface} rx N tx N` with as many as the other end has"
        ),
        Some(EINVAL | ERANGE | E2BIG) => format!(
            "the driver does not take it as it is set up ({}); its MTU of {} may be too large for \
             XDP: try `ip link set dev {interface} mtu 1500`",
            chain(error),
            link.mtu
        ),
        Some(ENOMEM) => "the kernel is out of memory".into(),
        _ => chain(error),
    };
    XdpError::Refused { interface: interface.into(), mode: mode.as_str(), reason }
}

/// An error with its causes: aya's say little without.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

fn as_flags(members: &[String]) -> String {
    if members.is_empty() {
        return String::new();
    }
    let flags: Vec<_> = members.iter().map(|member| format!("--interface {member}")).collect();
    format!(" ({})", flags.join(" "))
}

fn how_to_remove(program: &str) -> &'static str {
    if program == PROGRAM {
        "another blixt-agent serves it, stop that one first"
    } else {
        "stop what attached it, or give another --interface"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bond_is_answered_with_its_members() {
        let error = XdpError::Bond {
            interface: "bond0".into(),
            members: vec!["eth0".into(), "eth1".into()],
        };
        assert_eq!(
            error.to_string(),
            "bond0 is a bond: attach to its members instead (--interface eth0 --interface eth1)"
        );
        let empty = XdpError::Bond { interface: "bond0".into(), members: Vec::new() };
        assert_eq!(empty.to_string(), "bond0 is a bond: attach to its members instead");
    }

    #[test]
    fn another_agent_is_recognised() {
        let error =
            XdpError::OtherProgram { interface: "eth0".into(), id: 7, program: PROGRAM.into() };
        assert!(error.to_string().contains("another blixt-agent"), "{error}");
    }

    #[test]
    fn a_map_without_memory_says_which() {
        let error = loading(
            "here",
            EbpfError::MapError(MapError::CreateError {
                name: "ADDRESSES".into(),
                io_error: io::Error::from_raw_os_error(ENOMEM),
            }),
        );
        let text = error.to_string();
        assert!(text.contains("ADDRESSES") && text.contains("memory limit"), "{text}");
    }
}
