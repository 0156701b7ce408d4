//! Tests of one binary that can't run at once.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by a test that both cores have enough to do with.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
