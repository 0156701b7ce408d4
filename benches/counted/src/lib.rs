//! The pipeline alone, full of flows, for whoever measures it.
//!
//! [`World`] is one worker's pipeline with tables, routes and as many flows as
//! asked for. A [`Case`] puts one kind of packet through it, and [`callgrind`]
//! counts the instructions.

#![forbid(unsafe_code)]

pub mod callgrind;
mod case;
mod world;

pub use case::{Case, Kind, PACKETS};
pub use world::{Family, Protocol, Way, World};
