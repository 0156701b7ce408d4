//! What the control thread and a worker say to each other.
//!
//! What changes often and is read by every burst is [`Published`]; what is
//! asked for is a [`Command`], with its answer in a oneshot; what a worker
//! tells unasked is an [`Event`]; what it counts is in [`super::WorkerStatus`].

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use blixt_afxdp::{BindError, Sizes};
use blixt_dataplane::{
    Fib, InterfaceSlot, Neighbour, PipelineConfig, SlotStats, Tables, Team, Timeouts, WorkerId,
};
use blixt_mem::RegionError;
use tokio::sync::oneshot;

use super::directory::FlowDirectory;
use super::handoff::Mailboxes;
use super::question::Question;
use super::shared::Shared;

/// What one worker is made with.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Which worker it is.
    pub id: WorkerId,
    /// The core its thread is pinned to; `None` leaves that to the kernel.
    pub core: Option<usize>,
    /// What its pipeline is made with.
    pub pipeline: PipelineConfig,
    /// Frames and rings.
    pub sizes: Sizes,
    /// How many packets may wait for neighbours, and how long.
    pub hold: HoldLimits,
    /// Never sleeps: takes a whole core, and saves the time of waking up.
    pub spin: bool,
}

/// The bounds of what waits for neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldLimits {
    /// Packets in all.
    pub packets: usize,
    /// Packets for one neighbour.
    pub per_neighbour: usize,
    /// How long a packet waits.
    pub patience: Duration,
}

impl HoldLimits {
    /// For a worker with so many frames: what waits takes an eighth of them at
    /// most, so that the others go on, and what waits for one neighbour a
    /// quarter of that.
    pub fn for_frames(frames: u32) -> Self {
        let default = Self::default();
        let packets = default.packets.min(frames as usize / 8).max(2);
        let per_neighbour = default.per_neighbour.min(packets / 4).max(1);
        Self { packets, per_neighbour, ..default }
    }
}

impl Default for HoldLimits {
    fn default() -> Self {
        // The kernel's own queue has about 100 packets of 2 KiB a neighbour
        // (`unres_qlen_bytes`), and gives up after three probes a second
        // apart; a client retries a SYN after one second.
        Self { packets: 1_024, per_neighbour: 64, patience: Duration::from_secs(1) }
    }
}

/// What all workers read, published by the control thread. After a change,
/// [`super::WorkerHandle::wake`] lets a sleeping worker see it at once.
#[derive(Debug)]
pub struct Published {
    /// The compiled snapshot.
    pub tables: Shared<Tables>,
    /// The kernel's routes and neighbours. Its interfaces are in the order of
    /// their slots.
    pub fib: Shared<Fib>,
    /// Each worker's counters of slots, by worker. Grown before the tables
    /// that use the new slots are published.
    pub stats: Vec<Shared<SlotStats>>,
    /// The counters of slots of connections that end on the node's own TCP stack,
    /// which many threads change. Grown as those of workers are.
    pub streams: Shared<SlotStats>,
    /// Where workers give each other packets.
    pub(super) mailboxes: Mailboxes,
    /// Which of them has which flow.
    directory: Arc<FlowDirectory>,
}

impl Published {
    /// Nothing yet, for so many workers, which cannot tell each other of their
    /// flows: there is no room for them in what they share.
    pub fn new(workers: usize) -> Self {
        Self::with_room_for(workers, 0)
    }

    /// The same, with room for so many flows in all in what the workers share.
    pub fn with_room_for(workers: usize, flows: usize) -> Self {
        let alone = workers <= 1;
        Self {
            mailboxes: Mailboxes::new(workers),
            directory: Arc::new(FlowDirectory::new(if alone { 0 } else { flows })),
            tables: Shared::default(),
            fib: Shared::default(),
            stats: (0..workers).map(|_| Shared::default()).collect(),
            streams: Shared::default(),
        }
    }

    /// Frees the tables and counters that have been replaced and no worker looks
    /// at any more. For their writer, now and then; see [`Shared`]. What else is
    /// published has other writers.
    pub fn reclaim_tables(&self) {
        self.tables.reclaim();
        self.all_stats().for_each(Shared::reclaim);
    }

    /// All counters of slots: those of each worker, and those of streams.
    pub fn all_stats(&self) -> impl Iterator<Item = &Shared<SlotStats>> {
        self.stats.iter().chain([&self.streams])
    }

    /// What a pipeline must know of the others; `None` if there are none.
    pub(super) fn team(&self) -> Option<Team> {
        let workers = u16::try_from(self.stats.len()).ok().filter(|workers| *workers > 1)?;
        Some(Team { workers, directory: Arc::clone(&self.directory) as _ })
    }
}

