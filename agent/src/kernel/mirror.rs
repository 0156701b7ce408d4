//! The thread that follows links, addresses and neighbours, and makes a
//! [`Fib`] of all that is known.
//!
//! Links and addresses are read anew whenever the kernel says that one of them
//! changed: what it says of the change itself would need every special case of
//! its tables here. Neighbours change often and have simple keys, so their
//! changes are taken as told.
//!
//! A million routes take seconds to read, in which links and neighbours change
//! and packets wait for them. So routes have a thread of their own, and a
//! [`Fib`] in which something else changed has the routes of the one before.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_dataplane::address::to_ip;
use blixt_dataplane::{Fib, Neighbour, Route};
use futures_util::TryStreamExt;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourMessage, NeighbourState};
use rtnetlink::{Error, Handle, MulticastGroup};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::connection::{Connection, RETRY, on_a_thread};
use super::routes::{self, FollowedRoutes};
use super::{Attachments, State, View, fib, messages};

/// What is followed.
const GROUPS: [MulticastGroup; 4] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
];

/// How long changes are gathered: one `ip` command makes several.
const GATHER: Duration = Duration::from_millis(2);

/// Reading the kernel's tables and making a [`Fib`] may take one sixth of the
/// time each: after one that took so long, five times as long is
/// waited. That matters only with some 1,000 links or neighbours and more.
const REST: u32 = 5;

/// Packets wait for neighbours, and how long it took may be due to others.
const LONGEST_REST: Duration = Duration::from_millis(50);

/// How often stale neighbours are looked for, and how many are confirmed each
/// time.
const REFRESH: Duration = Duration::from_secs(1);
const REFRESHED_AT_ONCE: usize = 64;

/// Requests to resolve that may wait. A worker asks again.
const MOST_WAITING: usize = 1_024;

/// The kernel's state, followed by a thread.
#[derive(Debug)]
pub struct Mirror {
    /// Devices and addresses; changes when they do.
    pub view: watch::Receiver<Arc<View>>,
    /// Has neighbours resolved.
    pub resolver: Resolver,
}

/// Has the kernel resolve neighbours.
#[derive(Debug, Clone)]
pub struct Resolver(mpsc::Sender<Neighbour>);

impl Resolver {
    /// Asks for one. Too many at once are forgotten.
    pub fn resolve(&self, neighbour: Neighbour) {
        // A full queue: whoever waits for the neighbour asks again.
        let _ = self.0.try_send(neighbour);
    }
}

/// Whom the mirror gives what it makes.
pub trait Publish: Send + 'static {
    /// Takes the newest.
    fn publish(&self, fib: Fib);

    /// Frees those before it that nobody looks at any more. It is asked to now
    /// and then, by the thread that publishes.
    fn reclaim(&self);
}

impl Mirror {
    /// Begins to follow, in threads of its own. Returns when everything has
    /// been read once and the first [`Fib`] is published. It ends when nobody
    /// can tell it of attachments any more.
    pub async fn start(
        attachments: watch::Receiver<Attachments>,
        publish: impl Publish,
    ) -> Result<Self, MirrorError> {
        let (sender, requests) = mpsc::channel(MOST_WAITING);
        let (views, view) = watch::channel(Arc::new(View::default()));
        let (tells, started) = oneshot::channel();
        on_a_thread("blixt-mirror", async move {
            match Task::begin(attachments, requests, views, publish).await {
                Ok((task, connection)) => {
                    if tells.send(Ok(())).is_ok() {
                        task.run(Some(connection)).await;
                    }
                }
                Err(error) => drop(tells.send(Err(error))),
            }
        })?;
        started.await.map_err(io::Error::other)??;
        Ok(Self { view, resolver: Resolver(sender) })
    }
}

/// Why the kernel's state is not known.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// There is no netlink socket.
    #[error("the kernel gives no netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel does not tell.
    #[error("the kernel does not tell its routes and neighbours: {0}")]
    Request(#[from] Error),
}

/// The devices and routes as they are now, for what has to be known before
/// anything is followed.
pub async fn look() -> Result<(View, Vec<Route>), MirrorError> {
    let connection = Connection::open(&[])?;
    let view = view(&connection.handle).await?;
    Ok((view, routes::read(connection.handle).await?))
}

