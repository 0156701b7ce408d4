//! What was judged, as a snapshot: Gateways by name, listeners in the order
//! of the spec, streams by port, services by identity.

use std::collections::{BTreeMap, BTreeSet};

use blixt_model::{
    Backend, Gateway, Listener, RouteId, ServiceIndex, ServicePortId, Snapshot, SnapshotError,
    Stream, StreamKind, StreamListener, StreamRoute, StreamTls, Target,
};

use super::backends::Resolved;
use super::gateways::{self, Gateways};
use super::listeners::{self, Service, Socket};
use super::{Environment, endpoints};
use crate::index::Index;

/// The numbers of services.
type Numbers<'n> = BTreeMap<&'n ServicePortId, ServiceIndex>;

pub(super) fn build(
    index: &Index,
    environment: &Environment<'_>,
    gateways: &Gateways<'_>,
    resolved: &Resolved<'_>,
) -> Result<Snapshot, SnapshotError> {
    let served: Vec<_> = gateways.iter().filter(|(_, gateway)| gateway.is_served()).collect();
    // Only what some listener sends traffic to.
    let listeners = served.iter().flat_map(|(_, gateway)| served_of(gateway));
    let with_traffic = listeners
        .flat_map(|(listener, socket)| traffic(listener, socket))
        .filter_map(|route| resolved.get(route));
    let services: BTreeSet<_> = with_traffic
        .flat_map(|backends| &backends.targets)
        .filter_map(|(_, target)| target.as_ref().ok())
        .collect();
    let numbers: Numbers<'_> = services.iter().copied().zip((0..).map(ServiceIndex)).collect();
    let gateways = served
        .into_iter()
        .map(|(&name, gateway)| Gateway {
            name: name.clone(),
            addresses: gateway.addresses.assigned.clone(),
            listeners: packets(gateway, resolved, &numbers),
            streams: streams(gateway, resolved, &numbers),
        })
        .collect();
    let services = services.into_iter().map(|id| endpoints::of(index, id)).collect();
    Snapshot::new(environment.generation, environment.seed, gateways, services)
}

fn served_of<'g>(
    gateway: &'g gateways::Gateway<'_>,
) -> impl Iterator<Item = (&'g listeners::Listener<'g>, &'g Socket)> {
    gateway.listeners.iter().filter_map(|listener| Some((listener, listener.served()?)))
}

/// The routes that get anything of a listener.
fn traffic<'l>(
    listener: &'l listeners::Listener<'_>,
    socket: &Socket,
) -> impl Iterator<Item = &'l RouteId> + use<'l> {
    let most = match &socket.service {
        Service::Packets(_) => 1,
        Service::Stream(_) => listener.order.len(),
    };
    listener.order.iter().take(most)
}

fn packets(
    gateway: &gateways::Gateway<'_>,
    resolved: &Resolved<'_>,
    numbers: &Numbers<'_>,
) -> Vec<Listener> {
    let listeners = served_of(gateway).filter_map(|(listener, socket)| {
        let Service::Packets(protocol) = socket.service else { return None };
        Some(Listener {
            name: socket.name.clone(),
            protocol,
            port: socket.port,
            route: listener.winner().cloned(),
            backends: backends(listener.winner(), resolved, numbers),
        })
    });
    listeners.collect()
}

fn streams(
    gateway: &gateways::Gateway<'_>,
    resolved: &Resolved<'_>,
    numbers: &Numbers<'_>,
) -> Vec<Stream> {
    let mut streams: BTreeMap<_, Stream> = BTreeMap::new();
    for (listener, socket) in served_of(gateway) {
        let Service::Stream(tls) = &socket.service else { continue };
        let kind = match tls {
            StreamTls::None => StreamKind::Plain,
            StreamTls::Passthrough | StreamTls::Terminate { .. } => StreamKind::Tls,
        };
        let routes = listener.order.iter().map(|route| StreamRoute {
            route: route.clone(),
            hostnames: listener.attached.get(route).cloned().unwrap_or_default(),
            backends: backends(Some(route), resolved, numbers),
        });
        let one = StreamListener {
            name: socket.name.clone(),
            hostname: socket.hostname.clone(),
            tls: tls.clone(),
            routes: routes.collect(),
        };
        // Listeners of two kinds on one port are in conflict, and not served.
        let stream = streams.entry(socket.port).or_insert_with(|| Stream {
            port: socket.port,
            kind,
            listeners: Vec::new(),
        });
        stream.listeners.push(one);
    }
    streams.into_values().collect()
}

fn backends(
    route: Option<&RouteId>,
    resolved: &Resolved<'_>,
    numbers: &Numbers<'_>,
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
