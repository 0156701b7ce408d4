//! The samples are what newcomers copy from: nothing of them may be refused,
//! warned of or left without effect.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use blixt_gateway::status::{Condition, ConditionStatus, ConditionType};
use blixt_gateway::{Manifests, warnings};
use blixt_model::Target;

/// All files of a directory of samples.
fn files(directory: &str) -> BTreeMap<String, Result<Vec<u8>, String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/samples").join(directory);
    let files: BTreeMap<_, _> = std::fs::read_dir(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, Ok(std::fs::read(entry.path()).unwrap()))
        })
        .collect();
    assert!(!files.is_empty());
    files
}

fn assert_good(conditions: &[Condition]) {
    for condition in conditions {
        let good = match condition.kind {
            ConditionType::Conflicted => ConditionStatus::False,
            _ => ConditionStatus::True,
        };
        assert_eq!(condition.status, good, "{condition:?}");
    }
}

#[test]
fn the_standalone_samples_work_as_they_are() {
    let mut manifests = Manifests::default();
    let update = manifests.update(&files("standalone"));
    let refusals: Vec<_> = update.refusals.iter().map(ToString::to_string).collect();
    assert_eq!(refusals, [""; 0]);

    let index = common::index_of(update.events);
    let compiled = common::compiled(&index);
    let warnings: Vec<_> = warnings(&index, &compiled).iter().map(ToString::to_string).collect();
    assert_eq!(warnings, [""; 0]);
    let status = &compiled.status;
    assert_eq!((status.classes.len(), status.gateways.len(), status.routes.len()), (1, 1, 2));
    for class in status.classes.values() {
        assert_good(&class.conditions);
    }
    for gateway in status.gateways.values() {
        assert_good(&gateway.conditions);
        assert_eq!(gateway.addresses.len(), 2);
        for listener in &gateway.listeners {
            assert_good(&listener.conditions);
            assert_eq!(listener.attached_routes, 1);
        }
    }
    for parent in status.routes.values().flat_map(|route| &route.parents) {
        assert_good(&parent.conditions);
    }

    let snapshot = &compiled.snapshot;
    let listeners: Vec<_> = snapshot
        .gateways()
        .iter()
        .flat_map(|gateway| &gateway.listeners)
        .map(|listener| {
            let weights: Vec<_> =
                listener.backends.iter().map(|backend| backend.weight.to_string()).collect();
            assert!(
                listener.backends.iter().all(|to| matches!(to.target, Target::Service(_))),
                "{listener:?}"
            );
            format!("{} {}", listener.name, weights.join("/"))
        })
        .collect();
    assert_eq!(listeners, ["web 70/30", "dns 1"]);
    // Each server has an address of both families.
    let endpoints: BTreeMap<_, _> = snapshot
        .services()
        .iter()
        .map(|service| (service.id.to_string(), service.endpoints.len()))
        .collect();
    let wanted = [("dns:53/UDP", 6), ("web:80/TCP", 4), ("web-next:80/TCP", 2)]
        .map(|(id, count)| (format!("default/{id}"), count));
    assert_eq!(endpoints, wanted.into());
}
