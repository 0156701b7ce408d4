//! What is wanted, from the controller: a stream to each of its replicas,
//! tables and assignments from one of them, answers to all.
//!
//! The control thread sees none of that: it gets a [`Wish`] at a time, the
//! newest, and says what became of it in a [`Report`].

mod choice;
mod outage;
mod pauses;
mod places;
mod pushed;
mod scrapers;
mod serving;
mod store;
mod stream;
mod trust;
mod wish;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use blixt_api::parts::{Digest, Parts, PartsError, certificates_in};
use blixt_api::sync::v1alpha1 as wire;
use blixt_api::sync::v1alpha1::follow_request::Message as Said;
use blixt_api::sync::v1alpha1::follow_response::Message as Told;
use blixt_model::ObjectName;
use rustls::server::ResolvesServerCert;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{error, info, warn};

pub use places::{Places, Url, UrlError};
pub use pushed::Pushed;
pub use scrapers::Scrapers;
pub use serving::Serving;
pub use wish::{Assignment, Wish};

use crate::streams::Certificates;
use crate::told::tell;
use choice::Replicas;
use outage::Outage;
use pauses::Pauses;
use places::Found;
use store::Store;
use stream::{Event, Kind, Means, ends};
use trust::Trust;

/// How long an agent that starts waits to be told which VIPs are its own, before
/// it takes those that it had: meanwhile another node may have them.
const ASSIGNED: Duration = Duration::from_millis(500);

/// Pauses before a snapshot that could not be read is asked for again. Nothing
/// but a new one is likely to help, and one may be large.
const FIRST_ASK: Duration = Duration::from_millis(100);
const LONGEST_ASK: Duration = Duration::from_secs(60);

/// By how much later an agent has to be relied on than it knows, to be told: messages
/// take now longer and now shorter.
const LATER: Duration = Duration::from_secs(1);

/// How long the end may take.
const END: Duration = Duration::from_millis(300);

/// Where the controller is, and what the agent shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where its replicas are.
    pub places: Places,
    /// The file with the token.
    pub token: PathBuf,
}

/// What became of what was wanted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// The snapshot that all workers use.
    pub applied: Option<Digest>,
    /// One that can't be used, and why; what was applied stays.
    pub refused: Option<(Digest, String)>,
    /// Addresses that are wanted and stay the node's own, with the reason.
    pub taken: BTreeMap<IpAddr, String>,
    /// What was applied, to be kept for the next start.
    pub kept: Option<Arc<Wish>>,
    /// Which Gateways of what was applied are not served as they should be, and
    /// why.
    pub troubles: BTreeMap<ObjectName, String>,
}

/// How it is with the controller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Replicas that a stream leads to.
    pub connected: usize,
    /// Replicas that there are.
    pub known: usize,
    /// Snapshots and changes that came.
    pub snapshots: u64,
    /// How often others may have had this agent's VIPs meanwhile: a replica did not hear
    /// of it, or said anew what is its own.
    pub apart: u64,
    /// What is wrong, if none is in reach.
    pub trouble: Option<String>,
    /// Why the newest snapshot can't be read, if it can't.
    pub unreadable: Option<String>,
}

/// What an agent with this state directory applied last, if that can be read.
pub fn kept(state_dir: &Path) -> Option<Wish> {
    Store::new(state_dir).load()
}

