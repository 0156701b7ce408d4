//! Which routes attach to which listeners, and which of them gets a
//! listener's traffic.

use std::collections::BTreeMap;

use blixt_model::{Hostname, ObjectName, RouteId};

use super::gateways::Gateways;
use super::listeners::{Fault, Listener, Service};
use super::sets::Sets;
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
    pub(super) parents: Vec<Reference<'a>>,
}

/// One reference to a Gateway of ours, or to a ListenerSet of one.
pub(super) struct Reference<'a> {
    pub(super) parent_ref: &'a ParentRef,
    pub(super) gateway: &'a ObjectName,
    pub(super) outcome: Outcome,
}

/// What became of a reference.
pub(super) enum Outcome {
    /// The positions of the listeners that took the route; at least one. Each
    /// with the hostnames that both are for.
    Attached(Vec<(usize, Vec<Hostname>)>),
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
pub(super) fn attach<'a>(
    index: &'a Index,
    gateways: &mut Gateways<'a>,
    sets: &Sets<'a>,
) -> Attachments<'a> {
    let mut attachments = BTreeMap::new();
    for (id, stored) in index.routes() {
        let mut parents = Vec::new();
        for parent_ref in &stored.spec.parents {
            let Some(parent) = parent_of(parent_ref, id.name.namespace()) else { continue };
            let Some(meant) = Meant::find(&parent, gateways, sets) else { continue };
            let name = meant.gateway;
            let outcome = attach_to(id, &stored.spec, parent_ref, &meant, gateways, index);
            if let (Outcome::Attached(positions), Some(gateway)) =
                (&outcome, gateways.get_mut(name))
            {
                for (position, hostnames) in positions {
                    if let Some(listener) = gateway.listeners.get_mut(*position) {
                        listener.attached.insert(id.clone(), hostnames.clone());
                    }
                }
            }
            parents.push(Reference { parent_ref, gateway: name, outcome });
        }
        if !parents.is_empty() {
            attachments.insert(id, Attached { stored, parents });
        }
    }
    for gateway in gateways.values_mut() {
        for listener in &mut gateway.listeners {
            listener.order = in_order(listener, index);
        }
    }
    Attachments(attachments)
}

/// What a route can refer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parent {
    Gateway(ObjectName),
    Set(ObjectName),
}

/// What a reference means, if it is for us.
pub(crate) fn parent_of(parent: &ParentRef, namespace: &str) -> Option<Parent> {
    let group = parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let namespace = parent.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(namespace);
    let name = ObjectName::new(namespace, parent.name.as_str()).ok()?;
    match (group, kind) {
        (GATEWAY_GROUP, "Gateway") => Some(Parent::Gateway(name)),
        (GATEWAY_GROUP, "ListenerSet") => Some(Parent::Set(name)),
        _ => None,
    }
}

/// What a reference means of ours.
struct Meant<'a> {
    gateway: &'a ObjectName,
    set: Option<&'a ObjectName>,
    /// Whether the Gateway does not let the set in.
    refused: bool,
}

impl<'a> Meant<'a> {
    fn find(parent: &Parent, gateways: &Gateways<'a>, sets: &Sets<'a>) -> Option<Self> {
        Some(match parent {
            Parent::Gateway(name) => {
                let (gateway, _) = gateways.get_key_value(name)?;
                Self { gateway, set: None, refused: false }
            }
            Parent::Set(name) => {
                let (name, set) = sets.get_key_value(name)?;
                Self { gateway: set.gateway, set: Some(name), refused: set.refused.is_some() }
            }
        })
    }

    /// Whose namespace is meant by "the same".
    fn owner(&self) -> &'a ObjectName {
        self.set.unwrap_or(self.gateway)
    }

    fn words(&self) -> String {
        match self.set {
            Some(set) => format!("ListenerSet {set}"),
            None => format!("Gateway {}", self.gateway),
        }
    }
}

fn attach_to(
    id: &RouteId,
    route: &RouteSpec,
    parent: &ParentRef,
    meant: &Meant<'_>,
    gateways: &Gateways<'_>,
    index: &Index,
) -> Outcome {
    if meant.refused {
        let message = format!("{} is not accepted: see its status.", meant.words());
        return Outcome::Refused(reason::NOT_ALLOWED_BY_LISTENERS, message);
    }
    let all = gateways.get(meant.gateway).map(|gateway| gateway.listeners.as_slice());
    let all = all.unwrap_or_default().iter().enumerate();
    let there: Vec<_> = all.filter(|(_, listener)| listener.set == meant.set).collect();
    let named = there.iter().filter(|(_, listener)| is_meant(listener, parent));
    let named: Vec<_> = named.copied().collect();
    if named.is_empty() {
        let message = no_such_listener(parent, meant, &there);
        return Outcome::Refused(reason::NO_MATCHING_PARENT, message);
    }
    let (mut positions, mut objections) = (Vec::new(), Vec::new());
    for (position, listener) in named {
        match takes(id, route, listener, meant.owner(), index) {
            Ok(hostnames) => positions.push((position, hostnames)),
            Err(objection) => objections.push(objection),
        }
    }
    if positions.is_empty() {
        // Of several the one that came closest: the others were not meant.
        let reasons = [reason::UNSUPPORTED_VALUE, reason::NO_MATCHING_LISTENER_HOSTNAME];
        let is_there = |wanted: &&str| objections.iter().any(|(reason, _)| reason == wanted);
        let closest = reasons.into_iter().find(is_there);
        let reason = closest.unwrap_or(reason::NOT_ALLOWED_BY_LISTENERS);
        let texts: Vec<_> = objections.iter().map(|(_, text)| text.as_str()).collect();
        let message = format!("{} does not take this route: {}.", meant.words(), texts.join("; "));
        return Outcome::Refused(reason, message);
    }
    Outcome::Attached(positions)
}

