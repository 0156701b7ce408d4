//! What was judged, as conditions. The messages are for people: what is
//! wrong, where, and what to do.

use std::collections::BTreeMap;

use blixt_model::{Hostname, ObjectName, RouteId};

use super::backends::{Backends, Resolved};
use super::gateways::{Gateway, Gateways};
use super::listeners::Listener;
use super::routes::{Attached, Attachments, Outcome, Reference};
use super::sets::{Set, Sets};
use super::{Environment, Programming};
use crate::status::{
    Condition, ConditionType, GatewayStatus, ListenerStatus, RouteParentStatus, RouteStatus,
    SetStatus, reason,
};

/// The status of every Gateway of ours.
pub(super) fn gateways(
    gateways: &Gateways<'_>,
    sets: &Sets<'_>,
) -> BTreeMap<ObjectName, GatewayStatus> {
    let attached = |name: &ObjectName, gateway: &Gateway<'_>| {
        let of_it = sets.iter().filter(|(_, set)| set.gateway == name);
        of_it.filter(|(set_name, set)| set_accepted(set_name, set, gateway).0).count()
    };
    let status = |name: &ObjectName, gateway: &Gateway<'_>| GatewayStatus {
        addresses: if gateway.is_accepted() || gateway.is_served() {
            gateway.addresses.assigned.clone()
        } else {
            Vec::new()
        },
        conditions: vec![accepted(gateway), programmed(gateway)],
        listeners: gateway
            .own_listeners()
            .map(|l| listener(l, gateway, gateway.stored.generation))
            .collect(),
        attached_sets: attached(name, gateway),
    };
    gateways.iter().map(|(&name, gateway)| (name.clone(), status(name, gateway))).collect()
}

/// The status of every ListenerSet of these Gateways.
pub(super) fn sets(gateways: &Gateways<'_>, sets: &Sets<'_>) -> BTreeMap<ObjectName, SetStatus> {
    let status = |name: &ObjectName, set: &Set<'_>| {
        let gateway = gateways.get(set.gateway)?;
        let generation = set.stored.generation;
        let (holds, why, message) = set_accepted(name, set, gateway);
        let accepted = Condition::new(ConditionType::Accepted, holds, why, message, generation);
        let (holds, why, message) = match holds {
            true => set_programmed(set, gateway),
            false => (false, why, "It is not accepted: see the condition Accepted.".to_owned()),
        };
        let programmed = Condition::new(ConditionType::Programmed, holds, why, message, generation);
        Some(SetStatus {
            conditions: vec![accepted, programmed],
            listeners: gateway
                .listeners_of(name)
                .map(|l| listener(l, gateway, generation))
                .collect(),
        })
    };
    sets.iter().filter_map(|(&name, set)| Some((name.clone(), status(name, set)?))).collect()
}

fn set_accepted(
    name: &ObjectName,
    set: &Set<'_>,
    gateway: &Gateway<'_>,
) -> (bool, &'static str, String) {
    if let Some(refused) = &set.refused {
        return (false, reason::NOT_ALLOWED, refused.clone());
    }
    if gateway.asks_too_much() {
        let message = format!("Gateway {} is not accepted: see its status.", set.gateway);
        return (false, reason::PARENT_NOT_ACCEPTED, message);
    }
    listeners_accepted(gateway.listeners_of(name))
}

/// Whether some of these can be served; and which can't.
fn listeners_accepted<'l>(
    listeners: impl Iterator<Item = &'l Listener<'l>>,
) -> (bool, &'static str, String) {
    let (mut any, mut faulty) = (false, Vec::new());
    for listener in listeners {
        any |= listener.served().is_some();
        let fault = listener.fault();
        faulty.extend(fault.map(|fault| format!("{} ({fault})", listener.spec.name)));
    }
    let faulty = faulty.join(", ");
    if !any {
        let message = format!("No listener can be served: {faulty}. See their status.");
        (false, reason::LISTENERS_NOT_VALID, message)
    } else if !faulty.is_empty() {
        let message = format!("Some listeners can't be served: {faulty}. See their status.");
        (true, reason::LISTENERS_NOT_VALID, message)
    } else {
        (true, reason::ACCEPTED, "All listeners are good.".to_owned())
    }
}

