//! Objects at random, out of a world so small that they meet: few names,
//! ports and addresses, good and bad ones.

use blixt_gateway::Object;
use blixt_gateway::apis::{
    AddressPool, EndpointSlice, Gateway, GatewayClass, HttpRoute, ListenerSet, Namespace,
    ReferenceGrant, Secret, Service, TcpRoute, TlsRoute, UdpRoute,
};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

const GROUP: &str = "gateway.networking.k8s.io";

// In base64, as data of Secrets is. The second is not the key's.
const CERTIFICATE: &str = include_str!("certificate.b64");
const OTHER_CERTIFICATE: &str = include_str!("other-certificate.b64");
const KEY: &str = include_str!("key.b64");

/// Any object, as a manifest: half of them out of a set that works together.
pub(crate) fn any() -> impl Strategy<Value = Value> {
    // Pools are rare: a bad one leaves Gateways without addresses.
    let odd = prop_oneof![
        4 => class(),
        8 => gateway(),
        3 => listener_set(),
        8 => route(),
        4 => grant(),
        2 => secret(),
        4 => service(),
        4 => slice(),
        4 => namespace(),
        1 => pool(),
    ];
    prop_oneof![select(working()), odd]
}

fn working() -> Vec<Value> {
    let text = include_str!("working.json");
    serde_json::from_str(text).unwrap()
}

/// As a type, without any check; `None` if it is of no such shape.
pub(crate) fn read(value: Value) -> Option<Object> {
    fn of<T: serde::de::DeserializeOwned + Into<Object>>(value: Value) -> Option<Object> {
        serde_json::from_value::<T>(value).ok().map(Into::into)
    }
    match value["kind"].as_str()? {
        "Namespace" => of::<Namespace>(value),
        "GatewayClass" => of::<GatewayClass>(value),
        "Gateway" => of::<Gateway>(value),
        "TCPRoute" => of::<TcpRoute>(value),
        "UDPRoute" => of::<UdpRoute>(value),
        "ListenerSet" => of::<ListenerSet>(value),
        "HTTPRoute" => of::<HttpRoute>(value),
        "TLSRoute" => of::<TlsRoute>(value),
        "Secret" => of::<Secret>(value),
        "ReferenceGrant" => of::<ReferenceGrant>(value),
        "Service" => of::<Service>(value),
        "EndpointSlice" => of::<EndpointSlice>(value),
        "AddressPool" => of::<AddressPool>(value),
        _ => None,
    }
}

/// Kind, namespace and name.
pub(crate) fn name_of(value: &Value) -> String {
    let metadata = &value["metadata"];
    format!("{} {} {}", value["kind"], metadata["namespace"], metadata["name"])
}

fn class() -> impl Strategy<Value = Value> + Clone {
    (
        name(),
        mostly(vec!["gateway.networking.k8s.io/blixt"], vec!["example.com/other"]),
        mostly(vec![false], vec![true]),
    )
        .prop_map(|(name, controller, parameters)| {
            let mut spec = json!({"controllerName": controller});
            if parameters {
                spec["parametersRef"] = json!({"group": "example.com", "kind": "X", "name": "x"});
            }
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
                "metadata": {"name": name}, "spec": spec
            })
        })
}

fn pool() -> impl Strategy<Value = Value> {
    let good = vec!["10.0.0.1-10.0.0.3", "10.0.0.0/29", "2001:db8::/120"];
    let odd = vec!["10.0.0.9-10.0.0.1", "10.0.0.1/8", "127.0.0.1", "x"];
    let selectors = mostly(
        vec![json!(null), json!({})],
        vec![
            json!({"matchLabels": {"tier": "web"}}),
            json!({"matchExpressions": [{"key": "tier", "operator": "Odd"}]}),
        ],
    );
    let addresses = prop::collection::vec(mostly(good, odd), 0..3);
    let auto = mostly(vec![true], vec![false]);
    (name(), addresses, auto, mostly(vec!["VIP"], vec!["SNAT", "vip"]), selectors).prop_map(
        |(name, addresses, auto, r#use, selector)| {
            json!({
                "apiVersion": "blixt.dev/v1alpha1", "kind": "AddressPool",
                "metadata": {"name": name},
                "spec": {
                    "use": r#use, "addresses": addresses, "autoAssign": auto,
                    "namespaceSelector": selector
                }
            })
        },
    )
}

