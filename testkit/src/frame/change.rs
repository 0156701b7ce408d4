//! What can be said of a frame.

use std::net::IpAddr;

use super::{Checksum, Content, FRAGMENT, Frame, Ip, Mac, Transport};

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

    fn with_ip(mut self, change: impl FnOnce(&mut Ip)) -> Self {
        if let Content::Ip(ip) = &mut self.content {
            change(ip);
        }
        self
    }
}