/// What a worker is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Bind queues of an interface.
    Attach(Attach),
    /// Let go of the queues of an interface, whether it still exists or not.
    Detach {
        /// Which.
        slot: InterfaceSlot,
        /// Answered when they are free; the number of queues that were bound.
        reply: oneshot::Sender<usize>,
    },
    /// Announce every address on every attached interface.
    Announce,
    /// Keep flows for so long from now on.
    KeepFor(Timeouts),
    /// Tell something about flows.
    Ask(Question),
    /// Let go of everything and end. The answer is [`Event::Stopped`].
    Stop,
}

/// Tells one attaching of an interface from the next: what is said of one that
/// is over can be told from what is said of the one that has taken its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Epoch(u64);

impl Epoch {
    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Asks for queues of an interface to be bound. Those that are bound already
/// stay as they are.
#[derive(Debug)]
pub struct Attach {
    /// Which interface it is in [`Published::fib`].
    pub slot: InterfaceSlot,
    /// Which attaching of it this is.
    pub epoch: Epoch,
    /// Its name.
    pub name: String,
    /// The queues that are this worker's.
    pub queues: Vec<u32>,
    /// Whether zero-copy may be tried: not where the XDP program runs in
    /// generic mode, which never fills a socket in zero-copy mode.
    pub zero_copy: bool,
    /// The queues that now have a socket, or why there is none. Queues of
    /// other interfaces that had to move for it are told by [`Event::Moved`].
    pub reply: oneshot::Sender<AttachAnswer>,
}

/// The queues that have a new socket, or why there is none.
pub type AttachAnswer = Result<Vec<BoundQueue>, BindError>;

/// A queue with its new socket.
#[derive(Debug)]
pub struct BoundQueue {
    /// The interface.
    pub slot: InterfaceSlot,
    /// Which attaching of it it belongs to.
    pub epoch: Epoch,
    /// Its queue.
    pub queue: u32,
    /// The socket, to be put into the XSKMAP and dropped at once: a queue is
    /// free only when every descriptor of its socket is closed.
    pub socket: OwnedFd,
    /// Whether the kernel says that frames are not copied (XDP_OPTIONS).
    pub zero_copy: bool,
}

/// What a worker tells unasked.
#[derive(Debug)]
pub enum Event {
    /// Packets wait for this neighbour: have the kernel resolve it.
    Unresolved(Neighbour),
    /// A queue had to move to a new socket, since the memory that it shares
    /// with others was made anew. Until the socket is in the XSKMAP what comes
    /// in by that queue is lost.
    Moved(BoundQueue),
    /// A queue's socket no longer works; most often its interface is gone.
    /// Told once for all queues of an interface that die at once.
    /// The worker leaves it alone until it is told to detach.
    QueueDead {
        /// The interface.
        slot: InterfaceSlot,
        /// Which attaching of it the socket was from.
        epoch: Epoch,
        /// Its queue.
        queue: u32,
        /// What the kernel says.
        error: std::io::Error,
    },
    /// The worker has ended.
    Stopped {
        /// Which.
        worker: WorkerId,
        /// What became of its frames.
        frames: FrameAccount,
    },
}

/// What became of a worker's frames: all that were born have come home, or
/// something lost them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameAccount {
    /// Frames made.
    pub born: u64,
    /// Frames that are free, or were when their memory was given back.
    pub home: u64,
}

/// Why a worker could not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// There is no memory for its flows.
    #[error("no memory for the flow table of worker {worker}: {source}")]
    Flows {
        /// Which worker.
        worker: u16,
        /// Why.
        source: RegionError,
    },
    /// The frames and rings asked for do not fit each other.
    #[error("worker {worker}: {source}")]
    Sizes {
        /// Which worker.
        worker: u16,
        /// Why.
        source: BindError,
    },
    /// Nothing is published for it.
    #[error("worker {worker} has no counters: {workers} workers were announced")]
    NoStats {
        /// Which worker.
        worker: u16,
        /// How many there are.
        workers: usize,
    },
    /// The kernel refused its thread, or what wakes it.
    #[error("worker {worker} cannot start: {source}")]
    Thread {
        /// Which worker.
        worker: u16,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Its thread could not be pinned.
    #[error(
        "worker {worker} cannot be pinned to core {core}: use a core of this process's CPU set"
    )]
    Core {
        /// Which worker.
        worker: u16,
        /// The core.
        core: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_leaves_most_frames_to_the_others() {
        assert_eq!(HoldLimits::for_frames(16_384), HoldLimits::default());
        for frames in [32, 64, 1_000, 4_096, 1 << 20] {
            let HoldLimits { packets, per_neighbour, .. } = HoldLimits::for_frames(frames);
            assert!(packets <= frames as usize / 8 && per_neighbour <= packets / 2, "{frames}");
            assert!(per_neighbour >= 1, "{frames}");
        }
    }
}
