//! Waiting for something to become true, and saying what did not.

use std::fmt::Display;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(5);

/// Waits until `probe` is true; panics with `what` when `limit` is over.
pub fn eventually(what: impl Display, limit: Duration, mut probe: impl FnMut() -> bool) {
    eventually_some(what, limit, || probe().then_some(()).ok_or("not yet"));
}

/// Waits until `probe` gives a value; panics with `what` and the newest error
/// when `limit` is over.
pub fn eventually_some<T, E: Display>(
    what: impl Display,
    limit: Duration,
    mut probe: impl FnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    loop {
        let error = match probe() {
            Ok(value) => return value,
            Err(error) => error,
        };
        assert!(start.elapsed() < limit, "waited {limit:?} for {what}: {error}");
        sleep(STEP);
    }
}
