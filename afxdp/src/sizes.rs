//! How large everything is.

use crate::BindError;

/// What the kernel keeps free in front of each packet for XDP programs:
/// `XDP_PACKET_HEADROOM` of `linux/bpf.h`.
const XDP_HEADROOM: u32 = 256;

/// Ethernet header and two VLAN tags: what a frame has besides its MTU.
const LINK_BYTES: u32 = 14 + 2 * 4;

/// The size of a frame; the kernel takes powers of two from 2,048 bytes to a
/// page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FrameBytes {
    /// 2,048: enough for an MTU of 1,500.
    #[default]
    Half,
    /// 4,096: enough for what a veth with an XDP program takes (3,498).
    Page,
}

impl FrameBytes {
    /// The smaller one that holds packets of this MTU, if either does.
    pub fn for_mtu(mtu: u32) -> Option<Self> {
        [Self::Half, Self::Page].into_iter().find(|size| mtu <= size.largest_mtu())
    }

    /// In bytes.
    pub fn bytes(self) -> u32 {
        match self {
            Self::Half => 2_048,
            Self::Page => 4_096,
        }
    }

    /// The largest MTU that fits, two VLAN tags included.
    pub fn largest_mtu(self) -> u32 {
        self.bytes() - XDP_HEADROOM - LINK_BYTES
    }
}

/// How much memory and how long rings a worker gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Frames of each UMEM: one for the sockets in zero-copy mode, one for
    /// those in copy mode. On huge pages, if they fill whole ones and the kernel
    /// has some.
    pub frames: u32,
    /// Bytes of each.
    pub frame_bytes: FrameBytes,
    /// Entries of each fill, rx, tx and completion ring: a power of two.
    pub ring_entries: u32,
}

impl Default for Sizes {
    /// 32 MiB: enough for four queues that are full in both directions.
    fn default() -> Self {
        Self { frames: 16_384, frame_bytes: FrameBytes::Half, ring_entries: 2_048 }
    }
}

impl Sizes {
    /// Enough frames for so many queues to be full in both directions.
    pub fn for_queues(queues: usize, frame_bytes: FrameBytes, ring_entries: u32) -> Self {
        let queues = u32::try_from(queues.max(1)).unwrap_or(u32::MAX);
        let frames = ring_entries.saturating_mul(2).saturating_mul(queues);
        Self { frames, frame_bytes, ring_entries }
    }

    /// What the frames take, in bytes, where all sockets are in one mode.
    pub fn bytes(&self) -> u64 {
        u64::from(self.frames) * u64::from(self.frame_bytes.bytes())
    }

    pub(crate) fn check(&self) -> Result<(), BindError> {
        let fits = self.ring_entries.is_power_of_two()
            && self.ring_entries <= self.frames / 2
            && self.frames <= u32::MAX / self.frame_bytes.bytes();
        if fits {
            Ok(())
        } else {
            Err(BindError::Sizes { entries: self.ring_entries, frames: self.frames })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_fit_the_mtu() {
        assert_eq!(FrameBytes::for_mtu(1_500), Some(FrameBytes::Half));
        assert_eq!(FrameBytes::for_mtu(1_770), Some(FrameBytes::Half));
        assert_eq!(FrameBytes::for_mtu(1_771), Some(FrameBytes::Page));
        assert_eq!(FrameBytes::for_mtu(3_498), Some(FrameBytes::Page));
        assert_eq!(FrameBytes::for_mtu(9_000), None);
    }

    #[test]
    fn rings_and_frames_fit_each_other() {
        assert!(Sizes::default().check().is_ok());
        let enough = |queues, ring_entries| {
            Sizes::for_queues(queues, FrameBytes::Page, ring_entries).check()
        };
        assert!(enough(0, 2_048).is_ok() && enough(1, 16).is_ok());
        assert!(Sizes { ring_entries: 100, ..Sizes::default() }.check().is_err());
        assert!(Sizes { frames: 64, ring_entries: 64, ..Sizes::default() }.check().is_err());
        assert!(enough(usize::MAX, 2_048).is_err());
    }
}
