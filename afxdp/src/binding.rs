//! How an exchange binds sockets, and lets them go.
//!
//! The kernel's rules, found by trying (Linux 6.18) and in net/xdp/xsk.c
//! (`xsk_bind`) and net/xdp/xsk_buff_pool.c (`xp_assign_dev_shared`):
//!
//! - Sockets share a UMEM by naming the one it was registered with, its
//!   anchor, and are bound in the anchor's mode: a device without zero-copy
//!   cannot join a zero-copy anchor, and joining a copying one makes any
//!   device copy. Hence a group for each mode.
//! - The anchor must stay bound for others to join. So when its interface is
//!   let go of, its socket stays, idle, as long as the group has others; and
//!   when its interface is gone, the next one to join makes the group anew.
//! - A queue is free some time after its socket was closed (EBUSY until then).
//! - Closing a socket takes 10 ms and more. So who has packets to forward has it
//!   done elsewhere, and goes on with letting go in steps: [`Exchange::let_go`].

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::closer::{Closer, Closing};
use crate::exchange::{Account, DeadQueue, Exchange, Group, SlotState};
use crate::nic::{self, Nic, NicError};
use crate::queue::{Mode, Place, Queue};
use crate::umem::{SocketKey, Umem};
use crate::{BindError, Slot};

/// How many interfaces an exchange can have.
pub const MAX_SLOTS: usize = 64;

/// How long it is worth trying to bind a queue that is busy. The kernel frees
/// one some 20 ms after its socket was closed.
pub const BUSY_PATIENCE: Duration = Duration::from_secs(2);

/// How long to wait before it is tried again.
pub const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// How long to wait for what is being sent at the end, before looking again.
const LAST_PAUSE: Duration = Duration::from_micros(200);

/// A queue that is to be bound.
#[derive(Debug, Clone)]
pub(crate) struct Want {
    place: Place,
    zero_copy: bool,
    since: Instant,
    /// It was bound before, and only has to move.
    moves: bool,
}

/// A queue with its new socket.
#[derive(Debug)]
pub struct Bound {
    /// The interface.
    pub slot: Slot,
    /// Its queue.
    pub queue: u32,
    /// The socket, for the XSKMAP. To be closed at once after that: a queue
    /// is free only when every descriptor of its socket is closed.
    pub socket: OwnedFd,
    /// Whether frames are not copied, as the kernel says.
    pub zero_copy: bool,
}

/// A socket that nobody has been given yet.
#[derive(Debug)]
pub(crate) struct NewSocket {
    key: SocketKey,
    moved: bool,
    bound: Bound,
}

impl Exchange {
    /// Binds queues of an interface, which is `slot` from now on. Zero-copy
    /// is tried if `zero_copy` allows it. Gives those that have a socket now
    /// and had none before.
    ///
    /// Queues of other interfaces may have to move for it, where a group has
    /// to be made anew: [`Exchange::settle`] sees to these.
    ///
    /// [`BindError::Busy`] means that somebody still has a queue, often this
    /// very process a moment ago: what has been bound stays so, and the same
    /// call goes on from there. After any other error nothing of the
    /// interface is bound.
    pub fn bind(
        &mut self,
        slot: Slot,
        interface: &str,
        queues: &[u32],
        zero_copy: bool,
    ) -> Result<Vec<Bound>, BindError> {
        self.let_go();
        self.want(slot, interface, queues, zero_copy)?;
        let mut busy = None;
        for (_, error) in self.bind_those(|want| want.place.slot == slot && !want.moves) {
            if !matches!(error, BindError::Busy { .. }) {
                self.give_up(slot);
                return Err(error);
            }
            busy.get_or_insert(error);
        }
        match busy {
            Some(error) => Err(error),
            None => Ok(self.hand_out(|new| new.bound.slot == slot && !new.moved)),
        }
    }

