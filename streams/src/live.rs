//! The streams there are: who talks to whom, and how each can be ended.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::{Chosen, Reason};

/// One stream, for people and for who counts.
#[derive(Debug)]
pub struct Stream {
    /// Who began it.
    pub client: SocketAddr,
    /// What the client talks to.
    pub vip: SocketAddr,
    /// Who we are to the endpoint.
    pub local: SocketAddr,
    /// Who answers.
    pub endpoint: SocketAddr,
    /// The endpoint's slot; see [`crate::Chosen`].
    pub slot: u32,
    /// The slot of what led to it.
    pub backend_slot: u32,
    /// When it began.
    pub began: Instant,
    /// When bytes moved last, in milliseconds after that.
    moved_ms: AtomicU64,
    pub(crate) client_finished: AtomicBool,
    pub(crate) endpoint_finished: AtomicBool,
}

impl Stream {
    pub(crate) fn new(
        client: SocketAddr,
        vip: SocketAddr,
        local: SocketAddr,
        chosen: &Chosen,
    ) -> Self {
        Self {
            client,
            vip,
            local,
            endpoint: chosen.endpoint,
            slot: chosen.slot,
            backend_slot: chosen.backend_slot,
            began: Instant::now(),
            moved_ms: AtomicU64::new(0),
            client_finished: AtomicBool::new(false),
            endpoint_finished: AtomicBool::new(false),
        }
    }

    /// Whether the client has said all that it will.
    pub fn client_finished(&self) -> bool {
        self.client_finished.load(Ordering::Relaxed)
    }

    /// Whether the endpoint has.
    pub fn endpoint_finished(&self) -> bool {
        self.endpoint_finished.load(Ordering::Relaxed)
    }

    /// For how long nothing has moved.
    pub fn idle(&self) -> Duration {
        let moved = Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(moved)
    }

    /// How long ago it began, in milliseconds.
    pub(crate) fn age_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn moved(&self) {
        self.moved_ms.store(self.age_ms(), Ordering::Relaxed);
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Live {
    all: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    by_number: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    stream: Arc<Stream>,
    /// Taken when it is told to end.
    end: Option<oneshot::Sender<Reason>>,
}

/// A place among them, which is given back with this.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    live: &'a Live,
    number: u64,
}

impl Live {
    /// Takes one in. The receiver is told if it has to end.
    pub(crate) fn enter(&self, stream: Arc<Stream>) -> (Place<'_>, oneshot::Receiver<Reason>) {
        let (end, told) = oneshot::channel();
        let mut all = self.lock();
        let number = all.next;
        all.next += 1;
        all.by_number.insert(number, Entry { stream, end: Some(end) });
        (Place { live: self, number }, told)
    }

    /// Tells those to end for which there is a reason.
    pub(crate) fn end(&self, reason: impl Fn(&Stream) -> Option<Reason>) {
        for entry in self.lock().by_number.values_mut() {
            if let Some(reason) = reason(&entry.stream)
                && let Some(end) = entry.end.take()
            {
                let _ = end.send(reason);
            }
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().by_number.len()
    }

    pub(crate) fn list(&self) -> Vec<Arc<Stream>> {
        self.lock().by_number.values().map(|entry| Arc::clone(&entry.stream)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.live.lock().by_number.remove(&self.number);
    }
}
