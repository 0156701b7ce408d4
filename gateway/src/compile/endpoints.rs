//! The endpoints behind one port of a Service.

use std::collections::BTreeMap;
use std::net::IpAddr;

use blixt_model::{
    Affinity, Endpoint, EndpointState, Port, ServicePort, ServicePortId, is_host_unicast,
};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointPort};

use crate::apis::{EndpointSlice, ServiceSpec};
use crate::index::Index;

/// How good an endpoint is, best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    /// It takes nothing new.
    Unready,
    /// It is about to end, but would still take traffic if nobody else does.
    Serving,
    /// It takes traffic.
    Ready,
}

/// Gathers the endpoints of all slices of the Service.
pub(super) fn of(index: &Index, id: &ServicePortId) -> ServicePort {
    let spec = index.service(&id.service);
    let affinity = match spec.and_then(|spec| spec.session_affinity.as_deref()) {
        Some("ClientIP") => Affinity::ClientIp,
        _ => Affinity::None,
    };
    let mut found = BTreeMap::new();
    if let Some(name) = spec.and_then(|spec| port_name(spec, id)) {
        for slice in index.slices_of(&id.service) {
            gather(slice, name, id, &mut found);
        }
    }
    ServicePort { id: id.clone(), affinity, endpoints: states(&found) }
}

/// A slice's port is found by the name of the Service's port, which is empty
/// if the Service has just one.
fn port_name<'a>(spec: &'a ServiceSpec, id: &ServicePortId) -> Option<&'a str> {
    let mut ports = spec.ports.iter().flatten();
    let port = ports.find(|port| {
        port.port == i32::from(id.port.number())
            && port.protocol.as_deref().unwrap_or("TCP") == id.protocol.to_string()
    })?;
    Some(port.name.as_deref().unwrap_or_default())
}

fn gather(
    slice: &EndpointSlice,
    port_name: &str,
    id: &ServicePortId,
    found: &mut BTreeMap<(IpAddr, Port), Health>,
) {
    let ports = slice.ports.iter().flatten();
    for port in ports.filter_map(|port| number_of(port, port_name, id)) {
        for endpoint in slice.endpoints.iter().flatten() {
            let Some(address) = address_of(endpoint, &slice.address_type) else { continue };
            let health = health_of(endpoint);
            let best = found.entry((address, port)).or_insert(health);
            *best = health.max(*best);
        }
    }
}

/// The number of the slice's port, if it is the one we look for. One without
/// a number means every port, which says nothing about a Service.
fn number_of(port: &EndpointPort, name: &str, id: &ServicePortId) -> Option<Port> {
    let is_it = port.name.as_deref().unwrap_or_default() == name
        && port.protocol.as_deref().unwrap_or("TCP") == id.protocol.to_string();
    Port::new(port.port.filter(|_| is_it)?).ok()
}

/// The first address: several mean the same endpoint, and consumers take the
/// first (discovery/v1, `Endpoint.addresses`). Names (FQDN) are no addresses.
fn address_of(endpoint: &SliceEndpoint, address_type: &str) -> Option<IpAddr> {
    let address = endpoint.addresses.first()?.parse().ok()?;
    let fits = match address {
        IpAddr::V4(_) => address_type == "IPv4",
        IpAddr::V6(_) => address_type == "IPv6",
    };
    (fits && is_host_unicast(address)).then_some(address)
}

/// Unset conditions mean: ready, serving if ready, not terminating
/// (discovery/v1, `EndpointConditions`).
fn health_of(endpoint: &SliceEndpoint) -> Health {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
    match (ready, serving) {
        (true, _) => Health::Ready,
        (false, true) => Health::Serving,
        (false, false) => Health::Unready,
    }
}

