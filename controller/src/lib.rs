//! The controller: watches the cluster's objects, compiles them with
//! `blixt-gateway`, and, while it holds the lease, writes what became of them
//! into their status.
//!
//! Everything is one loop ([`run`]): changes in, a compilation out. Several
//! replicas run it; only the leader writes.

#![forbid(unsafe_code)]

mod agents;
mod clients;
mod events;
pub mod flags;
mod http;
mod infrastructure;
mod known;
mod leader;
mod metrics;
mod patience;
pub mod probe;
pub mod push;
mod refusals;
pub mod run;
mod secrets;
mod status;
mod watch;
mod world;
