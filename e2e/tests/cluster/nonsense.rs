//! What makes no sense, what is taken away under traffic, and what a node can't do: it
//! is told, clients are refused rather than left waiting, and nobody else notices.

use blixt_e2e::cluster::Cluster;
use blixt_e2e::lab;
use blixt_testkit::netns::eventually_some;
use serde_json::json;

use crate::documented::tells;
use crate::served::{SOON, addresses, in_url, programmed};

/// As many endpoints as a slice can have.
const MANY: usize = 1_000;

/// Where these endpoints are: behind the nodes' router, all of them one server.
const NETWORK: &str = "10.99.0.0/22";

/// A Gateway whose route leads into another namespace.
const CROWD: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: crowd, labels: {pool: web}}
spec:
  gatewayClassName: blixt
  listeners: [{name: web, protocol: TCP, port: 8080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: crowd}
spec:
  parentRefs: [{name: crowd}]
  rules: [{backendRefs: [{name: crowd, namespace: shop, port: 8080}]}]
";

const GRANT: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: crowd, namespace: shop}
spec:
  from: [{group: gateway.networking.k8s.io, kind: TCPRoute, namespace: default}]
  to: [{group: '', kind: Service}]
";

const SERVICE: &str = r"
apiVersion: v1
kind: Service
metadata: {name: crowd, namespace: shop}
spec: {ports: [{port: 8080}]}
";

/// A port that streams are taken on, which a node has to have free.
const STREAM: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: stream, labels: {pool: web}}
spec:
  gatewayClassName: blixt
  listeners: [{name: web, protocol: HTTP, port: 8088}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: stream}
spec:
  parentRefs: [{name: stream}]
  rules: [{backendRefs: [{name: web, port: 8080}]}]
";

/// A pool with addresses that are another's too.
const AGAIN: &str = r"
apiVersion: blixt.dev/v1alpha1
kind: AddressPool
metadata: {name: again}
spec: {addresses: [192.0.2.100-192.0.2.101]}
";

pub(crate) fn disturbs_nobody(cluster: &Cluster) {
    if !cluster.is_ours_or_skip("what makes no sense") {
        return;
    }
    cluster.at("control", "ip").args(["route", "add", "local", NETWORK, "dev", "lo"]).ok();
    let agnhost = lab::bin("agnhost");
    let server = cluster
        .at("control", agnhost.to_str().unwrap())
        .args(["netexec", "--http-port=8080"])
        .spawn();
    let web = addresses(cluster, "web");
    let load = cluster.load(&format!("{}:8080", in_url(&web[0])));

    for yaml in [CROWD, GRANT, SERVICE, &slice(MANY)] {
        cluster.apply(yaml);
    }
    let found = || programmed(cluster, "crowd");
    eventually_some("crowd to be programmed", SOON, found);
    let crowd = addresses(cluster, "crowd").remove(0);
    answers(cluster, &crowd);

    cluster.delete(GRANT);
    told(cluster, "tcproute/crowd", "ResolvedRefs=False RefNotPermitted");
    refuses(cluster, &crowd);
    cluster.apply(GRANT);
    answers(cluster, &crowd);

    cluster.apply(&slice(0));
    refuses(cluster, &crowd);
    told(cluster, "tcproute/crowd", "ResolvedRefs=True ResolvedRefs");
    cluster.apply(&slice(MANY));
    answers(cluster, &crowd);

    let of_crowd = cluster.load(&format!("{crowd}:8080"));
    cluster.delete(SERVICE);
    told(cluster, "tcproute/crowd", "ResolvedRefs=False BackendNotFound");
    refuses(cluster, &crowd);
    // Its slice goes with it, sooner or later.
    for yaml in [SERVICE, &slice(MANY)] {
        cluster.apply(yaml);
    }
    answers(cluster, &crowd);
    let outcome = of_crowd.stop();
    let waited: Vec<_> =
        outcome.failures.iter().filter(|failure| failure.contains("curl: (28)")).collect();
    assert!(waited.is_empty(), "who is refused need not wait to know it: {waited:#?}");

    pools_that_change(cluster, &web);
    a_port_that_a_node_has(cluster);
    for yaml in [CROWD, AGAIN] {
        cluster.delete(yaml);
    }
    let outcome = load.stop();
    server.into_output();
    println!("the other Gateway meanwhile: {} requests answered", outcome.answered);
    assert!(outcome.failures.is_empty(), "requests failed: {:#?}", outcome.failures);
}

