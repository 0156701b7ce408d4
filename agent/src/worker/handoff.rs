//! How packets get from the worker that received them to the one that owns
//! their flow.
//!
//! Each worker has a mailbox with a fixed number of parcels. Whoever hands a
//! packet over takes an empty parcel, copies the packet into it and puts it
//! into the queue; the owner copies it into a frame of its own and gives the
//! parcel back. So frames never leave their worker, nothing is allocated, and
//! what one worker sends arrives in the order it was sent. Why copies, is in
//! `docs/decisions/0014-packets-between-workers.md`.

use std::sync::{Arc, OnceLock};

use blixt_dataplane::{InterfaceSlot, WorkerId};
use crossbeam::queue::ArrayQueue;
use nix::sys::eventfd::EventFd;

/// Packets that can wait in one mailbox: as many as a socket's rx ring holds
/// by half. With 2 KiB each a mailbox takes 2 MiB.
const PARCELS: usize = 1_024;

/// What a mailbox for packets of up to so many bytes takes.
pub(crate) fn mailbox_bytes(frame_bytes: u32) -> u64 {
    PARCELS as u64 * u64::from(frame_bytes)
}

/// The mailboxes of all workers.
#[derive(Debug)]
pub(crate) struct Mailboxes(Vec<Mailbox>);

/// Where one worker gets packets from others.
#[derive(Debug)]
pub(super) struct Mailbox {
    empty: ArrayQueue<Parcel>,
    full: ArrayQueue<Parcel>,
    /// Wakes its worker; absent until that runs.
    wake: OnceLock<Arc<EventFd>>,
}

/// A packet on its way, or the room for one.
#[derive(Debug)]
pub(super) struct Parcel {
    /// Where it was received.
    pub(super) ingress: InterfaceSlot,
    /// Through which queue.
    pub(super) queue: u32,
    bytes: usize,
    room: Box<[u8]>,
}

impl Parcel {
    /// The packet, as it was received.
    #[inline]
    pub(super) fn packet(&self) -> &[u8] {
        self.room.get(..self.bytes).unwrap_or(&[])
    }

    #[inline]
    fn fill(&mut self, ingress: InterfaceSlot, queue: u32, packet: &[u8]) -> bool {
        let Some(room) = self.room.get_mut(..packet.len()) else { return false };
        room.copy_from_slice(packet);
        self.bytes = packet.len();
        self.ingress = ingress;
        self.queue = queue;
        true
    }
}

impl Mailboxes {
    /// For so many workers; closed, until each of them opens its own.
    pub(crate) fn new(workers: usize) -> Self {
        let mailbox = |_| Mailbox {
            empty: ArrayQueue::new(PARCELS),
            full: ArrayQueue::new(PARCELS),
            wake: OnceLock::new(),
        };
        Self((0..workers).map(mailbox).collect())
    }

    #[inline]
    pub(super) fn of(&self, worker: WorkerId) -> Option<&Mailbox> {
        self.0.get(usize::from(worker.0))
    }

    /// Whether there is anybody to get packets from.
    pub(super) fn are_needed(&self) -> bool {
        self.0.len() > 1
    }
}

impl Mailbox {
    /// Lets others put packets of up to `frame_bytes` bytes into it.
    pub(super) fn open(&self, frame_bytes: usize, wake: Arc<EventFd>) {
        if self.wake.set(wake).is_err() {
            return;
        }
        for _ in 0..PARCELS {
            let room = vec![0; frame_bytes].into();
            let parcel = Parcel { ingress: InterfaceSlot(0), queue: 0, bytes: 0, room };
            // There are as many places as parcels.
            let _ = self.empty.push(parcel);
        }
    }

    /// Puts a copy of a packet into it; `false` if there is no room.
    #[inline]
    pub(super) fn put(&self, ingress: InterfaceSlot, queue: u32, packet: &[u8]) -> bool {
        let Some(mut parcel) = self.empty.pop() else { return false };
        if !parcel.fill(ingress, queue, packet) {
            self.give_back(parcel);
            return false;
        }
        self.full.push(parcel).is_ok()
    }

