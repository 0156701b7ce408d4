//! The loop: changes in, a compilation, a snapshot for the agents and, while
//! it leads, writes out.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_gateway::apis::Time;
use blixt_gateway::{Compiled, Kind, ObjectKey};
use blixt_scrape::{Door, SecureError};
use futures_util::{StreamExt, stream};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout};
use tracing::{debug, error, info, warn};

use crate::agents::{Agents, Pushing};
use crate::clients::Clients;
use crate::events::{self, Standing};
use crate::flags::Flags;
use crate::http::{self, HttpError, Shown};
use crate::infrastructure::{self, Wanted};
use crate::metrics::{FAILED, GONE, Metrics, OUTDATED, WRITTEN};
use crate::patience::{Failure, Patience};
use crate::push::{Progress, Push, tell};
use crate::secrets::Secrets;
use crate::status::{self, Write};
use crate::watch::{All, Change, Watches};
use crate::world::{Outcome, World};
use crate::{leader, refusals};

/// How long changes are gathered: one `kubectl apply` makes many.
const GATHER: Duration = Duration::from_millis(20);

/// How many writes are under way at once.
const AT_ONCE: usize = 8;

/// How long the end may take: writes that are under way, and the lease.
const END: Duration = Duration::from_secs(4);

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
    /// Metrics can't be served to scrapers.
    #[error(transparent)]
    Secure(#[from] SecureError),
    /// The address for agents is not to be had.
    #[error("--listen {0} can't be used ({1}): stop what uses it, or give another address")]
    Listen(SocketAddr, #[source] io::Error),
    /// A part of it ended, which none does.
    #[error(
        "a part of the controller ended unexpectedly: it stops, so that it can be started anew"
    )]
    Ended,
    /// The kernel gives no signals.
    #[error("signals can't be waited for: {0}")]
    Signals(#[source] std::io::Error),
}

/// Runs until it is told to end.
pub async fn run(flags: &Flags, identity: String) -> Result<(), RunError> {
    let config = kube::Config::infer().await.map_err(RunError::Config)?;
    let clients = Clients::new(config).map_err(RunError::Client)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let metrics = Metrics::default();
    let (awaited, shown) = watch::channel(Vec::new());
    let world = World::new();
    tell_awaited(&world, &awaited);
    let push = Push::new();
    let mut registry = metrics.registry();
    push.register(&mut registry);
    let shown = Arc::new(Shown { registry, awaited: shown, unserved: push.unserved() });
    http::serve(flags.http, shown.clone()).await?;
    let door = Door::open(&flags.secure).await?;
    let refused = |error| RunError::Listen(flags.listen, error);
    let listener = TcpListener::bind(flags.listen).await.map_err(refused)?;
    info!(version = env!("CARGO_PKG_VERSION"), identity, "starting");

    let (sender, changes) = mpsc::unbounded_channel();
    let watches = Watches::begin(&clients.watching, &sender, &metrics);
    let answered = {
        let push = push.clone();
        move || push.is_in_touch(Instant::now())
    };
    let (leads, mut election) =
        leader::run(clients.asking.clone(), &flags.namespace, &identity, answered);
    let mut pushing = Pushing::begin(push, &clients, flags, &identity, listener, leads.clone());
    if let Some(door) = door {
        pushing.scraped(door, http::page(shown));
    }
    let looping = Loop {
        infrastructure: infrastructure::begin(&clients),
        standing: events::begin(clients.asking.clone(), identity, metrics.clone()),
        client: clients.asking,
        world,
        watches,
        secrets: Secrets::new(&clients.watching, &sender),
        agents: pushing.agents(),
        metrics,
        awaited,
        lead: Lead::No,
        writing: None,
        patience: Patience::default(),
        again: None,
        sender,
    };
    let (stop, stopped) = oneshot::channel();
    let mut looping = tokio::spawn(looping.run(changes, leads, stopped));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        // Half a controller would hold the lease and do nothing with it.
        _ = &mut looping => return Err(RunError::Ended),
        _ = &mut election => return Err(RunError::Ended),
        () = pushing.ended() => return Err(RunError::Ended),
    }
    info!("told to end");
    let end = async {
        let _ = stop.send(());
        let _ = looping.await;
        pushing.end().await;
        // It sees that nobody listens any more, and gives the lease back.
        let _ = election.await;
    };
    if timeout(END, end).await.is_err() {
        warn!("the API server does not answer, so the lease is not given back: it runs out");
    }
    Ok(())
}

fn tell_awaited(world: &World, awaited: &watch::Sender<Vec<String>>) {
    let kinds: Vec<_> = world.awaited().map(|kind| kind.to_string()).collect();
    tell(awaited, kinds);
}

