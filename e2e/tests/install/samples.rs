//! What users apply by `kubectl apply -k`, built by kubectl itself.

use std::fs;

use blixt_e2e::cluster::root;
use blixt_e2e::lab::{bin, require};
use blixt_testkit::netns::program;

use crate::objects::Objects;

#[test]
fn every_sample_can_be_built() {
    require(&["kubectl"]);
    let mut kinds = Vec::new();
    for sample in fs::read_dir(root().join("manifests/samples")).unwrap() {
        let sample = sample.unwrap().path();
        // Those of an agent without a cluster are files of it.
        if !sample.join("kustomization.yaml").is_file() {
            assert!(sample.ends_with("standalone"), "{}", sample.display());
            continue;
        }
        let built = Objects::parse(&program(bin("kubectl")).arg("kustomize").arg(sample).ok());
        assert!(!built.all.is_empty());
        kinds.extend(built.all.iter().map(|object| object["kind"].as_str().unwrap().to_owned()));
    }
    for kind in ["AddressPool", "GatewayConfig", "Gateway", "TCPRoute", "UDPRoute"] {
        assert!(kinds.iter().any(|it| it == kind), "{kind}: {kinds:?}");
    }
}
