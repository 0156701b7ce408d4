//! ListenerSets, as far as they matter: a Gateway, and listeners that are just
//! like its own.

use blixt_model::ObjectName;
use serde::de::DeserializeOwned;

use crate::GATEWAY_GROUP;
use crate::apis::{GatewayListeners, ListenerSetSpec};

/// What a ListenerSet wants.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SetSpec {
    /// Its Gateway, if it names one.
    pub(crate) gateway: Option<ObjectName>,
    pub(crate) listeners: Vec<GatewayListeners>,
}

impl SetSpec {
    pub(crate) fn new(spec: &ListenerSetSpec, namespace: &str) -> Self {
        let parent = &spec.parent_ref;
        let group = parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
        let kind = parent.kind.as_deref().unwrap_or("Gateway");
        let namespace = parent.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(namespace);
        let is_gateway = (group, kind) == (GATEWAY_GROUP, "Gateway");
        let gateway =
            is_gateway.then(|| ObjectName::new(namespace, parent.name.as_str()).ok()).flatten();
        Self { gateway, listeners: listeners(spec) }
    }
}

/// The generated types differ by their names alone, which a test proves.
pub(crate) fn listeners(spec: &ListenerSetSpec) -> Vec<GatewayListeners> {
    fn same<T: DeserializeOwned>(from: impl serde::Serialize) -> Option<T> {
        serde_json::from_value(serde_json::to_value(from).ok()?).ok()
    }
    spec.listeners.iter().filter_map(same).collect()
}
