//! The Helm chart, rendered by helm itself.

use std::collections::BTreeMap;

use blixt_e2e::cluster::root;
use blixt_e2e::lab::{bin, require};
use blixt_testkit::netns::program;
use serde_json::Value;

use crate::objects::{Objects, containers, texts};

#[test]
fn helm_makes_what_kustomize_makes() {
    makes_the_same("manifests/default", &[]);
    makes_the_same("manifests/secure-metrics", &["secureMetrics=true"]);
    makes_the_same("manifests/tls-secrets", &["tlsSecrets=true"]);
}

fn makes_the_same(directory: &str, values: &[&str]) {
    require(&["helm", "kubectl"]);
    let kustomize = program(bin("kubectl")).arg("kustomize").arg(root().join(directory));
    let mut kustomize = by_name(Objects::parse(&kustomize.ok()));
    let helm = by_name(Objects::parse(&template(values)));
    // Helm makes it by itself: --create-namespace.
    assert!(kustomize.remove("Namespace/blixt-system").is_some());
    assert_eq!(
        kustomize.keys().collect::<Vec<_>>(),
        helm.keys().collect::<Vec<_>>(),
        "these are the objects"
    );
    for (name, object) in kustomize {
        assert_eq!(object, helm[&name], "{name}");
    }
}

#[test]
fn helm_is_told_which_interfaces_and_images() {
    require(&["helm"]);
    let objects = Objects::parse(&template(&[
        "agent.interfaces={eth0,eth1}",
        "agent.flags={--workers=2}",
        "images.agent=registry.example/agent",
        "images.tag=v9",
        "gatewayClass.create=false",
        "controller.replicas=3",
    ]));
    let [agent] = containers(objects.one("DaemonSet", "blixt-agent")) else { panic!() };
    let wanted = [
        "--controller-dir=/etc/blixt/controller",
        "--interface=eth0",
        "--interface=eth1",
        "--workers=2",
    ];
    assert_eq!(texts(&agent["args"]), wanted);
    assert_eq!(agent["image"], "registry.example/agent:v9");
    assert_eq!(objects.of_kind("GatewayClass").count(), 0);
    assert_eq!(objects.one("Deployment", "blixt-controller")["spec"]["replicas"], 3);

    let objects = Objects::parse(&template(&["agent.interfaceRegex=ens.*"]));
    let [agent] = containers(objects.one("DaemonSet", "blixt-agent")) else { panic!() };
    assert_eq!(texts(&agent["args"])[1..], ["--interface-regex=ens.*"]);
}

/// What Helm makes with these values.
fn template(values: &[&str]) -> String {
    let helm =
        program(bin("helm")).args(["template", "blixt"]).arg(root().join("manifests/helm/blixt"));
    let helm = helm.args(["--namespace", "blixt-system", "--include-crds"]);
    helm.args(values.iter().flat_map(|value| ["--set", value])).ok()
}

fn by_name(objects: Objects) -> BTreeMap<String, Value> {
    let named = objects.all.into_iter().map(|mut object| {
        let name = format!(
            "{}/{}",
            object["kind"].as_str().unwrap(),
            object["metadata"]["name"].as_str().unwrap()
        );
        // Charts have CRDs as they are, without their labels.
        if object["kind"] == "CustomResourceDefinition" {
            object["metadata"].as_object_mut().unwrap().remove("labels");
        }
        (name, object)
    });
    named.collect()
}
