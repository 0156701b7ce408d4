//! Requests to the samples, from outside of the cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use blixt_e2e::cluster::Cluster;
use blixt_testkit::netns::eventually_some;

use crate::documented::tells;

/// How long it may take until what is applied is in force, and a sample answers.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// With two pods and Maglev each request falls on either alike: that 20 all fall
/// on one has the probability 2^-19, and they are sent again then.
const REQUESTS: usize = 20;

pub(crate) fn both_samples(cluster: &Cluster) {
    for (sample, gateway) in [("tcproute", "web"), ("udproute", "dns")] {
        let apply = tells("kubectl apply -k manifests/samples/tcproute");
        cluster.shell(&apply.replace("tcproute", sample)).ok();
        let workload = format!("deployment/{gateway}");
        cluster.kubectl(&["rollout", "status", "--timeout=120s", &workload]).ok();
        eventually_some(format!("{gateway} to be programmed"), SOON, || {
            programmed(cluster, gateway)
        });
    }
    for gateway in ["web", "dns"] {
        for address in addresses(cluster, gateway) {
            let ask = |line: &str| {
                let bash = cluster.client("bash").args(["-c", line]);
                bash.limit(Duration::from_secs(200)).run().stdout
            };
            let what = format!("both pods behind {address}");
            let pods = eventually_some(what, SOON, || names(ask, gateway, &address));
            println!("{address} leads to {pods:?}");
        }
    }
}

pub(crate) fn programmed(cluster: &Cluster, gateway: &str) -> Result<(), String> {
    let path = "jsonpath={range .status.conditions[*]}{.type}={.status} {.message}{\"\\n\"}{end}";
    let conditions = cluster.kubectl(&["get", "gateway", gateway, "-o", path]).ok();
    let is_so = conditions.lines().any(|line| line.starts_with("Programmed=True"));
    if is_so { Ok(()) } else { Err(conditions) }
}

/// A Gateway's addresses.
pub(crate) fn addresses(cluster: &Cluster, gateway: &str) -> Vec<String> {
    let path = "jsonpath={.status.addresses[*].value}";
    let addresses = cluster.kubectl(&["get", "gateway", gateway, "-o", path]).ok();
    let addresses: Vec<_> = addresses.split_whitespace().map(str::to_owned).collect();
    assert!(!addresses.is_empty(), "{gateway} has no address");
    addresses
}

/// An address as it stands in a URL.
pub(crate) fn in_url(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// The servers behind an address of a Gateway, as they call themselves, if both
/// and all the time somebody answers what a shell asks.
pub(crate) fn names(
    ask: impl Fn(&str) -> String,
    gateway: &str,
    address: &str,
) -> Result<BTreeSet<String>, String> {
    let once = match gateway {
        "dns" => format!("dig +short +tries=1 +time=2 @{address} CH TXT hostname.bind"),
        _ => format!("curl -s --max-time 2 http://{}:8080/hostname; echo", in_url(address)),
    };
    let answers = ask(&format!("for n in {{1..{REQUESTS}}}; do {once}; done"));
    let names: BTreeSet<_> =
        answers.lines().map(|line| line.trim_matches('"').to_owned()).collect();
    let all = answers.lines().count() == REQUESTS && !names.contains("");
    if all && names.len() == 2 { Ok(names) } else { Err(answers) }
}
