//! Builds frames that read like sentences.
//!
//! ```
//! use blixt_testkit::frame::{Checksum, tcp_syn, udp};
//!
//! let syn = tcp_syn("192.0.2.7:40000".parse()?, "198.51.100.1:80".parse()?);
//! let tagged = syn.clone().vlan(0x8100, 7).hop_limit(3).bytes();
//! assert_eq!(tagged.len(), syn.bytes().len() + 4);
//!
//! let question = udp("[2001:db8::7]:40000".parse()?, "[2001:db8::1]:53".parse()?)
//!     .payload(b"who?")
//!     .checksum(Checksum::Partial);
//! # let _ = question;
//! # Ok::<(), std::net::AddrParseError>(())
//! ```
//!
//! Written apart from the data plane's own code, slow and plain, so that one
//! can show the other's mistakes. Anything can be built wrong on purpose.

mod bytes;
mod change;

use std::net::{IpAddr, SocketAddr};

use bytes::octets;
pub use bytes::ones_complement_sum;

/// A MAC address.
pub type Mac = [u8; 6];

/// TCP flags (RFC 9293 §3.1).
pub const FIN: u8 = 0x01;
/// Synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// Reset the connection.
pub const RST: u8 = 0x04;
/// Push.
pub const PSH: u8 = 0x08;
/// The acknowledgement number counts.
pub const ACK: u8 = 0x10;

/// IPv6 extension headers (RFC 8200 §4).
pub const HOP_BY_HOP: u8 = 0;
/// Routing header.
pub const ROUTING: u8 = 43;
/// Fragment header.
pub const FRAGMENT: u8 = 44;
/// Destination options.
pub const DESTINATION_OPTIONS: u8 = 60;

/// The group of all nodes on a link (RFC 4291 §2.7.1).
pub const ALL_NODES: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));

