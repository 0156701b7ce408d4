//! Which ListenerSets bring listeners to which Gateways: the oldest first, so
//! that what it has nobody who comes later can take.

use std::collections::BTreeMap;

use blixt_model::ObjectName;

use super::certificates::Secrets;
use super::gateways::Gateways;
use super::grants::Referrer;
use super::listeners;
use super::namespaces::AllowedNamespaces;
use crate::index::{Index, Stored};
use crate::set::SetSpec;

/// A ListenerSet whose Gateway is ours.
pub(super) struct Set<'a> {
    pub(super) stored: &'a Stored<SetSpec>,
    pub(super) gateway: &'a ObjectName,
    /// Why its Gateway does not let it in, if it does not.
    pub(super) refused: Option<String>,
}

/// All of them, by name.
pub(super) type Sets<'a> = BTreeMap<&'a ObjectName, Set<'a>>;

/// Adds the listeners of sets to those of their Gateways.
pub(super) fn attach<'a>(
    index: &'a Index,
    gateways: &mut Gateways<'a>,
    secrets: &Secrets<'_>,
) -> Sets<'a> {
    let mut all: Vec<_> = index.sets().iter().collect();
    all.sort_by(|(name, set), (other_name, other)| set.before(name, other, other_name));
    let mut sets = Sets::new();
    for (name, stored) in all {
        let Some(gateway_name) = &stored.spec.gateway else { continue };
        let Some(gateway) = gateways.get_mut(gateway_name) else { continue };
        let refused = refusal(gateway.stored, gateway_name, name, index);
        if refused.is_none() {
            let owner = Referrer { kind: "ListenerSet", namespace: name.namespace() };
            let tls = gateway.stored.spec.tls.as_ref();
            let added =
                listeners::judge_set(name, &stored.spec, &gateway.listeners, tls, owner, secrets);
            gateway.listeners.extend(added);
        }
        sets.insert(name, Set { stored, gateway: gateway_name, refused });
    }
    sets
}

/// Whether a Gateway lets a set in.
pub(super) fn is_let_in(
    gateway: &Stored<crate::apis::GatewaySpec>,
    gateway_name: &ObjectName,
    set: &ObjectName,
    index: &Index,
) -> bool {
    refusal(gateway, gateway_name, set, index).is_none()
}

fn refusal(
    gateway: &Stored<crate::apis::GatewaySpec>,
    gateway_name: &ObjectName,
    set: &ObjectName,
    index: &Index,
) -> Option<String> {
    let allowed = AllowedNamespaces::of_sets(gateway.spec.allowed_listeners.as_ref());
    match allowed {
        Err(why) => Some(format!("Gateway {gateway_name} takes no ListenerSet: {why}.")),
        Ok(None) => Some(format!(
            "Gateway {gateway_name} takes no ListenerSet: spec.allowedListeners there must allow it."
        )),
        Ok(Some(allowed)) => {
            let may = allowed.allow(set.namespace(), gateway_name.namespace(), index);
            (!may).then(|| {
                format!(
                    "spec.allowedListeners of Gateway {gateway_name} does not allow namespace {}.",
                    set.namespace()
                )
            })
        }
    }
}