fn set_programmed(set: &Set<'_>, gateway: &Gateway<'_>) -> (bool, &'static str, String) {
    let addresses = &gateway.addresses;
    if !addresses.unusable.is_empty() || addresses.none_given.is_some() {
        let message = format!("Gateway {} has no address: see its status.", set.gateway);
        return (false, reason::PARENT_NOT_PROGRAMMED, message);
    }
    from_data_plane(&gateway.programming)
}

/// The status of every route that refers to a Gateway of ours.
pub(super) fn routes(
    attachments: &Attachments<'_>,
    gateways: &Gateways<'_>,
    resolved: &Resolved<'_>,
    environment: &Environment<'_>,
) -> BTreeMap<RouteId, RouteStatus> {
    let status = |id: &RouteId, attached: &Attached<'_>| {
        let generation = attached.stored.generation;
        let parents = attached.parents.iter().map(|parent| RouteParentStatus {
            parent_ref: parent.parent_ref.clone(),
            controller_name: environment.controller_name.to_owned(),
            conditions: vec![
                route_accepted(id, parent, gateways, generation),
                route_resolved(resolved.get(id), generation),
            ],
        });
        RouteStatus { parents: parents.collect() }
    };
    attachments.routes().map(|(id, attached)| (id.clone(), status(id, attached))).collect()
}

fn accepted(gateway: &Gateway<'_>) -> Condition {
    let (holds, reason, message) = if let Some(why) = &gateway.bad_parameters {
        let meanwhile = match gateway.is_served() {
            true => " Meanwhile it is served as if it had no parameters.",
            false => "",
        };
        let message = format!("spec.infrastructure.parametersRef: {why}.{meanwhile}");
        (false, reason::INVALID_PARAMETERS, message)
    } else if !gateway.addresses.unsupported.is_empty() {
        let unsupported = gateway.addresses.unsupported.join(", ");
        let message =
            format!("Addresses of this type are not served: {unsupported}. Use IPAddress.");
        (false, reason::UNSUPPORTED_ADDRESS, message)
    } else {
        let (holds, reason, message) = listeners_accepted(gateway.own_listeners());
        // The listeners of a ListenerSet can be good all the same.
        (holds || gateway.is_accepted(), reason, message)
    };
    Condition::new(ConditionType::Accepted, holds, reason, message, gateway.stored.generation)
}

fn programmed(gateway: &Gateway<'_>) -> Condition {
    let (status, reason, message) = gateway_programmed(gateway);
    Condition::new(ConditionType::Programmed, status, reason, message, gateway.stored.generation)
}

fn gateway_programmed(gateway: &Gateway<'_>) -> (bool, &'static str, String) {
    let addresses = &gateway.addresses;
    // With some addresses there is traffic, and that should be known.
    let meanwhile = if gateway.is_served() {
        let assigned: Vec<_> = addresses.assigned.iter().map(ToString::to_string).collect();
        format!(" Meanwhile it is served on {}.", assigned.join(", "))
    } else {
        String::new()
    };
    if !gateway.is_accepted() {
        let message = "The Gateway is not accepted: see the condition Accepted.".to_owned();
        (false, reason::INVALID, message)
    } else if !addresses.unusable.is_empty() {
        let message = format!("{}.{meanwhile}", addresses.unusable.join("; "));
        (false, reason::ADDRESS_NOT_USABLE, message)
    } else if let Some(why) = &addresses.none_given {
        let message = format!("{why}.{meanwhile}");
        (false, reason::ADDRESS_NOT_ASSIGNED, message)
    } else {
        from_data_plane(&gateway.programming)
    }
}

