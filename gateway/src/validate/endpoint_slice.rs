//! What an API server checks of an EndpointSlice.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort};

use super::names;
use crate::apis::EndpointSlice;
use crate::manifest::{Path, Problem};

/// The limits of `pkg/apis/discovery/validation` of Kubernetes.
const MAX_ENDPOINTS: usize = 1_000;
const MAX_PORTS: usize = 20_000;
const MAX_ADDRESSES: usize = 100;

/// Fills in defaults and says what is wrong.
pub(super) fn rules(slice: &mut EndpointSlice) -> Vec<Problem> {
    for port in slice.ports.iter_mut().flatten() {
        port.name.get_or_insert_default();
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
    }
    let mut problems = Vec::new();
    let kind = slice.address_type.as_str();
    if !["IPv4", "IPv6", "FQDN"].contains(&kind) {
        let reason = format!("is {kind:?}: use IPv4 or IPv6 or FQDN");
        problems.push(Problem::new(Path::of("addressType"), reason));
        return problems;
    }
    let endpoints = slice.endpoints.as_deref().unwrap_or_default();
    at_most(MAX_ENDPOINTS, endpoints.len(), &Path::of("endpoints"), &mut problems);
    for (index, endpoint) in endpoints.iter().enumerate() {
        one_endpoint(kind, endpoint, &Path::of("endpoints").index(index), &mut problems);
    }
    let ports = slice.ports.as_deref().unwrap_or_default();
    at_most(MAX_PORTS, ports.len(), &Path::of("ports"), &mut problems);
    let mut port_names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let here = Path::of("ports").index(index);
        one_port(port, &here, &mut problems);
        if !port_names.insert(port.name.as_deref().unwrap_or_default()) {
            let name = port.name.as_deref().unwrap_or_default();
            let reason = format!("is {name:?}, as that of another port: it must be unique");
            problems.push(Problem::new(here.key("name"), reason));
        }
    }
    problems
}

fn one_endpoint(kind: &str, endpoint: &Endpoint, here: &Path, problems: &mut Vec<Problem>) {
    let addresses = here.key("addresses");
    if endpoint.addresses.is_empty() {
        problems.push(Problem::new(addresses.clone(), "is missing: give one address"));
    }
    at_most(MAX_ADDRESSES, endpoint.addresses.len(), &addresses, problems);
    for (index, address) in endpoint.addresses.iter().enumerate() {
        if let Some(wanted) = bad_address(kind, address) {
            let reason = format!("is {address:?}: it must be {wanted}");
            problems.push(Problem::new(addresses.index(index), reason));
        }
    }
    let is_bad_label = |name: &&str| !names::is_dns_label(name);
    let is_bad_name = |name: &&str| !names::is_dns_subdomain(name);
    for (field, bad) in [
        ("hostname", endpoint.hostname.as_deref().filter(is_bad_label)),
        ("nodeName", endpoint.node_name.as_deref().filter(is_bad_name)),
    ] {
        if let Some(name) = bad {
            let reason = format!("is {name:?}: it must be lower-case letters, digits and '-'");
            problems.push(Problem::new(here.key(field), reason));
        }
    }
}

/// What an address of this type has to be, if this one is not.
fn bad_address(kind: &str, address: &str) -> Option<&'static str> {
    match (kind, address.parse::<IpAddr>()) {
        ("FQDN", _) => {
            (!names::is_fqdn(address)).then_some("a full domain name such as www.example.com")
        }
        ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) if reaches_no_pod(address) => {
            Some("the address of another host: not unspecified, loopback or link-local")
        }
        ("IPv4", Ok(IpAddr::V4(_))) => None,
        ("IPv6", Ok(IpAddr::V6(v6))) if v6.to_ipv4_mapped().is_none() => None,
        ("IPv4", _) => Some("an IPv4 address, as addressType says"),
        _ => Some("an IPv6 address, as addressType says"),
    }
}

/// `ValidateEndpointIP` of Kubernetes.
fn reaches_no_pod(address: &str) -> bool {
    match address.parse() {
        Ok(IpAddr::V4(v4)) => {
            let [a, b, c, _] = v4.octets();
            // 224.0.0.0/24 is link-local multicast (RFC 5771 §4).
            v4.is_unspecified()
                || v4.is_loopback()
                || v4.is_link_local()
                || (a, b, c) == (224, 0, 0)
        }
        Ok(IpAddr::V6(v6)) => {
            v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_unicast_link_local()
                // Link-local multicast (RFC 4291 §2.7).
                || v6.segments().first().is_some_and(|first| first & 0xff0f == 0xff02)
        }
        Err(_) => false,
    }
}

fn one_port(port: &EndpointPort, here: &Path, problems: &mut Vec<Problem>) {
    if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty())
        && !names::is_dns_label(name)
    {
        let reason =
            format!("is {name:?}: it must be at most 63 lower-case letters, digits and '-'");
        problems.push(Problem::new(here.key("name"), reason));
    }
    if let Some(number) = port.port.filter(|number| !(1..=65_535).contains(number)) {
        problems.push(Problem::new(here.key("port"), format!("is {number}: use 1 to 65535")));
    }
    let protocol = port.protocol.as_deref().unwrap_or_default();
    if !["TCP", "UDP", "SCTP"].contains(&protocol) {
        let reason = format!("is {protocol:?}: use TCP or UDP or SCTP");
        problems.push(Problem::new(here.key("protocol"), reason));
    }
    if let Some(name) = &port.app_protocol
        && !names::is_qualified_name(name)
    {
        let reason = format!("is {name:?}: it must be a name such as http or example.com/name");
        problems.push(Problem::new(here.key("appProtocol"), reason));
    }
}

fn at_most(most: usize, found: usize, here: &Path, problems: &mut Vec<Problem>) {
    if found > most {
        let reason = format!("has {found} items: at most {most} are allowed");
        problems.push(Problem::new(here.clone(), reason));
    }
}
