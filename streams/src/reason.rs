//! Why a stream did not begin, or did not end by itself.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a stream was refused or reset by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// There are as many streams as there may be.
    TooManyStreams,
    /// The client has its share of those that there may be.
    ClientShare,
    /// No whole ClientHello came in time, or no end of the handshake.
    HelloTimeout,
    /// What came was no ClientHello, or nothing came.
    NoHello,
    /// No listener and route is for the name that was asked for, with TLS or in a
    /// request.
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
    /// The endpoint is a port that streams are taken on here.
    Loop,
    /// The endpoint did not answer in time.
    ConnectTimeout,
    /// The endpoint refused, or no way leads to it.
    ConnectFailed,
    /// Nothing came for too long.
    Idle,
    /// Client or endpoint no longer answer.
    PeerLost,
    /// The endpoint is gone.
    EndpointGone,
    /// The port is no longer served.
    PortGone,
    /// The agent ends.
    Stopping,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 19] = [
        Self::TooManyStreams,
        Self::ClientShare,
        Self::HelloTimeout,
        Self::NoHello,
        Self::NoServerName,
        Self::NoCertificate,
        Self::HandshakeFailed,
        Self::NoRoute,
        Self::NoWeight,
        Self::BadBackend,
        Self::NoEndpoint,
        Self::Loop,
        Self::ConnectTimeout,
        Self::ConnectFailed,
        Self::Idle,
        Self::PeerLost,
        Self::EndpointGone,
        Self::PortGone,
        Self::Stopping,
    ];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooManyStreams => "too_many_streams",
            Self::ClientShare => "client_share",
            Self::HelloTimeout => "hello_timeout",
            Self::NoHello => "no_hello",
            Self::NoServerName => "no_server_name",
            Self::NoCertificate => "no_certificate",
            Self::HandshakeFailed => "handshake_failed",
            Self::NoRoute => "no_route",
            Self::NoWeight => "no_weight",
            Self::BadBackend => "bad_backend",
            Self::NoEndpoint => "no_endpoint",
            Self::Loop => "loop",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectFailed => "connect_failed",
            Self::Idle => "idle",
            Self::PeerLost => "peer_lost",
            Self::EndpointGone => "endpoint_gone",
            Self::PortGone => "port_gone",
            Self::Stopping => "stopping",
        }
    }

    /// What happened, for people.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::TooManyStreams => "A connection came while there were as many as there may be.",
            Self::ClientShare => {
                "A client (an IPv4 address or an IPv6 /64) had three times as many connections as there were places left."
            }
            Self::HelloTimeout => "A client took too long to say which server it asks for.",
            Self::NoHello => "What a client said first was no TLS, or it hung up before.",
            Self::NoServerName => {
                "No listener or route is for the name (SNI, or the host of a request) that a client asked for."
            }
            Self::NoCertificate => {
                "The certificate that would end a client's TLS is not on this node."
            }
            Self::HandshakeFailed => {
                "Client and agent did not agree on TLS, or the client does not trust the certificate."
            }
            Self::NoRoute => "No route is attached to the listener.",
            Self::NoWeight => "All backendRefs of the route have weight 0.",
            Self::BadBackend => "The share of a backendRef that does not resolve.",
            Self::NoEndpoint => "The Service has no endpoint that takes new connections.",
            Self::Loop => {
                "The endpoint is a port of a VIP whose connections end on this node: they would go in circles."
            }
            Self::ConnectTimeout => "The endpoint did not answer.",
            Self::ConnectFailed => {
                "The endpoint refused the connection, or no route of the node leads to it."
            }
            Self::Idle => "Nothing was said for too long.",
            Self::PeerLost => {
                "A client or an endpoint no longer answered, not even when asked whether it is there."
            }
            Self::EndpointGone => "The endpoint of a stream is gone.",
            Self::PortGone => "The listener of a stream is gone.",
            Self::Stopping => "The agent ended.",
        }
    }

    /// What to do if it happens more and more often.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::TooManyStreams => {
                "If `blixt_stream_capacity` is below 4,096, raise the agent's limit of open files (RLIMIT_NOFILE): each stream takes two. Else spread clients over more addresses or nodes."
            }
            Self::ClientShare => {
                "See who it is (`blixtctl flows`). If it is many people behind one address, make room as for too_many_streams."
            }
            Self::HelloTimeout => {
                "Nothing, if it is few: scanners do that. Many: somebody holds connections open on purpose."
            }
            Self::NoHello => "Look who speaks plain HTTP to a port for TLS; health checks do that.",
            Self::NoServerName => {
                "Add a hostname to a listener or route, or ask with the right name."
            }
            Self::NoCertificate => {
                "See whether the agent reaches the controller (`blixtctl status`), and ResolvedRefs of the listener."
            }
            Self::HandshakeFailed => {
                "Look at the certificate that the listener names, and at the clients' TLS versions."
            }
            Self::NoRoute => "Attach a route, or take the listener away.",
            Self::NoWeight => "Give a backendRef a weight.",
            Self::BadBackend => "See ResolvedRefs of the route.",
            Self::NoEndpoint => "See whether the Service's pods are ready.",
            Self::Loop => {
                "Look for the VIP among the endpoints of the route's Services, and refer to the Services behind it instead."
            }
            Self::ConnectTimeout => {
                "See whether the node reaches the endpoint: routes, and network policies that let nodes in."
            }
            Self::ConnectFailed => "See whether the endpoint listens on the Service's targetPort.",
            Self::Idle => "Nothing, or have clients keep connections alive.",
            Self::PeerLost => {
                "Nothing, if it is few: clients lose their networks. Many: look for a firewall that forgets connections."
            }
            Self::EndpointGone => {
                "Nothing: clients connect again. Many: look at the Service's pods."
            }
            Self::PortGone => "Nothing: it was asked for.",
            Self::Stopping => "Nothing.",
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
