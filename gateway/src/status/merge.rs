//! Our status into the status that an object has: times are kept where
//! nothing changed, and what others wrote stays.

use crate::GATEWAY_GROUP;
use crate::apis::{
    AddressPoolStatus, AddressPoolStatusNode, Condition, GatewayClassStatus,
    GatewayClassStatusSupportedFeatures, GatewayStatus, GatewayStatusAddresses,
    GatewayStatusListeners, GatewayStatusListenersSupportedKinds, HttpRouteStatus,
    HttpRouteStatusParents, ListenerSetStatus, ListenerSetStatusListeners,
    ListenerSetStatusListenersSupportedKinds, TcpRouteStatus, TcpRouteStatusParents, Time,
    TlsRouteStatus, TlsRouteStatusParents, UdpRouteStatus, UdpRouteStatusParents,
};
use crate::status::{self, RouteStatus, SUPPORTED_FEATURES};

/// `maxLength` of `Condition.message`.
const MAX_MESSAGE_BYTES: usize = 32_768;

/// The status a GatewayClass should have. Equal to the one it has if there is
/// nothing to write.
pub fn gateway_class(
    existing: Option<&GatewayClassStatus>,
    wanted: &status::ClassStatus,
    now: &Time,
) -> GatewayClassStatus {
    let existing = existing.cloned().unwrap_or_default();
    let features = SUPPORTED_FEATURES
        .iter()
        .map(|&name| GatewayClassStatusSupportedFeatures { name: name.to_owned() });
    GatewayClassStatus {
        conditions: Some(conditions(existing.conditions.as_deref(), &wanted.conditions, now)),
        supported_features: Some(features.collect()),
    }
}

