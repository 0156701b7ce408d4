//! Moves frames between AF_XDP sockets.

mod error;
mod sizes;

pub use error::BindError;
pub use sizes::{FrameBytes, Sizes};
