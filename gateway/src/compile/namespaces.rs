//! From which namespaces a listener takes routes, and a Gateway ListenerSets.

use crate::apis::{
    GatewayAllowedListeners, GatewayAllowedListenersNamespacesFrom as SetsFrom,
    GatewayListenersAllowedRoutes as AllowedRoutes,
    GatewayListenersAllowedRoutesNamespacesFrom as From, LabelSelector, LabelSelectorRequirement,
};
use crate::compile::selector::Selector;
use crate::index::Index;

/// Every namespace has this label, also one whose object we do not see
/// (`LabelMetadataName` of Kubernetes).
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The same selector as a type of its own: of the generated ones each place has
/// another.
macro_rules! plain {
    ($selector:expr) => {{
        let requirements = $selector.match_expressions.iter().flatten();
        let requirements = requirements.map(|expression| LabelSelectorRequirement {
            key: expression.key.clone(),
            operator: expression.operator.clone(),
            values: expression.values.clone(),
        });
        LabelSelector {
            match_expressions: Some(requirements.collect()),
            match_labels: $selector.match_labels.clone(),
        }
    }};
}

/// From which namespaces something is taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AllowedNamespaces {
    All,
    Same,
    Selected(Selector),
}

impl AllowedNamespaces {
    /// Reads it, or says what is wrong with it.
    pub(super) fn new(allowed: Option<&AllowedRoutes>) -> Result<Self, String> {
        let Some(namespaces) = allowed.and_then(|allowed| allowed.namespaces.as_ref()) else {
            return Ok(Self::Same);
        };
        let here = "allowedRoutes.namespaces";
        match namespaces.from {
            Some(From::All) => Ok(Self::All),
            Some(From::Same) | None => Ok(Self::Same),
            Some(From::Selector) => match &namespaces.selector {
                Some(selector) => Selector::new(&plain!(selector))
                    .map(Self::Selected)
                    .map_err(|why| format!("{here}.selector can't be used: {why}")),
                None => Err(format!("{here}.from is Selector: set {here}.selector too")),
            },
        }
    }

    /// The same for ListenerSets; `None` is none at all, the default.
    pub(super) fn of_sets(
        allowed: Option<&GatewayAllowedListeners>,
    ) -> Result<Option<Self>, String> {
        let Some(namespaces) = allowed.and_then(|allowed| allowed.namespaces.as_ref()) else {
            return Ok(None);
        };
        let here = "allowedListeners.namespaces";
        match namespaces.from {
            Some(SetsFrom::All) => Ok(Some(Self::All)),
            Some(SetsFrom::Same) => Ok(Some(Self::Same)),
            Some(SetsFrom::None) | None => Ok(None),
            Some(SetsFrom::Selector) => match &namespaces.selector {
                Some(selector) => Selector::new(&plain!(selector))
                    .map(|selector| Some(Self::Selected(selector)))
                    .map_err(|why| format!("{here}.selector can't be used: {why}")),
                None => Err(format!("{here}.from is Selector: set {here}.selector too")),
            },
        }
    }

    /// Whether a route of this namespace may attach.
    pub(super) fn allow(&self, route: &str, gateway: &str, index: &Index) -> bool {
        match self {
            Self::All => true,
            Self::Same => route == gateway,
            Self::Selected(selector) => is_selected(selector, route, index),
        }
    }
}

/// Whether a selector selects a namespace.
pub(super) fn is_selected(selector: &Selector, namespace: &str, index: &Index) -> bool {
    let labels = index.namespace_labels(namespace);
    selector.selects(|key| match key {
        NAME_LABEL => Some(namespace),
        _ => labels.and_then(|labels| labels.get(key)).map(String::as_str),
    })
}
