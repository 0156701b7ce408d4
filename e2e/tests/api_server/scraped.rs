//! Metrics over TLS, for whoever the API server says may read them.

use std::fs;
use std::time::Duration;

use blixt_e2e::{ApiServer, Controller, Id};
use blixt_testkit::netns::eventually_some;

use crate::Test;

pub(crate) const TESTS: &[(&str, Test)] =
    &[("metrics_are_for_those_who_may_read_them", metrics_are_for_those_who_may)];

const PATIENCE: Duration = Duration::from_secs(20);

/// The API server's own audience.
const API: &str = "https://kubernetes.default.svc";

const ACCOUNTS: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: scraper, namespace: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: leaver, namespace: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: stranger, namespace: shop}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: scrapers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: blixt-metrics-reader}
subjects:
- {kind: ServiceAccount, name: scraper, namespace: shop}
- {kind: ServiceAccount, name: leaver, namespace: shop}
";

/// The status and what is said with it, by a client that verifies the
/// certificate.
fn scrape(server: &ApiServer, ca: &str, token: Option<&str>) -> (u16, String) {
    let header = token.map(|token| format!("Authorization: Bearer {token}"));
    let ran = server
        .namespace
        .command("curl")
        .args(["--silent", "--show-error", "--max-time", "10", "--cacert", ca])
        .args(["--connect-to", "blixt-controller:443:127.0.0.1:9877"])
        .args(header.iter().flat_map(|header| ["--header", header]))
        .args(["--write-out", "\n%{http_code}", "https://blixt-controller/metrics"])
        .ok();
    let (body, status) = ran.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

fn metrics_are_for_those_who_may(server: &mut ApiServer) {
    let _controller = Controller::start_with(server, "a", &["--secure-metrics", "127.0.0.1:9877"]);
    let kube = &server.kube;
    let files = tempfile::tempdir().unwrap();
    let ca = files.path().join("ca.crt").to_str().unwrap().to_owned();
    let bundle = kube.eventually(&Id::new("ConfigMap", "blixt-system/blixt-controller"), |map| {
        map["data"]["ca.crt"].as_str().map(str::to_owned).ok_or("there is no CA".to_owned())
    });
    fs::write(&ca, bundle).unwrap();
    kube.apply(ACCOUNTS);
    let token = |account, audience| kube.token(&Id::new("ServiceAccount", account), audience, None);
    let good = token("shop/scraper", API);
    // Rights and certificates are known in a moment.
    eventually_some("the metrics", PATIENCE, || match scrape(server, &ca, Some(&good)) {
        (200, page) if page.contains("blixt_controller_leader") && page.ends_with("# EOF\n") => {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    });

    let (status, why) = scrape(server, &ca, None);
    assert_eq!((status, why.contains("a token is needed")), (401, true), "{why}");
    let stranger = token("shop/stranger", API);
    let (status, why) = scrape(server, &ca, Some(&stranger));
    let expected = "system:serviceaccount:shop:stranger may not get /metrics: bind it to the \
                    ClusterRole blixt-metrics-reader\n";
    assert_eq!((status, why.as_str()), (403, expected));
    // For somebody else, of an account that is gone, changed, and no token at all.
    let foreign = token("shop/scraper", "blixt-controller");
    let gone = token("shop/leaver", API);
    kube.delete(&Id::new("ServiceAccount", "shop/leaver"));
    // In the middle of the signature: its last character has bits that nobody reads.
    let (before, signature) = good.rsplit_once('.').unwrap();
    let other = if signature.as_bytes()[9] == b'A' { "B" } else { "A" };
    let changed = format!("{before}.{}{other}{}", &signature[..9], &signature[10..]);
    for bad in [&foreign, &gone, &changed, "nonsense"] {
        let (status, why) = scrape(server, &ca, Some(bad));
        assert_eq!((status, why.contains("the token is not valid")), (401, true), "{why}");
    }

    // Nobody can say; who was known a moment ago still is.
    let late = token("shop/scraper", "late");
    assert_eq!(scrape(server, &ca, Some(&good)).0, 200);
    server.kill();
    let (status, why) = scrape(server, &ca, Some(&late));
    let expected = "the API server can't be asked about the token";
    assert_eq!((status, why.contains(expected)), (503, true), "{why}");
    server.resume();
    server.kube.delete(&Id::cluster("ClusterRoleBinding", "scrapers"));
}
