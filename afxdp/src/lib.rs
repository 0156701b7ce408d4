//! Moves frames between AF_XDP sockets.
//!
//! An [`Exchange`] has all sockets and all frames of one worker: it receives
//! bursts of [`Frame`]s, sends them out of another interface without a copy,
//! and takes them home. A frame is an owned thing: it cannot be sent twice,
//! and at the end as many have come home as were born.
//!
//! [`nic`] asks network devices what they are, and puts offloads off and on
//! again. Nothing here looks into a packet.

mod binding;
mod closer;
mod counters;
mod error;
mod exchange;
mod frame;
#[cfg(feature = "lab")]
pub mod lab;
pub mod nic;
mod options;
mod queue;
mod sizes;
mod umem;

pub use binding::{BUSY_PATIENCE, BUSY_PAUSE, Bound, MAX_SLOTS};
pub use closer::Closer;
pub use counters::SlotCounters;
pub use error::BindError;
pub use exchange::{Account, DeadQueue, Exchange, Unsent};
pub use frame::{Frame, frames_lost};
pub use sizes::{FrameBytes, Sizes};

/// How many frames are received together.
pub const BURST: usize = 64;

/// Which interface of an [`Exchange`]; its owner gives the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);
