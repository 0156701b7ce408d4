//! One socket: a queue of an interface, with its four rings.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use xsk_rs::config::{
    BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig, SocketConfigBuilder,
};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue};

use crate::counters::SlotCounters;
use crate::options::{self, Statistics};
use crate::umem::{SocketKey, Umem, os_error};
use crate::{BURST, Frame, Slot};

/// How often one flush asks the kernel to send. Each time a socket in copy
/// mode sends up to 32 packets (`TX_BATCH_SIZE` in net/xdp/xsk.c), so this
/// empties a ring of 2,048.
const KICKS: u32 = 64;

/// How long a socket that nobody wants any more may go on sending before it is
/// closed.
const LAST_WAIT: Duration = Duration::from_millis(50);

/// What a socket is bound to.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) slot: Slot,
    pub(crate) interface: String,
    pub(crate) ifindex: u32,
    pub(crate) queue: u32,
}

/// How it is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    ZeroCopy,
    Copy,
}

/// A bound socket.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) place: Place,
    /// Which of the exchange's groups its frames belong to.
    pub(crate) group: usize,
    /// Its place in the ledger.
    pub(crate) key: SocketKey,
    pub(crate) zero_copy: bool,
    /// Why it no longer works.
    pub(crate) dead: Option<io::Error>,
    /// Its interface was down when the kernel was last told to send. What is
    /// in the tx ring waits, without anybody being kept busy by it.
    down: bool,
    /// Whether the owner has been told that it is dead.
    pub(crate) reported_dead: bool,
    /// Nobody wants it any more, but the group needs it: its socket is the
    /// one that the memory was registered with.
    pub(crate) idle: bool,
    /// Nobody wants it any more, but until then it may send what it has.
    pub(crate) leaving: Option<Instant>,
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    ring_entries: u32,
    /// How many frames the kernel is to have for receiving.
    fill_target: u32,
    /// How many it has: in the fill ring, in the rx ring, and in the driver.
    receiving: u32,
    /// How many it has for sending, until they are completed.
    sending: u32,
    staged: ArrayVec<FrameDesc, BURST>,
    /// Whether frames have come or gone on the sending side since it was
    /// last looked after.
    moved: bool,
    told: Statistics,
}

impl Queue {
    /// Binds a socket. The answer of the kernel is the error, as it is.
    pub(crate) fn bind(
        umem: &Umem,
        place: Place,
        group: usize,
        key: SocketKey,
        mode: Mode,
        ring_entries: u32,
    ) -> io::Result<Self> {
        let interface: Interface = place.interface.parse().map_err(io::Error::other)?;
        let config = config(mode, ring_entries)?;
        // SAFETY: the contract is about libxdp's own XDP program, whose
        // loading the configuration inhibits.
        let bound = unsafe { Socket::new(config, umem.xsk(), &interface, place.queue) };
        let (tx, rx, rings) = bound.map_err(|error| os_error(&error))?;
        // Without rings of its own it has joined another socket on the same
        // queue, which this crate never does.
        let (fill, completion) = rings.ok_or_else(|| io::Error::from_raw_os_error(libc::EBUSY))?;
        let mut queue = Self {
            place,
            group,
            key,
            zero_copy: false,
            dead: None,
            down: false,
            reported_dead: false,
            idle: false,
            leaving: None,
            rx,
            tx,
            fill,
            completion,
            ring_entries,
            fill_target: 0,
            receiving: 0,
            sending: 0,
            staged: ArrayVec::new(),
            moved: true,
            told: Statistics::default(),
        };
        queue.zero_copy = options::is_zero_copy(queue.socket())?;
        Ok(queue)
    }