    /// Binds queues that had to move for another interface, and gives those
    /// that have their new sockets. One that can't be bound is called dead by
    /// the next [`Exchange::tend`].
    pub fn settle(&mut self) -> Vec<Bound> {
        self.let_go();
        for (want, error) in self.bind_those(|want| want.moves) {
            if matches!(error, BindError::Busy { .. }) && want.since.elapsed() < BUSY_PATIENCE {
                continue;
            }
            self.wanted.retain(|other| !other.is_for(&want.place));
            let (slot, queue) = (want.place.slot, want.place.queue);
            self.lost.push(DeadQueue { slot, queue, error: io::Error::other(error) });
        }
        self.hand_out(|new| new.moved)
    }

    /// Whether no queue waits for [`Exchange::settle`].
    pub fn is_settled(&self) -> bool {
        !self.wanted.iter().any(|want| want.moves) && !self.new.iter().any(|new| new.moved)
    }

    /// [`Exchange::bind`] and [`Exchange::settle`], tried again for
    /// [`BUSY_PATIENCE`] while a queue is busy. For callers that have nothing
    /// else to do meanwhile.
    pub fn bind_patiently(
        &mut self,
        slot: Slot,
        interface: &str,
        queues: &[u32],
        zero_copy: bool,
    ) -> Result<Vec<Bound>, BindError> {
        let until = Instant::now() + BUSY_PATIENCE;
        let mut bound = loop {
            match self.bind(slot, interface, queues, zero_copy) {
                Err(BindError::Busy { .. }) if Instant::now() < until => {
                    std::thread::sleep(BUSY_PAUSE);
                }
                Err(error @ BindError::Busy { .. }) => {
                    self.give_up(slot);
                    return Err(error);
                }
                done => break done?,
            }
        };
        bound.extend(self.settle());
        while !self.is_settled() {
            std::thread::sleep(BUSY_PAUSE);
            bound.extend(self.settle());
        }
        Ok(bound)
    }

    /// Gives up on binding an interface that is still busy. Queues of others
    /// that had to move for it settle nevertheless.
    pub fn give_up(&mut self, slot: Slot) {
        self.unbind(slot);
    }

    /// Tries to bind each of those that are wanted; gives what failed, which
    /// stays wanted. One that is busy holds up no other.
    fn bind_those(&mut self, those: impl Fn(&Want) -> bool) -> Vec<(Want, BindError)> {
        let mut failed = Vec::new();
        let mut passed = 0;
        while let Some(want) = self.wanted.get(passed).cloned() {
            if !those(&want) {
                passed += 1;
                continue;
            }
            match self.bind_one(&want) {
                Ok(()) => self.wanted.retain(|other| !other.is_for(&want.place)),
                Err(error) => {
                    failed.push((want, error));
                    passed += 1;
                }
            }
        }
        // Frames to receive into, before anything can be received.
        for queue in &mut self.queues {
            if let Some(group) = self.groups.get_mut(queue.group)
                && !queue.idle
            {
                queue.refill(&mut group.umem);
            }
        }
        failed
    }

    fn hand_out(&mut self, those: impl Fn(&NewSocket) -> bool) -> Vec<Bound> {
        self.new.extract_if(.., |new| those(new)).map(|new| new.bound).collect()
    }

    /// Begins to let go of all queues of an interface; how many there were. They
    /// receive nothing any more. What they have still to send they send, for
    /// 50 ms at most; then they are closed, and their frames come home, those in
    /// the kernel's rings too: see [`Exchange::let_go`].
    pub fn unbind(&mut self, slot: Slot) -> usize {
        self.wanted.retain(|want| want.place.slot != slot);
        self.new.retain(|new| new.bound.slot != slot);
        let mut count = 0;
        for queue in &mut self.queues {
            if queue.place.slot != slot || queue.idle {
                continue;
            }
            count += 1;
            queue.idle = true;
            let state = self.slots.get_mut(usize::from(slot.0));
            if let (Some(group), Some(state)) = (self.groups.get_mut(queue.group), state) {
                self.dropped += queue.leave(&mut group.umem, &mut state.counters);
            }
        }
        self.close_idle();
        count
    }

