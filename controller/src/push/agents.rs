//! The agents as one replica sees them: who lives, who has applied what, and
//! what follows of it. Pure: time is an argument.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_api::parts::{Digest, Parts};
use blixt_api::sync::BEAT;
use blixt_gateway::Programming;
use blixt_model::ObjectName;

/// An agent that has said nothing for so long owns nothing.
const LIVES: Duration = BEAT.saturating_mul(4);

/// An agent that has been away for so long does not count for a Gateway's
/// `Programmed`; and a new one has so long to say how far it is before it does.
const COUNTS: Duration = Duration::from_secs(10);

/// How long a replica listens before it says who owns what: all agents have
/// come back to it by then, since they try at least every two seconds.
const SETTLES: Duration = Duration::from_secs(5);

/// Snapshots that changes can be told against.
const REMEMBERED: usize = 8;

/// All that a replica knows of its agents, and what it tells them.
#[derive(Debug)]
pub(crate) struct Agents {
    started: Instant,
    /// By node.
    by_node: BTreeMap<String, Agent>,
    /// The newest last.
    published: VecDeque<Arc<Parts>>,
    vips: BTreeSet<IpAddr>,
}

/// Tells one stream of an agent from the one before.
pub(crate) type StreamId = u64;

#[derive(Debug)]
struct Agent {
    stream: StreamId,
    version: String,
    /// When it came.
    since: Instant,
    /// When it last said something.
    heard: Instant,
    connected: bool,
    /// What it says it has; perhaps nothing that was published here (yet).
    has: Option<Digest>,
    /// The newest of its snapshots that was published here.
    applied: Option<Arc<Parts>>,
    refused: Option<Refused>,
    /// Whether it has said how far it is since it came.
    answered: bool,
}

#[derive(Debug)]
struct Refused {
    digest: Digest,
    snapshot: Option<Arc<Parts>>,
    reason: String,
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
    /// Whether it uses the newest snapshot.
    pub current: bool,
    /// Why it does not, if it said so.
    pub refused: Option<String>,
}

