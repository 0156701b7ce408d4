//! What was refused, as it goes into Events: conditions that say no, and what
//! Gateway API has no condition for.

use std::collections::{BTreeMap, BTreeSet};

use blixt_gateway::status::{Condition, ConditionStatus, ConditionType, reason};
use blixt_gateway::{Compiled, Index, Kind, ObjectKey, warnings_of_served};
use blixt_model::ObjectName;

/// Traffic that nobody takes, or that comes back. (Gateway API has no word
/// for it.)
const GOES_NOWHERE: &str = "TrafficGoesNowhere";

/// One thing that was refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Refusal {
    /// Of whom.
    pub(crate) object: ObjectKey,
    /// Why, as one word.
    pub(crate) reason: &'static str,
    /// Why, and what to do.
    pub(crate) message: String,
}

/// All there are.
pub(crate) fn all(index: &Index, compiled: &Compiled) -> BTreeSet<Refusal> {
    let mut found = Found(BTreeSet::new());
    let status = &compiled.status;
    for (name, class) in &status.classes {
        found.conditions(&cluster(Kind::GatewayClass, name), "", &class.conditions);
    }
    for (name, pool) in &status.pools {
        found.conditions(&cluster(Kind::AddressPool, name), "", &pool.conditions);
    }
    for (name, gateway) in &status.gateways {
        let key = namespaced(Kind::Gateway, name);
        found.conditions(&key, "", &gateway.conditions);
        for listener in &gateway.listeners {
            found.conditions(&key, &format!("Listener {}: ", listener.name), &listener.conditions);
        }
    }
    for (name, set) in &status.sets {
        let key = namespaced(Kind::ListenerSet, name);
        found.conditions(&key, "", &set.conditions);
        for listener in &set.listeners {
            found.conditions(&key, &format!("Listener {}: ", listener.name), &listener.conditions);
        }
    }
    for (id, route) in &status.routes {
        let key = namespaced(id.kind.into(), &id.name);
        for parent in &route.parents {
            let kind = parent.parent_ref.kind.as_deref().unwrap_or("Gateway");
            let place = format!("At {kind} {}: ", parent.parent_ref.name);
            for condition in &parent.conditions {
                // Backends are the same wherever the route is attached.
                let is_of_parent = condition.kind != ConditionType::ResolvedRefs;
                found.condition(&key, if is_of_parent { &place } else { "" }, condition);
            }
        }
    }
    for warning in warnings_of_served(index, compiled) {
        let (object, message) = (warning.object, warning.message);
        found.0.insert(Refusal { object, reason: GOES_NOWHERE, message });
    }
    found.0
}

/// Nodes that can't use the newest tables. What they can't use may be some
/// endpoints alone, so no Gateway says it, and no Gateway alone is meant.
pub(crate) fn of_nodes(
    compiled: &Compiled,
    nodes: &BTreeMap<String, String>,
) -> impl Iterator<Item = Refusal> {
    let classes = compiled.status.classes.keys();
    classes.flat_map(move |class| {
        nodes.iter().map(move |(node, why)| Refusal {
            object: cluster(Kind::GatewayClass, class),
            reason: reason::REFUSED_BY_NODE,
            message: format!("Node {node} can't use the newest tables, and keeps its last: {why}."),
        })
    })
}

struct Found(BTreeSet<Refusal>);

impl Found {
    fn conditions(&mut self, object: &ObjectKey, place: &str, conditions: &[Condition]) {
        for condition in conditions {
            self.condition(object, place, condition);
        }
    }

    fn condition(&mut self, object: &ObjectKey, place: &str, condition: &Condition) {
        if is_refusal(condition) {
            self.0.insert(Refusal {
                object: object.clone(),
                reason: condition.reason,
                message: format!("{place}{}", condition.message),
            });
        }
    }
}

fn is_refusal(condition: &Condition) -> bool {
    let holds = condition.status == ConditionStatus::True;
    match condition.kind {
        // The listener of a conflict says so as not accepted, too.
        ConditionType::Conflicted => false,
        ConditionType::Accepted if condition.reason == reason::OVERLAPS => true,
        ConditionType::Accepted | ConditionType::ResolvedRefs | ConditionType::SupportedVersion => {
            condition.status == ConditionStatus::False
        }
        // What is not done yet, or is told by another condition, is none.
        ConditionType::Programmed => {
            let is_told_elsewhere = matches!(
                condition.reason,
                reason::PENDING
                    | reason::INVALID
                    | reason::PROTOCOL_CONFLICT
                    | reason::HOSTNAME_CONFLICT
                    | reason::NOT_ALLOWED
                    | reason::LISTENERS_NOT_VALID
                    | reason::PARENT_NOT_ACCEPTED
                    | reason::PARENT_NOT_PROGRAMMED
            );
            !holds && !is_told_elsewhere
        }
    }
}

fn cluster(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey { kind, namespace: None, name: name.to_owned() }
}

fn namespaced(kind: Kind, name: &ObjectName) -> ObjectKey {
    let namespace = Some(name.namespace().to_owned());
    ObjectKey { kind, namespace, name: name.name().to_owned() }
}