/// The way to the controller, for the control thread.
#[derive(Debug)]
pub struct Sync {
    /// What is wanted; nothing before the first word.
    pub wishes: watch::Receiver<Option<Arc<Wish>>>,
    /// The certificates of what is wanted, as far as they have come.
    pub certificates: watch::Receiver<Certificates>,
    /// How it is with the controller.
    pub reach: watch::Receiver<Reach>,
    /// What became of it.
    pub report: watch::Sender<Report>,
    /// Whether traffic can be served. To be said again and again.
    pub serving: watch::Sender<Serving>,
    /// Who may read the agent's metrics.
    pub scrapers: Scrapers,
    trust: Arc<Trust>,
    ending: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Sync {
    /// Begins. What was applied before, by an agent with this state directory
    /// ([`kept`]), is wanted until a controller says otherwise.
    pub fn start(settings: &Settings, state_dir: &Path, kept: Option<Wish>) -> Self {
        let store = Store::new(state_dir);
        let (events, heard) = mpsc::channel(64);
        let (found, finds) = mpsc::channel(1);
        let (report, reported) = watch::channel(Report::default());
        let (serving, served) = watch::channel(Serving::default());
        let (peers, told) = watch::channel(BTreeSet::new());
        let (ending, ends) = watch::channel(false);
        let (doubts, doubted) = watch::channel(None);
        // Whether its VIPs still are its own, others know better.
        let (first, kept) = kept
            .map(|wish| {
                let kept = wish.assignment.clone();
                let assignment = Assignment { owned: BTreeSet::new(), ..wish.assignment };
                (Arc::new(Wish { assignment, ..wish }), kept)
            })
            .unzip();
        let (wishes, wanted) = watch::channel(first.clone());
        let (certificates, having) = watch::channel(Certificates::default());
        let (reach, reached) = watch::channel(Reach {
            trouble: Some("none was tried yet".to_owned()),
            ..Reach::default()
        });
        let trust = Arc::new(Trust::new(settings.places.ca(), settings.token.clone()));
        let scrapers = Scrapers::default();
        let means = Means {
            trust: trust.clone(),
            scrapers: scrapers.clone(),
            events,
            report: reported.clone(),
            serving: served,
            doubted,
            ending: ends.clone(),
        };
        let following = Following {
            parts: first.as_ref().map(|wish| wish.parts.clone()),
            current: first,
            kept,
            certificates,
            doubts,
            ..Following::new(means, peers, wishes, reach)
        };
        tokio::spawn(store.keep(reported, ends));
        tokio::spawn(places::look(settings.places.clone(), told, found));
        let task = tokio::spawn(following.run(heard, finds));
        Self {
            wishes: wanted,
            certificates: having,
            reach: reached,
            report,
            serving,
            scrapers,
            trust,
            ending,
            task,
        }
    }

    /// The agent's certificate, for those who come to it by TLS.
    pub fn certificate(&self) -> Arc<dyn ResolvesServerCert> {
        self.trust.clone()
    }

    /// Tells all replicas that the agent ends, so that others take its VIPs at
    /// once.
    pub async fn end(&mut self) {
        self.ending.send_replace(true);
        let _ = timeout(END, &mut self.task).await;
    }
}

/// One stream, and how it is spoken to.
struct Stream {
    abort: tokio::task::AbortHandle,
    say: Option<mpsc::Sender<Said>>,
    /// Where the replica says that all of them are, while it is up.
    peers: BTreeSet<Url>,
}

/// The task that follows the controller.
struct Following {
    means: Means,
    streams: BTreeMap<String, Stream>,
    tasks: JoinSet<()>,
    /// Where those that are up, and those that they tell of, are.
    peers: watch::Sender<BTreeSet<Url>>,
    replicas: Replicas,
    /// When the next snapshot is asked for, if the last could not be read.
    ask_at: Option<Instant>,
    asks: Pauses,
    /// The newest snapshot that came whole, whether it makes sense or not.
    parts: Option<Parts>,
    /// The newest that makes sense.
    current: Option<Arc<Wish>>,
    assignment: Option<Assignment>,
    /// What was assigned in an earlier life, until it is known better.
    kept: Option<Assignment>,
    wishes: watch::Sender<Option<Arc<Wish>>>,
    certificates: watch::Sender<Certificates>,
    /// Until when a replica does not rely on this agent.
    doubts: watch::Sender<Option<std::time::Instant>>,
    reach: watch::Sender<Reach>,
    /// What is wrong with each replica, and with finding them.
    troubles: BTreeMap<String, String>,
    /// What the log said last of it.
    outage: Outage,
}

impl Following {
    fn new(
        means: Means,
        peers: watch::Sender<BTreeSet<Url>>,
        wishes: watch::Sender<Option<Arc<Wish>>>,
        reach: watch::Sender<Reach>,
    ) -> Self {
        Self {
            means,
            streams: BTreeMap::new(),
            tasks: JoinSet::new(),
            peers,
            replicas: Replicas::default(),
            ask_at: None,
            asks: Pauses::new(FIRST_ASK, LONGEST_ASK),
            parts: None,
            current: None,
            assignment: None,
            kept: None,
            wishes,
            certificates: watch::channel(Certificates::default()).0,
            doubts: watch::channel(None).0,
            reach,
            troubles: BTreeMap::new(),
            outage: Outage::default(),
        }
    }

