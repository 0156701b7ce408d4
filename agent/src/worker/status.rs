//! What a worker counts besides its pipeline. The worker is the only writer;
//! anybody may read, at any time.

use std::sync::Arc;

use blixt_afxdp::SlotCounters;
use blixt_dataplane::{Counter, Counters, InterfaceSlot};

use super::FrameAccount;

/// How many interfaces a worker can have.
pub const MAX_INTERFACES: usize = blixt_afxdp::MAX_SLOTS;

/// What one worker has counted, and where it stands: brought up to date some
/// ten times a second, and before it sleeps.
#[derive(Debug)]
pub struct WorkerStatus {
    /// What its pipeline counts.
    pub pipeline: Arc<Counters>,
    /// The generation of the tables that it uses.
    pub tables_generation: Counter,
    /// How often it has taken up a new [`blixt_dataplane::Fib`].
    pub fibs_adopted: Counter,
    /// Frames made; see [`FrameAccount`].
    pub frames_born: Counter,
    /// Frames that are free.
    pub frames_home: Counter,
    /// Frames whose memory was given back, when sockets were made anew.
    pub frames_ended: Counter,
    /// Packets that wait for a neighbour.
    pub holding: Counter,
    /// How often it went to sleep.
    pub sleeps: Counter,
    /// The longest turn of the last minute or two.
    pub longest_turn_ns: Counter,
    /// The most CPU time that the worker itself took in a turn, in the same time.
    pub longest_turn_own_ns: Counter,
    /// How many turns took more than 1 ms because of what the worker did.
    pub slow_turns_by_itself: Counter,
    /// How many turns took more than 1 ms because of what the kernel did to send.
    pub slow_turns_by_sending: Counter,
    /// How many turns took more than 1 ms because something else had the core.
    pub slow_turns_by_others: Counter,
    /// How often these numbers were brought up to date: stands still only if
    /// the worker does.
    pub heartbeats: Counter,
    interfaces: Box<[InterfaceCounters]>,
}

/// What is counted for one attached interface, all its queues together.
/// Counting goes on when the interface is detached and attached again.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct InterfaceCounters {
    /// Frames received.
    pub rx_packets: Counter,
    /// Their bytes.
    pub rx_bytes: Counter,
    /// Frames given to the kernel to send.
    pub tx_packets: Counter,
    /// Their bytes.
    pub tx_bytes: Counter,
    /// Queues that are bound.
    pub queues: Counter,
    /// Of these, queues whose frames are not copied.
    pub zero_copy_queues: Counter,
    /// Frames the kernel could not deliver because the fill ring was empty.
    pub fill_ring_empty: Counter,
    /// Frames the kernel could not deliver because the rx ring was full.
    pub rx_ring_full: Counter,
    /// Frames the kernel could not deliver for any other reason.
    pub rx_dropped: Counter,
    /// Frames the kernel refused to send. Always 0, or there is a bug.
    pub tx_invalid: Counter,
    /// Frames dropped because the tx ring was full.
    pub tx_ring_full: Counter,
    /// How often the kernel was told to send.
    pub kicks: Counter,
    /// How often a ring had not moved for long.
    pub stalls: Counter,
    /// Frames copied because they came from an interface in the other mode.
    pub copied: Counter,
}

impl InterfaceCounters {
    pub(super) fn set(&self, counted: &SlotCounters, queues: usize, zero_copy_queues: usize) {
        for (counter, value) in [
            (&self.rx_packets, counted.rx_packets),
            (&self.rx_bytes, counted.rx_bytes),
            (&self.tx_packets, counted.tx_packets),
            (&self.tx_bytes, counted.tx_bytes),
            (&self.queues, queues as u64),
            (&self.zero_copy_queues, zero_copy_queues as u64),
            (&self.fill_ring_empty, counted.fill_ring_empty),
            (&self.rx_ring_full, counted.rx_ring_full),
            (&self.rx_dropped, counted.rx_dropped),
            (&self.tx_invalid, counted.tx_invalid),
            (&self.tx_ring_full, counted.tx_ring_full),
            (&self.kicks, counted.kicks),
            (&self.stalls, counted.stalls),
            (&self.copied, counted.copied),
        ] {
            counter.set(value);
        }
    }
}

impl WorkerStatus {
    pub(crate) fn new(pipeline: Arc<Counters>) -> Self {
        Self {
            pipeline,
            tables_generation: Counter::default(),
            fibs_adopted: Counter::default(),
            frames_born: Counter::default(),
            frames_home: Counter::default(),
            frames_ended: Counter::default(),
            holding: Counter::default(),
            sleeps: Counter::default(),
            longest_turn_ns: Counter::default(),
            longest_turn_own_ns: Counter::default(),
            slow_turns_by_itself: Counter::default(),
            slow_turns_by_sending: Counter::default(),
            slow_turns_by_others: Counter::default(),
            heartbeats: Counter::default(),
            interfaces: (0..MAX_INTERFACES).map(|_| InterfaceCounters::default()).collect(),
        }
    }

    /// The counters of an interface; `None` for a slot beyond
    /// [`MAX_INTERFACES`].
    pub fn interface(&self, slot: InterfaceSlot) -> Option<&InterfaceCounters> {
        self.interfaces.get(usize::from(slot.0))
    }

    /// Where the frames are now. While traffic flows some are on their way.
    pub fn frames(&self) -> FrameAccount {
        FrameAccount { born: self.frames_born.value(), home: self.frames_home.value() }
    }

    /// The same without those that are no more.
    pub fn frames_now(&self) -> FrameAccount {
        let FrameAccount { born, home } = self.frames();
        let ended = self.frames_ended.value();
        FrameAccount { born: born.saturating_sub(ended), home: home.saturating_sub(ended) }
    }
}
