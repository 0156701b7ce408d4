//! Networks for tests: namespaces, the links between them, and programs that
//! run inside.
//!
//! Everything is made by `ip` and goes when its value is dropped, also when
//! a test panics; what a killed test left behind goes with the next test's
//! first namespace. Programs are ended by their own process numbers, never by
//! name, and every one of them has a time limit. Nothing here ever sends a
//! packet outside the namespaces it made.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with what went wrong"
)]

use std::io::Write as _;

mod lab;
mod link;
mod namespace;
mod process;
mod wait;

pub use lab::{Arms, Backend, Far, Host, Lab, LabPlan, net};
pub use link::{Offloads, bridge, veth, veth_with_queues};
pub use namespace::{Namespace, thread_in};
pub use process::{Process, Program, Ran, program};
pub use wait::{eventually, eventually_some};

/// Whether this process may make namespaces. If it may not, says so loudly;
/// where a skipped test would go unnoticed (`CI` or `BLIXT_REQUIRE_ROOT` is
/// set) it panics instead.
pub fn root_or_skip(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let strict = ["CI", "BLIXT_REQUIRE_ROOT"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!strict, "{test} needs root, and CI or BLIXT_REQUIRE_ROOT forbids to skip it");
    // Not by eprintln!, which nobody sees of a test that passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test} needs root");
    false
}

/// Returns from the test that it stands in unless the test may make
/// namespaces; see [`root_or_skip`](crate::netns::root_or_skip).
#[macro_export]
macro_rules! require_root {
    () => {
        if !$crate::netns::root_or_skip(std::thread::current().name().unwrap_or(module_path!())) {
            return;
        }
    };
}
