//! The CEL rules of Gateway, by hand.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::names;
use crate::apis::{GatewayAddresses, GatewayListeners, GatewayListenersTlsMode, GatewaySpec};
use crate::manifest::{Path, Problem};

/// Everything that the schema cannot say.
pub(super) fn rules(spec: &GatewaySpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    addresses(spec, &mut problems);
    infrastructure(spec, &mut problems);
    problems.extend(listeners(&spec.listeners));
    problems
}

/// The same of listeners, those of a ListenerSet too.
pub(super) fn listeners(listeners: &[GatewayListeners]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, listener) in listeners.iter().enumerate() {
        one_listener(listener, &Path::of("spec").key("listeners").index(index), &mut problems);
    }
    distinct_listeners(listeners, &mut problems);
    problems
}

fn addresses(spec: &GatewaySpec, problems: &mut Vec<Problem>) {
    let mut seen = BTreeMap::new();
    for (index, address) in spec.addresses.iter().flatten().enumerate() {
        let GatewayAddresses { r#type, value: Some(value) } = address else { continue };
        let here = Path::of("spec").key("addresses").index(index).key("value");
        let kind = r#type.as_deref().unwrap_or("IPAddress");
        match kind {
            "IPAddress" if value.parse::<IpAddr>().is_err() => {
                let reason = format!(
                    "is {value:?}: it must be an IPv4 or IPv6 address; leave it out to ask for any"
                );
                problems.push(Problem::new(here.clone(), reason));
            }
            "Hostname" if !names::is_dns_subdomain(value.strip_prefix("*.").unwrap_or(value)) => {
                let reason = format!(
                    "is {value:?}: it must be a host name such as www.example.com or *.example.com"
                );
                problems.push(Problem::new(here.clone(), reason));
            }
            "IPAddress" | "Hostname" => {}
            _ => continue,
        }
        if let Some(first) = seen.insert((kind, value), index) {
            let reason = format!("is {value:?}, as in address {first}: give each address once");
            problems.push(Problem::new(here, reason));
        }
    }
}

fn infrastructure(spec: &GatewaySpec, problems: &mut Vec<Problem>) {
    let Some(infrastructure) = &spec.infrastructure else { return };
    let here = Path::of("spec").key("infrastructure");
    let maps = [("labels", &infrastructure.labels), ("annotations", &infrastructure.annotations)];
    for (field, map) in maps {
        for key in map.iter().flatten().map(|(key, _)| key) {
            let prefix = key.split('/').next().unwrap_or_default();
            if !names::is_qualified_name(key) || prefix.chars().count() >= 253 {
                problems.push(Problem::new(
                    here.key(field).key(key),
                    "is no good key: it must be a name of at most 63 letters, digits, '-', '_' and \
                     '.', perhaps after a domain of less than 253 characters and '/'",
                ));
            }
        }
    }
}

fn one_listener(listener: &GatewayListeners, here: &Path, problems: &mut Vec<Problem>) {
    let protocol = listener.protocol.as_str();
    let mode = listener.tls.as_ref().map(|tls| tls.mode.as_ref());
    match (protocol, mode) {
        ("HTTP" | "TCP" | "UDP", Some(_)) => problems.push(Problem::new(
            here.key("tls"),
            format!("is set, but {protocol} has no TLS: remove it"),
        )),
        ("HTTPS", Some(Some(GatewayListenersTlsMode::Passthrough))) => problems.push(Problem::new(
            here.key("tls").key("mode"),
            "is Passthrough: with protocol HTTPS it must be Terminate",
        )),
        ("TLS", None) => problems.push(Problem::new(
            here.key("tls"),
            "is missing: with protocol TLS, set tls.mode to Terminate or Passthrough",
        )),
        _ => {}
    }
    if matches!(protocol, "TCP" | "UDP") && listener.hostname.is_some() {
        let reason = format!("is set, but {protocol} knows no host names: remove it");
        problems.push(Problem::new(here.key("hostname"), reason));
    }
    if let Some(tls) = &listener.tls {
        let terminates = !matches!(tls.mode, Some(GatewayListenersTlsMode::Passthrough));
        let has_certificates = tls.certificate_refs.as_ref().is_some_and(|refs| !refs.is_empty());
        let has_options = tls.options.as_ref().is_some_and(|options| !options.is_empty());
        if terminates && !has_certificates && !has_options {
            problems.push(Problem::new(
                here.key("tls"),
                "terminates TLS without a certificate: set certificateRefs or options",
            ));
        }
    }
}

fn distinct_listeners(listeners: &[GatewayListeners], problems: &mut Vec<Problem>) {
    let mut seen = BTreeMap::new();
    for (index, listener) in listeners.iter().enumerate() {
        let key = (listener.port, &listener.protocol, &listener.hostname);
        if let Some(first) = seen.insert(key, &listener.name) {
            let reason = format!(
                "has the port ({}), protocol ({}) and hostname of listener {first:?}: give each \
                 listener its own",
                listener.port, listener.protocol
            );
            let here = Path::of("spec").key("listeners").index(index);
            problems.push(Problem::new(here, reason));
        }
    }
}
