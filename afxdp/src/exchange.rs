//! All sockets of one worker.
//!
//! Frames come in on one interface and leave on another without a copy where
//! both are in the same group: the sockets of one bind mode, which share a
//! UMEM. Between groups a frame is copied, once. How sockets are bound, and
//! what becomes of their frames when they go, is in `binding.rs`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::binding::{NewSocket, Want};
use crate::closer::{Closer, Closing};
use crate::counters::SlotCounters;
use crate::options;
use crate::queue::{Mode, Queue};
use crate::umem::{SocketKey, Umem};
use crate::{BURST, BindError, Frame, Sizes, Slot};

/// All sockets of one worker, and all its frames.
#[derive(Debug)]
pub struct Exchange {
    pub(crate) sizes: Sizes,
    pub(crate) groups: Vec<Group>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) slots: Vec<SlotState>,
    /// Queues that are still to be bound.
    pub(crate) wanted: Vec<Want>,
    /// Sockets whose descriptors have not been handed out yet.
    pub(crate) new: Vec<NewSocket>,
    /// Queues that could not be bound again.
    pub(crate) lost: Vec<DeadQueue>,
    /// Drivers that have refused zero-copy.
    pub(crate) copying_drivers: Vec<String>,
    /// The memory of groups that have ended, while frames of it are out.
    pub(crate) ending: Vec<Umem>,
    pub(crate) ended: Account,
    /// Closes sockets; without it they are closed here, which takes its time.
    pub(crate) closer: Option<Closer>,
    /// Sockets that it has yet to close.
    pub(crate) closing: Vec<Closing>,
    /// Frames dropped since the last flush, for want of room in a tx ring.
    pub(crate) dropped: u64,
    polled: Vec<libc::pollfd>,
}

/// The sockets that share a UMEM.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) umem: Umem,
    pub(crate) mode: Mode,
    /// The socket that the UMEM was registered with.
    pub(crate) anchor: Option<SocketKey>,
}

/// What is known of an interface.
#[derive(Debug, Default)]
pub(crate) struct SlotState {
    /// Its queues, by their places in [`Exchange::queues`].
    pub(crate) queues: Vec<usize>,
    pub(crate) counters: SlotCounters,
}

/// What became of frames: all that were born are home, or on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Account {
    /// Frames made.
    pub born: u64,
    /// Frames that are free, or were when their memory was given back.
    pub home: u64,
    /// Frames whose memory was given back: all of them were home.
    pub ended: u64,
}

/// Why a frame was not sent. It has gone home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsent {
    /// The interface is not bound, or gone.
    NoInterface,
    /// It would have had to be copied, and there was no free frame.
    NoFrame,
}

/// What a queue that no longer works was.
#[derive(Debug)]
pub struct DeadQueue {
    /// The interface.
    pub slot: Slot,
    /// Its queue.
    pub queue: u32,
    /// What the kernel says.
    pub error: io::Error,
}

impl Exchange {
    /// One without sockets. Memory is taken when the first is bound.
    pub fn new(sizes: Sizes) -> Result<Self, BindError> {
        sizes.check()?;
        Ok(Self {
            sizes,
            groups: Vec::new(),
            queues: Vec::new(),
            slots: Vec::new(),
            wanted: Vec::new(),
            new: Vec::new(),
            lost: Vec::new(),
            copying_drivers: Vec::new(),
            ending: Vec::new(),
            ended: Account::default(),
            closer: None,
            closing: Vec::new(),
            dropped: 0,
            polled: Vec::new(),
        })
    }

    /// Has its sockets closed by another thread, so that it need not wait for it.
    #[must_use]
    pub fn with_closer(mut self, closer: Closer) -> Self {
        self.closer = Some(closer);
        self
    }

    /// How many sockets there are, to be received from by their numbers.
    #[inline(always)]
    pub fn queues(&self) -> usize {
        self.queues.len()
    }

