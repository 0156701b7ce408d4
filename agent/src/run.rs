//! From settings to a running agent, and back to nothing.
//!
//! The order is the point: everything that can be refused is tried before
//! traffic is touched; sockets are bound before addresses are ours; and at
//! the end addresses go first.

use std::future::Future;
use std::io::{self, Read};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use axum::Router;
use blixt_afxdp::Sizes;
use blixt_afxdp::nic::NicError;
use blixt_dataplane::{CompileOptions, Fib, PipelineConfig, WorkerId};
use blixt_scrape::{Door, SecureError};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::attempt::{self, Attempt};
use crate::configured::Field;
use crate::control::Control;
use crate::flags::{HostPathMode, Settings, Source, XdpMode};
use crate::hostpath::{HOST_STATION, HostPath, OUR_END, OUR_STATION};
use crate::http::{self, HttpError};
use crate::interfaces::{AttachError, ChoiceError, Links, Means};
use crate::kernel::{Attachments, HostEnd, Mirror, MirrorError, Publish, Resolver};
use crate::local::{self, SocketError};
use crate::manifests::{self, Objects, WatchError};
use crate::memory::{Memory, MemoryError};
use crate::offloads::{Offloads, StateDirError};
use crate::preflight::{self, Lack};
use crate::settle::{self, Settled, settle};
use crate::state::{ControlState, HostPathState, State, WorkerState};
use crate::streams::{Room, Running, StreamServer};
use crate::sync::{self, Pushed, Sync};
use crate::tables::TablesWriter;
use crate::wanted;
use crate::worker::{
    Command, Event, HoldLimits, Published, SpawnError, WorkerConfig, WorkerHandle, spawn,
};
use crate::xdp::{Addresses, Capacities, Mode, Xdp, XdpError};

/// How long workers may take to end.
const STOPPING: Duration = Duration::from_secs(5);

/// How long requests that are being served at the end may take.
const SERVING: Duration = Duration::from_secs(1);

