//! The pair of veths between the node's kernel and us, the neighbours on it and
//! the routes into it.

use std::io;
use std::net::IpAddr;

use blixt_afxdp::nic::{Nic, Offload};
use blixt_dataplane::Mac;
use futures_util::StreamExt;
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::Handle;

use super::attributes::Attributes;
use super::{Addresses, HOST_END, HOST_STATION, OUR_END, OUR_STATION};
use crate::netlink::{PROTOCOL, add_route, ask};

/// The MAC address of our end's device. Nobody sends to it: see [`OUR_STATION`].
const OUR_DEVICE: [u8; 6] = [0x02, 0x62, 0x6c, 0x78, 0x74, 0x03];

/// IFLA_AF_SPEC, and what is in it for each family: IFLA_INET_CONF with the
/// numbers IPV4_DEVCONF_*, and IFLA_INET6_ADDR_GEN_MODE.
const AF_SPEC: u16 = 26;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const INET_CONF: u16 = 1;
const FORWARDING: u16 = 1;
const SEND_REDIRECTS: u16 = 6;
const ADDR_GEN_MODE: u16 = 8;

/// IN6_ADDR_GEN_MODE_NONE: no link-local address.
const NO_ADDRESS: u8 = 1;

/// Routes to VIPs come before others to the same address.
const METRIC: u32 = 1;

/// Those of probes do not.
const PROBES: u32 = 2;

/// What there is of the pair now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The kernel's end.
    pub(super) host: Option<End>,
    /// Ours.
    pub(super) ours: Option<End>,
}

/// One end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    ifindex: u32,
    up: bool,
    /// It runs an XDP program.
    pub(super) xdp: bool,
}

/// Looks for it.
pub(super) async fn find(handle: &Handle) -> io::Result<Found> {
    Ok(Found { host: end(handle, HOST_END).await?, ours: end(handle, OUR_END).await? })
}

async fn end(handle: &Handle, name: &str) -> io::Result<Option<End>> {
    let mut answers = handle.link().get().match_name(name.to_owned()).execute();
    let message = match answers.next().await {
        Some(Ok(message)) => message,
        Some(Err(rtnetlink::Error::NetlinkError(error)))
            if error.to_io().kind() == io::ErrorKind::NotFound || is_no_device(&error.to_io()) =>
        {
            return Ok(None);
        }
        Some(Err(error)) => return Err(io::Error::other(error)),
        None => return Ok(None),
    };
    let xdp = message.attributes.iter().any(|attribute| {
        matches!(attribute, LinkAttribute::Xdp(xdp)
            if xdp.iter().any(|it| matches!(it, LinkXdp::ProgId(id) if *id != 0)))
    });
    let up = message.header.flags.contains(LinkFlags::Up);
    Ok(Some(End { ifindex: message.header.index, up, xdp }))
}

/// linux/errno.h: ENODEV.
fn is_no_device(error: &io::Error) -> bool {
    error.raw_os_error() == Some(19)
}

/// Makes the pair, with as many queues as there are workers, and nothing on it
/// yet.
pub(super) async fn make(handle: &Handle, queues: u32, mtu: u32) -> io::Result<()> {
    let end = |name: &str, mac: [u8; 6]| {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::NumTxQueues(queues),
            LinkAttribute::NumRxQueues(queues),
        ];
        message
    };
    let mut message = end(HOST_END, HOST_STATION);
    let peer = InfoVeth::Peer(end(OUR_END, OUR_DEVICE));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(peer)),
    ]));
    ask(handle, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await
}

/// Takes it away, and with it all neighbours and routes.
pub(super) async fn remove(handle: &Handle) -> io::Result<()> {
    let Some(end) = end(handle, HOST_END).await? else { return Ok(()) };
    let mut message = LinkMessage::default();
    message.header.index = end.ifindex;
    ask(handle, RouteNetlinkMessage::DelLink(message), 0).await
}

/// Has both ends be as they should: no addresses of their own, ours forwards
/// nothing, the kernel's does, and completes its packets' checksums.
pub(super) async fn set_up(handle: &Handle, found: Found) -> io::Result<()> {
    let (Some(host), Some(ours)) = (found.host, found.ours) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    for (end, forwarding) in [(ours, 0), (host, 1)] {
        configure(handle, end.ifindex, forwarding).await?;
        let mut message = LinkMessage::default();
        message.header.index = end.ifindex;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        ask(handle, RouteNetlinkMessage::SetLink(message), 0).await?;
    }
    let nic = Nic::new(HOST_END).map_err(io::Error::other)?;
    for offload in [Offload::Tso, Offload::TxChecksum] {
        if nic.offload(offload).map_err(io::Error::other)? == Some(true) {
            nic.set_offload(offload, false).map_err(io::Error::other)?;
        }
    }
    Ok(())
}

