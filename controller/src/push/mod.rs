//! Push: what is wanted goes to every agent, and how far they are comes back.
//!
//! Every replica does this, whether it leads or not. [`Push`] is the one thing
//! that the rest of the controller knows of it: snapshots in, how far agents are
//! with each Gateway out.

mod agents;
mod certificates;
pub mod cluster;
mod door;
mod enrolment;
mod falls;
mod health;
mod meters;
mod ownership;
mod scrapers;
mod seldom;
mod server;
mod taken;
mod trust;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blixt_api::parts::{Digest, Parts, certificates_out};
use blixt_api::sync::MAX_MESSAGE_BYTES;
use blixt_api::sync::v1alpha1 as wire;
use blixt_gateway::{MOST_CERTIFICATE_BYTES, Programming};
use blixt_model::{Certificate, ObjectName, Snapshot};
use prometheus_client::registry::Registry;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tonic::transport::Server;
use tracing::{error, info, warn};

pub use agents::AgentState;
pub use certificates::{Authority, Material, TrustError};
pub use enrolment::{ReviewError, Reviewer, TokenReviews};
pub use ownership::{Unfit, owners};
pub use trust::Trust;

use agents::{Agents, Greeting, Published, StreamId};
use health::Turn;
use meters::Meters;
use server::{Service, service};

/// How often is looked who lives.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A replica that the API server has not answered for so long knows less than
/// others may: it is as one that has just begun. Longer than the API server
/// takes to be started anew.
const CUT_OFF: Duration = Duration::from_secs(20);

/// When a connection that takes nothing is given up (HTTP/2 pings).
const PING: Duration = Duration::from_secs(5);

/// How long streams may take to end.
const ENDING: Duration = Duration::from_secs(1);

/// All certificates fit into a message, with what is around them.
const _: () = assert!(2 * MOST_CERTIFICATE_BYTES <= MAX_MESSAGE_BYTES);

/// Why agents can't be served.
const STARTING: &str = "agents are not served yet: the controller is starting";
const NO_CA: &str = "agents are not served yet: there is no CA to make a certificate with; the leader \
                     makes the Secret blixt-ca, or whoever brings one along (the log says what is \
                     wrong with it)";

/// What every agent is assigned; nothing before it is known which there are.
type Assignments = Option<Arc<Assigned>>;

#[derive(Debug, Default, PartialEq)]
struct Assigned {
    vips: BTreeMap<String, BTreeSet<IpAddr>>,
    snat: BTreeMap<String, BTreeSet<IpAddr>>,
}

/// How far an agent says it is.
enum Said {
    Applied {
        digest: Digest,
        /// Addresses that its node has itself, and why they stay there.
        taken: BTreeMap<IpAddr, String>,
        /// Gateways that it does not serve as it should, and why.
        troubles: BTreeMap<ObjectName, String>,
    },
    Refused(Digest, String),
}

/// How far agents are with each Gateway; `None` while nobody knows, as in the
/// first moments of a replica, when no agent has found it yet.
pub type Progress = BTreeMap<ObjectName, Option<Programming>>;

/// How far all agents are, as they say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Heard {
    /// With each Gateway.
    pub programming: Progress,
    /// Which nodes can't use the newest tables, and why. Where that is about
    /// endpoints no Gateway says it.
    pub refusals: BTreeMap<String, String>,
}

/// What is pushed to agents, and what they say. Copies are one.
#[derive(Debug, Clone)]
pub struct Push(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    agents: Mutex<State>,
    published: watch::Sender<Option<Arc<Parts>>>,
    /// What the streams of the newest snapshot end TLS with.
    certificates: watch::Sender<Arc<wire::Certificates>>,
    assigned: watch::Sender<Assignments>,
    peers: watch::Sender<Vec<String>>,
    heard: watch::Sender<Heard>,
    /// Why agents can't be served; nothing when they are.
    unserved: watch::Sender<Option<&'static str>>,
    meters: Meters,
    /// An agent has gone, or can't serve: others take its VIPs at once.
    fell: Notify,
    /// Becomes true when streams have to end.
    ending: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    agents: Agents,
    /// When the API server answered last, as far as somebody tells.
    in_touch: Option<Instant>,
    streams: StreamId,
    /// The Gateways there are.
    gateways: Vec<ObjectName>,
    snat: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Changes to the newest snapshot, by what they are changes of: most
    /// agents ask for the same.
    deltas: HashMap<Digest, (Digest, Option<Arc<wire::Delta>>)>,
    /// Whether agents may be farther than was told, and when it was last looked.
    news: bool,
    looked: Instant,
    /// Who owns what, and of what that was computed.
    live: BTreeSet<String>,
    vips: BTreeSet<IpAddr>,
    unfit: Unfit,
    owned: BTreeMap<String, BTreeSet<IpAddr>>,
}

