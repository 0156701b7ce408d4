//! Why a stream did not begin, or did not end by itself.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a stream was refused or reset by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// There are as many streams as there may be.
    TooManyStreams,
    /// No whole ClientHello came in time, or no end of the handshake.
    HelloTimeout,
    /// What came was no ClientHello.
    NoHello,
    /// No listener and route is for the name that was asked for.
    NoServerName,
    /// The listener's certificate is not here.
    NoCertificate,
    /// Client and rustls did not agree.
    HandshakeFailed,
    /// No route refers to the listener.
    NoRoute,
    /// All backendRefs have weight 0.
    NoWeight,
    /// The share of a backendRef that does not resolve.
    BadBackend,
    /// The Service has no endpoint that takes new streams.
    NoEndpoint,
    /// The endpoint did not answer in time.
    ConnectTimeout,
    /// The endpoint refused, or no way leads to it.
    ConnectFailed,
    /// Nothing came for too long.
    Idle,
    /// The endpoint is gone.
    EndpointGone,
    /// The port is no longer served.
    PortGone,
    /// The agent ends.
    Stopping,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 16] = [
        Self::TooManyStreams,
        Self::HelloTimeout,
        Self::NoHello,
        Self::NoServerName,
        Self::NoCertificate,
        Self::HandshakeFailed,
        Self::NoRoute,
        Self::NoWeight,
        Self::BadBackend,
        Self::NoEndpoint,
        Self::ConnectTimeout,
        Self::ConnectFailed,
        Self::Idle,
        Self::EndpointGone,
        Self::PortGone,
        Self::Stopping,
    ];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooManyStreams => "too_many_streams",
            Self::HelloTimeout => "hello_timeout",
            Self::NoHello => "no_hello",
            Self::NoServerName => "no_server_name",
            Self::NoCertificate => "no_certificate",
            Self::HandshakeFailed => "handshake_failed",
            Self::NoRoute => "no_route",
            Self::NoWeight => "no_weight",
            Self::BadBackend => "bad_backend",
            Self::NoEndpoint => "no_endpoint",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectFailed => "connect_failed",
            Self::Idle => "idle",
            Self::EndpointGone => "endpoint_gone",
            Self::PortGone => "port_gone",
            Self::Stopping => "stopping",
        }
    }
}

/// How often each reason was met.
#[derive(Debug)]
pub struct Reasons([AtomicU64; Reason::ALL.len()]);

impl Default for Reasons {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Reasons {
    /// Once more.
    pub(crate) fn count(&self, reason: Reason) {
        if let Some(count) = self.0.get(reason as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often.
    pub fn of(&self, reason: Reason) -> u64 {
        self.0.get(reason as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_number_and_name() {
        let reasons = Reasons::default();
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
            reasons.count(reason);
            assert_eq!(reasons.of(reason), 1, "{}", reason.name());
        }
        let names: std::collections::BTreeSet<_> = Reason::ALL.map(Reason::name).into();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
