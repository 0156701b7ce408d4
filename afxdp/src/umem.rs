//! The memory that frames are made of, and who has each of them.
//!
//! Every frame is in one of three places: free in the pool, owned by somebody
//! as a [`Frame`], or given to the kernel through a ring of a socket. The
//! ledger knows which socket; so what comes out of a ring is believed only if
//! it went into a ring of the same socket, and when a socket ends its frames
//! are found again.

use std::num::NonZeroU32;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{error, io, mem, ptr};

use xsk_rs::FrameDesc;
use xsk_rs::config::{FrameSize, QueueSize, UmemConfig};

use crate::frame::UmemId;
use crate::{BindError, Frame, Sizes};

/// Names a socket in the ledger; 0 is user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SocketKey(pub(crate) u16);

const USER_SPACE: SocketKey = SocketKey(0);

/// On `x86_64`, and on `aarch64` with pages of 4 KiB.
const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// One UMEM with its pool and its ledger.
#[derive(Debug)]
pub(crate) struct Umem {
    id: UmemId,
    xsk: xsk_rs::Umem,
    /// The address of the byte with UMEM address 0; its provenance is
    /// exposed.
    base: usize,
    frame_bytes: usize,
    ledger: Vec<SocketKey>,
    /// A descriptor of each frame, to find it again: xsk-rs makes them only
    /// together with the UMEM.
    templates: Vec<FrameDesc>,
    free: Vec<Frame>,
    huge_pages: bool,
}

impl Umem {
    /// Makes it, all frames free.
    pub(crate) fn new(sizes: &Sizes) -> Result<Self, BindError> {
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        sizes.check()?;
        let id = UmemId(NEXT_ID.fetch_add(1, Ordering::Relaxed));
        let (xsk, mut descs, huge_pages) = make(sizes)?;
        let frame_bytes = sizes.frame_bytes.bytes() as usize;
        let mut umem = Self {
            id,
            base: 0,
            frame_bytes,
            ledger: vec![USER_SPACE; descs.len()],
            templates: Vec::new(),
            free: Vec::with_capacity(descs.len()),
            huge_pages,
            xsk,
        };
        for desc in &mut descs {
            umem.base = umem.expose(desc).wrapping_sub(desc.addr());
        }
        // From the end, so that those at the start are used first.
        for &desc in descs.iter().rev() {
            let frame = umem.frame(desc);
            umem.free.push(frame);
        }
        umem.templates = descs;
        Ok(umem)
    }

    pub(crate) fn id(&self) -> UmemId {
        self.id
    }

    pub(crate) fn xsk(&self) -> &xsk_rs::Umem {
        &self.xsk
    }

    pub(crate) fn on_huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// Frames made.
    pub(crate) fn born(&self) -> usize {
        self.ledger.len()
    }

    /// Frames that are free.
    pub(crate) fn home(&self) -> usize {
        self.free.len()
    }

