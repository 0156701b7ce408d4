//! `AddressPool`, a kind of ours. Its CRD is made of these types; the comments
//! are what `kubectl explain` says.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Addresses that may be given to Gateways, or used as sources by nodes.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[kube(
    group = "blixt.dev",
    version = "v1alpha1",
    kind = "AddressPool",
    plural = "addresspools",
    category = "blixt",
    doc = "Addresses that may be given to Gateways, or used as sources by nodes.",
    status = "AddressPoolStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Use", "type": "string", "jsonPath": ".spec.use"}"#,
    printcolumn = r#"{"name": "Addresses", "type": "string", "jsonPath": ".spec.addresses"}"#,
    printcolumn = r#"{"name": "Used", "type": "integer", "jsonPath": ".status.used"}"#,
    printcolumn = r#"{"name": "Free", "type": "integer", "jsonPath": ".status.free"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct AddressPoolSpec {
    /// What the addresses are for. VIP: Gateways listen on them. SNAT: nodes send
    /// packets to endpoints from them, and do nothing else with them.
    #[serde(rename = "use", default)]
    pub r#use: PoolUse,
    /// The addresses: networks (192.0.2.0/28, 2001:db8::/120), ranges
    /// (192.0.2.10-192.0.2.20) and single ones. All of a network are given out, its
    /// first and last address too. Nobody else may have them.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 79), regex(pattern = ADDRESSES)))]
    pub addresses: Vec<String>,
    /// Whether Gateways that ask for no address in particular get one of these.
    /// Without, these are only for Gateways that name them.
    #[serde(default = "yes")]
    pub auto_assign: bool,
    /// Gateways in namespaces with these labels may have the addresses; all, if
    /// it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Gateways with these labels may have the addresses; all, if it is left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_selector: Option<LabelSelector>,
    /// Nodes with these labels send from the addresses; all, if it is left out.
    /// Of pools with use SNAT only: a node needs addresses of its own network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
}

/// What looks like one of these; `AddressRange` says what is one.
const ADDRESSES: &str = "^ *[0-9A-Fa-f.:]+ *(/[0-9]{1,3}|- *[0-9A-Fa-f.:]+ *)?$";

fn yes() -> bool {
    true
}

/// What the addresses of a pool are for.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum PoolUse {
    /// Gateways listen on them.
    #[default]
    #[serde(rename = "VIP")]
    Vip,
    /// Nodes send from them.
    #[serde(rename = "SNAT")]
    Snat,
}

/// What became of the pool.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressPoolStatus {
    /// How many addresses are given out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<i64>,
    /// How many are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free: Option<i64>,
    /// Which node sends from which of the addresses; of pools with use SNAT only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<AddressPoolStatusNode>>,
    /// Accepted: whether all of its addresses can be given out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}

/// A node, and what it has of the pool.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressPoolStatusNode {
    /// The node's name.
    pub name: String,
    /// The addresses that it sends from.
    pub addresses: Vec<String>,
}