/// Why the agent does not run (any more).
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The node lacks something.
    #[error(transparent)]
    Lack(#[from] Lack),
    /// XDP does not go.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// There is too little memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// There is no interface to attach to.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// An interface can't be asked.
    #[error(transparent)]
    Nic(#[from] NicError),
    /// An interface can't be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The kernel does not tell its routes.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// The manifests can't be watched.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// There is no place for state.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// HTTP can't be served.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Metrics can't be served to scrapers.
    #[error(transparent)]
    Secure(#[from] SecureError),
    /// The local API can't be served.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A worker can't start.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// A worker ended by itself.
    #[error("worker {0} ended unexpectedly: the agent stops, so that it can be started anew")]
    WorkerEnded(u16),
    /// The system refuses something elementary.
    #[error("the system refuses {what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

/// Runs until a signal says to stop.
pub async fn run(settings: Settings) -> Result<(), RunError> {
    let stop = stop_signal()?;
    if let Source::Manifests(path) = &settings.source {
        preflight::check_manifests(path)?;
    }
    // Before files are opened, so that too few of them are called so.
    let by_flags = settle::by_flags(&settings).await;
    if let Err(lack @ RunError::Lack(_)) = by_flags {
        return Err(lack);
    }
    let files = match &settings.source {
        Source::Manifests(path) => Opening::Files(manifests::objects(manifests::watch(path)?)?),
        Source::Controller(controller) => {
            Opening::Controller(controller.clone(), sync::kept(&settings.state_dir).map(Box::new))
        }
    };
    let wanted = match &files {
        Opening::Files(files) => wanted::settings(&files.first),
        Opening::Controller(_, kept) => {
            kept.as_ref().map(|wish| wish.snapshot.settings().clone()).unwrap_or_default()
        }
    };
    let failed = attempt::failed(&settings.state_dir, &wanted);
    let Settled { settings, sizes, mtu, memory } =
        settle(&settings, by_flags, &wanted, failed).await?;
    let offloads = Offloads::open(&settings.state_dir)?;
    let (xdp, addresses) = Xdp::load(Capacities::default())?;
    let http = http::bind(settings.http).await?;
    let door = Door::open(&settings.secure).await?;
    let (socket, socket_file) = local::bind(&settings.socket)?;
    let host = start_host_path(&settings, mtu).await;
    let prepared = Prepared {
        stop,
        source: files,
        wanted: if failed { blixt_model::Settings::default() } else { wanted },
        offloads,
        sizes,
        memory,
        xdp,
        addresses,
        http,
        door,
        socket,
        host: host.clone(),
    };
    let ended = serve(settings, prepared).await;
    if let Some(host) = host {
        host.remove().await;
    }
    drop(socket_file);
    info!("stopped");
    ended
}

/// What there is before workers start.
struct Prepared {
    stop: watch::Receiver<bool>,
    source: Opening,
    /// What a GatewayConfig says, as far as it is tried.
    wanted: blixt_model::Settings,
    offloads: Offloads,
    sizes: Sizes,
    memory: Memory,
    xdp: Xdp,
    addresses: Addresses,
    http: TcpListener,
    door: Option<Door>,
    socket: UnixListener,
    host: Option<Arc<HostPath>>,
}

/// Runs from there on, until a signal says to stop.
async fn serve(settings: Settings, prepared: Prepared) -> Result<(), RunError> {
    let Prepared {
        stop,
        source,
        wanted,
        offloads,
        sizes,
        memory,
        xdp,
        addresses,
        http,
        door,
        socket,
        host,
    } = prepared;
    let mut attempt = Some(Attempt::begin(&settings.state_dir, &wanted));
    let count = usize::from(settings.workers);
    let published = Published::with_room_for(count, count * settings.flow_capacity);
    let published = Arc::new(published);
    let (events, unasked) = mpsc::unbounded_channel();
    let workers = Arc::new(start_workers(&settings, sizes, &published, &events)?);
    let slots = settings.interfaces.len() + usize::from(host.is_some());
    let (attachments, attached) = watch::channel(Attachments { slots, ..Attachments::default() });
    let mirror = start_mirror(attached, &published, &workers).await?;
    let asked = resolve_at_once(unasked, mirror.resolver.clone());
    preflight::check_snat(&settings, &mirror.view.borrow().own_addresses())?;

    let options = CompileOptions {
        maglev: settings.maglev,
        snat_addresses: settings.snat_addresses.clone(),
        host_addresses: host.as_ref().map(|host| host.addresses().both()).unwrap_or_default(),
        ..CompileOptions::default()
    };
    let node = settings.node_name.clone().unwrap_or_else(preflight::node_name);
    let tables = TablesWriter::new(Arc::clone(&published), options, node);
    let room = Room::with_ports(addresses.room_for_streams());
    let streams = StreamServer::start(Arc::clone(&published), settings.interfaces.clone(), room);
    let state = State {
        streams: streams.running(),
        ..state(&settings, memory, &workers, &published, &tables, host.as_deref())
    };
    let state = Arc::new(state);
    let mut servers = Servers::start(http, socket, &state, &workers);
    info!(
        version = env!("CARGO_PKG_VERSION"),
        source = %settings.source,
        http = %settings.http,
        socket = %settings.socket.display(),
        "starting"
    );
    info!(bytes = memory.total(), "has taken {memory}");

    let mode = match settings.xdp_mode {
        XdpMode::Auto => Mode::Auto,
        XdpMode::Native => Mode::Native,
        XdpMode::Generic => Mode::Generic,
    };
    let means = Means {
        mode,
        frames: sizes.frame_bytes,
        may_fail: settings.are_told(Field::Interfaces),
        xdp,
        offloads,
        attachments,
        published,
        workers: Arc::clone(&workers),
        host: host.as_ref().map(|host| HostEnd {
            stations: [HOST_STATION, OUR_STATION],
            flows_per_worker: host.flows_per_worker(),
        }),
    };
    let mut interfaces = settings.interfaces.clone();
    // The last, so that the others' numbers are as the flags have them.
    interfaces.extend(host.is_some().then(|| OUR_END.to_owned()));
    let source = match source {
        Opening::Files(objects) => Opened::Files(objects),
        Opening::Controller(controller, kept) => {
            let sync = Sync::start(&controller, &settings.state_dir, kept.map(|kept| *kept));
            Opened::Controller(Pushed::new(sync))
        }
    };
    if let (Some(door), Opened::Controller(pushed)) = (door, &source) {
        servers.open(door, pushed.sync(), &state);
    }
    let links = Links::start(&interfaces, means, mirror.view.clone())
        .map_err(|source| RunError::System { what: "a thread for the interfaces", source })?;
    let workers_too = Arc::clone(&workers);
    let mut control =
        Control::new(settings, links, addresses, tables, workers_too, mirror, state, host, streams);
    let served = async {
        let changes = match source {
            Opened::Files(objects) => {
                control.start(objects.first).await?;
                Some(objects.changes)
            }
            Opened::Controller(pushed) => {
                control.start_from(pushed).await?;
                None
            }
        };
        attempt.take().into_iter().for_each(Attempt::end);
        control.run(changes, asked).await
    };
    let ended = tokio::select! {
        biased;
        // Wherever it is: a signal waits for no interface.
        () = until(stop) => Ok(()),
        ended = served => ended,
    };
    if ended.is_ok() {
        attempt.take().into_iter().for_each(Attempt::end);
    }
    control.stop().await;
    drop(control);
    stop_workers(&workers).await;
    servers.stop().await;
    ended
}

/// Makes the way through the node's kernel, if it is wanted. What is wrong with
/// it keeps nobody from starting.
async fn start_host_path(settings: &Settings, mtu: u32) -> Option<Arc<HostPath>> {
    if settings.host_path == HostPathMode::Off {
        return None;
    }
    match HostPath::start(settings.workers, mtu).await {
        Ok(host) => Some(Arc::new(host)),
        Err(error) => {
            warn!("there is no host path, since the kernel does not answer: {error}");
            None
        }
    }
}

/// Where is told what is wanted.
enum Opening {
    Files(Objects),
    /// With what was wanted of the last agent.
    Controller(sync::Settings, Option<Box<sync::Wish>>),
}

/// The same, from now on.
enum Opened {
    Files(Objects),
    Controller(Pushed),
}

/// Becomes true when SIGTERM, SIGINT, or SIGHUP of a closed terminal comes.
fn stop_signal() -> Result<watch::Receiver<bool>, RunError> {
    let refused = |source| RunError::System { what: "signal handlers", source };
    let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(refused)?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
        sender.send_replace(true);
        // A second signal must not kill an agent that is putting things back.
        std::future::pending::<()>().await;
    });
    Ok(receiver)
}

fn start_workers(
    settings: &Settings,
    sizes: Sizes,
    published: &Arc<Published>,
    events: &mpsc::UnboundedSender<Event>,
) -> Result<Vec<WorkerHandle>, RunError> {
    let refused = |source| RunError::System { what: "random numbers", source };
    let hash_key = hash_key().map_err(refused)?;
    (0..settings.workers)
        .map(|id| {
            let config = WorkerConfig {
                id: WorkerId(id),
                core: core(id),
                pipeline: PipelineConfig {
                    worker: WorkerId(id),
                    flow_capacity: settings.flow_capacity,
                    snat_ports: settings.snat_ports.clone(),
                    hash_key,
                    timeouts: settings.timeouts,
                    limits: blixt_dataplane::Limits::default(),
                },
                sizes,
                hold: HoldLimits::for_frames(sizes.frames),
                spin: settings.spin,
            };
            Ok(spawn(config, Arc::clone(published), events.clone())?)
        })
        .collect()
}

/// The cores from the last one down: interrupts mostly come in on the first.
fn core(worker: u16) -> Option<usize> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    // With a single one there is nothing to choose.
    if cores.len() < 2 {
        return None;
    }
    cores.iter().rev().nth(usize::from(worker) % cores.len()).map(|core| core.id)
}

