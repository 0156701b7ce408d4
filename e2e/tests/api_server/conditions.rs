//! What becomes of objects, as their conditions say it.

use std::time::Duration;

use blixt_e2e::{ApiServer, Controller, Id};
use blixt_testkit::netns::eventually;
use serde_json::{Value, json};

use crate::Test;
use crate::objects::{
    self, CLASS, DNS, EDGE, MORE, ROUTES, SHOP, WEB, addresses, attaches, becomes, says,
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("what_is_good_is_told_so", what_is_good_is_told_so),
    ("a_class_stays_as_long_as_it_is_used", a_class_stays_as_long_as_it_is_used),
    ("crds_of_another_release_are_told", crds_of_another_release_are_told),
    ("references_are_followed_as_they_change", references_are_followed_as_they_change),
    ("a_secret_that_breaks_is_told_and_served_as_it_was", a_secret_that_breaks),
    ("endpoints_come_and_go", endpoints_come_and_go),
    ("nonsense_gets_its_condition_and_disturbs_nobody", nonsense_gets_its_condition),
];

const PATIENCE: Duration = Duration::from_secs(20);

fn what_is_good_is_told_so(server: &mut ApiServer) {
    // Objects first, or the controller first: it is all one.
    server.kube.apply(SHOP);
    let controller = Controller::start(server, "a");
    let kube = &server.kube;
    becomes(kube, &CLASS, &["Accepted=True Accepted", "SupportedVersion=True SupportedVersion"]);
    let features = kube.get(&CLASS).unwrap()["status"]["supportedFeatures"].clone();
    let names: Vec<_> =
        features.as_array().unwrap().iter().map(|feature| feature["name"].to_string()).collect();
    assert!(names.is_sorted() && !names.is_empty(), "{names:?}");

    becomes(
        kube,
        &EDGE,
        &["Accepted=True Accepted", "Programmed=False Pending: No agent is connected"],
    );
    let gateway = kube.eventually(&EDGE, |gateway| {
        for place in (0..4).map(|n| format!("/status/listeners/{n}")) {
            says(
                gateway,
                &place,
                &[
                    "Accepted=True Accepted",
                    "Programmed=False Pending",
                    "ResolvedRefs=True ResolvedRefs",
                    "Conflicted=False NoConflicts",
                ],
            )?;
            if gateway.pointer(&place).unwrap()["attachedRoutes"] != 1 {
                return Err(format!("{place}: a route is missing"));
            }
        }
        Ok(gateway.clone())
    });
    assert_eq!(addresses(&gateway), ["192.0.2.1"]);
    let kinds = gateway["status"]["listeners"][0]["supportedKinds"].clone();
    assert_eq!(kinds, json!([{"group": "gateway.networking.k8s.io", "kind": "TCPRoute"}]));

    becomes(kube, &MORE, &["Accepted=True Accepted", "Programmed=False Pending"]);
    let of_set = Id::new("TCPRoute", "shop/more");
    attaches(kube, &of_set, &["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]);
    for (id, parent) in ROUTES {
        attaches(kube, id, &["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]);
        let status = kube.get(id).unwrap()["status"]["parents"][0].clone();
        assert_eq!(status["controllerName"], "gateway.networking.k8s.io/blixt");
        // As the API server has it in the spec: with its defaults.
        assert_eq!(status["parentRef"], kube.get(id).unwrap()["spec"]["parentRefs"][0]);
        assert_eq!(status["parentRef"]["sectionName"], parent);
    }
    let log = controller.stop();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

fn a_class_stays_as_long_as_it_is_used(server: &mut ApiServer) {
    const FINALIZER: &str = "gateway-exists-finalizer.gateway.networking.k8s.io";
    let _controller = Controller::start(server, "a");
    let kube = &server.kube;
    let is_kept = |class: &Value| class["metadata"]["finalizers"] == json!([FINALIZER]);
    kube.apply(SHOP);
    kube.eventually(&CLASS, |class| is_kept(class).then_some(()).ok_or("no finalizer".to_owned()));
    kube.delete(&CLASS);
    // It is on its way out, and its Gateway is served all the same.
    becomes(kube, &EDGE, &["Accepted=True Accepted"]);
    assert!(kube.get(&CLASS).unwrap()["metadata"]["deletionTimestamp"].is_string());
    kube.delete(&EDGE);
    eventually("the class to go", PATIENCE, || kube.get(&CLASS).is_none());
}

fn crds_of_another_release_are_told(server: &mut ApiServer) {
    const CRD: Id<'_> =
        Id::cluster("CustomResourceDefinition", "gateways.gateway.networking.k8s.io");
    const VERSION: &str = "gateway.networking.k8s.io/bundle-version";
    let _controller = Controller::start(server, "a");
    let kube = &server.kube;
    kube.apply(SHOP);
    becomes(kube, &CLASS, &["SupportedVersion=True SupportedVersion"]);
    let before = kube.get(&CRD).unwrap()["metadata"]["annotations"][VERSION].clone();
    kube.merge(&CRD, json!({"metadata": {"annotations": {VERSION: "v1.9.0"}}}));
    let told = "SupportedVersion=False UnsupportedVersion: Gateway API v1.9.0";
    // The best is done nevertheless.
    becomes(kube, &CLASS, &[told, "Accepted=True Accepted"]);
    kube.merge(&CRD, json!({"metadata": {"annotations": {VERSION: before}}}));
    becomes(kube, &CLASS, &["SupportedVersion=True SupportedVersion"]);
}

fn references_are_followed_as_they_change(server: &mut ApiServer) {
    let controller = Controller::start(server, "a");
    let kube = &server.kube;
    kube.apply(SHOP);
    attaches(kube, &WEB, &["ResolvedRefs=True ResolvedRefs"]);

    // A Service of another namespace takes a grant, as long as it stands.
    kube.apply(
        "
apiVersion: v1
kind: Service
metadata: {name: oven, namespace: kitchen}
spec: {ports: [{port: 80}]}
",
    );
    let to = |reference: Value| json!({"spec": {"rules": [{"backendRefs": [reference]}]}});
    kube.merge(&WEB, to(json!({"name": "oven", "namespace": "kitchen", "port": 80})));
    let refused = ["Accepted=True Accepted", "ResolvedRefs=False RefNotPermitted: kitchen/oven"];
    attaches(kube, &WEB, &refused);
    kube.apply(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: shop, namespace: kitchen}
spec:
  from: [{group: gateway.networking.k8s.io, kind: TCPRoute, namespace: shop}]
  to: [{group: '', kind: Service, name: oven}]
",
    );
    attaches(kube, &WEB, &["ResolvedRefs=True ResolvedRefs"]);
    kube.delete(&Id::new("ReferenceGrant", "kitchen/shop"));
    attaches(kube, &WEB, &refused);

    // A Service that goes, a port it does not have, a kind that is none.
    kube.merge(&WEB, to(json!({"name": "web", "port": 80})));
    attaches(kube, &WEB, &["ResolvedRefs=True ResolvedRefs"]);
    kube.delete(&Id::new("Service", "shop/web"));
    attaches(kube, &WEB, &["Accepted=True Accepted", "ResolvedRefs=False BackendNotFound"]);
    kube.apply(SHOP);
    attaches(kube, &WEB, &["ResolvedRefs=True ResolvedRefs"]);
    kube.merge(&WEB, to(json!({"name": "web", "port": 81})));
    attaches(kube, &WEB, &["ResolvedRefs=False BackendNotFound: 81"]);
    kube.merge(
        &WEB,
        to(json!({"group": "example.com", "kind": "Bucket", "name": "x", "port": 80})),
    );
    attaches(kube, &WEB, &["Accepted=True Accepted", "ResolvedRefs=False InvalidKind"]);

    // A listener that there is not, and one of another protocol.
    let of =
        |section: &str| json!({"spec": {"parentRefs": [{"name": "edge", "sectionName": section}]}});
    kube.merge(&WEB, of("nowhere"));
    attaches(kube, &WEB, &["Accepted=False NoMatchingParent"]);
    kube.merge(&WEB, of("udp"));
    attaches(kube, &WEB, &["Accepted=False NotAllowedByListeners"]);
    kube.eventually(&EDGE, |gateway| match &gateway["status"]["listeners"][0]["attachedRoutes"] {
        Value::Number(none) if none.as_u64() == Some(0) => Ok(()),
        other => Err(format!("{other} routes are attached")),
    });
    // The UDPRoute beside it was never touched.
    attaches(kube, &DNS, &["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]);
    assert_eq!(controller.writes("failed"), 0.0);
}

/// As docs/operations.md has it.
const READS_CERT: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: blixt-certificates, namespace: shop}
rules: [{apiGroups: [''], resources: [secrets], resourceNames: [cert], verbs: [list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: blixt-certificates, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: blixt-certificates}
subjects: [{kind: ServiceAccount, name: blixt-controller, namespace: blixt-system}]
";

fn a_secret_that_breaks(server: &mut ApiServer) {
    const CERT: Id<'_> = Id::namespaced("Secret", "shop", "cert");
    let _controller = Controller::start(server, "a");
    let kube = &server.kube;
    kube.apply(SHOP);
    kube.apply(READS_CERT);
    kube.merge(
        &EDGE,
        json!({"spec": {"listeners": [{
            "name": "https", "protocol": "HTTPS", "port": 443,
            "tls": {"certificateRefs": [{"name": "cert"}]},
        }]}}),
    );
    let says_of_it = |conditions: &[&str]| {
        kube.eventually(&EDGE, |gateway| says(gateway, "/status/listeners/0", conditions));
    };
    let missing = "ResolvedRefs=False InvalidCertificateRef: certificateRefs[0] is Secret shop/cert, \
                   which does not exist";
    says_of_it(&[missing, "Programmed=False Invalid"]);
    let pair = rcgen::generate_simple_self_signed(vec!["www.example.com".to_owned()]).unwrap();
    let secret = |certificate: &str| {
        let certificate = serde_json::to_string(certificate).unwrap();
        let key = serde_json::to_string(&pair.signing_key.serialize_pem()).unwrap();
        kube.apply(&format!(
            "
apiVersion: v1
kind: Secret
metadata: {{name: cert, namespace: shop}}
type: kubernetes.io/tls
stringData: {{tls.crt: {certificate}, tls.key: {key}}}
"
        ));
    };
    secret(&pair.cert.pem());
    // Not yet: there is no agent. But it is in the tables.
    says_of_it(&["ResolvedRefs=True ResolvedRefs", "Programmed=False Pending"]);
    secret("Hello");
    let last = "ResolvedRefs=False InvalidCertificateRef: certificateRefs[0] is Secret shop/cert, \
                which has no certificate in tls.crt: it must be PEM, so the last good certificate \
                in it is served.";
    says_of_it(&[last, "Programmed=False Pending"]);
    secret(&pair.cert.pem());
    says_of_it(&["ResolvedRefs=True ResolvedRefs", "Programmed=False Pending"]);
    secret("Hello");
    says_of_it(&[last]);
    // Who deletes it wants it served no more.
    kube.delete(&CERT);
    says_of_it(&[missing, "Programmed=False Invalid"]);
}

fn endpoints_come_and_go(server: &mut ApiServer) {
    let controller = Controller::start(server, "a");
    let kube = &server.kube;
    kube.apply(SHOP);
    let endpoints = |expected: usize| {
        eventually(format!("{expected} endpoints"), PATIENCE, || {
            controller.metrics().sum("blixt_controller_endpoints", &[]) == expected as f64
        });
    };
    endpoints(3);
    let before = objects::settled(kube);
    // As many as a slice can have.
    let many: Vec<_> = (0..1_000)
        .map(|n| json!({"addresses": [format!("10.2.{}.{}", n / 250, n % 250 + 1)]}))
        .collect();
    let slice = Id::new("EndpointSlice", "shop/web-1");
    kube.merge(&slice, json!({"endpoints": many}));
    endpoints(1_001);
    kube.merge(&slice, json!({"endpoints": []}));
    endpoints(1);
    kube.delete(&slice);
    kube.apply(SHOP);
    endpoints(3);
    // Pods come and go all day: no status tells of them.
    assert_eq!(objects::settled(kube), before);
}

fn nonsense_gets_its_condition(server: &mut ApiServer) {
    let controller = Controller::start(server, "a");
    let kube = &server.kube;
    kube.apply(SHOP);
    becomes(kube, &EDGE, &["Accepted=True Accepted"]);
    let before = objects::settled(kube);
    let gateway = |name: &str, spec: Value| {
        let mut spec = spec;
        spec["gatewayClassName"] = json!("blixt");
        kube.apply_object(&json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": name, "namespace": "kitchen"}, "spec": spec,
        }))
        .unwrap();
    };
    let tcp = json!([{"name": "tcp", "protocol": "TCP", "port": 80}]);
    for (name, spec, expected) in [
        (
            "of-somebody-else",
            json!({"listeners": tcp, "addresses": [{"value": "192.0.2.1"}]}),
            "Programmed=False AddressNotUsable: already belongs to Gateway shop/edge",
        ),
        (
            "multicast",
            json!({"listeners": tcp, "addresses": [{"value": "224.0.0.1"}]}),
            "Programmed=False AddressNotUsable: is a multicast address",
        ),
        (
            "hostname",
            json!({"listeners": tcp, "addresses": [{"type": "Hostname", "value": "a.example"}]}),
            "Accepted=False UnsupportedAddress: Use IPAddress",
        ),
        (
            "parameters",
            json!({"listeners": tcp, "infrastructure": {"parametersRef": {
                "group": "example.com", "kind": "Thing", "name": "x"}}}),
            "Accepted=False InvalidParameters: parametersRef",
        ),
        (
            "protocol",
            json!({"listeners": [{"name": "x", "protocol": "example.com/QUIC", "port": 80}]}),
            "Accepted=False ListenersNotValid: x",
        ),
    ] {
        gateway(name, spec);
        let id = format!("kitchen/{name}");
        becomes(kube, &Id::new("Gateway", &id), &[expected]);
    }
    kube.apply(
        "
apiVersion: blixt.dev/v1alpha1
kind: AddressPool
metadata: {name: typo}
spec: {addresses: [192.0.2.300, 192.0.2.0/28]}
",
    );
    let pool = Id::new("AddressPool", "typo");
    becomes(kube, &pool, &["Accepted=False InvalidParameters: 192.0.2.300"]);
    kube.delete(&pool);
    // Nobody else noticed.
    becomes(kube, &EDGE, &["Accepted=True Accepted", "Programmed=False Pending"]);
    let after = objects::settled(kube);
    for (object, version) in before.iter().filter(|(object, _)| !object.starts_with("Gateway ")) {
        assert_eq!(&after[object], version, "{object}");
    }
    assert_eq!(controller.writes("failed"), 0.0);
}