    async fn run(mut self, mut events: mpsc::Receiver<Event>, mut finds: mpsc::Receiver<Found>) {
        let assigned = Instant::now() + ASSIGNED;
        let mut ending = self.means.ending.clone();
        loop {
            let assigned = self.kept.is_some().then_some(assigned);
            let ask_at = self.ask_at;
            tokio::select! {
                biased;
                () = ends(&mut ending) => break,
                Some(event) = events.recv() => self.take(event),
                () = until(assigned) => self.take_kept(),
                () = until(ask_at) => self.ask_again(),
                Some(found) = finds.recv() => self.find(found),
                // One that was given up.
                Some(_) = self.tasks.join_next() => {}
            }
            self.show();
        }
        // They say goodbye.
        while self.tasks.join_next().await.is_some() {}
    }

    /// Begins streams to replicas that are new, and ends those to others.
    fn find(&mut self, Found { replicas: found, trouble }: Found) {
        const PLACES: &str = "";

        let is_whole = trouble.is_none();
        match trouble {
            Some(trouble) => self.troubles.insert(PLACES.to_owned(), trouble),
            None => self.troubles.remove(PLACES),
        };
        // Where something can't be looked up, what was known stays.
        let gone: Vec<_> = self
            .streams
            .keys()
            .filter(|replica| is_whole && !found.contains_key(*replica))
            .cloned()
            .collect();
        for replica in gone {
            if let Some(stream) = self.streams.remove(&replica) {
                stream.abort.abort();
            }
            self.replicas.down(&replica);
            self.troubles.remove(&replica);
        }
        for (replica, at) in found {
            if !self.streams.contains_key(&replica) {
                let keep = stream::keep(replica.clone(), at, self.means.clone());
                let abort = self.tasks.spawn(keep);
                self.streams.insert(replica, Stream { abort, say: None, peers: BTreeSet::new() });
            }
        }
    }

    fn take(&mut self, Event { replica, kind }: Event) {
        // Of one that has been given up since.
        let Some(stream) = self.streams.get_mut(&replica) else { return };
        match kind {
            Kind::Up(say) => {
                if stream.say.replace(say).is_none() {
                    self.reach.send_modify(|reach| reach.apart += 1);
                    self.replicas.up(&replica);
                    self.troubles.remove(&replica);
                    info!(replica, "connected to the controller");
                } else if self.replicas.from() == Some(&replica) {
                    // A new stream in place of one that has not been missed.
                    self.want_newest();
                }
            }
            Kind::Down(why) => {
                if stream.say.take().is_some() {
                    info!(replica, "no longer connected to the controller: {why}");
                }
                stream.peers.clear();
                self.troubles.insert(replica.clone(), why);
                self.replicas.down(&replica);
                self.show_peers();
            }
            Kind::Told(told) => self.hear(&replica, told),
            Kind::Unreadable(why) => self.ask_later(&replica, &why),
        }
        self.choose();
    }

