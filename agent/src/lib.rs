//! The node agent of Blixt: it only wires the other crates together.

#![forbid(unsafe_code)]

pub mod multicast;
pub mod flags;
pub mod kernel;
pub mod logs;
pub mod manifests;
pub mod preflight;
pub mod tables;
pub mod wanted;
pub mod worker;
pub mod xdp;