fn gateway() -> BoxedStrategy<Value> {
    let good = vec![
        json!({"value": "10.0.0.1"}),
        json!({"type": "IPAddress", "value": "10.0.0.2"}),
        json!({"value": "2001:db8::1"}),
    ];
    let odd = vec![
        json!({"value": "2001:DB8:0::1"}),
        json!({"value": "::ffff:10.0.0.1"}),
        json!({"value": "127.0.0.1"}),
        json!({"value": "10.0.0.99"}),
        json!({"value": "10.0.0.0/8"}),
        json!({"type": "IPAddress"}),
        json!({"type": "Hostname", "value": "a.example"}),
        json!({"type": "example.com/x", "value": "a"}),
    ];
    let address = mostly(good, odd);
    let addresses = prop::collection::vec(address, 0..3);
    let listeners = prop::collection::vec(listener(), 1..4);
    let good = vec![json!(null), json!({"namespaces": {"from": "All"}})];
    let odd = vec![
        json!({}),
        json!({"namespaces": {"from": "Same"}}),
        json!({"namespaces": {"from": "None"}}),
        json!({"namespaces": {"from": "Selector"}}),
        json!({"namespaces": {"from": "Selector", "selector": {"matchLabels": {"tier": "web"}}}}),
    ];
    (metadata(), name(), addresses, listeners, mostly(good, odd))
        .prop_map(|(metadata, class, addresses, listeners, sets)| {
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": metadata,
                "spec": {
                    "gatewayClassName": class, "addresses": addresses, "listeners": listeners,
                    "allowedListeners": sets
                }
            })
        })
        .boxed()
}

fn listener_set() -> BoxedStrategy<Value> {
    let kind = mostly(vec![json!(null), json!("Gateway")], vec![json!("Service")]);
    let listeners = prop::collection::vec(listener(), 1..4);
    (metadata(), kind, optional(namespace_name()), name(), listeners)
        .prop_map(|(metadata, kind, namespace, name, listeners)| {
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ListenerSet",
                "metadata": metadata,
                "spec": {
                    "parentRef": {"kind": kind, "namespace": namespace, "name": name},
                    "listeners": listeners
                }
            })
        })
        .boxed()
}

