//! The kernel's routes, followed by a thread of their own.
//!
//! They are read anew whenever the kernel says that one of them changed: what
//! it says of the change itself would need every special case of its tables
//! here. A million of them take seconds to read, to make and to free, in which
//! links and neighbours change. So this thread does nothing else, and whoever
//! looks at routes that have been replaced leaves it to this thread to free
//! them.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_dataplane::{Route, Routes};
use futures_util::TryStreamExt;
use futures_util::future::BoxFuture;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::RouteMessage;
use rtnetlink::{Error, Handle, MulticastGroup};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, warn};

use super::connection::{Connection, RETRY, on_a_thread};
use super::{MirrorError, fib, messages};

/// What is followed.
const GROUPS: [MulticastGroup; 2] = [MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];

/// How long changes are gathered: one `ip` command makes several.
const GATHER: Duration = Duration::from_millis(2);

/// Reading may take one sixth of the time: after it took so long, five times
/// as long is waited. That matters only with some 100,000 routes and more.
const REST: u32 = 5;

/// How often is looked whether routes that have been replaced can be freed.
const FREE: Duration = Duration::from_secs(1);

/// The mirror's end.
#[derive(Debug)]
pub(super) struct FollowedRoutes {
    newest: watch::Receiver<Arc<Routes>>,
    stale: Arc<Notify>,
}

impl FollowedRoutes {
    /// Begins to follow. Returns when all have been read once.
    pub(super) async fn start() -> Result<Self, MirrorError> {
        let (tells, started) = oneshot::channel();
        let stale = Arc::new(Notify::new());
        let told = Arc::clone(&stale);
        on_a_thread("blixt-routes", async move {
            match Task::begin(told).await {
                Ok((task, connection)) => {
                    if tells.send(Ok(task.newest.subscribe())).is_ok() {
                        task.run(Some(connection)).await;
                    }
                }
                Err(error) => drop(tells.send(Err(error))),
            }
        })?;
        let newest = started.await.map_err(io::Error::other)??;
        Ok(Self { newest, stale })
    }

    /// The newest.
    pub(super) fn newest(&mut self) -> Arc<Routes> {
        Arc::clone(&self.newest.borrow_and_update())
    }

    /// Waits until there are newer ones. May be cut short.
    pub(super) async fn changed(&mut self) {
        if self.newest.changed().await.is_err() {
            pending::<()>().await;
        }
    }

    /// Has them read anew: some changed of which the kernel does not tell.
    pub(super) fn read_anew(&self) {
        self.stale.notify_one();
    }
}

/// What the thread does.
struct Task {
    /// Whether they are to be read anew.
    stale: bool,
    told: Arc<Notify>,
    next_dump: Instant,
    newest: watch::Sender<Arc<Routes>>,
    /// The newest, and older ones that somebody may still look at.
    kept: Vec<Arc<Routes>>,
}

type Reading = BoxFuture<'static, Result<Vec<Route>, Error>>;

impl Task {
    async fn begin(told: Arc<Notify>) -> Result<(Self, Connection), MirrorError> {
        let connection = Connection::open(&GROUPS)?;
        let (newest, _) = watch::channel(Arc::default());
        let next_dump = Instant::now();
        let mut task = Self { stale: false, told, next_dump, newest, kept: Vec::new() };
        let begin = Instant::now();
        let list = read(connection.handle.clone()).await?;
        task.take(list, begin);
        Ok((task, connection))
    }

    /// Follows for as long as anybody wants to know, over as many connections
    /// as it takes.
    async fn run(mut self, mut connection: Option<Connection>) {
        while !self.newest.is_closed() {
            if let Some(connection) = connection.take() {
                match self.follow(connection).await {
                    Ok(()) => return,
                    Err(why) => warn!("{why}; asking again, with the last known routes meanwhile"),
                }
                self.stale = true;
            }
            sleep(RETRY).await;
            match Connection::open(&GROUPS) {
                Ok(next) => connection = Some(next),
                Err(error) => debug!("no netlink socket: {error}"),
            }
        }
    }

