//! TCP streams on the kernel's stack: for listeners whose connections end here,
//! HTTP, HTTPS and TLS, as bytes that nobody looks into.
//!
//! [`Streams`] listens on the ports that are wanted, reads the server's name out
//! of TLS ([`hello`]) or of the first request where it decides, has an endpoint chosen by a [`Balancer`],
//! and moves bytes both ways. It knows neither tables nor counters nor routes of
//! the kernel: the agent brings all of these.
//!
//! It has threads of its own, so that nothing that clients do takes time from
//! anybody else.

#![forbid(unsafe_code)]

mod certificates;
pub mod hello;
mod host;
mod live;
mod pipe;
mod port;
mod reason;
mod rooms;
mod serve;
mod sockets;
mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;

pub use certificates::{CertificateError, Chain, server_config};
use live::Live;
pub use live::Stream;
pub use port::{Hostname, Listener, Port, Route, RoutePlace, Tls};
pub use reason::{Reason, Reasons};
use rooms::Rooms;
pub use sockets::ListenError;

/// Chooses endpoints, and knows what became of them. Made anew with the tables
/// that it asks.
pub trait Balancer: fmt::Debug + Send + Sync {
    /// Chooses for a client that talks to `vip`, by one of the port's routes.
    fn choose(
        &self,
        client: SocketAddr,
        vip: SocketAddr,
        place: RoutePlace,
    ) -> Result<Chosen, Reason>;

    /// Whether streams to the endpoint of a slot have to end.
    fn is_gone(&self, slot: u32) -> bool;
}

/// Who gets a stream.
#[derive(Debug)]
pub struct Chosen {
    /// Where it listens.
    pub endpoint: SocketAddr,
    /// Its slot, for [`Balancer::is_gone`].
    pub slot: u32,
    /// The slot of what led to it.
    pub backend_slot: u32,
    /// Where the stream is counted, as long as this lives.
    pub tally: Box<dyn Tally>,
}

/// Where one stream is counted. What is let go of before it began was refused.
pub trait Tally: fmt::Debug + Send + Sync {
    /// The endpoint has answered.
    fn began(&self);

    /// So many bytes moved.
    fn moved(&self, direction: Direction, bytes: u64);
}

/// Where bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    ToEndpoint,
    /// To the client.
    ToClient,
}

/// How much of everything there may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Streams at one time. Each takes two descriptors, and some 100 KiB at most
    /// of ours.
    pub streams: usize,
    /// How long a client may take from its connection to the end of its
    /// handshake.
    pub hello: Duration,
    /// How long an endpoint may take to answer.
    pub connect: Duration,
    /// How long who says nothing is believed to be there; then it is asked.
    pub keepalive: Duration,
    /// How long nothing may move.
    pub idle: Duration,
    /// The same, once one side has said all.
    pub half_closed: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Under 512 MiB if all of them end TLS and are full: half of what the
            // DaemonSet allows.
            streams: 4_096,
            // As long as Envoy waits for its listener filters
            // (listener_filters_timeout).
            hello: Duration::from_secs(15),
            // As long as Envoy waits (connect_timeout): two SYNs may get lost
            // (RFC 6298 §2.1, Linux' TCP_TIMEOUT_INIT of 1 s).
            connect: Duration::from_secs(5),
            // Rarely enough for batteries, and before most firewalls forget: those of
            // clouds do after 350 s (AWS) or 10 minutes (Google).
            keepalive: Duration::from_secs(5 * 60),
            // RFC 5382 REQ-5, as for what is not ended here.
            idle: Duration::from_secs(2 * 3_600 + 4 * 60),
            half_closed: Duration::from_secs(4 * 60),
        }
    }
}

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What is done on each port of each address.
    pub ports: BTreeMap<SocketAddr, Arc<Port>>,
    /// Who chooses endpoints.
    pub balancer: Arc<dyn Balancer>,
}

impl Wanted {
    /// Why a stream has to end, if it has to.
    fn end(&self, stream: &Stream) -> Option<Reason> {
        if !self.ports.contains_key(&stream.vip) {
            return Some(Reason::PortGone);
        }
        self.balancer.is_gone(stream.slot).then_some(Reason::EndpointGone)
    }
}