/// What has to be read anew.
#[derive(Debug, Clone, Copy, Default)]
struct Stale {
    view: bool,
    neighbours: bool,
}

impl Stale {
    const ALL: Self = Self { view: true, neighbours: true };

    fn any(self) -> bool {
        self.view || self.neighbours
    }
}

struct Task<P> {
    attachments: watch::Receiver<Attachments>,
    requests: mpsc::Receiver<Neighbour>,
    views: watch::Sender<Arc<View>>,
    routes: FollowedRoutes,
    publish: P,
    state: State,
    stale: Stale,
    next_read: Instant,
    next_fib: Instant,
    /// Whether anything changed since the last [`Fib`].
    changed: bool,
}

impl<P: Publish> Task<P> {
    async fn begin(
        attachments: watch::Receiver<Attachments>,
        requests: mpsc::Receiver<Neighbour>,
        views: watch::Sender<Arc<View>>,
        publish: P,
    ) -> Result<(Self, Connection), MirrorError> {
        // First: what changes from here on is told.
        let connection = Connection::open(&GROUPS)?;
        let routes = FollowedRoutes::start().await?;
        let (state, stale, now) = (State::default(), Stale::ALL, Instant::now());
        let mut task = Self {
            attachments,
            requests,
            views,
            routes,
            publish,
            state,
            stale,
            next_read: now,
            next_fib: now,
            changed: false,
        };
        task.read(&connection.handle).await?;
        task.publish();
        Ok((task, connection))
    }

    /// Follows for as long as anybody wants to know, over as many connections
    /// as it takes.
    async fn run(mut self, mut connection: Option<Connection>) {
        loop {
            if let Some(connection) = connection.take() {
                match self.follow(connection).await {
                    Ok(()) => return,
                    Err(why) => warn!("{why}; asking again, with the last known routes meanwhile"),
                }
                self.all_is_stale();
            }
            sleep(RETRY).await;
            match Connection::open(&GROUPS) {
                Ok(next) => connection = Some(next),
                Err(error) => debug!("no netlink socket: {error}"),
            }
        }
    }

