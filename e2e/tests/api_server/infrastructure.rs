//! What is made for a Gateway: a ServiceAccount that carries the labels and
//! annotations of its `spec.infrastructure`.

use std::thread::sleep;
use std::time::Duration;

use blixt_e2e::{ApiServer, Controller, Id, KubeApi};
use blixt_testkit::netns::eventually;
use serde_json::{Value, json};

use crate::Test;
use crate::objects::{self, EDGE, SHOP};

pub(crate) const TESTS: &[(&str, Test)] =
    &[("labels_and_annotations_are_on_what_is_made", labels_and_annotations_are_carried)];

const ACCOUNT: Id<'_> = Id::namespaced("ServiceAccount", "shop", "edge-blixt");

const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until it has these labels, beside those that it always has, and these
/// annotations; gives it.
fn has(kube: &KubeApi, labels: Value, annotations: Value) -> Value {
    let mut expected = labels;
    expected["app.kubernetes.io/managed-by"] = "blixt-controller".into();
    expected["gateway.networking.k8s.io/gateway-name"] = "edge".into();
    kube.eventually(&ACCOUNT, |account| {
        let found = &account["metadata"];
        let none = json!({});
        let found_annotations = found.get("annotations").unwrap_or(&none);
        if found["labels"] == expected && *found_annotations == annotations {
            Ok(account.clone())
        } else {
            Err(format!("not {expected} and {annotations}"))
        }
    })
}

fn infrastructure(labels: Value, annotations: Value) -> Value {
    json!({"spec": {"infrastructure": {"labels": labels, "annotations": annotations}}})
}

fn labels_and_annotations_are_carried(server: &mut ApiServer) {
    let kube = &server.kube;
    let first = Controller::start(server, "a");
    let second = Controller::start(server, "b");
    kube.apply(SHOP);
    objects::settled(kube);
    assert_eq!(kube.get(&ACCOUNT), None, "nobody asked for it");

    let gateway = kube.merge(&EDGE, infrastructure(json!({"team": "a"}), json!({"note": "x"})));
    let account = has(kube, json!({"team": "a"}), json!({"note": "x"}));
    let owner = json!([{
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": "edge",
        "uid": gateway["metadata"]["uid"], "controller": true,
    }]);
    assert_eq!(account["metadata"]["ownerReferences"], owner);
    assert_eq!(account["automountServiceAccountToken"], false);

    // It follows the Gateway; what others put on it stays.
    kube.merge(&ACCOUNT, json!({"metadata": {"annotations": {"theirs": "y"}}}));
    kube.merge(&EDGE, infrastructure(json!({"team": null, "tier": "b"}), json!({"note": null})));
    has(kube, json!({"tier": "b"}), json!({"theirs": "y"}));
    // What is changed or removed by others comes back.
    kube.merge(&ACCOUNT, json!({"metadata": {"labels": {"tier": "c"}}}));
    has(kube, json!({"tier": "b"}), json!({"theirs": "y"}));
    kube.delete(&ACCOUNT);
    has(kube, json!({"tier": "b"}), json!({}));

    // Another one that leads has nothing to write.
    let version = || kube.get(&ACCOUNT).unwrap()["metadata"]["resourceVersion"].clone();
    let before = version();
    let (leader, other) = if first.leads() { (first, second) } else { (second, first) };
    leader.stop();
    eventually("the other one to lead", PATIENCE, || other.leads());
    objects::settled(kube);
    assert_eq!(version(), before);

    // Where nothing is asked for any more nothing is carried. No controller of
    // owners runs here, so it stays without its Gateway.
    kube.merge(&EDGE, json!({"spec": {"infrastructure": null}}));
    has(kube, json!({}), json!({}));
    kube.delete(&EDGE);
    kube.delete(&ACCOUNT);
    sleep(Duration::from_secs(1));
    assert_eq!(kube.get(&ACCOUNT), None, "made for a Gateway that is gone");

    // Another one's is left alone.
    let theirs = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"namespace": "shop", "name": "edge-blixt", "labels": {"of": "others"}},
    });
    let theirs = kube.create(&theirs).unwrap();
    kube.apply(SHOP);
    kube.merge(&EDGE, infrastructure(json!({"team": "a"}), json!({})));
    eventually("the controller to say so", PATIENCE, || {
        other
            .log()
            .contains("ServiceAccount shop/edge-blixt can't be made for its Gateway: there is")
    });
    assert_eq!(kube.get(&ACCOUNT), Some(theirs));
}
