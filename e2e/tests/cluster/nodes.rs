//! What happens to nodes, and who owns an address.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use blixt_e2e::Announcements;
use blixt_e2e::cluster::Cluster;
use blixt_testkit::netns::{eventually_some, program};

use crate::installed;
use crate::served::in_url;

/// How long it may take until all is as it was before.
pub(crate) const HEALING: Duration = Duration::from_secs(120);

/// How long neighbours may take to answer who has an address.
const ANSWERS: Duration = Duration::from_millis(200);

/// Whose MAC address the client has for an address, asked anew.
pub(crate) fn owner(cluster: &Cluster, vip: &str) -> String {
    let ask = format!("ip neigh flush to {vip}; {}; ip neigh show {vip}", request(vip));
    neighbour(&cluster.client("bash").args(["-c", &ask]).run().stdout)
}

/// Whose it has, not asked anew.
pub(crate) fn known_owner(cluster: &Cluster, vip: &str) -> String {
    neighbour(&cluster.client("ip").args(["neigh", "show", vip]).run().stdout)
}

fn neighbour(shown: &str) -> String {
    let mac = shown.split("lladdr ").nth(1).and_then(|rest| rest.split(' ').next());
    mac.unwrap_or("nobody").to_owned()
}

/// All that answer the client when it asks who has an address of IPv4.
pub(crate) fn owners(cluster: &Cluster, heard: &Announcements, vip: &str) -> BTreeSet<String> {
    let begun = Instant::now();
    owner(cluster, vip);
    sleep(ANSWERS);
    heard.answered(vip.parse().unwrap(), begun)
}

/// A request that makes the client look who has an address.
fn request(vip: &str) -> String {
    format!("curl -s -o /dev/null --max-time 1 http://{}:8080/", in_url(vip))
}

pub(crate) fn mac(cluster: &Cluster, node: &str) -> String {
    let shown = cluster.at(node, "ip").args(["-o", "link", "show", "eth0"]).ok();
    shown.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

/// Waits until a node owns some addresses.
pub(crate) fn await_owner<'a>(
    cluster: &Cluster,
    vips: impl IntoIterator<Item = &'a String> + Clone,
    node: &str,
) {
    let mac = mac(cluster, node);
    eventually_some(format!("{node} to own the addresses"), HEALING, || {
        let others: Vec<_> = vips
            .clone()
            .into_iter()
            .map(|vip| (vip, owner(cluster, vip)))
            .filter(|(_, owner)| *owner != mac)
            .collect();
        if others.is_empty() { Ok(()) } else { Err(format!("{others:?}")) }
    });
}

/// An agent on node2 that nobody has seen fall, as one is that was restarted in order.
pub(crate) fn begin_anew<'a>(
    cluster: &Cluster,
    vips: impl IntoIterator<Item = &'a String> + Clone,
) {
    for pod in pods(cluster, "blixt-agent", "node2") {
        cluster.kubectl(&["-n", "blixt-system", "delete", "--ignore-not-found", &pod]).ok();
    }
    installed::is_there(cluster);
    await_owner(cluster, vips, "node2");
}

pub(crate) fn signal(cluster: &Cluster, name: &str, node: &str, signal: &str) {
    let found = cluster.processes(name, node);
    let ran = program("kill").arg(signal).args(&found).run();
    // One that was ending may have ended meanwhile.
    let gone = ran.stderr.matches("No such process").count();
    assert!(gone < found.len(), "no {name} runs on {node}: {}", ran.stderr);
}

/// The pods of a component of ours on a node.
pub(crate) fn pods(cluster: &Cluster, workload: &str, node: &str) -> Vec<String> {
    let node = format!("spec.nodeName={node}");
    let get = ["-n", "blixt-system", "get", "pods", "-o", "name", "--field-selector", &node];
    let names = cluster.kubectl(&get).ok();
    names.lines().filter(|name| name.contains(workload)).map(str::to_owned).collect()
}

/// Pods that were killed often are started late: a new one is at once.
pub(crate) fn replace(cluster: &Cluster, workload: &str, node: &str) {
    pods(cluster, workload, node).iter().for_each(|pod| exchange(cluster, pod));
}

/// Another pod for one of ours, without waiting for it.
pub(crate) fn exchange(cluster: &Cluster, pod: &str) {
    cluster.kubectl(&["-n", "blixt-system", "delete", "--wait=false", pod]).ok();
}

pub(crate) fn replace_agent(cluster: &Cluster) {
    replace(cluster, "blixt-agent", "node2");
}

pub(crate) fn stop_agent(cluster: &Cluster) {
    signal(cluster, "blixt-agent", "node2", "-STOP");
}

pub(crate) fn continue_agent(cluster: &Cluster) {
    signal(cluster, "blixt-agent", "node2", "-CONT");
}

pub(crate) fn nothing(_: &Cluster) {}

/// As for the maintenance of a node: all that may leave leaves, and agents stay.
pub(crate) fn drain(cluster: &Cluster) {
    let drain = ["drain", "node2", "--ignore-daemonsets", "--delete-emptydir-data", "--force"];
    cluster.kubectl(&drain).limit(HEALING).ok();
}

/// Who left does not come back by itself: with both controllers on one node, what fails
/// next could leave none that agents know.
pub(crate) fn uncordon(cluster: &Cluster) {
    cluster.kubectl(&["uncordon", "node2"]).ok();
    if let [_, one] = &pods(cluster, "blixt-controller", "node1")[..] {
        exchange(cluster, one);
    }
}

pub(crate) fn cut_link(cluster: &Cluster) {
    cluster.at("switch", "ip").args(["link", "set", "node2", "nomaster"]).ok();
}

pub(crate) fn join_link(cluster: &Cluster) {
    cluster.at("switch", "ip").args(["link", "set", "node2", "master", "br0"]).ok();
}

/// Between the two nodes alone: everybody else reaches both.
pub(crate) fn part_nodes(cluster: &Cluster) {
    isolate(cluster, "on");
}

pub(crate) fn join_nodes(cluster: &Cluster) {
    isolate(cluster, "off");
}

/// Ports that are isolated reach those only that are not (bridge(8)).
fn isolate(cluster: &Cluster, how: &str) {
    for node in ["node1", "node2"] {
        cluster.at("switch", "bridge").args(["link", "set", "dev", node, "isolated", how]).ok();
    }
}

/// Without a last word: a node that loses its power closes no connection.
pub(crate) fn crash(cluster: &Cluster) {
    cut_link(cluster);
    cluster.lab(&["crash", "node2"]).ok();
}

pub(crate) fn start_again(cluster: &Cluster) {
    join_link(cluster);
    cluster.lab(&["up", "2"]).ok();
}
