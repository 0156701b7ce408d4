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

/// Whether a segment is neither of a connection's beginning nor of its end; so
/// is whatever has no flags.
#[inline(always)]
pub(crate) fn carries_on(flags: u8) -> bool {
    flags & (SYN | FIN | RST) == 0
}

/// Whether a segment can open a connection: a SYN, and nothing that
/// contradicts it.
#[inline(always)]
pub(crate) fn opens(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{ToClient, ToEndpoint};
    use TcpState::{
        AwaitsClientAck, AwaitsEndpointAck, ClientFinished, EndpointFinished, Established,
        SynReceived, SynSent,
    };

    const REST: Stage = Stage::Resting;
    const fn on(state: TcpState) -> Stage {
        Stage::Tcp(state)
    }

    /// Each state with each segment from either end: what comes of it.
    /// Columns: SYN, SYN+ACK, ACK, FIN+ACK, RST.
    #[rustfmt::skip]
    const TRANSITIONS: [(TcpState, Direction, [Stage; 5]); 14] = [
        (SynSent, ToEndpoint, [on(SynSent), on(SynSent), on(SynSent), on(SynSent), on(SynSent)]),
        (SynSent, ToClient, [on(SynSent), on(SynReceived), on(SynSent), on(SynSent), REST]),
        (SynReceived, ToEndpoint, [on(SynReceived), on(SynReceived), on(Established), on(ClientFinished), REST]),
        (SynReceived, ToClient, [on(SynReceived), on(SynReceived), on(SynReceived), on(EndpointFinished), REST]),
        (Established, ToEndpoint, [on(Established), on(Established), on(Established), on(ClientFinished), REST]),
        (Established, ToClient, [on(Established), on(Established), on(Established), on(EndpointFinished), REST]),
        (ClientFinished, ToEndpoint, [on(ClientFinished), on(ClientFinished), on(ClientFinished), on(ClientFinished), REST]),
        (ClientFinished, ToClient, [on(ClientFinished), on(ClientFinished), on(ClientFinished), on(AwaitsClientAck), REST]),
        (EndpointFinished, ToEndpoint, [on(EndpointFinished), on(EndpointFinished), on(EndpointFinished), on(AwaitsEndpointAck), REST]),
        (EndpointFinished, ToClient, [on(EndpointFinished), on(EndpointFinished), on(EndpointFinished), on(EndpointFinished), REST]),
        (AwaitsClientAck, ToEndpoint, [on(AwaitsClientAck), on(AwaitsClientAck), REST, on(AwaitsClientAck), REST]),
        (AwaitsClientAck, ToClient, [on(AwaitsClientAck), on(AwaitsClientAck), on(AwaitsClientAck), on(AwaitsClientAck), REST]),
        (AwaitsEndpointAck, ToEndpoint, [on(AwaitsEndpointAck), on(AwaitsEndpointAck), on(AwaitsEndpointAck), on(AwaitsEndpointAck), REST]),
        (AwaitsEndpointAck, ToClient, [on(AwaitsEndpointAck), on(AwaitsEndpointAck), REST, on(AwaitsEndpointAck), REST]),
    ];

    #[test]
    fn every_segment_in_every_state() {
        let segments = [SYN, SYN | ACK, ACK, FIN | ACK, RST];
        for (state, direction, expected) in TRANSITIONS {
            for (flags, expected) in segments.into_iter().zip(expected) {
                let after = state.after(direction, flags);
                assert_eq!(after, expected, "{state:?} {direction:?} {flags:#04x}");
            }
        }
    }

    fn walk(segments: &[(Direction, u8)]) -> Stage {
        let mut stage = Stage::Tcp(SynSent);
        for &(direction, flags) in segments {
            if let Stage::Tcp(state) = stage {
                stage = state.after(direction, flags);
            }
        }
        stage
    }

    const OPEN: [(Direction, u8); 2] = [(ToClient, SYN | ACK), (ToEndpoint, ACK)];

    #[test]
    fn a_connection_opens_and_either_end_closes_it() {
        assert_eq!(walk(&OPEN), on(Established));
        let [open, opened] = OPEN;
        let by_client =
            [open, opened, (ToEndpoint, FIN | ACK), (ToClient, FIN | ACK), (ToEndpoint, ACK)];
        assert_eq!(walk(&by_client), REST);
        assert_eq!(walk(&by_client[..4]), on(AwaitsClientAck));
        let by_endpoint =
            [open, opened, (ToClient, FIN | ACK), (ToEndpoint, FIN | ACK), (ToClient, ACK)];
        assert_eq!(walk(&by_endpoint), REST);
        assert_eq!(walk(&by_endpoint[..4]), on(AwaitsEndpointAck));
    }

    #[test]
    fn a_half_closed_connection_carries_on() {
        let [open, opened] = OPEN;
        let half = [open, opened, (ToEndpoint, FIN | ACK), (ToClient, ACK), (ToClient, ACK)];
        assert_eq!(walk(&half), on(ClientFinished));
    }

    #[test]
    fn only_a_plain_syn_opens() {
        assert!(opens(SYN));
        // With ECN (RFC 3168 §6.1.1) and with data pushed.
        assert!(opens(SYN | 0xc0) && opens(SYN | 0x08));
        for flags in [0, ACK, SYN | ACK, SYN | RST, SYN | FIN, RST, FIN, u8::MAX] {
            assert!(!opens(flags), "{flags:#04x}");
        }
    }
}
