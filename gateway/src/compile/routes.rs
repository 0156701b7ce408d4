//! Which routes attach to which listeners, and which of them gets a
//! listener's traffic.

use std::collections::BTreeMap;

use blixt_model::{ObjectName, RouteId};

use super::gateways::{Gateway, Gateways};
use super::listeners::Listener;
use crate::GATEWAY_GROUP;
use crate::index::{Index, Stored};
use crate::route::{ParentRef, RouteSpec};
use crate::status::reason;

/// The routes that refer to Gateways of ours.
pub(super) struct Attachments<'a>(BTreeMap<&'a RouteId, Attached<'a>>);

/// One such route.
pub(super) struct Attached<'a> {
    pub(super) stored: &'a Stored<RouteSpec>,
    /// Its references to Gateways of ours, in the order of the spec.
    pub(super) parents: Vec<Parent<'a>>,
}

/// One reference to a Gateway of ours.
pub(super) struct Parent<'a> {
    pub(super) parent_ref: &'a ParentRef,
    pub(super) gateway: &'a ObjectName,
    pub(super) outcome: Outcome,
}

/// What became of a reference.
pub(super) enum Outcome {
    /// The positions of the listeners that took the route; at least one.
    Attached(Vec<usize>),
    /// None did: reason and message.
    Refused(&'static str, String),
}

impl<'a> Attachments<'a> {
    /// In the order of their identities.
    pub(super) fn routes(&self) -> impl Iterator<Item = (&'a RouteId, &Attached<'a>)> {
        self.0.iter().map(|(&id, attached)| (id, attached))
    }
}

/// Attaches all routes, and notes at each listener who came and who won.
pub(super) fn attach<'a>(index: &'a Index, gateways: &mut Gateways<'a>) -> Attachments<'a> {
    let mut attachments = BTreeMap::new();
    for (id, stored) in index.routes() {
        let mut parents = Vec::new();
        for parent_ref in &stored.spec.parents {
            let Some(name) = gateway_of(parent_ref, id.name.namespace()) else { continue };
            let Some((&name, gateway)) = gateways.get_key_value(&name) else { continue };
            let outcome = attach_to(id, parent_ref, name, gateway, index);
            if let (Outcome::Attached(positions), Some(gateway)) =
                (&outcome, gateways.get_mut(name))
            {
                for &position in positions {
                    if let Some(listener) = gateway.listeners.get_mut(position) {
                        listener.attached.insert(id.clone());
                    }
                }
            }
            parents.push(Parent { parent_ref, gateway: name, outcome });
        }
        if !parents.is_empty() {
            attachments.insert(id, Attached { stored, parents });
        }
    }
    for gateway in gateways.values_mut() {
        for listener in &mut gateway.listeners {
            listener.winner = oldest(listener, index).cloned();
        }
    }
    Attachments(attachments)
}

/// The Gateway that a reference means, if it means one.
pub(crate) fn gateway_of(parent: &ParentRef, namespace: &str) -> Option<ObjectName> {
    let group = parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let namespace = parent.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(namespace);
    if (group, kind) != (GATEWAY_GROUP, "Gateway") {
        return None;
    }
    ObjectName::new(namespace, parent.name.as_str()).ok()
}

fn attach_to(
    id: &RouteId,
    parent: &ParentRef,
    name: &ObjectName,
    gateway: &Gateway<'_>,
    index: &Index,
) -> Outcome {
    let named: Vec<_> = gateway
        .listeners
        .iter()
        .enumerate()
        .filter(|(_, listener)| is_meant(listener, parent))
        .collect();
    if named.is_empty() {
        return Outcome::Refused(
            reason::NO_MATCHING_PARENT,
            no_such_listener(parent, name, gateway),
        );
    }
    let (mut positions, mut objections) = (Vec::new(), Vec::new());
    for (position, listener) in named {
        match objection(id, listener, name, index) {
            None => positions.push(position),
            Some(objection) => objections.push(objection),
        }
    }
    if positions.is_empty() {
        let message =
            format!("Gateway {name} does not take this route: {}.", objections.join("; "));
        return Outcome::Refused(reason::NOT_ALLOWED_BY_LISTENERS, message);
    }
    Outcome::Attached(positions)
}

fn is_meant(listener: &Listener<'_>, parent: &ParentRef) -> bool {
    let section = parent.section_name.as_deref().filter(|section| !section.is_empty());
    section.is_none_or(|section| section == listener.spec.name)
        && parent.port.is_none_or(|port| port == listener.spec.port)
}

fn no_such_listener(parent: &ParentRef, name: &ObjectName, gateway: &Gateway<'_>) -> String {
    let mut wanted = Vec::new();
    wanted.extend(parent.section_name.as_ref().map(|section| format!("named {section:?}")));
    wanted.extend(parent.port.map(|port| format!("on port {port}")));
    let there: Vec<_> = gateway
        .listeners
        .iter()
        .map(|listener| format!("{} on port {}", listener.spec.name, listener.spec.port))
        .collect();
    format!("Gateway {name} has no listener {}: it has {}.", wanted.join(" "), there.join(", "))
}

/// Why a listener does not take a route. Whether the listener is good for
/// anything else plays no part in it (Gateway API, `attachedRoutes`).
fn objection(
    id: &RouteId,
    listener: &Listener<'_>,
    gateway: &ObjectName,
    index: &Index,
) -> Option<String> {
    let name = &listener.spec.name;
    if !listener.kinds.contains(&id.kind) {
        let kinds: Vec<_> = listener.kinds.iter().map(ToString::to_string).collect();
        let kinds = if kinds.is_empty() { "no routes".to_owned() } else { kinds.join(", ") };
        return Some(format!("listener {name} ({}) takes {kinds}", listener.spec.protocol));
    }
    let namespace = id.name.namespace();
    let Some(allowed) = &listener.namespaces else {
        return Some(format!("the namespace selector of listener {name} can't be read"));
    };
    (!allowed.allow(namespace, gateway.namespace(), index)).then(|| {
        format!("allowedRoutes.namespaces of listener {name} does not allow namespace {namespace}")
    })
}

/// The route that was there first has the listener.
fn oldest<'l>(listener: &'l Listener<'_>, index: &Index) -> Option<&'l RouteId> {
    let known = listener.attached.iter().filter_map(|id| Some((id, index.routes().get(id)?)));
    known
        .min_by(|(id, route), (other_id, other)| route.before(id, other, other_id))
        .map(|(id, _)| id)
}
