//! Agents and controllers of adjacent versions, as they meet while one upgrades or
//! goes back: whichever is older, tables are applied and traffic flows, and new
//! connections find somebody all the while.

use std::env;
use std::time::Duration;

use blixt_e2e::cluster::Cluster;
use blixt_testkit::netns::eventually_some;

use crate::served::{SOON, addresses, names, programmed};
use crate::{gone, installed, restarts, served};

/// Says where an older version is: a work tree, with its images in target/images,
/// tagged "older", as scripts/older makes it.
const OLDER: &str = "BLIXT_OLDER";

/// The manifests of a version, with its images.
struct Version {
    tree: String,
    tag: String,
}

impl Version {
    /// Applies the objects that are, or are not, of a kind.
    fn apply(&self, cluster: &Cluster, which: &str) {
        let Self { tree, tag } = self;
        cluster
            .shell(&format!(
                "kubectl kustomize {tree}/manifests/default |
                     sed -E 's#(/blixt-(agent|controller)):.*#\\1:{tag}#' |
                     kubectl create --dry-run=client --output json --filename - |
                     jq --slurp '{{apiVersion: \"v1\", kind: \"List\",
                                   items: map(.items // [.]) | add | map(select(.kind {which}))}}' |
                     kubectl apply --server-side --force-conflicts --filename -"
            ))
            .ok();
    }

    /// The same while clients come, until all of it is there.
    fn follows(&self, cluster: &Cluster, what: &str, which: &str) {
        restarts::under_knocks(cluster, what, || {
            self.apply(cluster, which);
            installed::is_there(cluster);
        });
    }
}

pub(crate) fn side_by_side(what: &str) {
    let tree = env::var(OLDER).unwrap_or_else(|_| panic!("{OLDER} says where an older version is"));
    let Some(cluster) = Cluster::up(what, true) else { return };
    for name in ["agent", "controller"] {
        cluster.lab(&["load", &format!("{tree}/target/images/blixt-{name}.tar")]).ok();
    }
    let older = Version { tree, tag: "older".to_owned() };
    let newer = Version { tree: ".".to_owned(), tag: format!("v{}", env!("CARGO_PKG_VERSION")) };

    installed::gateway_api(&cluster);
    older.apply(&cluster, "!= \"\"");
    installed::is_there(&cluster);
    served::both_samples(&cluster);
    works(&cluster, "one");

    newer.follows(&cluster, "controllers of the version before become new", "!= \"DaemonSet\"");
    works(&cluster, "two");
    println!("== older agents, newer controllers: good");

    newer.follows(&cluster, "agents of the version before become new", "== \"DaemonSet\"");
    works(&cluster, "three");

    older.follows(&cluster, "new controllers go back", "!= \"DaemonSet\"");
    works(&cluster, "four");
    println!("== newer agents, older controllers: good");
    gone::without_a_trace(&cluster);
}

/// What is new is applied, and leads to both pods; so does what was there.
fn works(cluster: &Cluster, name: &str) {
    let yaml = format!(
        r"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, labels: {{pool: web}}}}
spec:
  gatewayClassName: blixt
  listeners: [{{name: web, protocol: TCP, port: 8080}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{name: {name}}}
spec:
  parentRefs: [{{name: {name}}}]
  rules: [{{backendRefs: [{{name: web, port: 8080}}]}}]
"
    );
    cluster.apply(&yaml);
    for gateway in [name, "web", "dns"] {
        eventually_some(format!("{gateway} to be programmed"), SOON, || {
            programmed(cluster, gateway)
        });
        for address in addresses(cluster, gateway) {
            let ask = |line: &str| {
                let bash = cluster.client("bash").args(["-c", line]);
                bash.limit(Duration::from_secs(200)).run().stdout
            };
            let what = format!("both pods of {gateway} at {address}");
            eventually_some(&what, SOON, || names(ask, gateway, &address));
        }
    }
    cluster.delete(&yaml);
}
