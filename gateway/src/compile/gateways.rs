//! The Gateways that are ours, judged.

use std::collections::BTreeMap;

use blixt_model::ObjectName;

use super::addresses::{self, Addresses};
use super::certificates::Secrets;
use super::classes::Classes;
use super::configs::{Configs, Reference};
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
    /// What is wrong with the parameters that it refers to, if something is.
    pub(super) bad_parameters: Option<String>,
    /// Whether it had addresses until now.
    had_addresses: bool,
    /// How far the data plane is with it.
    pub(super) programming: Programming,
}

/// All that are ours, by name.
pub(super) type Gateways<'a> = BTreeMap<&'a ObjectName, Gateway<'a>>;

impl Gateway<'_> {
    /// Whether it asks for nothing that we do not have, and some listener of
    /// it can be served.
    pub(super) fn is_accepted(&self) -> bool {
        self.bad_parameters.is_none() && self.can_be_served()
    }

    /// The same, whatever it is with its parameters. One that had addresses before
    /// these went bad stays served: parameters that are lost or mistaken are no
    /// wish to have nothing.
    fn can_be_served(&self) -> bool {
        (self.bad_parameters.is_none() || self.had_addresses)
            && self.addresses.unsupported.is_empty()
            && self.listeners.iter().any(|listener| listener.served().is_some())
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
        self.bad_parameters.is_some() || !self.addresses.unsupported.is_empty()
    }

    /// Whether it is in the snapshot. One that has some of its addresses is
    /// served on those: it is not programmed, but its traffic flows.
    pub(super) fn is_served(&self) -> bool {
        self.can_be_served() && !self.addresses.assigned.is_empty()
    }
}

/// Judges the Gateways of the accepted classes; others are not ours.
pub(super) fn judge<'a>(
    index: &'a Index,
    classes: &Classes,
    pools: &Pools<'_>,
    configs: &mut Configs<'_>,
    secrets: &Secrets<'_>,
    environment: &Environment<'_>,
) -> Gateways<'a> {
    let ours: Vec<_> = index
        .gateways()
        .iter()
        .filter(|(name, gateway)| {
            classes.accepts(&gateway.spec.gateway_class_name, had_addresses(name, environment))
        })
        .collect();
    let mut addresses = addresses::assign(&ours, pools, environment);
    ours.into_iter()
        .map(|(name, stored)| {
            let owner = Referrer { kind: "Gateway", namespace: name.namespace() };
            let gateway = Gateway {
                stored,
                addresses: addresses.remove(name).unwrap_or_default(),
                listeners: listeners::judge(&stored.spec, owner, secrets),
                bad_parameters: parameters(name, &stored.spec, configs).err(),
                had_addresses: had_addresses(name, environment),
                programming: (environment.programmed)(name),
            };
            (name, gateway)
        })
        .collect()
}

fn had_addresses(name: &ObjectName, environment: &Environment<'_>) -> bool {
    environment.assigned.get(name).is_some_and(|has| !has.is_empty())
}

fn parameters(
    name: &ObjectName,
    spec: &GatewaySpec,
    configs: &mut Configs<'_>,
) -> Result<(), String> {
    let infrastructure = spec.infrastructure.as_ref();
    let Some(reference) = infrastructure.and_then(|all| all.parameters_ref.as_ref()) else {
        return Ok(());
    };
    let reference = Reference {
        group: &reference.group,
        kind: &reference.kind,
        namespace: Some(name.namespace()),
        name: &reference.name,
    };
    configs.of_gateway(&format!("Gateway {name}"), &reference)
}