/// Whether we lead, and may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lead {
    No,
    /// The leader before may have given addresses away that we have not heard
    /// of yet: until these lists of where they are kept are there nothing is
    /// written.
    Listing {
        call: u64,
        missing: [Option<Kind>; 2],
    },
    Yes,
}

/// Where the addresses are kept that were given away.
const MEMORY: [Option<Kind>; 2] = [Some(Kind::Gateway), Some(Kind::AddressPool)];

impl Lead {
    /// A list has come that `called` asked for.
    fn after_list(self, kind: Kind, called: u64) -> Self {
        match self {
            Self::Listing { call, missing } if called >= call => {
                let missing = missing.map(|missing| missing.filter(|missing| *missing != kind));
                match missing {
                    [None, None] => Self::Yes,
                    missing => Self::Listing { call, missing },
                }
            }
            other => other,
        }
    }
}

struct Loop {
    client: Client,
    world: World,
    watches: Watches,
    secrets: Secrets,
    agents: Agents,
    metrics: Metrics,
    awaited: watch::Sender<Vec<String>>,
    /// Where refusals are told.
    standing: watch::Sender<Standing>,
    /// Where objects for Gateways are made.
    infrastructure: watch::Sender<Wanted>,
    lead: Lead,
    /// Writes under way; what failed comes out.
    writing: Option<JoinHandle<Vec<Failure>>>,
    patience: Patience,
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
        mut stopped: oneshot::Receiver<()>,
    ) {
        loop {
            let due = self.again.unwrap_or_else(Instant::now);
            tokio::select! {
                // The election does not end before us, nor do the watches.
                Some(change) = changes.recv() => self.take(change),
                Ok(()) = leads.changed() => self.follow_lease(*leads.borrow_and_update()),
                () = self.agents.changed() => self.look_again(Duration::ZERO),
                failed = finished(&mut self.writing) => self.wrote(failed),
                () = sleep_until(due.into()), if self.again.is_some() && self.writing.is_none() => {
                    self.again = None;
                    // Whatever else has come belongs to it.
                    while let Ok(change) = changes.try_recv() {
                        self.take(change);
                    }
                    self.again = None;
                    self.compile();
                }
                _ = &mut stopped => break,
            }
        }
        // Nothing is sent any more once the lease is somebody else's.
        if self.writing.is_some() {
            finished(&mut self.writing).await;
        }
    }

    fn take(&mut self, change: Change) {
        if let (Change::Listed(All::Objects { kind, call, .. }), Lead::Listing { .. }) =
            (&change, &self.lead)
        {
            self.lead = self.lead.after_list(*kind, *call);
            if self.lead == Lead::Yes {
                self.look_again(Duration::ZERO);
            }
        }
        if self.world.apply(change) {
            self.look_again(GATHER);
        }
        tell_awaited(&self.world, &self.awaited);
    }

    fn follow_lease(&mut self, leads: bool) {
        self.metrics.leads.set(i64::from(leads));
        if leads {
            self.lead = Lead::Listing { call: self.watches.list_memory(), missing: MEMORY };
        } else {
            self.lead = Lead::No;
            self.standing.send_replace(None);
            self.infrastructure.send_replace(None);
        }
    }

    fn look_again(&mut self, wait: Duration) {
        self.look_at(Instant::now() + wait);
    }

    fn look_at(&mut self, at: Instant) {
        self.again = Some(self.again.map_or(at, |again| again.min(at)));
    }

    fn compile(&mut self) {
        // With half of the objects half of the routes would be wrong.
        if !self.world.is_complete() {
            return;
        }
        let begin = Instant::now();
        self.secrets.follow(&self.world.want_secrets(begin));
        if let Some(until) = self.world.awaits_secrets(begin) {
            self.look_at(until);
            return;
        }
        let progress = self.progress();
        let Some(mut compiled) = self.compile_once(&progress) else { return };
        if self.agents.publish(&compiled.compiled) {
            // What agents say is of what they were told. Of new endpoints no Gateway
            // says anything.
            let since = self.progress();
            if since != progress
                && let Some(newer) = self.compile_once(&since)
            {
                compiled = newer;
            }
        }
        self.metrics.compilations.inc();
        self.metrics.compile_seconds.set(begin.elapsed().as_secs_f64());
        self.metrics.objects.set(i64::try_from(self.world.objects().len()).unwrap_or(i64::MAX));
        self.metrics.wanted(&compiled.compiled.snapshot);
        if self.lead == Lead::Yes {
            self.tell_refusals(&compiled.compiled);
            let wanted = infrastructure::wanted(self.world.objects(), &compiled.compiled);
            tell(&self.infrastructure, Some(wanted));
            self.write(&compiled, begin);
        }
    }

    /// Asked once for each compilation: it changes all the time.
    fn progress(&self) -> Progress {
        self.agents.programming(self.world.gateways())
    }

    fn compile_once(&self, progress: &Progress) -> Option<Outcome> {
        let outcome = self.world.compile(progress);
        if let Err(fault) = &outcome {
            error!("the objects do not compile, please report this: {fault}");
        }
        outcome.ok()
    }

    fn tell_refusals(&self, compiled: &Compiled) {
        let mut refusals = refusals::all(self.world.index(), compiled);
        refusals.extend(refusals::of_nodes(compiled, &self.agents.refusals()));
        let with_uid = refusals.into_iter().map(|refusal| {
            let uid = self.world.uid(&refusal.object).map(str::to_owned);
            (refusal, uid)
        });
        tell(&self.standing, Some(with_uid.collect()));
    }

    fn write(&mut self, outcome: &Outcome, now: Instant) {
        let mut due = status::due(self.world.objects(), outcome, &Time(Timestamp::now()));
        let keys: BTreeSet<_> = due.iter().map(Write::key).collect();
        self.patience.retain(|key| keys.contains(key));
        due.retain(|write| self.patience.allows(&write.key(), write.before().as_ref(), now));
        if let Some(at) = self.patience.ends_at() {
            self.look_at(at);
        }
        if due.is_empty() {
            return;
        }
        debug!("{} writes are due", due.len());
        let (client, metrics) = (self.client.clone(), self.metrics.clone());
        self.writing = Some(tokio::spawn(send_all(client, metrics, self.sender.clone(), due)));
    }

    fn wrote(&mut self, failed: Vec<Failure>) {
        let now = Instant::now();
        // In an outage all fail for one reason, which is told once.
        let mut news: BTreeMap<String, Vec<ObjectKey>> = BTreeMap::new();
        for failure in failed {
            let Failure { key, why, .. } = failure.clone();
            let is_usual = matches!(why.as_str(), OUTDATED | GONE);
            if self.patience.failed(failure, now) && !is_usual {
                news.entry(why).or_default().push(key);
            }
        }
        for (why, keys) in news {
            let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
            warn!("status can't be written: {why}; trying again: {}", keys.join(", "));
        }
        self.look_again(Duration::ZERO);
    }
}

