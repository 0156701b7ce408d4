//! What the kinds of route have in common: the same fields under several sets
//! of generated types. What only an HTTPRoute has is looked at in `http`.

mod http;

use crate::apis::{
    HttpRouteSpec, HttpRouteStatusParentsParentRef, TcpRouteSpec, TcpRouteStatusParentsParentRef,
    TlsRouteSpec, TlsRouteStatusParentsParentRef, UdpRouteSpec, UdpRouteStatusParentsParentRef,
};

/// A reference of a route to its parent, as written: it is copied into the
/// route's status.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParentRef {
    /// The parent's group, if it is written.
    pub group: Option<String>,
    /// The parent's kind, if it is written.
    pub kind: Option<String>,
    /// The parent's namespace, if it is written.
    pub namespace: Option<String>,
    /// The parent's name.
    pub name: String,
    /// The listener, if it is written.
    pub section_name: Option<String>,
    /// The listener's port, if it is written.
    pub port: Option<i32>,
}

/// A reference of a route to where its traffic goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackendRef {
    pub(crate) group: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) port: Option<i32>,
    pub(crate) weight: Option<i32>,
}

/// The spec of a route. Its backends are those of its one rule (`maxItems` of
/// `rules` is 1), and of an HTTPRoute those of the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RouteSpec {
    pub(crate) parents: Vec<ParentRef>,
    /// Empty is all; TCPRoute and UDPRoute have none.
    pub(crate) hostnames: Vec<String>,
    pub(crate) backends: Vec<BackendRef>,
    /// What can't be honoured without reading HTTP, for people.
    pub(crate) unsupported: Option<String>,
}

macro_rules! common_view {
    ($spec:ty, $status_ref:ty, $hostnames:expr, $backends:expr, $unsupported:expr) => {
        impl From<&$spec> for RouteSpec {
            fn from(spec: &$spec) -> Self {
                let parents = spec.parent_refs.iter().flatten().map(|parent| ParentRef {
                    group: parent.group.clone(),
                    kind: parent.kind.clone(),
                    namespace: parent.namespace.clone(),
                    name: parent.name.clone(),
                    section_name: parent.section_name.clone(),
                    port: parent.port,
                });
                let backends = ($backends)(spec).into_iter().map(|backend| BackendRef {
                    group: backend.group,
                    kind: backend.kind,
                    namespace: backend.namespace,
                    name: backend.name,
                    port: backend.port,
                    weight: backend.weight,
                });
                Self {
                    parents: parents.collect(),
                    hostnames: ($hostnames)(spec),
                    backends: backends.collect(),
                    unsupported: ($unsupported)(spec),
                }
            }
        }

        impl From<&ParentRef> for $status_ref {
            fn from(parent: &ParentRef) -> Self {
                Self {
                    group: parent.group.clone(),
                    kind: parent.kind.clone(),
                    namespace: parent.namespace.clone(),
                    name: parent.name.clone(),
                    section_name: parent.section_name.clone(),
                    port: parent.port,
                }
            }
        }
    };
}

macro_rules! one_rule {
    ($spec:ty) => {
        |spec: &$spec| spec.rules.first().map(|rule| rule.backend_refs.clone()).unwrap_or_default()
    };
}

common_view!(
    TcpRouteSpec,
    TcpRouteStatusParentsParentRef,
    |_: &TcpRouteSpec| Vec::new(),
    one_rule!(TcpRouteSpec),
    |_: &TcpRouteSpec| None
);
common_view!(
    UdpRouteSpec,
    UdpRouteStatusParentsParentRef,
    |_: &UdpRouteSpec| Vec::new(),
    one_rule!(UdpRouteSpec),
    |_: &UdpRouteSpec| None
);
common_view!(
    TlsRouteSpec,
    TlsRouteStatusParentsParentRef,
    |spec: &TlsRouteSpec| spec.hostnames.clone(),
    one_rule!(TlsRouteSpec),
    |_: &TlsRouteSpec| None
);
common_view!(
    HttpRouteSpec,
    HttpRouteStatusParentsParentRef,
    |spec: &HttpRouteSpec| spec.hostnames.clone().unwrap_or_default(),
    http::backends,
    http::unsupported
);
