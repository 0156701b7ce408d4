//! Tells when a directory of manifests has changed.
//!
//! inotify says it at once; a look every few seconds catches what inotify
//! cannot see, such as a change behind a link or on a network file system.
//! A directory that is deleted and made again is found again: its parent is
//! watched too.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc as channel;

use super::read::{self, Contents};

/// How long nothing may happen before the files are read: a program that
/// writes several files, or one in several steps, is given this much.
const QUIET: Duration = Duration::from_millis(8);

/// How long that is waited for at most, so that a change is in force within
/// 100 ms although something else is written all the time.
const PATIENCE: Duration = Duration::from_millis(40);

/// How often the directory is read although nothing was heard.
const POLL: Duration = Duration::from_secs(3);

/// Why a directory can't be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The kernel has no inotify instance for us.
    #[error(
        "the kernel gives no inotify watch ({0}): raise fs.inotify.max_user_instances with sysctl"
    )]
    Inotify(#[from] notify::Error),
    /// The directory can't be read.
    #[error("the directory of manifests can't be read: {0}")]
    Read(io::Error),
    /// There is no thread to watch with.
    #[error("there is no thread to watch the manifests with: {0}")]
    Thread(io::Error),
}

/// A directory that is watched; ends with the value.
#[derive(Debug)]
pub struct Watch {
    /// Each state of the directory that differs from the one before; an error
    /// while it can't be read.
    pub changes: channel::Receiver<Result<Contents, String>>,
    /// What was there at first.
    pub first: Contents,
}

/// Begins to watch.
pub fn watch(directory: &Path) -> Result<Watch, WatchError> {
    watch_and_look(directory, POLL)
}

/// The same, with a look that often although nothing was heard.
fn watch_and_look(directory: &Path, poll: Duration) -> Result<Watch, WatchError> {
    let (wake, woken) = mpsc::channel();
    let mut watched = Watched::new(directory, wake)?;
    // Watching comes first: what changes in between is told after.
    watched.follow();
    let first = read::read(directory).map_err(WatchError::Read)?;
    let (sender, changes) = channel::channel(1);
    let last = Ok(first.clone());
    thread::Builder::new()
        .name("manifests".to_owned())
        .spawn(move || run(&mut watched, &woken, &sender, poll, last))
        .map_err(WatchError::Thread)?;
    Ok(Watch { changes, first })
}

fn run(
    watched: &mut Watched,
    woken: &Receiver<()>,
    sender: &channel::Sender<Result<Contents, String>>,
    poll: Duration,
    mut last: Result<Contents, String>,
) {
    while !sender.is_closed() {
        match woken.recv_timeout(poll) {
            Ok(()) => settle(woken),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        watched.follow();
        let now = read::read(&watched.directory).map_err(|error| error.to_string());
        if now != last {
            if sender.blocking_send(now.clone()).is_err() {
                return;
            }
            last = now;
        }
    }
}

/// Waits until it is quiet.
fn settle(woken: &Receiver<()>) {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE && woken.recv_timeout(QUIET).is_ok() {}
}

/// The watches on a directory and its parent.
struct Watched {
    directory: PathBuf,
    watcher: RecommendedWatcher,
    /// Which directory the watch is on: device and inode.
    on: Option<(u64, u64)>,
    /// The watched directory itself was deleted or renamed. Its numbers don't
    /// tell: file systems give the inode of a deleted one to the next.
    lost: Arc<AtomicBool>,
}

impl Watched {
    fn new(directory: &Path, wake: Sender<()>) -> Result<Self, WatchError> {
        let directory = std::path::absolute(directory).map_err(WatchError::Read)?;
        let own = directory.clone();
        let lost = Arc::new(AtomicBool::new(false));
        let tell_lost = Arc::clone(&lost);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<_>| {
            if event.as_ref().map_or(true, |event| takes_away(event, &own)) {
                tell_lost.store(true, Ordering::Relaxed);
            }
            if event.as_ref().map_or(true, |event| concerns(event, &own)) {
                // Nobody listens any more when the agent ends.
                let _ = wake.send(());
            }
        })?;
        if let Some(parent) = directory.parent() {
            // Without this watch a directory made again is found by polling.
            let _ = watcher.watch(parent, RecursiveMode::NonRecursive);
        }
        Ok(Self { directory, watcher, on: None, lost })
    }

    /// Puts the watch on the directory that has the name now.
    fn follow(&mut self) {
        // Asked before the look at the directory: what happens in between is
        // told again.
        let lost = self.lost.swap(false, Ordering::Relaxed);
        let now = fs::metadata(&self.directory).ok().map(|found| (found.dev(), found.ino()));
        if now == self.on && !lost {
            return;
        }
        if self.on.is_some() {
            // The old one may be gone, and its watch with it.
            let _ = self.watcher.unwatch(&self.directory);
        }
        let watches = now.is_some()
            && self.watcher.watch(&self.directory, RecursiveMode::NonRecursive).is_ok();
        self.on = if watches { now } else { None };
    }
}

/// Whether an event means that the watched directory no longer has its name.
fn takes_away(event: &notify::Event, directory: &Path) -> bool {
    let moves = matches!(
        event.kind,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) | EventKind::Other
    );
    moves && (event.paths.is_empty() || event.paths.iter().any(|path| path == directory))
}