impl Default for Push {
    fn default() -> Self {
        Self::new()
    }
}

impl Push {
    /// Nothing is published yet, and no agent is there.
    pub fn new() -> Self {
        let state = State {
            agents: Agents::new(Instant::now()),
            in_touch: None,
            streams: 0,
            gateways: Vec::new(),
            snat: BTreeMap::new(),
            deltas: HashMap::new(),
            news: false,
            looked: Instant::now(),
            live: BTreeSet::new(),
            vips: BTreeSet::new(),
            unfit: Unfit::new(),
            owned: BTreeMap::new(),
        };
        Self(Arc::new(Inner {
            agents: Mutex::new(state),
            published: watch::Sender::new(None),
            certificates: watch::Sender::new(Arc::default()),
            assigned: watch::Sender::new(None),
            peers: watch::Sender::new(Vec::new()),
            heard: watch::Sender::new(Heard::default()),
            unserved: watch::Sender::new(Some(STARTING)),
            meters: Meters::default(),
            fell: Notify::new(),
            ending: watch::Sender::new(false),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has all agents take this. `true` if it is something new. Status is to be
    /// compiled after it, so that it tells of this snapshot and not of the last.
    pub fn publish(&self, snapshot: &Snapshot) -> bool {
        let parts = Parts::of(snapshot);
        let mut state = self.state();
        let addresses = snapshot.gateways().iter();
        let addresses = addresses.map(|it| (it.name.clone(), it.addresses.clone())).collect();
        let published = state.agents.publish(parts, addresses);
        let streaming = snapshot.gateways().iter().filter(|gateway| !gateway.streams.is_empty());
        state.agents.have_streams(streaming.map(|gateway| gateway.name.clone()).collect());
        if published == Published::Same {
            return false;
        }
        state.gateways = snapshot.gateways().iter().map(|gateway| gateway.name.clone()).collect();
        state.news = true;
        match published {
            Published::New(parts) => {
                state.deltas.clear();
                drop(state);
                self.0.published.send_replace(Some(parts));
            }
            Published::TooLarge => error!("no tables are sent: {}", state.agents.too_large()),
            Published::Same => {}
        }
        true
    }

    /// Has all agents that serve streams take these certificates. To be said before
    /// the snapshot that names them is published: so they are there when it comes.
    pub fn certify<'a>(&self, certificates: impl IntoIterator<Item = &'a Certificate>) {
        tell(&self.0.certificates, Arc::new(certificates_out(certificates)));
    }

    /// How far agents are with Gateways of the newest snapshot: for
    /// `Environment::programmed`. `None`, in the first seconds of a replica:
    /// that is not known yet, and what its status says should stay.
    pub fn programming(&self, gateways: impl IntoIterator<Item = ObjectName>) -> Progress {
        self.state().programming(gateways, Instant::now())
    }

    /// What agents say, and whenever that changes.
    pub fn heard(&self) -> watch::Receiver<Heard> {
        self.0.heard.subscribe()
    }

    /// Why agents can't be served; nothing when they are.
    pub fn unserved(&self) -> watch::Receiver<Option<&'static str>> {
        self.0.unserved.subscribe()
    }

    /// Shows what is counted.
    pub fn register(&self, registry: &mut Registry) {
        self.0.meters.register(registry);
    }

    /// The agents that there are, or were a moment ago.
    pub fn agents(&self) -> Vec<AgentState> {
        self.state().agents.states(Instant::now())
    }

    /// Gives nodes the addresses that their flows to endpoints leave from.
    pub fn assign_snat(&self, sources: &BTreeMap<String, Vec<IpAddr>>) {
        let of_node = |(node, addresses): (&String, &Vec<IpAddr>)| {
            (node.clone(), addresses.iter().copied().collect())
        };
        self.state().snat = sources.iter().map(of_node).collect();
    }

    /// The API server has answered. Of a replica that it does not answer for
    /// long, others are better.
    pub fn is_in_touch(&self, now: Instant) {
        let mut state = self.state();
        state.in_touch = Some(now);
        state.agents.are_in_touch(now);
    }

    /// Tells agents where all replicas are.
    pub fn tell_peers(&self, urls: Vec<String>) {
        tell(&self.0.peers, urls);
    }

    /// Serves agents until `end`.
    pub async fn serve(
        self,
        listener: TcpListener,
        trust: Trust,
        reviewer: Arc<dyn Reviewer>,
        end: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error> {
        let connections = door::open(listener, trust.clone(), self.0.meters.clone());
        let served = Server::builder()
            .http2_keepalive_interval(Some(PING))
            .http2_keepalive_timeout(Some(PING))
            .max_concurrent_streams(Some(8))
            .add_service(service(Service::new(self.clone(), trust.clone(), reviewer)))
            .serve_with_incoming_shutdown(connections, until(self.0.ending.subscribe()));
        let ended = async {
            end.await;
            self.0.ending.send_replace(true);
            sleep(ENDING).await;
        };
        tokio::select! {
            served = served => served,
            () = self.look(&trust) => Ok(()),
            () = ended => Ok(()),
        }
    }

    /// Looks who lives and what follows of it, for ever.
    async fn look(&self, trust: &Trust) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.0.fell.notified() => {}
            }
            tell(&self.0.unserved, trust.expires().is_none().then_some(NO_CA));
            self.look_once(Instant::now());
            for (what, at) in trust.expires().into_iter().flatten() {
                self.0.meters.expires(what, at);
            }
        }
    }