/// The status an AddressPool should have. Equal to the one it has if there is
/// nothing to write.
pub fn address_pool(
    existing: Option<&AddressPoolStatus>,
    wanted: &status::PoolStatus,
    now: &Time,
) -> AddressPoolStatus {
    let existing = existing.and_then(|existing| existing.conditions.as_deref());
    let nodes = wanted.nodes.iter().map(|(name, addresses)| AddressPoolStatusNode {
        name: name.clone(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
    });
    AddressPoolStatus {
        used: Some(i64::try_from(wanted.used).unwrap_or(i64::MAX)),
        free: Some(i64::try_from(wanted.free).unwrap_or(i64::MAX)),
        nodes: (!wanted.nodes.is_empty()).then(|| nodes.collect()),
        conditions: Some(conditions(existing, &wanted.conditions, now)),
    }
}

/// The status a Gateway should have. Equal to the one it has if there is
/// nothing to write.
pub fn gateway(
    existing: Option<&GatewayStatus>,
    wanted: &status::GatewayStatus,
    now: &Time,
) -> GatewayStatus {
    let existing = existing.cloned().unwrap_or_default();
    let old_listeners = existing.listeners.unwrap_or_default();
    let listeners = wanted.listeners.iter().map(|listener| {
        let old = old_listeners.iter().find(|old| old.name == listener.name);
        GatewayStatusListeners {
            attached_routes: i32::try_from(listener.attached_routes).unwrap_or(i32::MAX),
            conditions: conditions(
                old.map(|old| old.conditions.as_slice()),
                &listener.conditions,
                now,
            ),
            name: listener.name.clone(),
            supported_kinds: Some(
                listener
                    .supported_kinds
                    .iter()
                    .map(|kind| GatewayStatusListenersSupportedKinds {
                        group: Some(GATEWAY_GROUP.to_owned()),
                        kind: kind.to_string(),
                    })
                    .collect(),
            ),
        }
    });
    let addresses = wanted.addresses.iter().map(|address| GatewayStatusAddresses {
        r#type: Some("IPAddress".to_owned()),
        value: address.to_string(),
    });
    GatewayStatus {
        addresses: Some(addresses.collect()).filter(|addresses: &Vec<_>| !addresses.is_empty()),
        attached_listener_sets: i32::try_from(wanted.attached_sets).ok().filter(|sets| *sets > 0),
        conditions: Some(conditions(existing.conditions.as_deref(), &wanted.conditions, now)),
        listeners: Some(listeners.collect()),
    }
}

/// The status a ListenerSet should have. Equal to the one it has if there is
/// nothing to write.
pub fn listener_set(
    existing: Option<&ListenerSetStatus>,
    wanted: &status::SetStatus,
    now: &Time,
) -> ListenerSetStatus {
    let existing = existing.cloned().unwrap_or_default();
    let old_listeners = existing.listeners.unwrap_or_default();
    let listeners = wanted.listeners.iter().map(|listener| {
        let old = old_listeners.iter().find(|old| old.name == listener.name);
        let old = old.map(|old| old.conditions.as_slice());
        let kinds = listener.supported_kinds.iter();
        ListenerSetStatusListeners {
            attached_routes: i32::try_from(listener.attached_routes).unwrap_or(i32::MAX),
            conditions: conditions(old, &listener.conditions, now),
            name: listener.name.clone(),
            supported_kinds: Some(
                kinds
                    .map(|kind| ListenerSetStatusListenersSupportedKinds {
                        group: Some(GATEWAY_GROUP.to_owned()),
                        kind: kind.to_string(),
                    })
                    .collect(),
            ),
        }
    });
    ListenerSetStatus {
        conditions: Some(conditions(existing.conditions.as_deref(), &wanted.conditions, now)),
        listeners: Some(listeners.collect()),
    }
}

macro_rules! route {
    ($(#[$doc:meta])* $name:ident, $status:ident, $parent:ident) => {
        $(#[$doc])*
        pub fn $name(
            existing: Option<&$status>,
            wanted: &RouteStatus,
            controller_name: &str,
            now: &Time,
        ) -> $status {
            let old: &[$parent] = existing.map(|status| status.parents.as_slice()).unwrap_or_default();
            let (ours, others): (Vec<_>, Vec<_>) =
                old.iter().partition(|parent| parent.controller_name == controller_name);
            let new = wanted.parents.iter().map(|parent| {
                let parent_ref = (&parent.parent_ref).into();
                let old = ours.iter().find(|old| old.parent_ref == parent_ref);
                $parent {
                    conditions: conditions(
                        old.map(|old| old.conditions.as_slice()),
                        &parent.conditions,
                        now,
                    ),
                    controller_name: parent.controller_name.clone(),
                    parent_ref,
                }
            });
            $status { parents: others.into_iter().cloned().chain(new).collect() }
        }
    };
}

route!(
    /// The status a TCPRoute should have: the entries of other controllers as
    /// they are, then ours. `wanted` without parents removes ours. Equal to
    /// the one it has if there is nothing to write.
    tcp_route,
    TcpRouteStatus,
    TcpRouteStatusParents
);
route!(
    /// The status a UDPRoute should have; like [`tcp_route`].
    udp_route,
    UdpRouteStatus,
    UdpRouteStatusParents
);
route!(
    /// The status an HTTPRoute should have; like [`tcp_route`].
    http_route,
    HttpRouteStatus,
    HttpRouteStatusParents
);
route!(
    /// The status a TLSRoute should have; like [`tcp_route`].
    tls_route,
    TlsRouteStatus,
    TlsRouteStatusParents
);

/// As the API asks: conditions of types that are not ours stay, the time is
/// that of the last change of `status`, and a condition that was made for a
/// newer generation than ours is left alone.
fn conditions(
    existing: Option<&[Condition]>,
    wanted: &[status::Condition],
    now: &Time,
) -> Vec<Condition> {
    let mut merged = existing.unwrap_or_default().to_vec();
    for condition in wanted {
        let new = |last_transition_time| Condition {
            last_transition_time,
            message: cut(&condition.message),
            observed_generation: Some(condition.observed_generation),
            reason: condition.reason.to_owned(),
            status: condition.status.to_string(),
            type_: condition.kind.to_string(),
        };
        let kind = condition.kind.to_string();
        match merged.iter_mut().find(|old| old.type_ == kind) {
            Some(old) if old.observed_generation > Some(condition.observed_generation) => {}
            Some(old) if old.status == condition.status.to_string() => {
                *old = new(old.last_transition_time.clone());
            }
            Some(old) => *old = new(now.clone()),
            None => merged.push(new(now.clone())),
        }
    }
    merged
}

fn cut(message: &str) -> String {
    let end = message.floor_char_boundary(MAX_MESSAGE_BYTES);
    message.get(..end).unwrap_or(message).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::ParentRef;
    use crate::status::{ConditionType, reason};
    use blixt_model::RouteKind;

    fn time(text: &str) -> Time {
        Time(text.parse().unwrap())
    }

    fn early() -> Time {
        time("2026-01-01T00:00:00Z")
    }

    fn late() -> Time {
        time("2026-01-02T00:00:00Z")
    }

    fn accepted(holds: bool, generation: i64) -> status::Condition {
        let reason = if holds { reason::ACCEPTED } else { reason::LISTENERS_NOT_VALID };
        status::Condition::new(ConditionType::Accepted, holds, reason, "why", generation)
    }

    #[test]
    fn times_change_with_the_status_only() {
        let first = conditions(None, &[accepted(true, 1)], &early());
        let again = conditions(Some(&first), &[accepted(true, 2)], &late());
        assert_eq!(again[0].last_transition_time, early());
        assert_eq!(again[0].observed_generation, Some(2));
        let turned = conditions(Some(&again), &[accepted(false, 3)], &late());
        assert_eq!(turned[0].last_transition_time, late());
        assert_eq!(turned[0].status, "False");
    }

    #[test]
    fn the_defaults_of_the_crd_are_replaced() {
        let default = Condition {
            last_transition_time: time("1970-01-01T00:00:00Z"),
            message: "Waiting for controller".to_owned(),
            observed_generation: None,
            reason: "Pending".to_owned(),
            status: "Unknown".to_owned(),
            type_: "Accepted".to_owned(),
        };
        let merged = conditions(Some(&[default]), &[accepted(true, 1)], &late());
        assert_eq!(merged.len(), 1);
        assert_eq!((merged[0].status.as_str(), merged[0].observed_generation), ("True", Some(1)));
        assert_eq!(merged[0].last_transition_time, late());
    }

    #[test]
    fn what_others_say_stays() {
        let mut foreign = conditions(None, &[accepted(true, 1)], &early());
        foreign[0].type_ = "example.com/Nice".to_owned();
        let merged = conditions(Some(&foreign), &[accepted(true, 1)], &late());
        assert_eq!(merged.len(), 2);
        assert_eq!(merged[0], foreign[0]);

        let newer = conditions(None, &[accepted(false, 5)], &early());
        assert_eq!(conditions(Some(&newer), &[accepted(true, 4)], &late()), newer);
    }

    #[test]
    fn long_messages_are_cut() {
        let mut condition = accepted(true, 1);
        condition.message = "ä".repeat(20_000);
        let merged = conditions(None, &[condition], &early());
        assert_eq!(merged[0].message.len(), MAX_MESSAGE_BYTES);
    }

    fn parent(section: &str, holds: bool) -> status::RouteParentStatus {
        status::RouteParentStatus {
            parent_ref: ParentRef {
                group: None,
                kind: None,
                namespace: None,
                name: "web".to_owned(),
                section_name: Some(section.to_owned()),
                port: None,
            },
            controller_name: "a/ours".to_owned(),
            conditions: vec![accepted(holds, 1)],
        }
    }

    #[test]
    fn routes_keep_the_entries_of_other_controllers() {
        let theirs = RouteStatus {
            parents: vec![status::RouteParentStatus {
                controller_name: "b/theirs".to_owned(),
                ..parent("x", true)
            }],
        };
        let theirs = tcp_route(None, &theirs, "b/theirs", &early());
        let ours = RouteStatus { parents: vec![parent("x", true), parent("y", false)] };

        let both = tcp_route(Some(&theirs), &ours, "a/ours", &early());
        let names: Vec<_> = both.parents.iter().map(|p| p.controller_name.as_str()).collect();
        assert_eq!(names, ["b/theirs", "a/ours", "a/ours"]);
        assert_eq!(both.parents[0], theirs.parents[0]);

        // Nothing to write, whenever it is asked again.
        assert_eq!(tcp_route(Some(&both), &ours, "a/ours", &late()), both);

        // A reference that is gone takes its entry along, and no other.
        let fewer = RouteStatus { parents: vec![parent("y", true)] };
        let fewer = tcp_route(Some(&both), &fewer, "a/ours", &late());
        assert_eq!(fewer.parents.len(), 2);
        assert_eq!(fewer.parents[1].conditions[0].last_transition_time, late());
        let none = tcp_route(Some(&fewer), &RouteStatus::default(), "a/ours", &late());
        assert_eq!(none, theirs);
        let none = udp_route(None, &RouteStatus::default(), "a/ours", &late());
        assert!(none.parents.is_empty());
    }

    #[test]
    fn gateways_get_typed_addresses_and_their_listeners() {
        let wanted = status::GatewayStatus {
            addresses: vec!["2001:db8::1".parse().unwrap()],
            conditions: vec![accepted(true, 1)],
            listeners: vec![status::ListenerStatus {
                name: "tcp".to_owned(),
                supported_kinds: vec![RouteKind::Tcp],
                attached_routes: 2,
                conditions: vec![accepted(true, 1)],
            }],
            attached_sets: 2,
        };
        let first = gateway(None, &wanted, &early());
        let address = &first.addresses.as_ref().unwrap()[0];
        assert_eq!(address.r#type.as_deref(), Some("IPAddress"));
        assert_eq!(address.value, "2001:db8::1");
        let listener = &first.listeners.as_ref().unwrap()[0];
        assert_eq!(listener.attached_routes, 2);
        assert_eq!(first.attached_listener_sets, Some(2));
        let kind = &listener.supported_kinds.as_ref().unwrap()[0];
        assert_eq!(kind.group.as_deref(), Some("gateway.networking.k8s.io"));
        assert_eq!(kind.kind, "TCPRoute");
        assert_eq!(gateway(Some(&first), &wanted, &late()), first);
    }

    #[test]
    fn classes_list_their_features_in_order() {
        let wanted = status::ClassStatus { conditions: vec![accepted(true, 1)] };
        let first = gateway_class(None, &wanted, &early());
        let names: Vec<_> =
            first.supported_features.iter().flatten().map(|feature| &feature.name).collect();
        assert!(names.is_sorted());
        assert_eq!(names.len(), SUPPORTED_FEATURES.len());
        assert_eq!(gateway_class(Some(&first), &wanted, &late()), first);
    }
}