fn listener() -> impl Strategy<Value = Value> {
    let protocols = mostly(vec!["TCP", "UDP", "HTTP", "TLS", "HTTPS"], vec!["example.com/x"]);
    let good = vec![json!(null), json!({}), json!({"namespaces": {"from": "All"}})];
    let odd = vec![
        json!({"namespaces": {"from": "Same"}}),
        json!({"namespaces": {"from": "Selector"}}),
        json!({"namespaces": {"from": "Selector", "selector": {"matchLabels": {"tier": "web"}}}}),
        json!({"namespaces": {"from": "Selector", "selector": {
            "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["web"]}]}}}),
        json!({"namespaces": {"from": "Selector", "selector": {
            "matchExpressions": [{"key": "tier", "operator": "Odd"}]}}}),
        json!({"kinds": [{"kind": "TCPRoute"}]}),
        json!({"kinds": [{"kind": "HTTPRoute"}, {"kind": "UDPRoute"}, {"group": "", "kind": "TCPRoute"}]}),
    ];
    let allowed = mostly(good, odd);
    let named = mostly(vec!["a", "b"], vec!["Not A Name"]);
    (named, protocols, port(), allowed, hostname(), tls()).prop_map(
        |(name, protocol, port, allowed, hostname, tls)| {
            let tls = if matches!(protocol, "HTTPS" | "TLS") { tls } else { Value::Null };
            json!({
                "name": name, "protocol": protocol, "port": port, "allowedRoutes": allowed,
                "hostname": hostname, "tls": tls
            })
        },
    )
}

fn hostname() -> impl Strategy<Value = Value> {
    let good = vec![json!(null), json!("a.example"), json!("*.example")];
    mostly(good, vec![json!("b.a.example"), json!(""), json!("*"), json!("Not A Name")])
}

fn tls() -> impl Strategy<Value = Value> {
    let reference = (
        mostly(vec![json!(null), json!("Secret")], vec![json!("Pod")]),
        optional(namespace_name()),
        name(),
    )
        .prop_map(
            |(kind, namespace, name)| json!({"kind": kind, "namespace": namespace, "name": name}),
        );
    let mode = select(vec![json!(null), json!("Terminate"), json!("Passthrough")]);
    let options = mostly(vec![json!(null)], vec![json!({"example.com/x": "y"})]);
    (mode, prop::collection::vec(reference, 0..3), options).prop_map(
        |(mode, references, options)| {
            json!({"mode": mode, "certificateRefs": references, "options": options})
        },
    )
}

fn secret() -> impl Strategy<Value = Value> {
    let chain = mostly(vec![CERTIFICATE, OTHER_CERTIFICATE], vec!["", "SGVsbG8="]);
    let kind = mostly(vec![json!("kubernetes.io/tls")], vec![json!(null), json!("Opaque")]);
    (metadata(), kind, chain, mostly(vec![KEY], vec!["SGVsbG8="])).prop_map(
        |(metadata, kind, chain, key)| {
            json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind,
                "data": {"tls.crt": chain, "tls.key": key}
            })
        },
    )
}

fn route() -> BoxedStrategy<Value> {
    let parent = (
        mostly(vec![json!(null), json!(GROUP)], vec![json!("")]),
        mostly(vec![json!(null), json!("Gateway")], vec![json!("Service"), json!("ListenerSet")]),
        optional(namespace_name()),
        name(),
        optional(name()),
        optional(port()),
    )
        .prop_map(|(group, kind, namespace, name, section, port)| {
            json!({
                "group": group, "kind": kind, "namespace": namespace, "name": name,
                "sectionName": section, "port": port
            })
        });
    let backend = (
        mostly(vec![json!(null), json!("Service")], vec![json!("Pod")]),
        optional(namespace_name()),
        name(),
        optional(port()),
        mostly(vec![json!(null), json!(3)], vec![json!(0), json!(1_000_000), json!(1_000_001), json!(-1)]),
    )
        .prop_map(|(kind, namespace, name, port, weight)| {
            json!({"kind": kind, "namespace": namespace, "name": name, "port": port, "weight": weight})
        });
    let parents = prop::collection::vec(parent, 0..3);
    let backends = prop::collection::vec(backend, 0..3);
    let kind = select(vec!["TCPRoute", "UDPRoute", "HTTPRoute", "TLSRoute"]);
    let matches = mostly(vec![json!(null)], vec![json!([{"method": "GET"}])]);
    (kind, metadata(), parents, backends, prop::collection::vec(hostname(), 0..3), matches)
        .prop_map(|(kind, metadata, parents, backends, hostnames, matches)| {
            let mut rule = json!({"backendRefs": backends});
            let mut spec = json!({"parentRefs": parents});
            if matches!(kind, "HTTPRoute" | "TLSRoute") {
                spec["hostnames"] = hostnames.into_iter().filter(Value::is_string).collect();
            }
            if kind == "HTTPRoute" {
                rule["matches"] = matches;
            }
            spec["rules"] = json!([rule]);
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": metadata,
                "spec": spec
            })
        })
        .boxed()
}

fn grant() -> impl Strategy<Value = Value> {
    let kind =
        select(vec!["TCPRoute", "UDPRoute", "HTTPRoute", "TLSRoute", "Gateway", "ListenerSet"]);
    (metadata(), kind, namespace_name(), optional(name())).prop_map(
        |(metadata, kind, from, name)| {
            let to = if matches!(kind, "Gateway" | "ListenerSet") { "Secret" } else { "Service" };
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant",
                "metadata": metadata,
                "spec": {
                    "from": [{"group": GROUP, "kind": kind, "namespace": from}],
                    "to": [{"group": "", "kind": to, "name": name}]
                }
            })
        },
    )
}

