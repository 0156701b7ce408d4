//! What clients notice when the node that owns their address fails, or a part
//! of it, and when it comes back.
//!
//! The web server is on node1 all the time, and the addresses on node2: so what is
//! measured is how long they are nobody's.

use std::thread::sleep;
use std::time::Duration;

use blixt_e2e::cluster::Cluster;
use blixt_e2e::knocks::Door;
use blixt_e2e::wait_for_quiet;
use blixt_testkit::netns::eventually_some;

use crate::nodes::{
    HEALING, await_owner, begin_anew, continue_agent, crash, cut_link, drain, exchange, join_link,
    mac, nothing, owner, replace, replace_agent, signal, start_again, stop_agent, uncordon,
};
use crate::resets::{Connections, Old};
use crate::restarts::PLANNED;
use crate::served::in_url;
use crate::{apart, beside, flapping, gone, installed};

/// How long new connections may find nobody, at most, in seconds.
pub(crate) const OUTAGE: f64 = 3.0;

/// How long at most in half of the cases, if that was planned.
const USUAL: f64 = 0.1;

/// How many cases are enough to say what is usual.
const ENOUGH: usize = 10;

/// A Gateway with some addresses, of which each node owns some, before a server
/// on node1: through the pipeline by TCP and UDP, and through the node's own stack.
const GATEWAY: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: steady}
spec:
  gatewayClassName: blixt
  addresses: [{value: 192.0.2.120}, {value: 192.0.2.121}, {value: 192.0.2.122}, {value: 192.0.2.123},
              {value: 192.0.2.124}, {value: 192.0.2.125}, {value: 192.0.2.126}, {value: 192.0.2.127},
              {value: '2001:db8:1::120'}, {value: '2001:db8:1::121'}, {value: '2001:db8:1::122'},
              {value: '2001:db8:1::123'}, {value: '2001:db8:1::124'}, {value: '2001:db8:1::125'},
              {value: '2001:db8:1::126'}, {value: '2001:db8:1::127'}]
  listeners:
  - {name: web, protocol: TCP, port: 8080}
  - {name: page, protocol: HTTP, port: 8081}
  - {name: names, protocol: UDP, port: 8082}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: steady}
