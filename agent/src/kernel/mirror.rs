//! The task that follows netlink.
//!
//! Links, addresses and routes are read anew whenever the kernel says that
//! one of them changed: what it says of the change itself would need every
//! special case of its tables here. Neighbours change often and have simple
//! keys, so their changes are taken as told.
//!
//! A million routes take seconds to read, in which neighbours change and
//! packets wait for them. So that is done by a task of its own, and a [`Fib`]
//! with other neighbours has the routes of the one before.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_dataplane::address::to_ip;
use blixt_dataplane::{Fib, Neighbour, Routes};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{Error, Handle, MulticastGroup, new_multicast_connection};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::{Attachments, State, View, fib, messages};

/// What is followed.
const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
];

/// How long changes are gathered: one `ip` command makes several.
const GATHER: Duration = Duration::from_millis(2);

/// Reading the kernel's tables and making a [`Fib`] may take one sixth of the
/// time each: after one that took so long, five times as long is
/// waited. That matters only with some 100,000 routes and more.
const REST: u32 = 5;

/// Packets wait for neighbours, and how long it took may be due to others.
const LONGEST_REST: Duration = Duration::from_millis(50);

/// How often stale neighbours are looked for, and how many are confirmed each
/// time.
const REFRESH: Duration = Duration::from_secs(1);
const REFRESHED_AT_ONCE: usize = 64;

/// Requests to resolve that may wait. A worker asks again.
const MOST_WAITING: usize = 1_024;

/// How long until the next try after netlink failed.
const RETRY: Duration = Duration::from_millis(200);

/// The kernel's receive buffer for what it tells: 4 MiB are some 10,000
/// changes. When it is full all is read anew.
const RECEIVE_BYTES: u32 = 4 << 20;

/// The kernel's state, followed by a task.
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