/// Whether an event may have changed what manifests say. Files being written
/// to count too: they restart the wait for quiet.
fn concerns(event: &notify::Event, directory: &Path) -> bool {
    let changes = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    };
    // The parent's other children are none of our business; what links point
    // to within the directory (`..data`) is.
    let inside = |path: &PathBuf| path.starts_with(directory);
    changes && (event.paths.is_empty() || event.paths.iter().any(inside))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Generous, since tests share the machine; how fast it is at best is
    /// measured where the whole agent runs.
    const SOON: Duration = Duration::from_secs(60);

    /// Longer than that, so that what is found was heard of.
    const NEVER: Duration = Duration::from_secs(3_600);

    fn watch(path: &Path) -> Watch {
        watch_and_look(path, NEVER).unwrap()
    }

    /// Waits for a state like this. On a busy machine there are others before:
    /// a file that is there, and has nothing in it yet.
    fn wait_for(watch: &mut Watch, wanted: impl Fn(&Result<Contents, String>) -> bool) {
        let begin = Instant::now();
        let mut last = None;
        while begin.elapsed() < SOON {
            match watch.changes.try_recv() {
                Ok(change) if wanted(&change) => return,
                Ok(change) => last = Some(change),
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
        panic!("not in {SOON:?}; the last was {last:?}");
    }

    /// A state with just these files.
    fn is(contents: &Result<Contents, String>, files: &[(&str, &str)]) -> bool {
        let text = |text: &str| Ok(text.as_bytes().to_vec());
        let wanted = files.iter().map(|(name, body)| ((*name).to_owned(), text(body)));
        contents.as_ref().is_ok_and(|contents| *contents == wanted.collect::<Contents>())
    }

    #[test]
    fn every_way_of_changing_a_file_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::write(path.join("a.yaml"), "0").unwrap();
        let mut watch = watch(path);
        assert!(is(&Ok(watch.first.clone()), &[("a.yaml", "0")]));

        fs::write(path.join("a.yaml"), "1").unwrap();
        wait_for(&mut watch, |now| is(now, &[("a.yaml", "1")]));

        fs::write(path.join(".tmp"), "2").unwrap();
        fs::rename(path.join(".tmp"), path.join("a.yaml")).unwrap();
        wait_for(&mut watch, |now| is(now, &[("a.yaml", "2")]));

        fs::write(path.join("b.yaml"), "3").unwrap();
        wait_for(&mut watch, |now| is(now, &[("a.yaml", "2"), ("b.yaml", "3")]));
        fs::remove_file(path.join("a.yaml")).unwrap();
        wait_for(&mut watch, |now| is(now, &[("b.yaml", "3")]));

        // What is no manifest is not told.
        fs::write(path.join("notes.txt"), "4").unwrap();
        thread::sleep(PATIENCE * 3);
        assert!(watch.changes.try_recv().is_err());
    }

    #[test]
    fn config_maps_swap_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for (version, contents) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(path.join(version)).unwrap();
            fs::write(path.join(version).join("a.yaml"), contents).unwrap();
        }
        symlink("..1", path.join("..data")).unwrap();
        symlink("..data/a.yaml", path.join("a.yaml")).unwrap();
        let mut watch = watch(path);
        assert!(is(&Ok(watch.first.clone()), &[("a.yaml", "one")]));

        symlink("..2", path.join("..data_tmp")).unwrap();
        fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
        wait_for(&mut watch, |now| is(now, &[("a.yaml", "two")]));
    }

    #[test]
    fn a_directory_that_is_made_again_is_found_again() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("manifests");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("a.yaml"), "0").unwrap();
        let mut watch = watch(&path);

        fs::rename(&path, parent.path().join("away")).unwrap();
        wait_for(&mut watch, Result::is_err);
        fs::create_dir(&path).unwrap();
        wait_for(&mut watch, |now| is(now, &[]));
        fs::write(path.join("a.yaml"), "1").unwrap();
        wait_for(&mut watch, |now| is(now, &[("a.yaml", "1")]));
    }

    #[test]
    fn a_directory_with_the_inode_of_the_last_one_is_watched_too() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("manifests");
        fs::create_dir(&path).unwrap();
        let mut watch = watch(&path);
        // File systems often reuse an inode at once, though not always.
        for round in 0..3 {
            fs::remove_dir_all(&path).unwrap();
            fs::create_dir(&path).unwrap();
            // Time to watch the new one, on a machine that has some.
            thread::sleep(PATIENCE * 2);
            let text = round.to_string();
            fs::write(path.join("a.yaml"), &text).unwrap();
            wait_for(&mut watch, |now| is(now, &[("a.yaml", &text)]));
        }
    }

    #[test]
    fn what_was_not_heard_of_is_found_by_looking() {
        let parent = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (parent.path().join("manifests"), parent.path().join("elsewhere"));
        fs::create_dir(&path).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("a"), "0").unwrap();
        symlink(elsewhere.join("a"), path.join("a.yaml")).unwrap();
        let mut watch = watch_and_look(&path, Duration::from_millis(10)).unwrap();
        fs::write(elsewhere.join("a"), "1").unwrap();
        wait_for(&mut watch, |now| is(now, &[("a.yaml", "1")]));
    }
}