    /// Goes on with letting go, as far as that takes no time; between two calls
    /// [`Exchange::flush`] sends what is left.
    pub fn let_go(&mut self) {
        if !self.is_letting_go() {
            return;
        }
        let mut left = false;
        for queue in self.queues.iter_mut().filter(|queue| queue.leaving.is_some()) {
            if let Some(state) = self.slots.get_mut(usize::from(queue.place.slot.0)) {
                queue.look_whether_it_has_left(&mut state.counters);
            }
            left |= queue.leaving.is_none();
        }
        if left {
            self.close_idle();
        }
        while let Some(closed) = self.closer.as_ref().and_then(Closer::next_closed) {
            self.has_closed(closed);
        }
    }

    /// Whether [`Exchange::let_go`] has anything left to do.
    #[inline]
    pub fn is_letting_go(&self) -> bool {
        !self.closing.is_empty() || self.queues.iter().any(|queue| queue.leaving.is_some())
    }

    /// Whether an interface's queues are free.
    pub fn has_let_go_of(&self, slot: Slot) -> bool {
        let leaves = |queue: &Queue| queue.place.slot == slot && queue.leaving.is_some();
        !self.queues.iter().any(leaves) && !self.closing.iter().any(|closing| closing.slot == slot)
    }

    /// Lets go of everything, and waits for it.
    pub fn close(&mut self) -> Account {
        for number in 0..self.slots.len() {
            self.unbind(Slot(number as u16));
        }
        while self.queues.iter().any(|queue| queue.leaving.is_some()) {
            std::thread::sleep(LAST_PAUSE);
            self.dropped += self.flush();
            self.let_go();
        }
        while !self.closing.is_empty()
            && let Some(closed) = self.closer.as_ref().and_then(Closer::wait_for_closed)
        {
            self.has_closed(closed);
        }
        self.account()
    }

    /// Takes the frames home that a socket had.
    fn has_closed(&mut self, closed: Closing) {
        self.closing.retain(|closing| *closing != closed);
        let umems = self.groups.iter_mut().map(|group| &mut group.umem).chain(&mut self.ending);
        for umem in umems.filter(|umem| umem.id() == closed.umem) {
            umem.reclaim(closed.key);
        }
        self.end_memory();
    }

    /// Drops the memory of ended groups whose frames have all come home.
    pub(crate) fn end_memory(&mut self) {
        for umem in self.ending.extract_if(.., |umem| umem.home() == umem.born()) {
            self.ended.born += umem.born() as u64;
            self.ended.home += umem.home() as u64;
            self.ended.ended += umem.born() as u64;
            if let Some(closer) = &self.closer {
                let memory = umem.memory();
                drop(umem);
                closer.unmap(memory);
            }
        }
    }

    /// Notes what is to be bound, unless it is already.
    fn want(
        &mut self,
        slot: Slot,
        interface: &str,
        queues: &[u32],
        zero_copy: bool,
    ) -> Result<(), BindError> {
        if usize::from(slot.0) >= MAX_SLOTS {
            return Err(BindError::TooManyInterfaces {
                interface: interface.to_owned(),
                most: MAX_SLOTS,
            });
        }
        let ifindex = nic::ifindex(interface)?;
        while self.slots.len() <= usize::from(slot.0) {
            self.slots.push(SlotState::default());
        }
        for &queue in queues {
            let place = Place { slot, interface: interface.to_owned(), ifindex, queue };
            let known = self.wanted.iter().any(|want| want.is_for(&place))
                || self.queues.iter().any(|queue| !queue.idle && queue.is_at(&place));
            if !known {
                self.wanted.push(Want { place, zero_copy, since: Instant::now(), moves: false });
            }
        }
        Ok(())
    }

    fn bind_one(&mut self, want: &Want) -> Result<(), BindError> {
        if self.take_up_idle(want).map_err(|error| want.explain(error))? {
            return Ok(());
        }
        let driver = Nic::new(&want.place.interface).and_then(|nic| nic.driver());
        let driver = driver.unwrap_or_default();
        if want.zero_copy && !self.copying_drivers.contains(&driver) {
            match self.bind_in(Mode::ZeroCopy, want)? {
                Ok(()) => return Ok(()),
                Err(error) if is_unsupported(&error) => self.copying_drivers.push(driver),
                Err(error) => return Err(want.explain(error)),
            }
        }
        self.bind_in(Mode::Copy, want)?.map_err(|error| want.explain(error))
    }