    /// Takes what a socket has received, at most a burst; where it came from
    /// and through which queue.
    #[inline]
    pub fn receive(
        &mut self,
        number: usize,
        frames: &mut ArrayVec<Frame, BURST>,
    ) -> Option<(Slot, u32)> {
        let queue = self.queues.get_mut(number)?;
        if queue.idle {
            return None;
        }
        let umem = &mut self.groups.get_mut(queue.group)?.umem;
        let slot = self.slots.get_mut(usize::from(queue.place.slot.0))?;
        queue.receive(umem, frames, &mut slot.counters);
        queue.refill(umem);
        Some((queue.place.slot, queue.place.queue))
    }

    /// Puts a frame among those that the next flush sends out of an
    /// interface. `spread` chooses among its queues.
    #[inline]
    pub fn transmit(&mut self, slot: Slot, spread: u32, frame: Frame) -> Result<(), Unsent> {
        let Some(number) = self.egress(slot, spread) else {
            self.release(frame);
            return Err(Unsent::NoInterface);
        };
        let (Some(queue), Some(state)) =
            (self.queues.get_mut(number), self.slots.get_mut(usize::from(slot.0)))
        else {
            self.release(frame);
            return Err(Unsent::NoInterface);
        };
        match self.groups.get_mut(queue.group) {
            Some(group) if group.umem.id() == frame.umem() => {
                self.dropped += queue.stage(&mut group.umem, frame, &mut state.counters);
                Ok(())
            }
            _ => {
                state.counters.copied += 1;
                let sent = self.copy_out(slot, number, frame.packet());
                self.release(frame);
                sent
            }
        }
    }

    /// The same with a copy of `packet`, in a frame of its own.
    pub fn transmit_copy(&mut self, slot: Slot, spread: u32, packet: &[u8]) -> Result<(), Unsent> {
        let number = self.egress(slot, spread).ok_or(Unsent::NoInterface)?;
        self.copy_out(slot, number, packet)
    }

    /// A frame of this worker's with a copy of `packet`, which came in on
    /// `slot` elsewhere. `None` if no frame is free.
    #[inline]
    pub fn frame_for(&mut self, slot: Slot, packet: &[u8]) -> Option<Frame> {
        let queue = self.slots.get(usize::from(slot.0)).and_then(|state| state.queues.first());
        let group =
            queue.and_then(|number| self.queues.get(*number)).map_or(0, |queue| queue.group);
        let umem = &mut self.groups.get_mut(group)?.umem;
        let mut frame = umem.take()?;
        if frame.fill(packet) {
            return Some(frame);
        }
        umem.put(frame);
        None
    }

    /// Takes a frame home.
    #[inline]
    pub fn release(&mut self, frame: Frame) {
        match self.groups.iter_mut().find(|group| group.umem.id() == frame.umem()) {
            Some(group) => group.umem.put(frame),
            None => self.release_late(frame),
        }
    }

    /// Sends everything that waits to be sent, and takes home what has been.
    /// Frames that find no place in a ring are dropped: how many since the
    /// last time.
    #[inline]
    pub fn flush(&mut self) -> u64 {
        let mut dropped = std::mem::take(&mut self.dropped);
        for queue in &mut self.queues {
            if !queue.has_work() {
                continue;
            }
            let slot = self.slots.get_mut(usize::from(queue.place.slot.0));
            if let (Some(group), Some(slot)) = (self.groups.get_mut(queue.group), slot) {
                dropped += queue.flush(&mut group.umem, &mut slot.counters);
            }
        }
        dropped
    }

