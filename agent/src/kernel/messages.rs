//! Netlink messages, read. What is not for us reads as `None`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use blixt_dataplane::address::from_ip;
use blixt_dataplane::{Mac, Neighbour, Path, Route, RouteAction};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop,
    RouteNextHopFlags, RouteType, RouteVia,
};

use super::{Device, NeighbourEntry, Vlan};

/// RT_TABLE_LOCAL and RT_TABLE_MAIN (include/uapi/linux/rtnetlink.h).
const LOCAL_TABLE: u32 = 255;
const MAIN_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// ETH_P_8021Q: what a VLAN is unless it says otherwise.
const TPID: u16 = 0x8100;

/// NUD_STALE and the other states in which a neighbour's address counts:
/// NUD_VALID of include/net/neighbour.h.
const STALE: u16 = 0x04;
const VALID: u16 = 0x02 | STALE | 0x08 | 0x10 | 0x40 | 0x80;

/// Beyond so many parts, paths of a route share equally, whatever their
/// weights.
const MOST_PARTS: u32 = 64;

/// A device.
pub(super) fn device(message: &LinkMessage) -> Option<Device> {
    let mut device = Device {
        ifindex: message.header.index,
        name: String::new(),
        mac: Mac::default(),
        mtu: 0,
        running: message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        carrier_ups: 0,
        vlan: None,
    };
    let (mut below, mut elsewhere, mut tag) = (None, false, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::Address(mac) => device.mac = mac_address(mac).unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::CarrierUpCount(count) => device.carrier_ups = *count,
            LinkAttribute::Link(ifindex) => below = Some(*ifindex),
            // The number below is one of another network namespace.
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::LinkInfo(infos) => tag = vlan_tag(infos),
            _ => {}
        }
    }
    if let (Some(below), Some(tag), false) = (below, tag, elsewhere) {
        device.vlan = Some(Vlan { below, tag });
    }
    (!device.name.is_empty()).then_some(device)
}

fn vlan_tag(infos: &[LinkInfo]) -> Option<[u16; 2]> {
    infos.iter().find(|info| matches!(info, LinkInfo::Kind(InfoKind::Vlan)))?;
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
        _ => None,
    })?;
    let protocol = data.iter().find_map(|part| match part {
        InfoVlan::Protocol(protocol) => Some(u16::from(*protocol)),
        _ => None,
    });
    let id = data.iter().find_map(|part| match part {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    Some([protocol.unwrap_or(TPID), id])
}

/// One of the node's own addresses, and the device it is on.
pub(super) fn own_address(message: &AddressMessage) -> Option<(IpAddr, u32)> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    // On point-to-point links IFA_ADDRESS is the peer's; IPv6 has no
    // IFA_LOCAL elsewhere.
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    Some((address, message.header.index))
}

/// A neighbour; `Some((_, None))` if its address does not count (any more).
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<(Neighbour, Option<NeighbourEntry>)> {
    // Others are bridges' tables.
    if !matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6)
        || message.header.flags.contains(NeighbourFlags::Proxy)
    {
        return None;
    }
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })?;
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => mac_address(mac),
        _ => None,
    });
    let state = u16::from(message.header.state);
    // Entries of a control plane (EVPN) are its own to keep current.
    let ours_to_keep = !message.header.flags.contains(NeighbourFlags::ExtLearned);
    let entry = mac
        .filter(|_| state & VALID != 0)
        .map(|mac| NeighbourEntry { mac, stale: state & STALE != 0 && ours_to_keep });
    Some((Neighbour { ifindex: message.header.ifindex, address: from_ip(address) }, entry))
}

