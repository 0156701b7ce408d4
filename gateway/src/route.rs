//! What TCPRoute and UDPRoute have in common, which is everything: the same
//! fields under two sets of generated types.

use crate::apis::{
    TcpRouteSpec, TcpRouteStatusParentsParentRef, UdpRouteSpec, UdpRouteStatusParentsParentRef,
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

/// The spec of a route. It has one rule, so its backends are those of the
/// rule (`maxItems` of `rules` is 1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RouteSpec {
    pub(crate) parents: Vec<ParentRef>,
    pub(crate) backends: Vec<BackendRef>,
}

macro_rules! common_view {
    ($spec:ty, $status_ref:ty) => {
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
                let backends = spec.rules.first().into_iter().flat_map(|rule| &rule.backend_refs);
                let backends = backends.map(|backend| BackendRef {
                    group: backend.group.clone(),
                    kind: backend.kind.clone(),
                    namespace: backend.namespace.clone(),
                    name: backend.name.clone(),
                    port: backend.port,
                    weight: backend.weight,
                });
                Self { parents: parents.collect(), backends: backends.collect() }
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

common_view!(TcpRouteSpec, TcpRouteStatusParentsParentRef);
common_view!(UdpRouteSpec, UdpRouteStatusParentsParentRef);
