//! The types of the objects we read, one family of one version: what the
//! `gateway-api` crate has, TCPRoute and UDPRoute generated beside it by the
//! same generator, the core kinds of `k8s-openapi`, and our own.
//!
//! That they know every field of the CRDs is tested in `schema`.

pub use gateway_api::gatewayclasses::{
    GatewayClass, GatewayClassSpec, GatewayClassStatus, GatewayClassStatusSupportedFeatures,
};
pub use gateway_api::gateways::{
    Gateway, GatewayAddresses, GatewayAllowedListeners, GatewayAllowedListenersNamespacesFrom,
    GatewayListeners, GatewayListenersAllowedRoutes, GatewayListenersAllowedRoutesNamespacesFrom,
    GatewayListenersTlsCertificateRefs, GatewayListenersTlsMode, GatewaySpec, GatewayStatus,
    GatewayStatusAddresses, GatewayStatusListeners, GatewayStatusListenersSupportedKinds,
    GatewayTls,
};
pub use gateway_api::httproutes::{
    HttpRoute, HttpRouteParentRefs, HttpRouteRules, HttpRouteRulesBackendRefs,
    HttpRouteRulesMatches, HttpRouteRulesMatchesPathType, HttpRouteSpec, HttpRouteStatus,
    HttpRouteStatusParents, HttpRouteStatusParentsParentRef,
};
pub use gateway_api::listenersets::{
    ListenerSet, ListenerSetListeners, ListenerSetSpec, ListenerSetStatus,
    ListenerSetStatusListeners, ListenerSetStatusListenersSupportedKinds,
};
pub use gateway_api::referencegrants::{ReferenceGrant, ReferenceGrantSpec};
pub use gateway_api::tlsroutes::{
    TlsRoute, TlsRouteParentRefs, TlsRouteRules, TlsRouteRulesBackendRefs, TlsRouteSpec,
    TlsRouteStatus, TlsRouteStatusParents, TlsRouteStatusParentsParentRef,
};
pub use k8s_openapi::api::core::v1::{Namespace, Service, ServiceSpec};
pub use k8s_openapi::api::discovery::v1::EndpointSlice;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    Condition, LabelSelector, LabelSelectorRequirement, ObjectMeta, Time,
};

mod addresspools;
mod gatewayconfigs;

pub use addresspools::{
    AddressPool, AddressPoolSpec, AddressPoolStatus, AddressPoolStatusNode, PoolUse,
};
pub use gatewayconfigs::{
    Forwarding, GatewayConfig, GatewayConfigInterfaces, GatewayConfigSnatPorts, GatewayConfigSpec,
    GatewayConfigStatus, GatewayConfigTimeouts,
};

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
mod tcproutes;
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
mod udproutes;

pub use tcproutes::{
    TcpRoute, TcpRouteParentRefs, TcpRouteRules, TcpRouteRulesBackendRefs, TcpRouteSpec,
    TcpRouteStatus, TcpRouteStatusParents, TcpRouteStatusParentsParentRef,
};
pub use udproutes::{
    UdpRoute, UdpRouteParentRefs, UdpRouteRules, UdpRouteRulesBackendRefs, UdpRouteSpec,
    UdpRouteStatus, UdpRouteStatusParents, UdpRouteStatusParentsParentRef,
};

mod secrets;

pub use secrets::Secret;