    /// Looks after all sockets; to be called some ten times a second. What
    /// has died since the last time.
    pub fn tend(&mut self) -> Vec<DeadQueue> {
        self.let_go();
        let mut dead = std::mem::take(&mut self.lost);
        for queue in &mut self.queues {
            let slot = self.slots.get_mut(usize::from(queue.place.slot.0));
            let (Some(group), Some(slot)) = (self.groups.get_mut(queue.group), slot) else {
                continue;
            };
            queue.tend(&mut group.umem, &mut slot.counters);
            if let Some(error) = &queue.dead
                && !queue.reported_dead
            {
                queue.reported_dead = true;
                if !queue.idle {
                    let (slot, number) = (queue.place.slot, queue.place.queue);
                    let error = io::Error::new(error.kind(), error.to_string());
                    dead.push(DeadQueue { slot, queue: number, error });
                }
            }
        }
        dead
    }

    /// Sleeps until a socket has received something, `wake` is readable, or
    /// the time is over. With need_wakeup this also lets the kernel go on.
    pub fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
        let readable = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        self.polled.clear();
        self.polled.push(readable(wake.as_raw_fd()));
        let works = |queue: &&Queue| queue.dead.is_none() && !queue.idle;
        let sockets = self.queues.iter().filter(works).map(Queue::raw_socket);
        self.polled.extend(sockets.map(readable));
        // What is on its way out must be kicked on and taken home.
        let timeout = match self.queues.iter().any(Queue::is_sending) {
            true => timeout.min(Duration::from_millis(1)),
            false => timeout,
        };
        options::poll(&mut self.polled, i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX))
    }

    /// What has been counted for an interface.
    pub fn counters(&self, slot: Slot) -> SlotCounters {
        self.slots.get(usize::from(slot.0)).map(|state| state.counters).unwrap_or_default()
    }

    /// How many queues of an interface are bound, and how many of them in
    /// zero-copy mode, as the kernel says.
    pub fn bound(&self, slot: Slot) -> (usize, usize) {
        let queues = self.queues.iter().filter(|queue| queue.place.slot == slot && !queue.idle);
        let zero_copy = queues.clone().filter(|queue| queue.zero_copy);
        (queues.count(), zero_copy.count())
    }

    /// Whether all frames lie on huge pages.
    pub fn on_huge_pages(&self) -> bool {
        self.groups.iter().all(|group| group.umem.on_huge_pages())
    }

    /// Where the frames are.
    pub fn account(&self) -> Account {
        let umems = self.groups.iter().map(|group| &group.umem).chain(&self.ending);
        umems.fold(self.ended, |sum, umem| Account {
            born: sum.born + umem.born() as u64,
            home: sum.home + umem.home() as u64,
            ..sum
        })
    }

    /// The socket to leave by.
    #[inline]
    fn egress(&self, slot: Slot, spread: u32) -> Option<usize> {
        let queues = &self.slots.get(usize::from(slot.0))?.queues;
        let number = match queues.as_slice() {
            [only] => *only,
            several => *several.get((spread as usize).checked_rem(several.len())?)?,
        };
        let works = self.queues.get(number).is_some_and(|queue| queue.dead.is_none());
        works.then_some(number)
    }

    fn copy_out(&mut self, slot: Slot, number: usize, packet: &[u8]) -> Result<(), Unsent> {
        let queue = self.queues.get_mut(number).ok_or(Unsent::NoInterface)?;
        let state = self.slots.get_mut(usize::from(slot.0)).ok_or(Unsent::NoInterface)?;
        let umem = match self.groups.get_mut(queue.group) {
            Some(group) => &mut group.umem,
            None => return Err(Unsent::NoInterface),
        };
        let mut frame = umem.take().ok_or(Unsent::NoFrame)?;
        if !frame.fill(packet) {
            umem.put(frame);
            return Err(Unsent::NoFrame);
        }
        self.dropped += queue.stage(umem, frame, &mut state.counters);
        Ok(())
    }

    /// For a frame whose group has ended.
    #[cold]
    fn release_late(&mut self, frame: Frame) {
        if let Some(umem) = self.ending.iter_mut().find(|umem| umem.id() == frame.umem()) {
            umem.put(frame);
            self.end_memory();
        }
    }
}