/// Waits for the writes, if there are any.
async fn finished(writing: &mut Option<JoinHandle<Vec<Failure>>>) -> Vec<Failure> {
    match writing {
        Some(task) => {
            let failed = task.await.unwrap_or_default();
            *writing = None;
            failed
        }
        None => std::future::pending().await,
    }
}

/// Sends all writes, and gives those that failed, with the reasons.
async fn send_all(
    client: Client,
    metrics: Metrics,
    sender: UnboundedSender<Change>,
    due: Vec<Write>,
) -> Vec<Failure> {
    let sent = stream::iter(due).map(|write| {
        let client = client.clone();
        async move { (write.key(), write.before(), write.send(&client).await) }
    });
    let mut sent = sent.buffer_unordered(AT_ONCE);
    let mut failed = Vec::new();
    while let Some((key, before, outcome)) = sent.next().await {
        match outcome {
            Ok(object) => {
                metrics.wrote(WRITTEN);
                // Nobody listens any more only at the end.
                let _ = sender.send(Change::Wrote { before, object });
            }
            Err(error) => {
                let (outcome, why) = match error {
                    kube::Error::Api(status) if status.code == 409 => {
                        (OUTDATED, OUTDATED.to_owned())
                    }
                    kube::Error::Api(status) if status.code == 404 => (GONE, GONE.to_owned()),
                    kube::Error::Api(status) => (FAILED, of_any(&status.message, &key)),
                    error => (FAILED, error.to_string()),
                };
                metrics.wrote(outcome);
                failed.push(Failure { key, version: before, why });
            }
        }
    }
    failed
}

/// What the API server says of an object, as it would of others: without its name, which it
/// says after that of its type.
fn of_any(message: &str, key: &ObjectKey) -> String {
    message.replacen(&format!(" \"{}\"", key.name), "", 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use blixt_gateway::Kind;

    #[test]
    fn what_is_said_of_one_object_is_said_of_others() {
        let key = |name: &str| ObjectKey {
            kind: Kind::Gateway,
            namespace: Some("shop".to_owned()),
            name: name.to_owned(),
        };
        let said = |name| {
            let message = format!("gateways \"{name}\" is forbidden: User \"us\" cannot update");
            of_any(&message, &key(name))
        };
        assert_eq!(said("a"), "gateways is forbidden: User \"us\" cannot update");
        assert_eq!(said("a"), said("b"));
        assert_eq!(of_any("etcdserver: no leader", &key("a")), "etcdserver: no leader");
    }
}