    /// The socket, for the time of a call.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket stays open as long as its queues, which `self`
        // owns, and the result borrows `self`.
        unsafe { BorrowedFd::borrow_raw(self.raw_socket()) }
    }

    pub(crate) fn raw_socket(&self) -> RawFd {
        self.tx.fd().as_raw_fd()
    }

    /// One more descriptor of the socket, for the XSKMAP.
    pub(crate) fn share_socket(&self) -> io::Result<OwnedFd> {
        self.socket().try_clone_to_owned()
    }

    /// How many frames the kernel shall have for receiving.
    pub(crate) fn aim(&mut self, frames: u32) {
        self.fill_target = frames.min(self.ring_entries);
    }

    /// Takes what has been received, as much as `frames` has room for.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        umem: &mut Umem,
        frames: &mut ArrayVec<Frame, BURST>,
        counters: &mut SlotCounters,
    ) {
        // Most of the times there is nothing: then it is not worth an array.
        let waiting = self.rx.nb_avail(frames.remaining_capacity() as u32) as usize;
        if waiting == 0 {
            return;
        }
        let mut descs = [FrameDesc::default(); BURST];
        let Some(room) = descs.get_mut(..waiting) else { return };
        // SAFETY: this ring belongs to a socket of this UMEM.
        let received = unsafe { self.rx.consume(room) };
        for &desc in descs.iter().take(received) {
            let Some(frame) = umem.claim(desc, self.key) else {
                counters.foreign += 1;
                continue;
            };
            // Another core has written it. By the time the last of a burst is
            // here, the first is near.
            blixt_mem::prefetch(frame.packet());
            self.receiving = self.receiving.saturating_sub(1);
            counters.rx_packets += 1;
            counters.rx_bytes += frame.len() as u64;
            if frames.try_push(frame).is_err() {
                // `consume` gave no more than there was room for.
                counters.foreign += 1;
            }
        }
    }

    /// Gives the kernel frames to receive into, as far as there are free
    /// ones. `false` if it has fewer than it should.
    #[inline]
    pub(crate) fn refill(&mut self, umem: &mut Umem) -> bool {
        let wanted = self.fill_target.saturating_sub(self.receiving);
        if wanted < BURST as u32 / 2 && self.receiving > self.fill_target / 2 {
            // Not worth it yet: a ring is written to in cache lines.
            return true;
        }
        self.fill_up(umem, wanted)
    }

    #[inline(never)]
    fn fill_up(&mut self, umem: &mut Umem, mut wanted: u32) -> bool {
        while wanted > 0 {
            let batch = wanted.min(BURST as u32);
            let batch = batch.min(self.fill.nb_free(batch)) as usize;
            let mut descs = ArrayVec::<FrameDesc, BURST>::new();
            while descs.len() < batch {
                let Some(mut frame) = umem.take() else { break };
                frame.set_len(0);
                descs.push(umem.lend(frame, self.key));
            }
            // SAFETY: `lend` ended the frames of these descriptors, so the
            // kernel becomes their only user; they are of this UMEM.
            let given = unsafe { self.fill.produce(&descs) };
            debug_assert_eq!(given, descs.len());
            self.receiving += given as u32;
            wanted -= given as u32;
            if given < BURST {
                break;
            }
        }
        if self.fill.needs_wakeup() {
            // The driver stopped for want of frames; polling wakes it.
            let _ = self.fill.wakeup(self.tx.fd_mut(), 0);
        }
        wanted == 0
    }

    /// Puts a frame among those to be sent by the next flush. Flushes at once
    /// if there are too many; how many were dropped then.
    #[inline]
    pub(crate) fn stage(
        &mut self,
        umem: &mut Umem,
        frame: Frame,
        counters: &mut SlotCounters,
    ) -> u64 {
        let dropped = if self.staged.is_full() { self.flush(umem, counters) } else { 0 };
        counters.tx_packets += 1;
        counters.tx_bytes += frame.len() as u64;
        let desc = umem.lend(frame, self.key);
        // A flush leaves nothing staged.
        self.staged.push(desc);
        dropped
    }

    /// Whether there is anything that a flush would do.
    #[inline(always)]
    pub(crate) fn has_work(&self) -> bool {
        self.sending > 0 || !self.staged.is_empty()
    }

    /// Sends what is staged, and takes back what has been sent. What does not
    /// fit into the ring is dropped: the number of it.
    #[inline]
    pub(crate) fn flush(&mut self, umem: &mut Umem, counters: &mut SlotCounters) -> u64 {
        self.produce();
        self.drain(umem, counters);
        if self.staged.is_empty() {
            return 0;
        }
        // The ring was full. Draining it may have made room.
        self.produce();
        self.drain(umem, counters);
        self.drop_staged(umem, counters)
    }

    #[inline]
    fn produce(&mut self) {
        let count = self.staged.len() as u32;
        if count == 0 {
            return;
        }
        let count = count.min(self.tx.nb_free(count)) as usize;
        let Some(descs) = self.staged.get(..count) else { return };
        // SAFETY: `lend` ended the frames of these descriptors, so the kernel
        // becomes their only user; they are of this UMEM.
        let sent = unsafe { self.tx.produce(descs) };
        self.sending += sent as u32;
        self.moved = true;
        self.staged.drain(..sent);
    }

    #[cold]
    fn drop_staged(&mut self, umem: &mut Umem, counters: &mut SlotCounters) -> u64 {
        let mut dropped = 0;
        for desc in self.staged.take() {
            if let Some(frame) = umem.claim(desc, self.key) {
                counters.tx_packets -= 1;
                counters.tx_bytes -= frame.len() as u64;
                umem.put(frame);
            }
            dropped += 1;
        }
        counters.tx_ring_full += dropped;
        dropped
    }

    /// Kicks the kernel until the tx ring is empty, or nothing moves any
    /// more; and takes back what has been sent.
    ///
    /// A single `sendto` would leave frames behind: in copy mode it sends a
    /// batch at a time and answers EAGAIN when there is more.
    #[inline]
    pub(crate) fn drain(&mut self, umem: &mut Umem, counters: &mut SlotCounters) {
        let mut waiting = self.waiting();
        for _ in 0..KICKS {
            if waiting == 0 || !self.tx.needs_wakeup() || self.dead.is_some() {
                break;
            }
            counters.kicks += 1;
            let kicked = options::kick(self.socket());
            let answer = kicked.as_ref().err().and_then(io::Error::raw_os_error);
            self.down = answer == Some(libc::ENETDOWN);
            match (kicked, answer) {
                // More is left; the device's queue or the completion ring is
                // full; no memory for a packet just now; the interface is down
                // for the moment; a signal came first.
                (
                    Err(_),
                    Some(
                        libc::EAGAIN
                        | libc::EBUSY
                        | libc::ENOBUFS
                        | libc::ENOMEM
                        | libc::ENETDOWN
                        | libc::EINTR,
                    ),
                )
                | (Ok(()), _) => {}
                (Err(error), _) => self.dead = Some(error),
            }
            let completed = self.complete(umem, counters);
            let before = waiting;
            waiting = self.waiting();
            if waiting == before && completed == 0 {
                break;
            }
        }
        self.complete(umem, counters);
    }

    /// How many frames the kernel has not yet taken out of the tx ring.
    #[inline]
    fn waiting(&mut self) -> u32 {
        self.ring_entries.saturating_sub(self.tx.nb_free_exact())
    }

    /// Takes frames back that have been sent: how many.
    #[inline]
    fn complete(&mut self, umem: &mut Umem, counters: &mut SlotCounters) -> u32 {
        let mut all = 0;
        while self.sending > 0 && self.completion.nb_avail(BURST as u32) > 0 {
            let mut descs = [FrameDesc::default(); BURST];
            // SAFETY: this ring belongs to a socket of this UMEM.
            let completed = unsafe { self.completion.consume(&mut descs) };
            for &desc in descs.iter().take(completed) {
                match umem.claim(desc, self.key) {
                    Some(frame) => umem.put(frame),
                    None => counters.foreign += 1,
                }
            }
            self.sending = self.sending.saturating_sub(completed as u32);
            all += completed as u32;
            if completed < BURST {
                break;
            }
        }
        self.moved |= all > 0;
        all
    }

    /// Looks after it, a few times a second: notices that it is dead, kicks a
    /// ring that does not move, and reads what the kernel has counted.
    pub(crate) fn tend(&mut self, umem: &mut Umem, counters: &mut SlotCounters) {
        if self.dead.is_none() {
            self.dead = options::pending_error(self.socket());
        }
        self.read_statistics(counters);
        if self.dead.is_some() {
            return;
        }
        self.drain(umem, counters);
        if self.sending > 0 && !std::mem::take(&mut self.moved) {
            counters.stalls += 1;
            // Whatever the flag says: a wake-up may have been lost.
            let _ = options::kick(self.socket());
        }
        let missing = self.fill_target.saturating_sub(self.receiving);
        self.fill_up(umem, missing);
    }

    /// Receives nothing any more, and is to be closed as soon as what it has is
    /// sent. How many frames are dropped for want of room.
    pub(crate) fn leave(&mut self, umem: &mut Umem, counters: &mut SlotCounters) -> u64 {
        self.idle = true;
        let dropped = self.flush(umem, counters);
        self.leaving = Some(Instant::now() + LAST_WAIT);
        self.look_whether_it_has_left(counters);
        dropped
    }

    /// Ends the time of leaving when there is nothing to wait for any more.
    pub(crate) fn look_whether_it_has_left(&mut self, counters: &mut SlotCounters) {
        if self.leaving.is_some_and(|until| !self.is_sending() || until <= Instant::now()) {
            self.leaving = None;
            self.read_statistics(counters);
        }
    }

    /// Whether frames wait in the tx ring to be kicked again.
    pub(crate) fn is_sending(&self) -> bool {
        self.sending > 0 && self.dead.is_none() && !self.down
    }

    fn read_statistics(&mut self, counters: &mut SlotCounters) {
        let Ok(now) = options::statistics(self.socket()) else { return };
        let then = std::mem::replace(&mut self.told, now);
        counters.rx_dropped += now.rx_dropped.saturating_sub(then.rx_dropped);
        counters.rx_ring_full += now.rx_ring_full.saturating_sub(then.rx_ring_full);
        counters.fill_ring_empty += now.fill_ring_empty.saturating_sub(then.fill_ring_empty);
        counters.tx_invalid += now.tx_invalid.saturating_sub(then.tx_invalid);
    }
}

fn config(mode: Mode, ring_entries: u32) -> io::Result<SocketConfig> {
    let entries = QueueSize::new(ring_entries).map_err(io::Error::other)?;
    let mode = match mode {
        Mode::ZeroCopy => BindFlags::XDP_ZEROCOPY,
        Mode::Copy => BindFlags::XDP_COPY,
    };
    Ok(SocketConfigBuilder::new()
        .rx_queue_size(entries)
        .tx_queue_size(entries)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(mode | BindFlags::XDP_USE_NEED_WAKEUP)
        .build())
}
