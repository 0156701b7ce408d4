//! What became of objects and files, in the words of the API: told alike by an
//! agent and by who reads the same files without one.

use blixt_gateway::status::{
    ClassStatus, Condition, GatewayStatus, ListenerStatus, PoolStatus, RouteParentStatus,
    RouteStatus,
};
use blixt_gateway::{Refusal, Statuses, Warning};
use blixt_model::{ObjectName, RouteId};

use crate::v1alpha1;

/// GatewayClasses, by name.
pub fn gateway_classes(statuses: &Statuses) -> Vec<v1alpha1::GatewayClass> {
    statuses.classes.iter().map(|(name, status)| class(name, status)).collect()
}

/// AddressPools, by name.
pub fn address_pools(statuses: &Statuses) -> Vec<v1alpha1::AddressPool> {
    statuses.pools.iter().map(|(name, status)| pool(name, status)).collect()
}

/// Gateways, by namespace and name.
pub fn gateways(statuses: &Statuses) -> Vec<v1alpha1::Gateway> {
    statuses.gateways.iter().map(|(name, status)| gateway(name, status)).collect()
}

/// Routes, by kind, namespace and name.
pub fn routes(statuses: &Statuses) -> Vec<v1alpha1::Route> {
    statuses.routes.iter().map(|(id, status)| route(id, status)).collect()
}

impl From<&Refusal> for v1alpha1::Refusal {
    fn from(refusal: &Refusal) -> Self {
        Self {
            file: refusal.file.clone(),
            line: refusal.line,
            object: refusal.object.as_ref().map(ToString::to_string),
            reason: refusal.reason.clone(),
            last_good_stays: refusal.last_good_stays,
        }
    }
}

impl From<&Warning> for v1alpha1::Warning {
    fn from(warning: &Warning) -> Self {
        Self { object: warning.object.to_string(), message: warning.message.clone() }
    }
}

fn class(name: &str, status: &ClassStatus) -> v1alpha1::GatewayClass {
    v1alpha1::GatewayClass { name: name.to_owned(), conditions: conditions(&status.conditions) }
}

fn pool(name: &str, status: &PoolStatus) -> v1alpha1::AddressPool {
    v1alpha1::AddressPool {
        name: name.to_owned(),
        used: u64::try_from(status.used).unwrap_or(u64::MAX),
        free: u64::try_from(status.free).unwrap_or(u64::MAX),
        conditions: conditions(&status.conditions),
    }
}

fn gateway(name: &ObjectName, status: &GatewayStatus) -> v1alpha1::Gateway {
    v1alpha1::Gateway {
        name: Some(name.into()),
        addresses: status.addresses.iter().map(ToString::to_string).collect(),
        conditions: conditions(&status.conditions),
        listeners: status.listeners.iter().map(listener).collect(),
    }
}

fn listener(status: &ListenerStatus) -> v1alpha1::ListenerStatus {
    v1alpha1::ListenerStatus {
        name: status.name.clone(),
        supported_kinds: status.supported_kinds.iter().map(ToString::to_string).collect(),
        attached_routes: u32::try_from(status.attached_routes).unwrap_or(u32::MAX),
        conditions: conditions(&status.conditions),
    }
}

fn route(id: &RouteId, status: &RouteStatus) -> v1alpha1::Route {
    v1alpha1::Route {
        kind: id.kind.to_string(),
        name: Some((&id.name).into()),
        parents: status.parents.iter().map(|parent| route_parent(id, parent)).collect(),
    }
}

fn route_parent(id: &RouteId, status: &RouteParentStatus) -> v1alpha1::RouteParent {
    let parent = &status.parent_ref;
    let namespace = parent.namespace.as_deref().unwrap_or(id.name.namespace());
    v1alpha1::RouteParent {
        gateway: Some(v1alpha1::ObjectName {
            namespace: namespace.to_owned(),
            name: parent.name.clone(),
        }),
        section_name: parent.section_name.clone(),
        port: parent.port.and_then(|port| u32::try_from(port).ok()),
        conditions: conditions(&status.conditions),
    }
}

fn conditions(conditions: &[Condition]) -> Vec<v1alpha1::Condition> {
    let shown = conditions.iter().map(|condition| v1alpha1::Condition {
        r#type: condition.kind.to_string(),
        status: condition.status.to_string(),
        reason: condition.reason.to_owned(),
        message: condition.message.clone(),
        observed_generation: condition.observed_generation,
    });
    shown.collect()
}
