//! The CEL rules of routes, by hand. Of those of HTTPRoute that speak of what
//! no listener honours, none: the route is refused with a condition anyway.

use blixt_model::Hostname;

use crate::GATEWAY_GROUP;
use crate::manifest::{Path, Problem};
use crate::route::{BackendRef, ParentRef, RouteSpec};

/// Everything that the schema cannot say.
pub(super) fn rules(spec: &RouteSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    distinct_parents(&spec.parents, &mut problems);
    for (index, backend) in spec.backends.iter().enumerate() {
        if is_service(backend) && backend.port.is_none() {
            let rule = Path::of("spec").key("rules").index(0);
            let here = rule.key("backendRefs").index(index).key("port");
            problems.push(Problem::new(here, "is missing: a Service needs it"));
        }
    }
    problems
}

/// The same for a TLSRoute.
pub(super) fn tls(spec: &RouteSpec) -> Vec<Problem> {
    let mut problems = rules(spec);
    for (index, hostname) in spec.hostnames.iter().enumerate() {
        let is_ip = hostname.parse::<std::net::IpAddr>().is_ok();
        if is_ip || hostname.parse::<Hostname>().is_err() {
            let here = Path::of("spec").key("hostnames").index(index);
            let reason = format!(
                "is {hostname:?}: it must be a host name such as www.example.com or *.example.com"
            );
            problems.push(Problem::new(here, reason));
        }
    }
    problems
}

/// Either every reference to one parent names a listener, each another one,
/// or there is just one reference. (In the standard channel a port does not
/// make two references distinct.)
fn distinct_parents(parents: &[ParentRef], problems: &mut Vec<Problem>) {
    for (index, parent) in parents.iter().enumerate() {
        let here = Path::of("spec").key("parentRefs").index(index);
        let earlier = parents.get(..index).unwrap_or_default();
        let same = earlier.iter().filter(|other| parent_of(other) == parent_of(parent));
        let section = section_of(parent);
        for other in same {
            let reason = match (section, section_of(other)) {
                (None, None) | (Some(_), None) | (None, Some(_)) => {
                    "is another reference to the same parent: give each of them its own sectionName"
                }
                (Some(one), Some(two)) if one == two => {
                    "is another reference to the same sectionName of the same parent: remove one"
                }
                _ => continue,
            };
            problems.push(Problem::new(here, reason));
            break;
        }
    }
}

/// What the rules compare. A namespace that is written differs from one that
/// is not, even if it is the same.
fn parent_of(parent: &ParentRef) -> (&str, &str, &str, Option<&str>) {
    (
        parent.group.as_deref().unwrap_or(GATEWAY_GROUP),
        parent.kind.as_deref().unwrap_or("Gateway"),
        &parent.name,
        parent.namespace.as_deref().filter(|namespace| !namespace.is_empty()),
    )
}

fn section_of(parent: &ParentRef) -> Option<&str> {
    parent.section_name.as_deref().filter(|section| !section.is_empty())
}

fn is_service(backend: &BackendRef) -> bool {
    backend.group.as_deref().unwrap_or_default().is_empty()
        && backend.kind.as_deref().unwrap_or("Service") == "Service"
}