/// A pool is emptied, shrinks to what one Gateway has, grows again, and gets a
/// double.
fn pools_that_change(cluster: &Cluster, web: &[String]) {
    let set = |addresses: serde_json::Value| {
        let patch = json!({"spec": {"addresses": addresses}}).to_string();
        cluster.kubectl(&["patch", "addresspool", "web", "--type=merge", "-p", &patch]).run()
    };
    let get = ["get", "addresspool", "web", "-o", "jsonpath={.spec.addresses}"];
    let before: serde_json::Value = serde_json::from_str(&cluster.kubectl(&get).ok()).unwrap();

    let refused = set(json!([]));
    assert!(refused.stderr.contains("spec.addresses"), "{refused:?}");
    set(json!(web)).ok();
    told(cluster, "gateway/crowd", "Programmed=False AddressNotAssigned");
    explained(cluster, "crowd", "AddressPool web has no free address");
    cluster.kubectl(&["label", "gateway", "crowd", "pool-"]).ok();
    explained(cluster, "crowd", "No AddressPool is for this Gateway");
    cluster.kubectl(&["label", "gateway", "crowd", "pool=web"]).ok();
    set(before).ok();
    eventually_some("crowd to be programmed again", SOON, || programmed(cluster, "crowd"));
    answers(cluster, &addresses(cluster, "crowd")[0]);
    cluster.apply(AGAIN);
    told(cluster, "addresspool/web", "Accepted=True Overlaps");
    assert_eq!(addresses(cluster, "web"), web);
}

/// Waits until the command for operators shows this of a Gateway, and what it shows then
/// is what their page does, where nodes are called otherwise.
pub(crate) fn explained(cluster: &Cluster, gateway: &str, why: &str) {
    let command = tells(
        r#"kubectl --namespace shop get gateway edge -o jsonpath='{range .status.conditions[*]}{.type}={.status} {.reason}: {.message}{"\n"}{end}'"#,
    );
    let command =
        command.replace("--namespace shop get gateway edge", &format!("get gateway {gateway}"));
    let said = eventually_some(format!("{gateway} to say: {why}"), SOON, || {
        let said = cluster.shell(&command).ok();
        if said.contains(why) { Ok(said) } else { Err(said) }
    });
    for line in said.lines() {
        tells(&line.replace("node1", "worker-1"));
    }
}

/// It is told with the node and what to do there, and over once the port is free.
fn a_port_that_a_node_has(cluster: &Cluster) {
    let agnhost = lab::bin("agnhost");
    let other = cluster
        .at("node2", agnhost.to_str().unwrap())
        .args(["netexec", "--http-port=8088"])
        .spawn();
    eventually_some("it to listen", SOON, || {
        let listens = cluster.at("node2", "ss").args(["-Hltn", "sport = :8088"]).ok();
        if listens.is_empty() { Err("it does not") } else { Ok(()) }
    });
    cluster.apply(STREAM);
    told(cluster, "gateway/stream", "Programmed=False RefusedByNode");
    let path = "jsonpath={.status.conditions[?(@.type=='Programmed')].message}";
    let message = cluster.kubectl(&["get", "gateway", "stream", "-o", path]).ok();
    let expected = "Node node2 can't apply it: port 8088 is taken on this node: `ss -ltnp sport = \
                    :8088` says who has it, and either that one or the listener needs another port.";
    assert_eq!(message, expected);
    other.into_output();
    eventually_some("stream to be programmed", SOON, || programmed(cluster, "stream"));
    let url = format!("http://{}:8088/hostname", in_url(&addresses(cluster, "stream")[0]));
    eventually_some(format!("{url} to be answered"), SOON, || {
        let ran = cluster.client("curl").args(["-sS", "--max-time", "2", &url]).run();
        if ran.stdout.starts_with("web-") { Ok(()) } else { Err(format!("{ran:?}")) }
    });
    cluster.delete(STREAM);
}

/// The Service's endpoints.
fn slice(count: usize) -> String {
    let endpoints: Vec<_> = (0..count)
        .map(|n| json!({"addresses": [format!("10.99.{}.{}", n / 250, n % 250 + 1)]}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "crowd-1",
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "crowd"},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"port": 8080}],
    })
    .to_string()
}

/// Waits until a condition of the object says this.
pub(crate) fn told(cluster: &Cluster, object: &str, what: &str) {
    let conditions = match object.starts_with("tcproute") {
        true => ".status.parents[*].conditions[*]",
        false => ".status.conditions[*]",
    };
    let path = format!(
        "jsonpath={{range {conditions}}}{{.type}}={{.status}} {{.reason}}{{\"\\n\"}}{{end}}"
    );
    eventually_some(format!("{object} to say {what}"), SOON, || {
        let said = cluster.kubectl(&["get", object, "-o", &path]).ok();
        if said.lines().any(|line| line == what) { Ok(()) } else { Err(said) }
    });
}

/// Waits until every request is answered.
pub(crate) fn answers(cluster: &Cluster, address: &str) {
    comes_to(cluster, address, "0");
}

/// Waits until every client hears at once that nobody is there for it.
fn refuses(cluster: &Cluster, address: &str) {
    comes_to(cluster, address, "7");
}

/// Waits until each of 20 requests makes curl end with this code.
fn comes_to(cluster: &Cluster, address: &str, code: &str) {
    let url = format!("http://{}:8080/hostname", in_url(address));
    let line =
        format!("for n in {{1..20}}; do curl -s -o /dev/null --max-time 2 {url}; echo $?; done");
    eventually_some(format!("curl {url} to end with {code}"), SOON, || {
        let ended = cluster.client("bash").args(["-c", &line]).limit(SOON).run().stdout;
        if ended.lines().all(|ended| ended == code) { Ok(()) } else { Err(ended) }
    });
}
