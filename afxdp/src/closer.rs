//! Closes sockets for a worker, which has no time for it.
//!
//! To close a socket the kernel waits until nobody looks at it any more, a
//! grace period of RCU that takes 10 ms and more (`synchronize_net` in
//! `xsk_unbind_dev`, net/xdp/xsk.c); and to give the memory of frames back it
//! goes over all its pages. So a thread of its own does both.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use crate::Slot;
use crate::frame::UmemId;
use crate::queue::Queue;
use crate::umem::SocketKey;

/// A socket that is being closed. Until it is the kernel has its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closing {
    pub(crate) umem: UmemId,
    pub(crate) key: SocketKey,
    pub(crate) slot: Slot,
}

/// What an [`crate::Exchange`] can be given, so that it waits for no socket to
/// close.
#[derive(Debug)]
pub struct Closer {
    work: Sender<Work>,
    closed: Receiver<Closing>,
}

#[derive(Debug)]
enum Work {
    Socket(Box<Queue>, Closing),
    Memory(xsk_rs::Umem),
}

impl Closer {
    /// Starts the thread, which ends with what is returned. It runs where the
    /// calling thread may run, so call it before that is pinned.
    pub fn start() -> io::Result<Self> {
        let (work, jobs) = mpsc::channel();
        let (tells, closed) = mpsc::channel();
        thread::Builder::new().name("blixt-closer".to_owned()).spawn(move || {
            for job in jobs {
                match job {
                    Work::Socket(queue, closing) => {
                        drop(queue);
                        // Nobody waits for it at the end.
                        let _ = tells.send(closing);
                    }
                    Work::Memory(umem) => drop(umem),
                }
            }
        })?;
        Ok(Self { work, closed })
    }

    /// Has a socket closed; [`Closer::next_closed`] tells when it is. `false`: it has
    /// been closed here, as nobody else is there to do it.
    pub(crate) fn close(&self, queue: Queue, closing: Closing) -> bool {
        self.work.send(Work::Socket(Box::new(queue), closing)).is_ok()
    }

    /// Has memory given back that nobody uses any more.
    pub(crate) fn unmap(&self, memory: xsk_rs::Umem) {
        // Else that happens here.
        let _ = self.work.send(Work::Memory(memory));
    }

    /// A socket that has been closed since.
    pub(crate) fn next_closed(&self) -> Option<Closing> {
        self.closed.try_recv().ok()
    }

    /// The same, waited for. `None` if none will come any more.
    pub(crate) fn wait_for_closed(&self) -> Option<Closing> {
        self.closed.recv().ok()
    }
}