impl Mirror {
    /// Begins to follow, within a tokio runtime. Returns when everything has
    /// been read once and the first [`Fib`] is published.
    pub async fn start(
        attachments: watch::Receiver<Attachments>,
        publish: impl Fn(Fib) + Send + Sync + 'static,
    ) -> Result<Self, MirrorError> {
        let (sender, requests) = mpsc::channel(MOST_WAITING);
        let (views, view) = watch::channel(Arc::new(View::default()));
        let mut task = Task {
            attachments,
            requests,
            views,
            publish,
            state: State::default(),
            stale: Stale::ALL,
            next_dump: Instant::now(),
            next_fib: Instant::now(),
            followed: false,
        };
        let connection = Connection::open()?;
        task.read_neighbours(&connection.handle).await?;
        let read = task.reading(&connection.handle).await?;
        task.take(read);
        tokio::spawn(task.run(Some(connection)));
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

/// What the kernel tells unasked.
type Events = BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>;

struct Connection {
    handle: Handle,
    events: Events,
}

impl Connection {
    fn open() -> io::Result<Self> {
        let (mut connection, handle, events) = new_multicast_connection(&GROUPS)?;
        // Less than that is no reason to give up.
        if let Err(error) = connection.socket_mut().socket_mut().set_rx_buf_sz(RECEIVE_BYTES) {
            debug!("netlink keeps its small receive buffer: {error}");
        }
        tokio::spawn(connection);
        Ok(Self { handle, events: events.map(|(message, _)| message).boxed() })
    }
}

/// What was read anew; `None` is as it was.
struct Read {
    view: Option<View>,
    routes: Option<Arc<Routes>>,
    took: Duration,
}

/// What has to be read anew.
#[derive(Debug, Clone, Copy, Default)]
struct Stale {
    view: bool,
    routes: bool,
    neighbours: bool,
}

impl Stale {
    const ALL: Self = Self { view: true, routes: true, neighbours: true };

    fn any(self) -> bool {
        self.view || self.routes || self.neighbours
    }
}

struct Task<P> {
    attachments: watch::Receiver<Attachments>,
    requests: mpsc::Receiver<Neighbour>,
    views: watch::Sender<Arc<View>>,
    publish: P,
    state: State,
    stale: Stale,
    next_dump: Instant,
    next_fib: Instant,
    /// Whether neighbours changed since the last [`Fib`].
    followed: bool,
}

impl<P: Fn(Fib) + Send + Sync + 'static> Task<P> {
    /// Follows for as long as anybody wants to know, over as many connections
    /// as it takes.
    async fn run(mut self, mut connection: Option<Connection>) {
        loop {
            if let Some(connection) = connection.take() {
                match self.follow(connection).await {
                    Ok(()) => return,
                    Err(why) => warn!("{why}; asking again, with the last known routes meanwhile"),
                }
                self.stale = Stale::ALL;
            }
            sleep(RETRY).await;
            match Connection::open() {
                Ok(next) => connection = Some(next),
                Err(error) => debug!("no netlink socket: {error}"),
            }
        }
    }

    /// Follows one connection until it fails; `Ok` when nobody listens.
    async fn follow(&mut self, mut connection: Connection) -> Result<(), String> {
        // At most one; it ends with this connection. The kernel gives out one
        // table at a time on each (`netlink_dump_start` in
        // net/netlink/af_netlink.c).
        let mut reading = JoinSet::new();
        let mut ticks = interval(REFRESH);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let dump_at = tokio::time::Instant::from_std(self.next_dump);
            let fib_at = tokio::time::Instant::from_std(self.next_fib);
            tokio::select! {
                event = connection.events.next() => {
                    self.note(event.ok_or("the netlink socket failed")?);
                    sleep(GATHER).await;
                    while let Some(Some(event)) = connection.events.next().now_or_never() {
                        self.note(event);
                    }
                }
                () = sleep_until(fib_at), if self.followed => self.publish(),
                () = sleep_until(dump_at), if self.stale.any() && reading.is_empty() => {
                    let read = self.read_neighbours(&connection.handle).await;
                    read.map_err(|error| error.to_string())?;
                    reading.spawn(self.reading(&connection.handle));
                }
                Some(read) = reading.join_next() => {
                    let read = read.map_err(|error| error.to_string())?;
                    self.take(read.map_err(|error| error.to_string())?);
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
                _ = ticks.tick() => self.confirm(&connection.handle).await,
            }
        }
    }

    /// Takes in what the kernel tells.
    fn note(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) {
        match message.payload {
            // What was told is lost: see `ENOBUFS` in netlink(7).
            NetlinkPayload::Overrun(_) => {
                info!("the kernel tells changes faster than they are read: reading all anew");
                self.stale = Stale::ALL;
            }
            NetlinkPayload::InnerMessage(inner) => match inner {
                RouteNetlinkMessage::NewLink(_)
                | RouteNetlinkMessage::DelLink(_)
                | RouteNetlinkMessage::NewAddress(_)
                | RouteNetlinkMessage::DelAddress(_) => {
                    self.stale.view = true;
                    // Some routes go with their device and are not told
                    // (IPv4, `fib_sync_down_dev` in net/ipv4/fib_semantics.c).
                    self.stale.routes = true;
                }
                RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => {
                    self.stale.routes = true;
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
        self.followed |= before != entry.map(|entry| entry.mac);
    }

    /// Reads neighbours anew, if they are stale: they are few.
    async fn read_neighbours(&mut self, handle: &Handle) -> Result<(), Error> {
        if std::mem::take(&mut self.stale.neighbours) {
            let read = neighbours(handle).await?;
            self.followed |= read != self.state.neighbours;
            self.state.neighbours = read;
        }
        Ok(())
    }

    /// Reads anew what else is stale.
    fn reading(
        &mut self,
        handle: &Handle,
    ) -> impl Future<Output = Result<Read, Error>> + Send + use<P> {
        let begin = Instant::now();
        let handle = handle.clone();
        let stale = std::mem::take(&mut self.stale);
        let known = Arc::clone(&self.state.routes);
        async move {
            let view = if stale.view { Some(view(&handle).await?) } else { None };
            let routes = if stale.routes {
                let list = routes(&handle).await?;
                // Others want the runtime's threads.
                let make = move || Some(fib::routes(list)).filter(|routes| *routes != *known);
                spawn_blocking(make).await.ok().flatten().map(Arc::new)
            } else {
                None
            };
            Ok(Read { view, routes, took: begin.elapsed() })
        }
    }

    /// Takes in what was read, and publishes it if it changed.
    fn take(&mut self, read: Read) {
        self.next_dump = Instant::now() + read.took * REST;
        let view = read.view.filter(|view| *view != self.state.view);
        let changed = view.is_some() || read.routes.is_some() || self.followed;
        if let Some(view) = view {
            self.state.view = view;
        }
        if let Some(routes) = read.routes {
            self.state.routes = routes;
        }
        if changed {
            self.publish();
        }
    }

    fn publish(&mut self) {
        let begin = Instant::now();
        self.followed = false;
        (self.publish)(fib::build(&self.state, &self.attachments.borrow_and_update()));
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

async fn routes(handle: &Handle) -> Result<Vec<blixt_dataplane::Route>, Error> {
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
