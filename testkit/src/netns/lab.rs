//! The networks in which a load balancer is tried.
//!
//! One arm: everybody hangs on one switch, the load balancer by one link.
//!
//! ```text
//!   client ──┐                 ┌── backend 0
//!            ├── front network ┼── backend 1
//!   lb lb0 ──┘                 └── backend 2
//! ```
//!
//! Two arms: the load balancer stands between two switches.
//!
//! ```text
//!   client ── front network ── lb0 lb lb1 ── back network ──┬── backend 0
//!                                                           ├── backend 1
//!                                                           └── backend 2
//! ```
//!
//! All addresses are of the ranges for documentation (RFC 5737, RFC 3849),
//! IPv4 and IPv6 alike; [`net`] names them.

use std::net::IpAddr;

use super::link::{Offloads, bridge, veth, veth_with_queues};
use super::namespace::Namespace;

/// The addresses of a lab. What is in `.21` in IPv4 is in `::21` in IPv6.
pub mod net {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    /// A network of a lab: 256 hosts in both families.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Network {
        v4: [u8; 3],
        v6: u16,
    }

    /// Where clients and Gateway addresses are.
    pub const FRONT: Network = Network { v4: [192, 0, 2], v6: 1 };
    /// Where backends are, if there are two arms.
    pub const BACK: Network = Network { v4: [198, 51, 100], v6: 2 };
    /// Behind the router that is `.1` in the front or back network.
    pub const FAR: Network = Network { v4: [203, 0, 113], v6: 3 };

    /// The router of a network, where there is one.
    pub const ROUTER: u8 = 1;
    /// The client.
    pub const CLIENT: u8 = 2;
    /// The load balancer's own address.
    pub const LB: u8 = 10;
    /// The first backend; the others follow.
    pub const BACKEND: u8 = 21;
    /// The Gateway's address, in the front network.
    pub const VIP: u8 = 100;
    /// The SNAT address, in the network of the backends.
    pub const SNAT: u8 = 200;

    impl Network {
        /// A host's IPv4 address.
        pub const fn v4(self, host: u8) -> Ipv4Addr {
            let [a, b, c] = self.v4;
            Ipv4Addr::new(a, b, c, host)
        }

        /// A host's IPv6 address. It reads like the IPv4 address: host 21 is
        /// `::21`, though that is hexadecimal.
        pub const fn v6(self, host: u8) -> Ipv6Addr {
            let digits =
                host as u16 / 100 * 0x100 + host as u16 / 10 % 10 * 0x10 + host as u16 % 10;
            Ipv6Addr::new(0x2001, 0xdb8, self.v6, 0, 0, 0, 0, digits)
        }

        /// A host's addresses.
        pub const fn both(self, host: u8) -> [IpAddr; 2] {
            [IpAddr::V4(self.v4(host)), IpAddr::V6(self.v6(host))]
        }
    }
}

use net::{BACK, BACKEND, CLIENT, FAR, FRONT, LB, Network, ROUTER, SNAT, VIP};

/// With how many links the load balancer is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arms {
    /// `lb0`, to everybody.
    One,
    /// `lb0` to the clients, `lb1` to the backends.
    Two,
}

/// What a lab shall be.
#[derive(Debug, Clone, Copy)]
pub struct LabPlan {
    /// How the load balancer is connected.
    pub arms: Arms,
    /// What the network devices of clients and backends do.
    pub offloads: Offloads,
    /// How many queues the load balancer's devices have.
    pub queues: u32,
    /// How many backends there are.
    pub backends: u8,
}

impl Default for LabPlan {
    fn default() -> Self {
        Self { arms: Arms::Two, offloads: Offloads::AsMade, queues: 1, backends: 3 }
    }
}

/// A namespace with one device, `eth0`.
#[derive(Debug)]
pub struct Host {
    /// Where it lives.
    pub namespace: Namespace,
    /// Its addresses, IPv4 first.
    pub addresses: [IpAddr; 2],
}

/// A host that serves.
pub type Backend = Host;

/// A host behind a router.
#[derive(Debug)]
pub struct Far {
    /// The router: `near` and `far` are its devices.
    pub router: Namespace,
    /// The host.
    pub host: Host,
}

