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

use std::net::{IpAddr, SocketAddr};

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

impl Frame {
    /// The destination's MAC address.
    #[must_use]
    pub fn to(mut self, to: Mac) -> Self {
        self.to = to;
        self
    }

    /// The source's MAC address.
    #[must_use]
    pub fn from(mut self, from: Mac) -> Self {
        self.from = from;
        self
    }

    /// Sets those MAC addresses that are still zero.
    #[must_use]
    pub fn or_between(mut self, from: Mac, to: Mac) -> Self {
        for (mac, default) in [(&mut self.from, from), (&mut self.to, to)] {
            if *mac == Mac::default() {
                *mac = default;
            }
        }
        self
    }

    /// One more VLAN tag, inside those it has.
    #[must_use]
    pub fn vlan(mut self, tpid: u16, tci: u16) -> Self {
        self.tags.push([tpid, tci]);
        self
    }

    /// Ethernet padding behind the packet.
    #[must_use]
    pub fn padded_to(mut self, bytes: usize) -> Self {
        self.padded_to = bytes;
        self
    }

    /// TTL, or hop limit.
    #[must_use]
    pub fn hop_limit(self, hop_limit: u8) -> Self {
        self.with_ip(|ip| ip.hop_limit = hop_limit)
    }

    /// Type of service, or traffic class.
    #[must_use]
    pub fn traffic_class(self, traffic_class: u8) -> Self {
        self.with_ip(|ip| ip.traffic_class = traffic_class)
    }

    /// IPv4's identification, and whether it must not be fragmented; frames
    /// have 0 and `true` otherwise.
    #[must_use]
    pub fn identification(self, identification: u16, dont_fragment: bool) -> Self {
        self.with_ip(|ip| {
            ip.identification = identification;
            ip.dont_fragment = dont_fragment;
        })
    }

    /// IPv4 options; their length must be a multiple of 4.
    #[must_use]
    pub fn options(self, options: &[u8]) -> Self {
        self.with_ip(|ip| ip.options = options.to_vec())
    }

    /// One more IPv6 extension header: its kind, and all of it but the first
    /// byte, so one less than a multiple of 8.
    #[must_use]
    pub fn extension(self, kind: u8, rest: &[u8]) -> Self {
        self.with_ip(|ip| ip.extensions.push((kind, rest.to_vec())))
    }

    /// Makes it a fragment: the offset in units of 8 octets, and whether more
    /// follow.
    #[must_use]
    pub fn fragment(self, offset: u16, more: bool) -> Self {
        self.with_ip(|ip| match ip.src {
            IpAddr::V4(_) => {
                (ip.fragment_offset, ip.more_fragments, ip.dont_fragment) = (offset, more, false);
            }
            IpAddr::V6(_) => {
                let mut rest = vec![0];
                rest.extend((offset << 3 | u16::from(more)).to_be_bytes());
                rest.extend([0, 0, 0, 1]);
                ip.extensions.push((FRAGMENT, rest));
            }
        })
    }

    /// What the transport checksum is to be.
    #[must_use]
    pub fn checksum(self, checksum: Checksum) -> Self {
        self.with_ip(|ip| ip.checksum = checksum)
    }

    /// What the transport carries.
    #[must_use]
    pub fn payload(self, bytes: &[u8]) -> Self {
        self.with_ip(|ip| match &mut ip.transport {
            Transport::Tcp { payload, .. }
            | Transport::Udp { payload, .. }
            | Transport::Icmp { payload, .. }
            | Transport::Raw { payload, .. } => *payload = bytes.to_vec(),
        })
    }

    /// TCP flags.
    #[must_use]
    pub fn flags(self, bits: u8) -> Self {
        self.with_ip(|ip| {
            if let Transport::Tcp { flags, .. } = &mut ip.transport {
                *flags = bits;
            }
        })
    }

    /// TCP's sequence number.
    #[must_use]
    pub fn seq(self, number: u32) -> Self {
        self.with_ip(|ip| {
            if let Transport::Tcp { seq, .. } = &mut ip.transport {
                *seq = number;
            }
        })
    }

    /// TCP's acknowledgement number.
    #[must_use]
    pub fn ack(self, number: u32) -> Self {
        self.with_ip(|ip| {
            if let Transport::Tcp { ack, .. } = &mut ip.transport {
                *ack = number;
            }
        })
    }

    /// TCP's window; segments have one of 64,240 otherwise.
    #[must_use]
    pub fn window(self, bytes: u16) -> Self {
        self.with_ip(|ip| {
            if let Transport::Tcp { window, .. } = &mut ip.transport {
                *window = bytes;
            }
        })
    }

    /// TCP options; their length must be a multiple of 4.
    #[must_use]
    pub fn tcp_options(self, bytes: &[u8]) -> Self {
        self.with_ip(|ip| {
            if let Transport::Tcp { options, .. } = &mut ip.transport {
                *options = bytes.to_vec();
            }
        })
    }

    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.to);
        frame.extend(self.from);
        for tag in self.tags.iter().flatten() {
            frame.extend(tag.to_be_bytes());
        }
        let ethertype = match &self.content {
            Content::Ip(ip) if ip.src.is_ipv4() => 0x0800,
            Content::Ip(_) => 0x86dd,
            Content::Other { ethertype, .. } => *ethertype,
        };
        frame.extend(u16::to_be_bytes(ethertype));
        frame.extend(self.ip_packet());
        frame.resize(frame.len().max(self.padded_to), 0);
        frame
    }

    /// What the frame carries, without its Ethernet header and padding.
    pub fn ip_packet(&self) -> Vec<u8> {
        match &self.content {
            Content::Ip(ip) => ip.bytes(),
            Content::Other { bytes, .. } => bytes.clone(),
        }
    }

    fn with_ip(mut self, change: impl FnOnce(&mut Ip)) -> Self {
        if let Content::Ip(ip) = &mut self.content {
            change(ip);
        }
        self
    }
}