impl Agents {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            started: now,
            by_node: BTreeMap::new(),
            published: VecDeque::new(),
            vips: BTreeSet::new(),
        }
    }

    /// Takes a new snapshot. `None` if it is the one there is.
    pub(crate) fn publish(&mut self, parts: Parts, vips: BTreeSet<IpAddr>) -> Option<Arc<Parts>> {
        self.vips = vips;
        if self.newest().is_some_and(|newest| newest.digest() == parts.digest()) {
            return None;
        }
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
                agent.applied = Some(parts.clone());
            }
            if let Some(refused) = &mut agent.refused
                && refused.digest == parts.digest()
            {
                refused.snapshot = Some(parts.clone());
            }
        }
        Some(parts)
    }

    pub(crate) fn newest(&self) -> Option<&Arc<Parts>> {
        self.published.back()
    }

    /// One of the last snapshots.
    pub(crate) fn known(&self, digest: Digest) -> Option<&Arc<Parts>> {
        self.published.iter().rev().find(|parts| parts.digest() == digest)
    }

    /// An agent comes, perhaps back. Its newest stream is the one that counts.
    pub(crate) fn come(
        &mut self,
        node: &str,
        stream: StreamId,
        version: String,
        has: Option<Digest>,
        now: Instant,
    ) {
        let known = has.and_then(|digest| self.known(digest).cloned());
        let before = self.by_node.remove(node);
        let counted = before.as_ref().is_some_and(|agent| agent.answered);
        let agent = Agent {
            stream,
            version,
            since: now,
            heard: now,
            connected: true,
            has,
            answered: counted || known.is_some(),
            applied: known.or_else(|| before?.applied),
            refused: None,
        };
        self.by_node.insert(node.to_owned(), agent);
    }

    /// An agent lives.
    pub(crate) fn heard(&mut self, node: &str, stream: StreamId, now: Instant) {
        if let Some(agent) = self.speaking(node, stream) {
            agent.heard = now;
        }
    }

    /// An agent uses a snapshot. `true` if that is news.
    pub(crate) fn applied(&mut self, node: &str, stream: StreamId, digest: Digest) -> bool {
        let known = self.known(digest).cloned();
        let Some(agent) = self.speaking(node, stream) else { return false };
        let news = agent.has != Some(digest) || agent.refused.is_some() || !agent.answered;
        agent.has = Some(digest);
        agent.applied = known.or_else(|| agent.applied.take());
        agent.refused = None;
        agent.answered = true;
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
        }
    }

    /// Forgets those who have been away for long. `true` if there were any.
    pub(crate) fn forget(&mut self, now: Instant) -> bool {
        let before = self.by_node.len();
        self.by_node.retain(|_, agent| agent.is_silent_for(now) < COUNTS);
        self.by_node.len() != before
    }

    fn speaking(&mut self, node: &str, stream: StreamId) -> Option<&mut Agent> {
        self.by_node.get_mut(node).filter(|agent| agent.stream == stream)
    }

    /// Whether it is known by now which agents there are.
    pub(crate) fn is_settled(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.started) >= SETTLES
    }

    /// Those who can own a VIP: they live, and have tables at all.
    pub(crate) fn live(&self, now: Instant) -> BTreeSet<String> {
        let live = self.by_node.iter().filter(|(_, agent)| agent.owns(now));
        live.map(|(node, _)| node.clone()).collect()
    }

    /// The VIPs of the newest snapshot.
    pub(crate) fn vips(&self) -> &BTreeSet<IpAddr> {
        &self.vips
    }

    /// How far the agents are with a Gateway of the newest snapshot. `None`
    /// while a replica that has just begun has yet to hear of its agents: then
    /// nobody knows better than what status says already.
    pub(crate) fn programming(&self, name: &ObjectName, now: Instant) -> Option<Programming> {
        let begins = now.saturating_duration_since(self.started) < COUNTS;
        let pending = || (!begins).then_some(Programming::Pending);
        let Some(newest) = self.newest() else { return pending() };
        let Some(wanted) = newest.gateway(name) else { return pending() };
        let is_same =
            |parts: &Arc<Parts>| Arc::ptr_eq(parts, newest) || parts.gateway(name) == Some(wanted);
        let mut found = None;
        for (node, agent) in self.by_node.iter().filter(|(_, agent)| agent.counts(now)) {
            if agent.applied.as_ref().is_some_and(is_same) {
                found.get_or_insert(Programming::Applied);
                continue;
            }
            match &agent.refused {
                Some(refused) if refused.snapshot.as_ref().is_some_and(is_same) => {
                    let reason = refused.reason.clone();
                    return Some(Programming::Refused { node: node.clone(), reason });
                }
                _ => found = Some(Programming::Pending),
            }
        }
        match found {
            None if self.by_node.values().all(|agent| agent.is_silent_for(now) >= COUNTS) => {
                (!begins).then_some(Programming::NoAgent)
            }
            None | Some(Programming::Pending) => pending(),
            found => found,
        }
    }

    /// All of them.
    pub(crate) fn states(&self) -> Vec<AgentState> {
        let newest = self.newest().map(|newest| newest.digest());
        let state = |(node, agent): (&String, &Agent)| AgentState {
            node: node.clone(),
            version: agent.version.clone(),
            connected: agent.connected,
            current: agent.has.is_some() && agent.has == newest,
            refused: agent.refused.as_ref().map(|refused| refused.reason.clone()),
        };
        self.by_node.iter().map(state).collect()
    }
}

