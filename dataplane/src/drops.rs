//! Every reason for which a packet is not delivered: its name in metrics, what
//! it means to the person who reads them, and what that person can do.

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $meaning:literal;)*) => {
        /// Why a packet was not delivered. Some are answered all the same: a
        /// refused SYN gets a RST.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $meaning] $variant,)*
        }

        impl DropReason {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The value of the label `reason` of `blixt_drops_total`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for people.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

drop_reasons! {
    Truncated = "truncated", "The frame ends before its packet does.";
    Ethertype = "ethertype", "The frame is neither IPv4, IPv6 nor ARP, or has more than two VLAN tags.";
    IpHeader = "ip_header", "The IP header contradicts itself: wrong version, header length or total length.";
    IpChecksum = "ip_checksum", "The IPv4 header's checksum is wrong.";
    ExtensionHeaders = "extension_headers", "The IPv6 extension headers are malformed, out of order, or more than eight.";
    RoutingHeader = "routing_header", "An IPv6 routing header asks to be forwarded on; addresses of a Gateway are final destinations.";
    Fragment = "fragment", "The packet is a fragment; fragments are not followed yet.";
    Protocol = "protocol", "The transport protocol is none that is balanced (TCP, UDP) or answered (ICMP).";
    L4Header = "l4_header", "The TCP, UDP or ICMP header contradicts itself: wrong length, or port 0.";
    L4Checksum = "l4_checksum", "The first packet of a flow has a wrong TCP or UDP checksum.";
    NotOurMac = "not_our_mac", "The frame's destination is another station's MAC address, or a group's.";
    SourceAddress = "source_address", "The source address is one that no host can have, or an address of a Gateway.";
    NotOurAddress = "not_our_address", "The destination is neither a Gateway's address nor a SNAT address (yet, or any more).";
    Arp = "arp", "An ARP packet that asks nothing of us, or is malformed.";
    Ndp = "ndp", "A neighbour solicitation that asks nothing of us, or is malformed.";
    NotOwner = "not_owner", "Somebody looks for a VIP that another node answers for.";
    NoListener = "no_listener", "No listener of the Gateway has this port and protocol. TCP is answered with a RST.";
    NoRoute = "no_route_attached", "The listener has no route. TCP is answered with a RST.";
    NoWeight = "no_weight", "The listener's route has no backendRef with a weight above 0. TCP is answered with a RST.";
    BadBackend = "bad_backend", "The share of a backendRef that does not resolve (see the route's ResolvedRefs). TCP is answered with a RST.";
    NoEndpoint = "no_endpoint", "The chosen Service has no endpoint of the packet's address family that takes new flows. TCP is answered with a RST.";
    NoFlow = "no_flow", "The packet belongs to no known flow and cannot start one. TCP is answered with a RST.";
    EndpointGone = "endpoint_gone", "The flow's endpoint no longer exists. TCP is answered with a RST.";
    HostPathFull = "host_path_full", "As many flows go through the node's kernel as may of its connection tracking.";
    FlowTableFull = "flow_table_full", "There is no room for a new flow.";
    SnatPorts = "snat_ports", "Each SNAT port is in use towards this endpoint.";
    NoSnatAddress = "no_snat_address", "There is no SNAT address of the packet's address family, and no host path.";
    HopLimit = "hop_limit", "The packet's TTL or hop limit ran out; answered with an ICMP time exceeded.";
    TooBig = "too_big", "The packet does not fit the next link's MTU; answered with an ICMP that names the MTU.";
    TooBigToFragment = "too_big_to_fragment", "The packet does not fit the next link's MTU and allows fragmenting, which is not done yet.";
    Unroutable = "unroutable", "The kernel has no route to the destination, or one that forbids it.";
    NotAttached = "not_attached", "The route leads out of an interface that the agent is not attached to, and the flow does not go through the node's kernel.";
    LocalEndpoint = "local_endpoint", "The destination is the node itself, and the flow does not go through the node's kernel.";
    Unresolved = "unresolved", "The next hop did not answer ARP or neighbour discovery in time.";
    HoldFull = "hold_full", "Too many packets already wait for next hops to be resolved.";
    ResetLimit = "reset_limit", "The limit of resets a second is used up; the sender is not answered.";
    IcmpLimit = "icmp_limit", "The limit of ICMP answers a second is used up; the sender is not answered.";
    IcmpType = "icmp_type", "An ICMP message that is neither an echo request nor an error about a flow.";
    IcmpChecksum = "icmp_checksum", "The ICMP message's checksum is wrong.";
    IcmpQuote = "icmp_quote", "The ICMP error's quoted packet is too short or malformed to tell its flow.";
    IcmpNoFlow = "icmp_no_flow", "The ICMP error's quoted packet belongs to no known flow.";
    NoFrame = "no_frame", "No free frame was left for a packet that had to be made.";
    TxRingFull = "tx_ring_full", "The transmit ring stayed full; the link or the driver is too slow or stalled.";
    InterfaceGone = "interface_gone", "The interface went away while the packet was on its way.";
    HandOffFull = "hand_off_full", "The queue to the worker that owns the flow is full.";
    HandOffLost = "hand_off_lost", "The packet was handed to the worker that had its flow, and by then another one had it.";
}

impl DropReason {
    /// What to do about it: a sentence or two for people.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Truncated => "Look for a sender, driver or tunnel that cuts frames short.",
            Self::Ethertype => {
                "Nothing, unless it grows fast: take a third VLAN tag off on the switch."
            }
            Self::IpHeader => "Look at the sender: something makes broken packets, or probes.",
            Self::IpChecksum => {
                "Look for a bad cable, NIC or switch on the way here; on a veth, see Containers and veth in docs/operations-standalone.md."
            }
            Self::ExtensionHeaders => {
                "Nothing, unless it grows fast: no ordinary sender makes such packets."
            }
            Self::RoutingHeader => "Nothing; source routing to a VIP is refused on purpose.",
            Self::Fragment => "Let senders keep to the path MTU; for UDP keep messages below it.",
            Self::Protocol => "Use TCP or UDP for what is behind a Gateway.",
            Self::L4Header => "Look at the sender: something makes broken packets, or probes.",
            Self::L4Checksum => {
                "Look for damage on the way here; on a veth, see Containers and veth in docs/operations-standalone.md."
            }
            Self::NotOurMac => {
                "Nothing, if the interface is promiscuous or the switch floods; else look for two stations with one MAC address."
            }
            Self::SourceAddress => {
                "Look for a spoofing sender, or a client that was given a VIP of ours."
            }
            Self::NotOurAddress => "Nothing, shortly after an address came or went.",
            Self::Arp => "Nothing; this is what is left over of ordinary ARP.",
            Self::Ndp => "Nothing; this is what is left over of ordinary neighbour discovery.",
            Self::NotOwner => "Nothing; the node that owns the VIP hears it too, and answers.",
            Self::NoListener => {
                "Add a listener for the port and protocol, or correct the client; scans look like this."
            }
            Self::NoRoute => {
                "Attach a TCPRoute or UDPRoute: `blixtctl status` shows why one is not accepted."
            }
            Self::NoWeight => "Give at least one backendRef of the route a weight above 0.",
            Self::BadBackend => {
                "Mend the reference: `blixtctl status` shows the condition ResolvedRefs of the route with its reason."
            }
            Self::NoEndpoint => {
                "Look why no endpoint is ready, and whether one has an address of the IP version that the clients use."
            }
            Self::NoFlow => {
                "Nothing, shortly after a restart of the agent or long silence of a connection; clients connect anew."
            }
            Self::EndpointGone => {
                "Nothing; clients connect anew. If it goes on, look why endpoints come and go."
            }
            Self::HostPathFull => {
                "Give the agent a --snat-address (in a cluster: an AddressPool with use SNAT), so that fewer flows go through the kernel, or raise net.netfilter.nf_conntrack_max: half of it is for these flows."
            }
            Self::FlowTableFull => {
                "Raise --flow-capacity, or look with `blixtctl flows` for who opens that many flows."
            }
            Self::SnatPorts => {
                "Add a --snat-address (in a cluster: an AddressPool with use SNAT, if nodes have none), or widen --snat-ports; more endpoints help too, since ports count for each."
            }
            Self::NoSnatAddress => {
                "Add a --snat-address of that IP version (in a cluster: an AddressPool with use SNAT that has some), or see in `blixtctl status` why there is no host path."
            }
            Self::HopLimit => "Nothing, if it is a traceroute; else look for a routing loop.",
            Self::TooBig => {
                "Nothing; the sender learns the MTU. If it goes on, somebody on the way drops ICMP."
            }
            Self::TooBigToFragment => {
                "Let the sender keep to the MTU, or raise the MTU of the link to the endpoints."
            }
            Self::Unroutable => {
                "Add a route to the clients or endpoints: `ip route get ADDRESS` shows what is missing."
            }
            Self::NotAttached => {
                "Give the interface with --interface (`ip route get ADDRESS` names it), or let --host-path be auto; nothing, for flows that began before the route changed."
            }
            Self::LocalEndpoint => {
                "Let --host-path be auto; `blixtctl status` says why there is no host path."
            }
            Self::Unresolved => {
                "Look whether the next hop is up: `ip neigh` shows it as FAILED or INCOMPLETE."
            }
            Self::HoldFull => {
                "Look which next hops do not answer: `ip neigh` shows them as FAILED or INCOMPLETE."
            }
            Self::ResetLimit => {
                "Look for a SYN flood or a scan; `no_listener`, `no_flow` and the like tell what was refused."
            }
            Self::IcmpLimit => "Look for a ping flood, or for a loop if `hop_limit` grows too.",
            Self::IcmpType => "Nothing; other ICMP to our addresses is not answered.",
            Self::IcmpChecksum => "Look for damage on the way here.",
            Self::IcmpQuote => {
                "Nothing, unless path MTU discovery fails: then look at the router that sent it."
            }
            Self::IcmpNoFlow => "Nothing; late errors look like this, and forged ones.",
            Self::NoFrame => {
                "See whether a transmit ring is stuck (`tx_ring_full`), or packets pile up waiting for next hops."
            }
            Self::TxRingFull => {
                "The link is full, or its driver stalls: compare `blixt_packets_total` with what the link can do."
            }
            Self::InterfaceGone => {
                "Nothing, while an interface is taken away; the agent attaches again when it returns."
            }
            Self::HandOffFull => {
                "That worker is too slow or has no core of its own: compare the workers in `blixtctl status`. Fewer packets are handed over where the NIC tells its RSS key (`ethtool -x`)."
            }
            Self::HandOffLost => "Nothing, unless it goes on: TCP sends such a packet again.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_fit_metrics() {
        let names: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        for reason in DropReason::ALL {
            assert!(
                reason
                    .name()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{reason:?}"
            );
            assert!(reason.meaning().ends_with('.'), "{reason:?}");
            assert!(reason.advice().ends_with('.'), "{reason:?}");
        }
    }

    #[test]
    fn numbers_follow_the_list() {
        for (number, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
        }
    }
}
