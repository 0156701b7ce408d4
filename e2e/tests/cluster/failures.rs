//! What clients notice when the node that owns their address fails, or a part
//! of it, and when it comes back.
//!
//! The web server is on node1 all the time, and the address on node2: so what is
//! measured is how long the address is nobody's.

use std::thread::sleep;
use std::time::Duration;

use blixt_e2e::cluster::{Cluster, processes};
use blixt_testkit::netns::{eventually_some, program};

use crate::restarts::PLANNED;
use crate::served::in_url;
use crate::{beside, gone, installed};

/// How long new connections may find nobody, at most, in seconds.
pub(crate) const OUTAGE: f64 = 3.0;

/// How long it may take until all is as it was before.
pub(crate) const HEALING: Duration = Duration::from_secs(120);

/// A Gateway with some addresses, of which each node owns some, before a server
/// on node1.
const GATEWAY: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: steady}
spec:
  gatewayClassName: blixt
  addresses: [{value: 192.0.2.120}, {value: 192.0.2.121}, {value: 192.0.2.122}, {value: 192.0.2.123},
              {value: 192.0.2.124}, {value: 192.0.2.125}, {value: 192.0.2.126}, {value: 192.0.2.127}]
  listeners: [{name: web, protocol: TCP, port: 8080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: steady}
spec:
  parentRefs: [{name: steady}]
  rules: [{backendRefs: [{name: steady, port: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: steady}
spec:
  selector: {app: steady}
  ports: [{port: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: steady, labels: {app: steady}}
spec:
  nodeName: node1
  containers:
  - name: server
    image: registry.k8s.io/e2e-test-images/agnhost:2.63.0
    args: [netexec, --http-port=8080]
    readinessProbe: {httpGet: {port: 8080, path: /healthz}, periodSeconds: 1}
";

/// What fails, when something is as it has to be, and how it is mended.
struct Failure {
    name: &'static str,
    first: fn(&Cluster),
    fails: fn(&Cluster),
    heals: fn(&Cluster),
    most: f64,
}

impl Failure {
    const fn new(name: &'static str, fails: fn(&Cluster), heals: fn(&Cluster)) -> Self {
        Self { name, first: nothing, fails, heals, most: OUTAGE }
    }

    const fn planned(name: &'static str, fails: fn(&Cluster), heals: fn(&Cluster)) -> Self {
        Self { most: PLANNED, ..Self::new(name, fails, heals) }
    }

    /// With the leader on the node that it happens to.
    const fn with_leader(name: &'static str, fails: fn(&Cluster), heals: fn(&Cluster)) -> Self {
        Self { first: lead_from_node2, ..Self::new(name, fails, heals) }
    }
}

const FAILURES: [Failure; 10] = [
    Failure::planned("the agent is told to end", replace_agent, nothing),
    Failure::planned("the node is drained", drain, uncordon),
    Failure::new("the agent is killed", kill_agent, replace_agent),
    Failure::new("the agent hangs", stop_agent, continue_agent),
    Failure::new("the link is cut", cut_link, join_link),
    Failure::new("the leader is killed", kill_leader, replace_controllers),
    Failure::new("the agent and the leader are killed", kill_both, replace_both),
    Failure::new("the node dies", crash, start_again),
    Failure::with_leader("the link is cut, and the leader is behind it", cut_link, join_link),
    Failure::with_leader("the node dies, and the leader is on it", crash, start_again),
];

pub(crate) fn of_everything(what: &str, times: usize) {
    let Some(cluster) = Cluster::up(what, true) else { return };
    if !cluster.is_ours_or_skip(what) {
        return;
    }
    installed::from_the_readme(&cluster);
    cluster.apply(GATEWAY);
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=120s", "pod/steady"]).ok();
    let vip = eventually_some("an address that node2 owns", HEALING, || {
        let vips = (120..128).map(|host| format!("192.0.2.{host}"));
        let mut seen = Vec::new();
        for vip in vips {
            let owner = owner(&cluster, &vip);
            if owner == mac(&cluster, "node2") {
                return Ok(vip);
            }
            seen.push((vip, owner));
        }
        Err(format!("{seen:?}"))
    });
    for failure in FAILURES {
        let (mut lost, mut back): (Vec<_>, Vec<_>) =
            (0..times).map(|_| once(&cluster, &vip, &failure)).unzip();
        for outages in [&mut lost, &mut back] {
            outages.sort_by(f64::total_cmp);
        }
        let ms = |outages: &[f64]| {
            let (p50, max) = (outages[outages.len() / 2] * 1e3, outages[outages.len() - 1] * 1e3);
            format!("p50 {p50:.0} ms, max {max:.0} ms")
        };
        println!("{}: {}; until it is back: {}", failure.name, ms(&lost), ms(&back));
        for outage in lost.iter().chain(&back) {
            assert!(*outage <= failure.most, "{}: nobody for {outage:.2} s", failure.name);
        }
    }
    agents_need_no_api_server(&cluster, &vip);
    beside::kube_proxy(&cluster);
    old_connections_are_reset(&cluster, &vip);
    cluster.delete(GATEWAY);
    gone::uninstalled(&cluster, "manifests/default");
}

/// One failure: the outage when it comes, and that when all becomes as it was.
fn once(cluster: &Cluster, vip: &str, failure: &Failure) -> (f64, f64) {
    (failure.first)(cluster);
    let door = format!("{vip}:8080").parse().unwrap();
    let knocks = cluster.knocks(door);
    sleep(Duration::from_secs(1));
    (failure.fails)(cluster);
    // As long as anybody may take, and a moment for what comes late.
    sleep(Duration::from_secs_f64(OUTAGE + 1.0));
    let lost = knocks.stop();
    assert!(lost.answered > 9, "{}: {lost:?}", failure.name);
    let knocks = cluster.knocks(door);
    (failure.heals)(cluster);
    eventually_some("the address to be on node2 again", HEALING, || match owner(cluster, vip) {
        mac if mac == self::mac(cluster, "node2") => Ok(()),
        other => Err(other),
    });
    sleep(Duration::from_secs(1));
    let back = knocks.stop();
    assert!(back.answered > 9, "{}: {back:?}", failure.name);
    installed::is_there(cluster);
    // One owner and no other, whoever thought to be one while apart.
    eventually_some("one owner, five times in a row", HEALING, || {
        let owners: Vec<_> = (0..5).map(|_| owner(cluster, vip)).collect();
        let mac = mac(cluster, "node2");
        if owners.iter().all(|owner| *owner == mac) { Ok(()) } else { Err(format!("{owners:?}")) }
    });
    (lost.longest_gap_s, back.longest_gap_s)
}

/// For longer than it takes until a replica counts as cut off, and no leader leads.
fn agents_need_no_api_server(cluster: &Cluster, vip: &str) {
    const AWAY: Duration = Duration::from_secs(30);
    let kill = "kill -KILL $(cut -d' ' -f1 /var/lib/blixt-cluster/pids/kube-apiserver)";
    let knocks = cluster.knocks(format!("{vip}:8080").parse().unwrap());
    cluster.lab(&["exec", "control", "bash", "-c", kill]).ok();
    sleep(AWAY);
    let outcome = knocks.stop();
    let owner = owner(cluster, vip);
    cluster.lab(&["up", "2"]).ok();
    let (failed, gap) = (outcome.failures.len(), outcome.longest_gap_s * 1e3);
    println!(
        "no API server for {AWAY:?}: {failed} failed, longest time without an answer {gap:.0} ms"
    );
    assert_eq!(owner, mac(cluster, "node2"), "the address has moved");
    assert!(outcome.longest_gap_s <= PLANNED, "{outcome:?}");
    installed::is_there(cluster);
}

/// A client with an old connection hears at once that it is over, and does not
/// wait until it gives up by itself.
fn old_connections_are_reset(cluster: &Cluster, vip: &str) {
    const TALK: &str = r#"
        trap '' PIPE
        exec 3<>"/dev/tcp/$0/8080"
        printf 'GET /hostname HTTP/1.1\r\n' >&3
        touch "$1"
        while [ -e "$1" ]; do sleep 0.02; done
        printf 'Host: x\r\n\r\n' >&3
        timeout 5 cat <&3"#;
    let directory = tempfile::tempdir().unwrap();
    let talks = directory.path().join("talks");
    let mut talk = cluster.client("bash").args(["-c", TALK, vip]).arg(&talks).spawn();
    let is_there = || if talks.exists() { Ok(()) } else { Err("no answer") };
    eventually_some("the connection", Duration::from_secs(10), is_there);
    crash(cluster);
    sleep(Duration::from_secs_f64(OUTAGE));
    std::fs::remove_file(&talks).unwrap();
    let ended = talk.wait_for(Duration::from_secs(10));
    let (stdout, stderr) = talk.into_output();
    assert!(stderr.contains("reset by peer"), "{ended:?}: {stdout}{stderr}");
    start_again(cluster);
    // What a dead node's agent has left, the next one takes away.
    installed::is_there(cluster);
}

/// Whose MAC address the client has for an address, asked anew.
pub(crate) fn owner(cluster: &Cluster, vip: &str) -> String {
    let ask = format!(
        "ip neigh flush to {vip}; curl -s -o /dev/null --max-time 1 http://{}:8080/; ip neigh show {vip}",
        in_url(vip)
    );
    let shown = cluster.client("bash").args(["-c", &ask]).run().stdout;
    let mac = shown.split("lladdr ").nth(1).and_then(|rest| rest.split(' ').next());
    mac.unwrap_or("nobody").to_owned()
}

pub(crate) fn mac(cluster: &Cluster, node: &str) -> String {
    let shown = cluster.at(node, "ip").args(["-o", "link", "show", "eth0"]).ok();
    shown.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

pub(crate) fn signal(name: &str, node: &str, signal: &str) {
    let found = processes(name, &format!("blixt-cluster/{node}/"));
    let ran = program("kill").arg(signal).args(&found).run();
    // One that was ending may have ended meanwhile.
    let gone = ran.stderr.matches("No such process").count();
    assert!(gone < found.len(), "no {name} runs on {node}: {}", ran.stderr);
}

/// The pods of a component of ours on a node.
fn pods(cluster: &Cluster, workload: &str, node: &str) -> Vec<String> {
    let node = format!("spec.nodeName={node}");
    let get = ["-n", "blixt-system", "get", "pods", "-o", "name", "--field-selector", &node];
    let names = cluster.kubectl(&get).ok();
    names.lines().filter(|name| name.contains(workload)).map(str::to_owned).collect()
}

/// Pods that were killed often are started late: a new one is at once.
fn replace(cluster: &Cluster, workload: &str, node: &str) {
    for pod in pods(cluster, workload, node) {
        cluster.kubectl(&["-n", "blixt-system", "delete", "--wait=false", &pod]).ok();
    }
}

fn kill_agent(_: &Cluster) {
    signal("blixt-agent", "node2", "-KILL");
}

fn replace_agent(cluster: &Cluster) {
    replace(cluster, "blixt-agent", "node2");
}

fn stop_agent(_: &Cluster) {
    signal("blixt-agent", "node2", "-STOP");
}

fn continue_agent(_: &Cluster) {
    signal("blixt-agent", "node2", "-CONT");
}

fn nothing(_: &Cluster) {}

/// As for the maintenance of a node: all that may leave leaves, and agents stay.
fn drain(cluster: &Cluster) {
    let drain = ["drain", "node2", "--ignore-daemonsets", "--delete-emptydir-data", "--force"];
    cluster.kubectl(&drain).limit(HEALING).ok();
}

fn uncordon(cluster: &Cluster) {
    cluster.kubectl(&["uncordon", "node2"]).ok();
}

fn cut_link(cluster: &Cluster) {
    cluster.at("switch", "ip").args(["link", "set", "node2", "nomaster"]).ok();
}

fn join_link(cluster: &Cluster) {
    cluster.at("switch", "ip").args(["link", "set", "node2", "master", "br0"]).ok();
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
    signal("blixt-controlle", &leader(cluster), "-KILL");
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
            cluster.kubectl(&["-n", "blixt-system", "delete", "--wait=false", "pod", pod]).ok();
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

/// Without a last word: a node that loses its power closes no connection.
fn crash(cluster: &Cluster) {
    cut_link(cluster);
    cluster.lab(&["crash", "node2"]).ok();
}

fn start_again(cluster: &Cluster) {
    join_link(cluster);
    cluster.lab(&["up", "2"]).ok();
}
