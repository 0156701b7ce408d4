//! What is allowed, but does nothing and was hardly meant so: a Gateway of a
//! class that nobody has, a Service without endpoints. Gateway API has no
//! condition for these, so they are told beside the status.

use std::fmt;
use std::net::IpAddr;

use blixt_model::{Backend, EndpointState, Gateway, ListenerName, RouteId, ServicePort, Target};

use crate::compile::{Compiled, Parent, parent_of};
use crate::index::{Index, SERVICE_NAME_LABEL};
use crate::object::{Kind, ObjectKey};
use crate::plain::plain;
use crate::{CONTROLLER_NAME, GATEWAY_GROUP};

/// Something that was hardly meant so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// The object.
    pub object: ObjectKey,
    /// What is odd about it and what to do.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.message)
    }
}

/// All there are, in the order of their objects, each once.
pub fn warnings(index: &Index, compiled: &Compiled) -> Vec<Warning> {
    let mut found = Vec::new();
    unserved_gateways(index, compiled, &mut found);
    unattached_routes(index, compiled, &mut found);
    strayed_slices(index, &mut found);
    idle(index, compiled, &mut found);
    tidy(found)
}

/// Those that are about Gateways of ours and what is behind them. In a
/// cluster the other ones may well be about what is somebody else's.
pub fn warnings_of_served(index: &Index, compiled: &Compiled) -> Vec<Warning> {
    let mut found = Vec::new();
    idle(index, compiled, &mut found);
    tidy(found)
}

fn tidy(mut found: Vec<Warning>) -> Vec<Warning> {
    for warning in &mut found {
        warning.message = plain(&warning.message);
    }
    found.sort();
    found.dedup();
    found
}

/// What gets traffic and does nothing good with it.
fn idle(index: &Index, compiled: &Compiled, found: &mut Vec<Warning>) {
    for gateway in compiled.snapshot.gateways() {
        for listener in &gateway.listeners {
            let traffic = listener.route.iter().map(|route| (route, listener.backends.as_slice()));
            idle_listener(gateway, &listener.name, traffic.clone(), found);
            idle_backends(gateway, traffic, index, compiled, found);
        }
        for listener in gateway.streams.iter().flat_map(|stream| &stream.listeners) {
            let routes = listener.routes.iter();
            let traffic = routes.map(|route| (&route.route, route.backends.as_slice()));
            idle_listener(gateway, &listener.name, traffic.clone(), found);
            idle_backends(gateway, traffic, index, compiled, found);
        }
    }
    circles(compiled, found);
}

fn unserved_gateways(index: &Index, compiled: &Compiled, found: &mut Vec<Warning>) {
    for (name, gateway) in index.gateways() {
        if compiled.status.gateways.contains_key(name) {
            continue;
        }
        let class = &gateway.spec.gateway_class_name;
        let message = match index.classes().get(class) {
            None => format!(
                "its GatewayClass {class} does not exist, so nobody serves it: make one with \
                 spec.controllerName {CONTROLLER_NAME}"
            ),
            Some(_) if compiled.status.classes.contains_key(class) => format!(
                "its GatewayClass {class} is not accepted, so nobody serves it: see the status of \
                 that class"
            ),
            Some(found) => format!(
                "its GatewayClass {class} is of another controller, {}: ours is {CONTROLLER_NAME}",
                found.spec.controller_name
            ),
        };
        found.push(warning(Kind::Gateway, name, message));
    }
}

fn unattached_routes(index: &Index, compiled: &Compiled, found: &mut Vec<Warning>) {
    for (id, route) in index.routes() {
        if route.spec.parents.is_empty() {
            let message = "it has no parentRefs, so it has no effect: name a Gateway";
            found.push(of_route(id, message.to_owned()));
        }
        for (position, parent) in route.spec.parents.iter().enumerate() {
            let message = match parent_of(parent, id.name.namespace()) {
                None => {
                    let kind = parent.kind.as_deref().unwrap_or("Gateway");
                    let group = parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
                    format!(
                        "is a {kind} of group {group:?}: Blixt serves Gateways and ListenerSets only"
                    )
                }
                Some(Parent::Gateway(name)) if compiled.status.gateways.contains_key(&name) => {
                    continue;
                }
                Some(Parent::Gateway(name)) if index.gateways().contains_key(&name) => {
                    format!("is Gateway {name}, which Blixt does not serve: see its class")
                }
                Some(Parent::Gateway(name)) => format!("is Gateway {name}, which does not exist"),
                Some(Parent::Set(name)) if compiled.status.sets.contains_key(&name) => continue,
                Some(Parent::Set(name)) if index.sets().contains_key(&name) => {
                    format!("is ListenerSet {name}, whose Gateway Blixt does not serve")
                }
                Some(Parent::Set(name)) => format!("is ListenerSet {name}, which does not exist"),
            };
            found.push(of_route(id, format!("parentRefs[{position}] {message}")));
        }
    }
}

