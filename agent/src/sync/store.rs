//! The last snapshot that was applied, on disk: what an agent serves from when
//! it starts and no controller is in reach. Whole or not at all: renamed into
//! place, with a checksum.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use blixt_api::parts::{Digest, Parts, PartsError};
use blixt_api::sync::v1alpha1 as wire;
use prost::Message;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::Report;
use super::pauses::Pauses;
use super::stream::ends;
use super::wish::{Assignment, Wish};

/// How often a snapshot is written to the disk at most.
const SAVE: Duration = Duration::from_secs(1);

/// How long the disk is left alone at most after it has failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

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
    Parts(Box<PartsError>),
}

impl From<PartsError> for StoreError {
    fn from(error: PartsError) -> Self {
        Self::Parts(Box::new(error))
    }
}

impl Store {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self { file: state_dir.join(FILE) }
    }

    /// What was kept, if it is good.
    pub(super) fn load(&self) -> Option<Wish> {
        match self.read() {
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

    /// Keeps what is applied, the newest, until the agent ends. What can't be
    /// written is tried again.
    pub(super) async fn keep(
        self,
        mut report: watch::Receiver<Report>,
        mut ending: watch::Receiver<bool>,
    ) {
        let mut saved = None;
        let mut pauses = Pauses::new(SAVE, LONGEST_PAUSE);
        let mut is_failing = false;
        loop {
            let kept = report.borrow_and_update().kept.clone();
            if let Some(wish) = kept.filter(|wish| saved.as_ref() != Some(wish)) {
                let failed = self.clone().save(wish.clone()).await.err();
                let file = self.file.display();
                let pause = match &failed {
                    None => {
                        saved = Some(wish);
                        pauses.reset();
                        SAVE
                    }
                    Some(_) => pauses.grow(),
                };
                match &failed {
                    None if is_failing => info!("{file} can be written again"),
                    Some(why) if !is_failing => warn!(
                        "{file} can't be written ({why}): an agent that starts anew has only \
                         older tables; it is tried again until it works"
                    ),
                    _ => {}
                }
                is_failing = failed.is_some();
                tokio::select! {
                    () = sleep(pause) => {}
                    () = ends(&mut ending) => if is_failing { return },
                }
                if is_failing {
                    continue;
                }
            }
            if report.changed().await.is_err() {
                return;
            }
        }
    }

    async fn save(self, wish: Arc<Wish>) -> io::Result<()> {
        let written = spawn_blocking(move || self.write(&encode(&wish))).await;
        written.map_err(io::Error::other).flatten()
    }

    fn read(&self) -> Result<Wish, StoreError> {
        decode(&fs::read(&self.file)?)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let new = self.file.with_extension("new");
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        // Else a node that loses its power may have the name and not the bytes.
        file.sync_all()?;
        fs::rename(&new, &self.file)?;
        // And this is what makes the name last.
        let directory = self.file.parent().unwrap_or(Path::new("."));
        fs::File::open(directory)?.sync_all()
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

    fn save(store: &Store) {
        store.write(&encode(&wish())).unwrap();
    }

    #[test]
    fn what_was_kept_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        assert_eq!(store.load(), None);
        save(&store);
        save(&store);
        assert_eq!(store.load(), Some(wish()));
        let names = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(names, 1, "nothing is left over");
    }

    #[test]
    fn what_is_cut_off_or_damaged_anywhere_is_ignored_with_a_reason() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        let good = encode(&wish());
        let why = |bytes: &[u8]| {
            fs::write(&store.file, bytes).unwrap();
            assert_eq!(store.load(), None);
            store.read().unwrap_err().to_string()
        };
        let said = |at| match at < HEAD.len() {
            true => "it is no snapshot of this version",
            false => "it is cut off or damaged",
        };
        for length in 0..good.len() {
            assert_eq!(why(&good[..length]), said(length), "cut off at {length}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert_eq!(why(&bad), said(at), "damaged at {at}");
        }
    }

    /// An agent that was upgraded starts from what the older one has kept.
    #[test]
    fn what_version_0_1_has_kept_is_of_use() {
        const MESSAGES: &str = include_str!("../../../api/tests/golden/messages-0.1.txt");
        let kept = MESSAGES.lines().find_map(|line| line.strip_prefix("kept ")).unwrap();
        let digits: Vec<_> = kept.chars().map(|digit| digit.to_digit(16).unwrap()).collect();
        let body: Vec<_> =
            digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect();
        let file = [b"blixt snapshot 1\n", &Digest::of(&body).to_vec()[..], &body].concat();
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        fs::write(&store.file, file).unwrap();
        let wish = store.load().unwrap();
        let names: Vec<_> =
            wish.snapshot.gateways().iter().map(|gateway| gateway.name.to_string()).collect();
        assert_eq!(names, ["infra/dns", "shop/edge"]);
        assert_eq!(wish.snapshot.services().len(), 3);
        assert_eq!(wish.assignment.owned.len(), 2);
        assert_eq!(wish.assignment.snat, ["192.0.2.200".parse().unwrap()].into());
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_written_when_it_can_be() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(&directory.path().join("missing"));
        let (report, reported) = watch::channel(Report::default());
        let (_ending, ends) = watch::channel(false);
        let keeping = tokio::spawn(store.clone().keep(reported, ends));
        report.send_replace(Report { kept: Some(Arc::new(wish())), ..Report::default() });
        // Long enough for it to have failed.
        sleep(SAVE / 4).await;
        assert_eq!(store.load(), None);
        fs::create_dir(directory.path().join("missing")).unwrap();
        // Nobody says anything new.
        for _ in 0..200 {
            if store.load() == Some(wish()) {
                return keeping.abort();
            }
            sleep(SAVE / 10).await;
        }
        panic!("it is not written");
    }
}