/// Secret, so that nobody can choose flows that fall on one place.
fn hash_key() -> io::Result<[u64; 2]> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let number = u128::from_ne_bytes(bytes);
    Ok([number as u64, (number >> 64) as u64])
}

async fn start_mirror(
    attached: watch::Receiver<Attachments>,
    published: &Arc<Published>,
    workers: &Arc<Vec<WorkerHandle>>,
) -> Result<Mirror, MirrorError> {
    let published = Arc::clone(published);
    // Not to keep them alive: they end before the mirror may.
    let workers = Arc::downgrade(workers);
    Mirror::start(attached, Fibs { published, workers }).await
}

/// Where the mirror's thread publishes what it makes.
struct Fibs {
    published: Arc<Published>,
    workers: Weak<Vec<WorkerHandle>>,
}

impl Publish for Fibs {
    fn publish(&self, fib: Fib) {
        self.published.fib.publish(fib);
        for worker in self.workers.upgrade().iter().flat_map(|workers| workers.iter()) {
            worker.wake();
        }
    }

    fn reclaim(&self) {
        self.published.fib.reclaim();
    }
}

/// Has neighbours resolved whatever the control thread waits for, since
/// packets are held for them: what remains of the events is for that thread.
fn resolve_at_once(
    mut events: mpsc::UnboundedReceiver<Event>,
    resolver: Resolver,
) -> mpsc::UnboundedReceiver<Event> {
    let (sender, others) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            let other = match event {
                Event::Unresolved(neighbour) => {
                    resolver.resolve(neighbour);
                    continue;
                }
                other => other,
            };
            if sender.send(other).is_err() {
                return;
            }
        }
    });
    others
}

