//! Why an interface is not attached, told to people.

use blixt_afxdp::BindError;
use blixt_afxdp::nic::NicError;
use blixt_xdp_abi::QUEUES_PER_INTERFACE;

use crate::xdp::XdpError;

/// Why an interface is not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// XDP does not go.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// Its sockets do not go.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// It can't be asked or changed.
    #[error(transparent)]
    Nic(#[from] NicError),
    /// There is none.
    #[error("there is no interface {0}: `ip link` lists those there are")]
    Absent(String),
    /// Its packets would not fit into frames.
    #[error("{0}")]
    Mtu(String),
    /// More queues than the program serves.
    #[error(
        "{interface} has {queues} queues, and {QUEUES_PER_INTERFACE} are served: use `ethtool -L {interface} combined {QUEUES_PER_INTERFACE}`"
    )]
    Queues {
        /// Which.
        interface: String,
        /// How many.
        queues: u32,
    },
    /// Fewer queues than workers.
    #[error(
        "{interface} has {queues} queues, fewer than --workers {workers}: give it more with `ethtool -L {interface} combined {workers}` (on a veth `rx {workers} tx {workers}`), or use --workers {queues}"
    )]
    FewQueues {
        /// Which.
        interface: String,
        /// How many.
        queues: u32,
        /// How many workers there are.
        workers: usize,
    },
    /// A worker is stuck or gone.
    #[error("worker {0} does not answer: restart the agent")]
    Worker(u16),
    /// Sockets that had just been bound were lost again.
    #[error("a queue of {interface} stopped working right after it was bound: {reason}")]
    ShortLived {
        /// Which.
        interface: String,
        /// What the worker said.
        reason: String,
    },
}
