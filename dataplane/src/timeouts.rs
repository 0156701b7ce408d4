//! How long a flow may be idle, and the clock that this is measured by.

use std::time::Duration;

use crate::packet::Tick;

/// How long a flow is kept without a packet.
///
/// A duration beyond twelve days is taken as twelve days, and one of less
/// than a millisecond as a millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// A TCP connection that is open in both directions.
    pub tcp_established: Duration,
    /// A TCP connection that is opening or closing.
    pub tcp_transitory: Duration,
    /// How long a TCP connection that has ended keeps its SNAT port from
    /// being used again towards the same endpoint, which may still remember
    /// it (TIME_WAIT). Segments that come late are still translated.
    pub tcp_rest: Duration,
    /// A UDP flow in which more than a question and its answer was said.
    pub udp: Duration,
    /// A UDP flow that is no more than that so far: datagrams from the client,
    /// and at most one from the endpoint. Never more than `udp`.
    pub udp_query: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            // RFC 5382 REQ-5: not less than 2 hours and 4 minutes, so that a
            // keep-alive after 2 hours (RFC 9293 §3.8.4) is in time.
            tcp_established: Duration::from_secs(2 * 3_600 + 4 * 60),
            // RFC 5382 REQ-5: not less than 4 minutes.
            tcp_transitory: Duration::from_secs(4 * 60),
            // Linux: TCP_TIMEWAIT_LEN (include/net/tcp.h), and twice the
            // default MSL of the BSDs.
            tcp_rest: Duration::from_secs(60),
            // RFC 4787 REQ-5: 5 minutes are recommended.
            udp: Duration::from_secs(5 * 60),
            // Linux keeps UDP flows as long that have not been answered, or only
            // just begun (nf_conntrack_udp_timeout). RFC 4787 REQ-5 asks NATs
            // for 2 minutes unless they know better what a port is for; here it
            // is known, a server that was asked.
            udp_query: Duration::from_secs(30),
        }
    }
}

/// A moment as entries keep it: milliseconds that wrap around after 49 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Millis(pub(crate) u32);

impl Millis {
    /// Only moments less than half the circle apart compare rightly; the
    /// sweep, which sees every entry about a second after it is over, makes
    /// sure of it.
    const FARTHEST: u32 = 1 << 30;

    #[inline(always)]
    pub(crate) fn at(tick: Tick) -> Self {
        Self((tick.0 / 1_000_000) as u32)
    }

    /// Whether it has come.
    #[inline(always)]
    pub(crate) fn is_over(self, now: Self) -> bool {
        (now.0.wrapping_sub(self.0) as i32) >= 0
    }

    #[inline(always)]
    pub(crate) fn after(self, idle: Idle) -> Self {
        Self(self.0.wrapping_add(idle.0))
    }

    /// After the longest of times.
    pub(crate) fn farthest(self) -> Self {
        self.after(Idle(Self::FARTHEST))
    }
}

/// A timeout in milliseconds, short enough for [`Millis`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Idle(u32);

impl Idle {
    pub(crate) fn new(duration: Duration) -> Self {
        let millis = u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        Self(millis.clamp(1, Millis::FARTHEST))
    }

    pub(crate) fn millis(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Tick {
        Tick(secs * 1_000_000_000)
    }

    #[test]
    fn a_moment_comes_once_and_stays_over() {
        let idle = Idle::new(Duration::from_secs(60));
        // The second one wraps around between start and end.
        for start in [0, 4_294_930, 10_000_000] {
            let end = Millis::at(secs(start)).after(idle);
            assert!(!end.is_over(Millis::at(secs(start))));
            assert!(!end.is_over(Millis::at(secs(start + 59))));
            assert!(end.is_over(Millis::at(secs(start + 60))));
            assert!(end.is_over(Millis::at(secs(start + 86_400))));
        }
    }

    #[test]
    fn extreme_timeouts_are_brought_into_range() {
        assert_eq!(Idle::new(Duration::MAX), Idle(Millis::FARTHEST));
        assert_eq!(Idle::new(Duration::ZERO), Idle(1));
    }
}
