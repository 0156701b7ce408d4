//! TCP ports whose connections end on the kernel's TCP stack: HTTP, HTTPS and
//! TLS listeners.

use std::collections::BTreeSet;

use crate::{Backend, CertificateId, Hostname, ListenerName, Port, RouteId};

/// One TCP port of a Gateway whose connections are ended on the kernel's TCP
/// stack, and whose bytes are carried on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// The port on every address of the Gateway.
    pub port: Port,
    /// How a connection finds its listener.
    pub kind: StreamKind,
    /// The listeners that were accepted.
    pub listeners: Vec<StreamListener>,
}

/// How a connection finds its listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// HTTP: by the host that the first request names, the most specific
    /// hostname first. Nobody looks for it where no hostname decides.
    Plain,
    /// HTTPS and TLS: told apart by SNI, the most specific hostname first.
    Tls,
}

/// One accepted listener of such a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamListener {
    /// Its name.
    pub name: ListenerName,
    /// The names it is for; `None` is for all, and for clients that say none.
    pub hostname: Option<Hostname>,
    /// What becomes of TLS.
    pub tls: StreamTls,
    /// The routes that send its traffic somewhere; without any, all of it is
    /// refused. The first of those with the most specific hostname gets it.
    pub routes: Vec<StreamRoute>,
}

/// What becomes of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamTls {
    /// There is none.
    None,
    /// It goes on to the backends as it is.
    Passthrough,
    /// It ends here, and plain bytes go on.
    Terminate {
        /// At least one. Who asks for a name gets the first that is for it.
        certificates: Vec<CertificateId>,
    },
}

/// One route of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRoute {
    /// Which.
    pub route: RouteId,
    /// What its hostnames and the listener's have in common; empty is all
    /// that the listener is for.
    pub hostnames: Vec<Hostname>,
    /// Where it sends connections. All weights 0, or none at all, refuses all.
    pub backends: Vec<Backend>,
}

impl Stream {
    /// Whether the name that a client asks for decides anything.
    pub fn asks_for_name(&self) -> bool {
        let routes = |listener: &StreamListener| {
            listener.routes.iter().any(|route| !route.hostnames.is_empty())
        };
        self.listeners.iter().any(|listener| listener.hostname.is_some() || routes(listener))
    }

    /// What is wrong with it, for people.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let plain = |listener: &StreamListener| listener.tls == StreamTls::None;
        let bare = |listener: &StreamListener| matches!(&listener.tls, StreamTls::Terminate { certificates } if certificates.is_empty());
        let mut hostnames = BTreeSet::new();
        match self.kind {
            _ if self.listeners.is_empty() => Some("has no listener"),
            StreamKind::Plain if !self.listeners.iter().all(plain) => {
                Some("is plain, and has a listener with TLS")
            }
            StreamKind::Tls if self.listeners.iter().any(plain) => {
                Some("is for TLS, and has a listener without")
            }
            _ if self.listeners.iter().any(bare) => {
                Some("has a listener that ends TLS without a certificate")
            }
            _ if !self.listeners.iter().all(|listener| hostnames.insert(&listener.hostname)) => {
                Some("has two listeners for one hostname")
            }
            _ => None,
        }
    }
}
