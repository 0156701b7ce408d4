//! The Gateways that are ours, judged.

use std::collections::BTreeMap;

use blixt_model::ObjectName;

use super::addresses::{self, Addresses};
use super::certificates::Secrets;
use super::classes::Classes;
use super::grants::Referrer;
use super::listeners::{self, Listener};
use super::pools::Pools;
use super::{Environment, Programming};
use crate::apis::GatewaySpec;
use crate::index::{Index, Stored};

/// One Gateway, judged.
pub(super) struct Gateway<'a> {
    pub(super) stored: &'a Stored<GatewaySpec>,
    pub(super) addresses: Addresses,
    pub(super) listeners: Vec<Listener<'a>>,
    /// How far the data plane is with it.
    pub(super) programming: Programming,
}

/// All that are ours, by name.
pub(super) type Gateways<'a> = BTreeMap<&'a ObjectName, Gateway<'a>>;

impl Gateway<'_> {
    /// Whether it asks for nothing that we do not have, and some listener of
    /// it can be served.
    pub(super) fn is_accepted(&self) -> bool {
        !self.asks_too_much() && self.listeners.iter().any(|listener| listener.served().is_some())
    }

    /// Its own listeners, without those of ListenerSets.
    pub(super) fn own_listeners(&self) -> impl Iterator<Item = &Listener<'_>> {
        self.listeners.iter().filter(|listener| listener.set.is_none())
    }

    /// The listeners of a ListenerSet.
    pub(super) fn listeners_of(&self, set: &ObjectName) -> impl Iterator<Item = &Listener<'_>> {
        self.listeners.iter().filter(move |listener| listener.set == Some(set))
    }

    /// Whether it asks for something that we do not have.
    pub(super) fn asks_too_much(&self) -> bool {
        self.has_parameters() || !self.addresses.unsupported.is_empty()
    }

    /// Whether it is in the snapshot. One that has some of its addresses is
    /// served on those: it is not programmed, but its traffic flows.
    pub(super) fn is_served(&self) -> bool {
        self.is_accepted() && !self.addresses.assigned.is_empty()
    }

    /// The place to look parameters up, once there is a kind for them.
    pub(super) fn has_parameters(&self) -> bool {
        let infrastructure = self.stored.spec.infrastructure.as_ref();
        infrastructure.is_some_and(|infrastructure| infrastructure.parameters_ref.is_some())
    }
}

/// Judges the Gateways of the accepted classes; others are not ours.
pub(super) fn judge<'a>(
    index: &'a Index,
    classes: &Classes,
    pools: &Pools<'_>,
    secrets: &Secrets<'_>,
    environment: &Environment<'_>,
) -> Gateways<'a> {
    let ours: Vec<_> = index
        .gateways()
        .iter()
        .filter(|(_, gateway)| classes.accepts(&gateway.spec.gateway_class_name))
        .collect();
    let mut addresses = addresses::assign(&ours, pools, environment);
    ours.into_iter()
        .map(|(name, stored)| {
            let owner = Referrer { kind: "Gateway", namespace: name.namespace() };
            let gateway = Gateway {
                stored,
                addresses: addresses.remove(name).unwrap_or_default(),
                listeners: listeners::judge(&stored.spec, owner, secrets),
                programming: (environment.programmed)(name),
            };
            (name, gateway)
        })
        .collect()
}
