//! Two nodes as CNIs leave them, and a client outside:
//!
//! ```text
//!   outside ──┬── node (the agent's) ──┬── plain    a pod by a route of its own
//!             │                        └── bridged  a pod on a bridge
//!             └── other node ──────────── tunnelled a pod behind VXLAN
//! ```
//!
//! Both nodes forward, and look at packets' ways back strictly (rp_filter=1).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use blixt_e2e::{
    Agent, Gateway, Listener, Manifests, Protocol, Server, Service, serve_names, serve_streams,
    serve_udp_names,
};
use blixt_testkit::netns::{Namespace, bridge, veth, veth_with_queues};

/// The Gateway's addresses.
pub(crate) const VIPS: [&str; 2] = ["10.9.0.50", "fd09::50"];

/// Free addresses of the nodes' network.
pub(crate) const SNAT: [&str; 2] = ["--snat-address=10.9.0.200", "--snat-address=fd09::200"];

/// Where servers say their names, and where they serve streams.
const NAMES: u16 = 8_080;
const STREAMS: u16 = 9_090;

/// The first listener that leads to streams; those that lead to names begin at
/// 80. Each backend has one of either.
const TO_STREAMS: u16 = 180;
const TO_NAMES: u16 = 80;

/// Who serves: its name, and its addresses.
pub(crate) const BACKENDS: [(&str, [&str; 2]); 5] = [
    ("plain", ["10.244.1.130", "fd24:1::130"]),
    ("bridged", ["10.244.1.10", "fd24:1::10"]),
    ("tunnelled", ["10.244.2.10", "fd24:2::10"]),
    ("other-node", ["10.9.0.2", "fd09::2"]),
    ("own-node", ["10.9.0.1", "fd09::1"]),
];

/// The whole of it.
pub(crate) struct Cluster {
    pub(crate) outside: Namespace,
    pub(crate) node: Namespace,
    pub(crate) plain: Namespace,
    pub(crate) bridged: Namespace,
    pub(crate) manifests: Manifests,
    other_node: Namespace,
    tunnelled: Namespace,
    _switch: Namespace,
    servers: Vec<Server>,
}

impl Cluster {
    /// The agent's node has an interface with so many queues.
    pub(crate) fn new(queues: u32) -> Self {
        let switch = Namespace::new("switch");
        bridge(&switch, "br0");
        let [outside, node, other_node] =
            [("outside", 100, 1), ("node", 1, queues), ("other", 2, 1)].map(
                |(tag, host, queues)| {
                    let namespace = Namespace::new(tag);
                    veth_with_queues(&switch, tag, &namespace, "eth0", queues);
                    switch.ip(&format!("link set {tag} master br0"));
                    namespace.ip(&format!("address add 10.9.0.{host}/24 dev eth0"));
                    namespace.ip(&format!("address add fd09::{host}/64 dev eth0 nodad"));
                    namespace
                },
            );
        for (node, host) in [(&node, 1), (&other_node, 2)] {
            node.sysctl("net.ipv4.ip_forward", "1");
            node.sysctl("net.ipv6.conf.all.forwarding", "1");
            for device in ["all", "default", "eth0"] {
                node.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "1");
            }
            // Where the Internet would be.
            node.ip("route add default via 10.9.0.100");
            node.ip("route add default via fd09::100");
            tunnel(node, host);
        }
        let plain = plain_pod(&node);
        let bridged = bridged_pod(&node, "bridged", 1);
        let tunnelled = bridged_pod(&other_node, "tunnelled", 2);
        let manifests = Manifests::new(&gateway());
        let mut cluster = Self {
            outside,
            node,
            plain,
            bridged,
            manifests,
            other_node,
            tunnelled,
            _switch: switch,
            servers: Vec::new(),
        };
        cluster.serve();
        cluster
    }

    fn serve(&mut self) {
        let namespaces =
            [&self.plain, &self.bridged, &self.tunnelled, &self.other_node, &self.node];
        for (namespace, (name, _)) in namespaces.into_iter().zip(BACKENDS) {
            self.servers.extend([
                serve_names(namespace, NAMES, name),
                serve_udp_names(namespace, NAMES, name),
                serve_streams(namespace, STREAMS),
            ]);
        }
    }

    /// Starts an agent on the node, with these flags more.
    pub(crate) fn start(&self, flags: &[&str]) -> Agent {
        Agent::start_in(&self.node, &self.manifests, &with(flags))
    }

    /// The same, and does not wait until it is ready.
    pub(crate) fn launch(&self, flags: &[&str]) -> Agent {
        Agent::launch_in(&self.node, &self.manifests, &with(flags))
    }

    /// Has the Gateway have these addresses.
    pub(crate) fn serve_on(&self, vips: &[&str]) {
        let addresses = vips.iter().map(|vip| vip.parse().unwrap()).collect();
        self.manifests.write(&Gateway { addresses, ..gateway() });
    }

    /// Whoever asks.
    pub(crate) fn clients(&self) -> [(&'static str, &Namespace); 4] {
        [
            ("outside", &self.outside),
            ("node", &self.node),
            ("plain", &self.plain),
            ("bridged", &self.bridged),
        ]
    }

    /// All that there is on the node of devices, addresses, routes, rules and
    /// tables, but for what comes and goes by itself.
    pub(crate) fn inventory(&self) -> BTreeSet<String> {
        let devices = ["-o link show", "-o address show"];
        let tables = ["route show table all", "-6 route show table all"];
        let others = ["rule show", "-6 rule show", "neigh show nud permanent"];
        let shown = devices.into_iter().chain(tables).chain(others).map(|what| self.node.ip(what));
        let ruleset = self.node.command("nft").args(["list", "ruleset"]).ok();
        let all: Vec<_> = shown.chain([ruleset]).collect();
        // The state of a bridge becomes known by and by.
        let lines = all.iter().flat_map(|shown| shown.lines());
        lines.map(|line| line.replace(" state UNKNOWN", " state UP")).collect()
    }

    /// How many packets the kernel has sent into its end of the pair, and got
    /// out of it.
    pub(crate) fn on_the_pair(&self) -> (u64, u64) {
        let count = |which: &str| -> u64 {
            let file = format!("/sys/class/net/blixt-host/statistics/{which}_packets");
            self.node.command("cat").arg(file).ok().trim().parse().unwrap()
        };
        (count("tx"), count("rx"))
    }
}

