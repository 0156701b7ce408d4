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

/// How many flows there are, unless others are asked for.
const FLOWS: [u32; 4] = [1_000, 100_000, 1_000_000, 10_000_000];

/// The numbers of flows that a program is to measure: its arguments.
pub fn flows_to_measure() -> Result<Vec<u32>, Error> {
    let flows = std::env::args().skip(1).map(|flows| flows.parse());
    let flows = flows.collect::<Result<Vec<u32>, _>>()?;
    Ok(if flows.is_empty() { FLOWS.to_vec() } else { flows })
}

/// Anything that ends a measurement.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