impl Agent {
    fn is_silent_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard)
    }

    fn owns(&self, now: Instant) -> bool {
        self.has.is_some() && self.is_silent_for(now) < LIVES
    }

    fn counts(&self, now: Instant) -> bool {
        let is_new = now.saturating_duration_since(self.since) < COUNTS;
        self.is_silent_for(now) < COUNTS && (self.answered || !is_new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blixt_model::{
        Affinity, Backend, Endpoint, EndpointState, Gateway, Generation, HashSeed, Listener,
        ListenerName, Port, Protocol, ServiceIndex, ServicePort, ServicePortId, Snapshot, Target,
        Weight,
    };

    /// The Gateways `a` and `b`, the latter on `port`, before some endpoints.
    fn snapshot(number: u16, endpoints: u8) -> Parts {
        let port = |number: u16| Port::new(number).unwrap();
        let endpoint = |host| Endpoint {
            address: [10, 0, 0, host].into(),
            port: port(80),
            state: EndpointState::Ready,
        };
        let service = ServicePort {
            id: ServicePortId {
                service: "web".parse().unwrap(),
                protocol: Protocol::Tcp,
                port: port(80),
            },
            affinity: Affinity::None,
            endpoints: (1..=endpoints).map(endpoint).collect(),
        };
        let gateway = |name: &str, host, number| Gateway {
            name: name.parse().unwrap(),
            addresses: vec![[192, 0, 2, host].into()],
            listeners: vec![Listener {
                name: ListenerName::new("tcp").unwrap(),
                protocol: Protocol::Tcp,
                port: port(number),
                route: None,
                backends: vec![Backend {
                    weight: Weight::DEFAULT,
                    target: Target::Service(ServiceIndex(0)),
                }],
            }],
            streams: vec![],
        };
        let gateways = vec![gateway("a", 1, 80), gateway("b", 2, number)];
        Parts::of(&Snapshot::new(Generation(1), HashSeed(0), gateways, vec![service]).unwrap())
    }

    fn vips() -> BTreeSet<IpAddr> {
        [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()].into()
    }

    /// A replica with a clock that a test sets.
    struct Replica {
        agents: Agents,
        now: Instant,
    }

    impl Replica {
        fn new() -> Self {
            let now = Instant::now();
            Self { agents: Agents::new(now), now }
        }

        /// One that has run for long.
        fn old() -> Self {
            let mut replica = Self::new();
            replica.now += Duration::from_secs(60);
            replica
        }

        fn publish(&mut self, number: u16, endpoints: u8) -> Digest {
            let parts = snapshot(number, endpoints);
            let digest = parts.digest();
            self.agents.publish(parts, vips());
            digest
        }

        fn come(&mut self, node: &str, stream: StreamId, has: Option<Digest>) {
            self.agents.come(node, stream, "1".to_owned(), has, self.now);
        }

        fn pass(&mut self, ms: u64) {
            self.now += Duration::from_millis(ms);
        }

        fn both(&self) -> [Option<Programming>; 2] {
            ["a", "b"].map(|name| self.agents.programming(&name.parse().unwrap(), self.now))
        }
    }

    const APPLIED: Option<Programming> = Some(Programming::Applied);
    const PENDING: Option<Programming> = Some(Programming::Pending);
    const NO_AGENT: Option<Programming> = Some(Programming::NoAgent);

    #[test]
    fn a_gateway_is_programmed_when_all_agents_have_it() {
        let mut replica = Replica::old();
        let first = replica.publish(80, 1);
        assert_eq!(replica.both(), [NO_AGENT, NO_AGENT], "nobody carries it");
        replica.come("n1", 1, None);
        replica.come("n2", 2, None);
        assert_eq!(replica.both(), [PENDING, PENDING]);
        assert!(replica.agents.applied("n1", 1, first));
        assert!(replica.agents.applied("n2", 2, first));
        assert!(!replica.agents.applied("n2", 2, first), "no news");
        assert_eq!(replica.both(), [APPLIED, APPLIED]);
        // A Gateway that has changed waits for all; the other one does not.
        let second = replica.publish(81, 1);
        assert_eq!(replica.both(), [APPLIED, PENDING]);
        replica.agents.applied("n1", 1, second);
        assert_eq!(replica.both(), [APPLIED, PENDING]);
        replica.agents.applied("n2", 2, second);
        assert_eq!(replica.both(), [APPLIED, APPLIED]);
        assert!(replica.agents.states().iter().all(|agent| agent.current && agent.connected));
    }

    #[test]
    fn endpoints_never_make_it_flap() {
        let mut replica = Replica::old();
        let first = replica.publish(80, 1);
        replica.come("n1", 1, Some(first));
        // Far more changes than are remembered, before the agent says anything,
        // and then it says that it has one that was never published here.
        for endpoints in 2..100 {
            replica.publish(80, endpoints);
            assert_eq!(replica.both(), [APPLIED, APPLIED]);
        }
        replica.agents.applied("n1", 1, snapshot(80, 200).digest());
        assert_eq!(replica.both(), [APPLIED, APPLIED]);
    }

    #[test]
    fn a_refusal_names_node_and_reason_and_others_are_left_alone() {
        let mut replica = Replica::old();
        let first = replica.publish(80, 1);
        replica.come("n1", 1, Some(first));
        replica.come("n2", 2, Some(first));
        let second = replica.publish(81, 1);
        replica.agents.applied("n1", 1, second);
        assert!(replica.agents.refused("n2", 2, second, "too many".to_owned()));
        assert!(!replica.agents.refused("n2", 2, second, "too many".to_owned()));
        let refused = Programming::Refused { node: "n2".to_owned(), reason: "too many".to_owned() };
        assert_eq!(replica.both(), [APPLIED, Some(refused)]);
        // Back to what everybody has.
        replica.publish(80, 1);
        assert_eq!(replica.both(), [APPLIED, PENDING]);
        replica.agents.applied("n1", 1, first);
        replica.agents.applied("n2", 2, first);
        assert_eq!(replica.both(), [APPLIED, APPLIED]);
    }

    #[test]
    fn lost_agents_do_not_count_after_ten_seconds() {
        let mut replica = Replica::old();
        let first = replica.publish(80, 1);
        replica.come("n1", 1, Some(first));
        replica.come("n2", 2, Some(first));
        let second = replica.publish(81, 1);
        replica.agents.applied("n1", 1, second);
        replica.agents.left("n2", 2, false);
        replica.pass(9_900);
        replica.agents.heard("n1", 1, replica.now);
        replica.agents.heard("n2", 2, replica.now - Duration::from_millis(9_900));
        assert_eq!(replica.both(), [APPLIED, PENDING]);
        replica.pass(200);
        assert_eq!(replica.both(), [APPLIED, APPLIED]);
        assert!(replica.agents.forget(replica.now));
        assert_eq!(replica.agents.states().len(), 1);
        // The last one.
        replica.pass(10_000);
        assert_eq!(replica.both(), [NO_AGENT, NO_AGENT]);
    }

    #[test]
    fn a_node_that_joins_makes_nothing_flap_but_not_for_ever() {
        let mut replica = Replica::old();
        let first = replica.publish(80, 1);
        replica.come("n1", 1, Some(first));
        replica.come("new", 2, None);
        assert_eq!(replica.both(), [APPLIED, APPLIED]);
        replica.pass(10_100);
        replica.agents.heard("n1", 1, replica.now);
        replica.agents.heard("new", 2, replica.now);
        assert_eq!(replica.both(), [PENDING, PENDING]);
    }

    #[test]
    fn a_replica_that_has_just_begun_does_not_know() {
        let mut replica = Replica::new();
        let first = replica.publish(80, 1);
        assert_eq!(replica.both(), [None, None]);
        replica.come("n1", 1, Some(first));
        assert_eq!(replica.both(), [APPLIED, APPLIED]);
        replica.pass(10_000);
        assert_eq!(replica.both(), [NO_AGENT, NO_AGENT]);
    }

    #[test]
    fn only_the_newest_stream_of_an_agent_counts() {
        let mut replica = Replica::old();
        let first = replica.publish(80, 1);
        replica.come("n1", 1, Some(first));
        replica.come("n1", 2, None);
        assert_eq!(replica.both(), [APPLIED, APPLIED], "it has come back as it was");
        replica.agents.left("n1", 1, false);
        assert!(replica.agents.states()[0].connected);
        assert!(!replica.agents.refused("n1", 1, first, "late".to_owned()));
        replica.agents.left("n1", 2, true);
        assert_eq!(replica.agents.states(), []);
    }

    #[test]
    fn who_is_silent_owns_nothing_after_a_second() {
        let mut replica = Replica::old();
        let first = replica.publish(80, 1);
        for (node, stream) in [("n1", 1), ("n2", 2), ("n3", 3)] {
            replica.come(node, stream, Some(first));
        }
        // Has no tables, so it would answer nobody.
        replica.come("new", 4, None);
        let live = |replica: &Replica| Vec::from_iter(replica.agents.live(replica.now));
        assert_eq!(live(&replica), ["n1", "n2", "n3"]);
        replica.pass(999);
        replica.agents.heard("n2", 2, replica.now);
        assert_eq!(live(&replica), ["n1", "n2", "n3"]);
        replica.pass(1);
        assert_eq!(live(&replica), ["n2"]);
    }

    #[test]
    fn a_replica_says_who_owns_what_when_all_have_had_time_to_come() {
        let mut replica = Replica::new();
        assert!(!replica.agents.is_settled(replica.now));
        replica.pass(5_000);
        assert!(replica.agents.is_settled(replica.now));
    }
}