/// A route of the local or main table. Those for special sources or services
/// are left out: we look up by destination alone.
pub(super) fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut metric = 0;
    let mut destination = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Destination(address) => destination = ip(address),
            _ => {}
        }
    }
    let is_ours = matches!(table, LOCAL_TABLE | MAIN_TABLE)
        && header.tos == 0
        && header.source_prefix_length == 0
        && !header.flags.contains(RouteFlags::Cloned);
    if !is_ours {
        return None;
    }
    let destination = match (destination, header.address_family) {
        (Some(destination), _) => destination,
        (None, AddressFamily::Inet) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        (None, AddressFamily::Inet6) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        (None, _) => return None,
    };
    let action = match header.kind {
        RouteType::Unicast => RouteAction::Forward(paths(message)),
        RouteType::Local | RouteType::Anycast => RouteAction::Local,
        RouteType::Multicast => return None,
        // Broadcasts are not forwarded; the rest refuses by itself.
        _ => RouteAction::Refuse,
    };
    Some(Route::new(destination, header.destination_prefix_length, metric, action))
}

fn paths(message: &RouteMessage) -> Vec<Path> {
    let hops = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    let Some(hops) = hops else {
        let dead = RouteFlags::Dead | RouteFlags::Linkdown;
        let alive = !message.header.flags.intersects(dead);
        return path(&message.attributes, None).filter(|_| alive).into_iter().collect();
    };
    let dead = RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown;
    let alive: Vec<_> = hops.iter().filter(|hop| !hop.flags.intersects(dead)).collect();
    let parts = alive.iter().map(|hop| weight(hop)).sum::<u32>();
    alive
        .into_iter()
        .filter_map(|hop| {
            let times = if parts > MOST_PARTS { 1 } else { weight(hop) };
            Some((path(&hop.attributes, Some(hop.interface_index))?, times))
        })
        .flat_map(|(path, times)| std::iter::repeat_n(path, times as usize))
        .collect()
}

/// `rtnh_hops` is the weight less one (`ip route ... weight`).
fn weight(hop: &RouteNextHop) -> u32 {
    u32::from(hop.hops) + 1
}