    /// Wakes its worker, if that sleeps.
    pub(super) fn ring(&self) {
        if let Some(wake) = self.wake.get() {
            // Refused only when the number in it is full: then it is awake.
            let _ = wake.write(1);
        }
    }

    /// The packet that has waited longest.
    #[inline]
    pub(super) fn take(&self) -> Option<Parcel> {
        self.full.pop()
    }

    /// Lets a parcel be used again.
    #[inline]
    pub(super) fn give_back(&self, parcel: Parcel) {
        // There are as many places as parcels.
        let _ = self.empty.push(parcel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const ME: WorkerId = WorkerId(1);

    fn opened(frame_bytes: usize) -> Mailboxes {
        let mailboxes = Mailboxes::new(2);
        mailboxes.of(ME).unwrap().open(frame_bytes, Arc::new(EventFd::new().unwrap()));
        mailboxes
    }

    #[test]
    fn a_packet_arrives_as_it_was_and_the_parcel_is_used_again() {
        let mailboxes = opened(64);
        let mailbox = mailboxes.of(ME).unwrap();
        for round in 0..3 * PARCELS {
            let packet = [round as u8; 40];
            assert!(mailbox.put(InterfaceSlot(1), 3, &packet));
            let parcel = mailbox.take().unwrap();
            assert_eq!((parcel.ingress, parcel.queue), (InterfaceSlot(1), 3));
            assert_eq!(parcel.packet(), packet);
            mailbox.give_back(parcel);
        }
        assert!(mailbox.take().is_none());
    }

    #[test]
    fn it_takes_what_is_told_of_it() {
        let mailboxes = opened(4_096);
        let parcels = std::iter::from_fn(|| mailboxes.of(ME).unwrap().empty.pop());
        let taken: usize = parcels.map(|parcel| parcel.room.len()).sum();
        assert_eq!(taken as u64, mailbox_bytes(4_096));
    }

    #[test]
    fn it_is_bounded_and_says_when_it_is_full() {
        let mailboxes = opened(64);
        let mailbox = mailboxes.of(ME).unwrap();
        assert!(!mailbox.put(InterfaceSlot(0), 0, &[0; 65]), "larger than a parcel");
        for _ in 0..PARCELS {
            assert!(mailbox.put(InterfaceSlot(0), 0, &[0; 64]));
        }
        assert!(!mailbox.put(InterfaceSlot(0), 0, &[0; 64]));
        mailbox.give_back(mailbox.take().unwrap());
        assert!(mailbox.put(InterfaceSlot(0), 0, &[0; 64]));
        // Nobody has opened the other one, and there is no third.
        assert!(!mailboxes.of(WorkerId(0)).unwrap().put(InterfaceSlot(0), 0, &[0]));
        assert!(mailboxes.of(WorkerId(2)).is_none());
    }

    #[test]
    fn what_each_worker_sends_arrives_in_its_order() {
        const EACH: u32 = 20_000;
        let mailboxes = opened(8);
        let mailbox = mailboxes.of(ME).unwrap();
        thread::scope(|scope| {
            for sender in 0..3 {
                scope.spawn(move || {
                    for number in 0..EACH {
                        while !mailbox.put(InterfaceSlot(sender), 0, &number.to_be_bytes()) {
                            thread::yield_now();
                        }
                    }
                });
            }
            let mut expected = [0; 3];
            while expected != [EACH; 3] {
                let Some(parcel) = mailbox.take() else {
                    thread::yield_now();
                    continue;
                };
                let next = &mut expected[usize::from(parcel.ingress.0)];
                assert_eq!(parcel.packet(), next.to_be_bytes());
                *next += 1;
                mailbox.give_back(parcel);
            }
        });
    }
}
