//! What an API server would do with an object before it accepts it: unknown
//! fields, types, defaults, ranges, names, and the rules between fields.
//! What is wrong with references to other objects is not decided here: a
//! dangling reference is a condition, not a refusal.

mod decode;
mod endpoint_slice;
mod gateway;
mod metadata;
pub(crate) mod names;
mod pool;
mod route;
mod secret;
mod service;

use serde_json::{Map, Value};

use crate::config;
use crate::manifest::{Node, Path, Problem};
use crate::object::{Kind, Object};
use crate::route::RouteSpec;
use crate::schema;
use decode::{decode, decode_secret};

/// Fills in what an API server fills in, and returns the object or all that
/// is wrong with it.
pub(crate) fn check(kind: Kind, node: &Node) -> Result<Object, Vec<Problem>> {
    let repeated = node.repeated_keys();
    if !repeated.is_empty() {
        return Err(repeated);
    }
    let Value::Object(mut fields) = node.to_json() else {
        return Err(vec![Problem::new(Path::root(), "is not a map of fields")]);
    };
    // Which kind it is has been said. The status is ours to write; an API
    // server ignores it here too.
    for done in ["apiVersion", "kind", "status"] {
        fields.remove(done);
    }
    let metadata = fields.remove("metadata").unwrap_or_default();
    let metadata = metadata::check(kind, metadata);
    let schema = admit(kind, &mut fields);
    let metadata = match (metadata, schema) {
        (Ok(metadata), problems) if problems.is_empty() => metadata,
        (metadata, mut problems) => {
            problems.splice(0..0, metadata.err().into_iter().flatten());
            return Err(problems);
        }
    };
    fields.insert("metadata".to_owned(), Value::Object(Map::new()));
    let mut object = read(kind, Value::Object(fields))?;
    *object.metadata_mut() = metadata;
    let problems = rules(&mut object);
    if problems.is_empty() { Ok(object) } else { Err(problems) }
}

/// Fields that may not change once the object is there, with where they are:
/// `self == oldSelf` of GatewayClass, and the same for EndpointSlice.
pub(crate) fn forbidden_change(old: &Object, new: &Object) -> Option<Problem> {
    let (path, old, new) = match (old, new) {
        (Object::GatewayClass(old), Object::GatewayClass(new)) => (
            Path::of("spec").key("controllerName"),
            &old.spec.controller_name,
            &new.spec.controller_name,
        ),
        (Object::EndpointSlice(old), Object::EndpointSlice(new)) => {
            (Path::of("addressType"), &old.address_type, &new.address_type)
        }
        _ => return None,
    };
    (old != new).then(|| {
        Problem::new(
            path,
            format!(
                "can't change from {old:?} to {new:?}: give the new object another name, or remove \
                 this one first"
            ),
        )
    })
}

/// Where the field of [`forbidden_change`] is, for the line of the message.
pub(crate) fn immutable_field(kind: Kind) -> Path {
    match kind {
        Kind::GatewayClass => Path::of("spec").key("controllerName"),
        Kind::EndpointSlice => Path::of("addressType"),
        _ => Path::root(),
    }
}

/// The CRD's schema, for the kinds that have one.
fn admit(kind: Kind, fields: &mut Map<String, Value>) -> Vec<Problem> {
    let Some(crd) = schema::crd(kind) else { return Vec::new() };
    let mut problems: Vec<_> = fields
        .keys()
        .filter(|field| *field != "spec")
        .map(|field| {
            Problem::new(
                Path::of(field),
                "is no known field: there are apiVersion, kind, metadata, spec",
            )
        })
        .collect();
    match fields.get_mut("spec") {
        None | Some(Value::Null) => problems.push(Problem::new(Path::of("spec"), "is missing")),
        Some(spec) => problems.extend(crd.spec.admit(spec, &Path::of("spec"))),
    }
    problems
}