/// Clients, a load balancer's namespace and backends, all connected.
#[derive(Debug)]
pub struct Lab {
    /// What was asked for.
    pub plan: LabPlan,
    /// The client.
    pub client: Host,
    /// Where the agent shall run.
    pub lb: Namespace,
    /// The backends.
    pub backends: Vec<Backend>,
    front: Namespace,
    back: Option<Namespace>,
}

/// The bridge of a switch's namespace.
const BRIDGE: &str = "br0";

impl Lab {
    /// Makes it.
    pub fn new(plan: LabPlan) -> Self {
        let front = switch("front");
        let lb = Namespace::new("lb");
        plug(&front, "lb", &lb, "lb0", plan.queues);
        address(&lb, "lb0", FRONT, LB);
        let back = (plan.arms == Arms::Two).then(|| {
            let back = switch("back");
            plug(&back, "lb", &lb, "lb1", plan.queues);
            address(&lb, "lb1", BACK, LB);
            back
        });
        let client = host("client", &front, FRONT, CLIENT, plan.offloads);
        let behind = back.as_ref().unwrap_or(&front);
        let network = backend_network(plan.arms);
        let backends = (0..plan.backends)
            .map(|n| host(&format!("be{n}"), behind, network, BACKEND + n, plan.offloads))
            .collect();
        Self { plan, client, lb, backends, front, back }
    }

    /// The devices that the agent shall attach to.
    pub fn interfaces(&self) -> &'static [&'static str] {
        match self.plan.arms {
            Arms::One => &["lb0"],
            Arms::Two => &["lb0", "lb1"],
        }
    }

    /// The Gateway's addresses, IPv4 first.
    pub fn vips(&self) -> [IpAddr; 2] {
        FRONT.both(VIP)
    }

    /// The SNAT addresses, IPv4 first.
    pub fn snat_addresses(&self) -> [IpAddr; 2] {
        backend_network(self.plan.arms).both(SNAT)
    }

    /// The load balancer's own addresses on `lb0`, IPv4 first.
    pub fn lb_addresses(&self) -> [IpAddr; 2] {
        FRONT.both(LB)
    }

    /// The switch of the front network; its port `lb` leads to `lb0`.
    pub fn front(&self) -> &Namespace {
        &self.front
    }

    /// The switch that backends hang on; with two arms its port `lb` leads to
    /// `lb1`.
    pub fn back(&self) -> &Namespace {
        self.back.as_ref().unwrap_or(&self.front)
    }

    /// Connects `device` of another namespace to a switch, as its `port`.
    pub fn plug(switch: &Namespace, port: &str, namespace: &Namespace, device: &str) {
        plug(switch, port, namespace, device, 1);
    }

    /// Has all that clients send to the load balancer come in on one of its
    /// queues, instead of spreading flows over all.
    pub fn steer_clients(&self, queue: u32) {
        steer(&self.front, "lb", queue);
    }

    /// The same for what backends send; with one arm also for clients.
    pub fn steer_backends(&self, queue: u32) {
        steer(self.back(), "lb", queue);
    }

    /// How many frames never reached the load balancer because its end of a veth
    /// had no CPU to take them: its ring has 256 places (VETH_RING_SIZE in
    /// drivers/net/veth.c), and nobody but the sender counts what finds none.
    pub fn lost_before_the_load_balancer(&self) -> u64 {
        let switches = [Some(&self.front), self.back.as_ref()];
        let dropped = |switch: &Namespace| -> u64 {
            let counter = "/sys/class/net/lb/statistics/tx_dropped";
            switch.command("cat").args([counter]).ok().trim().parse().unwrap()
        };
        switches.into_iter().flatten().map(dropped).sum()
    }

    /// Adds a client behind a router that sends it packets of `mtu` at most.
    pub fn far_client(&self, mtu: u32) -> Far {
        self.far("farclient", &self.front, FRONT, "lb0", mtu)
    }

    /// Adds a backend behind a router that sends it packets of `mtu` at most.
    pub fn far_backend(&self, mtu: u32) -> Far {
        let device = self.interfaces()[self.interfaces().len() - 1];
        self.far("farbe", self.back(), backend_network(self.plan.arms), device, mtu)
    }

    /// Only the router knows how narrow the way to the host is, so that
    /// whoever sends to it learns by ICMP alone.
    fn far(&self, tag: &str, near: &Namespace, network: Network, device: &str, mtu: u32) -> Far {
        let router = Namespace::new("router");
        for family in ["ipv4.ip_forward", "ipv6.conf.all.forwarding"] {
            router.sysctl(&format!("net.{family}"), "1");
        }
        plug(near, "router", &router, "near", 1);
        address(&router, "near", network, ROUTER);
        let namespace = Namespace::new(tag);
        veth(&router, "far", &namespace, "eth0");
        address(&router, "far", FAR, ROUTER);
        address(&namespace, "eth0", FAR, CLIENT);
        // The route has the MTU, not the device: a veth drops what is larger
        // than its own, also what it receives (`is_skb_forwardable`).
        let host = FAR.v4(0);
        router.ip(&format!("route change {host}/24 dev far mtu {mtu} src {}", FAR.v4(ROUTER)));
        router.ip(&format!("-6 route add {}/64 dev far metric 1 mtu {mtu}", FAR.v6(0)));
        namespace.offloads("eth0", self.plan.offloads);
        namespace.ip(&format!("route add default via {}", FAR.v4(ROUTER)));
        namespace.ip(&format!("-6 route add default via {}", FAR.v6(ROUTER)));
        let (far, via) = (FAR.v4(0), network.v4(ROUTER));
        self.lb.ip(&format!("route add {far}/24 via {via} dev {device}"));
        let (far, via) = (FAR.v6(0), network.v6(ROUTER));
        self.lb.ip(&format!("-6 route add {far}/64 via {via} dev {device}"));
        Far { router, host: Host { namespace, addresses: FAR.both(CLIENT) } }
    }
}