    fn look_once(&self, now: Instant) {
        let mut state = self.state();
        state.news |= state.agents.forget(now);
        // What is not compiled yet is not nothing.
        let is_known = state.agents.is_settled(now) && state.agents.newest().is_some();
        let assigned = is_known.then(|| {
            state.own(now);
            Arc::new(Assigned { vips: state.owned.clone(), snat: state.snat.clone() })
        });
        // Time alone makes a difference too, to the second.
        let due = state.news || now.saturating_duration_since(state.looked) >= LOOK_AGAIN;
        let heard = due.then(|| {
            (state.news, state.looked) = (false, now);
            let agents = &state.agents;
            let size = agents.size();
            self.0.meters.tell(&agents.states(now), &state.owned, size);
            Heard {
                programming: state.programming(state.gateways.iter().cloned(), now),
                refusals: agents.refusals(now),
            }
        });
        drop(state);
        tell(&self.0.assigned, assigned);
        if let Some(heard) = heard {
            tell(&self.0.heard, heard);
        }
    }

    // For the streams.

    fn ending(&self) -> watch::Receiver<bool> {
        self.0.ending.subscribe()
    }

    fn published(&self) -> watch::Receiver<Option<Arc<Parts>>> {
        self.0.published.subscribe()
    }

    fn certificates(&self) -> watch::Receiver<Arc<wire::Certificates>> {
        self.0.certificates.subscribe()
    }

    fn assigned(&self) -> watch::Receiver<Assignments> {
        self.0.assigned.subscribe()
    }

    fn peers(&self) -> watch::Receiver<Vec<String>> {
        self.0.peers.subscribe()
    }

    fn known(&self, digest: Digest) -> Option<Arc<Parts>> {
        self.state().agents.known(digest).cloned()
    }

    fn meters(&self) -> &Meters {
        &self.0.meters
    }

    /// What has changed since `before`; nothing where that is more than all
    /// there is.
    fn since(&self, before: &Parts, newest: &Arc<Parts>) -> Option<Arc<wire::Delta>> {
        if let Some((of, delta)) = self.state().deltas.get(&before.digest())
            && *of == newest.digest()
        {
            return delta.clone();
        }
        let delta = newest.since(before);
        let delta = (delta.encoded_len() <= newest.message_bytes()).then(|| Arc::new(delta));
        self.state().deltas.insert(before.digest(), (newest.digest(), delta.clone()));
        delta
    }

    fn beat(&self, node: &str, now: Instant) -> wire::ControllerBeat {
        let state = self.state();
        let is_cut_off =
            state.in_touch.is_some_and(|at| now.saturating_duration_since(at) >= CUT_OFF);
        let unsteady = state.agents.unsteady(node, now).unwrap_or_default();
        wire::ControllerBeat {
            digest: state
                .agents
                .newest()
                .map(|newest| newest.digest().to_vec())
                .unwrap_or_default(),
            settled: state.agents.is_settled(now) && !is_cut_off,
            unsteady_ms: u32::try_from(unsteady.as_millis()).unwrap_or(u32::MAX),
        }
    }

