//! The pinned thread that moves packets.
//!
//! A worker owns its sockets, frames, flows and counters alone; packets of
//! others' flows it gives to them. The control
//! thread publishes what it reads, sends it commands, and listens to its
//! events; see [`Published`], [`Command`] and [`Event`]. Nothing here decides
//! about packets: that is [`blixt_dataplane::Pipeline`].

mod contract;
mod directory;
mod handle;
mod handoff;
mod hold;
mod pace;
mod question;
mod run;
mod shared;
mod status;

pub use contract::{
    Attach, AttachAnswer, BoundQueue, Command, Epoch, Event, FrameAccount, HoldLimits, Published,
    SpawnError, WorkerConfig,
};
pub(crate) use directory::FlowDirectory;
pub use handle::{WorkerHandle, event_channel, spawn, thread_name};
pub(crate) use handoff::mailbox_bytes;
pub use question::{FlowPage, Question};
pub use shared::{Reader, Shared};
pub use status::{InterfaceCounters, MAX_INTERFACES, WorkerStatus};
