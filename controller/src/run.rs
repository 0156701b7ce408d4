//! The loop: changes in, a compilation, writes out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_gateway::apis::Time;
use blixt_gateway::{Compiled, CrdVersion, Programming};
use futures_util::{StreamExt, stream};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client, ResourceExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tracing::{debug, error, info, warn};

use crate::flags::Flags;
use crate::http::{self, HttpError, Shown};
use crate::leader;
use crate::metrics::Metrics;
use crate::status::{self, Write};
use crate::watch::{self as watches, Change};
use crate::world::World;

/// How long changes are gathered: one `kubectl apply` makes many.
const GATHER: Duration = Duration::from_millis(20);

/// How many writes are under way at once.
const AT_ONCE: usize = 8;

/// When what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often is looked which CRDs the cluster has.
const LOOK_AT_CRDS: Duration = Duration::from_secs(60);

/// The CRD whose version stands for all of Gateway API's, and where it says
/// so (Gateway API, "Versioning").
const CRD: &str = "gateways.gateway.networking.k8s.io";
const BUNDLE_VERSION: &str = "gateway.networking.k8s.io/bundle-version";
const KNOWN_BUNDLE: &str = "v1.6.";

/// Why the controller ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Nothing says where the API server is.
    #[error(
        "nothing says where the API server is ({0}): run it in a pod with a service account, or set \
         KUBECONFIG"
    )]
    Config(#[source] kube::config::InferConfigError),
    /// What it says makes no client.
    #[error("the API server can't be spoken to: {0}")]
    Client(#[source] kube::Error),
    /// The address for HTTP is not to be had.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The kernel gives no signals.
    #[error("signals can't be waited for: {0}")]
    Signals(#[source] std::io::Error),
}

/// Runs until it is told to end.
pub async fn run(flags: Flags) -> Result<(), RunError> {
    let config = kube::Config::infer().await.map_err(RunError::Config)?;
    let client = Client::try_from(config).map_err(RunError::Client)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let metrics = Metrics::default();
    let (awaited, shown) = watch::channel(Vec::new());
    let world = World::new();
    tell_awaited(&world, &awaited);
    http::serve(flags.http, Shown { registry: metrics.registry(), awaited: shown }).await?;
    info!(version = env!("CARGO_PKG_VERSION"), identity = flags.identity, "starting");

    let (sender, changes) = mpsc::unbounded_channel();
    watches::begin(&client, &sender);
    let leads = leader::run(client.clone(), flags.namespace, flags.identity);
    let looping = Loop {
        client,
        world,
        metrics,
        awaited,
        crds: CrdVersion::Supported,
        writing: None,
        again: None,
        sender,
    };
    tokio::select! {
        () = looping.run(changes, leads) => {}
        _ = terminate.recv() => info!("told to end"),
        _ = interrupt.recv() => info!("told to end"),
    }
    // The lease is given back by its task, which sees that nobody listens.
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(())
}

fn tell_awaited(world: &World, awaited: &watch::Sender<Vec<String>>) {
    let kinds: Vec<_> = world.awaited().map(|kind| kind.to_string()).collect();
    awaited.send_if_modified(|shown| {
        let changed = *shown != kinds;
        *shown = kinds;
        changed
    });
}

struct Loop {
    client: Client,
    world: World,
    metrics: Metrics,
    awaited: watch::Sender<Vec<String>>,
    crds: CrdVersion,
    /// Writes under way; whether all went well comes out.
    writing: Option<JoinHandle<bool>>,
    /// When it has to be looked again, though nothing may change.
    again: Option<Instant>,
    /// What was written comes back here, before the watch tells of it.
    sender: UnboundedSender<Change>,
}

impl Loop {
    async fn run(
        mut self,
        mut changes: UnboundedReceiver<Change>,
        mut leads: watch::Receiver<bool>,
    ) {
        let mut crds = interval(LOOK_AT_CRDS);
        crds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let far = Instant::now() + Duration::from_secs(3_600);
            let due = self.again.unwrap_or(far);
            tokio::select! {
                change = changes.recv() => {
                    let Some(change) = change else { return };
                    self.take(change);
                }
                changed = leads.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.metrics.leads.set(i64::from(*leads.borrow_and_update()));
                    self.look_again(Duration::ZERO);
                }
                wrote = finished(&mut self.writing) => {
                    self.writing = None;
                    self.look_again(if wrote { Duration::ZERO } else { RETRY });
                }
                _ = crds.tick() => self.look_at_crds().await,
                () = sleep_until(due.into()), if self.again.is_some() && self.writing.is_none() => {
                    self.again = None;
                    // Whatever else has come belongs to it.
                    while let Ok(change) = changes.try_recv() {
                        self.world.apply(change);
                    }
                    tell_awaited(&self.world, &self.awaited);
                    self.compile(*leads.borrow());
                }
            }
        }
    }

    fn take(&mut self, change: Change) {
        if self.world.apply(change) {
            self.look_again(GATHER);
        }
    }

    fn look_again(&mut self, wait: Duration) {
        let at = Instant::now() + wait;
        self.again = Some(self.again.map_or(at, |again| again.min(at)));
    }

    fn compile(&mut self, leads: bool) {
        // With half of the objects half of the routes would be wrong.
        if !self.world.is_complete() {
            return;
        }
        let begin = Instant::now();
        // No agent has said anything yet.
        let compiled = self.world.compile(self.crds.clone(), &|_| Programming::Pending);
        self.metrics.compilations.inc();
        self.metrics.compile_seconds.set(begin.elapsed().as_secs_f64());
        self.metrics.objects.set(i64::try_from(self.world.objects().len()).unwrap_or(i64::MAX));
        match compiled {
            Ok(compiled) if leads => self.write(&compiled),
            Ok(_) => {}
            Err(fault) => error!("the objects do not compile, please report this: {fault}"),
        }
    }

    fn write(&mut self, compiled: &Compiled) {
        let due = status::due(self.world.objects(), compiled, &Time(Timestamp::now()));
        if due.is_empty() {
            return;
        }
        debug!("{} writes are due", due.len());
        let (client, metrics) = (self.client.clone(), self.metrics.clone());
        let sender = self.sender.clone();
        self.writing = Some(tokio::spawn(send_all(client, metrics, sender, due)));
    }

    async fn look_at_crds(&mut self) {
        let api = Api::<CustomResourceDefinition>::all(self.client.clone());
        let found = match api.get_opt(CRD).await {
            Ok(Some(crd)) => crd.annotations().get(BUNDLE_VERSION).cloned(),
            Ok(None) => {
                warn!("the CRDs of Gateway API are not installed: install v1.6, standard channel");
                return;
            }
            Err(error) => {
                debug!("the version of Gateway API's CRDs can't be looked up: {error}");
                return;
            }
        };
        let crds = match found {
            Some(version) if version.starts_with(KNOWN_BUNDLE) => CrdVersion::Supported,
            Some(version) => CrdVersion::Unsupported { found: format!("Gateway API {version}") },
            None => CrdVersion::Unsupported { found: "no version that is told".to_owned() },
        };
        if crds != self.crds {
            if let CrdVersion::Unsupported { found } = &crds {
                warn!("the CRDs are of {found}: v1.6 is supported");
            }
            self.crds = crds;
            self.look_again(Duration::ZERO);
        }
    }
}