    fn come(&self, node: &str, hello: &Greeting) -> StreamId {
        let mut state = self.state();
        state.streams += 1;
        let stream = state.streams;
        let unsteady = state.agents.come(node, stream, hello, Instant::now());
        state.news = true;
        drop(state);
        warn_of(node, unsteady);
        stream
    }

    fn hears(&self, node: &str, stream: StreamId) {
        let unsteady = self.state().agents.heard(node, stream, Instant::now());
        warn_of(node, unsteady);
    }

    fn beats(&self, node: &str, stream: StreamId, trouble: &str, unsteady: bool) {
        let mut state = self.state();
        let turn = state.agents.beats(node, stream, (trouble, unsteady), Instant::now());
        state.news |= turn.is_some();
        drop(state);
        match turn {
            Some(Turn::Fell) => {
                self.0.fell.notify_one();
                warn!(node, "an agent can't serve, and owns no VIP until it can: {trouble}");
            }
            Some(Turn::Recovered) => info!(node, "an agent can serve again"),
            None => {}
        }
    }

    fn said(&self, node: &str, stream: StreamId, said: Said) {
        let mut state = self.state();
        match said {
            Said::Applied { digest, taken, troubles } => {
                state.news |= state.agents.applied(node, stream, digest);
                let why = taken.iter().map(|(address, why)| format!("{address} {why}"));
                let why = why.collect::<Vec<_>>().join("; ");
                if state.agents.taken(node, stream, taken, Instant::now()) {
                    state.news = true;
                    match why.is_empty() {
                        true => info!(node, "all addresses of Gateways can be used again"),
                        false => warn!(node, "addresses of Gateways stay a node's own: {why}"),
                    }
                }
                if state.agents.troubled(node, stream, troubles.clone()) {
                    state.news = true;
                    for (gateway, why) in troubles {
                        warn!(node, "an agent does not serve all of Gateway {gateway}: {why}");
                    }
                }
            }
            Said::Refused(digest, reason) => {
                if state.agents.refused(node, stream, digest, reason.clone()) {
                    state.news = true;
                    warn!(node, "an agent refuses snapshot {digest}: {reason}");
                }
            }
        }
    }

    fn left(&self, node: &str, stream: StreamId, for_good: bool) {
        let mut state = self.state();
        state.agents.left(node, stream, for_good);
        state.news = true;
        drop(state);
        self.0.fell.notify_one();
    }
}

impl State {
    fn programming(&self, of: impl IntoIterator<Item = ObjectName>, now: Instant) -> Progress {
        let survey = self.agents.survey(now);
        let answer = |name| {
            let programming = survey.programming(&name);
            (name, programming)
        };
        of.into_iter().map(answer).collect()
    }

    /// Computes who owns what, if that can have changed.
    fn own(&mut self, now: Instant) {
        let (live, vips) = (self.agents.live(now), self.agents.vips());
        let unfit = self.agents.unfit();
        if live != self.live || vips != self.vips || unfit != self.unfit {
            self.owned = owners(&vips, live.iter().map(String::as_str), &unfit);
            (self.vips, self.live, self.unfit) = (vips, live, unfit);
        }
    }
}

/// Tells whose VIPs others have, and why.
fn warn_of(node: &str, unsteady: Option<Duration>) {
    if let Some(wait) = unsteady {
        warn!(
            node,
            "an agent was silent again and again of late: for {wait:.0?} it owns VIPs only where no \
             other node can; look at its link and at why it ends, and restart it to have it back at \
             once"
        );
    }
}

async fn until(mut ending: watch::Receiver<bool>) {
    // An error: nobody is left who could say so.
    let _ = ending.wait_for(|ends| *ends).await;
}

/// Tells it, if it is another value than before.
pub(crate) fn tell<T: PartialEq>(told: &watch::Sender<T>, value: T) {
    told.send_if_modified(|told| {
        let news = *told != value;
        *told = value;
        news
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_is_cut_off_is_no_longer_settled() {
        let (push, begun) = (Push::new(), Instant::now());
        let after = |s| push.beat("node", begun + Duration::from_secs(s)).settled;
        assert!(!after(0), "it has just begun");
        // Nobody tells.
        assert!(after(1_000));
        push.is_in_touch(begun + Duration::from_secs(1_000));
        assert_eq!([1_000, 1_019, 1_021].map(after), [true, true, false]);
        push.is_in_touch(begun + Duration::from_secs(1_100));
        assert!(after(1_101));
    }
}
