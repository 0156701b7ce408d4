//! Tests that can't run beside others.

use std::env;
use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{Flock, FlockArg};

/// Leads to a file that whoever is at work on this machine holds a lock of (flock(1)), where
/// `scripts/test` does several things at once.
pub(crate) const AT_WORK: &str = "BLIXT_AT_WORK";

/// Held by a test that both cores have enough to do with, among those of one binary.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until nobody else is at work, for a test that measures for how long something is
/// away.
pub fn wait_for_quiet() {
    let Some(path) = env::var_os(AT_WORK) else { return };
    let file = File::create(&path).unwrap();
    // Those who come later come after this one: nobody has to be kept waiting.
    let lock = Flock::lock(file, FlockArg::LockExclusive);
    drop(lock.unwrap_or_else(|(_, error)| panic!("{}: {error}", path.display())));
}
