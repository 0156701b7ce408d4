//! The conformance suite of Gateway API, as it was published: its own manifests,
//! the features that the GatewayClass claims, and nothing skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blixt_e2e::cluster::{Cluster, root};
use blixt_e2e::lab;
use serde_json::Value;

use crate::installed;

/// What Blixt claims to conform to.
const PROFILES: [&str; 3] = ["GATEWAY-TCP", "GATEWAY-TLS", "GATEWAY-UDP"];

/// The suite waits 60 s at most for most things, and has 30 tests or so.
const LONG: Duration = Duration::from_secs(1_800);

/// Addresses for the suite's Gateways, of which some 30 are there at once.
const POOL: &str = "
apiVersion: blixt.dev/v1alpha1
kind: AddressPool
metadata:
  name: conformance
spec:
  use: VIP
  addresses:
  - 192.0.2.128-192.0.2.191
  - 2001:db8:1::1:0-2001:db8:1::1:3f
";

/// One of these, which no Gateway gets by itself before the others are taken, and
/// one that is in no pool.
const USABLE: &str = "192.0.2.191";
const UNUSABLE: &str = "192.0.2.200";

/// Set to `write`, it makes the report the one that is kept.
const GOLDEN: &str = "BLIXT_GOLDEN";

pub(crate) fn as_published(cluster: &Cluster) {
    // HTTPS listeners take their certificates from Secrets.
    cluster.shell("kubectl kustomize manifests/tls-secrets | kubectl apply -f -").ok();
    installed::is_there(cluster);
    cluster.apply(POOL);
    let report = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance.yaml");
    let log = report.with_extension("log");
    if let Err(error) = fs::remove_file(&report) {
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}: {error}", report.display());
    }
    let mut suite = cluster.client(lab::bin("conformance.test").to_str().unwrap());
    if cluster.is_ours() {
        suite = suite.env("KUBECONFIG", cluster.kubeconfig());
    }
    let ran = suite
        .args(["-test.v", "-test.timeout=0", "-gateway-class=blixt"])
        .arg(format!("-conformance-profiles={}", PROFILES.join(",")))
        .arg(format!("-usable-address={USABLE}"))
        .arg(format!("-unusable-address={UNUSABLE}"))
        .args(["-organization=kubernetes-sigs", "-project=blixt"])
        .arg(format!("-url={}", env!("CARGO_PKG_REPOSITORY")))
        .arg(format!("-contact={}/issues/new/choose", env!("CARGO_PKG_REPOSITORY")))
        .arg(format!("-version=v{}", env!("CARGO_PKG_VERSION")))
        .arg(format!("-report-output={}", report.display()))
        .limit(LONG)
        .run();
    fs::write(&log, format!("{}{}", ran.stdout, ran.stderr)).unwrap();
    let failed: Vec<_> =
        ran.stdout.lines().filter(|line| line.trim_start().starts_with("--- FAIL")).collect();
    assert!(ran.status.success() && failed.is_empty(), "{failed:#?}: see {}", log.display());
    println!("the suite took {:.0} s: see {}", ran.took.as_secs_f64(), log.display());

    let new = fs::read_to_string(&report).unwrap();
    agrees(&parsed(&new), &new);
    let kept = kept();
    if std::env::var(GOLDEN).is_ok_and(|what| what == "write") {
        fs::write(&kept, &new).unwrap();
    }
    let old = fs::read_to_string(&kept).unwrap_or_else(|error| {
        panic!("{}: {error}: {GOLDEN}=write keeps the new one\n{new}", kept.display())
    });
    assert_eq!(
        timeless(parsed(&old)),
        timeless(parsed(&new)),
        "{} is not what the suite reports: {GOLDEN}=write keeps the new one\n{new}",
        kept.display()
    );
    cluster.delete(POOL);
    // What the suite has made goes with its namespaces, which it does not wait for.
    let mine = ["namespaces", "--selector", "gateway-conformance"];
    let gone = ["wait", "--for=delete", "--timeout=180s"];
    cluster.kubectl(&[&gone[..], &mine[..]].concat()).ok();
}

/// The report that goes with this version.
fn kept() -> PathBuf {
    let version = env!("CARGO_PKG_VERSION");
    root().join(format!("e2e/conformance/reports/v1.6.3-standard-v{version}-default-report.yaml"))
}

fn parsed(report: &str) -> Value {
    serde_saphyr::from_str(report).unwrap_or_else(|error| panic!("{error}\n{report}"))
}

/// Each profile's tests were run, all of them, and none failed.
fn agrees(report: &Value, text: &str) {
    let profiles = report["profiles"].as_array().unwrap();
    assert_eq!(profiles.len(), PROFILES.len(), "{text}");
    for profile in profiles {
        assert!(PROFILES.contains(&profile["name"].as_str().unwrap()), "{text}");
        for tests in [Some(&profile["core"]), profile.get("extended")].into_iter().flatten() {
            assert_eq!(tests["result"], "success", "{text}");
            let count = |what: &str| tests["statistics"][what].as_u64().unwrap();
            assert!(count("Passed") > 0, "{text}");
            assert_eq!((count("Failed"), count("Skipped")), (0, 0), "{text}");
        }
    }
}

/// Without the time at which it was made, and with profiles in order, which the
/// suite gives in any.
fn timeless(mut report: Value) -> Value {
    report.as_object_mut().unwrap().remove("date").unwrap();
    let profiles = report["profiles"].as_array_mut().unwrap();
    profiles.sort_by_key(|profile| profile["name"].as_str().unwrap().to_owned());
    report
}
