//! `GatewayConfig`, a kind of ours. Its CRD is made of these types; the comments
//! are what `kubectl explain` says.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How Gateways are served: what parametersRef of a GatewayClass or of a Gateway
/// refers to.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[kube(
    group = "blixt.dev",
    version = "v1alpha1",
    kind = "GatewayConfig",
    plural = "gatewayconfigs",
    category = "blixt",
    namespaced,
    doc = "How Gateways are served: what parametersRef of a GatewayClass or of a Gateway refers to.",
    status = "GatewayConfigStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Forwarding", "type": "string", "jsonPath": ".spec.forwarding"}"#,
    printcolumn = r#"{"name": "Used-By", "type": "string", "jsonPath": ".status.usedBy"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct GatewayConfigSpec {
    /// How packets reach endpoints. NAT: with another source and destination
    /// address, both ways. There is no other way yet.
    #[serde(default)]
    pub forwarding: Forwarding,
    /// How long flows without a packet are kept. Holds on all nodes, so it is for
    /// the GatewayConfig of a GatewayClass, like all fields below. Takes effect at
    /// once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<GatewayConfigTimeouts>,
    /// Slots of each Maglev table; 100 for each endpoint of a Service keep shares
    /// within 1 %. One of 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521,
    /// 65537 (what it is without this), 131071 and 262139. Takes effect at once, on
    /// all nodes: open connections stay, new ones may choose others. Each Service
    /// port takes two bytes for each slot, each listener one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": MAGLEV_RULE,
        "message": "use one of the primes 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, \
            65537, 131071, 262139"
    }]))]
    pub maglev_size: Option<i32>,
    /// Flows that each worker of an agent can hold; 262144 without this. A flow
    /// takes 118 bytes, and all of them together no more than half of what a node
    /// has left. An agent takes it up when it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 16_777_216))]
    pub flow_capacity: Option<i32>,
    /// Ports that are used of each SNAT address; 1024 to 65535 without this. An
    /// agent takes it up when it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snat_ports: Option<GatewayConfigSnatPorts>,
    /// The interfaces that agents attach to. An agent takes it up when it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interfaces: Option<GatewayConfigInterfaces>,
}

const MAGLEV_RULE: &str =
    "self in [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 65537, 131071, 262139]";

/// How packets reach endpoints.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum Forwarding {
    /// With another source and destination address.
    #[default]
    #[serde(rename = "NAT")]
    Nat,
}

const TIME: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
const TIME_RULE: &str = "duration(self) >= duration('1s') && duration(self) <= duration('288h')";

/// How long flows without a packet are kept: times such as 90s, 5m or 2h4m, from
/// 1s to 288h.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayConfigTimeouts {
    /// An open TCP connection; 2h4m without this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = TIME), extend("x-kubernetes-validations" = [{"rule": TIME_RULE, "message": "use a time from 1s to 288h"}]))]
    pub tcp_established: Option<String>,
    /// A TCP connection that is opening or closing; 4m without this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = TIME), extend("x-kubernetes-validations" = [{"rule": TIME_RULE, "message": "use a time from 1s to 288h"}]))]
    pub tcp_transitory: Option<String>,
    /// How long an ended TCP connection keeps its SNAT port from being used again
    /// towards the same endpoint; 1m without this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = TIME), extend("x-kubernetes-validations" = [{"rule": TIME_RULE, "message": "use a time from 1s to 288h"}]))]
    pub tcp_rest: Option<String>,
    /// A UDP flow; 5m without this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = TIME), extend("x-kubernetes-validations" = [{"rule": TIME_RULE, "message": "use a time from 1s to 288h"}]))]
    pub udp: Option<String>,
    /// A UDP flow that is a question and at most one answer; 30s without this, and
    /// never more than udp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = TIME), extend("x-kubernetes-validations" = [{"rule": TIME_RULE, "message": "use a time from 1s to 288h"}]))]
    pub udp_query: Option<String>,
}

/// Ports from the first to the last one.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "self.first <= self.last", "message": "the first port must not be behind the last one"}]))]
pub struct GatewayConfigSnatPorts {
    /// The first one.
    #[schemars(range(min = 1, max = 65_535))]
    pub first: i32,
    /// The last one.
    #[schemars(range(min = 1, max = 65_535))]
    pub last: i32,
}

/// What a name of an interface is made of: less than what the kernel allows
/// (`dev_valid_name` in net/core/dev.c), and nothing that it refuses.
const INTERFACE: &str = "^[A-Za-z0-9_-][A-Za-z0-9_.@-]*$";

/// Interfaces by name, by regular expression, or, if neither is given, those of
/// the node's default route.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "!(has(self.names) && has(self.matching))", "message": "give names or matching, not both"}]))]
pub struct GatewayConfigInterfaces {
    /// Their names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    #[schemars(length(min = 1, max = 15), inner(length(min = 1, max = 15), regex(pattern = INTERFACE)))]
    pub names: Option<Vec<String>>,
    /// A regular expression that their whole names match, such as eth.*
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), extend("x-kubernetes-validations" = [{"rule": "''.matches(self) in [true, false]", "message": "use a regular expression such as eth.*"}]))]
    pub matching: Option<String>,
}

/// What became of the GatewayConfig.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayConfigStatus {
    /// What refers to it: "GatewayClass blixt", "Gateway shop/edge".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<Vec<String>>,
    /// Accepted: whether all of it is in force for those who refer to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}
