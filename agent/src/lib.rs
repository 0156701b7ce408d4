//! The node agent of Blixt: it only wires the other crates together.

#![forbid(unsafe_code)]

mod attempt;
pub mod configured;
pub mod control;
mod families;
pub mod flags;
pub mod hostpath;
pub mod http;
pub mod interfaces;
pub mod kernel;
pub mod local;
pub mod logs;
pub mod manifests;
pub mod memory;
pub mod metrics;
pub mod multicast;
mod netlink;
pub mod offloads;
pub mod preflight;
pub mod run;
mod settle;
pub mod state;
pub mod streams;
pub mod sync;
pub mod tables;
mod told;
pub mod traffic;
pub mod wanted;
pub mod worker;
pub mod xdp;
