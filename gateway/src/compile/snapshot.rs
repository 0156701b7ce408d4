//! What was judged, as a snapshot: Gateways by name, listeners in the order
//! of the spec, services by identity.

use std::collections::{BTreeMap, BTreeSet};

use blixt_model::{
    Backend, Gateway, Listener, RouteId, ServiceIndex, ServicePortId, Snapshot, SnapshotError,
    Target,
};

use super::backends::Resolved;
use super::gateways::{self, Gateways};
use super::{Environment, endpoints};
use crate::index::Index;

pub(super) fn build(
    index: &Index,
    environment: &Environment<'_>,
    gateways: &Gateways<'_>,
    resolved: &Resolved<'_>,
) -> Result<Snapshot, SnapshotError> {
    let served: Vec<_> = gateways.iter().filter(|(_, gateway)| gateway.is_served()).collect();
    // Only what some listener sends traffic to.
    let winners =
        served.iter().flat_map(|(_, gateway)| &gateway.listeners).filter_map(|listener| {
            listener.served()?;
            resolved.get(listener.winner.as_ref()?)
        });
    let services: BTreeSet<_> = winners
        .flat_map(|backends| &backends.targets)
        .filter_map(|(_, target)| target.as_ref().ok())
        .collect();
    let numbers: BTreeMap<_, _> = services.iter().copied().zip((0..).map(ServiceIndex)).collect();
    let gateways = served
        .into_iter()
        .map(|(&name, gateway)| Gateway {
            name: name.clone(),
            addresses: gateway.addresses.assigned.clone(),
            listeners: listeners(gateway, resolved, &numbers),
            streams: vec![],
        })
        .collect();
    let services = services.into_iter().map(|id| endpoints::of(index, id)).collect();
    Snapshot::new(environment.generation, environment.seed, gateways, services)
}

fn listeners(
    gateway: &gateways::Gateway<'_>,
    resolved: &Resolved<'_>,
    numbers: &BTreeMap<&ServicePortId, ServiceIndex>,
) -> Vec<Listener> {
    let served =
        gateway.listeners.iter().filter_map(|listener| Some((listener, listener.served()?)));
    served
        .map(|(listener, socket)| Listener {
            name: socket.name.clone(),
            protocol: socket.protocol,
            port: socket.port,
            route: listener.winner.clone(),
            backends: backends(listener.winner.as_ref(), resolved, numbers),
        })
        .collect()
}

fn backends(
    route: Option<&RouteId>,
    resolved: &Resolved<'_>,
    numbers: &BTreeMap<&ServicePortId, ServiceIndex>,
) -> Vec<Backend> {
    let targets = route.and_then(|route| resolved.get(route)).map(|backends| &backends.targets);
    let mut backends = Vec::new();
    for (weight, target) in targets.into_iter().flatten() {
        let target = match target {
            Err(reason) => Target::Rejected(*reason),
            Ok(service) => match numbers.get(service) {
                Some(&number) => Target::Service(number),
                // Every service that a winner names has a number.
                None => continue,
            },
        };
        backends.push(Backend { weight: *weight, target });
    }
    backends
}
