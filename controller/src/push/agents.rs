//! The agents as one replica sees them: who lives, who has applied what, and
//! what follows of it. Pure: time is an argument.

mod survey;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_api::parts::{Digest, Parts};
use blixt_api::sync::{BEAT, MAX_MESSAGE_BYTES};
use blixt_model::ObjectName;

use super::falls::Falls;
use super::health::{Health, Turn, UNSTEADY};
use super::ownership::Unfit;
use super::taken::Taken;

/// An agent that has said nothing for so long owns nothing.
pub(super) const LIVES: Duration = BEAT.saturating_mul(4);

/// An agent that has been away for so long does not count for a Gateway's
/// `Programmed`; and a new one has so long to say how far it is before it does.
const COUNTS: Duration = Duration::from_secs(10);

/// How long a replica listens before it says who owns what: all agents have
/// come back to it by then, since they try at least every two seconds.
const SETTLES: Duration = Duration::from_secs(5);

/// Snapshots that changes can be told against.
const REMEMBERED: usize = 8;

/// What a message has around a snapshot: a tag and a length.
const AROUND: usize = 16;

/// All that a replica knows of its agents, and what it tells them.
#[derive(Debug)]
pub(crate) struct Agents {
    started: Instant,
    /// By node.
    by_node: BTreeMap<String, Agent>,
    /// The newest last.
    published: VecDeque<Arc<Parts>>,
    falls: Falls,
    /// What addresses its Gateways have.
    addresses: BTreeMap<ObjectName, Vec<IpAddr>>,
    /// Those that nodes have themselves.
    taken: Taken,
    /// The Gateways of the newest one that have HTTP, HTTPS or TLS listeners.
    streaming: BTreeSet<ObjectName>,
    /// The newest one, if no message takes it: the last one before that did
    /// stays in force.
    withheld: Option<Parts>,
    /// How large the newest one is as a message, and how large it may be.
    bytes: usize,
    most_bytes: usize,
}

/// Tells one stream of an agent from the one before.
pub(crate) type StreamId = u64;

/// What an agent says when it comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// Its version.
    pub(crate) version: String,
    /// What it has.
    pub(crate) has: Option<Digest>,
    /// Whether it serves HTTP, HTTPS and TLS listeners.
    pub(crate) streams: bool,
}

#[derive(Debug)]
struct Agent {
    stream: StreamId,
    version: String,
    /// Whether it serves HTTP, HTTPS and TLS listeners.
    streams: bool,
    /// When it came.
    since: Instant,
    /// When it last said something.
    heard: Instant,
    connected: bool,
    /// What it says it has; perhaps nothing that was published here (yet).
    has: Option<Digest>,
    /// The newest of its snapshots that was published here.
    applied: Option<Arc<Parts>>,
    /// Since when that is only what it had before it was away, and it has not
    /// said again that it has it. It is believed for a moment.
    unsure: Option<Instant>,
    /// The last one that it could not use, until it says that it uses another.
    refused: Option<Refused>,
    /// Whether it has said how far it is since it came.
    answered: bool,
    /// Gateways that it does not serve as it should, and why.
    troubles: BTreeMap<ObjectName, String>,
    health: Health,
}

#[derive(Debug)]
struct Refused {
    digest: Digest,
    snapshot: Option<Arc<Parts>>,
    reason: String,
}

/// Whether there is a snapshot that is new.
#[derive(Debug, PartialEq)]
pub(crate) enum Published {
    /// This one.
    New(Arc<Parts>),
    /// None that was not there before.
    Same,
    /// One that no message takes, and so is not sent.
    TooLarge,
}

/// An agent, for others to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentState {
    /// Its node.
    pub node: String,
    /// Its version.
    pub version: String,
    /// Whether a stream of it is open.
    pub connected: bool,
    /// Whether it has said something within the last second.
    pub lives: bool,
    /// Whether it uses the newest snapshot.
    pub current: bool,
    /// Why it does not, if it said so.
    pub refused: Option<String>,
    /// Why it can't serve traffic, or is not relied on.
    pub trouble: Option<String>,
}

