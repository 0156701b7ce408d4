//! What an API server checks of a Service, as far as it matters to a load
//! balancer: ports, protocols, affinity, addresses, type.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::names;
use crate::apis::{Service, ServiceSpec};
use crate::manifest::{Path, Problem};

/// `DefaultClientIPServiceAffinitySeconds` of Kubernetes.
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;
/// `MaxClientIPServiceAffinitySeconds` of Kubernetes: a day.
const MAX_AFFINITY_SECONDS: i32 = 86_400;

/// Fills in defaults and says what is wrong.
pub(super) fn rules(service: &mut Service) -> Vec<Problem> {
    let here = Path::of("spec");
    let Some(spec) = &mut service.spec else { return vec![Problem::new(here, "is missing")] };
    fill_in(spec);
    let mut problems = Vec::new();
    kind(spec, &here, &mut problems);
    ports(spec, &here, &mut problems);
    affinity(spec, &here, &mut problems);
    addresses(spec, &here, &mut problems);
    choices(spec, &here, &mut problems);
    for (key, value) in spec.selector.iter().flatten() {
        if !names::is_qualified_name(key) || !names::is_label_value(value) {
            let reason = format!("with value {value:?} is no good label to select by");
            problems.push(Problem::new(here.key("selector").key(key), reason));
        }
    }
    problems
}

fn fill_in(spec: &mut ServiceSpec) {
    spec.type_.get_or_insert_with(|| "ClusterIP".to_owned());
    let affinity = spec.session_affinity.get_or_insert_with(|| "None".to_owned());
    if affinity == "ClientIP" {
        let config = spec.session_affinity_config.get_or_insert_default();
        let client_ip = config.client_ip.get_or_insert_default();
        client_ip.timeout_seconds.get_or_insert(DEFAULT_AFFINITY_SECONDS);
    }
    for port in spec.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
        port.target_port.get_or_insert(IntOrString::Int(port.port));
    }
}

fn kind(spec: &ServiceSpec, here: &Path, problems: &mut Vec<Problem>) {
    let kind = spec.type_.as_deref().unwrap_or_default();
    let kinds = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    if !kinds.contains(&kind) {
        problems.push(Problem::new(here.key("type"), use_one_of(kind, &kinds)));
    }
    if kind == "ExternalName" {
        let name = spec.external_name.as_deref().unwrap_or_default();
        if !names::is_dns_subdomain(name.strip_suffix('.').unwrap_or(name)) {
            let reason = format!("is {name:?}: with type ExternalName it must be a host name");
            problems.push(Problem::new(here.key("externalName"), reason));
        }
        if spec.cluster_ip.as_deref().is_some_and(|ip| !ip.is_empty()) {
            let reason = "is set, but type ExternalName has none: remove it";
            problems.push(Problem::new(here.key("clusterIP"), reason));
        }
    }
}

fn ports(spec: &ServiceSpec, here: &Path, problems: &mut Vec<Problem>) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let here = here.key("ports");
    let headless = spec.cluster_ip.as_deref() == Some("None");
    if ports.is_empty() && !headless && spec.type_.as_deref() != Some("ExternalName") {
        problems.push(Problem::new(here.clone(), "is missing: give at least one port"));
    }
    let mut port_names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let here = here.index(index);
        one_port(port, &here, problems);
        match port.name.as_deref().filter(|name| !name.is_empty()) {
            None if ports.len() > 1 => {
                let reason = "is missing: with several ports each needs one";
                problems.push(Problem::new(here.key("name"), reason));
            }
            Some(name) if !port_names.insert(name) => {
                let reason = format!("is {name:?}, as that of another port: it must be unique");
                problems.push(Problem::new(here.key("name"), reason));
            }
            _ => {}
        }
        if !numbers.insert((port.port, port.protocol.as_deref())) {
            let protocol = port.protocol.as_deref().unwrap_or_default();
            let reason = format!("has port {} and {protocol} as another one: remove it", port.port);
            problems.push(Problem::new(here, reason));
        }
    }
}