/// Where the Gateway leads to a backend's name, by IPv4 and IPv6.
pub(crate) fn to_name(backend: usize) -> [SocketAddr; 2] {
    at(TO_NAMES + backend as u16)
}

/// The same for its streams.
pub(crate) fn to_streams(backend: usize) -> [SocketAddr; 2] {
    at(TO_STREAMS + backend as u16)
}

fn at(port: u16) -> [SocketAddr; 2] {
    VIPS.map(|vip| SocketAddr::new(vip.parse().unwrap(), port))
}

fn with(flags: &[&str]) -> Vec<String> {
    let common = ["--interface=eth0", "--flow-capacity=4096"];
    common.iter().chain(flags).map(|flag| (*flag).to_owned()).collect()
}

fn gateway() -> Gateway {
    let mut gateway =
        Gateway { addresses: VIPS.map(|vip| vip.parse().unwrap()).into(), ..Gateway::default() };
    for (place, (name, addresses)) in (0_u16..).zip(BACKENDS) {
        let endpoints: Vec<IpAddr> = addresses.map(|address| address.parse().unwrap()).into();
        for (kind, protocol, port, target_port) in [
            ("tcp", Protocol::Tcp, TO_NAMES, NAMES),
            ("udp", Protocol::Udp, TO_NAMES, NAMES),
            ("streams", Protocol::Tcp, TO_STREAMS, STREAMS),
        ] {
            let service = format!("{name}-{kind}");
            let port = port + place;
            let backends = vec![(service.clone(), 1)];
            gateway.listeners.push(Listener { protocol, port, backends });
            gateway.services.push(Service {
                name: service,
                protocol,
                target_port,
                endpoints: endpoints.clone(),
                client_ip_affinity: false,
            });
        }
    }
    gateway
}

/// A pod as Calico has it: a veth and a route, and the node answers for all.
fn plain_pod(node: &Namespace) -> Namespace {
    let pod = Namespace::new("plain");
    veth(node, "cali1", &pod, "eth0");
    node.sysctl("net.ipv4.conf.cali1.proxy_arp", "1");
    pod.ip("address add 10.244.1.130/32 dev eth0");
    pod.ip("route add 169.254.1.1 dev eth0 scope link");
    pod.ip("route add default via 169.254.1.1");
    node.ip("route add 10.244.1.130/32 dev cali1 scope link");
    pod.ip("address add fd24:1::130/128 dev eth0 nodad");
    node.ip("address add fe80::1/64 dev cali1 nodad");
    pod.ip("route add default via fe80::1 dev eth0");
    node.ip("route add fd24:1::130/128 dev cali1");
    pod
}

/// A pod as the bridge plugin makes it, on a node's own network of pods.
fn bridged_pod(node: &Namespace, tag: &str, network: u8) -> Namespace {
    let pod = Namespace::new(tag);
    bridge(node, "cni0");
    node.ip(&format!("address add 10.244.{network}.1/25 dev cni0"));
    node.ip(&format!("address add fd24:{network}::1/120 dev cni0 nodad"));
    veth(node, "pod0", &pod, "eth0");
    node.ip("link set pod0 master cni0");
    pod.ip(&format!("address add 10.244.{network}.10/25 dev eth0"));
    pod.ip(&format!("address add fd24:{network}::10/120 dev eth0 nodad"));
    pod.ip(&format!("route add default via 10.244.{network}.1"));
    pod.ip(&format!("route add default via fd24:{network}::1"));
    pod
}

/// A tunnel as Flannel has it, to the one other node.
fn tunnel(node: &Namespace, host: u8) {
    let other = 3 - host;
    let mac = |host| format!("02:fa:00:00:00:0{host}");
    node.ip(&format!(
        "link add flannel.1 type vxlan id 1 local 10.9.0.{host} dev eth0 dstport 8472 nolearning"
    ));
    node.ip(&format!("link set flannel.1 address {} up", mac(host)));
    node.ip(&format!("address add 10.244.{host}.0/32 dev flannel.1"));
    node.ip(&format!("address add fd24:{host}::/128 dev flannel.1 nodad"));
    let there = mac(other);
    for (router, network) in [
        (format!("10.244.{other}.0"), format!("10.244.{other}.0/24")),
        (format!("fd24:{other}::"), format!("fd24:{other}::/64")),
    ] {
        node.ip(&format!("neigh replace {router} lladdr {there} dev flannel.1 nud permanent"));
        node.ip(&format!("route add {network} via {router} dev flannel.1 onlink"));
    }
    let dst = format!("10.9.0.{other}");
    node.command("bridge").args(["fdb", "append", &there, "dev", "flannel.1", "dst", &dst]).ok();
}
