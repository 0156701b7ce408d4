//! A worker on real veths: packets are balanced, held and sent on, and every
//! frame comes home, whatever is attached, detached, busy or gone.
//!
//! Everything is in one network namespace. The worker has `n0` towards the
//! client and `n1` towards the endpoint; the test plays both of them on the
//! peers, `f0` and `f1`. Instead of the real XDP program one stands there that
//! hands over everything.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with what went wrong"
)]

mod balancing;
mod given;
mod links;
mod pressure;
mod sleeping;
mod team;
mod threads;
mod waiting;
mod world;