fn read(kind: Kind, value: Value) -> Result<Object, Vec<Problem>> {
    Ok(match kind {
        Kind::Namespace => Object::Namespace(decode(value)?),
        Kind::GatewayClass => Object::GatewayClass(decode(value)?),
        Kind::Gateway => Object::Gateway(decode(value)?),
        Kind::ListenerSet => Object::ListenerSet(decode(value)?),
        Kind::TcpRoute => Object::TcpRoute(decode(value)?),
        Kind::UdpRoute => Object::UdpRoute(decode(value)?),
        Kind::HttpRoute => Object::HttpRoute(decode(value)?),
        Kind::TlsRoute => Object::TlsRoute(decode(value)?),
        Kind::ReferenceGrant => Object::ReferenceGrant(decode(value)?),
        Kind::Secret => Object::Secret(decode_secret(value)?),
        Kind::Service => Object::Service(decode(value)?),
        Kind::EndpointSlice => Object::EndpointSlice(decode(value)?),
        Kind::AddressPool => Object::AddressPool(decode(value)?),
        Kind::GatewayConfig => Object::GatewayConfig(decode(value)?),
    })
}

/// The rules that no schema says.
fn rules(object: &mut Object) -> Vec<Problem> {
    match object {
        Object::Gateway(gateway) => gateway::rules(&gateway.spec),
        Object::ListenerSet(set) => gateway::listeners(&crate::set::listeners(&set.spec)),
        Object::TcpRoute(route) => route::rules(&RouteSpec::from(&route.spec)),
        Object::UdpRoute(route) => route::rules(&RouteSpec::from(&route.spec)),
        Object::HttpRoute(route) => route::rules(&RouteSpec::from(&route.spec)),
        Object::TlsRoute(route) => route::tls(&RouteSpec::from(&route.spec)),
        Object::Secret(secret) => secret::rules(secret),
        Object::Service(service) => service::rules(service),
        Object::EndpointSlice(slice) => endpoint_slice::rules(slice),
        Object::AddressPool(pool) => pool::rules(&pool.spec),
        Object::GatewayConfig(config) => config::read(&config.spec).err().unwrap_or_default(),
        Object::Namespace(_) | Object::GatewayClass(_) | Object::ReferenceGrant(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A field of a CRD that our types do not have would be lost.
    #[test]
    fn the_types_know_every_field_of_the_crds() {
        for kind in Kind::ALL {
            let Some(crd) = schema::crd(kind) else { continue };
            let spec = schema::sample(&crd.spec);
            let value = serde_json::json!({"metadata": {}, "spec": spec});
            let object =
                read(kind, value).unwrap_or_else(|problems| panic!("{kind}: {problems:?}"));
            let back = match object {
                Object::GatewayClass(object) => serde_json::to_value(object.spec),
                Object::Gateway(object) => serde_json::to_value(object.spec),
                Object::ListenerSet(object) => {
                    let listeners = serde_json::to_value(&object.spec.listeners).unwrap();
                    let kept = crate::set::listeners(&object.spec);
                    assert_eq!(serde_json::to_value(kept).unwrap(), listeners);
                    serde_json::to_value(object.spec)
                }
                Object::TcpRoute(object) => serde_json::to_value(object.spec),
                Object::UdpRoute(object) => serde_json::to_value(object.spec),
                Object::HttpRoute(object) => serde_json::to_value(object.spec),
                Object::TlsRoute(object) => serde_json::to_value(object.spec),
                Object::ReferenceGrant(object) => serde_json::to_value(object.spec),
                Object::AddressPool(object) => serde_json::to_value(object.spec),
                Object::GatewayConfig(object) => serde_json::to_value(object.spec),
                _ => continue,
            };
            assert_eq!(back.unwrap(), spec, "{kind}");
        }
    }

    #[test]
    fn every_cel_rule_is_done_by_hand() {
        let done: BTreeSet<_> = include_str!("cel.txt")
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(str::to_owned)
            .collect();
        let wanted: BTreeSet<_> = schema::rules()
            .into_iter()
            .map(|(kind, path, rule)| format!("{kind} {path}: {rule}"))
            .collect();
        let list = |rules: Vec<&String>| rules.into_iter().cloned().collect::<Vec<_>>().join("\n");
        assert_eq!(list(wanted.difference(&done).collect()), "", "not done");
        assert_eq!(list(done.difference(&wanted).collect()), "", "not in the CRDs any more");
    }
}
