//! How far a UDP flow has got: whether it is more than a question.
//!
//! A name is asked for once, from a port of its own, and answered once. Were
//! such a flow kept as long as a conversation, its SNAT port would be taken for
//! minutes after its use.

use crate::flows::Direction;

/// What has been seen of a UDP flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UdpState {
    /// Datagrams from the client, none from the endpoint.
    Asked,
    /// One from the endpoint, too, and nothing since.
    Answered,
    /// More than that.
    Talking,
}

impl UdpState {
    /// What a datagram makes of it.
    #[inline(always)]
    pub(crate) fn after(self, direction: Direction) -> Self {
        match (self, direction) {
            (Self::Asked, Direction::ToEndpoint) => Self::Asked,
            (Self::Asked, Direction::ToClient) => Self::Answered,
            (Self::Answered | Self::Talking, _) => Self::Talking,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{ToClient, ToEndpoint};

    #[test]
    fn a_question_and_its_answer_are_no_conversation() {
        let after = |datagrams: &[Direction]| {
            datagrams.iter().fold(UdpState::Asked, |state, direction| state.after(*direction))
        };
        assert_eq!(after(&[ToEndpoint, ToEndpoint]), UdpState::Asked, "asked again");
        assert_eq!(after(&[ToEndpoint, ToClient]), UdpState::Answered);
        for more in [ToEndpoint, ToClient] {
            assert_eq!(after(&[ToClient, more]), UdpState::Talking);
            assert_eq!(after(&[ToClient, more, ToEndpoint, ToClient]), UdpState::Talking);
        }
    }
}
