//! The kernel: DNAT to one of the endpoints and masquerading, by nftables and
//! conntrack, as kube-proxy and most home-made balancers do it.
//!
//! It is given what helps it: a ruleset of two rules, which only new flows
//! see; permanent neighbours; no checking of checksums, as a network card
//! would have done that; and RPS, so that it forwards on a core of its own
//! while the other one receives, which is the share of work that the AF_XDP
//! contestants have.

use std::fmt::Write as _;

use crate::Error;
use crate::contest::{Contestant, Running};
use crate::rig::{
    CORE, ENDPOINT_PORTS, Far, NEAR_IN, NEAR_OUT, Rig, VIP, VIP_PORTS, endpoints, receive_on,
};

/// The kernel's own forwarding.
#[derive(Debug)]
pub struct Nftables;

/// It has no state but the kernel's.
struct Forwarding;

impl Nftables {
    /// Has the kernel of the rig's load balancer forward what no XDP program
    /// takes before; that stays so.
    pub fn of(rig: &Rig) -> Self {
        let lb = &rig.lb;
        lb.sysctl("net.ipv4.ip_forward", "1");
        for scope in ["all", NEAR_IN, NEAR_OUT] {
            lb.sysctl(&format!("net.ipv4.conf.{scope}.rp_filter"), "0");
        }
        lb.command("nft").arg(ruleset()).ok();
        lb.sysctl("net.netfilter.nf_conntrack_checksum", "0");
        if rig.far != Far::Host {
            // A veth takes frames from an XDP program only where it has NAPI,
            // which without a program of its own it has for GRO. UDP is not
            // merged unless that is asked for (rx-udp-gro-forwarding).
            lb.command("ethtool").args(["-K", NEAR_IN, "gro", "on"]).ok();
        }
        for device in [NEAR_IN, NEAR_OUT] {
            receive_on(lb, device, Some(CORE));
        }
        Self
    }
}

impl Contestant for Nftables {
    fn start(&self, _: &Rig) -> Result<Box<dyn Running>, Error> {
        Ok(Box::new(Forwarding))
    }
}

impl Running for Forwarding {
    fn threads(&self) -> &[String] {
        &[]
    }

    fn stop(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}

/// How many flows the kernel remembers, in all namespaces together.
pub fn conntrack_room() -> Result<u64, Error> {
    let path = "/proc/sys/net/netfilter/nf_conntrack_max";
    let room = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(room.trim().parse()?)
}

/// What it is told.
fn ruleset() -> String {
    let mut rules = String::from("table ip bench {\n chain prerouting {\n");
    rules += "  type nat hook prerouting priority dstnat\n";
    let ports = VIP_PORTS.into_iter().zip(ENDPOINT_PORTS);
    for (protocol, (port, target)) in ["udp", "tcp"].into_iter().zip(ports) {
        let map: Vec<_> = endpoints().enumerate().map(|(n, to)| format!("{n} : {to}")).collect();
        let (count, map) = (map.len(), map.join(", "));
        let _ = write!(rules, "  ip daddr {VIP} {protocol} dport {port} dnat to ");
        let _ = writeln!(rules, "numgen random mod {count} map {{ {map} }}:{target}");
    }
    rules += " }\n chain postrouting {\n  type nat hook postrouting priority srcnat\n";
    let _ = write!(rules, "  oifname {NEAR_OUT} masquerade\n }}\n}}\n");
    rules
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_ruleset_has_all_endpoints() {
        let rules = super::ruleset();
        assert!(rules.contains("udp dport 53 dnat to numgen random mod 10 map { 0 : 10.1.0.1, "));
        assert!(rules.contains("9 : 10.1.0.10 }:8080"), "{rules}");
    }
}
