//! What becomes of each object that is ours: conditions without times, and
//! how they go into the objects' own status with times.

mod merge;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use blixt_model::{ObjectName, RouteId, RouteKind};

use crate::plain::plain;
use crate::route::ParentRef;

pub use merge::{
    address_pool, gateway, gateway_class, gateway_config, http_route, listener_set, tcp_route,
    tls_route, udp_route,
};

/// The features of Gateway API that work today, sorted by name as
/// `GatewayClass.status.supportedFeatures` has to be.
pub const SUPPORTED_FEATURES: [&str; 11] = [
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayInfrastructure",
    "GatewayStaticAddresses",
    "ListenerSet",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
    "TLSRouteModeTerminate",
    "UDPRoute",
];

/// The status of every object that is ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statuses {
    /// GatewayClasses with our controller name.
    pub classes: BTreeMap<String, ClassStatus>,
    /// Gateways of these classes.
    pub gateways: BTreeMap<ObjectName, GatewayStatus>,
    /// ListenerSets of these Gateways.
    pub sets: BTreeMap<ObjectName, SetStatus>,
    /// Routes that refer to these Gateways.
    pub routes: BTreeMap<RouteId, RouteStatus>,
    /// All AddressPools.
    pub pools: BTreeMap<String, PoolStatus>,
    /// All GatewayConfigs.
    pub configs: BTreeMap<ObjectName, ConfigStatus>,
}

/// The status of a GatewayConfig.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigStatus {
    /// What refers to it.
    pub used_by: Vec<String>,
    /// Accepted.
    pub conditions: Vec<Condition>,
}

/// The status of an AddressPool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStatus {
    /// How many of its addresses Gateways or nodes have.
    pub used: usize,
    /// How many nobody has.
    pub free: u128,
    /// What nodes have of it.
    pub nodes: BTreeMap<String, Vec<IpAddr>>,
    /// Accepted.
    pub conditions: Vec<Condition>,
}

/// The status of a GatewayClass. Its features are [`SUPPORTED_FEATURES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassStatus {
    /// Accepted, SupportedVersion.
    pub conditions: Vec<Condition>,
}

/// The status of a Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayStatus {
    /// The addresses it has; all are of type IPAddress.
    pub addresses: Vec<IpAddr>,
    /// Accepted, Programmed.
    pub conditions: Vec<Condition>,
    /// One for each listener, in the order of the spec.
    pub listeners: Vec<ListenerStatus>,
    /// How many accepted ListenerSets it has.
    pub attached_sets: usize,
}

/// The status of a ListenerSet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetStatus {
    /// Accepted, Programmed.
    pub conditions: Vec<Condition>,
    /// One for each listener, in the order of the spec; none if it is not
    /// allowed.
    pub listeners: Vec<ListenerStatus>,
}

/// The status of one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// The kinds of route it takes.
    pub supported_kinds: Vec<RouteKind>,
    /// How many accepted routes refer to it.
    pub attached_routes: usize,
    /// Accepted, Programmed, ResolvedRefs, Conflicted.
    pub conditions: Vec<Condition>,
}

/// The status of a route: our part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteStatus {
    /// One for each reference to a Gateway of ours, in the order of the spec.
    pub parents: Vec<RouteParentStatus>,
}

/// The status of a route with respect to one reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteParentStatus {
    /// The reference, as written.
    pub parent_ref: ParentRef,
    /// Our controller name.
    pub controller_name: String,
    /// Accepted, ResolvedRefs.
    pub conditions: Vec<Condition>,
}

/// One condition, without the time since when it is so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What it is about.
    pub kind: ConditionType,
    /// Whether it is so.
    pub status: ConditionStatus,
    /// Why, as one word out of [`reason`].
    pub reason: &'static str,
    /// Why, and what to do.
    pub message: String,
    /// The generation of the object that was looked at.
    pub observed_generation: i64,
}

impl Condition {
    pub(crate) fn new(
        kind: ConditionType,
        status: impl Into<ConditionStatus>,
        reason: &'static str,
        message: impl Into<String>,
        observed_generation: i64,
    ) -> Self {
        let message = plain(&message.into());
        Self { kind, status: status.into(), reason, message, observed_generation }
    }
}

