//! Offloads that are off while we are attached, and how they were before.
//!
//! On a veth nothing completes a checksum that a local sender leaves to the
//! hardware, and no wire ends where segments are cut. Frames that this node's
//! kernel sends through an interface of ours therefore leave whole: plain
//! namespaces and containers at the other end, with or without XDP, then need
//! no tuning. What was on is kept in a file too, so that an agent which takes
//! over from a killed one can still put things back.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use blixt_afxdp::nic::{Nic, NicError, Offload, name_of};
use serde::{Deserialize, Serialize};
use tracing::warn;

/// What is put off, in the order in which it is: segmentation needs
/// checksums. GRO stays: a veth polls only with it on.
const UNWANTED: [Offload; 2] = [Offload::Tso, Offload::TxChecksum];

/// The driver on which it matters.
const VETH: &str = "veth";

/// The file in the state directory.
const FILE: &str = "offloads.json";

/// Puts offloads off and on again.
#[derive(Debug)]
pub struct Offloads {
    file: PathBuf,
    before: Before,
}

/// How interfaces were. Numbers of interfaces mean something until the next
/// boot only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Before {
    boot: String,
    interfaces: BTreeMap<String, Were>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Were {
    ifindex: u32,
    on: Vec<String>,
}

/// The state directory does not do.
#[derive(Debug, thiserror::Error)]
#[error(
    "--state-dir {path} can't be used ({source}): give a directory that the agent may write to"
)]
pub struct StateDirError {
    path: String,
    source: io::Error,
}

impl Offloads {
    /// Makes the directory if need be, and reads what an agent before us left.
    pub fn open(state_dir: &Path) -> Result<Self, StateDirError> {
        let error = |source| StateDirError { path: state_dir.display().to_string(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(error)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = boot.trim().to_owned();
        let file = state_dir.join(FILE);
        let left = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice::<Before>(&bytes).unwrap_or_else(|fault| {
                warn!("{}: {fault}; offloads that were off stay off", file.display());
                Before::default()
            }),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Before::default(),
            Err(other) => return Err(error(other)),
        };
        let before = match left.boot == boot {
            true => left,
            false => Before { boot, ..Before::default() },
        };
        let offloads = Self { file, before };
        // Better now than when something has been changed.
        offloads.save().map_err(error)?;
        Ok(offloads)
    }

    /// Puts off what must be off on an interface, and says what that is.
    pub fn put_off(
        &mut self,
        name: &str,
        ifindex: u32,
        driver: &str,
    ) -> Result<Vec<Offload>, NicError> {
        if driver != VETH {
            return Ok(Vec::new());
        }
        let nic = Nic::new(name)?;
        let mut on = Vec::new();
        for offload in UNWANTED {
            if nic.offload(offload)? == Some(true) {
                on.push(offload);
            }
        }
        self.remember(name, ifindex, &on);
        for &offload in &on {
            nic.set_offload(offload, false)?;
        }
        let were = self.before.interfaces.get(name);
        Ok(were.map(|were| were.offloads().collect()).unwrap_or_default())
    }

    /// Leaves an interface as it was, also if it has another name by now. One
    /// that is gone needs nothing, nor does another one of its name.
    pub fn restore(&mut self, name: &str) {
        let Some(were) = self.before.interfaces.remove(name) else { return };
        if let Some(name) = name_of(were.ifindex) {
            let offloads: Vec<_> = were.offloads().collect();
            for offload in offloads.into_iter().rev() {
                let put_on = Nic::new(&name).and_then(|nic| nic.set_offload(offload, true));
                if let Err(error) = put_on {
                    let feature = offload.name();
                    warn!("{error}; put it on yourself with `ethtool -K {name} {feature} on`");
                }
            }
        }
        self.save_or_warn();
    }

    /// What is on now was on before, and so was what an agent before us put
    /// off on this very interface.
    fn remember(&mut self, name: &str, ifindex: u32, on: &[Offload]) {
        let were = self.before.interfaces.entry(name.to_owned()).or_default();
        if were.ifindex != ifindex {
            *were = Were { ifindex, on: Vec::new() };
        }
        for offload in on.iter().map(|offload| offload.name().to_owned()) {
            if !were.on.contains(&offload) {
                were.on.push(offload);
            }
        }
        self.save_or_warn();
    }

    fn save_or_warn(&self) {
        if let Err(error) = self.save() {
            let file = self.file.display();
            warn!("{file}: {error}; if the agent is killed, offloads of its interfaces stay off");
        }
    }

    /// Whole or not at all: renamed into place.
    fn save(&self) -> io::Result<()> {
        let new = self.file.with_extension("new");
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec_pretty(&self.before).map_err(io::Error::other)?)?;
        fs::rename(&new, &self.file)
    }
}

impl Were {
    fn offloads(&self) -> impl Iterator<Item = Offload> {
        UNWANTED.into_iter().filter(|offload| self.on.iter().any(|name| name == offload.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_agent_put_off_is_not_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("a/b");
        let mut first = Offloads::open(&state).unwrap();
        first.remember("eth0", 3, &[Offload::Tso, Offload::TxChecksum]);
        drop(first);

        // It finds them off, and knows that they were on.
        let mut second = Offloads::open(&state).unwrap();
        second.remember("eth0", 3, &[]);
        let were: Vec<_> = second.before.interfaces["eth0"].offloads().collect();
        assert_eq!(were, [Offload::Tso, Offload::TxChecksum]);

        // A new interface of the same name is another one.
        second.remember("eth0", 4, &[Offload::Tso]);
        assert_eq!(second.before.interfaces["eth0"].on, ["tso"]);
    }

    #[test]
    fn nothing_is_believed_from_before_the_boot() {
        let directory = tempfile::tempdir().unwrap();
        let old = r#"{"boot": "x", "interfaces": {"eth0": {"ifindex": 3, "on": ["tso"]}}}"#;
        fs::write(directory.path().join(FILE), old).unwrap();
        assert_eq!(Offloads::open(directory.path()).unwrap().before.interfaces.len(), 0);
        fs::write(directory.path().join(FILE), "garbage").unwrap();
        assert_eq!(Offloads::open(directory.path()).unwrap().before.interfaces.len(), 0);
    }

    #[test]
    fn a_directory_that_is_none_is_refused() {
        let why = Offloads::open(Path::new("/proc/self/status/x")).unwrap_err().to_string();
        assert!(why.starts_with("--state-dir /proc/self/status/x can't be used"), "{why}");
    }
}
