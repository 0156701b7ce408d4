//! The kinds of object we take, what identifies one, and one of any kind.

use std::fmt;

use blixt_model::RouteKind;

use crate::apis::{
    AddressPool, EndpointSlice, Gateway, GatewayClass, HttpRoute, ListenerSet, Namespace,
    ObjectMeta, ReferenceGrant, Secret, Service, TcpRoute, TlsRoute, UdpRoute,
};
use crate::{BLIXT_GROUP, GATEWAY_GROUP};

/// The kinds of object that say what we do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `Namespace`, for its labels.
    Namespace,
    /// `GatewayClass`.
    GatewayClass,
    /// `Gateway`.
    Gateway,
    /// `ListenerSet`.
    ListenerSet,
    /// `TCPRoute`.
    TcpRoute,
    /// `UDPRoute`.
    UdpRoute,
    /// `HTTPRoute`.
    HttpRoute,
    /// `TLSRoute`.
    TlsRoute,
    /// `ReferenceGrant`.
    ReferenceGrant,
    /// `Secret`, for certificates.
    Secret,
    /// `Service`.
    Service,
    /// `EndpointSlice`.
    EndpointSlice,
    /// `AddressPool`.
    AddressPool,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Namespace,
        Self::GatewayClass,
        Self::Gateway,
        Self::ListenerSet,
        Self::TcpRoute,
        Self::UdpRoute,
        Self::HttpRoute,
        Self::TlsRoute,
        Self::ReferenceGrant,
        Self::Secret,
        Self::Service,
        Self::EndpointSlice,
        Self::AddressPool,
    ];

    /// The kind as manifests spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::GatewayClass => "GatewayClass",
            Self::Gateway => "Gateway",
            Self::ListenerSet => "ListenerSet",
            Self::TcpRoute => "TCPRoute",
            Self::UdpRoute => "UDPRoute",
            Self::HttpRoute => "HTTPRoute",
            Self::TlsRoute => "TLSRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::Secret => "Secret",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::AddressPool => "AddressPool",
        }
    }

    /// The API group; empty for the core group.
    pub const fn group(self) -> &'static str {
        match self {
            Self::Namespace | Self::Secret | Self::Service => "",
            Self::EndpointSlice => "discovery.k8s.io",
            Self::AddressPool => BLIXT_GROUP,
            Self::GatewayClass
            | Self::Gateway
            | Self::ListenerSet
            | Self::TcpRoute
            | Self::UdpRoute
            | Self::HttpRoute
            | Self::TlsRoute
            | Self::ReferenceGrant => GATEWAY_GROUP,
        }
    }

    /// Whether its objects live in namespaces.
    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::GatewayClass | Self::AddressPool)
    }
}