fn strayed_slices(index: &Index, found: &mut Vec<Warning>) {
    for (name, service) in index.services_of_slices() {
        let message = match service {
            None => format!(
                "it has no label {SERVICE_NAME_LABEL} that names a Service, so nobody uses it"
            ),
            Some(service) if index.service(service).is_none() => {
                format!("it belongs to Service {service}, which does not exist")
            }
            Some(_) => continue,
        };
        found.push(warning(Kind::EndpointSlice, name, message));
    }
}

fn idle_listener<'r>(
    gateway: &Gateway,
    name: &ListenerName,
    traffic: impl Iterator<Item = (&'r RouteId, &'r [Backend])>,
    found: &mut Vec<Warning>,
) {
    let mut traffic = traffic.peekable();
    if traffic.peek().is_none() {
        found.push(warning(
            Kind::Gateway,
            &gateway.name,
            format!("listener {name} has no route, so it refuses everything"),
        ));
    }
    for (route, backends) in traffic {
        if backends.iter().all(|backend| backend.weight.number() == 0) {
            let message = "no backend has a weight, so everything is refused".to_owned();
            found.push(of_route(route, message));
        }
    }
}

/// Services that traffic is sent to and that have nobody to take it.
fn idle_backends<'r>(
    gateway: &Gateway,
    traffic: impl Iterator<Item = (&'r RouteId, &'r [Backend])>,
    index: &Index,
    compiled: &Compiled,
    found: &mut Vec<Warning>,
) {
    let backends = traffic.flat_map(|(_, backends)| backends);
    for backend in backends.filter(|backend| backend.weight.number() > 0) {
        let Target::Service(service) = backend.target else { continue };
        let Some(service) = compiled.snapshot.service(service) else { continue };
        for &address in &gateway.addresses {
            if !takes_traffic(service, address) {
                let why = why_idle(service, address, index);
                let (port, protocol) = (service.id.port, service.id.protocol);
                found.push(warning(
                    Kind::Service,
                    &service.id.service,
                    format!("port {port}/{protocol} has no endpoint for {address}: {why}"),
                ));
            }
        }
    }
}

fn takes_traffic(service: &ServicePort, address: IpAddr) -> bool {
    service.endpoints.iter().any(|endpoint| {
        endpoint.state == EndpointState::Ready && endpoint.address.is_ipv4() == address.is_ipv4()
    })
}

fn why_idle(service: &ServicePort, address: IpAddr, index: &Index) -> String {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let mut slices = index.slices_of(&service.id.service).peekable();
    if slices.peek().is_none() {
        let name = service.id.service.name();
        format!("there is no EndpointSlice with the label {SERVICE_NAME_LABEL}: {name}")
    } else if service.endpoints.is_empty() {
        "no EndpointSlice has a port of the same name and protocol, and an address there".to_owned()
    } else if service.endpoints.iter().any(|e| e.address.is_ipv4() == address.is_ipv4()) {
        format!("none with an {family} address is ready")
    } else {
        format!("none has an {family} address")
    }
}

/// Endpoints that are addresses of Gateways.
fn circles(compiled: &Compiled, found: &mut Vec<Warning>) {
    let vips = compiled.snapshot.vips();
    for service in compiled.snapshot.services() {
        for endpoint in service.endpoints.iter().filter(|e| vips.contains(&e.address)) {
            let address = endpoint.address;
            let message = format!(
                "its endpoint {address} is the address of a Gateway, which would send traffic to \
                 itself: use the address of a server"
            );
            found.push(warning(Kind::Service, &service.id.service, message));
        }
    }
}

fn of_route(id: &RouteId, message: String) -> Warning {
    warning(id.kind.into(), &id.name, message)
}

fn warning(kind: Kind, name: &blixt_model::ObjectName, message: String) -> Warning {
    let namespace = Some(name.namespace().to_owned());
    Warning { object: ObjectKey { kind, namespace, name: name.name().to_owned() }, message }
}