spec:
  parentRefs: [{name: steady, sectionName: web}]
  rules: [{backendRefs: [{name: steady, port: 8080}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: steady}
spec:
  parentRefs: [{name: steady, sectionName: page}]
  rules: [{backendRefs: [{name: steady, port: 8080}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {name: steady}
spec:
  parentRefs: [{name: steady, sectionName: names}]
  rules: [{backendRefs: [{name: steady, port: 8081}]}]
---
apiVersion: v1
kind: Service
metadata: {name: steady}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: steady}
  ports: [{name: web, port: 8080}, {name: names, port: 8081, protocol: UDP}]
---
apiVersion: v1
kind: Pod
metadata: {name: steady, labels: {app: steady}}
spec:
  nodeName: node1
  containers:
  - name: server
    image: registry.k8s.io/e2e-test-images/agnhost:2.63.0
    args: [netexec, --http-port=8080, --udp-port=8081]
    readinessProbe: {httpGet: {port: 8080, path: /healthz}, periodSeconds: 1}
";

/// What fails, when something is as it has to be, and how it is mended.
struct Failure {
    name: &'static str,
    first: fn(&Cluster),
    fails: fn(&Cluster),
    /// Nothing where it heals by itself.
    heals: Option<fn(&Cluster)>,
    most: f64,
    usual: f64,
    old: Old,
    /// The agent was silent, and was not exchanged since.
    was_silent: bool,
}

impl Failure {
    const fn new(name: &'static str, fails: fn(&Cluster), heals: Option<fn(&Cluster)>) -> Self {
        let (first, old) = (nothing, Old::AreReset);
        Self { name, first, fails, heals, most: OUTAGE, usual: OUTAGE, old, was_silent: false }
    }

    const fn planned(name: &'static str, fails: fn(&Cluster), heals: Option<fn(&Cluster)>) -> Self {
        Self { most: PLANNED, usual: USUAL, ..Self::new(name, fails, heals) }
    }

    /// With the leader on the node that it happens to.
    const fn with_leader(
        name: &'static str,
        fails: fn(&Cluster),
        heals: Option<fn(&Cluster)>,
    ) -> Self {
        Self { first: lead_from_node2, ..Self::silent(name, fails, heals) }
    }

    const fn silent(name: &'static str, fails: fn(&Cluster), heals: Option<fn(&Cluster)>) -> Self {
        Self { was_silent: true, ..Self::new(name, fails, heals) }
    }

    /// Whose addresses stay where they are.
    const fn at_its_place(self) -> Self {
        Self { old: Old::GoOn, ..self }
    }
}

const FAILURES: [Failure; 7] = [
    Failure::planned("the agent is told to end", replace_agent, None),
    Failure::planned("the node is drained", drain, Some(uncordon)).at_its_place(),
    Failure::new("the agent is killed", kill_agent, Some(replace_agent)),
    Failure::silent("the agent hangs", stop_agent, Some(continue_agent)),
    Failure::new("the agent and the leader are killed", kill_both, Some(replace_both)),
    Failure::with_leader("the link is cut, and the leader is behind it", cut_link, Some(join_link)),
    Failure::with_leader("the node dies, and the leader is on it", crash, Some(start_again)),
];

/// Those that are part of one of these.
const PARTS: [Failure; 3] = [
    Failure::new("the leader is killed", kill_leader, Some(replace_controllers)).at_its_place(),
    Failure::silent("the link is cut", cut_link, Some(join_link)),
    Failure::silent("the node dies", crash, Some(start_again)),
];

pub(crate) fn of_everything(what: &str, times: usize) {
    let Some(cluster) = Cluster::up(what, true) else { return };
    if !cluster.is_ours_or_skip(what) {
        return;
    }
    installed::from_the_readme(&cluster);
    cluster.apply(GATEWAY);
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=120s", "pod/steady"]).ok();
    let vips = ["192.0.2.", "2001:db8:1::"].map(|network| of_node2(&cluster, network));
    wait_for_quiet();
    apart::both_own_until_they_meet_again(&cluster);
    // Tests of push look at it too, and in less than its two minutes.
    if times >= ENOUGH {
        flapping::moves_addresses_less_and_less(&cluster, &vips[0]);
    }
    begin_anew(&cluster, &vips);
    for failure in FAILURES.iter().chain(PARTS.iter().filter(|_| times >= ENOUGH)) {
        let outages: Vec<_> = (0..times).map(|_| once(&cluster, &vips, failure)).collect();
        let sorted = |at: usize, part: usize| {
            let mut all: Vec<_> = outages.iter().map(|both| both[part][at]).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let at_doors = doors(&vips).into_iter().enumerate();
        let at_doors = at_doors.map(|(at, (how, _))| (how, [sorted(at, 0), sorted(at, 1)]));
        let at_doors: Vec<_> = at_doors.collect();
        for (how, [lost, back]) in &at_doors {
            println!("{}, {how}: {}; until it is back: {}", failure.name, ms(lost), ms(back));
        }
        for outage in outages.iter().flatten().flatten() {
            assert!(*outage <= failure.most, "{}: nobody for {outage:.2} s", failure.name);
        }
        for (how, parts) in at_doors.iter().filter(|_| times >= ENOUGH) {
            let usual = parts.each_ref().map(|outages| p50(outages));
            let is_good = usual.iter().all(|outage| *outage <= failure.usual);
            assert!(is_good, "{}, {how}: usually nobody for {usual:?} s", failure.name);
        }
    }
    agents_need_no_api_server(&cluster, &vips);
    beside::kube_proxy(&cluster);
    cluster.delete(GATEWAY);
    gone::uninstalled(&cluster, "manifests/default");
}

/// An address of the Gateway that node2 owns.
fn of_node2(cluster: &Cluster, network: &str) -> String {
    eventually_some("an address that node2 owns", HEALING, || {
        let mut seen = Vec::new();
        for vip in (120..128).map(|host| format!("{network}{host}")) {
            let owner = owner(cluster, &vip);
            if owner == mac(cluster, "node2") {
                return Ok(vip);
            }
            seen.push((vip, owner));
        }
        Err(format!("{seen:?}"))
    })
}

/// Where is knocked: at an address of each family.
fn doors([v4, v6]: &[String; 2]) -> [(&'static str, Door); 4] {
    let at = |vip: &String, port: u16| format!("{}:{port}", in_url(vip)).parse().unwrap();
    [
        ("TCP over IPv4", Door::Web(at(v4, 8_080))),
        ("TCP over IPv6", Door::Web(at(v6, 8_080))),
        ("an HTTP listener", Door::Web(at(v4, 8_081))),
        ("UDP", Door::Name(at(v4, 8_082))),
    ]
}

/// Of some outages, the shortest first.
fn p50(outages: &[f64]) -> f64 {
    outages[outages.len() / 2]
}

fn ms(outages: &[f64]) -> String {
    let (p50, max) = (p50(outages) * 1e3, outages[outages.len() - 1] * 1e3);
    format!("p50 {p50:.0} ms, max {max:.0} ms")
}

/// One failure: the outages at all doors when it comes, and those when all becomes as
/// it was. Connections that were there before are old then.
fn once(cluster: &Cluster, vips: &[String; 2], failure: &Failure) -> [[f64; 4]; 2] {
    (failure.first)(cluster);
    await_owner(cluster, vips, "node2");
    let connections = Connections::begin(cluster, vips);
    let lost = knocked(cluster, vips, failure.name, || {
        sleep(Duration::from_secs(1));
        (failure.fails)(cluster);
        // As long as anybody may take, and a moment for what comes late.
        sleep(Duration::from_secs_f64(OUTAGE + 1.0));
    });
    connections.become_what(failure.old, failure.name);
    // What heals by itself may have healed by now.
    let heals = failure.heals.map(|heals| (heals, Connections::begin(cluster, vips)));
    let back = knocked(cluster, vips, failure.name, || {
        heals.iter().for_each(|(heals, _)| heals(cluster));
        await_owner(cluster, vips, "node2");
        sleep(Duration::from_secs(1));
    });
    if let Some((_, connections)) = heals {
        connections.become_what(failure.old, &format!("{}, and all is as it was", failure.name));
    }
    installed::is_there(cluster);
    // One owner and no other, whoever thought to be one while apart.
    eventually_some("one owner, five times in a row", HEALING, || {
        let owners: Vec<_> = (0..5).map(|_| owner(cluster, &vips[0])).collect();
        let mac = mac(cluster, "node2");
        if owners.iter().all(|owner| *owner == mac) { Ok(()) } else { Err(format!("{owners:?}")) }
    });
    // As if it had been well for long: else it were waited for longer each time.
    if failure.was_silent {
        begin_anew(cluster, vips);
    }
    [lost, back]
}

/// The longest times without an answer, at all doors, while something happens.
fn knocked(cluster: &Cluster, vips: &[String; 2], what: &str, happens: impl FnOnce()) -> [f64; 4] {
    let knocks = doors(vips).map(|(how, door)| (how, cluster.knocks(door)));
    happens();
    let outcomes = knocks.map(|(how, knocks)| (how, knocks.stop()));
    outcomes.map(|(how, outcome)| {
        assert!(outcome.answered > 9, "{what}, {how}: {outcome:?}");
        outcome.longest_gap_s
    })
}

/// For longer than it takes until a replica counts as cut off, and no leader leads.
fn agents_need_no_api_server(cluster: &Cluster, vips: &[String; 2]) {
    const AWAY: Duration = Duration::from_secs(30);
    let pid = cluster.directory().join("pids/kube-apiserver");
    let kill = format!("kill -KILL $(cut -d' ' -f1 {})", pid.display());
    let [(_, door), ..] = doors(vips);
    let knocks = cluster.knocks(door);
    cluster.lab(&["exec", "control", "bash", "-c", &kill]).ok();
    sleep(AWAY);
    let outcome = knocks.stop();
    let owner = owner(cluster, &vips[0]);
    cluster.lab(&["up", "2"]).ok();
    let (failed, gap) = (outcome.failures.len(), outcome.longest_gap_s * 1e3);
    println!(
        "no API server for {AWAY:?}: {failed} failed, longest time without an answer {gap:.0} ms"
    );
    outcome.failures.iter().for_each(|failure| println!("failed: {failure}"));
    assert_eq!(owner, mac(cluster, "node2"), "the address has moved");
    assert!(outcome.longest_gap_s <= PLANNED, "{outcome:?}");
    installed::is_there(cluster);
}

fn kill_agent(cluster: &Cluster) {
    signal(cluster, "blixt-agent", "node2", "-KILL");
}

/// The node whose controller leads.
fn leader(cluster: &Cluster) -> String {
    let holder = "jsonpath={.spec.holderIdentity}";
    let lease = ["-n", "blixt-system", "get", "lease", "blixt-controller", "-o", holder];
    // The pod's name, and what tells its life from those before.
    let holder = cluster.kubectl(&lease).ok();
    let pod = holder.split('_').next().unwrap();
    let node = "jsonpath={.spec.nodeName}";
    cluster.kubectl(&["-n", "blixt-system", "get", "pod", pod, "-o", node]).ok()
}

fn kill_leader(cluster: &Cluster) {
    signal(cluster, "blixt-controlle", &leader(cluster), "-KILL");
}

fn kill_both(cluster: &Cluster) {
    kill_leader(cluster);
    kill_agent(cluster);
}

fn replace_both(cluster: &Cluster) {
    replace_controllers(cluster);
    replace_agent(cluster);
}

/// Those that were killed: if all were replaced at once, agents would look for the
/// new ones until kubelet shows them the ConfigMap, for a minute or so.
fn replace_controllers(cluster: &Cluster) {
    let restarts = r#"jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].restartCount}{"\n"}{end}"#;
    let get = ["-n", "blixt-system", "get", "pods", "-o", restarts];
    for line in cluster.kubectl(&get).ok().lines() {
        let (pod, restarts) = line.split_once(' ').unwrap();
        if pod.contains("blixt-controller") && restarts != "0" {
            exchange(cluster, &format!("pod/{pod}"));
        }
    }
}

/// Sees to it that the leader is on node2.
fn lead_from_node2(cluster: &Cluster) {
    eventually_some("the leader to be on node2", HEALING, || {
        let at = leader(cluster);
        if at == "node2" {
            return Ok(());
        }
        replace(cluster, "blixt-controller", &at);
        installed::is_there(cluster);
        Err(at)
    });
}