fn one_port(port: &ServicePort, here: &Path, problems: &mut Vec<Problem>) {
    if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty())
        && !names::is_dns_label(name)
    {
        let reason =
            format!("is {name:?}: it must be at most 63 lower-case letters, digits and '-'");
        problems.push(Problem::new(here.key("name"), reason));
    }
    port_number(port.port, &here.key("port"), problems);
    let protocol = port.protocol.as_deref().unwrap_or_default();
    let protocols = ["TCP", "UDP", "SCTP"];
    if !protocols.contains(&protocol) {
        problems.push(Problem::new(here.key("protocol"), use_one_of(protocol, &protocols)));
    }
    match &port.target_port {
        // The same number may have been filled in, and has been checked.
        Some(IntOrString::Int(number)) if *number != port.port => {
            port_number(*number, &here.key("targetPort"), problems);
        }
        Some(IntOrString::String(name)) if !names::is_port_name(name) => {
            let reason = format!(
                "is {name:?}: it must be a number, or the name of a container's port (at most 15 \
                 lower-case letters, digits and '-')"
            );
            problems.push(Problem::new(here.key("targetPort"), reason));
        }
        _ => {}
    }
    if let Some(number) = port.node_port.filter(|&number| number != 0) {
        port_number(number, &here.key("nodePort"), problems);
    }
    if let Some(name) = &port.app_protocol
        && !names::is_qualified_name(name)
    {
        let reason = format!("is {name:?}: it must be a name such as http or example.com/name");
        problems.push(Problem::new(here.key("appProtocol"), reason));
    }
}

fn affinity(spec: &ServiceSpec, here: &Path, problems: &mut Vec<Problem>) {
    let affinity = spec.session_affinity.as_deref().unwrap_or_default();
    let seconds = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref())
        .and_then(|client_ip| client_ip.timeout_seconds);
    match affinity {
        "ClientIP" => {
            let seconds = seconds.unwrap_or(DEFAULT_AFFINITY_SECONDS);
            if !(1..=MAX_AFFINITY_SECONDS).contains(&seconds) {
                let path = here.key("sessionAffinityConfig").key("clientIP").key("timeoutSeconds");
                let reason = format!("is {seconds}: use 1 to {MAX_AFFINITY_SECONDS}");
                problems.push(Problem::new(path, reason));
            }
        }
        "None" if spec.session_affinity_config.is_some() => {
            let reason = "is set, but sessionAffinity is None: remove one of them";
            problems.push(Problem::new(here.key("sessionAffinityConfig"), reason));
        }
        "None" => {}
        other => problems.push(Problem::new(
            here.key("sessionAffinity"),
            use_one_of(other, &["None", "ClientIP"]),
        )),
    }
}

fn addresses(spec: &ServiceSpec, here: &Path, problems: &mut Vec<Problem>) {
    let cluster_ips = spec.cluster_ips.iter().flatten().enumerate();
    let cluster_ips = cluster_ips.map(|(index, text)| (here.key("clusterIPs").index(index), text));
    let cluster_ip = spec.cluster_ip.iter().map(|text| (here.key("clusterIP"), text));
    for (path, text) in cluster_ip.chain(cluster_ips) {
        if !text.is_empty() && text != "None" && text.parse::<IpAddr>().is_err() {
            problems.push(Problem::new(path, format!("is {text:?}: use an IP address or None")));
        }
    }
    for (index, text) in spec.external_ips.iter().flatten().enumerate() {
        if text.parse::<IpAddr>().is_err() {
            let path = here.key("externalIPs").index(index);
            problems.push(Problem::new(path, format!("is {text:?}: use an IP address")));
        }
    }
}

fn choices(spec: &ServiceSpec, here: &Path, problems: &mut Vec<Problem>) {
    let checks: [(&str, &Option<String>, &[&str]); 3] = [
        (
            "ipFamilyPolicy",
            &spec.ip_family_policy,
            &["SingleStack", "PreferDualStack", "RequireDualStack"],
        ),
        ("externalTrafficPolicy", &spec.external_traffic_policy, &["Cluster", "Local"]),
        ("internalTrafficPolicy", &spec.internal_traffic_policy, &["Cluster", "Local"]),
    ];
    for (field, value, choices) in checks {
        if let Some(value) = value.as_deref().filter(|value| !choices.contains(value)) {
            problems.push(Problem::new(here.key(field), use_one_of(value, choices)));
        }
    }
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        if !["IPv4", "IPv6"].contains(&family.as_str()) {
            let path = here.key("ipFamilies").index(index);
            problems.push(Problem::new(path, use_one_of(family, &["IPv4", "IPv6"])));
        }
    }
}

fn port_number(number: i32, here: &Path, problems: &mut Vec<Problem>) {
    if !(1..=65_535).contains(&number) {
        problems.push(Problem::new(here.clone(), format!("is {number}: use 1 to 65535")));
    }
}

fn use_one_of(found: &str, choices: &[&str]) -> String {
    format!("is {found:?}: use {}", choices.join(" or "))
}
