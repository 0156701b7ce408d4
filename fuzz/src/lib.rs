//! Fuzz targets: whatever comes in, the laws hold.
//!
//! Each target is a plain function of bytes that panics when a law is broken.
//! libFuzzer looks for such bytes (`scripts/fuzz`); the tests of this crate
//! replay what it kept in `corpus/` and what ever broke us in `regressions/`.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a panic is how a target says that a law is broken"
)]

mod api;
mod bytes;
mod hello;
mod manifests;
mod model;
mod packet;
mod pipeline;
mod reader;
mod sync;
mod world;

pub use api::api;
pub use hello::hello;
pub use manifests::manifests;
pub use packet::packet;
pub use pipeline::{pipeline, team};
pub use sync::sync;

/// A target: takes any bytes.
pub type Target = fn(&[u8]);

/// All targets, by the names of their programs and directories.
pub const TARGETS: [(&str, Target); 7] = [
    ("packet", packet),
    ("pipeline", pipeline),
    ("team", team),
    ("manifests", manifests),
    ("api", api),
    ("sync", sync),
    ("hello", hello),
];