impl Agents {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            started: now,
            by_node: BTreeMap::new(),
            published: VecDeque::new(),
            falls: Falls::default(),
            addresses: BTreeMap::new(),
            taken: Taken::default(),
            streaming: BTreeSet::new(),
            withheld: None,
            bytes: 0,
            most_bytes: MAX_MESSAGE_BYTES,
        }
    }

    /// These Gateways of the newest snapshot have HTTP, HTTPS or TLS listeners.
    pub(crate) fn have_streams(&mut self, gateways: BTreeSet<ObjectName>) {
        self.streaming = gateways;
    }

    /// Takes a new snapshot.
    pub(crate) fn publish(
        &mut self,
        parts: Parts,
        addresses: BTreeMap<ObjectName, Vec<IpAddr>>,
    ) -> Published {
        if self.newest().is_some_and(|newest| newest.digest() == parts.digest()) {
            self.addresses = addresses;
            let was_withheld = self.withheld.take().is_some();
            self.bytes = parts.message_bytes();
            return match self.newest() {
                // What Gateways are told is another thing now.
                Some(newest) if was_withheld => Published::New(newest.clone()),
                _ => Published::Same,
            };
        }
        if self.withheld.as_ref().is_some_and(|known| known.digest() == parts.digest()) {
            return Published::Same;
        }
        self.bytes = parts.message_bytes();
        if self.bytes + AROUND > self.most_bytes {
            self.withheld = Some(parts);
            return Published::TooLarge;
        }
        (self.withheld, self.addresses) = (None, addresses);
        let parts = match self.newest() {
            Some(newest) => parts.sharing(newest),
            None => parts,
        };
        let parts = Arc::new(parts);
        self.published.push_back(parts.clone());
        if self.published.len() > REMEMBERED {
            self.published.pop_front();
        }
        // Another replica may have been faster, and agents with it.
        for agent in self.by_node.values_mut() {
            if agent.has == Some(parts.digest()) {
                (agent.applied, agent.unsure) = (Some(parts.clone()), None);
            }
            if let Some(refused) = &mut agent.refused
                && refused.digest == parts.digest()
            {
                refused.snapshot = Some(parts.clone());
            }
        }
        Published::New(parts)
    }

    pub(crate) fn newest(&self) -> Option<&Arc<Parts>> {
        self.published.back()
    }

    /// One of the last snapshots.
    pub(crate) fn known(&self, digest: Digest) -> Option<&Arc<Parts>> {
        self.published.iter().rev().find(|parts| parts.digest() == digest)
    }

    /// An agent comes, perhaps back. Its newest stream is the one that counts. Gives
    /// for how long it is not to be relied on, if that is news.
    pub(crate) fn come(
        &mut self,
        node: &str,
        stream: StreamId,
        hello: &Greeting,
        now: Instant,
    ) -> Option<Duration> {
        let has = hello.has;
        let before = self.by_node.remove(node);
        let known = has.and_then(|digest| {
            // Perhaps it is too old for us to know it otherwise.
            let its = before.as_ref().and_then(|agent| agent.applied.as_ref());
            let its = its.filter(|parts| parts.digest() == digest);
            self.known(digest).or(its).cloned()
        });
        let mut agent = Agent {
            stream,
            version: hello.version.clone(),
            streams: hello.streams,
            since: now,
            heard: now,
            connected: true,
            has,
            answered: known.is_some(),
            applied: known,
            unsure: None,
            refused: None,
            troubles: BTreeMap::new(),
            health: Health::default(),
        };
        if let Some(before) = before {
            agent.answered |= before.answered;
            agent.health = before.health;
            // It says soon whether these are over.
            agent.troubles = before.troubles;
            agent.refused = before.refused.filter(|refused| Some(refused.digest) != has);
            if agent.applied.is_none() {
                agent.applied = before.applied;
                agent.unsure = Some(before.unsure.unwrap_or(now));
            }
        }
        self.by_node.insert(node.to_owned(), agent);
        self.falls.heard(node, now)
    }

    /// An agent lives. Gives for how long it is not to be relied on, if that is news.
    pub(crate) fn heard(&mut self, node: &str, stream: StreamId, now: Instant) -> Option<Duration> {
        self.speaking(node, stream)?.heard = now;
        self.falls.heard(node, now)
    }

    /// The API server has answered.
    pub(crate) fn are_in_touch(&mut self, now: Instant) {
        self.falls.answered(now);
    }

    /// For how long an agent is not to be relied on, since it was silent again and
    /// again of late.
    pub(crate) fn unsteady(&self, node: &str, now: Instant) -> Option<Duration> {
        self.falls.of(node, now)
    }

    /// An agent says whether it can serve traffic: what its trouble is, and
    /// whether it was in trouble again and again.
    pub(crate) fn beats(
        &mut self,
        node: &str,
        stream: StreamId,
        (trouble, unsteady): (&str, bool),
        now: Instant,
    ) -> Option<Turn> {
        self.speaking(node, stream)?.health.said(trouble, unsteady, now)
    }

    /// An agent uses a snapshot. `true` if that is news.
    pub(crate) fn applied(&mut self, node: &str, stream: StreamId, digest: Digest) -> bool {
        let known = self.known(digest).cloned();
        let Some(agent) = self.speaking(node, stream) else { return false };
        let news = agent.has != Some(digest) || agent.refused.is_some() || !agent.answered;
        agent.has = Some(digest);
        // One that is not known here another replica has published, and so will
        // we, or have: what is said of Gateways stays meanwhile, since endpoints
        // alone may be what differs.
        if known.is_some() {
            (agent.applied, agent.unsure) = (known, None);
        }
        agent.refused = None;
        agent.answered = true;
        news
    }

    /// An agent's node has these addresses itself, which Gateways should have.
    /// `true` if that is news.
    pub(crate) fn taken(
        &mut self,
        node: &str,
        stream: StreamId,
        addresses: BTreeMap<IpAddr, String>,
        now: Instant,
    ) -> bool {
        self.speaking(node, stream).is_some() && self.taken.said(node, addresses, now)
    }

    /// These are the Gateways that an agent does not serve as it should, and why.
    /// `true` if that is news.
    pub(crate) fn troubled(
        &mut self,
        node: &str,
        stream: StreamId,
        troubles: BTreeMap<ObjectName, String>,
    ) -> bool {
        let Some(agent) = self.speaking(node, stream) else { return false };
        let news = agent.troubles != troubles;
        agent.troubles = troubles;
        news
    }

    /// An agent can't use a snapshot. `true` if that is news.
    pub(crate) fn refused(
        &mut self,
        node: &str,
        stream: StreamId,
        digest: Digest,
        reason: String,
    ) -> bool {
        let snapshot = self.known(digest).cloned();
        let Some(agent) = self.speaking(node, stream) else { return false };
        let known = agent.refused.as_ref();
        let news = known.is_none_or(|known| known.digest != digest || known.reason != reason);
        agent.refused = Some(Refused { digest, snapshot, reason });
        agent.answered = true;
        news
    }

    /// A stream has ended; `for_good` if the agent said that it ends.
    pub(crate) fn left(&mut self, node: &str, stream: StreamId, for_good: bool) {
        let Some(agent) = self.speaking(node, stream) else { return };
        agent.connected = false;
        if for_good {
            self.by_node.remove(node);
            self.falls.ended(node);
        }
    }

    /// Forgets those who have been away for long. `true` if there were any.
    pub(crate) fn forget(&mut self, now: Instant) -> bool {
        self.falls.forget(now);
        let before = self.by_node.len();
        self.by_node.retain(|_, agent| agent.is_there(now));
        let agents = &self.by_node;
        let forgotten = self.taken.forget(|node| agents.contains_key(node), now);
        agents.len() != before || forgotten
    }

    fn speaking(&mut self, node: &str, stream: StreamId) -> Option<&mut Agent> {
        self.by_node.get_mut(node).filter(|agent| agent.stream == stream)
    }

    /// Whether it is known by now which agents there are.
    pub(crate) fn is_settled(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.started) >= SETTLES
    }

    /// Those who can own a VIP: they live, have tables at all, are not in trouble, and
    /// were not silent again and again of late. Where that is nobody, those who are out
    /// of that since a moment ago: while one node comes back another one may go, as in an
    /// upgrade.
    pub(crate) fn live(&self, now: Instant) -> BTreeSet<String> {
        let those = |may_own: fn(&Health) -> bool| {
            let owners = self.by_node.iter().filter(move |(_, agent)| agent.owns(now, may_own));
            owners.map(|(node, _)| node.clone())
        };
        let is_steady = |node: &String| self.unsteady(node, now).is_none();
        let steady: BTreeSet<_> = those(Health::is_well).filter(is_steady).collect();
        if steady.is_empty() { those(Health::can_serve).collect() } else { steady }
    }

    /// For some VIPs, those who say that they do not serve their Gateways as they
    /// should, or can't know how.
    pub(crate) fn unfit(&self) -> Unfit {
        let mut unfit = Unfit::new();
        for (node, agent) in &self.by_node {
            let unknown = self.streaming.iter().filter(|_| !agent.streams);
            for name in agent.troubles.keys().chain(unknown) {
                for &address in self.addresses.get(name).into_iter().flatten() {
                    unfit.entry(address).or_default().insert(node.clone());
                }
            }
        }
        unfit
    }

    /// How large the newest snapshot is as a message, and whether agents do
    /// not get it for that.
    pub(crate) fn size(&self) -> (usize, bool) {
        (self.bytes, self.withheld.is_some())
    }

    /// The VIPs of the newest snapshot that nodes can own: no node has them itself.
    pub(crate) fn vips(&self) -> BTreeSet<IpAddr> {
        let all = self.addresses.values().flatten().copied();
        all.filter(|address| self.taken.by(address).is_none()).collect()
    }

    /// Who can't use the newest tables, and why; also where no Gateway is the
    /// worse for it, as it is with endpoints.
    pub(crate) fn refusals(&self, now: Instant) -> BTreeMap<String, String> {
        let newest = self.newest().map(|newest| newest.digest());
        let behind = self.by_node.iter().filter(|(_, agent)| agent.is_there(now));
        let behind = behind.filter(|(_, agent)| agent.has.is_none() || agent.has != newest);
        let refused = behind.filter_map(|(node, agent)| {
            Some((node.clone(), agent.refused.as_ref()?.reason.clone()))
        });
        refused.collect()
    }

    /// Why a snapshot is not sent, and what to do.
    pub(crate) fn too_large(&self) -> String {
        format!(
            "The tables of all Gateways take {} bytes, and a message to an agent has {} at most, \
             so those before stay: use fewer Gateways, or Services with fewer endpoints.",
            self.bytes, self.most_bytes
        )
    }

    /// All of them.
    pub(crate) fn states(&self, now: Instant) -> Vec<AgentState> {
        let newest = self.newest().map(|newest| newest.digest());
        let state = |(node, agent): (&String, &Agent)| AgentState {
            node: node.clone(),
            version: agent.version.clone(),
            connected: agent.connected,
            lives: agent.lives(now),
            current: agent.has.is_some() && agent.has == newest,
            refused: agent.refused.as_ref().map(|refused| refused.reason.clone()),
            trouble: match agent.health.trouble() {
                None if self.unsteady(node, now).is_some() => Some(UNSTEADY.to_owned()),
                trouble => trouble.map(str::to_owned),
            },
        };
        self.by_node.iter().map(state).collect()
    }
}

impl Agent {
    fn is_silent_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard)
    }

    fn lives(&self, now: Instant) -> bool {
        self.is_silent_for(now) < LIVES
    }

    /// Whether it is connected, or was a moment ago.
    fn is_there(&self, now: Instant) -> bool {
        self.is_silent_for(now) < COUNTS
    }

    fn owns(&self, now: Instant, may_own: fn(&Health) -> bool) -> bool {
        self.has.is_some() && may_own(&self.health) && self.lives(now)
    }
}

#[cfg(test)]
mod tests;