/// By netlink, since /proc/sys can't be written to in a container.
async fn configure(handle: &Handle, ifindex: u32, forwarding: u32) -> io::Result<()> {
    let conf = Attributes::default().number(FORWARDING, forwarding).number(SEND_REDIRECTS, 0);
    let inet = Attributes::default().nested(INET_CONF, conf);
    let v4 = Attributes::default().nested(AF_INET, inet);
    let inet6 = Attributes::default().bytes(ADDR_GEN_MODE, &[NO_ADDRESS]);
    let v6 = Attributes::default().nested(AF_INET6, inet6);
    for (spec, is_needed) in [(v4, true), (v6, false)] {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        let spec = DefaultNla::new(AF_SPEC, spec.into_bytes());
        message.attributes = vec![LinkAttribute::Other(spec)];
        let answer = ask(handle, RouteNetlinkMessage::SetLink(message), 0).await;
        // A kernel without IPv6 gives no such addresses either.
        if is_needed {
            answer?;
        }
    }
    Ok(())
}

/// Whether a pair has to be set up: it is another one than was, or somebody has
/// taken an end down.
pub(super) fn is_new(found: Found, known: Found) -> bool {
    let number = |end: Option<End>| end.map(|end| end.ifindex);
    let is_down = [found.host, found.ours].into_iter().flatten().any(|end| !end.up);
    is_down || [found.host, found.ours].map(number) != [known.host, known.ours].map(number)
}

/// Leads what is for us into the pair: our address of a family, which our station
/// has, and what is behind it, VIPs most of all. A probe, which asks for our end, goes the other
/// way: into the kernel.
pub(super) async fn lead(
    handle: &Handle,
    found: Found,
    address: IpAddr,
    behind_us: impl IntoIterator<Item = IpAddr>,
) -> io::Result<()> {
    let (Some(host), Some(ours)) = (found.host, found.ours) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    for (end, station, metric) in [(host, OUR_STATION, METRIC), (ours, HOST_STATION, PROBES)] {
        let neighbour = neighbour(end.ifindex, address, station);
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        ask(handle, RouteNetlinkMessage::NewNeighbour(neighbour), flags).await?;
        add_route(handle, route(end.ifindex, address, None, metric)).await?;
    }
    // One that the kernel refuses takes none from the others.
    let mut outcome = Ok(());
    for other in behind_us {
        let added = add_route(handle, route(host.ifindex, other, Some(address), METRIC)).await;
        outcome = outcome.and(added);
    }
    outcome
}

/// Leads what is for these VIPs elsewhere again.
pub(super) async fn lead_no_more(
    handle: &Handle,
    found: Found,
    addresses: &Addresses,
    vips: impl IntoIterator<Item = IpAddr>,
) {
    let Some(host) = found.host else { return };
    for vip in vips {
        let via = addresses.of(vip.is_ipv4());
        let route = route(host.ifindex, vip, Some(via), METRIC);
        // One that is gone needs nothing.
        let _ = ask(handle, RouteNetlinkMessage::DelRoute(route), 0).await;
    }
}

fn neighbour(ifindex: u32, address: IpAddr, station: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::Permanent;
    message.header.family = family(address);
    let address = match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    };
    message.attributes = vec![
        NeighbourAttribute::Destination(address),
        NeighbourAttribute::LinkLayerAddress(station.to_vec()),
    ];
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// A route to one address. The device has no network of its own, so the kernel
/// has to be told that the router is there.
fn route(ifindex: u32, to: IpAddr, via: Option<IpAddr>, metric: u32) -> RouteMessage {
    let address = |address| match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    };
    let mut message = RouteMessage::default();
    message.header.address_family = family(to);
    message.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.kind = RouteType::Unicast;
    message.header.scope = if via.is_some() { RouteScope::Universe } else { RouteScope::Link };
    message.attributes = vec![
        RouteAttribute::Destination(address(to)),
        RouteAttribute::Oif(ifindex),
        RouteAttribute::Priority(metric),
    ];
    if let Some(via) = via {
        message.header.flags = RouteFlags::Onlink;
        message.attributes.push(RouteAttribute::Gateway(address(via)));
    }
    message
}
