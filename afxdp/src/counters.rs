//! What is counted for each interface.

/// What the sockets of one interface have counted, closed ones included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlotCounters {
    /// Frames received.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames given to the kernel to send.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames dropped because the tx ring was full and stayed so.
    pub tx_ring_full: u64,
    /// How often the kernel was told to send.
    pub kicks: u64,
    /// How often a tx ring had not moved for long, and was kicked again.
    pub stalls: u64,
    /// Frames that came from another UMEM and had to be copied.
    pub copied: u64,
    /// Frames the kernel had no free frame for. Read a few times a second,
    /// as are the next three.
    pub fill_ring_empty: u64,
    /// Frames the kernel had no place for in the rx ring.
    pub rx_ring_full: u64,
    /// Frames the kernel dropped for another reason.
    pub rx_dropped: u64,
    /// Frames the kernel refused to send; a bug if not 0.
    pub tx_invalid: u64,
    /// Frames the kernel gave back that it was never given; a bug if not 0.
    pub foreign: u64,
}
