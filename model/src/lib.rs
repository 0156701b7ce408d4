//! The vocabulary of Blixt.
//!
//! A [`Snapshot`] says, for the whole cluster or for a directory of manifests,
//! which addresses and ports are balanced to which endpoints. The gateway
//! crate makes it out of Gateway API objects, the data plane compiles it into
//! tables. It holds what is *wanted*; nothing here knows about packets,
//! sockets or Kubernetes clients, and nothing here does I/O.
//!
//! Values are checked once, when they are made: a [`Port`] is never 0, a
//! [`Weight`] never above a million, a [`Snapshot`] never points at a service
//! it does not hold. Code that receives one has nothing left to check.

#![forbid(unsafe_code)]

mod certificate;
mod hostname;
mod names;
mod numbers;
mod snapshot;
mod stream;

pub use certificate::{Certificate, CertificateId, PrivateKey};
pub use hostname::{Hostname, HostnameError};
pub use names::{
    ListenerId, ListenerName, NameError, ObjectName, RouteId, RouteKind, ServicePortId,
};
pub use numbers::{Bytes, Generation, HashSeed, NumberError, Port, Protocol, Weight};
pub use snapshot::{
    Affinity, Backend, Endpoint, EndpointState, Gateway, Listener, RejectReason, ServiceIndex,
    ServicePort, Snapshot, SnapshotError, Target, is_host_unicast,
};
pub use stream::{Stream, StreamKind, StreamListener, StreamRoute, StreamTls};
