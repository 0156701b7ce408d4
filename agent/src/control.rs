//! The control thread: everything that changes while the agent runs comes
//! together here, one thing at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_dataplane::AddressRole;
use blixt_dataplane::address::to_ip;
use blixt_gateway::{Programming, Refusal, Update, Warning};
use blixt_model::{Generation, ObjectName};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{error, info, warn};

use crate::families;
use crate::flags::Settings;
use crate::hostpath::{Fault, HostPath, OUR_END};
use crate::interfaces::{Links, Shown};
use crate::kernel::Mirror;
use crate::run::RunError;
use crate::state::{ControlState, ControllerState, InterfaceState, LinkState, State};
use crate::sync::{Pushed, Wish};
use crate::tables::TablesWriter;
use crate::wanted::Wanted;
use crate::worker::{Command, Event, WorkerHandle};
use crate::xdp::{Addresses, Role};

/// How often slots are reclaimed and workers looked after.
const TICK: Duration = Duration::from_secs(1);

/// How often is looked whether workers use new tables, while some do not.
const ADOPTION: Duration = Duration::from_millis(2);

/// How long new addresses wait for workers that do not use the new tables.
const ADOPTED: Duration = Duration::from_millis(50);

/// Announcements are repeated once: they may be lost, and a switch port that
/// has just come up drops what comes first.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(1);

/// How long an agent that ends serves what still comes for its VIPs, once others
/// own them: as long as replicas take to look who lives, new owners to announce
/// themselves, and neighbours to hear of it, with room for a busy machine.
const HANDOVER: Duration = Duration::from_millis(500);

