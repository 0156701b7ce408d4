//! As many objects as are asked for, all of them good.

use serde_json::{Value, json};

/// How many there are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) gateways: usize,
    /// TCPRoutes and UDPRoutes in turn, each with a Service of its own, spread
    /// over the Gateways' listeners.
    pub(crate) routes: usize,
    /// Spread over the Services, at most 100 in an EndpointSlice, as the
    /// cluster's own controller does it.
    pub(crate) endpoints: usize,
}

const NAMESPACE: &str = "scale";
const SLICE: usize = 100;

/// All of them, in an order in which they can be made.
pub(crate) fn all(size: Size) -> Vec<Value> {
    let mut all = vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
            "metadata": {"name": "blixt"},
            "spec": {"controllerName": "gateway.networking.k8s.io/blixt"},
        }),
        json!({
            "apiVersion": "blixt.dev/v1alpha1", "kind": "AddressPool",
            "metadata": {"name": "scale"},
            "spec": {"addresses": ["198.18.0.0/16"]},
        }),
    ];
    all.extend((0..size.gateways).map(gateway));
    for route in 0..size.routes {
        let endpoints = share(size.endpoints, size.routes, route);
        all.extend([self::route(route, size.gateways), service(route)]);
        all.extend((0..endpoints.div_ceil(SLICE)).map(|slice| {
            let of_slice = (endpoints - slice * SLICE).min(SLICE);
            slice_of(route, slice, of_slice, 0)
        }));
    }
    all
}

/// A slice of the first route's Service that has other endpoints each time.
pub(crate) fn changed(size: Size, time: usize) -> Value {
    let endpoints = share(size.endpoints, size.routes, 0).min(SLICE);
    slice_of(0, 0, endpoints, 1 + time % 100)
}

/// The name of a Gateway.
pub(crate) fn gateway_name(index: usize) -> String {
    format!("{NAMESPACE}/gateway-{index}")
}

/// How many of `all` fall to one of `among`.
fn share(all: usize, among: usize, one: usize) -> usize {
    all / among + usize::from(one < all % among)
}

fn protocol(route: usize) -> (&'static str, &'static str) {
    if route.is_multiple_of(2) { ("TCP", "tcp") } else { ("UDP", "udp") }
}

fn gateway(index: usize) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": format!("gateway-{index}"), "namespace": NAMESPACE},
        "spec": {
            "gatewayClassName": "blixt",
            "listeners": [
                {"name": "tcp", "protocol": "TCP", "port": 80},
                {"name": "udp", "protocol": "UDP", "port": 80},
            ],
        },
    })
}

fn route(index: usize, gateways: usize) -> Value {
    let (protocol, listener) = protocol(index);
    // Two in a row are the two listeners of a Gateway.
    let gateway = format!("gateway-{}", index / 2 % gateways);
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": format!("{protocol}Route"),
        "metadata": {"name": format!("route-{index}"), "namespace": NAMESPACE},
        "spec": {
            "parentRefs": [{"name": gateway, "sectionName": listener}],
            "rules": [{"backendRefs": [{"name": format!("service-{index}"), "port": 80}]}],
        },
    })
}

fn service(index: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("service-{index}"), "namespace": NAMESPACE},
        "spec": {
            // A Service with an address costs the API server a write of its own.
            "clusterIP": "None",
            "ports": [{"name": "port", "protocol": protocol(index).0, "port": 80}],
        },
    })
}

/// The endpoints of a slice. `variant` moves the first of them elsewhere.
fn slice_of(route: usize, slice: usize, endpoints: usize, variant: usize) -> Value {
    let address = |endpoint: usize| {
        let host = slice * SLICE + endpoint;
        let first = if endpoint == 0 { 10 + variant } else { 10 };
        format!("{first}.{}.{}.{}", route / 250, route % 250, host % 250)
    };
    let endpoint = |index| json!({"addresses": [address(index)], "conditions": {"ready": true}});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("service-{route}-{slice}"), "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": format!("service-{route}")},
        },
        "addressType": "IPv4",
        "ports": [{"name": "port", "protocol": protocol(route).0, "port": 8080}],
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>(),
    })
}
