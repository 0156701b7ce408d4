//! What the throughput run is made of.
//!
//! A [`rig::Rig`] is a network namespace with a generator, two links and a
//! sink. Between the links stands one of two contestants, with the same
//! frames, rings, program, core and way of sleeping: the [`bare`] forwarder,
//! which only changes MAC addresses, and [`balancer`], Blixt's own worker.

#![forbid(unsafe_code)]

pub mod balancer;
pub mod bare;
pub mod report;
pub mod rig;

/// Anything that ends a run.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