/// How long a worker may stand still. It turns ten times a second even where
/// there is nothing to do.
const STUCK: Duration = Duration::from_secs(5);

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
    /// Until when addresses wait for the workers to know them.
    map_by: Option<Instant>,
    /// Why the directory of manifests can't be read, if it can't.
    unreadable: Option<String>,
    /// Why addresses are not in the XDP program's map, if they are not.
    unmapped: Option<String>,
    pulses: Vec<Pulse>,
    /// The way through the node's kernel; `None` if it is off.
    host: Option<Arc<HostPath>>,
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
            map_by: None,
            unreadable: None,
            unmapped: None,
            pulses,
            host,
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
        if let Err(error) = self.map.set(&BTreeMap::new()) {
            warn!("{error}; detaching nevertheless");
        }
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
        if let Err(why) = self.tables.apply_again(self.wanted.snapshot().generation()) {
            warn!("the VIPs are answered for until the end: {why}");
        }
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

    /// Brings everything in line with what the controller wants now.
    fn take_wish(&mut self) {
        let wanted = self.pushed.as_mut().and_then(Pushed::wanted);
        if let Some(wish) = wanted {
            let snat = self.settings.snat_addresses.union(&wish.assignment.snat).copied();
            self.tables.assign(snat.collect(), wish.assignment.owned.clone());
            self.wanted.push(wish.snapshot.clone());
            let taken = self.put_in_force();
            if taken.is_err() {
                self.keep_last(&wish);
            }
            match (&mut self.pushed, taken) {
                (Some(pushed), Ok(())) => pushed.published(wish),
                (Some(pushed), Err(why)) => pushed.refused(&wish, why),
                (None, _) => {}
            }
            self.look_for_adoption();
        }
        self.show();
    }

    /// The last tables stay, with what is assigned now.
    fn keep_last(&mut self, refused: &Wish) {
        let generation = self.wanted.snapshot().generation();
        self.wanted.push(refused.snapshot.clone());
        if let Err(why) = self.tables.apply_again(generation) {
            error!("the last tables stay as they are: {why}");
        }
        self.wake_workers();
        self.map_by.get_or_insert_with(|| Instant::now() + ADOPTED);
    }

    /// Brings everything in line with what is wanted now.
    fn compile(&mut self) {
        // Of a controller's snapshot there is nothing to compile anew.
        if self.pushed.is_some() {
            return self.show();
        }
        self.compile_once();
        self.look_for_adoption();
        // The statuses also say how far the tables have got by now.
        self.compile_once();
        self.show();
    }

    /// From what is wanted to tables in the workers' hands. The kernel's
    /// addresses may change at any time, so each time may bring new tables.
    fn compile_once(&mut self) {
        if self.pushed.is_some() {
            return;
        }
        let unusable = self.unusable_addresses();
        let programming = |name: &_| self.programming(name);
        let Some(compiled) = self.wanted.compile(&unusable, &programming) else { return };
        if self.wanted.take(compiled) {
            // Statuses and readiness say what is refused.
            let _ = self.put_in_force();
        }
    }

    /// Puts the wanted snapshot in the workers' hands, or says why not.
    fn put_in_force(&mut self) -> Result<(), String> {
        let snapshot = self.wanted.snapshot();
        let generation = snapshot.generation();
        let applied = self.tables.apply(snapshot);
        match &applied {
            Ok(()) => info!(%generation, "tables are in force"),
            Err(why) => error!("generation {generation} is refused, the last tables stay: {why}"),
        }
        self.wake_workers();
        self.map_by.get_or_insert_with(|| Instant::now() + ADOPTED);
        applied
    }

    /// How far this node is with a Gateway.
    fn programming(&self, name: &ObjectName) -> Programming {
        match &self.unmapped {
            Some(reason) => self.tables.refusal(reason.clone()),
            None => self.tables.programming(self.wanted.snapshot(), name),
        }
    }

    /// Why Gateways can't have some addresses.
    fn unusable_addresses(&self) -> BTreeMap<IpAddr, String> {
        let view = self.mirror.view.borrow();
        let own = view.own_addresses().into_iter();
        let own = own.map(|(address, device)| {
            (address, format!("is the node's own address on {device}: use one that no node has"))
        });
        let snat = self.settings.snat_addresses.iter().map(|&address| {
            (address, "is given as --snat-address: use one that nothing else has".to_owned())
        });
        let host = self.host.iter().flat_map(|host| host.addresses().both()).map(|address| {
            (address, "is what the agent's host path has on each node: use another".to_owned())
        });
        own.chain(snat).chain(host).collect()
    }

    /// Has the XDP program see to the addresses that the workers know.
    fn map_addresses(&mut self) {
        let tables = self.state.published.tables.load();
        let wanted: BTreeMap<_, _> = tables
            .addresses()
            .map(|(address, role)| {
                let role = match role {
                    AddressRole::Vip => Role::Vip,
                    AddressRole::Snat => Role::Snat,
                    AddressRole::Host => Role::Host,
                };
                (to_ip(address), role)
            })
            .collect();
        let ours = tables.addresses().map(|(address, _)| address);
        let answered: BTreeSet<_> =
            ours.filter(|&address| tables.is_answered_for(address)).map(to_ip).collect();
        let news = !answered.is_subset(&self.answered);
        if wanted == self.addresses && self.unmapped.is_none() {
            self.answered = answered;
            if news {
                self.announce();
            }
            return;
        }
        match self.map.set(&wanted) {
            Ok(_) => {
                self.unmapped = None;
                // No neighbour asks for those of the host path.
                let v6 = wanted.iter().filter_map(|it| match it {
                    (IpAddr::V6(v6), Role::Vip | Role::Snat) => Some(*v6),
                    _ => None,
                });
                self.interfaces.join_groups(v6.collect());
                if let Some(host) = &self.host {
                    let vips = wanted.iter().filter(|(_, role)| **role == Role::Vip);
                    host.lead(vips.map(|(vip, _)| *vip).collect());
                }
                self.addresses = wanted;
                self.answered = answered;
                if news {
                    self.announce();
                }
            }
            Err(error) => {
                error!("{error}");
                self.unmapped = Some(error.to_string());
            }
        }
    }

    /// Tells the neighbours where our addresses are, now and once more.
    fn announce(&mut self) {
        self.announce_once();
        self.announce_at = Some(Instant::now() + ANNOUNCE_AGAIN);
    }

    fn announce_again(&mut self) {
        self.announce_at = None;
        self.announce_once();
    }

    fn announce_once(&self) {
        // Each worker has a socket on each interface, so one is enough.
        if let Some(worker) = self.workers.first() {
            worker.send(Command::Announce);
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
            && let Some(pushed) = &mut self.pushed
        {
            pushed.adopted(self.unmapped.as_ref());
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
        self.tables.reclaim();
        self.show();
        Ok(())
    }

    fn feel_pulses(&mut self) {
        for (worker, pulse) in self.workers.iter().zip(&mut self.pulses) {
            let beats = worker.status().heartbeats.value();
            if beats != pulse.beats {
                *pulse = Pulse { beats, at: Instant::now() };
            }
        }
    }

    fn stuck(&self) -> Option<String> {
        let place = self.pulses.iter().position(|pulse| pulse.at.elapsed() > STUCK)?;
        Some(format!("worker {place} has not moved for {STUCK:?}: restart the agent"))
    }

    /// Shows others how it is.
    fn show(&mut self) {
        // First: what took long may have been this thread.
        self.feel_pulses();
        let stuck = self.stuck();
        let Shown { states, faults, .. } = self.interfaces.shown();
        let host_path_faults = self.host_path_faults(&states);
        if let Some(pushed) = &mut self.pushed {
            // One that serves something keeps its VIPs, whatever else is wrong.
            let cut_off = || is_cut_off(&states).then(|| faults.join("; "));
            pushed.serves(stuck.clone().or_else(cut_off));
        }
        let mut not_ready = faults;
        if !host_path_faults.is_empty() {
            let fib = self.state.published.fib.load();
            let snat = self.tables.snat_addresses();
            let needed = families::needing_host(self.wanted.snapshot(), snat, &fib);
            not_ready.extend(families::sentences(&host_path_faults, &needed));
        }
        not_ready.extend(stuck.clone());
        not_ready.extend(self.unmapped.clone());
        not_ready.extend(self.stolen_addresses());
        let controller = self.controller();
        if let Some(ControllerState { reach, .. }) = &controller {
            if self.wanted.snapshot().generation() == Generation::default() {
                not_ready.push("no controller has said yet what is wanted".to_owned());
            }
            not_ready.extend(reach.trouble.as_ref().map(|why| {
                format!("no controller is in reach, what was wanted last stays in force: {why}")
            }));
            not_ready.extend(reach.unreadable.as_ref().map(|why| {
                format!(
                    "what is wanted now can't be read, what was wanted last stays in force: {why}"
                )
            }));
        }
        if self.tables.is_pending() {
            not_ready.push("some worker has yet to take up the newest tables".to_owned());
        }
        let served = families::served(self.wanted.snapshot());
        let control = ControlState {
            interfaces: states,
            statuses: self.wanted.statuses().clone(),
            refusals: self.refusals(),
            warnings: self.warnings(),
            wanted: self.wanted.snapshot().generation(),
            refused: self.tables.refused().map(str::to_owned),
            xdp: self.map.counters().ok(),
            not_ready,
            host_path_faults: families::sentences(&host_path_faults, &served),
            stuck,
            snat_addresses: self.tables.snat_addresses().clone(),
            controller,
        };
        self.state.control.store(Arc::new(control));
    }

    /// How it is with the controller, if there is one.
    fn controller(&self) -> Option<ControllerState> {
        let pushed = self.pushed.as_ref()?;
        let owned = pushed.assignment().map_or(0, |assignment| assignment.owned.len());
        Some(ControllerState { reach: pushed.reach(), owned })
    }

    /// What is refused of the manifests: all of them, if they can't be read.
    fn refusals(&self) -> Vec<Refusal> {
        let unreadable = self.unreadable.as_ref().map(|why| Refusal {
            file: self.settings.source.to_string(),
            line: None,
            object: None,
            reason: format!("can't be read: {why}"),
            last_good_stays: true,
        });
        self.wanted.refusals().iter().cloned().chain(unreadable).collect()
    }

    /// What was hardly meant so, with what only this node knows.
    fn warnings(&self) -> Vec<Warning> {
        let missing = match self.host {
            // Flows without a SNAT address go through the kernel.
            Some(_) => Vec::new(),
            None => families::missing(self.wanted.snapshot(), self.tables.snat_addresses()),
        };
        self.wanted.warnings().iter().cloned().chain(missing).collect()
    }

    /// What keeps packets from going through the node's kernel.
    fn host_path_faults(&self, states: &[InterfaceState]) -> Vec<Fault> {
        let Some(host) = &self.host else { return Vec::new() };
        let mut faults = host.faults();
        let end = states.iter().find(|state| state.name == OUR_END).map(|state| &state.link);
        let sentence = match end {
            Some(LinkState::Attached(attached)) if attached.running => return faults,
            Some(LinkState::Failed { reason }) => reason.clone(),
            _ => format!("{OUR_END}, the agent's end of the host path, is not up"),
        };
        faults.push(Fault { family: None, sentence });
        faults
    }

    /// SNAT addresses that somebody gave to an interface meanwhile.
    fn stolen_addresses(&self) -> Vec<String> {
        let own = self.mirror.view.borrow().own_addresses();
        let snat = self.tables.snat_addresses().iter();
        snat.filter_map(|address| {
            let device = own.get(address)?;
            Some(format!(
                "the --snat-address {address} is now an address of {device}: take it off there"
            ))
        })
        .collect()
    }
}

/// Whether there is no way out to clients or backends: the host path's own end
/// leads to neither.
fn is_cut_off(states: &[InterfaceState]) -> bool {
    let is_up = |link: &LinkState| matches!(link, LinkState::Attached(it) if it.running);
    !states.iter().any(|state| state.name != OUR_END && is_up(&state.link))
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
