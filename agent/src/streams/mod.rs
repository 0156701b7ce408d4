//! Stream listeners: connections that end on the node's own TCP stack.
//!
//! The control thread says what is wanted, and asks how far it is. A task sees to
//! it: the kernel takes the ports ([`ways`]), [`blixt_streams`] listens there and
//! moves bytes, and endpoints are chosen by the tables ([`balancer`]). The XDP
//! program is told of a port once all of that is so; it is not this that tells it.
//!
//! Nothing runs before the first stream is wanted. Nothing is left when the agent
//! stops; when it is killed, rules and routes stay, which lead to nobody, and the
//! next start takes them away.

mod balancer;
mod ports;
mod room;
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use blixt_dataplane::Tables;
use blixt_model::{Gateway, Generation, ObjectName};
use blixt_streams::{Limits, Streams};
use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

pub use self::ports::Certificates;
pub use self::room::Room;

use self::balancer::ByTables;
use self::ports::{Made, Ports};
use self::ways::Ways;
use crate::tables::Applied;
use crate::told::tell;
use crate::worker::Published;

/// How often is looked whether everything is as it should be, and tried again
/// what did not go.
const LOOK: Duration = Duration::from_secs(2);

/// How long it may take to remove everything.
const REMOVING: Duration = Duration::from_secs(5);

/// File descriptors that streams leave to the rest of the agent.
const OTHER_DESCRIPTORS: u64 = 1_024;

/// The streams of an agent, for who looks at them; empty before the first is
/// wanted.
pub type Running = Arc<OnceLock<Streams>>;

/// What is wanted, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// What is in force.
    pub applied: Arc<Applied>,
    /// The tables made of it.
    pub tables: Arc<Tables>,
    /// The certificates that are here.
    pub certificates: Certificates,
}

/// How far it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// The newest tables that were looked at.
    pub generation: Generation,
    /// The ports whose connections are taken.
    pub served: BTreeSet<SocketAddr>,
    /// Why Gateways have ports that are not, or not as they should be.
    pub troubles: BTreeMap<ObjectName, String>,
}

impl Shown {
    /// Whether all ports of a Gateway are served, or why not; `None` as long as
    /// nobody knows. `passed` are those whose packets the XDP program lets pass.
    pub fn of(
        &self,
        gateway: &Gateway,
        passed: &BTreeSet<SocketAddr>,
    ) -> Option<Result<(), String>> {
        if let Some(why) = self.troubles.get(&gateway.name) {
            return Some(Err(why.clone()));
        }
        let mut ports = gateway.streams.iter().flat_map(|stream| {
            let port = stream.port.number();
            gateway.addresses.iter().map(move |address| SocketAddr::new(*address, port))
        });
        ports.all(|port| passed.contains(&port)).then_some(Ok(()))
    }
}

/// The control thread's end of the task.
#[derive(Debug)]
pub struct StreamServer {
    wishes: watch::Sender<Wish>,
    shown: watch::Receiver<Shown>,
    running: Running,
    choosing: Choosing,
    stop: mpsc::Sender<oneshot::Sender<()>>,
}

impl StreamServer {
    /// Begins, on a node where the XDP program runs on these interfaces.
    pub fn start(published: Arc<Published>, interfaces: Vec<String>, room: Room) -> Self {
        let (wishes, wanted) = watch::channel(Wish::default());
        let (shows, shown) = watch::channel(Shown::default());
        let (stop, stopped) = mpsc::channel(1);
        let (running, choosing) = (Running::default(), Choosing::default());
        let task = Task {
            running: running.clone(),
            choosing: choosing.clone(),
            ..Task::new(published, interfaces, room)
        };
        tokio::spawn(task.run(wanted, shows, stopped));
        Self { wishes, shown, running, choosing, stop }
    }

    /// Serves this from now on.
    pub fn want(&self, wish: Wish) {
        self.wishes.send_replace(wish);
    }

    /// Waits until it is farther than it was. May be cut short.
    pub async fn changed(&mut self) {
        if self.shown.changed().await.is_err() {
            // It ends with the agent.
            std::future::pending::<()>().await;
        }
    }

    /// How far it is.
    pub fn shown(&self) -> Shown {
        self.shown.borrow().clone()
    }

    /// The streams.
    pub fn running(&self) -> Running {
        Arc::clone(&self.running)
    }

    /// The oldest tables that somebody may still choose by.
    pub fn oldest_tables(&self) -> Generation {
        let wished = self.wishes.borrow().tables.generation();
        self.choosing.oldest().map_or(wished, |oldest| oldest.min(wished))
    }

    /// Ends all streams, and removes everything.
    pub async fn stop(&self) {
        if let Some(streams) = self.running.get() {
            streams.stop();
        }
        let (reply, done) = oneshot::channel();
        if self.stop.send(reply).await.is_err() || timeout(REMOVING, done).await.is_err() {
            warn!(
                "routing rules for streams are not removed: `ip rule` and `ip -6 rule` show them"
            );
        }
    }
}

/// All who choose by some tables.
#[derive(Debug, Clone, Default)]
struct Choosing(Arc<Mutex<Vec<Weak<ByTables>>>>);

impl Choosing {
    fn add(&self, balancer: &Arc<ByTables>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(balancer));
    }

    fn oldest(&self) -> Option<Generation> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).map(|one| one.generation()).min()
    }
}

