//! Reads frames as somebody else would: by etherparse, and by checksums that
//! are summed in full.

use std::net::{IpAddr, SocketAddr};

use blixt_testkit::frame::ones_complement_sum;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// What a frame carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    Ip(Datagram),
    /// ARP, or an IP packet of a transport that is not balanced.
    Other,
}

/// A TCP, UDP or ICMP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Datagram {
    /// Ports of ICMP are 0.
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) protocol: u8,
    /// Of TCP.
    pub(crate) flags: u8,
    pub(crate) hop_limit: u8,
    /// Whether all its checksums are right.
    pub(crate) is_right: bool,
    /// Whether its transport checksum is just the pseudo-header's sum.
    pub(crate) is_partial: bool,
    /// The transport's bytes, ports and checksum zeroed.
    pub(crate) body: Vec<u8>,
}

impl Datagram {
    pub(crate) fn is_balanced(&self) -> bool {
        matches!(self.protocol, TCP | UDP)
    }

    /// Of TCP.
    pub(crate) fn seq(&self) -> u32 {
        self.number_at(4)
    }

    /// Of TCP.
    pub(crate) fn ack(&self) -> u32 {
        self.number_at(8)
    }

    fn number_at(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.body[at..at + 4].try_into().unwrap())
    }
}

/// Reads a whole frame, or says why it can't be read.
pub(crate) fn read(frame: &[u8]) -> Result<Seen, String> {
    let sliced = SlicedPacket::from_ethernet(frame).map_err(|error| error.to_string())?;
    let (src, dst, hop_limit, ip_is_right): (IpAddr, IpAddr, _, _) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let is_right = ones_complement_sum(header.slice()) == 0xffff;
            (header.source_addr().into(), header.destination_addr().into(), header.ttl(), is_right)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let (src, dst) = (header.source_addr(), header.destination_addr());
            (src.into(), dst.into(), header.hop_limit(), true)
        }
        _ => return Ok(Seen::Other),
    };
    let (protocol, ports, flags, field, segment) = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let segment = tcp.slice();
            (TCP, [tcp.source_port(), tcp.destination_port()], segment[13], 16, segment)
        }
        Some(TransportSlice::Udp(udp)) => {
            (UDP, [udp.source_port(), udp.destination_port()], 0, 6, udp.slice())
        }
        Some(TransportSlice::Icmpv4(icmp)) => (1, [0; 2], 0, 2, icmp.slice()),
        Some(TransportSlice::Icmpv6(icmp)) => (58, [0; 2], 0, 2, icmp.slice()),
        _ => return Ok(Seen::Other),
    };
    let pseudo_header = ones_complement_sum(&pseudo_header(src, dst, protocol, segment.len()));
    let sum = match protocol {
        1 => ones_complement_sum(segment),
        _ => fold(u32::from(pseudo_header) + u32::from(ones_complement_sum(segment))),
    };
    let checksum = u16::from_be_bytes([segment[field], segment[field + 1]]);
    let without = protocol == UDP && checksum == 0 && src.is_ipv4();
    let mut body = segment.to_vec();
    body[field..field + 2].fill(0);
    if matches!(protocol, TCP | UDP) {
        body[..4].fill(0);
    }
    let [src_port, dst_port] = ports;
    Ok(Seen::Ip(Datagram {
        src: SocketAddr::new(src, src_port),
        dst: SocketAddr::new(dst, dst_port),
        protocol,
        flags,
        hop_limit,
        is_right: ip_is_right && (without || sum == 0xffff),
        is_partial: matches!(protocol, TCP | UDP) && checksum == pseudo_header,
        body,
    }))
}

fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, bytes: usize) -> Vec<u8> {
    let mut all = Vec::with_capacity(40);
    for address in [src, dst] {
        match address {
            IpAddr::V4(v4) => all.extend(v4.octets()),
            IpAddr::V6(v6) => all.extend(v6.octets()),
        }
    }
    all.extend((bytes as u32).to_be_bytes());
    all.extend([0, 0, 0, protocol]);
    all
}

fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
