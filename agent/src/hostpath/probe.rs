//! Probes: packets that go through the kernel as those of flows do, and that our
//! table counts behind all that may drop what is forwarded.
//!
//! A chain of nf_tables says what it drops. What iptables-legacy drops, and what a
//! rule rejects, nobody can be asked. So a probe is sent to our address out of our
//! end of the pair, so that the kernel gets it by its own end, and would send it out
//! there again. It comes from the address after ours, which is behind ours as VIPs
//! are: to a neighbour the kernel would send a redirect.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::PacketBuilder;
use socket2::{Domain, Protocol, Socket, Type};

use super::OUR_END;

/// IPPROTO_RAW: the packet is sent as it is.
const AS_IT_IS: i32 = 255;

/// RFC 863: whoever gets it throws it away.
const DISCARD: u16 = 9;

/// One hop is the kernel's.
const HOPS: u8 = 2;

/// What a probe to an address of ours comes from.
pub(super) fn source(to: IpAddr) -> IpAddr {
    match to {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) + 1).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) + 1).into(),
    }
}

/// Sends one to an address of ours.
pub(super) fn send(to: IpAddr) -> io::Result<()> {
    let (domain, packet) = match (source(to), to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            (Domain::IPV4, PacketBuilder::ipv4(from.octets(), to.octets(), HOPS))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            (Domain::IPV6, PacketBuilder::ipv6(from.octets(), to.octets(), HOPS))
        }
        // A source is of its destination's family.
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let mut bytes = Vec::new();
    packet.udp(DISCARD, DISCARD).write(&mut bytes, &[]).map_err(io::Error::other)?;
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(AS_IT_IS)))?;
    socket.bind_device(Some(OUR_END.as_bytes()))?;
    socket.send_to(&bytes, &SocketAddr::new(to, 0).into())?;
    Ok(())
}
