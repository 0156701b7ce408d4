//! Push: what is wanted goes to every agent, and how far they are comes back.
//!
//! Every replica does this, whether it leads or not. [`Push`] is the one thing
//! that the rest of the controller knows of it: snapshots in, how far agents are
//! with each Gateway out.

mod agents;
mod certificates;
pub mod cluster;
mod enrolment;
mod ownership;
mod server;
mod trust;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blixt_api::parts::{Digest, Parts};
use blixt_api::sync::v1alpha1 as wire;
use blixt_gateway::Programming;
use blixt_model::{ObjectName, Snapshot};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tonic::transport::Server;

pub use agents::AgentState;
pub use certificates::{Authority, Material, TrustError};
pub use enrolment::{ReviewError, Reviewer, TokenReviews};
pub use ownership::owners;
pub use trust::Trust;

use agents::{Agents, StreamId};
use server::{Service, service};

/// How often is looked who lives.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// When a connection that takes nothing is given up (HTTP/2 pings).
const PING: Duration = Duration::from_secs(5);

/// How long streams may take to end.
const ENDING: Duration = Duration::from_secs(1);

/// What every agent is assigned; nothing before it is known which there are.
type Assignments = Option<Arc<Assigned>>;

#[derive(Debug, Default, PartialEq)]
struct Assigned {
    vips: BTreeMap<String, BTreeSet<IpAddr>>,
    snat: BTreeMap<String, BTreeSet<IpAddr>>,
}

/// How far an agent says it is.
enum Said {
    Applied(Digest),
    Refused(Digest, String),
}

