//! The agent's binary on a node of its own: a network namespace with a link
//! to clients and one to endpoints. What it does with traffic is tested in
//! e2e; here is what it does to the node, and what it says.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with what went wrong"
)]

mod interfaces;
mod kernel;
mod life;
mod manifests;
mod node;
mod refusals;