fn backend_network(arms: Arms) -> Network {
    match arms {
        Arms::One => FRONT,
        Arms::Two => BACK,
    }
}

fn switch(tag: &str) -> Namespace {
    let namespace = Namespace::new(tag);
    bridge(&namespace, BRIDGE);
    namespace
}

/// Sends all out of one transmit queue, whichever CPU sends it: on the other
/// end of a veth it comes in on the receive queue of the same number
/// (Documentation/networking/scaling.rst, XPS).
fn steer(switch: &Namespace, port: &str, queue: u32) {
    let script = format!(
        "all=$(printf %x $(( (1 << $(nproc --all)) - 1 )))\n\
         for queue in /sys/class/net/{port}/queues/tx-*; do echo 0 > $queue/xps_cpus; done\n\
         echo $all > /sys/class/net/{port}/queues/tx-{queue}/xps_cpus\n"
    );
    switch.command("sh").args(["-e", "-c", &script]).ok();
}

/// Connects `device` of `namespace` to a switch's `port`.
fn plug(switch: &Namespace, port: &str, namespace: &Namespace, device: &str, queues: u32) {
    veth_with_queues(switch, port, namespace, device, queues);
    switch.ip(&format!("link set {port} master {BRIDGE}"));
}

fn host(tag: &str, switch: &Namespace, network: Network, number: u8, offloads: Offloads) -> Host {
    let namespace = Namespace::new(tag);
    plug(switch, tag, &namespace, "eth0", 1);
    address(&namespace, "eth0", network, number);
    namespace.offloads("eth0", offloads);
    Host { namespace, addresses: network.both(number) }
}

fn address(namespace: &Namespace, device: &str, network: Network, host: u8) {
    namespace.ip(&format!("addr add {}/24 dev {device}", network.v4(host)));
    namespace.ip(&format!("addr add {}/64 dev {device} nodad", network.v6(host)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::Ran;

    fn ping(from: &Namespace, to: IpAddr) -> Ran {
        from.command("ping").args(["-c", "1", "-W", "2", &to.to_string()]).run()
    }

    #[test]
    fn addresses_read_alike_in_both_families() {
        assert_eq!(FRONT.v6(VIP).to_string(), "2001:db8:1::100");
        assert_eq!(BACK.v6(BACKEND + 2).to_string(), "2001:db8:2::23");
        assert_eq!(BACK.v4(SNAT).to_string(), "198.51.100.200");
    }

    #[test]
    fn everybody_reaches_the_load_balancer() {
        crate::require_root!();
        for arms in [Arms::One, Arms::Two] {
            let lab = Lab::new(LabPlan { arms, ..LabPlan::default() });
            let far = lab.far_client(1_300);
            for to in lab.lb_addresses() {
                ping(&lab.client.namespace, to).ok();
                ping(&far.host.namespace, to).ok();
            }
            for backend in &lab.backends {
                for to in backend.addresses {
                    ping(&lab.lb, to).ok();
                }
            }
        }
    }
}
