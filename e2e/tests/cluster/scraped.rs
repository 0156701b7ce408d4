//! Metrics from another host: for whoever may read them, by TLS, where that was asked
//! for; and for nobody elsewhere.

use blixt_e2e::cluster::Cluster;
use blixt_testkit::netns::eventually_some;
use tempfile::NamedTempFile;

use crate::documented::tells;
use crate::served::{SOON, in_url};

/// Where metrics are served: to the host alone, and by TLS.
const OWN: [u16; 2] = [9_875, 9_876];
const SECURE: u16 = 9_877;

/// Someone whom nobody has given a right.
const STRANGER: &str = r"
apiVersion: v1
kind: ServiceAccount
metadata: {name: stranger, namespace: blixt-sample-metrics}
";

/// A program that has metrics, and one address of it.
struct Place {
    component: String,
    address: String,
}

/// As it is installed, nobody but its own host can ask.
pub(crate) fn by_nobody(cluster: &Cluster) {
    if !cluster.is_ours_or_skip("metrics from another host") {
        return;
    }
    let places = places(cluster);
    reachable(cluster, &places, |places| {
        for place in places {
            for port in OWN.into_iter().chain([SECURE]) {
                let ran = place.by_http(cluster, port);
                assert!(ran.contains("Failed to connect"), "{} {port}: {ran}", place.address);
            }
        }
    });
}

/// With what the page for operators tells.
pub(crate) fn by_whoever_may(cluster: &Cluster) {
    if !cluster.is_ours_or_skip("metrics from another host") {
        return;
    }
    cluster.shell(tells("kubectl apply -k manifests/samples/metrics")).ok();
    cluster.apply(STRANGER);
    let bind = tells(
        "kubectl create clusterrolebinding blixt-metrics-prometheus \
         --clusterrole=blixt-metrics-reader --serviceaccount=monitoring:prometheus",
    );
    cluster.shell(&format!("{bind} --dry-run=server")).ok();
    let create = tells("token=$(kubectl create token --namespace blixt-sample-metrics scraper)");
    let token = |account: &str| {
        let create = create.replace("scraper", account);
        cluster.shell(&format!("{create}\necho $token")).ok().trim().to_owned()
    };
    let (scraper, stranger) = (token("scraper"), token("stranger"));
    let bundle = tells(
        r"kubectl get configmap --namespace blixt-system blixt-controller -o jsonpath='{.data.ca\.crt}'",
    );
    let ca = NamedTempFile::new().unwrap();
    std::fs::write(&ca, cluster.shell(bundle).ok()).unwrap();

    let places = places(cluster);
    reachable(cluster, &places, |places| {
        for Place { component, address } in places {
            let ask = |token: Option<&str>| scrape(cluster, component, address, &ca, token);
            let what = format!("{component} at {address}");
            let metric = match component.as_str() {
                "agent" => "\nblixt_vips_owned ",
                _ => "\nblixt_controller_leader ",
            };
            eventually_some(format!("metrics of {what}"), SOON, || match ask(Some(&scraper)) {
                (status, page) if status == "200" && page.contains(metric) => Ok(()),
                other => Err(format!("{other:?}")),
            });
            let (status, why) = ask(None);
            assert_eq!(
                (status.as_str(), why.contains("a token is needed")),
                ("401", true),
                "{why}"
            );
            let (status, why) = ask(Some("nonsense"));
            assert_eq!((status.as_str(), why.contains("is not valid")), ("401", true), "{why}");
            let (status, why) = ask(Some(&stranger));
            let expected = "system:serviceaccount:blixt-sample-metrics:stranger may not get \
                            /metrics: bind it to the ClusterRole blixt-metrics-reader\n";
            assert_eq!((status.as_str(), why.as_str()), ("403", expected), "{what}");
        }
        for place in places {
            let ran = place.by_http(cluster, SECURE);
            assert!(ran.starts_with("curl: ") && !ran.contains("blixt_"), "{ran}");
            for port in OWN {
                let ran = place.by_http(cluster, port);
                assert!(ran.contains("Failed to connect"), "{} {port}: {ran}", place.address);
            }
        }
    });
    cluster.shell("kubectl delete -k manifests/samples/metrics").ok();
}

impl Place {
    /// What is said without TLS, or what curl complains of.
    fn by_http(&self, cluster: &Cluster, port: u16) -> String {
        let url = format!("http://{}:{port}/metrics", in_url(&self.address));
        let ran = cluster.client("curl").args(["-sS", "--max-time", "5", &url]).run();
        format!("{}{}", ran.stdout, ran.stderr)
    }
}

/// Agents and controllers at all addresses of theirs.
fn places(cluster: &Cluster) -> Vec<Place> {
    let component = r"{.metadata.labels.app\.kubernetes\.io/component}";
    let path = format!(
        r#"jsonpath={{range .items[*]}}{component} {{.status.podIPs[*].ip}}{{"\n"}}{{end}}"#
    );
    let pods = cluster.kubectl(&["-n", "blixt-system", "get", "pods", "-o", &path]).ok();
    let mut places = Vec::new();
    for line in pods.lines() {
        let (component, addresses) = line.split_once(' ').unwrap();
        let place =
            |address: &str| Place { component: component.to_owned(), address: address.to_owned() };
        places.extend(addresses.split(' ').map(place));
    }
    // Two agents and two controllers, each with an address of both families.
    let count = |component: &str| places.iter().filter(|it| it.component == component).count();
    assert_eq!((count("agent"), count("controller")), (4, 4), "{pods}");
    places
}

/// With routes to pods, as the client's router would have them.
fn reachable(cluster: &Cluster, places: &[Place], work: impl FnOnce(&[Place])) {
    let of_pods = [
        ("10.244.1.0/24", "192.0.2.11"),
        ("10.244.2.0/24", "192.0.2.12"),
        ("fd00:244:1::/64", "2001:db8:1::11"),
        ("fd00:244:2::/64", "2001:db8:1::12"),
    ];
    let routes = |verb: &str| {
        for (pods, node) in of_pods {
            cluster.client("ip").args(["route", verb, pods, "via", node]).ok();
        }
    };
    routes("add");
    work(places);
    routes("del");
}

/// The status and what is said with it, by a client that verifies the certificate: as
/// operators are told, with or without a token.
fn scrape(
    cluster: &Cluster,
    component: &str,
    address: &str,
    ca: &NamedTempFile,
    token: Option<&str>,
) -> (String, String) {
    tells(
        "curl --cacert ca.crt --connect-to blixt-agent:443:NODE:9877 \
         --header \"Authorization: Bearer $token\" https://blixt-agent/metrics",
    );
    let name = format!("blixt-{component}");
    let place = format!("{name}:443:{}:{SECURE}", in_url(address));
    let header = token.map(|token| format!("Authorization: Bearer {token}"));
    let ran = cluster
        .client("curl")
        .args(["-sS", "--max-time", "10", "--connect-to", &place, "--cacert"])
        .arg(ca.path())
        .args(header.iter().flat_map(|header| ["--header", header]))
        .args(["--write-out", "\n%{http_code}", &format!("https://{name}/metrics")])
        .run();
    let (body, status) = ran.stdout.rsplit_once('\n').unwrap_or_default();
    (status.to_owned(), format!("{body}{}", ran.stderr))
}
