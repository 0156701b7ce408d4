//! What the throughput run is made of.
//!
//! A [`rig::Rig`] is three network namespaces with a generator, two links and
//! a sink. Between the links stands one of three contestants: the [`bare`]
//! forwarder, which only changes MAC addresses; [`balancer`], Blixt's own
//! worker, with the same frames, rings and core; and the [`kernel`], with
//! nftables. [`contest`] measures a round of one of them, [`plan`] says which
//! rounds there are, [`report`] what came of them.

#![forbid(unsafe_code)]

pub mod balancer;
pub mod bare;
pub mod chart;
pub mod contest;
pub mod cpu;
pub mod kernel;
pub mod load;
pub mod plan;
pub mod report;
pub mod rig;
pub mod sockets;

/// Anything that ends a run.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