/// What is pushed to agents, and what they say. Copies are one.
#[derive(Debug, Clone)]
pub struct Push(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    agents: Mutex<State>,
    published: watch::Sender<Option<Arc<Parts>>>,
    assigned: watch::Sender<Assignments>,
    peers: watch::Sender<Vec<String>>,
    programming: watch::Sender<BTreeMap<ObjectName, Option<Programming>>>,
    /// Becomes true when streams have to end.
    ending: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    agents: Agents,
    streams: StreamId,
    /// The Gateways there are.
    gateways: Vec<ObjectName>,
    snat: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Changes to the newest snapshot, by what they are changes of: most
    /// agents ask for the same.
    deltas: HashMap<Digest, Arc<wire::Delta>>,
    /// Whether agents may be farther than was told, and when it was last looked.
    news: bool,
    looked: Instant,
    /// Who owns what, and of what that was computed.
    live: BTreeSet<String>,
    vips: BTreeSet<IpAddr>,
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
            streams: 0,
            gateways: Vec::new(),
            snat: BTreeMap::new(),
            deltas: HashMap::new(),
            news: false,
            looked: Instant::now(),
            live: BTreeSet::new(),
            vips: BTreeSet::new(),
            owned: BTreeMap::new(),
        };
        Self(Arc::new(Inner {
            agents: Mutex::new(state),
            published: watch::Sender::new(None),
            assigned: watch::Sender::new(None),
            peers: watch::Sender::new(Vec::new()),
            programming: watch::Sender::new(BTreeMap::new()),
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
        let Some(parts) = state.agents.publish(parts, snapshot.vips()) else { return false };
        state.gateways = snapshot.gateways().iter().map(|gateway| gateway.name.clone()).collect();
        state.deltas.clear();
        state.news = true;
        drop(state);
        self.0.published.send_replace(Some(parts));
        true
    }

    /// How far agents are with a Gateway of the newest snapshot: for
    /// `Environment::programmed`. `None`, in the first seconds of a replica:
    /// that is not known yet, and what its status says should stay.
    pub fn programming(&self, gateway: &ObjectName) -> Option<Programming> {
        self.state().agents.programming(gateway, Instant::now())
    }

    /// Changes when [`Push::programming`] has another answer for some Gateway.
    pub fn changes(&self) -> watch::Receiver<BTreeMap<ObjectName, Option<Programming>>> {
        self.0.programming.subscribe()
    }

    /// The agents that there are, or were a moment ago.
    pub fn agents(&self) -> Vec<AgentState> {
        self.state().agents.states()
    }

    /// Gives nodes the addresses that their flows to endpoints leave from.
    pub fn assign_snat(&self, sources: &BTreeMap<String, Vec<IpAddr>>) {
        let of_node = |(node, addresses): (&String, &Vec<IpAddr>)| {
            (node.clone(), addresses.iter().copied().collect())
        };
        self.state().snat = sources.iter().map(of_node).collect();
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
        let connections = trust::open(listener, trust.clone());
        let served = Server::builder()
            .http2_keepalive_interval(Some(PING))
            .http2_keepalive_timeout(Some(PING))
            .max_concurrent_streams(Some(8))
            .add_service(service(Service::new(self.clone(), trust, reviewer)))
            .serve_with_incoming_shutdown(connections, until(self.0.ending.subscribe()));
        let ended = async {
            end.await;
            self.0.ending.send_replace(true);
            sleep(ENDING).await;
        };
        tokio::select! {
            served = served => served,
            () = self.look() => Ok(()),
            () = ended => Ok(()),
        }
    }

    /// Looks who lives and what follows of it, for ever.
    async fn look(&self) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look_once(Instant::now());
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
        let programming = due.then(|| {
            (state.news, state.looked) = (false, now);
            let agents = &state.agents;
            let answer = |name: &ObjectName| (name.clone(), agents.programming(name, now));
            state.gateways.iter().map(answer).collect::<BTreeMap<_, _>>()
        });
        drop(state);
        tell(&self.0.assigned, assigned);
        if let Some(programming) = programming {
            tell(&self.0.programming, programming);
        }
    }

    // For the streams.

    fn ending(&self) -> watch::Receiver<bool> {
        self.0.ending.subscribe()
    }

    fn published(&self) -> watch::Receiver<Option<Arc<Parts>>> {
        self.0.published.subscribe()
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

    /// What has changed since `before`.
    fn since(&self, before: &Parts, newest: &Arc<Parts>) -> Arc<wire::Delta> {
        if let Some(delta) = self.state().deltas.get(&before.digest())
            && delta.digest == newest.digest().to_vec()
        {
            return delta.clone();
        }
        let delta = Arc::new(newest.since(before));
        self.state().deltas.insert(before.digest(), delta.clone());
        delta
    }

    fn beat(&self) -> wire::ControllerBeat {
        let state = self.state();
        wire::ControllerBeat {
            digest: state
                .agents
                .newest()
                .map(|newest| newest.digest().to_vec())
                .unwrap_or_default(),
            settled: state.agents.is_settled(Instant::now()),
        }
    }

    fn come(&self, node: &str, version: String, has: Option<Digest>) -> StreamId {
        let mut state = self.state();
        state.streams += 1;
        let stream = state.streams;
        state.agents.come(node, stream, version, has, Instant::now());
        state.news = true;
        stream
    }

    fn heard(&self, node: &str, stream: StreamId) {
        self.state().agents.heard(node, stream, Instant::now());
    }

    fn said(&self, node: &str, stream: StreamId, said: Said) {
        let mut state = self.state();
        match said {
            Said::Applied(digest) => state.news |= state.agents.applied(node, stream, digest),
            Said::Refused(digest, reason) => {
                if state.agents.refused(node, stream, digest, reason.clone()) {
                    state.news = true;
                    tracing::warn!(node, "an agent refuses snapshot {digest}: {reason}");
                }
            }
        }
    }

    fn left(&self, node: &str, stream: StreamId, for_good: bool) {
        let mut state = self.state();
        state.agents.left(node, stream, for_good);
        state.news = true;
    }
}

impl State {
    /// Computes who owns what, if that can have changed.
    fn own(&mut self, now: Instant) {
        let live = self.agents.live(now);
        if live != self.live || self.agents.vips() != &self.vips {
            self.owned = owners(self.agents.vips(), live.iter().map(String::as_str));
            self.vips = self.agents.vips().clone();
            self.live = live;
        }
    }
}

async fn until(mut ending: watch::Receiver<bool>) {
    // An error: nobody is left who could say so.
    let _ = ending.wait_for(|ends| *ends).await;
}

fn tell<T: PartialEq>(told: &watch::Sender<T>, value: T) {
    told.send_if_modified(|told| {
        let news = *told != value;
        *told = value;
        news
    });
}
