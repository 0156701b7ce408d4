//! What a replica knows of its agents, with a clock that the tests set.

use super::*;
use crate::push::owners;
use blixt_gateway::Programming;
use blixt_model::{
    Affinity, Backend, Endpoint, EndpointState, Gateway, Generation, HashSeed, Listener,
    ListenerName, Port, Protocol, ServiceIndex, ServicePort, ServicePortId, Snapshot, Target,
    Weight,
};
use proptest::prelude::*;

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

fn addresses() -> BTreeMap<ObjectName, Vec<IpAddr>> {
    let of = |(name, host): (&str, u8)| (name.parse().unwrap(), vec![[192, 0, 2, host].into()]);
    [("a", 1), ("b", 2)].map(of).into()
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
        let _ = self.agents.publish(parts, addresses());
        digest
    }

    fn come(&mut self, node: &str, stream: StreamId, has: Option<Digest>) {
        let hello = Greeting { version: "1".to_owned(), has, streams: true };
        self.agents.come(node, stream, &hello, self.now);
    }

    fn beats(&mut self, node: &str, stream: StreamId, trouble: &str) -> Option<Turn> {
        self.agents.heard(node, stream, self.now);
        self.agents.beats(node, stream, (trouble, false), self.now)
    }

    fn live(&self) -> Vec<String> {
        self.agents.live(self.now).into_iter().collect()
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    fn both(&self) -> [Option<Programming>; 2] {
        let survey = self.agents.survey(self.now);
        ["a", "b"].map(|name| survey.programming(&name.parse().unwrap()))
    }
}

const APPLIED: Option<Programming> = Some(Programming::Applied);
const PENDING: Option<Programming> = Some(Programming::Pending);
const NO_AGENT: Option<Programming> = Some(Programming::NoAgent);

fn refused(node: &str, reason: &str) -> Option<Programming> {
    Some(Programming::Refused { node: node.to_owned(), reason: reason.to_owned() })
}

fn taken(node: &str, reason: &str) -> Option<Programming> {
    Some(Programming::AddressTaken { node: node.to_owned(), reason: reason.to_owned() })
}

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
    assert!(
        replica.agents.states(replica.now).iter().all(|agent| agent.current && agent.connected)
    );
}

#[test]
fn an_address_that_a_node_has_is_nobodys_and_its_gateway_is_told() {
    let mut replica = Replica::old();
    let first = replica.publish(80, 1);
    for (node, stream) in [("n1", 1), ("n2", 2)] {
        replica.come(node, stream, None);
        replica.agents.applied(node, stream, first);
    }
    assert_eq!(replica.agents.vips(), [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()].into());
    let own: IpAddr = [192, 0, 2, 2].into();
    let says = |replica: &mut Replica, addresses: &[IpAddr]| {
        let taken = addresses.iter().map(|address| (*address, "is its own".to_owned()));
        replica.agents.taken("n1", 1, taken.collect(), replica.now)
    };
    assert!(says(&mut replica, &[own]));
    assert!(!says(&mut replica, &[own]), "no news");
    assert_eq!(replica.both(), [APPLIED, taken("n1", "192.0.2.2 is its own")]);
    assert_eq!(replica.agents.vips(), [[192, 0, 2, 1].into()].into(), "no other node takes it");
    // The node has it too while its agent is away, for a while or for good.
    replica.agents.left("n1", 1, true);
    replica.pass(60_000);
    replica.agents.heard("n2", 2, replica.now);
    replica.agents.forget(replica.now);
    assert_eq!(replica.both(), [APPLIED, taken("n1", "192.0.2.2 is its own")]);
    assert_eq!(replica.agents.vips(), [[192, 0, 2, 1].into()].into());
    // It is the node's no more.
    replica.come("n1", 3, Some(first));
    assert!(!replica.agents.taken("n1", 1, BTreeMap::new(), replica.now), "an old stream");
    assert!(replica.agents.taken("n1", 3, BTreeMap::new(), replica.now));
    assert_eq!(replica.both(), [APPLIED, APPLIED]);
    assert_eq!(replica.agents.vips().len(), 2);
}