/// Waits for the writes, if there are any.
async fn finished(writing: &mut Option<JoinHandle<bool>>) -> bool {
    match writing {
        Some(task) => task.await.unwrap_or(false),
        None => std::future::pending().await,
    }
}

/// Sends all writes; `false` if one has to be tried again.
async fn send_all(
    client: Client,
    metrics: Metrics,
    sender: UnboundedSender<Change>,
    due: Vec<Write>,
) -> bool {
    let client = Arc::new(client);
    let sent = stream::iter(due).map(|write| {
        let client = Arc::clone(&client);
        async move { (write.key(), write.before(), write.send(&client).await) }
    });
    let mut sent = sent.buffer_unordered(AT_ONCE);
    let mut all_went_well = true;
    while let Some((key, before, outcome)) = sent.next().await {
        match outcome {
            Ok(object) => {
                metrics.wrote("written");
                // Nobody listens any more only at the end.
                let _ = sender.send(Change::Wrote { before, object });
            }
            Err(kube::Error::Api(status)) if status.code == 409 => metrics.wrote("outdated"),
            Err(kube::Error::Api(status)) if status.code == 404 => metrics.wrote("gone"),
            Err(error) => {
                metrics.wrote("failed");
                warn!("the status of {key} can't be written: {error}; trying again");
                all_went_well = false;
            }
        }
    }
    all_went_well
}