    fn hear(&mut self, replica: &str, told: Told) {
        match told {
            Told::Beat(beat) => {
                self.doubt(replica, Duration::from_millis(beat.unsteady_ms.into()));
                return self.replicas.beat(replica, &beat, std::time::Instant::now());
            }
            Told::Peers(peers) => {
                if let Some(stream) = self.streams.get_mut(replica) {
                    let read = peers.urls.iter().filter_map(|url| url.parse().ok());
                    stream.peers = read.collect();
                }
                return self.show_peers();
            }
            Told::Snapshot(_) | Told::Delta(_) | Told::Assignment(_) | Told::Certificates(_) => {}
        }
        // What was on its way when another one was chosen.
        if self.replicas.from() != Some(replica) {
            return;
        }
        let taken = match told {
            Told::Snapshot(snapshot) => Parts::from_snapshot(snapshot),
            Told::Delta(delta) => match &self.parts {
                Some(parts) => parts.changed_by(delta),
                None => Err(PartsError::NoDigest("the snapshot that it changes", 0)),
            },
            Told::Assignment(assignment) => return self.assign(&assignment),
            Told::Certificates(certificates) => return self.certify(certificates),
            Told::Beat(_) | Told::Peers(_) => return,
        };
        self.reach.send_modify(|reach| {
            reach.snapshots += 1;
            if taken.is_ok() {
                reach.unreadable = None;
            }
        });
        match taken {
            Ok(parts) => self.read(parts),
            Err(why) => self.ask_later(replica, &why),
        }
    }

    /// Replicas are where those that are up say, and where those are: one that has just begun
    /// may not have heard of itself yet, and the others do not say it again. Where none is up
    /// they are where they were.
    fn show_peers(&self) {
        let up = || self.streams.iter().filter(|(_, stream)| stream.say.is_some());
        if up().next().is_none() {
            return;
        }
        let they = up().filter_map(|(replica, _)| replica.parse().ok());
        let others = up().flat_map(|(_, stream)| stream.peers.iter().cloned());
        tell(&self.peers, they.chain(others).collect());
    }

    /// A replica does not rely on this agent for so long.
    fn doubt(&self, replica: &str, wait: Duration) {
        let now = std::time::Instant::now();
        let is_news = self.doubts.send_if_modified(|until| {
            let is_later = now + wait > until.map_or(now, |until| until.max(now)) + LATER;
            if is_later {
                *until = Some(now + wait);
            }
            is_later
        });
        if is_news {
            warn!(
                replica,
                "this node was silent again and again of late, as this replica heard it: for \
                 {wait:.0?} it owns VIPs only where no other node can"
            );
        }
    }

    /// Something came that can't be read. Until all of it is there, changes to it
    /// can't be read either.
    fn ask_later(&mut self, replica: &str, why: &dyn std::fmt::Display) {
        if self.ask_at.is_none() {
            let pause = self.asks.grow();
            warn!(
                replica,
                "a snapshot can't be read, the last tables stay, and it is asked for again in \
                 {pause:.1?}: {why}"
            );
            self.ask_at = Some(Instant::now() + pause);
            self.reach.send_modify(|reach| reach.unreadable = Some(why.to_string()));
        }
    }

    fn ask_again(&mut self) {
        self.ask_at = None;
        if let Some(from) = self.replicas.from() {
            self.want(from, true, None);
        }
    }

    /// Takes a snapshot that came whole.
    fn read(&mut self, parts: Parts) {
        self.ask_at = None;
        self.asks.reset();
        self.parts = Some(parts.clone());
        let digest = parts.digest();
        match Wish::new(parts, self.in_force()) {
            Ok(wish) => self.wish(wish),
            Err(why) => {
                error!("snapshot {digest} is refused, the last tables stay: {why}");
                self.tell_refused(digest, why.to_string());
            }
        }
    }

    /// Tells replicas of a snapshot that never got as far as the tables.
    fn tell_refused(&self, digest: Digest, reason: String) {
        let message = Said::Refused(wire::Refused { digest: digest.to_vec(), reason });
        for say in self.streams.values().filter_map(|stream| stream.say.as_ref()) {
            let _ = say.try_send(message.clone());
        }
    }