    /// Binds it in the group of this mode. The inner error is the kernel's.
    fn bind_in(&mut self, mode: Mode, want: &Want) -> Result<io::Result<()>, BindError> {
        let group = self.group(mode)?;
        match self.bind_in_group(group, mode, want) {
            Err(error) if self.has_lost_its_anchor(group, &error) => {
                self.rebuild(group);
                let group = self.group(mode)?;
                Ok(self.bind_in_group(group, mode, want))
            }
            result => Ok(result),
        }
    }

    fn bind_in_group(&mut self, number: usize, mode: Mode, want: &Want) -> io::Result<()> {
        let key = self.free_key()?;
        let Some(group) = self.groups.get_mut(number) else {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        };
        let entries = self.sizes.ring_entries;
        let queue = Queue::bind(&group.umem, want.place.clone(), number, key, mode, entries)?;
        group.mode = mode;
        group.anchor.get_or_insert(key);
        self.queues.push(queue);
        self.index();
        self.announce(key, want.moves).inspect_err(|_| self.drop_socket(key))
    }

    /// Has a new socket handed out.
    fn announce(&mut self, key: SocketKey, moved: bool) -> io::Result<()> {
        if let Some(queue) = self.queues.iter().find(|queue| queue.key == key) {
            let bound = Bound {
                slot: queue.place.slot,
                queue: queue.place.queue,
                socket: queue.share_socket()?,
                zero_copy: queue.zero_copy,
            };
            self.new.push(NewSocket { key, moved, bound });
        }
        Ok(())
    }

    /// Lets go of a single socket.
    fn drop_socket(&mut self, key: SocketKey) {
        for queue in self.queues.iter_mut().filter(|queue| queue.key == key) {
            queue.idle = true;
        }
        self.close_idle();
    }

    /// The group of this mode. One that has no socket yet can become either.
    fn group(&mut self, mode: Mode) -> Result<usize, BindError> {
        let fits = |group: &Group| group.mode == mode || group.anchor.is_none();
        if let Some(number) = self.groups.iter().position(fits) {
            return Ok(number);
        }
        self.groups.push(Group { umem: Umem::new(&self.sizes)?, mode, anchor: None });
        Ok(self.groups.len() - 1)
    }

    /// Whether a socket could not join because the anchor is no longer bound:
    /// EBADF, or EINVAL while its interface is gone.
    fn has_lost_its_anchor(&self, group: usize, error: &io::Error) -> bool {
        let Some(anchor) = self.groups.get(group).and_then(|group| group.anchor) else {
            return false;
        };
        let anchor = self.queues.iter().find(|queue| queue.key == anchor);
        match error.raw_os_error() {
            Some(libc::EBADF) => true,
            Some(libc::EINVAL) => anchor.is_none_or(|queue| queue.dead.is_some()),
            _ => false,
        }
    }

    /// Ends a group whose anchor is gone, and wants its other queues bound
    /// anew.
    fn rebuild(&mut self, group: usize) {
        let zero_copy = self.groups.get(group).is_some_and(|group| group.mode == Mode::ZeroCopy);
        for queue in self.queues.iter_mut().filter(|queue| queue.group == group) {
            let gone = match nic::ifindex(&queue.place.interface) {
                Ok(ifindex) => ifindex != queue.place.ifindex,
                // Whatever else the kernel says: trying will show.
                Err(error) => matches!(error, NicError::NoInterface { .. }),
            };
            if !queue.idle && !gone {
                let place = queue.place.clone();
                self.wanted.push(Want { place, zero_copy, since: Instant::now(), moves: true });
            }
            queue.idle = true;
            // What it has left to send goes with the group.
            queue.leaving = None;
        }
        self.close_idle();
    }

    /// Uses a socket again that was only kept as an anchor, or is still there.
    fn take_up_idle(&mut self, want: &Want) -> io::Result<bool> {
        let place = &want.place;
        let fits = |queue: &&mut Queue| queue.idle && queue.dead.is_none() && queue.is_at(place);
        let Some(queue) = self.queues.iter_mut().find(fits) else { return Ok(false) };
        queue.idle = false;
        queue.leaving = None;
        queue.place = place.clone();
        let key = queue.key;
        self.index();
        self.announce(key, want.moves).inspect_err(|_| self.drop_socket(key))?;
        Ok(true)
    }

