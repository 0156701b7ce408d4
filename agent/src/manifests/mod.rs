//! The directory of manifests: what is in it now, and when that changes.

mod read;
mod watch;

pub use read::{Contents, MAX_FILE_BYTES, is_manifest};
pub use watch::{Watch, WatchError, watch};