/// One Ethernet frame, to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    to: Mac,
    from: Mac,
    tags: Vec<[u16; 2]>,
    content: Content,
    padded_to: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Ip(Ip),
    Other { ethertype: u16, bytes: Vec<u8> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Ip {
    src: IpAddr,
    dst: IpAddr,
    traffic_class: u8,
    identification: u16,
    dont_fragment: bool,
    more_fragments: bool,
    /// In units of 8 octets.
    fragment_offset: u16,
    hop_limit: u8,
    options: Vec<u8>,
    /// Kind, and all but the first byte, which is the next header's kind.
    extensions: Vec<(u8, Vec<u8>)>,
    transport: Transport,
    checksum: Checksum,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Transport {
    Tcp {
        ports: [u16; 2],
        seq: u32,
        ack: u32,
        flags: u8,
        window: u16,
        options: Vec<u8>,
        payload: Vec<u8>,
    },
    Udp {
        ports: [u16; 2],
        payload: Vec<u8>,
    },
    Icmp {
        kind: [u8; 2],
        word: u32,
        payload: Vec<u8>,
    },
    Raw {
        protocol: u8,
        payload: Vec<u8>,
    },
}

/// What the transport checksum is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// As the RFCs say.
    #[default]
    Right,
    /// Off by this much.
    Wrong(u16),
    /// Just the pseudo-header's sum, as Linux leaves it for hardware.
    Partial,
    /// 0: none, in UDP.
    None,
}

/// A TCP segment without flags, from port to port.
pub fn tcp(src: SocketAddr, dst: SocketAddr) -> Frame {
    let ports = [src.port(), dst.port()];
    ip(
        src.ip(),
        dst.ip(),
        Transport::Tcp {
            ports,
            seq: 1_000,
            ack: 0,
            flags: 0,
            window: 64_240,
            options: vec![],
            payload: vec![],
        },
    )
}

/// A SYN with sequence number 1,000, and a maximum segment size.
pub fn tcp_syn(src: SocketAddr, dst: SocketAddr) -> Frame {
    tcp(src, dst).flags(SYN).tcp_options(&[2, 4, 0x05, 0xb4])
}

/// The answer to such a SYN.
pub fn tcp_syn_ack(src: SocketAddr, dst: SocketAddr) -> Frame {
    tcp(src, dst).flags(SYN | ACK).seq(5_000).ack(1_001)
}

/// A UDP datagram.
pub fn udp(src: SocketAddr, dst: SocketAddr) -> Frame {
    let ports = [src.port(), dst.port()];
    ip(src.ip(), dst.ip(), Transport::Udp { ports, payload: vec![] })
}

/// An ICMP or ICMPv6 message, by the family; `word` is what follows the
/// checksum.
pub fn icmp(src: IpAddr, dst: IpAddr, kind: [u8; 2], word: u32) -> Frame {
    ip(src, dst, Transport::Icmp { kind, word, payload: vec![] })
}

/// An echo request.
pub fn echo_request(src: IpAddr, dst: IpAddr) -> Frame {
    let kind = if src.is_ipv4() { 8 } else { 128 };
    icmp(src, dst, [kind, 0], 0x1234_0001).payload(b"are you there?")
}

/// The answer to [`echo_request`].
pub fn echo_reply(src: IpAddr, dst: IpAddr) -> Frame {
    let kind = if src.is_ipv4() { 0 } else { 129 };
    icmp(src, dst, [kind, 0], 0x1234_0001).payload(b"are you there?")
}

/// An ICMP error that quotes the first `bytes` of another frame's IP packet.
pub fn icmp_error(
    src: IpAddr,
    dst: IpAddr,
    kind: [u8; 2],
    word: u32,
    about: &Frame,
    bytes: usize,
) -> Frame {
    let mut quote = about.ip_packet();
    quote.truncate(bytes);
    icmp(src, dst, kind, word).payload(&quote)
}

/// A packet of any transport protocol.
pub fn raw(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Frame {
    ip(src, dst, Transport::Raw { protocol, payload: payload.to_vec() })
}

/// A frame of any ethertype.
pub fn other(ethertype: u16, bytes: &[u8]) -> Frame {
    let content = Content::Other { ethertype, bytes: bytes.to_vec() };
    Frame { to: [0; 6], from: [0; 6], tags: vec![], content, padded_to: 0 }
}

/// An ARP packet (RFC 826): operation, sender, target.
///
/// # Panics
///
/// For addresses that are not IPv4.
pub fn arp(operation: u16, sender: (Mac, IpAddr), target: (Mac, IpAddr)) -> Frame {
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(operation.to_be_bytes());
    for (mac, address) in [sender, target] {
        assert!(address.is_ipv4(), "ARP is for IPv4, not for {address}");
        bytes.extend(mac);
        bytes.extend(octets(address));
    }
    other(0x0806, &bytes)
}

/// An ARP request: who has `wanted`?
pub fn arp_request(asker: (Mac, IpAddr), wanted: IpAddr) -> Frame {
    arp(1, asker, ([0; 6], wanted)).from(asker.0).to([0xff; 6])
}

/// An ARP reply.
pub fn arp_reply(sender: (Mac, IpAddr), target: (Mac, IpAddr)) -> Frame {
    arp(2, sender, target).from(sender.0).to(target.0)
}

/// A neighbour solicitation (RFC 4861 §4.3) to the target's group; without
/// a source address for duplicate address detection.
///
/// # Panics
///
/// For addresses that are not IPv6.
pub fn solicitation(asker: Option<(Mac, IpAddr)>, target: IpAddr) -> Frame {
    let target_octets = octets(target);
    let mut group = octets("ff02::1:ff00:0".parse().unwrap_or(target));
    let mut to = [0x33, 0x33, 0xff, 0, 0, 0];
    group.splice(13.., target_octets.iter().skip(13).copied());
    to.iter_mut().skip(3).zip(group.iter().skip(13)).for_each(|(to, from)| *to = *from);
    let mut body = target_octets;
    let (from, src) = asker.unwrap_or(([2, 0, 0, 0, 0, 0xdd], "::".parse().unwrap_or(target)));
    if asker.is_some() {
        body.extend([1, 1]);
        body.extend(from);
    }
    let mut group_octets = [0; 16];
    group_octets.iter_mut().zip(group).for_each(|(to, from)| *to = from);
    icmp(src, IpAddr::from(group_octets), [135, 0], 0)
        .payload(&body)
        .hop_limit(255)
        .from(from)
        .to(to)
}

/// A neighbour advertisement (RFC 4861 §4.4) with the sender's MAC address.
pub fn advertisement(target: (Mac, IpAddr), dst: IpAddr, flags: u8) -> Frame {
    let mut body = octets(target.1);
    body.extend([2, 1]);
    body.extend(target.0);
    icmp(target.1, dst, [136, 0], u32::from(flags) << 24)
        .payload(&body)
        .hop_limit(255)
        .from(target.0)
}

fn ip(src: IpAddr, dst: IpAddr, transport: Transport) -> Frame {
    let content = Content::Ip(Ip {
        src,
        dst,
        traffic_class: 0,
        identification: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        hop_limit: 64,
        options: vec![],
        extensions: vec![],
        transport,
        checksum: Checksum::Right,
    });
    Frame { to: [0; 6], from: [0; 6], tags: vec![], content, padded_to: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    fn pairs() -> [(SocketAddr, SocketAddr); 2] {
        [
            ("192.0.2.7:40000".parse().unwrap(), "198.51.100.1:80".parse().unwrap()),
            ("[2001:db8::7]:40000".parse().unwrap(), "[2001:db8::1]:80".parse().unwrap()),
        ]
    }

    /// Whether an independent reader finds the headers and right checksums.
    fn check(frame: &Frame) {
        let bytes = frame.bytes();
        let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
        let right = match (sliced.net.unwrap(), sliced.transport.unwrap()) {
            (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => {
                assert_eq!(
                    ip.header().header_checksum(),
                    ip.header().to_header().calc_header_checksum()
                );
                tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap()
                    == tcp.checksum()
            }
            (NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => {
                tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()).unwrap()
                    == tcp.checksum()
            }
            (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
                let header = ip.header().to_header();
                udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap()
                    == udp.checksum()
            }
            (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
                let header = ip.header().to_header();
                udp.to_header().calc_checksum_ipv6(&header, udp.payload()).unwrap()
                    == udp.checksum()
            }
            (_, TransportSlice::Icmpv4(icmp)) => {
                icmp.icmp_type().calc_checksum(icmp.payload()) == icmp.checksum()
            }
            (NetSlice::Ipv6(ip), TransportSlice::Icmpv6(icmp)) => {
                icmp.is_checksum_valid(ip.header().source(), ip.header().destination())
            }
            (net, transport) => panic!("{net:?} {transport:?}"),
        };
        assert!(right, "{frame:?}");
    }

    #[test]
    fn others_read_them_too() {
        for (src, dst) in pairs() {
            let odd = [7_u8; 33];
            check(&tcp_syn(src, dst));
            check(&tcp(src, dst).flags(ACK | PSH).payload(&odd).vlan(0x88a8, 5).vlan(0x8100, 6));
            check(&udp(src, dst).payload(&odd).padded_to(60));
            check(&echo_request(src.ip(), dst.ip()));
            let about = udp(src, dst).payload(&odd);
            let unreachable = if src.is_ipv4() { [3, 3] } else { [1, 4] };
            check(&icmp_error(dst.ip(), src.ip(), unreachable, 0, &about, 48));
            if src.is_ipv4() {
                check(&udp(src, dst).options(&[1; 8]).payload(&odd));
            } else {
                let padding = [0, 1, 4, 0, 0, 0, 0];
                check(
                    &udp(src, dst)
                        .extension(HOP_BY_HOP, &padding)
                        .extension(DESTINATION_OPTIONS, &padding)
                        .payload(&odd),
                );
                check(&solicitation(Some(([2; 6], src.ip())), dst.ip()));
                check(&advertisement(([2; 6], dst.ip()), ALL_NODES, 0x20));
            }
        }
    }

    #[test]
    fn fragments_are_seen_as_such() {
        for (src, dst) in pairs() {
            let bytes = udp(src, dst).payload(&[0; 16]).fragment(3, true).bytes();
            let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
            assert!(sliced.is_ip_payload_fragmented());
        }
    }

    #[test]
    fn a_solicitation_goes_to_its_targets_group() {
        let [_, (_, target)] = pairs();
        let bytes = solicitation(None, target.ip()).bytes();
        assert_eq!(bytes[..6], [0x33, 0x33, 0xff, 0, 0, 1]);
        assert_eq!(bytes[38..54], [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1]);
    }
}