fn from_data_plane(programming: &Programming) -> (bool, &'static str, String) {
    match programming {
        Programming::Applied => (
            true,
            reason::PROGRAMMED,
            "All nodes that carry the Gateway have applied it.".to_owned(),
        ),
        Programming::Pending => (
            false,
            reason::PENDING,
            "Waiting for the nodes that carry the Gateway to apply it.".to_owned(),
        ),
        Programming::NoAgent => (
            false,
            reason::PENDING,
            "No agent is connected to the controller, so no node carries the Gateway: see that the \
             DaemonSet blixt-agent runs."
                .to_owned(),
        ),
        Programming::NoNode { why } => (false, reason::NO_NODE, why.clone()),
        Programming::AddressTaken { node, reason } => {
            (false, reason::ADDRESS_NOT_USABLE, format!("On node {node} {reason}."))
        }
        Programming::Refused { node, reason } => {
            (false, reason::REFUSED_BY_NODE, format!("Node {node} can't apply it: {reason}."))
        }
    }
}

fn listener(listener: &Listener<'_>, gateway: &Gateway<'_>, generation: i64) -> ListenerStatus {
    ListenerStatus {
        name: listener.spec.name.clone(),
        supported_kinds: listener.kinds.clone(),
        attached_routes: listener.attached.len(),
        conditions: vec![
            listener_accepted(listener, generation),
            listener_programmed(listener, gateway, generation),
            listener_resolved(listener, generation),
            listener_conflicted(listener, generation),
        ],
    }
}

fn listener_accepted(listener: &Listener<'_>, generation: i64) -> Condition {
    let (holds, reason, message) = match (&listener.conflict, &listener.rejected) {
        (Some((reason, message)), _) | (None, Some((reason, message))) => {
            (false, *reason, message.clone())
        }
        (None, None) => (true, reason::ACCEPTED, "The listener is good.".to_owned()),
    };
    Condition::new(ConditionType::Accepted, holds, reason, message, generation)
}

fn listener_programmed(
    listener: &Listener<'_>,
    gateway: &Gateway<'_>,
    generation: i64,
) -> Condition {
    let see = |condition: &str| format!("It can't be served: see the condition {condition}.");
    let (status, reason, message) = if let Some((reason, _)) = &listener.conflict {
        (false, *reason, see("Conflicted"))
    } else if listener.rejected.is_some() {
        (false, reason::INVALID, see("Accepted"))
    } else if listener.served().is_none() {
        (false, reason::INVALID, see("ResolvedRefs"))
    } else if !gateway.is_accepted() {
        let message = "The Gateway is not accepted: see its condition Accepted.".to_owned();
        (false, reason::INVALID, message)
    } else if gateway.addresses.assigned.is_empty() {
        let message = "The Gateway has no address: see its condition Programmed.".to_owned();
        (false, reason::PENDING, message)
    } else {
        from_data_plane(&gateway.programming)
    };
    Condition::new(ConditionType::Programmed, status, reason, message, generation)
}

fn listener_resolved(listener: &Listener<'_>, generation: i64) -> Condition {
    let (status, reason, message) = if !listener.invalid_kinds.is_empty() {
        let message = invalid_kinds(listener);
        (false, reason::INVALID_ROUTE_KINDS, message)
    } else if let Some((reason, message)) = &listener.unresolved {
        let meanwhile = match listener.served() {
            Some(_) if listener.lacks_some => " It is served with the others.",
            _ => "",
        };
        (false, *reason, format!("{message}{meanwhile}"))
    } else {
        (true, reason::RESOLVED_REFS, "All references are good.".to_owned())
    };
    Condition::new(ConditionType::ResolvedRefs, status, reason, message, generation)
}

