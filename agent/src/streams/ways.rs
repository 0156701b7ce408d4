//! How the kernel takes packets for some TCP ports of VIPs: routing rules, and a
//! routing table for each port in which these VIPs are local.
//!
//! The VIPs are addresses of no device, so that the kernel answers ARP and
//! neighbour discovery for none of them; and whatever else is sent to them goes
//! where it went before. ICMP errors name no port: those that the XDP program
//! lets pass are about streams, so what comes in by the interfaces that it runs
//! on is local too.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use futures_util::{StreamExt, TryStreamExt};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, IpProtocol, RouteNetlinkMessage};
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{Handle, IpVersion};

use crate::netlink::{PROTOCOL, add, add_route, ask};

/// After the kernel's own addresses, wherever somebody has moved that rule to
/// (Cilium: 100), and before what others have (AWS' CNI from 512 on).
const PRIORITY: u32 = 178;

/// The tables: the one for ICMP errors, and behind it one for each port.
const FIRST_TABLE: u32 = 178_000_000;
const LAST_TABLE: u32 = FIRST_TABLE + u16::MAX as u32;

/// The loopback device's number (`LOOPBACK_IFINDEX`, include/net/flow.h).
const LOOPBACK: u32 = 1;

/// IANA's number; the crate names the IPv4 one alone.
const ICMPV6: i32 = 58;

/// Those that there are, or shall be.
#[derive(Debug)]
pub(super) struct Ways {
    handle: Handle,
    /// The interfaces that the XDP program runs on.
    interfaces: Vec<String>,
    /// The ports that lead here.
    led: BTreeSet<SocketAddr>,
}

/// Which packets a rule is for.
#[derive(Debug, Clone, Copy)]
enum Packets<'a> {
    /// TCP to a port.
    ToPort(u16),
    /// ICMP that comes in by an interface.
    Icmp { by: &'a str },
}

/// What a port needs; others may need it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// An address in the table of a port, or in the one for ICMP errors.
    Route(IpAddr, Option<u16>),
    /// The rule for a port.
    ToPort { v4: bool, port: u16 },
    /// The rules for ICMP errors.
    Icmp { v4: bool },
}

/// What the kernel answered, so that it is asked once for all who need the same.
type Answers = BTreeMap<Step, Result<(), String>>;

impl Ways {
    /// None yet; what an agent that was killed has left is taken away.
    pub(super) async fn open(interfaces: Vec<String>) -> io::Result<Self> {
        let (mut connection, handle, _) = rtnetlink::new_connection()?;
        // So that the kernel lists the table that is asked for, and no other.
        connection.socket_mut().socket_mut().set_netlink_get_strict_chk(true)?;
        tokio::spawn(connection);
        let ways = Self { handle, interfaces, led: BTreeSet::new() };
        ways.forget_all().await?;
        Ok(ways)
    }

    /// Leads these here as well. Those that the kernel refuses, and why.
    pub(super) async fn lead(
        &mut self,
        ports: &BTreeSet<SocketAddr>,
    ) -> BTreeMap<SocketAddr, String> {
        let (mut refused, mut answers) = (BTreeMap::new(), Answers::new());
        // Again and again: others tidy up rules that they do not know.
        for &port in ports {
            self.led.insert(port);
            if let Err(error) = self.lead_one(port, &mut answers).await {
                let why = format!(
                    "the kernel takes no rule or route for {port} ({error}): the agent needs NET_ADMIN, and \
                     a kernel with routing rules for ports (CONFIG_IP_MULTIPLE_TABLES, \
                     CONFIG_IPV6_MULTIPLE_TABLES)"
                );
                refused.insert(port, why);
            }
        }
        refused
    }

    /// Leads here only these of them from now on.
    pub(super) async fn keep(&mut self, ports: &BTreeSet<SocketAddr>) {
        let gone: Vec<_> = self.led.difference(ports).copied().collect();
        self.led.retain(|port| ports.contains(port));
        for port in gone {
            // What is gone already needs nothing.
            let v4 = port.is_ipv4();
            let of_family = || self.led.iter().filter(|at| at.is_ipv4() == v4);
            self.delete_route(route(port.ip(), Some(port.port()))).await;
            if !of_family().any(|at| at.port() == port.port()) {
                self.delete_rule(rule(v4, Packets::ToPort(port.port()))).await;
            }
            if !of_family().any(|at| at.ip() == port.ip()) {
                self.delete_route(route(port.ip(), None)).await;
            }
            if of_family().next().is_none() {
                for by in &self.interfaces {
                    self.delete_rule(rule(v4, Packets::Icmp { by })).await;
                }
            }
        }
    }

    async fn lead_one(&self, port: SocketAddr, answers: &mut Answers) -> Result<(), String> {
        let v4 = port.is_ipv4();
        let steps = [
            Step::Route(port.ip(), Some(port.port())),
            Step::Route(port.ip(), None),
            Step::ToPort { v4, port: port.port() },
            Step::Icmp { v4 },
        ];
        for step in steps {
            let answer = match answers.get(&step) {
                Some(answer) => answer.clone(),
                None => self.take(step).await.map_err(|error| error.to_string()),
            };
            answers.insert(step, answer.clone());
            answer?;
        }
        Ok(())
    }