#[test]
fn an_agent_that_knows_no_streams_carries_no_gateway_that_has_some() {
    let mut replica = Replica::old();
    let first = replica.publish(80, 1);
    replica.come("n1", 1, Some(first));
    let hello = Greeting { version: "0.1".to_owned(), has: Some(first), streams: false };
    replica.agents.come("n2", 2, &hello, replica.now);
    assert_eq!(replica.both(), [APPLIED, APPLIED]);
    replica.agents.have_streams(["b".parse().unwrap()].into());
    let reason = "its agent, version 0.1, serves no HTTP, HTTPS and TLS listeners: upgrade it";
    let refused = Programming::Refused { node: "n2".to_owned(), reason: reason.to_owned() };
    assert_eq!(replica.both(), [APPLIED, Some(refused)]);
    replica.come("n2", 3, Some(first));
    assert_eq!(replica.both(), [APPLIED, APPLIED]);
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
fn trouble_with_a_gateway_is_that_gateway_s_alone() {
    let mut replica = Replica::old();
    let first = replica.publish(80, 1);
    replica.come("n1", 1, Some(first));
    replica.come("n2", 2, Some(first));
    let troubles = || [("b".parse().unwrap(), "port 80 is taken".to_owned())].into();
    assert!(replica.agents.troubled("n2", 2, troubles()));
    assert!(!replica.agents.troubled("n2", 2, troubles()), "no news");
    let reason = "port 80 is taken".to_owned();
    let refused = Programming::Refused { node: "n2".to_owned(), reason };
    assert_eq!(replica.both(), [APPLIED, Some(refused.clone())]);
    // It comes back, and has yet to say whether it still is so.
    replica.come("n2", 3, Some(first));
    assert_eq!(replica.both(), [APPLIED, Some(refused)]);
    assert!(replica.agents.troubled("n2", 3, BTreeMap::new()));
    assert!(!replica.agents.troubled("n2", 2, troubles()), "from a stream that has ended");
    assert_eq!(replica.both(), [APPLIED, APPLIED]);
}

#[test]
fn who_does_not_serve_a_gateway_is_unfit_for_its_addresses() {
    let mut replica = Replica::old();
    let first = replica.publish(80, 1);
    replica.come("n1", 1, Some(first));
    let hello = Greeting { version: "0.1".to_owned(), has: Some(first), streams: false };
    replica.agents.come("n2", 2, &hello, replica.now);
    assert_eq!(replica.agents.unfit(), Unfit::new());
    let troubles = [("a".parse().unwrap(), "it is left out".to_owned())].into();
    assert!(replica.agents.troubled("n1", 1, troubles));
    replica.agents.have_streams(["b".parse().unwrap()].into());
    let unfit = |host: u8, node: &str| ([192, 0, 2, host].into(), [node.to_owned()].into());
    assert_eq!(replica.agents.unfit(), [unfit(1, "n1"), unfit(2, "n2")].into());
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
    assert_eq!(replica.agents.states(replica.now).len(), 1);
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
    assert!(replica.agents.states(replica.now)[0].connected);
    assert!(!replica.agents.refused("n1", 1, first, "late".to_owned()));
    replica.agents.left("n1", 2, true);
    assert_eq!(replica.agents.states(replica.now), []);
}

#[test]
fn who_is_silent_owns_nothing_after_a_second() {
    let mut replica = Replica::old();
    let first = replica.publish(80, 1);
    for (node, stream) in [("n1", 1), ("n2", 2), ("n3", 3)] {
        replica.come(node, stream, Some(first));
        assert_eq!(replica.beats(node, stream, ""), None);
    }
    // Has no tables, so it would answer nobody.
    replica.come("new", 4, None);
    replica.beats("new", 4, "");
    // Has not said yet whether it can serve.
    replica.come("mute", 5, Some(first));
    assert_eq!(replica.live(), ["n1", "n2", "n3"]);
    replica.pass(999);
    replica.agents.heard("n2", 2, replica.now);
    assert_eq!(replica.live(), ["n1", "n2", "n3"]);
    replica.pass(1);
    assert_eq!(replica.live(), ["n2"]);
}

#[test]
fn who_comes_back_with_nothing_is_believed_for_a_moment_only() {
    let mut replica = Replica::old();
    let first = replica.publish(80, 1);
    replica.come("n1", 1, Some(first));
    assert_eq!(replica.both(), [APPLIED, APPLIED]);
    // Not even by coming again and again.
    for stream in 2..=12 {
        replica.agents.left("n1", stream - 1, false);
        replica.come("n1", stream, None);
        assert_eq!(replica.both(), [APPLIED, APPLIED], "it may be starting");
        replica.pass(900);
        replica.beats("n1", stream, "");
    }
    replica.pass(100);
    assert_eq!(replica.both(), [PENDING, PENDING]);
    assert!(replica.live().is_empty());
    // It says that it can't use them: then that is why, and not before long.
    replica.come("n1", 20, None);
    replica.agents.refused("n1", 20, first, "no memory".to_owned());
    assert_eq!(replica.both(), [refused("n1", "no memory"), refused("n1", "no memory")]);
    replica.agents.applied("n1", 20, first);
    assert_eq!(replica.both(), [APPLIED, APPLIED]);
}

#[test]
fn who_comes_back_with_what_nobody_remembers_is_still_known_to_have_it() {
    let mut replica = Replica::old();
    let first = replica.publish(80, 1);
    replica.come("n1", 1, Some(first));
    for endpoints in 2..20 {
        replica.publish(80, endpoints);
    }
    replica.come("n1", 2, Some(first));
    for _ in 0..30 {
        replica.pass(500);
        replica.beats("n1", 2, "");
    }
    assert_eq!(replica.both(), [APPLIED, APPLIED]);
}

#[test]
fn a_refusal_is_not_forgotten_while_an_agent_is_away() {
    let mut replica = Replica::old();
    let first = replica.publish(80, 1);
    replica.come("n1", 1, Some(first));
    let second = replica.publish(81, 1);
    replica.agents.refused("n1", 1, second, "too many".to_owned());
    replica.agents.left("n1", 1, false);
    replica.come("n1", 2, Some(first));
    assert_eq!(replica.both(), [APPLIED, refused("n1", "too many")]);
    // It has it now, as it says when it comes.
    replica.come("n1", 3, Some(second));
    assert_eq!(replica.both(), [APPLIED, APPLIED]);
    assert!(replica.agents.refusals(replica.now).is_empty());
}

#[test]
fn a_refusal_that_is_about_endpoints_alone_is_told_beside_gateways() {
    let mut replica = Replica::old();
    let first = replica.publish(80, 1);
    replica.come("n1", 1, Some(first));
    replica.come("n2", 2, Some(first));
    let second = replica.publish(80, 2);
    replica.agents.applied("n1", 1, second);
    replica.agents.refused("n2", 2, second, "too many endpoints".to_owned());
    assert_eq!(replica.both(), [APPLIED, APPLIED]);
    let told = [("n2".to_owned(), "too many endpoints".to_owned())].into();
    assert_eq!(replica.agents.refusals(replica.now), told);
    // Until it takes one again.
    let third = replica.publish(80, 3);
    assert_eq!(replica.agents.refusals(replica.now), told);
    replica.agents.applied("n2", 2, third);
    assert!(replica.agents.refusals(replica.now).is_empty());
}

#[test]
fn who_is_in_trouble_owns_nothing_and_carries_nothing() {
    let mut replica = Replica::old();
    let first = replica.publish(80, 1);
    for (node, stream) in [("n1", 1), ("n2", 2)] {
        replica.come(node, stream, Some(first));
        replica.beats(node, stream, "");
    }
    assert_eq!(replica.live(), ["n1", "n2"]);
    assert_eq!(replica.beats("n1", 1, "eth0 is down"), Some(Turn::Fell));
    assert_eq!(replica.live(), ["n2"]);
    assert_eq!(replica.agents.states(replica.now)[0].trouble.as_deref(), Some("eth0 is down"));
    // It holds up nobody.
    let second = replica.publish(81, 1);
    replica.agents.applied("n2", 2, second);
    assert_eq!(replica.both(), [APPLIED, APPLIED]);
    // Over a reconnect, too.
    replica.agents.left("n1", 1, false);
    replica.come("n1", 3, Some(second));
    assert_eq!(replica.live(), ["n2"]);
    // The last one that could.
    replica.beats("n2", 2, "eth1 is down");
    assert!(replica.live().is_empty());
    let why = "No node can serve it now. n1: eth0 is down (1 more can't either).".to_owned();
    let nobody = Some(Programming::NoNode { why });
    assert_eq!(replica.both(), [nobody.clone(), nobody]);
    // Well again: there is nobody better.
    assert_eq!(replica.beats("n2", 2, ""), None);
    assert_eq!(replica.live(), ["n2"]);
    replica.pass(2_000);
    assert_eq!(replica.beats("n2", 2, ""), Some(Turn::Recovered));
    assert_eq!((replica.live(), replica.both()), (vec!["n2".to_owned()], [APPLIED, APPLIED]));
    // Where there is, not at once.
    assert_eq!(replica.beats("n1", 3, ""), None);
    assert_eq!(replica.live(), ["n2"]);
    replica.pass(500);
    replica.agents.left("n2", 2, true);
    replica.beats("n1", 3, "");
    assert_eq!(replica.live(), ["n1"]);
}

#[test]
fn what_no_message_takes_leaves_what_was_before() {
    let mut replica = Replica::old();
    let first = replica.publish(80, 1);
    replica.come("n1", 1, Some(first));
    replica.agents.most_bytes = snapshot(80, 9).message_bytes() + AROUND;
    // Endpoints alone: Gateways are as well as they were.
    assert_eq!(replica.agents.publish(snapshot(80, 10), [].into()), Published::TooLarge);
    assert_eq!(replica.agents.publish(snapshot(80, 10), [].into()), Published::Same);
    assert_eq!(replica.both(), [APPLIED, APPLIED]);
    assert_eq!(replica.agents.newest().unwrap().digest(), first);
    assert_eq!(replica.agents.vips().len(), 2);
    // A Gateway that is another one waits in vain, and says for what.
    assert_eq!(replica.agents.publish(snapshot(81, 10), [].into()), Published::TooLarge);
    let (bytes, withheld) = replica.agents.size();
    assert!(withheld && bytes > snapshot(81, 9).message_bytes());
    let [a, b] = replica.both();
    assert_eq!(a, APPLIED);
    let Some(Programming::NoNode { why }) = b else { panic!("{b:?}") };
    assert!(why.starts_with(&format!("The tables of all Gateways take {bytes} bytes")), "{why}");
    // Back, and smaller.
    let Published::New(newest) = replica.agents.publish(snapshot(80, 1), addresses()) else {
        panic!()
    };
    assert_eq!((newest.digest(), replica.both()), (first, [APPLIED, APPLIED]));
    let second = replica.publish(81, 9);
    replica.agents.applied("n1", 1, second);
    assert_eq!((replica.both(), replica.agents.size().1), ([APPLIED, APPLIED], false));
}

type Owners = BTreeMap<String, BTreeSet<IpAddr>>;

/// Beats of agents that are well, for some time; gives who owned the addresses of a
/// network meanwhile, each time that it was another.
fn owners_while(replica: &mut Replica, nodes: &[(&'static str, StreamId)], ms: u64) -> Vec<Owners> {
    let mut lived = Vec::new();
    for _ in 0..ms / 250 {
        replica.pass(250);
        for (node, stream) in nodes {
            replica.beats(node, *stream, "");
        }
        lived.push(replica.live());
    }
    lived.dedup();
    let vips = (0..=255).map(|host| IpAddr::from([192, 0, 2, host])).collect();
    let owned = |live: Vec<String>| owners(&vips, live.iter().map(String::as_str), &Unfit::new());
    lived.into_iter().map(owned).collect()
}

#[test]
fn who_falls_silent_again_and_again_is_left_alone_for_a_while() {
    let mut replica = Replica::old();
    let first = replica.publish(80, 1);
    let all = [("n1", 1), ("n2", 2), ("n3", 3)];
    for (node, stream) in all {
        replica.come(node, stream, Some(first));
    }
    owners_while(&mut replica, &all, 1_000);
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.extend(owners_while(&mut replica, &all[1..], 2_000));
        seen.extend(owners_while(&mut replica, &all, 7_000));
    }
    seen.dedup();
    // Away and back, once more, and away: else it were twelve times in this minute.
    assert_eq!(seen.len() - 1, 5);
    let left = replica.agents.unsteady("n1", replica.now).unwrap();
    assert_eq!(left.as_secs(), 64 - 7);
    assert_eq!(replica.agents.states(replica.now)[0].trouble.as_deref(), Some(UNSTEADY));
    assert_eq!(replica.both(), [APPLIED, APPLIED], "it serves, and it counts");
    // Nobody else can.
    replica.beats("n2", 2, "eth0 is down");
    replica.beats("n3", 3, "eth0 is down");
    assert_eq!(replica.live(), ["n1"]);
    // An orderly end is no fall, and whoever was restarted is as one that is new.
    replica.agents.left("n1", 1, true);
    replica.come("n1", 4, Some(first));
    replica.beats("n1", 4, "");
    assert_eq!(
        (replica.live(), replica.agents.unsteady("n1", replica.now)),
        (vec!["n1".to_owned()], None)
    );
}

#[test]
fn where_all_are_unsteady_all_own_and_gateways_are_programmed() {
    let mut replica = Replica::old();
    let first = replica.publish(80, 1);
    for (node, stream) in [("n1", 1), ("n2", 2)] {
        replica.come(node, stream, Some(first));
        replica.agents.beats(node, stream, ("", true), replica.now);
    }
    assert_eq!(replica.live(), ["n1", "n2"]);
    assert_eq!(replica.both(), [APPLIED, APPLIED]);
}

proptest! {
    /// However often an agent falls silent, and for how long: what others own of what is
    /// not its own never moves, each address has an owner, and all replicas that hear the
    /// same say the same.
    #[test]
    fn silence_moves_nothing_of_others(
        silences in prop::collection::vec((4_u64..40, 1_u64..400), 1..12),
    ) {
        let begun = Replica::old();
        let now = begun.now;
        let mut replicas = [begun, Replica { now, ..Replica::old() }];
        let all = [("n1", 1), ("n2", 2), ("n3", 3)];
        for replica in &mut replicas {
            let first = replica.publish(80, 1);
            all.iter().for_each(|(node, stream)| replica.come(node, *stream, Some(first)));
        }
        let steady: Vec<_> =
            replicas.iter_mut().map(|replica| owners_while(replica, &all, 1_000)).collect();
        let before = steady[0][0].clone();
        for (silent, speaking) in silences {
            for (nodes, beats) in [(&all[1..], silent), (&all[..], speaking)] {
                let seen = replicas.each_mut().map(|replica| owners_while(replica, nodes, beats * 250));
                prop_assert_eq!(&seen[0], &seen[1]);
                for owned in &seen[0] {
                    prop_assert_eq!(owned.values().map(BTreeSet::len).sum::<usize>(), 256);
                    for node in ["n2", "n3"] {
                        prop_assert!(owned[node].is_superset(&before[node]));
                    }
                    let its = owned.get("n1");
                    prop_assert!(its.is_none_or(|its| *its == before["n1"]), "all of its own or nothing");
                }
            }
        }
        // It comes to rest.
        let last = replicas.each_mut().map(|replica| owners_while(replica, &all, 70_000));
        prop_assert!(last.iter().all(|seen| seen.last() == Some(&before)));
    }
}

proptest! {
    /// Whatever agents say, and when: a VIP has one owner at most, and that one
    /// lives and is not in trouble.
    #[test]
    fn nobody_in_trouble_owns_anything(
        said in prop::collection::vec((0_usize..4, 0_u8..6, 0_u64..800), 1..80),
    ) {
        let mut replica = Replica::old();
        let first = replica.publish(80, 1);
        let names = ["n0", "n1", "n2", "n3"];
        let mut streams = [0; 4];
        let mut heard = [None; 4];
        let mut ill = [false; 4];
        for (at, (who, what, ms)) in (1..).zip(said) {
            replica.pass(ms);
            let node = names[who];
            match what {
                0 => {
                    replica.come(node, at, Some(first));
                    (streams[who], heard[who]) = (at, Some(replica.now));
                }
                1 => replica.agents.left(node, streams[who], false),
                _ if heard[who].is_none() => {}
                2 | 3 => {
                    replica.beats(node, streams[who], "no");
                    (heard[who], ill[who]) = (Some(replica.now), true);
                }
                _ => {
                    replica.beats(node, streams[who], "");
                    (heard[who], ill[who]) = (Some(replica.now), false);
                }
            }
            let live = replica.live();
            let (vips, unfit) = (replica.agents.vips(), replica.agents.unfit());
            let owned = owners(&vips, live.iter().map(String::as_str), &unfit);
            let given: usize = owned.values().map(BTreeSet::len).sum();
            prop_assert_eq!(given, if live.is_empty() { 0 } else { addresses().len() });
            for node in owned.keys() {
                let who = names.iter().position(|name| name == node).unwrap();
                prop_assert!(replica.now - heard[who].unwrap() < LIVES);
                prop_assert!(!ill[who]);
            }
        }
    }
}

#[test]
fn a_replica_says_who_owns_what_when_all_have_had_time_to_come() {
    let mut replica = Replica::new();
    assert!(!replica.agents.is_settled(replica.now));
    replica.pass(5_000);
    assert!(replica.agents.is_settled(replica.now));
}
