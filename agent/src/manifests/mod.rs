//! The directory of manifests: what is in it now, and when that changes.

mod read;
mod watch;

pub use read::Contents;
pub use watch::{Watch, WatchError, watch};