fn path(attributes: &[RouteAttribute], ifindex: Option<u32>) -> Option<Path> {
    let mut path = Path { ifindex: ifindex.unwrap_or(0), via: None };
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(number) => path.ifindex = *number,
            RouteAttribute::Gateway(address) => path.via = Some(from_ip(ip(address)?)),
            RouteAttribute::Via(RouteVia::Inet(v4)) => path.via = Some(from_ip((*v4).into())),
            RouteAttribute::Via(RouteVia::Inet6(v6)) => path.via = Some(from_ip((*v6).into())),
            // A tunnel in the route itself: no device has the number 0, so
            // packets are dropped as leading out of none that is attached.
            RouteAttribute::EncapType(_) => return Some(Path { ifindex: 0, via: None }),
            _ => {}
        }
    }
    Some(path)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn mac_address(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::neighbour::NeighbourState;

    const OURS: Mac = [2, 0, 0, 0, 0, 9];

    fn link(index: u32, name: &str, more: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(OURS.to_vec()),
            LinkAttribute::Mtu(1_500),
        ];
        message.attributes.extend(more);
        message
    }

    fn vlan(id: u16) -> LinkAttribute {
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(id)])),
        ])
    }

    #[test]
    fn a_vlan_says_what_it_is_on() {
        let found = device(&link(7, "eth0.5", vec![LinkAttribute::Link(3), vlan(5)])).unwrap();
        assert_eq!(found.vlan, Some(Vlan { below: 3, tag: [0x8100, 5] }));
        assert_eq!((found.mac, found.mtu, found.running), (OURS, 1_500, true));

        // A veth's IFLA_LINK is its peer; a VLAN may be on a device elsewhere.
        assert_eq!(device(&link(7, "a", vec![LinkAttribute::Link(3)])).unwrap().vlan, None);
        let elsewhere = vec![LinkAttribute::Link(3), vlan(5), LinkAttribute::LinkNetNsId(0)];
        assert_eq!(device(&link(7, "a", elsewhere)).unwrap().vlan, None);
    }

    fn near(state: NeighbourState, mac: &[u8]) -> Option<(Neighbour, Option<NeighbourEntry>)> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = 3;
        message.header.state = state;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, 1].into())),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        neighbour(&message)
    }

    #[test]
    fn neighbours_count_in_valid_states_only() {
        for state in ["reachable", "stale", "delay", "probe", "permanent", "noarp"] {
            let (who, entry) = near(state.parse().unwrap(), &OURS).unwrap();
            assert_eq!(who.ifindex, 3);
            assert_eq!(entry, Some(NeighbourEntry { mac: OURS, stale: state == "stale" }));
        }
        for state in ["incomplete", "failed", "none"] {
            assert_eq!(near(state.parse().unwrap(), &OURS).unwrap().1, None, "{state}");
        }
        assert_eq!(near(NeighbourState::Reachable, &[1, 2, 3, 4]).unwrap().1, None);
    }

    fn routed(kind: RouteType, bits: u8, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = kind;
        message.header.destination_prefix_length = bits;
        message.attributes = attributes;
        message
    }

    fn v4(text: &str) -> RouteAddress {
        RouteAddress::Inet(text.parse().unwrap())
    }

    fn number(text: &str) -> u128 {
        from_ip(text.parse().unwrap())
    }

    #[test]
    fn a_default_route_has_a_gateway_and_no_destination() {
        let attributes = vec![
            RouteAttribute::Oif(3),
            RouteAttribute::Gateway(v4("10.0.0.1")),
            RouteAttribute::Priority(100),
        ];
        let found = route(&routed(RouteType::Unicast, 0, attributes)).unwrap();
        let path = Path { ifindex: 3, via: Some(number("10.0.0.1")) };
        let wanted = RouteAction::Forward(vec![path]);
        assert_eq!(found, Route::new([0, 0, 0, 0].into(), 0, 100, wanted));
    }

    #[test]
    fn weights_repeat_paths_and_dead_ones_are_left_out() {
        let hop = |ifindex, hops, flags| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = ifindex;
            hop.hops = hops;
            hop.flags = flags;
            hop.attributes = vec![RouteAttribute::Gateway(v4("10.0.0.1"))];
            hop
        };
        let alive = RouteNextHopFlags::empty();
        let paths = |hops| {
            let attributes = vec![RouteAttribute::MultiPath(hops)];
            match route(&routed(RouteType::Unicast, 0, attributes)).unwrap().action {
                RouteAction::Forward(paths) => {
                    paths.iter().map(|path| path.ifindex).collect::<Vec<_>>()
                }
                other => panic!("{other:?}"),
            }
        };
        let dead = hop(5, 0, RouteNextHopFlags::Dead);
        assert_eq!(paths(vec![hop(3, 1, alive), hop(4, 0, alive), dead]), [3, 3, 4]);
        assert_eq!(paths(vec![hop(3, 255, alive), hop(4, 0, alive)]), [3, 4]);
    }

    #[test]
    fn an_ipv4_route_may_go_through_an_ipv6_router() {
        let via = RouteVia::Inet6("fe80::1".parse().unwrap());
        let attributes = vec![RouteAttribute::Oif(3), RouteAttribute::Via(via)];
        let found = route(&routed(RouteType::Unicast, 0, attributes)).unwrap();
        let path = Path { ifindex: 3, via: Some(number("fe80::1")) };
        assert_eq!(found.action, RouteAction::Forward(vec![path]));
    }

    #[test]
    fn special_kinds_and_other_tables() {
        let to = || vec![RouteAttribute::Destination(v4("10.0.0.9"))];
        let action = |kind| route(&routed(kind, 32, to())).map(|route| route.action);
        assert_eq!(action(RouteType::Local), Some(RouteAction::Local));
        for kind in [RouteType::BlackHole, RouteType::Unreachable, RouteType::Broadcast] {
            assert_eq!(action(kind), Some(RouteAction::Refuse), "{kind:?}");
        }
        assert_eq!(action(RouteType::Multicast), None);
        let mut other = to();
        other.push(RouteAttribute::Table(1_000));
        assert_eq!(route(&routed(RouteType::Unicast, 32, other)), None);
    }
}
