//! The control thread: everything that changes while the agent runs comes
//! together here, one thing at a time. This file has the thread's loop; its rooms
//! have what it does.

mod addresses;
mod shown;
mod streams;
mod wishes;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_gateway::Update;
use blixt_model::Generation;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{info, warn};

use self::shown::troubles;
use crate::configured::Unusable;
use crate::flags::Settings;
use crate::hostpath::HostPath;
use crate::interfaces::{Links, Shown};
use crate::kernel::Mirror;
use crate::run::RunError;
use crate::state::{ControlState, State};
use crate::streams::StreamServer;
use crate::sync::Pushed;
use crate::tables::TablesWriter;
use crate::wanted::Wanted;
use crate::worker::{Event, WorkerHandle};
use crate::xdp::{Addresses, Role};

/// How often slots are reclaimed and workers looked after.
const TICK: Duration = Duration::from_secs(1);

/// How often is looked whether workers use new tables, while some do not.
const ADOPTION: Duration = Duration::from_millis(2);

/// How long new addresses wait for workers that do not use the new tables.
const ADOPTED: Duration = Duration::from_millis(50);

/// How long an agent that ends serves what still comes for its VIPs, once others
/// own them: as long as replicas take to look who lives, new owners to announce
/// themselves, and neighbours to hear of it, with room for a busy machine.
const HANDOVER: Duration = Duration::from_millis(500);

/// All that the control thread owns.
pub struct Control {
    settings: Settings,
    wanted: Wanted,
    interfaces: Links,
    /// How often the interfaces' neighbours had to be told of our addresses.
    told: u64,
    map: Addresses,
    tables: TablesWriter,
    workers: Arc<Vec<WorkerHandle>>,
    mirror: Mirror,
    state: Arc<State>,
    addresses: BTreeMap<IpAddr, Role>,
    /// Those of them that are answered for.
    answered: BTreeSet<IpAddr>,
    /// What a controller wants, if it is one and not files.
    pushed: Option<Pushed>,
    announce_at: Option<Instant>,
    /// Once more after that.
    announce_more: bool,
    /// How often others may have had our VIPs meanwhile.
    apart: u64,
    /// Until when addresses wait for the workers to know them.
    map_by: Option<Instant>,
    /// Why the directory of manifests can't be read, if it can't.
    unreadable: Option<String>,
    /// Why addresses are not in the XDP program's map, if they are not.
    unmapped: Option<String>,
    pulses: Vec<Pulse>,
    /// The way through the node's kernel; `None` if it is off.
    host: Option<Arc<HostPath>>,
    /// What a GatewayConfig asks for that is in force after the next start only.
    awaited: Vec<String>,
    /// What it asks for that this node can't do.
    unusable: Vec<Unusable>,
    streams: StreamServer,
    /// Their ports, as far as the XDP program lets packets to them pass.
    passed: BTreeSet<SocketAddr>,
}

/// When a worker was last seen to move.
struct Pulse {
    beats: u64,
    at: Instant,
}

impl Control {
    /// Nothing is attached or applied yet.
    #[expect(clippy::too_many_arguments, reason = "all that it owns, made by others")]
    pub fn new(
        settings: Settings,
        interfaces: Links,
        map: Addresses,
        tables: TablesWriter,
        workers: Arc<Vec<WorkerHandle>>,
        mirror: Mirror,
        state: Arc<State>,
        host: Option<Arc<HostPath>>,
        streams: StreamServer,
    ) -> Self {
        let pulses = workers.iter().map(|_| Pulse { beats: 0, at: Instant::now() }).collect();
        Self {
            settings,
            wanted: Wanted::default(),
            interfaces,
            told: 0,
            map,
            tables,
            workers,
            mirror,
            state,
            addresses: BTreeMap::new(),
            answered: BTreeSet::new(),
            pushed: None,
            announce_at: None,
            announce_more: false,
            apart: 0,
            map_by: None,
            unreadable: None,
            unmapped: None,
            pulses,
            host,
            awaited: Vec::new(),
            unusable: Vec::new(),
            streams,
            passed: BTreeSet::new(),
        }
    }

    /// Waits until everything is attached, then takes the first manifests.
    pub async fn start(&mut self, first: Update) -> Result<(), RunError> {
        self.interfaces.attached().await?;
        self.wanted.read(first);
        self.compile();
        let gateways = self.wanted.snapshot().gateways().len();
        info!(gateways, "serving");
        Ok(())
    }

    /// The same, with what a controller wanted last and will want.
    pub async fn start_from(&mut self, pushed: Pushed) -> Result<(), RunError> {
        self.interfaces.attached().await?;
        self.pushed = Some(pushed);
        self.take_wish();
        let gateways = self.wanted.snapshot().gateways().len();
        info!(gateways, "serving");
        Ok(())
    }

