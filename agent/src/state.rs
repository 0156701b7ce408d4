//! What the agent shows of itself: to /metrics, /readyz and blixtctl.
//!
//! The control thread writes it, anybody reads. Counters are read where the
//! workers count; everything else is a copy that is replaced as a whole.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use blixt_afxdp::nic::Offload;
use blixt_gateway::{Refusal, Statuses, Warning};
use blixt_model::Generation;

use crate::tables::Applied;
use crate::traffic::Counted;
use crate::worker::{Published, WorkerStatus};
use crate::xdp::{AttachedMode, Counts};

/// The agent, as others see it.
#[derive(Debug)]
pub struct State {
    /// When it started, by the wall clock.
    pub started_at: SystemTime,
    /// When it started, by a clock that nobody sets.
    pub started: Instant,
    /// Where it learns what is wanted.
    pub source: String,
    /// The SNAT addresses.
    pub snat_addresses: BTreeSet<IpAddr>,
    /// The ports that are used of each.
    pub snat_ports: RangeInclusive<u16>,
    /// Flows that each worker can hold.
    pub flow_capacity: usize,
    /// The workers.
    pub workers: Vec<WorkerState>,
    /// Where the workers' slot counters are.
    pub published: Arc<Published>,
    /// What is in force.
    pub applied: Arc<ArcSwap<Applied>>,
    /// All that the control thread knows.
    pub control: ArcSwap<ControlState>,
}

/// One worker.
#[derive(Debug)]
pub struct WorkerState {
    /// The core it is pinned to.
    pub core: Option<usize>,
    /// What it counts.
    pub status: Arc<WorkerStatus>,
}

/// What the control thread knows, at one moment.
#[derive(Debug, Clone, Default)]
pub struct ControlState {
    /// The interfaces, by slot.
    pub interfaces: Vec<InterfaceState>,
    /// What became of each object.
    pub statuses: Statuses,
    /// What is refused of the manifests.
    pub refusals: Vec<Refusal>,
    /// What was hardly meant so.
    pub warnings: Vec<Warning>,
    /// The newest snapshot.
    pub wanted: Generation,
    /// Why that is not in force, if it is not.
    pub refused: Option<String>,
    /// What the XDP program has counted.
    pub xdp: Option<Counts>,
    /// Why the agent is not ready; empty if it is.
    pub not_ready: Vec<String>,
    /// Which worker does not move, if one does not.
    pub stuck: Option<String>,
}

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceState {
    /// Its name.
    pub name: String,
    /// How it is with it.
    pub link: LinkState,
}

/// How it is with an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// It is not there.
    Gone,
    /// It is there, but can't be used.
    Failed {
        /// Why not.
        reason: String,
    },
    /// It carries our traffic.
    Attached(AttachedState),
}

/// How an interface is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedState {
    /// The kernel's number for it.
    pub ifindex: u32,
    /// How the XDP program runs.
    pub mode: AttachedMode,
    /// Its driver.
    pub driver: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// What was put off on it.
    pub offloads_off: Vec<Offload>,
    /// Its queues, by number.
    pub queues: Vec<QueueState>,
}

/// One bound queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueState {
    /// Its number.
    pub queue: u32,
    /// The worker that has it.
    pub worker: u16,
    /// Whether frames are not copied.
    pub zero_copy: bool,
}

impl State {
    /// The slot counters with what they belong to: hand the result to
    /// `read`, since what it borrows may be replaced at any time.
    pub fn counted<T>(&self, read: impl FnOnce(Counted<'_>) -> T) -> T {
        let applied = self.applied.load_full();
        let stats = self.published.stats.iter().map(ArcSwap::load_full).collect();
        read(Counted { applied: &applied, stats })
    }

    /// Why the agent is not ready; empty if it is.
    pub fn not_ready(&self) -> Vec<String> {
        self.control.load().not_ready.clone()
    }
}