fn invalid_kinds(listener: &Listener<'_>) -> String {
    let protocol = &listener.spec.protocol;
    let invalid = listener.invalid_kinds.join(", ");
    if matches!(listener.rejected, Some((reason::UNSUPPORTED_PROTOCOL, _))) {
        return format!("Neither protocol {protocol} nor {invalid} is served.");
    }
    let valid: Vec<_> = listener.kinds.iter().map(ToString::to_string).collect();
    let meanwhile = if valid.is_empty() {
        String::new()
    } else {
        format!(" It takes {} all the same.", valid.join(", "))
    };
    format!(
        "A listener of protocol {protocol} can't take {invalid}: remove it from \
         allowedRoutes.kinds.{meanwhile}"
    )
}

fn listener_conflicted(listener: &Listener<'_>, generation: i64) -> Condition {
    let (holds, reason, message) = match &listener.conflict {
        Some((reason, message)) => (true, *reason, message.clone()),
        None => (false, reason::NO_CONFLICTS, "No other listener wants the same.".to_owned()),
    };
    Condition::new(ConditionType::Conflicted, holds, reason, message, generation)
}

fn route_accepted(
    id: &RouteId,
    parent: &Reference<'_>,
    gateways: &Gateways<'_>,
    generation: i64,
) -> Condition {
    let (holds, reason, message) = match &parent.outcome {
        Outcome::Refused(reason, message) => (false, *reason, message.clone()),
        Outcome::Attached(positions) => {
            let message = match gateways.get(parent.gateway) {
                Some(gateway) => attached(id, positions, gateway),
                None => String::new(),
            };
            (true, reason::ACCEPTED, message)
        }
    };
    Condition::new(ConditionType::Accepted, holds, reason, message, generation)
}

/// Accepted is not the same as having traffic: says where it has none.
fn attached(id: &RouteId, positions: &[(usize, Vec<Hostname>)], gateway: &Gateway<'_>) -> String {
    let listeners = positions.iter().filter_map(|(position, _)| gateway.listeners.get(*position));
    let mut names = Vec::new();
    let mut message = String::new();
    for listener in listeners {
        let name = &listener.spec.name;
        names.push(name.as_str());
        match listener.rival(id) {
            Some(rival) => message.push_str(&format!(
                " Listener {name} sends no traffic here: {rival} was there first."
            )),
            _ if listener.served().is_none() || !gateway.is_served() => {
                message.push_str(&format!(" Listener {name} is not served: see the Gateway."));
            }
            _ => {}
        }
    }
    format!("Attached to {}.{message}", names.join(", "))
}

fn route_resolved(backends: Option<&Backends>, generation: i64) -> Condition {
    let reason = backends.and_then(Backends::reason);
    let problems = backends.map(|backends| backends.problems.as_slice()).unwrap_or_default();
    let (reason, message) = match reason {
        Some(reason) => {
            let problems: Vec<_> = problems.iter().map(|(_, problem)| problem.as_str()).collect();
            let message = format!("Their share is refused: {}.", problems.join("; "));
            (reason.as_str(), message)
        }
        None => (reason::RESOLVED_REFS, "All backends are known.".to_owned()),
    };
    let holds = problems.is_empty();
    Condition::new(ConditionType::ResolvedRefs, holds, reason, message, generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_find_what_is_said_of_a_gateway_on_their_page() {
        let page = include_str!("../../../docs/operations.md");
        let taken = Programming::AddressTaken {
            node: "worker-2".to_owned(),
            reason: "192.0.2.7 is the node's own address on br0: use one that no node has"
                .to_owned(),
        };
        let refused = Programming::Refused {
            node: "worker-2".to_owned(),
            reason: "gateway shop/edge has the address 192.0.2.7, which is given as --snat-address"
                .to_owned(),
        };
        for programming in [Programming::Pending, Programming::NoAgent, taken, refused] {
            let (holds, reason, message) = from_data_plane(&programming);
            let line = format!("\n    Programmed=False {reason}: {message}\n");
            assert!(!holds && page.contains(&line), "{line}");
        }
    }
}
