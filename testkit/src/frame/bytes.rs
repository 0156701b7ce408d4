//! A frame as it is on a wire.

use std::net::IpAddr;

use super::{Checksum, Content, Frame, Ip, Transport};

impl Frame {
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

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
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
