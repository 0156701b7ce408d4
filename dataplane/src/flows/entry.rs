//! What is remembered of one flow.

use bytemuck::{Pod, Zeroable};

use crate::packet::Tuple;
use crate::tcp::TcpState;
use crate::timeouts::Millis;
use crate::udp::UdpState;

/// Which way a packet of a flow goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// From the client.
    ToEndpoint = 0,
    /// From the endpoint.
    ToClient = 1,
}

impl Direction {
    #[inline(always)]
    fn other(self) -> Self {
        match self {
            Self::ToEndpoint => Self::ToClient,
            Self::ToClient => Self::ToEndpoint,
        }
    }
}

/// One flow: both its tuples, and how far it has got.
///
/// 96 bytes without pointers: it never spans more than two cache lines, and
/// another process could read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Flow {
    pub(crate) client: u128,
    pub(crate) vip: u128,
    pub(crate) endpoint: u128,
    pub(crate) snat: u128,
    pub(crate) client_port: u16,
    pub(crate) vip_port: u16,
    pub(crate) endpoint_port: u16,
    pub(crate) snat_port: u16,
    pub(crate) protocol: u8,
    /// A [`Stage`] as a number; see [`Flow::stage`].
    pub(crate) stage: u8,
    /// Not 0 once another flow has the client's tuple.
    pub(crate) replaced: u8,
    /// Not 0 if it reaches its endpoint through the node's kernel.
    pub(crate) by_host: u8,
    /// Whose flow it is; see [`crate::tables::Slots`].
    pub(crate) endpoint_slot: u32,
    pub(crate) backend_slot: u32,
    pub(crate) expires: u32,
    /// TCP: what the client waits for next, by its last acknowledgement.
    pub(crate) client_ack: u32,
    /// TCP: what the endpoint waits for next, by its last acknowledgement.
    pub(crate) endpoint_ack: u32,
}

/// A [`Flow`] as it is looked at for one of its directions: source and
/// destination of what comes from the client, and of what comes from the
/// endpoint.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Ends {
    addresses: [[u128; 2]; 2],
    ports: [[u16; 2]; 2],
    others: [u64; 3],
}

/// What an entry is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing.
    Free,
    Udp(UdpState),
    Tcp(TcpState),
    /// The TCP connection has ended: only late segments are translated, and
    /// the SNAT port rests.
    Resting,
}

impl Stage {
    /// Whether a flow lives in the entry.
    #[inline(always)]
    pub(crate) fn is_live(self) -> bool {
        matches!(self, Self::Udp(_) | Self::Tcp(_))
    }

    /// Whether it is a connection that only one end has said anything certain
    /// about: anybody can bring that about, under any address.
    #[inline(always)]
    pub(crate) fn is_half_open(self) -> bool {
        matches!(self, Self::Tcp(TcpState::SynSent | TcpState::SynReceived))
    }

    /// Whether it leaves its SNAT port at rest when it ends: a connection that
    /// never opened leaves nothing behind.
    pub(crate) fn rests(self) -> bool {
        matches!(self, Self::Tcp(_)) && !self.is_half_open()
    }

    /// Whether packets that carry on leave it as it is; nearly every flow
    /// nearly always is.
    #[inline(always)]
    pub(crate) fn is_steady(self) -> bool {
        matches!(self, Self::Udp(UdpState::Talking) | Self::Tcp(TcpState::Established))
    }

    const fn number(self) -> u8 {
        match self {
            Self::Free => 0,
            Self::Udp(UdpState::Talking) => 1,
            Self::Resting => 2,
            Self::Tcp(TcpState::SynSent) => 3,
            Self::Tcp(TcpState::SynReceived) => 4,
            Self::Tcp(TcpState::Established) => 5,
            Self::Tcp(TcpState::ClientFinished) => 6,
            Self::Tcp(TcpState::EndpointFinished) => 7,
            Self::Tcp(TcpState::AwaitsClientAck) => 8,
            Self::Tcp(TcpState::AwaitsEndpointAck) => 9,
            Self::Udp(UdpState::Asked) => 10,
            Self::Udp(UdpState::Answered) => 11,
        }
    }

