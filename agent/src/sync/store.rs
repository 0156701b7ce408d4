//! The last snapshot that was applied, on disk: what an agent serves from when
//! it starts and no controller is in reach. Whole or not at all: renamed into
//! place, with a checksum.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use blixt_api::parts::{Digest, Parts, PartsError};
use blixt_api::sync::v1alpha1 as wire;
use prost::Message;
use tracing::{error, info, warn};

use super::wish::{Assignment, Wish};

/// The file in the state directory.
const FILE: &str = "snapshot";

/// What it begins with: what it is, and in which version.
const HEAD: &[u8] = b"blixt snapshot 1\n";

/// Bytes of the checksum behind it.
const CHECKSUM_BYTES: usize = 32;

/// Keeps it.
#[derive(Debug, Clone)]
pub(super) struct Store {
    file: PathBuf,
}

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
enum StoreError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is no snapshot of this version")]
    Head,
    #[error("it is cut off or damaged")]
    Damaged,
    #[error("{0}")]
    Parts(#[from] PartsError),
}

impl Store {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self { file: state_dir.join(FILE) }
    }

    /// What was kept, if it is good.
    pub(super) fn load(&self) -> Option<Wish> {
        let read = fs::read(&self.file).map_err(StoreError::from);
        match read.and_then(|bytes| decode(&bytes)) {
            Ok(wish) => {
                info!(digest = %wish.parts.digest(), "starting from the last snapshot");
                Some(wish)
            }
            Err(StoreError::Io(missing)) if missing.kind() == io::ErrorKind::NotFound => None,
            Err(why) => {
                let file = self.file.display();
                error!(
                    "{file} can't be used ({why}): nothing is served until a controller is in reach"
                );
                None
            }
        }
    }

    /// Keeps this instead.
    pub(super) fn save(&self, wish: &Wish) {
        if let Err(why) = self.write(&encode(wish)) {
            let file = self.file.display();
            warn!(
                "{file} can't be written ({why}): an agent that starts anew has only older tables"
            );
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let new = self.file.with_extension("new");
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        // Else a node that loses its power may have the name and not the bytes.
        file.sync_all()?;
        fs::rename(&new, &self.file)
    }
}

fn encode(wish: &Wish) -> Vec<u8> {
    let kept = wire::Kept {
        parts: Some(wish.parts.to_wire()),
        assignment: Some(wish.assignment.to_wire()),
    };
    let body = kept.encode_to_vec();
    [HEAD, &Digest::of(&body).to_vec(), &body].concat()
}

fn decode(bytes: &[u8]) -> Result<Wish, StoreError> {
    let bytes = bytes.strip_prefix(HEAD).ok_or(StoreError::Head)?;
    let (checksum, body) = bytes.split_at_checked(CHECKSUM_BYTES).ok_or(StoreError::Damaged)?;
    if Digest::read(checksum) != Some(Digest::of(body)) {
        return Err(StoreError::Damaged);
    }
    let kept = wire::Kept::decode(body).map_err(|_| StoreError::Damaged)?;
    let parts = Parts::from_wire(kept.parts.unwrap_or_default())?;
    let assignment = kept.assignment.unwrap_or_default();
    let assignment = Assignment::from_wire(&assignment).map_err(|_| StoreError::Damaged)?;
    Ok(Wish::new(parts, assignment)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use blixt_model::{Generation, Snapshot};

    fn wish() -> Wish {
        let parts = Parts::of(&Snapshot::empty(Generation(1)));
        let assignment = Assignment {
            owned: [[192, 0, 2, 1].into()].into(),
            snat: ["2001:db8::9".parse().unwrap()].into(),
        };
        Wish::new(parts, assignment).unwrap()
    }

    #[test]
    fn what_was_kept_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        assert_eq!(store.load(), None);
        store.save(&wish());
        store.save(&wish());
        assert_eq!(store.load(), Some(wish()));
        let names = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(names, 1, "nothing is left over");
    }

    #[test]
    fn what_is_cut_off_or_damaged_anywhere_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        let good = encode(&wish());
        for length in 0..good.len() {
            fs::write(&store.file, &good[..length]).unwrap();
            assert_eq!(store.load(), None, "cut off at {length}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&store.file, &bad).unwrap();
            assert_eq!(store.load(), None, "damaged at {at}");
        }
    }
}