impl Ip {
    fn bytes(&self) -> Vec<u8> {
        let transport = self.transport_bytes();
        match self.src {
            IpAddr::V4(_) => self.v4_bytes(&transport),
            IpAddr::V6(_) => self.v6_bytes(&transport),
        }
    }

    fn v4_bytes(&self, transport: &[u8]) -> Vec<u8> {
        let header_bytes = 20 + self.options.len();
        let flags = u16::from(self.dont_fragment) << 14
            | u16::from(self.more_fragments) << 13
            | self.fragment_offset;
        let mut header = vec![0x40 | (header_bytes / 4) as u8, self.traffic_class];
        header.extend(((header_bytes + transport.len()) as u16).to_be_bytes());
        header.extend(self.identification.to_be_bytes());
        header.extend(flags.to_be_bytes());
        header.extend([self.hop_limit, self.transport.protocol(true), 0, 0]);
        header.extend(octets(self.src));
        header.extend(octets(self.dst));
        header.extend(&self.options);
        let sum = !ones_complement_sum(&header);
        put_u16(&mut header, 10, sum);
        header.extend(transport);
        header
    }

    fn v6_bytes(&self, transport: &[u8]) -> Vec<u8> {
        let protocol = self.transport.protocol(false);
        let mut extensions = Vec::new();
        for (place, (_, rest)) in self.extensions.iter().enumerate() {
            extensions.push(self.extensions.get(place + 1).map_or(protocol, |next| next.0));
            extensions.extend(rest);
        }
        let first = self.extensions.first().map_or(protocol, |first| first.0);
        let mut packet = (0x6000_0000 | u32::from(self.traffic_class) << 20).to_be_bytes().to_vec();
        packet.extend(((extensions.len() + transport.len()) as u16).to_be_bytes());
        packet.extend([first, self.hop_limit]);
        packet.extend(octets(self.src));
        packet.extend(octets(self.dst));
        packet.extend(extensions);
        packet.extend(transport);
        packet
    }

    fn transport_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let field = match &self.transport {
            Transport::Tcp { ports, seq, ack, flags, window, options, payload } => {
                bytes.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
                bytes.extend(seq.to_be_bytes());
                bytes.extend(ack.to_be_bytes());
                let words = 5 + options.len() / 4;
                bytes.extend([(words << 4) as u8, *flags]);
                bytes.extend(window.to_be_bytes());
                // No checksum yet, no urgent pointer.
                bytes.extend([0; 4]);
                bytes.extend(options);
                bytes.extend(payload);
                16
            }
            Transport::Udp { ports, payload } => {
                bytes.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
                bytes.extend(((8 + payload.len()) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(payload);
                6
            }
            Transport::Icmp { kind, word, payload } => {
                bytes.extend(kind);
                bytes.extend([0, 0]);
                bytes.extend(word.to_be_bytes());
                bytes.extend(payload);
                2
            }
            Transport::Raw { payload, .. } => return payload.clone(),
        };
        let pseudo_header = self.pseudo_header(bytes.len());
        let right = match !ones_complement_sum(&[&pseudo_header[..], &bytes].concat()) {
            0 if matches!(self.transport, Transport::Udp { .. }) => 0xffff,
            sum => sum,
        };
        let sum = match self.checksum {
            Checksum::Right => right,
            Checksum::Wrong(by) => right.wrapping_add(by),
            Checksum::Partial => ones_complement_sum(&pseudo_header),
            Checksum::None => 0,
        };
        put_u16(&mut bytes, field, sum);
        bytes
    }

    fn pseudo_header(&self, transport_bytes: usize) -> Vec<u8> {
        let v4 = self.src.is_ipv4();
        if v4 && matches!(self.transport, Transport::Icmp { .. }) {
            return vec![];
        }
        let mut bytes = octets(self.src);
        bytes.extend(octets(self.dst));
        bytes.extend((transport_bytes as u32).to_be_bytes());
        bytes.extend([0, 0, 0, self.transport.protocol(v4)]);
        bytes
    }
}

impl Transport {
    fn protocol(&self, v4: bool) -> u8 {
        match self {
            Self::Tcp { .. } => 6,
            Self::Udp { .. } => 17,
            Self::Icmp { .. } if v4 => 1,
            Self::Icmp { .. } => 58,
            Self::Raw { protocol, .. } => *protocol,
        }
    }
}

/// The sum of RFC 1071, not complemented, as slow and plain as can be.
pub fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for (place, &byte) in bytes.iter().enumerate() {
        sum += if place % 2 == 0 { u32::from(byte) << 8 } else { u32::from(byte) };
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    for (to, from) in bytes.iter_mut().skip(at).zip(value.to_be_bytes()) {
        *to = from;
    }
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