    fn assign(&mut self, assignment: &wire::Assignment) {
        match Assignment::from_wire(assignment) {
            Ok(assignment) => {
                self.kept = None;
                self.assignment = Some(assignment);
                self.reach.send_modify(|reach| reach.apart += 1);
                self.assign_again();
            }
            Err(why) => error!("an assignment is refused, the last one stays: {why}"),
        }
    }

    /// Takes certificates. Those of before stay as long as what is wanted names
    /// them: what names the new ones is on its way.
    fn certify(&mut self, told: wire::Certificates) {
        let told = match certificates_in(told) {
            Ok(told) => told,
            Err(why) => return error!("certificates are refused, the last ones stay: {why}"),
        };
        let named = self.current.as_ref().map(|wish| wish.snapshot.certificates());
        let named = named.unwrap_or_default();
        self.certificates.send_modify(|known| {
            let before = known.iter().filter(|(id, _)| named.contains(id));
            let before = before.map(|(id, one)| (id.clone(), Arc::clone(one)));
            let told = told.into_iter().map(|one| (one.id.clone(), Arc::new(one)));
            *known = Arc::new(before.chain(told).collect());
        });
    }

    /// Nobody has said what is this agent's: it is what it was.
    fn take_kept(&mut self) {
        self.assignment = self.kept.take();
        self.assign_again();
    }

    fn assign_again(&mut self) {
        if let Some(current) = self.current.clone() {
            let assignment = self.in_force();
            if current.assignment != assignment {
                self.wish(Wish { assignment, ..Wish::clone(&current) });
            }
        }
    }

    fn in_force(&self) -> Assignment {
        let before = || Some(self.current.as_ref()?.assignment.clone());
        self.assignment.clone().or_else(before).unwrap_or_default()
    }

    fn wish(&mut self, wish: Wish) {
        let wish = Arc::new(wish);
        self.current = Some(wish.clone());
        self.wishes.send_replace(Some(wish));
    }

    /// Takes tables from the best replica there is.
    fn choose(&mut self) {
        let before = self.replicas.from().map(str::to_owned);
        if !self.replicas.choose(std::time::Instant::now()) {
            return;
        }
        if let Some(before) = before {
            self.want(&before, false, None);
        }
        if let Some(replica) = self.replicas.from() {
            info!(replica, "taking tables from this replica");
            self.want_newest();
        }
    }

    /// Asks for what is newer than what there is, unless that has to wait.
    fn want_newest(&self) {
        if let Some(from) = self.replicas.from().filter(|_| self.ask_at.is_none()) {
            self.want(from, true, self.parts.as_ref().map(Parts::digest));
        }
    }

    fn want(&self, replica: &str, tables: bool, have: Option<Digest>) {
        let say = self.streams.get(replica).and_then(|stream| stream.say.as_ref());
        let digest = have.map(Digest::to_vec).unwrap_or_default();
        // Where there is no room the stream is about to end.
        let _ = say.map(|say| say.try_send(Said::Want(wire::Want { tables, digest })));
    }

    fn show(&mut self) {
        let (connected, known) = (self.replicas.connected(), self.streams.len());
        let trouble = (connected == 0).then(|| {
            let each = self.troubles.iter().map(|(replica, why)| match replica.as_str() {
                "" => why.clone(),
                replica => format!("{replica}: {why}"),
            });
            let all = each.collect::<Vec<_>>().join("; ");
            if all.is_empty() { "connecting".to_owned() } else { all }
        });
        match &trouble {
            Some(trouble) if self.outage.is_news(&self.troubles, Instant::now()) => {
                warn!("no controller is in reach: {trouble}");
            }
            Some(_) => {}
            None => self.outage.is_over(),
        }
        self.reach.send_if_modified(|reach| {
            let now = Reach { connected, known, trouble, ..reach.clone() };
            let news = *reach != now;
            *reach = now;
            news
        });
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