fn service() -> impl Strategy<Value = Value> {
    let port = (optional(name()), port(), select(vec![json!(null), json!("TCP"), json!("UDP")]))
        .prop_map(
            |(name, port, protocol)| json!({"name": name, "port": port, "protocol": protocol}),
        );
    let kind = mostly(vec![json!(null)], vec![json!("ExternalName")]);
    let affinity = select(vec![json!(null), json!("ClientIP"), json!("Odd")]);
    (metadata(), prop::collection::vec(port, 0..3), kind, affinity).prop_map(
        |(metadata, ports, kind, affinity)| {
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": metadata,
                "spec": {"ports": ports, "type": kind, "sessionAffinity": affinity}
            })
        },
    )
}

fn slice() -> BoxedStrategy<Value> {
    let odd = vec!["10.0.0.1", "::ffff:10.1.0.1", "127.0.0.1", "255.255.255.255", "a.example", ""];
    let address = mostly(vec!["10.1.0.1", "10.1.0.2", "2001:db8:1::1"], odd);
    let condition = || select(vec![json!(null), json!(true), json!(false)]);
    let endpoint = (prop::collection::vec(address, 0..2), condition(), condition(), condition())
        .prop_map(|(addresses, ready, serving, terminating)| {
            let conditions =
                json!({"ready": ready, "serving": serving, "terminating": terminating});
            json!({"addresses": addresses, "conditions": conditions})
        });
    let port =
        (optional(name()), optional(port()), select(vec![json!(null), json!("TCP"), json!("UDP")]))
            .prop_map(
                |(name, port, protocol)| json!({"name": name, "port": port, "protocol": protocol}),
            );
    let endpoints = prop::collection::vec(endpoint, 0..4);
    let ports = prop::collection::vec(port, 0..3);
    let family = mostly(vec!["IPv4", "IPv4", "IPv6"], vec!["FQDN", "odd"]);
    (metadata(), optional(name()), family, ports, endpoints)
        .prop_map(|(mut metadata, service, family, ports, endpoints)| {
            metadata["labels"] = match service {
                Value::Null => Value::Null,
                service => json!({"kubernetes.io/service-name": service}),
            };
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
                "addressType": family, "ports": ports, "endpoints": endpoints
            })
        })
        .boxed()
}

fn namespace() -> impl Strategy<Value = Value> {
    (namespace_name(), select(vec!["web", "db"])).prop_map(|(name, tier)| {
        let metadata = json!({"name": name, "labels": {"tier": tier}});
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    })
}

fn metadata() -> impl Strategy<Value = Value> {
    let created = select(vec![json!(null), json!(null), json!("2026-01-01T00:00:00Z")]);
    (namespace_name(), name(), created, 1_i64..3).prop_map(
        |(namespace, name, created, generation)| {
            json!({
                "namespace": namespace, "name": name, "creationTimestamp": created,
                "generation": generation
            })
        },
    )
}

fn name() -> impl Strategy<Value = Value> + Clone {
    mostly(vec!["a"], vec!["b", "c"]).prop_map(Value::from)
}

fn namespace_name() -> impl Strategy<Value = Value> + Clone {
    mostly(vec!["default"], vec!["x"]).prop_map(Value::from)
}

fn port() -> impl Strategy<Value = Value> + Clone {
    mostly(vec![1, 2], vec![0, 65_535, 65_536]).prop_map(Value::from)
}

fn optional(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop_oneof![1 => Just(Value::Null), 2 => value]
}

/// Good most of the time, or nothing would ever work.
fn mostly<T>(good: Vec<T>, odd: Vec<T>) -> impl Strategy<Value = T> + Clone
where
    T: Clone + std::fmt::Debug + 'static,
{
    prop_oneof![5 => select(good), 1 => select(odd)]
}
