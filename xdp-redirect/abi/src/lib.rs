//! Map names and layouts that the XDP program and the agent share.
//!
//! Both sides compile this file, so they cannot disagree. Keys and values are
//! plain integers and byte arrays: they have one layout on either side, and
//! need no promise about padding.

#![no_std]
#![forbid(unsafe_code)]

/// The program's name, as `bpftool prog` and `ip link` users see it. The
/// kernel keeps 15 characters (`BPF_OBJ_NAME_LEN`, include/uapi/linux/bpf.h).
pub const PROGRAM: &str = "blixt_redirect";

/// Hash map from [`AddressKey`] to [`Role`] as `u32`, with [`HAS_STREAMS`] where
/// it is so: the addresses that are ours. All traffic to them, and ARP and NDP
/// for them, leaves the kernel's path, but for what is in [`STREAMS`].
pub const ADDRESSES: &str = "ADDRESSES";

/// The bit in [`ADDRESSES`] of those that have ports in [`STREAMS`]: nobody else
/// pays for a second look-up.
pub const HAS_STREAMS: u32 = 1 << 31;

/// Hash map from [`StreamKey`] to anything (`u32`): the TCP ports of addresses of
/// ours whose connections end on the kernel's own stack. What is sent to them,
/// and ICMP errors that quote what they sent, passes.
pub const STREAMS: &str = "STREAMS";

/// Hash map from interface index (`u32`) to the index in [`SOCKETS`] of the
/// interface's queue 0 (`u32`), with [`HOST_END`] where it is that: one program
/// serves many interfaces.
pub const INTERFACES: &str = "INTERFACES";

/// The bit in [`INTERFACES`] of the interface whose other end is the node's own
/// kernel: addresses of [`Role::Host`] are ours there.
pub const HOST_END: u32 = 1 << 31;

/// XSKMAP of the AF_XDP sockets: [`QUEUES_PER_INTERFACE`] of them in a row for
/// each interface.
pub const SOCKETS: &str = "SOCKETS";

/// Per-CPU array of `u64`, indexed by [`Counter`].
pub const COUNTERS: &str = "COUNTERS";

/// How many queues of an interface have a place in [`SOCKETS`]. A fixed stride
/// needs no allocator, and leaves room when queues are added at run time. 256:
/// more than the queues that drivers offer per port for CPUs of today, and two
/// KiB of map per interface.
pub const QUEUES_PER_INTERFACE: u32 = 256;

/// An address as a key: IPv6 as it is, IPv4 as IPv4-mapped IPv6 address
/// (`::ffff:a.b.c.d`, RFC 4291 §2.5.5.2).
pub type AddressKey = [u8; 16];

/// An address and a TCP port of it as a key: an [`AddressKey`], then the port as
/// it is on the wire.
pub type StreamKey = [u8; 18];

/// The key of a port.
#[inline(always)]
pub const fn stream_key(address: AddressKey, port: [u8; 2]) -> StreamKey {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    let [high, low] = port;
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, high, low]
}

/// The first 96 bits of every IPv4 address's key, as a number.
pub const V4_MAPPED_PREFIX: u128 = 0xffff;

/// The key of an IPv4 address.
#[inline(always)]
pub const fn v4_key(octets: [u8; 4]) -> AddressKey {
    let [a, b, c, d] = octets;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// What an address of ours is for. The program treats the first two alike;
/// their values tell a person who dumps the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Role {
    /// Clients send to it.
    Vip = 1,
    /// Endpoints reply to it.
    Snat = 2,
    /// What goes through the node's kernel is replied to there. On any other
    /// interface than that of [`HOST_END`] it is not ours.
    Host = 3,
}

impl Role {
    /// As the map holds it.
    pub const fn value(self) -> u32 {
        self as u32
    }
}

/// What the program counts. Frames that are not ours and well formed pass
/// uncounted: they pay for one hash look-up and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Counter {
    /// IP packets to one of our addresses, given to a socket.
    RedirectedIp = 0,
    /// ARP for one of our addresses, given to a socket.
    RedirectedArp = 1,
    /// Neighbour solicitations for one of our addresses, given to a socket.
    RedirectedNdp = 2,
    /// Frames for one of our addresses on a queue without a socket. Dropped:
    /// the addresses are ours alone, a kernel that answered would do harm.
    DroppedNoSocket = 3,
    /// Frames that end inside the header that their EtherType or next header
    /// names. Passed: nobody can say whose they are.
    PassedTruncated = 4,
    /// Frames with more than two VLAN tags. Passed unread.
    PassedVlanDepth = 5,
    /// TCP segments to ports of [`STREAMS`], and ICMP errors about them, given to
    /// the kernel.
    PassedStream = 6,
}

impl Counter {
    /// All of them, in the order of their indices.
    pub const ALL: [Self; 7] = [
        Self::RedirectedIp,
        Self::RedirectedArp,
        Self::RedirectedNdp,
        Self::DroppedNoSocket,
        Self::PassedTruncated,
        Self::PassedVlanDepth,
        Self::PassedStream,
    ];

    /// Its place in [`COUNTERS`].
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// Its name in metrics and tests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RedirectedIp => "redirected_ip",
            Self::RedirectedArp => "redirected_arp",
            Self::RedirectedNdp => "redirected_ndp",
            Self::DroppedNoSocket => "dropped_no_socket",
            Self::PassedTruncated => "passed_truncated",
            Self::PassedVlanDepth => "passed_vlan_depth",
            Self::PassedStream => "passed_stream",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_indexed_in_their_order() {
        for (at, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(counter.index() as usize, at, "{}", counter.name());
        }
    }

    #[test]
    fn an_ipv4_key_is_its_mapped_address() {
        let key = v4_key([192, 0, 2, 1]);
        let mapped = core::net::Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped();
        assert_eq!(key, mapped.octets());
        assert_eq!(u128::from_be_bytes(key) >> 32, V4_MAPPED_PREFIX);
    }

    #[test]
    fn the_kernel_keeps_the_whole_name() {
        assert!(PROGRAM.len() <= 15);
    }
}
