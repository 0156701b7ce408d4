//! How a network card spreads packets over its queues, done in software, so
//! that a SNAT port can be chosen whose replies come to the right queue.
//!
//! Receive side scaling hashes addresses and ports with the Toeplitz function
//! under a key, and looks the hash's low bits up in a table of queues
//! (Microsoft, "RSS hashing functions" and "Verifying the RSS hash
//! calculation", whose vectors the tests have).

use crate::address;
use crate::packet::{Tuple, WorkerId};
use crate::parse::TCP;
use crate::wire;

/// How one interface spreads packets, as its driver says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rss {
    key: Box<[u8]>,
    queues: Box<[u32]>,
    ports: HashedPorts,
}

/// For which packets the ports are hashed along with the addresses. Those of
/// others all go from one host to one queue, whatever their ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HashedPorts {
    /// TCP over IPv4.
    pub tcp_v4: bool,
    /// UDP over IPv4.
    pub udp_v4: bool,
    /// TCP over IPv6.
    pub tcp_v6: bool,
    /// UDP over IPv6.
    pub udp_v6: bool,
}

/// Source and destination of IPv6, and two ports.
const LONGEST_INPUT: usize = 36;

/// The window of 32 bits slides over the key; so much is needed of it.
const SHORTEST_KEY: usize = LONGEST_INPUT + 4;

impl Rss {
    /// With the driver's key and indirection table. `None` where nothing can
    /// be computed of them: a key that is too short, or no queue.
    pub fn new(key: &[u8], queues: &[u32], ports: HashedPorts) -> Option<Self> {
        if key.len() < SHORTEST_KEY || queues.is_empty() {
            return None;
        }
        Some(Self { key: key.into(), queues: queues.into(), ports })
    }

    /// Whether ports make a difference.
    pub(crate) fn hashes_ports(&self, protocol: u8, v4: bool) -> bool {
        match (protocol, v4) {
            (TCP, true) => self.ports.tcp_v4,
            (TCP, false) => self.ports.tcp_v6,
            (_, true) => self.ports.udp_v4,
            (_, false) => self.ports.udp_v6,
        }
    }

    /// The queue that packets with this tuple come in on.
    pub(crate) fn queue(&self, tuple: &Tuple) -> Option<u32> {
        let v4 = address::is_v4(tuple.src);
        let mut input = [0; LONGEST_INPUT];
        let mut bytes = if v4 {
            wire::put_u32(&mut input, 0, address::v4_bits(tuple.src));
            wire::put_u32(&mut input, 4, address::v4_bits(tuple.dst));
            8
        } else {
            wire::put_u128(&mut input, 0, tuple.src);
            wire::put_u128(&mut input, 16, tuple.dst);
            32
        };
        if self.hashes_ports(tuple.protocol, v4) {
            wire::put_u16(&mut input, bytes, tuple.src_port);
            wire::put_u16(&mut input, bytes + 2, tuple.dst_port);
            bytes += 4;
        }
        let hash = toeplitz(&self.key, input.get(..bytes).unwrap_or(&[]));
        let place = (hash as usize).checked_rem(self.queues.len())?;
        self.queues.get(place).copied()
    }

    /// The worker that packets with this tuple come to.
    pub(crate) fn worker(&self, tuple: &Tuple, workers: u16) -> Option<WorkerId> {
        let worker = self.queue(tuple)?.checked_rem(u32::from(workers))?;
        u16::try_from(worker).ok().map(WorkerId)
    }
}

