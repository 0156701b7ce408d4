//! What can go wrong when frames and sockets are made, told to people.

use std::io;

use crate::nic::NicError;

/// Why the queues of an interface could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The memory limit of the process is too low for the frames.
    #[error(
        "the kernel will not lock {mib} MiB of frames in memory ({source}): give the agent CAP_IPC_LOCK, raise `ulimit -l` (RLIMIT_MEMLOCK), or use fewer frames"
    )]
    LockedMemory {
        /// How much was asked for.
        mib: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// There is no memory for the frames.
    #[error(
        "the kernel has no {mib} MiB of memory for frames ({source}): free some, or use fewer frames"
    )]
    Memory {
        /// How much was asked for.
        mib: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// AF_XDP sockets need a capability.
    #[error(
        "the kernel refuses AF_XDP sockets ({source}): run as root, or with CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF"
    )]
    NotPermitted {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel is built without AF_XDP.
    #[error("this kernel has no AF_XDP sockets ({source}): it needs CONFIG_XDP_SOCKETS=y")]
    NoAfXdp {
        /// The kernel's answer.
        source: io::Error,
    },
    /// There is no such interface.
    #[error("interface {interface} does not exist in this network namespace")]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// Somebody else has the queue.
    #[error(
        "queue {queue} of {interface} is still bound by another AF_XDP socket after {waited_ms} ms: stop the program that uses it (`ss --xdp` lists them)"
    )]
    Busy {
        /// The interface.
        interface: String,
        /// Its queue.
        queue: u32,
        /// How long it was tried.
        waited_ms: u64,
    },
    /// The kernel refused for another reason.
    #[error("queue {queue} of {interface} cannot be bound: {source}")]
    Queue {
        /// The interface.
        interface: String,
        /// Its queue.
        queue: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The device can't be asked.
    #[error(transparent)]
    Nic(NicError),
    /// The limit of open files is reached.
    #[error(
        "no file descriptor is left for AF_XDP sockets ({source}): raise `ulimit -n` (RLIMIT_NOFILE; systemd: LimitNOFILE), each queue of each interface takes one"
    )]
    Descriptors {
        /// The kernel's answer.
        source: io::Error,
    },
    /// There is no number for one more interface.
    #[error("{interface} would be one interface more than the {most} a worker can have")]
    TooManyInterfaces {
        /// The interface.
        interface: String,
        /// How many there can be.
        most: usize,
    },
    /// The rings and frames asked for do not fit each other.
    #[error(
        "{entries} ring entries and {frames} frames: rings need a power of two, and there must be at least twice as many frames"
    )]
    Sizes {
        /// Entries of each ring.
        entries: u32,
        /// Frames in all.
        frames: u32,
    },
}

impl From<NicError> for BindError {
    fn from(error: NicError) -> Self {
        match error {
            NicError::NoInterface { interface } => Self::NoInterface { interface },
            other => Self::Nic(other),
        }
    }
}