impl From<RouteKind> for Kind {
    fn from(kind: RouteKind) -> Self {
        match kind {
            RouteKind::Tcp => Self::TcpRoute,
            RouteKind::Udp => Self::UdpRoute,
            RouteKind::Http => Self::HttpRoute,
            RouteKind::Tls => Self::TlsRoute,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What identifies one object: there is one of a kind, namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The kind.
    pub kind: Kind,
    /// The namespace; `None` for a kind that has none.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// One object of one of the kinds we take.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A Namespace.
    Namespace(Box<Namespace>),
    /// A GatewayClass.
    GatewayClass(Box<GatewayClass>),
    /// A Gateway.
    Gateway(Box<Gateway>),
    /// A ListenerSet.
    ListenerSet(Box<ListenerSet>),
    /// A TCPRoute.
    TcpRoute(Box<TcpRoute>),
    /// A UDPRoute.
    UdpRoute(Box<UdpRoute>),
    /// An HTTPRoute.
    HttpRoute(Box<HttpRoute>),
    /// A TLSRoute.
    TlsRoute(Box<TlsRoute>),
    /// A ReferenceGrant.
    ReferenceGrant(Box<ReferenceGrant>),
    /// A Secret.
    Secret(Box<Secret>),
    /// A Service.
    Service(Box<Service>),
    /// An EndpointSlice.
    EndpointSlice(Box<EndpointSlice>),
    /// An AddressPool.
    AddressPool(Box<AddressPool>),
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::GatewayClass(_) => Kind::GatewayClass,
            Self::Gateway(_) => Kind::Gateway,
            Self::ListenerSet(_) => Kind::ListenerSet,
            Self::TcpRoute(_) => Kind::TcpRoute,
            Self::UdpRoute(_) => Kind::UdpRoute,
            Self::HttpRoute(_) => Kind::HttpRoute,
            Self::TlsRoute(_) => Kind::TlsRoute,
            Self::ReferenceGrant(_) => Kind::ReferenceGrant,
            Self::Secret(_) => Kind::Secret,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::AddressPool(_) => Kind::AddressPool,
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Namespace(object) => &object.metadata,
            Self::GatewayClass(object) => &object.metadata,
            Self::Gateway(object) => &object.metadata,
            Self::ListenerSet(object) => &object.metadata,
            Self::TcpRoute(object) => &object.metadata,
            Self::UdpRoute(object) => &object.metadata,
            Self::HttpRoute(object) => &object.metadata,
            Self::TlsRoute(object) => &object.metadata,
            Self::ReferenceGrant(object) => &object.metadata,
            Self::Secret(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::EndpointSlice(object) => &object.metadata,
            Self::AddressPool(object) => &object.metadata,
        }
    }

    pub(crate) fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Namespace(object) => &mut object.metadata,
            Self::GatewayClass(object) => &mut object.metadata,
            Self::Gateway(object) => &mut object.metadata,
            Self::ListenerSet(object) => &mut object.metadata,
            Self::TcpRoute(object) => &mut object.metadata,
            Self::UdpRoute(object) => &mut object.metadata,
            Self::HttpRoute(object) => &mut object.metadata,
            Self::TlsRoute(object) => &mut object.metadata,
            Self::ReferenceGrant(object) => &mut object.metadata,
            Self::Secret(object) => &mut object.metadata,
            Self::Service(object) => &mut object.metadata,
            Self::EndpointSlice(object) => &mut object.metadata,
            Self::AddressPool(object) => &mut object.metadata,
        }
    }

    /// What identifies it. A name that is missing reads as empty, and a
    /// namespace that is missing as `default`.
    pub fn key(&self) -> ObjectKey {
        let kind = self.kind();
        let metadata = self.metadata();
        let namespace = metadata.namespace.as_deref().unwrap_or("default");
        ObjectKey {
            kind,
            namespace: kind.is_namespaced().then(|| namespace.to_owned()),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }

    /// Whether both want the same: an API server counts the generation up
    /// where they do not.
    pub(crate) fn same_spec(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Namespace(a), Self::Namespace(b)) => a.spec == b.spec,
            (Self::GatewayClass(a), Self::GatewayClass(b)) => a.spec == b.spec,
            (Self::Gateway(a), Self::Gateway(b)) => a.spec == b.spec,
            (Self::ListenerSet(a), Self::ListenerSet(b)) => a.spec == b.spec,
            (Self::TcpRoute(a), Self::TcpRoute(b)) => a.spec == b.spec,
            (Self::UdpRoute(a), Self::UdpRoute(b)) => a.spec == b.spec,
            (Self::HttpRoute(a), Self::HttpRoute(b)) => a.spec == b.spec,
            (Self::TlsRoute(a), Self::TlsRoute(b)) => a.spec == b.spec,
            (Self::ReferenceGrant(a), Self::ReferenceGrant(b)) => a.spec == b.spec,
            (Self::AddressPool(a), Self::AddressPool(b)) => a.spec == b.spec,
            (Self::Secret(a), Self::Secret(b)) => a.type_ == b.type_ && a.data == b.data,
            (Self::Service(a), Self::Service(b)) => a.spec == b.spec,
            (Self::EndpointSlice(a), Self::EndpointSlice(b)) => {
                a.address_type == b.address_type && a.endpoints == b.endpoints && a.ports == b.ports
            }
            _ => false,
        }
    }
}

macro_rules! from_boxed {
    ($($kind:ident),*) => {$(
        impl From<$kind> for Object {
            fn from(object: $kind) -> Self {
                Self::$kind(Box::new(object))
            }
        }
    )*};
}

from_boxed!(
    Namespace,
    GatewayClass,
    Gateway,
    ListenerSet,
    TcpRoute,
    UdpRoute,
    HttpRoute,
    TlsRoute,
    ReferenceGrant,
    Secret,
    Service,
    EndpointSlice,
    AddressPool
);