    /// A free frame, empty.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Frame> {
        self.free.pop()
    }

    /// Takes a frame of this UMEM back.
    #[inline]
    pub(crate) fn put(&mut self, frame: Frame) {
        debug_assert!(frame.umem() == self.id);
        self.free.push(frame);
    }

    /// Ends a frame of this UMEM in favour of a ring of `socket`.
    #[inline]
    pub(crate) fn lend(&mut self, frame: Frame, socket: SocketKey) -> FrameDesc {
        let len = frame.len();
        let mut desc = frame.into_desc();
        // SAFETY: `frame` was the only owner of these bytes and has just
        // ended; the kernel does not have them yet.
        let mut data = unsafe { self.xsk.data_mut(&mut desc) };
        data.cursor().set_pos(len);
        if let Some(owner) = self.ledger.get_mut(desc.addr() / self.frame_bytes) {
            *owner = socket;
        }
        desc
    }

    /// Makes a frame of what came out of a ring of `socket`. `None` if that
    /// socket did not have it: then the kernel is wrong, and to believe it
    /// could give a frame two owners.
    #[inline]
    pub(crate) fn claim(&mut self, desc: FrameDesc, socket: SocketKey) -> Option<Frame> {
        let owner = self.ledger.get_mut(desc.addr() / self.frame_bytes)?;
        if *owner != socket {
            return None;
        }
        *owner = USER_SPACE;
        Some(self.frame(desc))
    }

    /// Its memory, to be given back by whoever lets go of it last.
    pub(crate) fn memory(&self) -> xsk_rs::Umem {
        self.xsk.clone()
    }

    /// Takes all frames home that `socket` had. Only called once the socket
    /// is closed, so that the kernel no longer uses them.
    pub(crate) fn reclaim(&mut self, socket: SocketKey) {
        for place in 0..self.templates.len() {
            let Some(&desc) = self.templates.get(place) else { continue };
            if let Some(frame) = self.claim(desc, socket) {
                self.free.push(frame);
            }
        }
    }

    /// The only place where frames are made: of descriptors whose bytes are
    /// user space's and not yet owned.
    #[inline(always)]
    fn frame(&self, desc: FrameDesc) -> Frame {
        let offset_in_frame = desc.addr() & (self.frame_bytes - 1);
        let room = ptr::with_exposed_provenance_mut::<u8>(self.base.wrapping_add(desc.addr()));
        let room = NonNull::new(room).unwrap_or(NonNull::dangling());
        let room_bytes = (self.frame_bytes - offset_in_frame) as u32;
        // SAFETY: the bytes from `desc` to the end of its frame lie in this
        // UMEM, which stays mapped while there are frames (see `Drop`). The
        // ledger says that they are user space's; each caller has just made
        // them so, or has just made the UMEM, so no other `Frame` has them.
        unsafe { Frame::new(desc, room, room_bytes, self.id) }
    }

    /// The address of a frame's first byte, for `with_exposed_provenance`.
    fn expose(&self, desc: &mut FrameDesc) -> usize {
        // SAFETY: the UMEM has just been made: nobody else has its bytes.
        let mut data = unsafe { self.xsk.data_mut(desc) };
        data.cursor().set_pos(usize::MAX);
        let address = data.contents_mut().as_mut_ptr().expose_provenance();
        data.cursor().set_pos(0);
        address
    }
}

/// Asks the kernel for the memory, on huge pages if it has some.
fn make(sizes: &Sizes) -> Result<(xsk_rs::Umem, Vec<FrameDesc>, bool), BindError> {
    let frame_bytes = sizes.frame_bytes.bytes();
    let wrong_sizes = || BindError::Sizes { entries: sizes.ring_entries, frames: sizes.frames };
    let ring = QueueSize::new(sizes.ring_entries).map_err(|_| wrong_sizes())?;
    let config = UmemConfig::builder()
        .frame_size(FrameSize::new(frame_bytes).map_err(|_| wrong_sizes())?)
        .fill_queue_size(ring)
        .comp_queue_size(ring)
        .build()
        .map_err(|_| wrong_sizes())?;
    let frames = NonZeroU32::new(sizes.frames).ok_or_else(wrong_sizes)?;
    // A mapping of huge pages must be unmapped in whole ones; and who asks for
    // less gets what he asked for.
    if sizes.bytes().is_multiple_of(HUGE_PAGE_BYTES)
        && let Ok((xsk, descs)) = xsk_rs::Umem::new(config, frames, true)
    {
        return Ok((xsk, descs, true));
    }
    let (xsk, descs) = xsk_rs::Umem::new(config, frames, false).map_err(|error| {
        refused(os_error(&error), (frames.get() as usize * frame_bytes as usize) >> 20)
    })?;
    Ok((xsk, descs, false))
}

/// Names what the kernel means (`xdp_umem_pin_pages` and
/// `xdp_umem_account_pages` in net/xdp/xdp_umem.c, `xsk_create` in
/// net/xdp/xsk.c).
fn refused(source: io::Error, mib: usize) -> BindError {
    match source.raw_os_error() {
        Some(libc::ENOBUFS) => BindError::LockedMemory { mib, source },
        Some(libc::EPERM | libc::EACCES) => BindError::NotPermitted { source },
        Some(libc::EAFNOSUPPORT | libc::ENOPROTOOPT) => BindError::NoAfXdp { source },
        _ => BindError::Memory { mib, source },
    }
}

/// The kernel's answer inside an error of xsk-rs.
pub(crate) fn os_error(error: &dyn error::Error) -> io::Error {
    error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error)
        .map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

impl Drop for Umem {
    fn drop(&mut self) {
        if self.free.len() < self.ledger.len() {
            // Somebody still owns frames, whose bytes must stay mapped.
            mem::forget(self.xsk.clone());
        }
        for frame in self.free.drain(..) {
            frame.into_desc();
        }
    }
}
