//! The directory of manifests: what is in it now, and when that changes.

mod objects;
mod read;
mod watch;

pub use objects::{Objects, objects};
pub use read::Contents;
pub use watch::{Watch, WatchError, watch};