fn state(
    settings: &Settings,
    memory: Memory,
    workers: &[WorkerHandle],
    published: &Arc<Published>,
    tables: &TablesWriter,
    host: Option<&HostPath>,
) -> State {
    let starting =
        ControlState { not_ready: vec!["the agent is starting".into()], ..ControlState::default() };
    State {
        started_at: SystemTime::now(),
        started: Instant::now(),
        source: settings.source.to_string(),
        snat_ports: settings.snat_ports.clone(),
        flow_capacity: settings.flow_capacity,
        host_path: host.map(|host| HostPathState {
            addresses: host.addresses(),
            flow_limit: host.flows_per_worker() * usize::from(settings.workers),
        }),
        memory,
        workers: workers
            .iter()
            .map(|worker| WorkerState {
                core: core(worker.id().0),
                status: Arc::clone(worker.status()),
            })
            .collect(),
        published: Arc::clone(published),
        applied: tables.applied(),
        streams: Running::default(),
        control: ArcSwap::from_pointee(starting),
    }
}

async fn stop_workers(workers: &[WorkerHandle]) {
    for worker in workers {
        worker.send(Command::Stop);
    }
    let begin = Instant::now();
    for worker in workers {
        while !worker.is_finished() && begin.elapsed() < STOPPING {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let id = worker.id().0;
        if !worker.is_finished() {
            warn!("worker {id} does not stop; it ends with the process");
            continue;
        }
        let frames = worker.status().frames();
        let (born, home) = (frames.born, frames.home);
        if born == home {
            info!(worker = id, frames = born, "all frames are home");
        } else {
            warn!("worker {id} lost {} of {born} frames, please report this", born.abs_diff(home));
        }
    }
}

/// The servers, in tasks of their own.
struct Servers {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<io::Result<()>>>,
}

impl Servers {
    fn start(
        http: TcpListener,
        socket: UnixListener,
        state: &Arc<State>,
        workers: &Arc<Vec<WorkerHandle>>,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let http_router: Router = http::router(Arc::clone(state));
        let local_router: Router = local::router(Arc::clone(state), Arc::clone(workers));
        let http_stop = until(stopped.clone());
        let local_stop = until(stopped);
        let tasks = vec![
            tokio::spawn(async move {
                axum::serve(http, http_router).with_graceful_shutdown(http_stop).await
            }),
            tokio::spawn(async move {
                axum::serve(socket, local_router).with_graceful_shutdown(local_stop).await
            }),
        ];
        Self { stop, tasks }
    }

    /// Serves metrics to scrapers too.
    fn open(&mut self, door: Door, sync: &Sync, state: &Arc<State>) {
        let page = http::page(Arc::clone(state));
        let served = door.serve(sync.certificate(), Arc::new(sync.scrapers.clone()), page);
        let stopped = until(self.stop.subscribe());
        self.tasks.push(tokio::spawn(async {
            tokio::select! {
                served = served => served.map_err(io::Error::other),
                () = stopped => Ok(()),
            }
        }));
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            let abort = task.abort_handle();
            if timeout(SERVING, task).await.is_err() {
                abort.abort();
            }
        }
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error: nobody is left who could say so.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Runs a future to its end on a runtime of the agent's own.
pub fn block_on<T>(future: impl Future<Output = T>) -> io::Result<T> {
    // The control thread, and two more for netlink and whoever asks.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("blixt-control")
        .enable_all()
        .build()?;
    Ok(runtime.block_on(future))
}
