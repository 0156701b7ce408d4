//! How far a TCP connection has got, as one in the middle sees it.
//!
//! Only flags and directions count here; whether a RST is to be believed is
//! for the caller to say, who knows sequence numbers.

use crate::flows::{Direction, Stage};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// The states of a connection that has not ended. There is one more, its
/// rest, which is [`Stage::Resting`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TcpState {
    /// The client has asked.
    SynSent,
    /// The endpoint has agreed.
    SynReceived,
    /// Open both ways.
    Established,
    /// The client has sent a FIN.
    ClientFinished,
    /// The endpoint has sent a FIN.
    EndpointFinished,
    /// Both have, and the client is to acknowledge the endpoint's.
    AwaitsClientAck,
    /// Both have, and the endpoint is to acknowledge the client's.
    AwaitsEndpointAck,
}

impl TcpState {
    /// Whether it is open in both directions.
    #[inline(always)]
    pub(crate) fn is_established(self) -> bool {
        self == Self::Established
    }

    /// Whether both ends have said that they are done, so that a SYN asks for
    /// another connection rather than being lost in this one.
    #[inline(always)]
    pub(crate) fn is_done(self) -> bool {
        matches!(self, Self::AwaitsClientAck | Self::AwaitsEndpointAck)
    }

    /// What a segment makes of it.
    #[inline]
    pub(crate) fn after(self, direction: Direction, flags: u8) -> Stage {
        use Direction::{ToClient, ToEndpoint};
        use TcpState::{
            AwaitsClientAck, AwaitsEndpointAck, ClientFinished, EndpointFinished, Established,
            SynReceived, SynSent,
        };
        let has = |flag: u8| flags & flag != 0;
        if has(RST) {
            // A client that gives up before the endpoint has answered does not
            // keep it from answering: the answer must still find its way, for
            // the client to reset it too (as IPVS does).
            return match (self, direction) {
                (SynSent, ToEndpoint) => Stage::Tcp(SynSent),
                _ => Stage::Resting,
            };
        }
        let state = match (self, direction) {
            (SynSent, ToClient) if has(SYN) && has(ACK) => SynReceived,
            // A segment that opens says nothing of how an open one goes on.
            _ if has(SYN) => self,
            (SynReceived, ToEndpoint) if has(FIN) => ClientFinished,
            (SynReceived, ToEndpoint) if has(ACK) => Established,
            // With TCP Fast Open it may be done before the client has
            // acknowledged anything (RFC 7413 §4.2).
            (SynReceived | Established, ToClient) if has(FIN) => EndpointFinished,
            (Established, ToEndpoint) if has(FIN) => ClientFinished,
            (ClientFinished, ToClient) if has(FIN) => AwaitsClientAck,
            (EndpointFinished, ToEndpoint) if has(FIN) => AwaitsEndpointAck,
            (AwaitsClientAck, ToEndpoint) | (AwaitsEndpointAck, ToClient)
                if has(ACK) && !has(FIN) =>
            {
                return Stage::Resting;
            }
            _ => self,
        };
        Stage::Tcp(state)
    }
}

/// Whether a segment can open a connection: a SYN, and nothing that
/// contradicts it.
#[inline(always)]
pub(crate) fn opens(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN
}