    /// Follows one connection until it fails; `Ok` when nobody listens.
    async fn follow(&mut self, mut connection: Connection) -> Result<(), String> {
        let mut ticks = interval(REFRESH);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let read_at = tokio::time::Instant::from_std(self.next_read);
            let fib_at = tokio::time::Instant::from_std(self.next_fib);
            tokio::select! {
                event = connection.event() => {
                    self.note(event.ok_or("the netlink socket failed")?);
                    sleep(GATHER).await;
                    while let Some(event) = connection.another() {
                        self.note(event);
                    }
                }
                () = self.routes.changed() => self.changed = true,
                () = sleep_until(fib_at), if self.changed => self.publish(),
                () = sleep_until(read_at), if self.stale.any() => {
                    self.read(&connection.handle).await.map_err(|error| error.to_string())?;
                }
                changed = self.attachments.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.publish();
                }
                neighbour = self.requests.recv() => match neighbour {
                    Some(neighbour) => use_neighbour(&connection.handle, neighbour).await,
                    None => return Ok(()),
                },
                _ = ticks.tick() => {
                    self.publish.reclaim();
                    self.confirm(&connection.handle).await;
                }
            }
        }
    }

    /// Takes in what the kernel tells.
    fn note(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) {
        match message.payload {
            // What was told is lost: see `ENOBUFS` in netlink(7).
            NetlinkPayload::Overrun(_) => {
                info!("the kernel tells changes faster than they are read: reading all anew");
                self.all_is_stale();
            }
            NetlinkPayload::InnerMessage(inner) => match inner {
                RouteNetlinkMessage::NewLink(_)
                | RouteNetlinkMessage::DelLink(_)
                | RouteNetlinkMessage::NewAddress(_)
                | RouteNetlinkMessage::DelAddress(_) => {
                    self.stale.view = true;
                    // Some routes go with their device and are not told
                    // (IPv4, `fib_sync_down_dev` in net/ipv4/fib_semantics.c).
                    self.routes.read_anew();
                }
                RouteNetlinkMessage::NewNeighbour(message) => self.note_neighbour(&message, true),
                RouteNetlinkMessage::DelNeighbour(message) => self.note_neighbour(&message, false),
                _ => {}
            },
            _ => {}
        }
    }

    fn note_neighbour(&mut self, message: &NeighbourMessage, exists: bool) {
        let Some((neighbour, entry)) = messages::neighbour(message) else { return };
        let before = self.state.neighbours.get(&neighbour).map(|entry| entry.mac);
        let entry = entry.filter(|_| exists);
        match entry {
            Some(entry) => self.state.neighbours.insert(neighbour, entry),
            None => self.state.neighbours.remove(&neighbour),
        };
        self.changed |= before != entry.map(|entry| entry.mac);
    }

    fn all_is_stale(&mut self) {
        self.stale = Stale::ALL;
        self.routes.read_anew();
    }

    /// Reads anew what is stale: all of it is little.
    async fn read(&mut self, handle: &Handle) -> Result<(), Error> {
        let begin = Instant::now();
        let stale = std::mem::take(&mut self.stale);
        if stale.neighbours {
            let read = neighbours(handle).await?;
            self.changed |= read != self.state.neighbours;
            self.state.neighbours = read;
        }
        if stale.view {
            let read = view(handle).await?;
            self.changed |= read != self.state.view;
            self.state.view = read;
        }
        self.next_read = Instant::now() + begin.elapsed() * REST;
        Ok(())
    }

    fn publish(&mut self) {
        let begin = Instant::now();
        self.changed = false;
        self.state.routes = self.routes.newest();
        self.publish.publish(fib::build(&self.state, &self.attachments.borrow_and_update()));
        self.next_fib = Instant::now() + (begin.elapsed() * REST).min(LONGEST_REST);
        self.views.send_if_modified(|view| {
            let changed = **view != self.state.view;
            if changed {
                *view = Arc::new(self.state.view.clone());
            }
            changed
        });
    }

    /// Has stale neighbours confirmed that packets may leave to: the kernel
    /// sees none of these packets, so it would trust an old MAC address for
    /// ever, or forget it.
    async fn confirm(&mut self, handle: &Handle) {
        let attached: Vec<_> = {
            let attachments = self.attachments.borrow();
            fib::devices_over(&self.state.view, &attachments)
        };
        let stale: Vec<_> = self
            .state
            .neighbours
            .iter_mut()
            .filter(|(neighbour, entry)| entry.stale && attached.contains(&neighbour.ifindex))
            .take(REFRESHED_AT_ONCE)
            .map(|(neighbour, entry)| {
                // Once for each time that it becomes stale.
                entry.stale = false;
                *neighbour
            })
            .collect();
        for neighbour in stale {
            use_neighbour(handle, neighbour).await;
        }
    }
}

/// Tells the kernel that a neighbour is in use, as if we had sent a packet to
/// it: an unknown one is resolved, a stale one is probed (`NTF_USE`;
/// `neigh_add` in net/core/neighbour.c).
async fn use_neighbour(handle: &Handle, neighbour: Neighbour) {
    let address = to_ip(neighbour.address);
    let request = handle
        .neighbours()
        .add(neighbour.ifindex, address)
        .state(NeighbourState::None)
        .flags(NeighbourFlags::Use)
        .replace();
    if let Err(error) = request.execute().await {
        debug!("neighbour {address} on interface number {}: {error}", neighbour.ifindex);
    }
}

async fn view(handle: &Handle) -> Result<View, Error> {
    let mut view = View::default();
    let mut links = handle.link().get().execute();
    while let Some(message) = links.try_next().await? {
        if let Some(device) = messages::device(&message) {
            view.devices.insert(device.ifindex, device);
        }
    }
    let mut addresses = handle.address().get().execute();
    while let Some(message) = addresses.try_next().await? {
        view.addresses.extend(messages::own_address(&message));
    }
    Ok(view)
}

async fn neighbours(handle: &Handle) -> Result<BTreeMap<Neighbour, super::NeighbourEntry>, Error> {
    let mut neighbours = BTreeMap::new();
    let mut answers = handle.neighbours().get().execute();
    while let Some(message) = answers.try_next().await? {
        if let Some((neighbour, Some(entry))) = messages::neighbour(&message) {
            neighbours.insert(neighbour, entry);
        }
    }
    Ok(neighbours)
}
