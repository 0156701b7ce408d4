//! What the kernel says about an interface: its kind, its MTU, and the XDP
//! programs on it.
//!
//! One request and one answer over rtnetlink. Not through /sys, which shows
//! the network namespace that mounted it rather than the one we are in.

use std::io;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// An interface.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) kind: Kind,
    pub(super) mtu: u32,
    /// The ids of the XDP programs on it.
    pub(super) programs: Vec<u32>,
}

/// The kinds that we treat apart.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bond,
    Veth,
    /// Its packets have no Ethernet header (tun, WireGuard).
    NoEthernet,
    #[default]
    Other,
}

/// The interface with this index, if it exists.
pub(super) fn query(ifindex: u32) -> io::Result<Option<Link>> {
    let mut request = LinkMessage::default();
    request.header.index = ifindex;
    match ask(request, NLM_F_REQUEST) {
        Ok(links) => Ok(links.first().map(describe)),
        // linux/errno.h: ENODEV, "no such device".
        Err(error) if error.raw_os_error() == Some(19) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The names of the interfaces that belong to a bond; for a message only, so
/// none if they can't be found out.
pub(super) fn members(bond: u32) -> Vec<String> {
    let links = ask(LinkMessage::default(), NLM_F_REQUEST | NLM_F_DUMP).unwrap_or_default();
    links.iter().filter(|link| is_member(link, bond)).filter_map(name).collect()
}

fn describe(message: &LinkMessage) -> Link {
    let mut link = Link::default();
    // Loopback's packets have an Ethernet header of zeroes.
    if !matches!(message.header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback) {
        link.kind = Kind::NoEthernet;
    }
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(InfoKind::Bond) => link.kind = Kind::Bond,
                        LinkInfo::Kind(InfoKind::Veth) => link.kind = Kind::Veth,
                        _ => {}
                    }
                }
            }
            LinkAttribute::Xdp(xdp) => link.programs = programs(xdp),
            _ => {}
        }
    }
    link
}

/// `PROG_ID` is there when one program is attached; when there are more
/// (hardware and driver), each has its own attribute (net/core/rtnetlink.c,
/// `rtnl_xdp_fill`).
fn programs(attributes: &[LinkXdp]) -> Vec<u32> {
    let mut ids: Vec<u32> = attributes
        .iter()
        .filter_map(|attribute| match attribute {
            LinkXdp::ProgId(id)
            | LinkXdp::DrvProgId(id)
            | LinkXdp::SkbProgId(id)
            | LinkXdp::HwProgId(id) => Some(*id),
            _ => None,
        })
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn is_member(link: &LinkMessage, controller: u32) -> bool {
    link.attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkAttribute::Controller(of) if *of == controller))
}

fn name(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

/// Asks for links, and collects the answer.
fn ask(request: LinkMessage, flags: u16) -> io::Result<Vec<LinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;

    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = 1;
    let mut message =
        NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::GetLink(request)));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut links = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if !collect(&datagram, &mut links)? || flags & NLM_F_DUMP != NLM_F_DUMP {
            return Ok(links);
        }
    }
}

/// Reads the messages of one datagram; whether more may follow.
fn collect(mut datagram: &[u8], links: &mut Vec<LinkMessage>) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram)
            .map_err(io::Error::other)?;
        let length = usize::try_from(message.header.length).unwrap_or(datagram.len());
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => links.push(link),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::Done(_) => return Ok(false),
            _ => {}
        }
        // Messages start at multiples of four (NLMSG_ALIGN, linux/netlink.h).
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.attributes = attributes;
        message
    }

    #[test]
    fn a_bond_is_known_by_its_kind() {
        let bond = link(vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bond)])]);
        assert_eq!(describe(&bond).kind, Kind::Bond);
    }

    #[test]
    fn a_tun_has_no_ethernet_header() {
        let mut tun = link(vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Tun)])]);
        tun.header.link_layer_type = LinkLayerType::None;
        assert_eq!(describe(&tun).kind, Kind::NoEthernet);
        tun.header.link_layer_type = LinkLayerType::Ether;
        assert_eq!(describe(&tun).kind, Kind::Other, "a tap has one");
    }

    #[test]
    fn members_are_known_by_their_controller() {
        let member = link(vec![LinkAttribute::IfName("eth1".into()), LinkAttribute::Controller(7)]);
        assert!(is_member(&member, 7));
        assert!(!is_member(&member, 8));
        assert_eq!(name(&member).as_deref(), Some("eth1"));
    }

    #[test]
    fn a_program_that_is_named_twice_counts_once() {
        let attributes = [LinkXdp::ProgId(3), LinkXdp::DrvProgId(3)];
        assert_eq!(programs(&attributes), [3]);
        assert_eq!(programs(&[LinkXdp::DrvProgId(4), LinkXdp::HwProgId(2)]), [2, 4]);
        assert_eq!(programs(&[]), [0_u32; 0]);
    }

    #[test]
    fn loopback_exists_and_the_last_index_does_not() {
        let lo = query(1).unwrap().expect("every namespace has a loopback");
        assert_eq!(lo.kind, Kind::Other);
        assert!(lo.mtu > 0);
        assert_eq!(query(i32::MAX as u32).unwrap(), None);
    }
}