    const fn of(number: u8) -> Self {
        match number {
            1 => Self::Udp(UdpState::Talking),
            2 => Self::Resting,
            3 => Self::Tcp(TcpState::SynSent),
            4 => Self::Tcp(TcpState::SynReceived),
            5 => Self::Tcp(TcpState::Established),
            6 => Self::Tcp(TcpState::ClientFinished),
            7 => Self::Tcp(TcpState::EndpointFinished),
            8 => Self::Tcp(TcpState::AwaitsClientAck),
            9 => Self::Tcp(TcpState::AwaitsEndpointAck),
            10 => Self::Udp(UdpState::Asked),
            11 => Self::Udp(UdpState::Answered),
            _ => Self::Free,
        }
    }
}

impl Flow {
    #[inline(always)]
    pub(crate) fn stage(&self) -> Stage {
        Stage::of(self.stage)
    }

    #[inline(always)]
    pub(crate) fn set_stage(&mut self, stage: Stage) {
        self.stage = stage.number();
    }

    /// Whether another flow has its client's tuple by now, so that it can be
    /// found by the endpoint's only.
    #[inline(always)]
    pub(crate) fn is_replaced(&self) -> bool {
        self.replaced != 0
    }

    /// Whether it reaches its endpoint through the node's kernel.
    pub(crate) fn is_by_host(&self) -> bool {
        self.by_host != 0
    }

    pub(super) fn replace(&mut self) {
        self.replaced = 1;
    }

    #[inline(always)]
    pub(crate) fn is_over(&self, now: Millis) -> bool {
        Millis(self.expires).is_over(now)
    }

    /// A packet of this direction, as it comes.
    ///
    /// One direction's fields lie as the other's do, further on. So this is a
    /// matter of where to look, and not of a branch, which would be guessed
    /// wrong wherever packets of both directions come mixed.
    #[inline(always)]
    pub(crate) fn tuple(&self, direction: Direction) -> Tuple {
        let ends: &Ends = bytemuck::must_cast_ref(self);
        let which = direction as usize;
        let [src, dst] = ends.addresses.get(which).copied().unwrap_or_default();
        let [src_port, dst_port] = ends.ports.get(which).copied().unwrap_or_default();
        Tuple { src, dst, src_port, dst_port, protocol: self.protocol }
    }

    /// Whether a packet with this tuple, in this direction, is the flow's.
    #[inline(always)]
    pub(crate) fn is_found_by(&self, tuple: &Tuple, direction: Direction) -> bool {
        let mine = self.tuple(direction);
        mine.src == tuple.src
            && mine.dst == tuple.dst
            && [mine.src_port, mine.dst_port] == [tuple.src_port, tuple.dst_port]
            && mine.protocol == tuple.protocol
            && (direction == Direction::ToClient || !self.is_replaced())
    }

    /// A packet of this direction, as it goes on.
    #[inline(always)]
    pub(crate) fn rewritten(&self, direction: Direction) -> Tuple {
        self.tuple(direction.other()).reversed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_numbers_and_back() {
        for number in 0..=11 {
            assert_eq!(Stage::of(number).number(), number);
        }
        // Whatever else the memory holds is nothing.
        assert_eq!(Stage::of(12), Stage::Free);
        assert!(!Stage::Free.is_live() && !Stage::Resting.is_live());
        assert!(Stage::Udp(UdpState::Asked).is_live() && Stage::Tcp(TcpState::SynSent).is_live());
        assert!(!Stage::Tcp(TcpState::Established).is_half_open());
    }

    #[test]
    fn what_comes_one_way_goes_on_as_the_other_way_reversed() {
        let flow = Flow {
            client: 1,
            vip: 2,
            endpoint: 3,
            snat: 4,
            client_port: 10,
            vip_port: 20,
            endpoint_port: 30,
            snat_port: 40,
            protocol: 17,
            ..Flow::zeroed()
        };
        let request = flow.tuple(Direction::ToEndpoint);
        assert_eq!((request.src, request.dst, request.src_port, request.dst_port), (1, 2, 10, 20));
        let sent = flow.rewritten(Direction::ToEndpoint);
        assert_eq!((sent.src, sent.dst, sent.src_port, sent.dst_port), (4, 3, 40, 30));
        assert_eq!(flow.tuple(Direction::ToClient), sent.reversed());
        assert_eq!(flow.rewritten(Direction::ToClient), request.reversed());
    }
}