/// What a condition is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The object is good.
    Accepted,
    /// The data plane has it.
    Programmed,
    /// What it refers to is there and may be referred to.
    ResolvedRefs,
    /// The listener and another one want the same.
    Conflicted,
    /// The CRDs of the cluster are of a version we know.
    SupportedVersion,
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accepted => "Accepted",
            Self::Programmed => "Programmed",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::Conflicted => "Conflicted",
            Self::SupportedVersion => "SupportedVersion",
        })
    }
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody knows yet.
    Unknown,
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

impl fmt::Display for ConditionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        })
    }
}

/// The reasons of conditions: Gateway API's, and two of ours.
pub mod reason {
    /// Good.
    pub const ACCEPTED: &str = "Accepted";
    /// The spec asks for parameters that do not exist.
    pub const INVALID_PARAMETERS: &str = "InvalidParameters";
    /// The CRDs are of a version we know.
    pub const SUPPORTED_VERSION: &str = "SupportedVersion";
    /// The CRDs are of a version we do not know.
    pub const UNSUPPORTED_VERSION: &str = "UnsupportedVersion";
    /// Some listeners, or all, can't be served.
    pub const LISTENERS_NOT_VALID: &str = "ListenersNotValid";
    /// An address is of a type we do not have.
    pub const UNSUPPORTED_ADDRESS: &str = "UnsupportedAddress";
    /// The data plane has it.
    pub const PROGRAMMED: &str = "Programmed";
    /// The object is not good.
    pub const INVALID: &str = "Invalid";
    /// Not done yet.
    pub const PENDING: &str = "Pending";
    /// There is no address to give.
    pub const ADDRESS_NOT_ASSIGNED: &str = "AddressNotAssigned";
    /// The address asked for can't be used.
    pub const ADDRESS_NOT_USABLE: &str = "AddressNotUsable";
    /// A node refused the tables. (Gateway API has no word for it.)
    pub const REFUSED_BY_NODE: &str = "RefusedByNode";
    /// No node can serve it now. (Gateway API has no word for it.)
    pub const NO_NODE: &str = "NoNodeServes";
    /// Two pools have addresses in common. (Gateway API has no pools.)
    pub const OVERLAPS: &str = "Overlaps";
    /// The Gateway does not let the ListenerSet in.
    pub const NOT_ALLOWED: &str = "NotAllowed";
    /// The Gateway of the ListenerSet is not accepted.
    pub const PARENT_NOT_ACCEPTED: &str = "ParentNotAccepted";
    /// The Gateway of the ListenerSet is not programmed.
    pub const PARENT_NOT_PROGRAMMED: &str = "ParentNotProgrammed";
    /// The protocol is not served.
    pub const UNSUPPORTED_PROTOCOL: &str = "UnsupportedProtocol";
    /// The value of a field is not supported.
    pub const UNSUPPORTED_VALUE: &str = "UnsupportedValue";
    /// Two listeners want one port with protocols that exclude each other.
    pub const PROTOCOL_CONFLICT: &str = "ProtocolConflict";
    /// Two listeners want one port with one hostname.
    pub const HOSTNAME_CONFLICT: &str = "HostnameConflict";
    /// No other listener wants the same.
    pub const NO_CONFLICTS: &str = "NoConflicts";
    /// All references are good.
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    /// A kind of route that the listener can't take.
    pub const INVALID_ROUTE_KINDS: &str = "InvalidRouteKinds";
    /// A certificate is not there, or can't be used.
    pub const INVALID_CERTIFICATE_REF: &str = "InvalidCertificateRef";
    /// What is referred to is in another namespace, which does not allow it.
    pub const REF_NOT_PERMITTED: &str = "RefNotPermitted";
    /// No listener is for a hostname of the route.
    pub const NO_MATCHING_LISTENER_HOSTNAME: &str = "NoMatchingListenerHostname";
    /// No listener has the name and port that the route asks for.
    pub const NO_MATCHING_PARENT: &str = "NoMatchingParent";
    /// No listener allows the route.
    pub const NOT_ALLOWED_BY_LISTENERS: &str = "NotAllowedByListeners";
}