/// Serves streams.
#[derive(Debug)]
pub struct Streams {
    inner: Arc<Inner>,
    /// Who accepts where.
    accepting: Mutex<BTreeMap<SocketAddr, AbortHandle>>,
    /// `None` once it is stopped.
    runtime: Mutex<Option<Runtime>>,
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Inner {
    limits: Limits,
    wanted: ArcSwap<Wanted>,
    live: Live,
    reasons: Reasons,
    accepted: AtomicU64,
    begun: AtomicU64,
    rooms: Arc<Rooms>,
    /// Streams that a client or an endpoint reset.
    resets: AtomicU64,
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that came.
    pub accepted: u64,
    /// Connections that there are, those that are being looked at included.
    pub active: u64,
    /// Streams that began: an endpoint answered.
    pub begun: u64,
    /// Streams that there are.
    pub live: u64,
    /// Streams that a client or an endpoint reset.
    pub reset_by_peers: u64,
}

impl Streams {
    /// Begins, with nothing to serve, on so many threads.
    pub fn start(threads: usize, limits: Limits) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("blixt-streams")
            .enable_all()
            .build()?;
        let nothing = Wanted { ports: BTreeMap::new(), balancer: Arc::new(Nobody) };
        let inner = Arc::new(Inner {
            limits,
            wanted: ArcSwap::from_pointee(nothing),
            live: Live::default(),
            reasons: Reasons::default(),
            accepted: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            rooms: Arc::new(Rooms::new(limits.streams)),
            resets: AtomicU64::new(0),
        });
        Ok(Self { inner, accepting: Mutex::default(), runtime: Mutex::new(Some(runtime)) })
    }

    /// Serves this from now on. New streams go by it; those that there are go
    /// on, but where port or endpoint is gone. Gives the ports that can't be
    /// listened on: call it again to try again.
    pub fn take(&self, wanted: Wanted) -> BTreeMap<SocketAddr, ListenError> {
        let runtime = self.runtime();
        let Some(runtime) = &*runtime else { return BTreeMap::new() };
        let wanted = Arc::new(wanted);
        self.inner.wanted.store(Arc::clone(&wanted));
        let mut accepting = self.accepting();
        accepting.retain(|at, task| {
            let stays = wanted.ports.contains_key(at);
            if !stays {
                task.abort();
            }
            stays
        });
        self.inner.live.end(|stream| wanted.end(stream));
        let mut refused = BTreeMap::new();
        let _on_it = runtime.enter();
        for &at in wanted.ports.keys().filter(|at| !accepting.contains_key(at)).collect::<Vec<_>>()
        {
            match sockets::listen(at) {
                Ok(listener) => {
                    let task = runtime.spawn(serve::accept(Arc::clone(&self.inner), listener, at));
                    accepting.insert(at, task.abort_handle());
                }
                Err(error) => {
                    refused.insert(at, error);
                }
            }
        }
        refused
    }

    /// The streams that there are.
    pub fn list(&self) -> Vec<Arc<Stream>> {
        self.inner.live.list()
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        Counts {
            accepted: self.inner.accepted.load(Ordering::Relaxed),
            active: self.inner.rooms.taken_by_all() as u64,
            begun: self.inner.begun.load(Ordering::Relaxed),
            live: self.inner.live.count() as u64,
            reset_by_peers: self.inner.resets.load(Ordering::Relaxed),
        }
    }

    /// In how long a stream ends if nothing moves.
    pub fn ends_in(&self, stream: &Stream) -> Duration {
        let finished = stream.client_finished() || stream.endpoint_finished();
        let limits = &self.inner.limits;
        let limit = if finished { limits.half_closed } else { limits.idle };
        limit.saturating_sub(stream.idle())
    }

    /// How many connections there may be.
    pub fn capacity(&self) -> usize {
        self.inner.limits.streams
    }

    /// How many were refused or reset, and why.
    pub fn reasons(&self) -> &Reasons {
        &self.inner.reasons
    }

    /// Ends everything: nobody is accepted any more, and who is there is reset.
    pub fn stop(&self) {
        for (_, task) in std::mem::take(&mut *self.accepting()) {
            task.abort();
        }
        self.inner.live.end(|_| Some(Reason::Stopping));
        if let Some(runtime) = self.runtime().take() {
            runtime.shutdown_background();
        }
    }

    fn runtime(&self) -> MutexGuard<'_, Option<Runtime>> {
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accepting(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, AbortHandle>> {
        self.accepting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Who is asked before anything is wanted.
#[derive(Debug)]
struct Nobody;

impl Balancer for Nobody {
    fn choose(&self, _: SocketAddr, _: SocketAddr, _: RoutePlace) -> Result<Chosen, Reason> {
        Err(Reason::NoRoute)
    }

    fn is_gone(&self, _: u32) -> bool {
        false
    }
}
