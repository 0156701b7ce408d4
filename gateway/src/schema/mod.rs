//! The schemas of the Gateway API's CRDs, and what an API server does with
//! them: drop nulls, refuse unknown fields, fill in defaults, check types,
//! ranges, patterns and keys.
//!
//! The JSON files beside this one are made of the CRDs of Gateway API v1.6.3,
//! standard channel, and of our own in `manifests/crds`
//! (`gateway/examples/crd_schema.rs` says how), so the rules
//! are those of the CRDs and not our reading of them. The CEL rules in them
//! are done by hand, in `validate`; a test there fails when a rule appears
//! that nobody has done.

mod check;
mod words;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex_lite::Regex;
use serde::{Deserialize, Deserializer};

use crate::object::Kind;

/// What is kept of one CRD.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(test), allow(dead_code, reason = "a test compares them with `Kind`"))]
pub(crate) struct Crd {
    group: String,
    kind: String,
    scope: String,
    versions: Vec<String>,
    pub(crate) spec: Schema,
}

/// The parts of a structural schema that these CRDs use. A keyword that is
/// not here makes reading the file fail, and a test with it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct Schema {
    #[serde(rename = "type")]
    kind: Option<Type>,
    properties: BTreeMap<String, Schema>,
    additional_properties: Option<Box<Schema>>,
    items: Option<Box<Schema>>,
    required: Vec<String>,
    #[serde(rename = "enum")]
    choices: Vec<serde_json::Value>,
    pattern: Option<Pattern>,
    min_length: Option<usize>,
    max_length: Option<usize>,
    minimum: Option<i64>,
    maximum: Option<i64>,
    min_items: Option<usize>,
    max_items: Option<usize>,
    max_properties: Option<usize>,
    default: Option<serde_json::Value>,
    format: Option<String>,
    #[serde(rename = "x-kubernetes-list-map-keys")]
    list_map_keys: Vec<String>,
    #[serde(rename = "x-kubernetes-list-type")]
    list_type: Option<String>,
    #[serde(rename = "x-kubernetes-map-type")]
    map_type: Option<String>,
    /// CEL; see `validate`.
    #[serde(rename = "x-kubernetes-validations")]
    rules: Vec<Rule>,
    /// One place has it, the format of addresses; see `validate`.
    one_of: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Type {
    Object,
    Array,
    String,
    Integer,
    Boolean,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[cfg_attr(not(test), allow(dead_code, reason = "compared with what is done by hand"))]
    rule: String,
}

#[derive(Debug)]
struct Pattern {
    text: String,
    regex: Regex,
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let regex = Regex::new(&text).map_err(serde::de::Error::custom)?;
        Ok(Self { text, regex })
    }
}

static CRDS: LazyLock<BTreeMap<Kind, Crd>> = LazyLock::new(|| {
    [
        (Kind::GatewayClass, include_str!("gatewayclasses.json")),
        (Kind::Gateway, include_str!("gateways.json")),
        (Kind::ListenerSet, include_str!("listenersets.json")),
        (Kind::TcpRoute, include_str!("tcproutes.json")),
        (Kind::UdpRoute, include_str!("udproutes.json")),
        (Kind::HttpRoute, include_str!("httproutes.json")),
        (Kind::TlsRoute, include_str!("tlsroutes.json")),
        (Kind::ReferenceGrant, include_str!("referencegrants.json")),
        (Kind::AddressPool, include_str!("addresspools.json")),
    ]
    .into_iter()
    .map(|(kind, text)| {
        // The text is part of the program, and a test reads each of them.
        #[expect(clippy::expect_used, reason = "the line above proves it")]
        let crd = serde_json::from_str(text).expect("a schema of ours is readable");
        (kind, crd)
    })
    .collect()
});

/// The CRD of a kind, unless it is a core kind.
pub(crate) fn crd(kind: Kind) -> Option<&'static Crd> {
    CRDS.get(&kind)
}

/// The versions of a kind that are served, the preferred one first.
pub(crate) fn versions(kind: Kind) -> Vec<&'static str> {
    crd(kind).map_or_else(|| vec!["v1"], |crd| crd.versions.iter().map(String::as_str).collect())
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::{rules, sample};