    /// Closes what nobody wants, and ends the groups that nobody uses.
    fn close_idle(&mut self) {
        for number in (0..self.groups.len()).rev() {
            let uses = |queue: &Queue| !queue.idle || queue.leaving.is_some();
            let used = self.queues.iter().any(|queue| queue.group == number && uses(queue));
            let anchor = self.groups.get(number).and_then(|group| group.anchor);
            let closing = |queue: &mut Queue| {
                queue.group == number && !uses(queue) && (!used || Some(queue.key) != anchor)
            };
            let closing: Vec<Queue> = self.queues.extract_if(.., closing).collect();
            for queue in closing {
                self.close_one(number, queue);
            }
            if !used && number < self.groups.len() {
                let group = self.groups.remove(number);
                self.ending.push(group.umem);
                for queue in &mut self.queues {
                    queue.group -= usize::from(queue.group > number);
                }
            }
        }
        self.end_memory();
        self.index();
    }

    /// Closes a socket of a group, or has it closed.
    fn close_one(&mut self, group: usize, queue: Queue) {
        self.new.retain(|new| new.key != queue.key);
        let Some(group) = self.groups.get_mut(group) else { return };
        let closing = Closing { umem: group.umem.id(), key: queue.key, slot: queue.place.slot };
        let elsewhere = match &self.closer {
            Some(closer) => closer.close(queue, closing),
            None => {
                drop(queue);
                false
            }
        };
        if elsewhere {
            self.closing.push(closing);
        } else {
            group.umem.reclaim(closing.key);
        }
    }

    /// Brings what follows from the list of queues up to date.
    fn index(&mut self) {
        for slot in &mut self.slots {
            slot.queues.clear();
        }
        self.queues.sort_by_key(|queue| (queue.place.slot, queue.place.queue));
        for (number, queue) in self.queues.iter().enumerate() {
            if let Some(slot) = self.slots.get_mut(usize::from(queue.place.slot.0))
                && !queue.idle
            {
                slot.queues.push(number);
            }
        }
        // At most half of the frames wait to be received into: the others
        // are on their way out, or held.
        for (number, group) in self.groups.iter().enumerate() {
            let works = |queue: &&mut Queue| queue.group == number && !queue.idle;
            let sharing = self.queues.iter_mut().filter(works).count().max(1);
            let each = group.umem.born() / 2 / sharing;
            for queue in self.queues.iter_mut().filter(works) {
                queue.aim(each as u32);
            }
        }
    }

    fn free_key(&self) -> io::Result<SocketKey> {
        let is_free = |key: &SocketKey| {
            self.queues.iter().all(|queue| queue.key != *key)
                && self.closing.iter().all(|closing| closing.key != *key)
        };
        (1..u16::MAX)
            .map(SocketKey)
            .find(is_free)
            .ok_or_else(|| io::Error::other("too many sockets"))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.close();
    }
}

impl Queue {
    fn is_at(&self, place: &Place) -> bool {
        self.place.ifindex == place.ifindex && self.place.queue == place.queue
    }
}

impl Want {
    fn is_for(&self, place: &Place) -> bool {
        self.place.ifindex == place.ifindex && self.place.queue == place.queue
    }

    fn explain(&self, source: io::Error) -> BindError {
        let interface = self.place.interface.clone();
        let queue = self.place.queue;
        match source.raw_os_error() {
            Some(libc::EBUSY) => {
                let waited_ms = self.since.elapsed().as_millis() as u64;
                BindError::Busy { interface, queue, waited_ms }
            }
            Some(libc::EPERM | libc::EACCES) => BindError::NotPermitted { source },
            Some(libc::ENODEV | libc::ENXIO) => BindError::NoInterface { interface },
            Some(libc::EMFILE | libc::ENFILE) => BindError::Descriptors { source },
            _ => BindError::Queue { interface, queue, source },
        }
    }
}

/// What drivers without zero-copy answer; some with the kernel's inner
/// ENOTSUPP (`linux/errno.h`).
fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | 524))
}