/// The Toeplitz hash: for each bit that is set in the input, the 32 bits of
/// the key that begin at its place.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let mut next = key.iter().copied();
    let mut window = 0_u64;
    for _ in 0..4 {
        window = window << 8 | u64::from(next.next().unwrap_or(0));
    }
    let mut hash = 0;
    for &byte in input {
        // 40 bits: the 32 of this byte's first bit, and 8 to come.
        window = (window << 8 | u64::from(next.next().unwrap_or(0))) & 0xff_ffff_ffff;
        for bit in 0..8 {
            if byte & 0x80 >> bit != 0 {
                hash ^= (window >> (8 - bit)) as u32;
            }
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, SocketAddr};

    /// The key of Microsoft's verification suite.
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f,
        0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
        0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    /// Source, destination, hash of the addresses, hash of ports too.
    const VECTORS: [(&str, &str, u32, u32); 8] = [
        ("66.9.149.187:2794", "161.142.100.80:1766", 0x323e_8fc2, 0x51cc_c178),
        ("199.92.111.2:14230", "65.69.140.83:4739", 0xd718_262a, 0xc626_b0ea),
        ("24.19.198.95:12898", "12.22.207.184:38024", 0xd2d0_a5de, 0x5c2b_394a),
        ("38.27.205.30:48228", "209.142.163.6:2217", 0x8298_9176, 0xafc7_327f),
        ("153.39.163.191:44251", "202.188.127.2:1303", 0x5d18_09c5, 0x10e8_28a2),
        ("[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766", 0x2cc1_8cd5, 0x4020_7d3d),
        ("[3ffe:501:8::260:97ff:fe40:efab]:14230", "[ff02::1]:4739", 0x0f0c_461c, 0xdde5_1bbf),
        (
            "[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251",
            "[fe80::200:f8ff:fe21:67cf]:38024",
            0x4b61_e985,
            0x02d1_feef,
        ),
    ];

    fn tuple(source: &str, destination: &str, protocol: u8) -> Tuple {
        let [source, destination]: [SocketAddr; 2] =
            [source, destination].map(|text| text.parse().unwrap());
        Tuple {
            src: address::from_ip(source.ip()),
            dst: address::from_ip(destination.ip()),
            src_port: source.port(),
            dst_port: destination.port(),
            protocol,
        }
    }

    /// A table as long as this hash is high shows the hash itself.
    fn lands_at(rss: &Rss, tuple: &Tuple, hash: u32) -> bool {
        rss.queue(tuple) == rss.queues.get(hash as usize % rss.queues.len()).copied()
    }

    #[test]
    fn the_published_vectors_come_out() {
        for (source, destination, addresses, ports) in VECTORS {
            let of = tuple(source, destination, 6);
            let mut input = Vec::new();
            for address in [of.src, of.dst] {
                match address::to_ip(address) {
                    IpAddr::V4(v4) => input.extend(v4.octets()),
                    IpAddr::V6(v6) => input.extend(v6.octets()),
                }
            }
            assert_eq!(toeplitz(&KEY, &input), addresses, "{source} {destination}");
            input.extend(of.src_port.to_be_bytes());
            input.extend(of.dst_port.to_be_bytes());
            assert_eq!(toeplitz(&KEY, &input), ports, "{source} {destination}");
        }
    }

    #[test]
    fn each_protocol_is_hashed_as_the_driver_says() {
        let queues: Vec<u32> = (0..65_521).collect();
        for (place, (source, destination, addresses, ports)) in VECTORS.into_iter().enumerate() {
            let v4 = place < 5;
            for protocol in [6, 17] {
                let of = tuple(source, destination, protocol);
                let these = HashedPorts {
                    tcp_v4: v4 && protocol == 6,
                    udp_v4: v4 && protocol == 17,
                    tcp_v6: !v4 && protocol == 6,
                    udp_v6: !v4 && protocol == 17,
                };
                let others = HashedPorts {
                    tcp_v4: !these.tcp_v4,
                    udp_v4: !these.udp_v4,
                    tcp_v6: !these.tcp_v6,
                    udp_v6: !these.udp_v6,
                };
                assert!(lands_at(&Rss::new(&KEY, &queues, these).unwrap(), &of, ports));
                assert!(lands_at(&Rss::new(&KEY, &queues, others).unwrap(), &of, addresses));
            }
        }
    }

    #[test]
    fn what_cannot_be_computed_is_none() {
        assert_eq!(Rss::new(&KEY[..39], &[0], HashedPorts::default()), None);
        assert_eq!(Rss::new(&KEY, &[], HashedPorts::default()), None);
        let rss = Rss::new(&KEY, &[5], HashedPorts::default()).unwrap();
        let of = tuple("10.0.0.1:1", "10.0.0.2:2", 6);
        assert_eq!(rss.worker(&of, 4), Some(WorkerId(1)));
        assert_eq!(rss.worker(&of, 0), None);
    }
}
