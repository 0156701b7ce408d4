//! What `manifests/` holds, without a cluster: rights, privileges, flags, and
//! that kustomize and Helm make the same of it.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with what went wrong"
)]

#[cfg(feature = "lab")]
mod helm;
mod images;
mod objects;
#[cfg(feature = "lab")]
mod samples;

use blixt_e2e::cluster::{root, takes};
use objects::{Objects, containers, texts};
use serde_json::{Value, json};

#[test]
fn nobody_may_do_everything() {
    let objects = Objects::in_directory("manifests/default");
    let mut seen = 0;
    for role in objects.of_kind("Role").chain(objects.of_kind("ClusterRole")) {
        for rule in role["rules"].as_array().unwrap() {
            let (verbs, resources) = (texts(&rule["verbs"]), texts(&rule["resources"]));
            let all = [texts(&rule["apiGroups"]), resources.clone(), verbs.clone()].concat();
            assert!(!all.iter().any(|word| word.contains('*')), "{rule}");
            assert!(!verbs.iter().any(|verb| verb.starts_with("delete")), "nothing is: {rule}");
            // Which are only of our namespace, and only by their names, but for
            // their making.
            if resources.iter().any(|resource| resource == "secrets") {
                assert_eq!(role["kind"], "Role", "{rule}");
                assert!(
                    verbs == ["create"] || rule["resourceNames"] == json!(["blixt-ca"]),
                    "{rule}"
                );
            }
            seen += 1;
        }
    }
    assert!(seen > 10, "only {seen} rules are seen");
}

#[test]
fn agents_have_no_rights_in_the_cluster() {
    let objects = Objects::in_directory("manifests/default");
    for binding in objects.of_kind("RoleBinding").chain(objects.of_kind("ClusterRoleBinding")) {
        assert_eq!(
            binding["subjects"],
            json!([{"kind": "ServiceAccount", "name": "blixt-controller", "namespace": "blixt-system"}])
        );
    }
    let agent = objects.one("DaemonSet", "blixt-agent");
    let pod = &agent["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], "blixt-agent");
    assert_eq!(pod["automountServiceAccountToken"], false);
    let token =
        &pod["volumes"].as_array().unwrap().iter().find(|it| it["name"] == "token").unwrap();
    let token = &token["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!(token["audience"], "blixt-controller");
}

#[test]
fn pods_have_few_privileges() {
    let objects = Objects::in_directory("manifests/default");
    for (workload, user, added) in [
        (
            ("DaemonSet", "blixt-agent"),
            json!(0),
            json!(["BPF", "IPC_LOCK", "NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW", "PERFMON"]),
        ),
        (("Deployment", "blixt-controller"), json!(65_532), Value::Null),
    ] {
        let workload = objects.one(workload.0, workload.1);
        let pod = &workload["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        for what in ["hostPID", "hostIPC", "shareProcessNamespace"] {
            assert_eq!(pod[what], Value::Null, "{what}");
        }
        let [container] = containers(workload) else { panic!("more than one container") };
        let context = &container["securityContext"];
        assert_eq!(context["privileged"], Value::Null);
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(context["capabilities"]["add"], added);
        let of_pod = &pod["securityContext"]["runAsUser"];
        assert!([of_pod, &context["runAsUser"]].contains(&&user));
        for what in ["livenessProbe", "readinessProbe"] {
            assert!(container[what].is_object(), "{what}");
        }
        assert!(container["resources"]["requests"]["memory"].is_string());
    }
    let controller = objects.one("Deployment", "blixt-controller");
    assert_eq!(controller["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"], true);
    assert_eq!(controller["spec"]["replicas"], 2);
    let agent = objects.one("DaemonSet", "blixt-agent");
    assert_eq!(agent["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], 1);
}

/// What Helm makes is the same (`helm.rs`).
#[test]
fn two_controllers_are_apart_and_one_stays() {
    let objects = Objects::in_directory("manifests/default");
    let controller = objects.one("Deployment", "blixt-controller");
    let labels = &controller["spec"]["template"]["metadata"]["labels"];
    let selects = |selector: &Value| selector["matchLabels"] == *labels;
    let spread = &controller["spec"]["template"]["spec"]["topologySpreadConstraints"];
    let [spread] = &spread.as_array().unwrap()[..] else { panic!("{spread}") };
    assert_eq!(spread["topologyKey"], "kubernetes.io/hostname");
    assert_eq!(spread["maxSkew"], 1);
    // A cluster of one node has both there.
    assert_eq!(spread["whenUnsatisfiable"], "ScheduleAnyway");
    assert_eq!(spread["matchLabelKeys"], json!(["pod-template-hash"]));
    assert!(selects(&spread["labelSelector"]), "{spread}");
    let budget = objects.one("PodDisruptionBudget", "blixt-controller");
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    assert!(selects(&budget["spec"]["selector"]), "{budget}");
    assert_eq!(controller["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
}

/// Helm makes none: those who use it are told how to.
#[test]
fn the_namespace_takes_pods_in_their_nodes_network() {
    let objects = Objects::in_directory("manifests/default");
    let labels = &objects.one("Namespace", "blixt-system")["metadata"]["labels"];
    for mode in ["enforce", "audit", "warn"] {
        assert_eq!(labels[format!("pod-security.kubernetes.io/{mode}")], "privileged");
    }
    let page = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    for command in [
        "helm install blixt manifests/helm/blixt --namespace blixt-system --create-namespace",
        "kubectl create namespace blixt-system",
        "kubectl label namespace blixt-system pod-security.kubernetes.io/enforce=privileged",
    ] {
        assert!(page.contains(&format!("\n    {command}\n")), "{command}");
    }
}

#[test]
fn programs_have_the_flags_that_they_are_given() {
    let objects = Objects::in_directory("manifests/default");
    for (kind, name) in [("DaemonSet", "blixt-agent"), ("Deployment", "blixt-controller")] {
        let [container] = containers(objects.one(kind, name)) else { panic!() };
        takes(name, &texts(&container["args"])).ok();
        for probe in ["livenessProbe", "readinessProbe"] {
            let command = texts(&container[probe]["exec"]["command"]);
            let Some((program, flags)) = command.split_first() else { continue };
            assert_eq!(*program, format!("/{name}"));
            takes(name, flags).ok();
        }
        takes(name, &["--secure-metrics=[::]:9877".to_owned()]).ok();
    }
}

#[test]
fn images_are_of_this_version_everywhere() {
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    let kustomization = Objects::in_file("manifests/default/kustomization.yaml");
    for image in kustomization.all[0]["images"].as_array().unwrap() {
        assert_eq!(image["newTag"], *version, "{image}");
    }
    let chart = Objects::in_file("manifests/helm/blixt/Chart.yaml");
    assert_eq!(chart.all[0]["appVersion"], *version);
    assert_eq!(chart.all[0]["version"], env!("CARGO_PKG_VERSION"));
}