    /// Follows one connection until it fails; `Ok` when nobody wants to know
    /// any more.
    async fn follow(&mut self, mut connection: Connection) -> Result<(), String> {
        let told = Arc::clone(&self.told);
        let mut reading: Option<(Instant, Reading)> = None;
        let mut frees = interval(FREE);
        frees.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let dump_at = tokio::time::Instant::from_std(self.next_dump);
            let is_reading = reading.is_some();
            let list = async {
                match &mut reading {
                    Some((_, reading)) => reading.await,
                    None => pending().await,
                }
            };
            tokio::select! {
                // Whatever it says: also that it could not say all (`ENOBUFS`
                // in netlink(7)).
                event = connection.event() => {
                    event.ok_or("the netlink socket for routes failed")?;
                    while connection.another().is_some() {}
                    self.is_stale();
                }
                () = told.notified() => self.is_stale(),
                list = list => {
                    let begin = reading.take().map_or_else(Instant::now, |(begin, _)| begin);
                    self.take(list.map_err(|error| error.to_string())?, begin);
                }
                () = sleep_until(dump_at), if self.stale && !is_reading => {
                    self.stale = false;
                    let list = read(connection.handle.clone());
                    reading = Some((Instant::now(), Box::pin(list)));
                }
                _ = frees.tick() => self.free(),
                () = self.newest.closed() => return Ok(()),
            }
        }
    }

    fn is_stale(&mut self) {
        self.stale = true;
        self.next_dump = self.next_dump.max(Instant::now() + GATHER);
    }

    /// Takes in what was read since `begin`, and shows it if it changed.
    fn take(&mut self, list: Vec<Route>, begin: Instant) {
        let routes = fib::routes(list);
        let changed = **self.newest.borrow() != routes;
        if changed || self.kept.is_empty() {
            let routes = Arc::new(routes);
            self.kept.push(Arc::clone(&routes));
            self.newest.send_replace(routes);
        }
        self.next_dump = Instant::now() + begin.elapsed() * REST;
        self.free();
    }

    /// Frees those that nobody looks at any more.
    fn free(&mut self) {
        // The newest is the watch's, too. Of those before it nobody can get
        // hold any more: a count of 1, that of this list, is final.
        self.kept.retain(|routes| Arc::strong_count(routes) > 1);
    }
}

/// Reads all there are.
pub(super) async fn read(handle: Handle) -> Result<Vec<Route>, Error> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let mut answers = handle.route().get(request).execute();
        while let Some(message) = answers.try_next().await? {
            routes.extend(messages::route(&message));
        }
    }
    Ok(routes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use blixt_dataplane::RouteAction;

    fn task() -> Task {
        let (newest, _) = watch::channel(Arc::default());
        let told = Arc::new(Notify::new());
        Task { stale: false, told, next_dump: Instant::now(), newest, kept: Vec::new() }
    }

    fn route(last: u8) -> Route {
        Route::new([10, 0, 0, last].into(), 32, 0, RouteAction::Refuse)
    }

    #[test]
    fn who_looks_at_old_routes_does_not_have_to_free_them() {
        let mut task = task();
        task.take(vec![route(1)], Instant::now());
        let old = Arc::clone(&task.newest.borrow());
        let is_there = Arc::downgrade(&old);
        task.take(vec![route(2)], Instant::now());
        assert_eq!(task.kept.len(), 2, "somebody looks at them");
        drop(old);
        assert!(is_there.upgrade().is_some(), "they are left to their own thread");
        task.free();
        assert!(is_there.upgrade().is_none());
        assert_eq!((task.kept.len(), task.newest.borrow().len()), (1, 1));
    }

    #[test]
    fn the_same_routes_again_are_no_news() {
        let mut task = task();
        let mut seen = task.newest.subscribe();
        task.take(vec![], Instant::now());
        assert!(seen.has_changed().unwrap(), "the first ones are, even if there are none");
        task.take(vec![route(1)], Instant::now());
        let stamp = seen.borrow_and_update().stamp();
        task.take(vec![route(1)], Instant::now());
        assert!(!seen.has_changed().unwrap());
        assert_eq!(seen.borrow().stamp(), stamp);
    }
}
