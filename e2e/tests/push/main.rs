//! Push: agents and replicas of the controller, by themselves and with traffic.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with what went wrong"
)]

mod cut_off;
mod goodbye;
mod renewal;
mod replica;
mod scraped;
mod scripted;
mod silence;
mod strangers;
mod sync;
mod traffic;
mod trouble;
mod unreadable;
mod wires;