    /// Follows everything that changes, until something is beyond repair.
    /// May be cut short anywhere: [`Control::stop`] then undoes what was begun.
    pub async fn run(
        &mut self,
        mut manifests: Option<mpsc::Receiver<Result<Update, String>>>,
        mut events: mpsc::UnboundedReceiver<Event>,
    ) -> Result<(), RunError> {
        let mut ticks = interval(TICK);
        let mut looks = interval(ADOPTION);
        for times in [&mut ticks, &mut looks] {
            times.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            let pending = self.tables.is_pending() || self.map_by.is_some();
            let again = self.announce_at;
            tokio::select! {
                biased;
                // What is due comes first, however many events there are; once
                // done it is not due for a while, which is theirs.
                _ = ticks.tick() => self.tick()?,
                _ = looks.tick(), if pending => self.look_for_adoption(),
                () = until(again) => self.announce_again(),
                Some(event) = events.recv() => self.note(event)?,
                update = next(&mut manifests) => self.read(update),
                () = changed(&mut self.pushed) => self.take_wish(),
                Some(shown) = self.interfaces.changed() => self.note_interfaces(&shown),
                () = self.streams.changed() => self.note_streams(),
                // Addresses of the node decide which VIPs can be used.
                Ok(()) = self.mirror.view.changed() => self.compile(),
            }
        }
    }

    /// Takes the addresses out, detaches, and leaves the interfaces as they
    /// were.
    pub async fn stop(&mut self) {
        info!("stopping: detaching from all interfaces");
        self.state.control.rcu(|control| ControlState {
            not_ready: vec!["the agent is stopping".into()],
            ..ControlState::clone(control)
        });
        self.hand_over().await;
        if let Err(error) = self.map.set(&BTreeMap::new(), &BTreeSet::new()) {
            warn!("{error}; detaching nevertheless");
        }
        self.streams.stop().await;
        self.interfaces.detach().await;
    }

    /// Leaves the VIPs to others, before they are served no more.
    async fn hand_over(&mut self) {
        let Some(pushed) = &mut self.pushed else { return };
        let owns = pushed.assignment().is_some_and(|assignment| !assignment.owned.is_empty());
        pushed.end().await;
        if !owns {
            return;
        }
        // Whoever asks where they are has to hear it of the new owner alone.
        self.tables.assign(self.tables.snat_addresses().clone(), BTreeSet::new());
        let last = self.tables.applied().load().snapshot.clone();
        let last = last.with_generation(self.wanted.snapshot().generation());
        if let Err(why) = self.tables.apply_again(&last) {
            warn!("the VIPs are answered for until the end: {why}");
        }
        self.want_streams();
        self.wake_workers();
        sleep(HANDOVER).await;
    }

    fn read(&mut self, update: Result<Update, String>) {
        match update {
            Ok(update) => {
                if self.unreadable.take().is_some() {
                    info!("the manifests can be read again");
                }
                self.wanted.read(update);
                self.compile();
            }
            Err(why) => {
                let path = &self.settings.source;
                warn!(
                    "the manifests in {path} can't be read: {why}; what they last said stays in force"
                );
                self.unreadable = Some(why);
                self.show();
            }
        }
    }

    fn wake_workers(&self) {
        self.workers.iter().for_each(WorkerHandle::wake);
    }

    fn look_for_adoption(&mut self) {
        let generations = self.workers.iter().map(|w| w.status().tables_generation.value());
        let Some(oldest) = generations.min() else { return };
        let adopted = self.tables.adopted(Generation(oldest));
        // A worker that does not know an address yet would drop its packets.
        let waited = |by| by <= Instant::now();
        if self.map_by.is_some_and(|by| !self.tables.is_pending() || waited(by)) {
            self.map_by = None;
            self.map_addresses();
        }
        self.report();
        if adopted {
            self.compile_once();
            self.show();
        }
    }

    /// Tells the controller how far it is.
    fn report(&mut self) {
        if !self.tables.is_pending()
            && self.map_by.is_none()
            && (self.streams_are_settled() || self.unmapped.is_some())
            && let Some(pushed) = &mut self.pushed
        {
            let troubles = troubles(&self.streams, &self.tables).collect();
            pushed.adopted(self.unmapped.as_ref(), &troubles);
        }
    }

    fn note_interfaces(&mut self, shown: &Shown) {
        if self.told != shown.news {
            self.told = shown.news;
            self.announce();
        }
        self.show();
    }

    fn note(&mut self, event: Event) -> Result<(), RunError> {
        match event {
            Event::Unresolved(neighbour) => self.mirror.resolver.resolve(neighbour),
            Event::Moved(queue) => self.interfaces.moved(queue),
            event @ Event::QueueDead { .. } => self.interfaces.died(event),
            Event::Stopped { worker, .. } => return Err(RunError::WorkerEnded(worker.0)),
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), RunError> {
        if let Some(ended) = self.workers.iter().find(|worker| worker.is_finished()) {
            return Err(RunError::WorkerEnded(ended.id().0));
        }
        if self.unmapped.is_some() {
            self.map_addresses();
            self.report();
        }
        self.tables.reclaim(self.streams.oldest_tables());
        self.show();
        Ok(())
    }
}

/// What comes of files that change; nothing where there are none.
async fn next(
    manifests: &mut Option<mpsc::Receiver<Result<Update, String>>>,
) -> Result<Update, String> {
    if let Some(changes) = manifests
        && let Some(update) = changes.recv().await
    {
        return update;
    }
    pending().await
}

/// Waits for a controller to say something; for ever where there is none.
async fn changed(pushed: &mut Option<Pushed>) {
    match pushed {
        Some(pushed) => pushed.changed().await,
        None => pending().await,
    }
}

/// Waits for a moment; for ever if there is none to wait for.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => pending().await,
    }
}