fn is_meant(listener: &Listener<'_>, parent: &ParentRef) -> bool {
    let section = parent.section_name.as_deref().filter(|section| !section.is_empty());
    section.is_none_or(|section| section == listener.spec.name)
        && parent.port.is_none_or(|port| port == listener.spec.port)
}

fn no_such_listener(
    parent: &ParentRef,
    meant: &Meant<'_>,
    there: &[(usize, &Listener<'_>)],
) -> String {
    let mut wanted = Vec::new();
    wanted.extend(parent.section_name.as_ref().map(|section| format!("named {section:?}")));
    wanted.extend(parent.port.map(|port| format!("on port {port}")));
    let there: Vec<_> = there
        .iter()
        .map(|(_, listener)| format!("{} on port {}", listener.spec.name, listener.spec.port))
        .collect();
    let (words, wanted) = (meant.words(), wanted.join(" "));
    format!("{words} has no listener {wanted}: it has {}.", there.join(", "))
}

/// The hostnames that a listener takes a route for; or why it does not. Whether
/// the listener is good for anything else plays no part in it (Gateway API,
/// `attachedRoutes`).
fn takes(
    id: &RouteId,
    route: &RouteSpec,
    listener: &Listener<'_>,
    owner: &ObjectName,
    index: &Index,
) -> Result<Vec<Hostname>, Fault> {
    let name = &listener.spec.name;
    let not_allowed = |why| Err((reason::NOT_ALLOWED_BY_LISTENERS, why));
    if !listener.kinds.contains(&id.kind) {
        let kinds: Vec<_> = listener.kinds.iter().map(ToString::to_string).collect();
        let kinds = if kinds.is_empty() { "no routes".to_owned() } else { kinds.join(", ") };
        return not_allowed(format!("listener {name} ({}) takes {kinds}", listener.spec.protocol));
    }
    let namespace = id.name.namespace();
    let Some(allowed) = &listener.namespaces else {
        return not_allowed(format!("the namespace selector of listener {name} can't be read"));
    };
    if !allowed.allow(namespace, owner.namespace(), index) {
        return not_allowed(format!(
            "allowedRoutes.namespaces of listener {name} does not allow namespace {namespace}"
        ));
    }
    let hostnames = common_hostnames(route, listener)?;
    match &route.unsupported {
        None => Ok(hostnames),
        Some(what) => {
            let why = format!(
                "nobody reads the HTTP that listener {name} carries, so {what} can't be honoured"
            );
            Err((reason::UNSUPPORTED_VALUE, why))
        }
    }
}

/// What a route and a listener are both for (Gateway API, `spec.hostnames`); none
/// is all that the listener is for.
fn common_hostnames(route: &RouteSpec, listener: &Listener<'_>) -> Result<Vec<Hostname>, Fault> {
    let socket = listener.socket.as_ref();
    let streams = socket.filter(|socket| matches!(socket.service, Service::Stream(_)));
    let (Some(socket), false) = (streams, route.hostnames.is_empty()) else {
        return Ok(Vec::new());
    };
    let wanted = route.hostnames.iter().filter_map(|text| text.parse::<Hostname>().ok());
    let mut common: Vec<_> = wanted
        .filter_map(|hostname| match &socket.hostname {
            None => Some(hostname),
            Some(own) => own.intersection(&hostname),
        })
        .collect();
    common.sort();
    common.dedup();
    if common.is_empty() {
        let own = listener.spec.hostname.as_deref().unwrap_or("no hostname that can be used");
        let why =
            format!("listener {} is for {own}, and none of its hostnames is", listener.spec.name);
        return Err((reason::NO_MATCHING_LISTENER_HOSTNAME, why));
    }
    Ok(common)
}

/// The route that was there first comes first.
fn in_order(listener: &Listener<'_>, index: &Index) -> Vec<RouteId> {
    let attached = listener.attached.keys();
    let mut known: Vec<_> = attached.filter_map(|id| Some((id, index.routes().get(id)?))).collect();
    known.sort_by(|(id, route), (other_id, other)| route.before(id, other, other_id));
    known.into_iter().map(|(id, _)| id.clone()).collect()
}
