//! The pipeline alone, full of flows, for whoever measures it.
//!
//! [`World`] is one worker's pipeline with tables, routes and as many flows as
//! asked for. A [`Case`] puts one kind of packet through it, and [`callgrind`]
//! counts the instructions. Whoever measures time tells it as a [`Spread`], and
//! on which [`Machine`].

#![forbid(unsafe_code)]

pub mod callgrind;
mod case;
mod flows;
mod machine;
mod stats;
mod world;

pub use case::{Case, Kind, PACKETS};
pub use flows::Filled;
pub use machine::Machine;
pub use stats::Spread;
pub use world::{Family, Protocol, STAGES, Way, World};

/// Anything that ends a measurement.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
