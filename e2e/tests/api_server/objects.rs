//! Objects that tests begin with, and what their conditions say.

use std::collections::BTreeMap;

use blixt_e2e::{ApiServer, Id, KubeApi, NAMESPACE};
use serde_json::{Value, json};

/// A class, a Gateway with an address of its own and a ListenerSet, routes of each
/// kind, and Services with endpoints: everything is as it should be.
pub(crate) const SHOP: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: blixt}
spec: {controllerName: gateway.networking.k8s.io/blixt}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: blixt
  addresses: [{value: 192.0.2.1}]
  allowedListeners: {namespaces: {from: Same}}
  listeners:
  - {name: tcp, protocol: TCP, port: 80}
  - {name: udp, protocol: UDP, port: 53}
  - {name: http, protocol: HTTP, port: 8080}
  - {name: tls, protocol: TLS, port: 8443, tls: {mode: Passthrough}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: more, namespace: shop}
spec:
  parentRef: {name: edge}
  listeners: [{name: more, protocol: TCP, port: 9090}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{name: edge, sectionName: tcp}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: more, namespace: shop}
spec:
  parentRefs: [{kind: ListenerSet, name: more}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {name: dns, namespace: shop}
spec:
  parentRefs: [{name: edge, sectionName: udp}]
  rules: [{backendRefs: [{name: dns, port: 53}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: pages, namespace: shop}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: vault, namespace: shop}
spec:
  parentRefs: [{name: edge, sectionName: tls}]
  hostnames: [vault.example.com]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: dns, namespace: shop}
spec: {ports: [{name: dns, protocol: UDP, port: 53}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, protocol: TCP, port: 8080}]
endpoints: [{addresses: [10.1.0.1]}, {addresses: [10.1.0.2]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: dns-1, namespace: shop, labels: {kubernetes.io/service-name: dns}}
addressType: IPv4
ports: [{name: dns, protocol: UDP, port: 53}]
endpoints: [{addresses: [10.1.0.3]}]
";

pub(crate) const CLASS: Id<'_> = Id::cluster("GatewayClass", "blixt");
pub(crate) const EDGE: Id<'_> = Id::namespaced("Gateway", "shop", "edge");
pub(crate) const WEB: Id<'_> = Id::namespaced("TCPRoute", "shop", "web");
pub(crate) const DNS: Id<'_> = Id::namespaced("UDPRoute", "shop", "dns");

pub(crate) const PAGES: Id<'_> = Id::namespaced("HTTPRoute", "shop", "pages");
pub(crate) const VAULT: Id<'_> = Id::namespaced("TLSRoute", "shop", "vault");
pub(crate) const MORE: Id<'_> = Id::namespaced("ListenerSet", "shop", "more");

/// The routes of the Gateway's own listeners, with these.
pub(crate) const ROUTES: [(&Id<'_>, &str); 4] =
    [(&WEB, "tcp"), (&DNS, "udp"), (&PAGES, "http"), (&VAULT, "tls")];

/// The kinds whose status a controller writes.
const WITH_STATUS: [&str; 9] = [
    "GatewayClass",
    "Gateway",
    "ListenerSet",
    "HTTPRoute",
    "TLSRoute",
    "TCPRoute",
    "UDPRoute",
    "AddressPool",
    "GatewayConfig",
];

/// Makes an API server as good as new.
pub(crate) fn remove_all(server: &ApiServer) {
    let kube = &server.kube;
    let others = ["ReferenceGrant", "EndpointSlice", "Node", "Event", "Lease"];
    for kind in WITH_STATUS.into_iter().chain(others) {
        kube.delete_all(kind);
    }
    for service in kube.list("Service") {
        // The API server makes this one itself.
        if service["metadata"]["name"] != "kubernetes" {
            kube.delete(&Id::of(&service));
        }
    }
    for account in kube.list("ServiceAccount") {
        if account["metadata"]["namespace"] == "shop" {
            kube.delete(&Id::of(&account));
        }
    }
    for name in [NAMESPACE, "shop", "kitchen"] {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"room": name}},
        });
        kube.apply_object(&namespace).unwrap();
    }
    // Where agents find controllers, which an installed Service would tell.
    let found = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "blixt-controller", "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": "blixt-controller"},
        },
        "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}], "ports": [],
    });
    kube.apply_object(&found).unwrap();
}

/// The versions of all objects whose status a controller writes: whoever
/// writes anything changes one.
pub(crate) fn versions(kube: &KubeApi) -> BTreeMap<String, Value> {
    let objects = WITH_STATUS.iter().flat_map(|kind| kube.list(kind));
    objects
        .map(|object| (Id::of(&object).to_string(), object["metadata"]["resourceVersion"].clone()))
        .collect()
}

/// How long that may take.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// Waits until nobody has anything to write any more. A replica that is young
/// does not know yet that there are no agents, and writes it once it does.
pub(crate) fn settled(kube: &KubeApi) -> BTreeMap<String, Value> {
    let is_undecided = |gateway: &Value| {
        let says = |what: &str| says(gateway, "/status", &[what]).is_ok();
        says("Programmed=False Pending") && !says("Programmed=False Pending: No agent")
    };
    let mut before = versions(kube);
    let begin = std::time::Instant::now();
    loop {
        std::thread::sleep(std::time::Duration::from_millis(400));
        assert!(begin.elapsed() < LIMIT, "there is always something to write");
        let undecided = kube.list("Gateway").iter().any(is_undecided);
        let now = versions(kube);
        if now == before && !undecided {
            return now;
        }
        before = now;
    }
}

/// Whether the conditions at a place of an object are these, and told of the
/// object as it is. One is written as `TYPE=STATUS REASON`, with a part of the
/// message behind a colon, if need be.
pub(crate) fn says(object: &Value, place: &str, expected: &[&str]) -> Result<(), String> {
    let conditions = object.pointer(&format!("{place}/conditions")).and_then(Value::as_array);
    let conditions = conditions.ok_or_else(|| format!("no conditions at {place}"))?;
    for expected in expected {
        let (head, message) = expected.split_once(": ").unwrap_or((expected, ""));
        let (kind, _) = head.split_once('=').unwrap();
        let found = conditions.iter().find(|condition| condition["type"] == kind);
        let found = found.ok_or_else(|| format!("no condition {kind} at {place}"))?;
        let text = |name: &str| found[name].as_str().unwrap_or_default();
        let is = format!("{kind}={} {}", text("status"), text("reason"));
        if is != head || !text("message").contains(message) {
            return Err(format!("{place}: {is}: {}, not {expected}", text("message")));
        }
        if found["observedGeneration"] != object["metadata"]["generation"] {
            return Err(format!("{place}: {kind} is not told of this generation"));
        }
    }
    Ok(())
}

/// Waits until the conditions of an object are these.
pub(crate) fn becomes(kube: &KubeApi, id: &Id<'_>, expected: &[&str]) {
    kube.eventually(id, |object| says(object, "/status", expected));
}

/// Waits until what a route's first parent says is this.
pub(crate) fn attaches(kube: &KubeApi, id: &Id<'_>, expected: &[&str]) {
    kube.eventually(id, |object| says(object, "/status/parents/0", expected));
}

/// The addresses in a Gateway's status.
pub(crate) fn addresses(gateway: &Value) -> Vec<String> {
    let addresses = gateway.pointer("/status/addresses").and_then(Value::as_array);
    let text = |address: &Value| {
        assert_eq!(address["type"], "IPAddress");
        address["value"].as_str().unwrap().to_owned()
    };
    addresses.into_iter().flatten().map(text).collect()
}
