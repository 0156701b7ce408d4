//! A frame that user space owns.

use std::cell::Cell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use xsk_rs::FrameDesc;

/// Names a UMEM of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UmemId(pub(crate) u32);

/// A frame, owned: the kernel does not touch it, and nothing else refers to
/// it. It can be neither copied nor sent twice.
///
/// It ends by being given to an [`crate::Exchange`], to send or to release.
/// One that is just dropped is lost to its UMEM until that ends, and counted
/// by [`frames_lost`].
pub struct Frame {
    desc: FrameDesc,
    room: NonNull<u8>,
    room_bytes: u32,
    len: u32,
    umem: UmemId,
}

impl Frame {
    /// # Safety
    ///
    /// `room` points at `room_bytes` bytes that stay mapped for as long as
    /// this frame exists, and that nothing else, the kernel included, uses
    /// meanwhile.
    pub(crate) unsafe fn new(
        desc: FrameDesc,
        room: NonNull<u8>,
        room_bytes: u32,
        umem: UmemId,
    ) -> Self {
        let len = u32::try_from(desc.lengths().data()).unwrap_or(u32::MAX).min(room_bytes);
        Self { desc, room, room_bytes, len, umem }
    }

    /// How many bytes the packet in it has.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is no packet in it.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The packet in it.
    #[inline(always)]
    pub fn packet(&self) -> &[u8] {
        // SAFETY: `new`'s caller vouches for `room_bytes` bytes, of which
        // `len` is never more; `&self` excludes writers.
        unsafe { std::slice::from_raw_parts(self.room.as_ptr(), self.len as usize) }
    }

    /// All the room there is from the start of the packet on.
    #[inline(always)]
    pub fn room_mut(&mut self) -> &mut [u8] {
        // SAFETY: `new`'s caller vouches for these bytes; `&mut self`
        // excludes all others.
        unsafe { std::slice::from_raw_parts_mut(self.room.as_ptr(), self.room_bytes as usize) }
    }

    /// Makes the packet as long as this; more than the room is cut off.
    #[inline(always)]
    pub fn set_len(&mut self, bytes: usize) {
        self.len = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.room_bytes);
    }

    /// Puts a packet into it; `false`, and nothing changes, without the room.
    pub fn fill(&mut self, packet: &[u8]) -> bool {
        let Some(room) = self.room_mut().get_mut(..packet.len()) else { return false };
        room.copy_from_slice(packet);
        self.set_len(packet.len());
        true
    }

    #[inline(always)]
    pub(crate) fn umem(&self) -> UmemId {
        self.umem
    }

    /// Ends the frame, to give what it stands for to the kernel.
    #[inline(always)]
    pub(crate) fn into_desc(self) -> FrameDesc {
        ManuallyDrop::new(self).desc
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("address", &self.desc.addr())
            .field("len", &self.len)
            .field("umem", &self.umem.0)
            .finish()
    }
}

thread_local! {
    static LOST: Cell<u64> = const { Cell::new(0) };
}

/// How many frames this thread has dropped instead of giving them back: more
/// than 0 is a bug.
pub fn frames_lost() -> u64 {
    LOST.with(Cell::get)
}

impl Drop for Frame {
    fn drop(&mut self) {
        // During the thread's own teardown there is nobody left to tell.
        let _ = LOST.try_with(|lost| lost.set(lost.get() + 1));
    }
}
