//! What the node must have besides what the XDP loader looks for itself,
//! looked at before anything is changed: each lack is one sentence that says
//! what to do.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::utsname::uname;

use crate::flags::Settings;

/// What the node lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    /// Something to read.
    #[error("--manifests {path} {why}: give a directory that exists and can be read")]
    Manifests {
        /// The directory.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// An address of its own for flows.
    #[error(
        "--snat-address {address} {why}: give a free address of the network, which no interface has"
    )]
    SnatAddress {
        /// The address.
        address: IpAddr,
        /// What is wrong with it.
        why: String,
    },
    /// File descriptors.
    #[error(
        "the agent may have {limit} files open, and needs {needed}, one for each queue among them: raise `ulimit -n` (RLIMIT_NOFILE; systemd: LimitNOFILE)"
    )]
    Descriptors {
        /// The limit.
        limit: u64,
        /// How many are needed.
        needed: u64,
    },
}

/// What the agent has open besides sockets of queues: some 30 for BPF, netlink,
/// files that are watched and its own wake-ups; the rest is for those who ask
/// it.
const DESCRIPTORS: u64 = 64;

/// Allows the agent as many file descriptors as it can be allowed, and looks
/// whether these are enough for so many queues.
pub fn check_descriptors(queues: usize) -> Result<(), Lack> {
    let needed = DESCRIPTORS + queues as u64;
    // Who has no limits asks nobody.
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Ok(()) };
    let raised = soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    let limit = if raised { hard } else { soft };
    if limit < needed { Err(Lack::Descriptors { limit, needed }) } else { Ok(()) }
}

/// Looks at the directory of manifests.
pub fn check_manifests(path: &Path) -> Result<(), Lack> {
    fs::read_dir(path).map(|_| ()).map_err(|error| Lack::Manifests {
        path: path.display().to_string(),
        why: format!("can't be read ({error})"),
    })
}

/// Looks whether the SNAT addresses are free, given the node's own addresses
/// with their interfaces.
pub fn check_snat(settings: &Settings, own: &BTreeMap<IpAddr, String>) -> Result<(), Lack> {
    for &address in &settings.snat_addresses {
        if let Some(interface) = own.get(&address) {
            let why = format!("is the node's own address on {interface}");
            return Err(Lack::SnatAddress { address, why });
        }
    }
    Ok(())
}

/// The node's name.
pub fn node_name() -> String {
    let name = uname().map(|names| names.nodename().to_string_lossy().into_owned());
    name.ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_none_is_refused() {
        assert_eq!(check_manifests(&std::env::temp_dir()), Ok(()));
        for bad in ["/nowhere/at/all", "/proc/self/status"] {
            let why = check_manifests(Path::new(bad)).unwrap_err().to_string();
            assert!(why.starts_with(&format!("--manifests {bad} can't be read")), "{why}");
        }
    }
}