/// If nobody of a family is ready, those that still serve are as good as
/// ready, as in kube-proxy (KEP-1669).
fn states(found: &BTreeMap<(IpAddr, Port), Health>) -> Vec<Endpoint> {
    let best_of = |family: bool| {
        let healths = found.iter().filter(|((address, _), _)| address.is_ipv4() == family);
        healths.map(|(_, health)| *health).max()
    };
    let (best_v4, best_v6) = (best_of(true), best_of(false));
    let endpoint = |(&(address, port), &health): (&(IpAddr, Port), &Health)| {
        let best = if address.is_ipv4() { best_v4 } else { best_v6 };
        let takes_traffic = health > Health::Unready && Some(health) == best;
        let state = if takes_traffic { EndpointState::Ready } else { EndpointState::Draining };
        Endpoint { address, port, state }
    };
    found.iter().map(endpoint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Event;
    use serde_json::{Value, json};

    const SERVICE: &str = "web";

    fn service(ports: Value, affinity: &str) -> Event {
        let service: crate::apis::Service = serde_json::from_value(json!({
            "metadata": {"name": SERVICE, "namespace": "default"},
            "spec": {"ports": ports, "sessionAffinity": affinity}
        }))
        .unwrap();
        Event::Upsert(service.into())
    }

    fn slice(name: &str, kind: &str, ports: Value, endpoints: Value) -> Event {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {
                "name": name, "namespace": "default",
                "labels": {"kubernetes.io/service-name": SERVICE}
            },
            "addressType": kind, "ports": ports, "endpoints": endpoints
        }))
        .unwrap();
        Event::Upsert(slice.into())
    }

    fn endpoint(address: &str, conditions: Value) -> Value {
        json!({"addresses": [address], "conditions": conditions})
    }

    fn found(events: Vec<Event>, id: &str) -> Vec<String> {
        let mut index = Index::default();
        for event in events {
            index.apply(event);
        }
        let (port, protocol) = id.split_once('/').unwrap();
        let id = ServicePortId {
            service: SERVICE.parse().unwrap(),
            protocol: if protocol == "UDP" {
                blixt_model::Protocol::Udp
            } else {
                blixt_model::Protocol::Tcp
            },
            port: Port::new(port.parse::<i32>().unwrap()).unwrap(),
        };
        of(&index, &id)
            .endpoints
            .iter()
            .map(|endpoint| format!("{} {} {:?}", endpoint.address, endpoint.port, endpoint.state))
            .collect()
    }

    #[test]
    fn slice_ports_are_found_by_name_and_protocol() {
        let ports = json!([
            {"name": "a", "port": 80, "targetPort": 8080},
            {"name": "b", "port": 81},
            {"name": "c", "port": 80, "protocol": "UDP"}
        ]);
        let slices = json!([
            {"name": "a", "port": 8080, "protocol": "TCP"},
            {"name": "b", "port": 9090, "protocol": "UDP"},
            {"name": "c", "port": 5353, "protocol": "UDP"},
            {"name": "a", "protocol": "TCP"}
        ]);
        let events = || {
            let endpoints = json!([endpoint("10.0.0.1", json!({}))]);
            vec![service(ports.clone(), "None"), slice("s", "IPv4", slices.clone(), endpoints)]
        };
        assert_eq!(found(events(), "80/TCP"), ["10.0.0.1 8080 Ready"]);
        assert_eq!(found(events(), "80/UDP"), ["10.0.0.1 5353 Ready"]);
        // The name is there, but for another protocol.
        assert_eq!(found(events(), "81/TCP"), [""; 0]);
    }

    #[test]
    fn no_name_is_an_empty_name() {
        for name in [json!(null), json!("")] {
            let events = vec![
                service(json!([{"port": 80}]), "None"),
                slice(
                    "s",
                    "IPv4",
                    json!([{"name": name, "port": 8080}]),
                    json!([endpoint("10.0.0.1", json!({}))]),
                ),
            ];
            assert_eq!(found(events, "80/TCP"), ["10.0.0.1 8080 Ready"]);
        }
    }

    fn with_endpoints(kind: &str, endpoints: Value) -> Vec<String> {
        let events = vec![
            service(json!([{"port": 80}]), "None"),
            slice("s", kind, json!([{"port": 8080}]), endpoints),
        ];
        found(events, "80/TCP")
    }

    #[test]
    fn conditions_decide_about_new_flows() {
        let ready = endpoint("10.0.0.1", json!({"ready": true}));
        assert_eq!(
            with_endpoints(
                "IPv4",
                json!([
                    ready,
                    endpoint("10.0.0.2", json!({"ready": false})),
                    endpoint("10.0.0.3", json!({"ready": false, "serving": true, "terminating": true})),
                    endpoint("10.0.0.4", json!({"ready": false, "serving": false, "terminating": true})),
                    endpoint("10.0.0.5", json!({"terminating": true})),
                    {"addresses": ["10.0.0.6", "10.0.0.7"]}
                ])
            ),
            [
                "10.0.0.1 8080 Ready",
                "10.0.0.2 8080 Draining",
                "10.0.0.3 8080 Draining",
                "10.0.0.4 8080 Draining",
                "10.0.0.5 8080 Ready",
                "10.0.0.6 8080 Ready"
            ]
        );
    }

    #[test]
    fn who_still_serves_steps_in_per_family() {
        let serving = json!({"ready": false, "serving": true, "terminating": true});
        let gone = json!({"ready": false, "serving": false});
        let events = vec![
            service(json!([{"port": 80}]), "None"),
            slice(
                "v4",
                "IPv4",
                json!([{"port": 8080}]),
                json!([endpoint("10.0.0.1", serving.clone()), endpoint("10.0.0.2", gone)]),
            ),
            slice(
                "v6",
                "IPv6",
                json!([{"port": 8080}]),
                json!([endpoint("2001:db8::1", serving), endpoint("2001:db8::2", json!({}))]),
            ),
        ];
        assert_eq!(
            found(events, "80/TCP"),
            [
                "10.0.0.1 8080 Ready",
                "10.0.0.2 8080 Draining",
                "2001:db8::1 8080 Draining",
                "2001:db8::2 8080 Ready"
            ]
        );
    }

    #[test]
    fn the_best_state_of_an_endpoint_counts() {
        let one = |conditions| json!([endpoint("10.0.0.1", conditions)]);
        let events = vec![
            service(json!([{"port": 80}]), "None"),
            slice("a", "IPv4", json!([{"port": 8080}]), one(json!({"ready": false}))),
            slice("b", "IPv4", json!([{"port": 8080}]), one(json!({"ready": true}))),
            slice("c", "IPv4", json!([{"port": 8080}]), one(json!({"ready": false}))),
        ];
        assert_eq!(found(events, "80/TCP"), ["10.0.0.1 8080 Ready"]);
    }

    #[test]
    fn addresses_that_no_packet_reaches_are_left_out() {
        let names = json!([{"addresses": ["web.example.com"]}]);
        assert_eq!(with_endpoints("FQDN", names), [""; 0]);
        let odd = json!([
            {"addresses": ["not an address"]}, {"addresses": []}, {"addresses": ["127.0.0.1"]},
            {"addresses": ["2001:db8::1"]}
        ]);
        assert_eq!(with_endpoints("IPv4", odd), [""; 0]);
    }

    #[test]
    fn affinity_is_that_of_the_service() {
        let id = ServicePortId {
            service: SERVICE.parse().unwrap(),
            protocol: blixt_model::Protocol::Tcp,
            port: Port::new(80).unwrap(),
        };
        for (text, affinity) in [("None", Affinity::None), ("ClientIP", Affinity::ClientIp)] {
            let mut index = Index::default();
            index.apply(service(json!([{"port": 80}]), text));
            assert_eq!(of(&index, &id).affinity, affinity);
        }
    }
}