    async fn take(&self, step: Step) -> io::Result<()> {
        match step {
            Step::Route(vip, port) => add_route(&self.handle, route(vip, port)).await,
            Step::ToPort { v4, port } => self.add_rule(rule(v4, Packets::ToPort(port))).await,
            Step::Icmp { v4 } => {
                for by in &self.interfaces {
                    self.add_rule(rule(v4, Packets::Icmp { by })).await?;
                }
                Ok(())
            }
        }
    }

    /// Takes all of ours away, whoever made them.
    async fn forget_all(&self) -> io::Result<()> {
        for version in [IpVersion::V4, IpVersion::V6] {
            let rules = self.handle.rule().get(version.clone()).execute();
            let rules: Vec<_> = rules.try_collect().await.map_err(io::Error::other)?;
            let mut tables = BTreeSet::new();
            for rule in rules {
                let Some(table) = table_of_ours(&rule) else { continue };
                tables.insert(table);
                self.delete_rule(rule).await;
            }
            for table in tables {
                self.empty(&version, table).await;
            }
        }
        Ok(())
    }

    async fn empty(&self, version: &IpVersion, table: u32) {
        let mut asked = RouteMessage::default();
        asked.header.address_family = match version {
            IpVersion::V4 => AddressFamily::Inet,
            IpVersion::V6 => AddressFamily::Inet6,
        };
        asked.attributes = vec![RouteAttribute::Table(table)];
        // A table that is empty is none.
        let routes = self.handle.route().get(asked).execute();
        let routes: Vec<_> = routes.filter_map(async |route| route.ok()).collect().await;
        for route in routes {
            self.delete_route(route).await;
        }
    }

    async fn add_rule(&self, rule: RuleMessage) -> io::Result<()> {
        add(&self.handle, RouteNetlinkMessage::NewRule(rule)).await
    }

    async fn delete_rule(&self, rule: RuleMessage) {
        let _ = ask(&self.handle, RouteNetlinkMessage::DelRule(rule), 0).await;
    }

    async fn delete_route(&self, route: RouteMessage) {
        let _ = ask(&self.handle, RouteNetlinkMessage::DelRoute(route), 0).await;
    }
}

/// The table for a port, or the one for ICMP errors.
fn table(port: Option<u16>) -> u32 {
    FIRST_TABLE + u32::from(port.unwrap_or(0))
}

fn family(v4: bool) -> AddressFamily {
    if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn rule(v4: bool, packets: Packets<'_>) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(v4);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
    ];
    message.attributes.extend(match packets {
        Packets::ToPort(port) => [
            RuleAttribute::Table(table(Some(port))),
            RuleAttribute::IpProtocol(IpProtocol::Tcp),
            RuleAttribute::DestinationPortRange(RulePortRange { start: port, end: port }),
        ],
        Packets::Icmp { by } => [
            RuleAttribute::Table(table(None)),
            RuleAttribute::IpProtocol(if v4 {
                IpProtocol::Icmp
            } else {
                IpProtocol::Other(ICMPV6)
            }),
            RuleAttribute::Iifname(by.to_owned()),
        ],
    });
    message
}

/// The table that a rule leads to, if it is one of ours.
fn table_of_ours(rule: &RuleMessage) -> Option<u32> {
    let attributes = &rule.attributes;
    let is_ours = attributes.contains(&RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)))
        && attributes.contains(&RuleAttribute::Priority(PRIORITY));
    let table = attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Table(table) => Some(*table),
        _ => None,
    })?;
    (is_ours && (FIRST_TABLE..=LAST_TABLE).contains(&table)).then_some(table)
}

/// Says that an address is the node's own, to who asks the table of a port.
fn route(vip: IpAddr, port: Option<u16>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(vip.is_ipv4());
    message.header.destination_prefix_length = if vip.is_ipv4() { 32 } else { 128 };
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.kind = RouteType::Local;
    message.attributes = vec![RouteAttribute::Table(table(port)), RouteAttribute::Oif(LOOPBACK)];
    match vip {
        IpAddr::V4(vip) => {
            message.header.scope = RouteScope::Host;
            message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(vip)));
            // For clients on the node, which else would get the VIP itself: no
            // socket may send from that.
            let source = RouteAddress::Inet(Ipv4Addr::LOCALHOST);
            message.attributes.push(RouteAttribute::PrefSource(source));
        }
        IpAddr::V6(vip) => {
            message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet6(vip)));
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_ours_are_known_by_their_marks() {
        for packets in [Packets::ToPort(443), Packets::Icmp { by: "eth0" }] {
            for v4 in [true, false] {
                let ours = rule(v4, packets);
                let port = matches!(packets, Packets::ToPort(_)).then_some(443);
                assert_eq!(table_of_ours(&ours), Some(table(port)));
                for place in 0..3 {
                    let mut other = ours.clone();
                    other.attributes.remove(place);
                    assert_eq!(table_of_ours(&other), None, "{:?}", ours.attributes[place]);
                }
            }
        }
        assert_eq!((table(None), table(Some(u16::MAX))), (FIRST_TABLE, LAST_TABLE));
    }
}