/// What the task does.
struct Task {
    published: Arc<Published>,
    interfaces: Vec<String>,
    room: Room,
    running: Running,
    choosing: Choosing,
    ways: Option<Ways>,
    ports: Ports,
    /// The ports that somebody listens on.
    served: BTreeSet<SocketAddr>,
    /// What the log said last.
    told: BTreeMap<ObjectName, String>,
}

impl Task {
    fn new(published: Arc<Published>, interfaces: Vec<String>, room: Room) -> Self {
        Self {
            published,
            interfaces,
            room,
            running: Running::default(),
            choosing: Choosing::default(),
            ways: None,
            ports: Ports::default(),
            served: BTreeSet::new(),
            told: BTreeMap::new(),
        }
    }

    async fn run(
        mut self,
        mut wanted: watch::Receiver<Wish>,
        shows: watch::Sender<Shown>,
        mut stopped: mpsc::Receiver<oneshot::Sender<()>>,
    ) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                stop = stopped.recv() => {
                    if let Some(ways) = &mut self.ways {
                        ways.keep(&BTreeSet::new()).await;
                    }
                    if let Some(reply) = stop {
                        let _ = reply.send(());
                    }
                    return;
                }
                Ok(()) = wanted.changed() => {}
                _ = looks.tick() => {}
            }
            let wish = wanted.borrow_and_update().clone();
            // Before there is anything in force nothing is touched.
            if wish.applied.at.is_none() {
                continue;
            }
            let now = self.look(wish).await;
            self.tell(&now.troubles);
            tell(&shows, now);
        }
    }

    /// Brings everything about that is not yet so.
    async fn look(&mut self, wish: Wish) -> Shown {
        let generation = wish.tables.generation();
        let Made { mut ports, owners, mut troubles } =
            self.ports.make(&wish.applied.snapshot, &wish.certificates);
        let mut refused = self.room.refused(&owners, &self.served);
        ports.retain(|port, _| !refused.contains_key(port));
        let wanted: BTreeSet<_> = ports.keys().copied().collect();
        refused.extend(self.lead(&wanted).await);
        // Who is served already stays, be the kernel's tables touched or not.
        ports.retain(|port, _| self.served.contains(port) || !refused.contains_key(port));
        self.served = ports.keys().copied().collect();
        for (port, why) in self.listen(ports, wish.tables) {
            self.served.remove(&port);
            refused.insert(port, why);
        }
        // After nobody listens there any more.
        if let Some(ways) = &mut self.ways {
            ways.keep(&wanted).await;
        }
        for (port, why) in refused {
            if let Some(gateway) = owners.get(&port) {
                troubles.entry(gateway.clone()).or_insert(why);
            }
        }
        Shown { generation, served: self.served.clone(), troubles }
    }

    /// Serves these ports, and no others. Those that can't be, and why.
    fn listen(
        &self,
        ports: BTreeMap<SocketAddr, Arc<blixt_streams::Port>>,
        tables: Arc<Tables>,
    ) -> BTreeMap<SocketAddr, String> {
        match self.streams(!ports.is_empty()) {
            Ok(None) => BTreeMap::new(),
            Ok(Some(streams)) => {
                let balancer = Arc::new(ByTables::new(tables, Arc::clone(&self.published)));
                self.choosing.add(&balancer);
                let refused = streams.take(blixt_streams::Wanted { ports, balancer });
                refused.into_iter().map(|(port, why)| (port, why.to_string())).collect()
            }
            Err(why) => {
                let why = format!("the system refuses threads for streams: {why}");
                ports.into_keys().map(|port| (port, why.clone())).collect()
            }
        }
    }

    async fn lead(&mut self, wanted: &BTreeSet<SocketAddr>) -> BTreeMap<SocketAddr, String> {
        if self.ways.is_none() {
            match Ways::open(self.interfaces.clone()).await {
                Ok(ways) => self.ways = Some(ways),
                Err(error) => {
                    let why = format!("the kernel does not tell its routing rules: {error}");
                    return wanted.iter().map(|port| (*port, why.clone())).collect();
                }
            }
        }
        match &mut self.ways {
            Some(ways) => ways.lead(wanted).await,
            None => BTreeMap::new(),
        }
    }

    /// The streams, begun if they are needed and were not yet.
    fn streams(&self, needed: bool) -> io::Result<Option<&Streams>> {
        if needed && self.running.get().is_none() {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let streams = Streams::start(threads, limits())?;
            info!(threads, at_most = streams.capacity(), "streams end on the node's TCP stack");
            // This task is the only one to put something there.
            let _ = self.running.set(streams);
        }
        Ok(self.running.get())
    }

    fn tell(&mut self, troubles: &BTreeMap<ObjectName, String>) {
        for (gateway, why) in troubles {
            if self.told.get(gateway) != Some(why) {
                warn!("Gateway {gateway}: {why}");
            }
        }
        for gateway in self.told.keys().filter(|gateway| !troubles.contains_key(gateway)) {
            info!("Gateway {gateway}: its streams are served now");
        }
        self.told.clone_from(troubles);
    }
}

/// As many streams as there are descriptors for, two for each.
fn limits() -> Limits {
    let limits = Limits::default();
    let Ok((descriptors, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return limits };
    let most = descriptors.saturating_sub(OTHER_DESCRIPTORS) / 2;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    Limits { streams: limits.streams.min(most.max(1)), ..limits }
}

#[cfg(test)]
mod tests;
