//! Connections that end on the nodes: HTTPS and TLS, with a certificate of a Secret
//! that is exchanged under load; and a listener that a ListenerSet adds.

use std::time::Duration;

use blixt_e2e::cluster::Cluster;
use blixt_testkit::netns::eventually_some;
use serde_json::json;
use tempfile::NamedTempFile;

use crate::documented::tells;
use crate::served::{SOON, addresses, in_url, programmed};

const NAME: &str = "www.example.com";

const OBJECTS: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: secured, labels: {pool: web}}
spec:
  gatewayClassName: blixt
  allowedListeners: {namespaces: {from: Same}}
  listeners:
  - {name: https, protocol: HTTPS, port: 443, hostname: www.example.com, tls: {certificateRefs: [{name: secured}]}}
  - {name: tls, protocol: TLS, port: 8443, tls: {mode: Terminate, certificateRefs: [{name: secured}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: more}
spec:
  parentRef: {name: secured}
  listeners: [{name: plain, protocol: TCP, port: 9090}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: secured}
spec:
  parentRefs: [{name: secured, sectionName: https}]
  rules: [{backendRefs: [{name: web, port: 8080}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: secured}
spec:
  parentRefs: [{name: secured, sectionName: tls}]
  hostnames: [www.example.com]
  rules: [{backendRefs: [{name: web, port: 8080}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: more}
spec:
  parentRefs: [{kind: ListenerSet, name: more}]
  rules: [{backendRefs: [{name: web, port: 8080}]}]
";

/// A right to one Secret, as operators are told to give it.
const RIGHT: [&str; 2] = [
    "kubectl create role blixt-certificates --namespace shop --verb=list,watch \
     --resource=secrets --resource-name=web-certificate",
    "kubectl create rolebinding blixt-certificates --namespace shop --role=blixt-certificates \
     --serviceaccount=blixt-system:blixt-controller",
];

pub(crate) fn with_a_certificate_that_changes(cluster: &Cluster) {
    let old = certificate(cluster);
    for command in RIGHT.map(tells) {
        // Their Secret is the one of this test here.
        let ours = command.replace("shop", "default").replace("web-certificate", "secured");
        cluster.shell(&ours).ok();
    }
    cluster.apply(OBJECTS);
    eventually_some("secured to be programmed", SOON, || programmed(cluster, "secured"));
    let addresses = addresses(cluster, "secured");
    for address in &addresses {
        for port in [443, 8443] {
            let what = format!("{address} to serve TLS on port {port}");
            eventually_some(what, SOON, || ask(cluster, address, port, &old));
        }
        let plain = format!("http://{}:9090/hostname", in_url(address));
        let ask = || answer(cluster, &["--max-time", "2", &plain]);
        eventually_some("the set's listener to be served", SOON, ask);
    }

    let address = &addresses[0];
    let new = certificate(cluster);
    // Whoever trusts both notices nothing.
    let both = NamedTempFile::new().unwrap();
    let pems = [&old, &new].map(|file| std::fs::read_to_string(file).unwrap());
    std::fs::write(&both, pems.concat()).unwrap();
    let load = cluster
        .client("bash")
        .args(["-c", "while :; do curl -sS --max-time 5 -o /dev/null \"$@\" && echo ok; done", "-"])
        .args(arguments(address, 443, &both))
        .spawn();
    eventually_some("the new certificate", SOON, || ask(cluster, address, 443, &new));
    std::thread::sleep(Duration::from_secs(1));
    let (answered, failed) = load.into_output();
    println!("{} requests while the certificate changed", answered.lines().count());
    assert!(answered.lines().count() > 9 && failed.is_empty(), "{answered}{failed}");
    assert!(ask(cluster, address, 443, &old).is_err(), "the old one is served on");

    cluster.delete(OBJECTS);
    for what in ["secret/secured", "role/blixt-certificates", "rolebinding/blixt-certificates"] {
        cluster.kubectl(&["delete", what]).ok();
    }
}

/// Puts a new certificate and its key into the Secret; gives the file with what to
/// trust.
fn certificate(cluster: &Cluster) -> NamedTempFile {
    let pair = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let certificate = pair.cert.pem();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "secured", "namespace": "default"},
        "stringData": {"tls.crt": certificate, "tls.key": pair.signing_key.serialize_pem()},
    });
    cluster.apply(&secret.to_string());
    let file = NamedTempFile::new().unwrap();
    std::fs::write(&file, certificate).unwrap();
    file
}

/// A pod's name, by TLS.
fn ask(
    cluster: &Cluster,
    address: &str,
    port: u16,
    trusted: &NamedTempFile,
) -> Result<String, String> {
    let arguments = arguments(address, port, trusted);
    answer(cluster, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn arguments(address: &str, port: u16, trusted: &NamedTempFile) -> Vec<String> {
    let trusted = trusted.path().display().to_string();
    let place = format!("{NAME}:{port}:{}", in_url(address));
    let url = format!("https://{NAME}:{port}/hostname");
    let all = ["--max-time", "2", "--cacert", &trusted, "--resolve", &place, &url];
    all.map(str::to_owned).into()
}

fn answer(cluster: &Cluster, arguments: &[&str]) -> Result<String, String> {
    let ran = cluster.client("curl").arg("-sS").args(arguments).run();
    match ran.status.success() && ran.stdout.starts_with("web-") {
        true => Ok(ran.stdout),
        false => Err(format!("{}{}", ran.stdout, ran.stderr)),
    }
}
