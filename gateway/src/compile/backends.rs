//! Where routes send their traffic: backendRefs to Service ports, or to
//! nobody if the reference is bad.

use std::collections::BTreeMap;

use blixt_model::{
    ObjectName, Port, Protocol, RejectReason, RouteId, RouteKind, ServicePortId, Weight,
};

use super::grants::{Grants, Referrer};
use super::routes::Attached;
use crate::apis::ServiceSpec;
use crate::index::Index;
use crate::route::BackendRef;

/// The backends of each route.
pub(super) type Resolved<'a> = BTreeMap<&'a RouteId, Backends>;

/// The backends of one route.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Backends {
    /// One for each reference, in the order of the spec.
    pub(super) targets: Vec<(Weight, Result<ServicePortId, RejectReason>)>,
    /// What is wrong with them, in words.
    pub(super) problems: Vec<(RejectReason, String)>,
}

impl Backends {
    /// The reason for the route's condition: of several, the one that is
    /// hardest to see from the route alone.
    pub(super) fn reason(&self) -> Option<RejectReason> {
        [RejectReason::RefNotPermitted, RejectReason::InvalidKind, RejectReason::BackendNotFound]
            .into_iter()
            .find(|wanted| self.problems.iter().any(|(reason, _)| reason == wanted))
    }
}

/// Resolves the backends of routes.
pub(super) fn resolve<'a, 'b>(
    index: &'a Index,
    grants: &Grants<'_>,
    routes: impl Iterator<Item = (&'a RouteId, &'b Attached<'a>)>,
) -> Resolved<'a>
where
    'a: 'b,
{
    routes
        .map(|(id, attached)| {
            let mut backends = Backends { targets: Vec::new(), problems: Vec::new() };
            for (position, backend) in attached.stored.spec.backends.iter().enumerate() {
                let target = one(id, backend, index, grants);
                let target = target.map_err(|(reason, why)| {
                    backends.problems.push((reason, format!("backendRefs[{position}] {why}")));
                    reason
                });
                backends.targets.push((weight(backend), target));
            }
            (id, backends)
        })
        .collect()
}

fn one(
    route: &RouteId,
    backend: &BackendRef,
    index: &Index,
    grants: &Grants<'_>,
) -> Result<ServicePortId, (RejectReason, String)> {
    let group = backend.group.as_deref().unwrap_or_default();
    let kind = backend.kind.as_deref().unwrap_or("Service");
    if (group, kind) != ("", "Service") {
        let group = if group.is_empty() { String::new() } else { format!(" of group {group}") };
        let why = format!("is of kind {kind}{group}: only a Service can be a backend");
        return Err((RejectReason::InvalidKind, why));
    }
    let own = route.name.namespace();
    let namespace = backend.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(own);
    let name = &backend.name;
    let from = Referrer { kind: &route.kind.to_string(), namespace: own };
    if !grants.permit(from, "Service", namespace, name) {
        let why = format!(
            "is Service {namespace}/{name}, in another namespace: a ReferenceGrant in {namespace} \
             must allow {}s of namespace {own}",
            route.kind
        );
        return Err((RejectReason::RefNotPermitted, why));
    }
    let not_found = |why| (RejectReason::BackendNotFound, why);
    let service = ObjectName::new(namespace, name.as_str())
        .ok()
        .and_then(|name| index.service(&name).map(|spec| (name, spec)));
    let Some((service, spec)) = service else {
        return Err(not_found(format!("is Service {namespace}/{name}, which does not exist")));
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        let why = format!("is Service {service} of type ExternalName, which has no endpoints");
        return Err(not_found(why));
    }
    port(route, backend, service, spec).map_err(not_found)
}

/// A port of the Service with the number, and with the protocol of the route.
fn port(
    route: &RouteId,
    backend: &BackendRef,
    service: ObjectName,
    spec: &ServiceSpec,
) -> Result<ServicePortId, String> {
    let protocol = match route.kind {
        RouteKind::Tcp | RouteKind::Http | RouteKind::Tls => Protocol::Tcp,
        RouteKind::Udp => Protocol::Udp,
    };
    let Some(number) = backend.port else {
        return Err(format!("is Service {service} without a port: say which"));
    };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let of = |port: &k8s_openapi::api::core::v1::ServicePort| {
        (port.port, port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()))
    };
    let is_there = ports.iter().map(of).any(|found| found == (number, protocol.to_string()));
    match Port::new(number) {
        Ok(port) if is_there => Ok(ServicePortId { service, protocol, port }),
        _ => {
            let there: Vec<_> =
                ports.iter().map(of).map(|(port, name)| format!("{port}/{name}")).collect();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            Err(format!(
                "is port {number} of Service {service}, which has no {number}/{protocol}: it has \
                 {there}"
            ))
        }
    }
}

/// The ranges are those of the CRD, so nothing is clamped in truth.
fn weight(backend: &BackendRef) -> Weight {
    let beyond = |number| if number < 0 { Weight::ZERO } else { Weight::MAX };
    backend.weight.map_or(Weight::DEFAULT, |n| Weight::new(n).unwrap_or_else(|_| beyond(n)))
}
