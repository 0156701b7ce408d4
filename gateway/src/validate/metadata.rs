//! `metadata`: names, labels and annotations, and what of a stored object's
//! metadata means nothing in a file.

use serde_json::Value;

use super::decode::decode;
use super::names;
use crate::apis::ObjectMeta;
use crate::manifest::{Path, Problem};
use crate::object::Kind;

/// `TotalAnnotationSizeLimitB` of Kubernetes.
const MAX_ANNOTATION_BYTES: usize = 256 * 1024;

const LABEL_WORDS: &str = "it must be letters, digits, '-', '_' and '.', with a letter or digit at \
                           both ends, perhaps after a domain and '/'";
const DNS_LABEL_WORDS: &str = "it must be at most 63 lower-case letters, digits and '-', with a \
                               letter or digit at both ends";
const DNS_NAME_WORDS: &str = "it must be at most 253 lower-case letters, digits, '-' and '.', with \
                              a letter or digit at both ends of each part";

/// Reads it, checks it, and keeps what matters.
pub(super) fn check(kind: Kind, value: Value) -> Result<ObjectMeta, Vec<Problem>> {
    let here = Path::of("metadata");
    if !value.is_object() {
        let reason = "must be a map of fields, with a name among them";
        return Err(vec![Problem::new(here, reason)]);
    }
    let mut metadata: ObjectMeta = decode(value).map_err(|problems| {
        let below = |path: &Path| {
            path.steps().iter().fold(here.clone(), |mut path, step| {
                path.push(step.clone());
                path
            })
        };
        problems.into_iter().map(|p| Problem::new(below(&p.path), p.reason)).collect::<Vec<_>>()
    })?;
    let mut problems = Vec::new();
    problems.extend(check_name(kind, &metadata));
    problems.extend(check_namespace(kind, &mut metadata));
    check_labels(&metadata, &mut problems);
    check_annotations(&metadata, &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    // What an API server sets, and what would make the same object look new.
    Ok(ObjectMeta {
        annotations: metadata.annotations,
        creation_timestamp: metadata.creation_timestamp,
        labels: metadata.labels,
        name: metadata.name,
        namespace: metadata.namespace,
        ..ObjectMeta::default()
    })
}

fn check_name(kind: Kind, metadata: &ObjectMeta) -> Option<Problem> {
    let here = Path::of("metadata").key("name");
    let Some(name) = metadata.name.as_deref().filter(|name| !name.is_empty()) else {
        let reason = if metadata.generate_name.is_some() {
            "is missing: generateName needs an API server, so write the name"
        } else {
            "is missing"
        };
        return Some(Problem::new(here, reason));
    };
    let (good, words) = match kind {
        Kind::Namespace | Kind::Service => (names::is_dns_label(name), DNS_LABEL_WORDS),
        _ => (names::is_dns_subdomain(name), DNS_NAME_WORDS),
    };
    (!good).then(|| Problem::new(here, format!("is {name:?}: {words}")))
}

fn check_namespace(kind: Kind, metadata: &mut ObjectMeta) -> Option<Problem> {
    let here = Path::of("metadata").key("namespace");
    let written = metadata.namespace.take().filter(|namespace| !namespace.is_empty());
    match written {
        Some(namespace) if !kind.is_namespaced() => {
            let reason = format!("is {namespace:?}, but a {kind} is in no namespace: remove it");
            Some(Problem::new(here, reason))
        }
        Some(namespace) if !names::is_dns_label(&namespace) => {
            Some(Problem::new(here, format!("is {namespace:?}: {DNS_LABEL_WORDS}")))
        }
        Some(namespace) => {
            metadata.namespace = Some(namespace);
            None
        }
        None => {
            metadata.namespace = kind.is_namespaced().then(|| "default".to_owned());
            None
        }
    }
}

fn check_labels(metadata: &ObjectMeta, problems: &mut Vec<Problem>) {
    let here = Path::of("metadata").key("labels");
    for (key, value) in metadata.labels.iter().flatten() {
        if !names::is_qualified_name(key) {
            let reason = format!("is no good key for a label: {LABEL_WORDS}");
            problems.push(Problem::new(here.key(key), reason));
        }
        if !names::is_label_value(value) {
            let reason = format!(
                "is {value:?}: it must be at most 63 letters, digits, '-', '_' and '.', with a \
                 letter or digit at both ends, or empty"
            );
            problems.push(Problem::new(here.key(key), reason));
        }
    }
}

fn check_annotations(metadata: &ObjectMeta, problems: &mut Vec<Problem>) {
    let here = Path::of("metadata").key("annotations");
    let mut bytes = 0;
    for (key, value) in metadata.annotations.iter().flatten() {
        bytes += key.len() + value.len();
        if !names::is_qualified_name(&key.to_lowercase()) {
            let reason = format!("is no good key for an annotation: {LABEL_WORDS}");
            problems.push(Problem::new(here.key(key), reason));
        }
    }
    if bytes > MAX_ANNOTATION_BYTES {
        let reason = format!("has {bytes} bytes: at most {MAX_ANNOTATION_BYTES} are allowed");
        problems.push(Problem::new(here, reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn problems(kind: Kind, value: Value) -> Vec<String> {
        check(kind, value).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_name_is_needed_and_fits_the_kind() {
        assert_eq!(problems(Kind::Gateway, json!({})), ["metadata.name is missing"]);
        assert_eq!(problems(Kind::Gateway, json!({"name": ""})), ["metadata.name is missing"]);
        let generated = problems(Kind::Gateway, json!({"generateName": "a-"}));
        assert!(generated[0].contains("generateName needs an API server"), "{generated:?}");
        assert_eq!(
            problems(Kind::Gateway, Value::Null),
            ["metadata must be a map of fields, with a name among them"]
        );

        let long = "x".repeat(64);
        assert!(check(Kind::Gateway, json!({"name": "a.b"})).is_ok());
        assert!(check(Kind::Gateway, json!({"name": long})).is_ok());
        for kind in [Kind::Service, Kind::Namespace] {
            assert!(problems(kind, json!({"name": "a.b"}))[0].contains("at most 63"));
            assert!(problems(kind, json!({"name": long}))[0].contains("at most 63"));
        }
        for kind in Kind::ALL {
            assert_eq!(problems(kind, json!({"name": "A"})).len(), 1);
        }
        assert_eq!(
            problems(Kind::Gateway, json!({"name": 1})),
            ["metadata.name is of the wrong type, integer 1: put it in quotes"]
        );
    }

    #[test]
    fn the_namespace_is_filled_in_or_forbidden() {
        let namespace = |kind, value| check(kind, value).unwrap().namespace;
        assert_eq!(namespace(Kind::Gateway, json!({"name": "a"})).as_deref(), Some("default"));
        let written = json!({"name": "a", "namespace": "shop"});
        assert_eq!(namespace(Kind::Gateway, written.clone()).as_deref(), Some("shop"));
        assert_eq!(namespace(Kind::GatewayClass, json!({"name": "a", "namespace": ""})), None);
        assert_eq!(
            problems(Kind::GatewayClass, written),
            ["metadata.namespace is \"shop\", but a GatewayClass is in no namespace: remove it"]
        );
        assert!(
            problems(Kind::Gateway, json!({"name": "a", "namespace": "a.b"}))[0].contains("63")
        );
    }

    #[test]
    fn labels_and_annotations_are_checked() {
        let found = problems(
            Kind::Namespace,
            json!({"name": "a", "labels": {"a b": "x", "ok": "-"}, "annotations": {"/": ""}}),
        );
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("metadata.labels[\"a b\"] is no good key"), "{found:?}");
        let big = json!({"name": "a", "annotations": {"Big": "x".repeat(300_000)}});
        assert!(problems(Kind::Namespace, big)[0].contains("262144"));
        assert_eq!(
            problems(Kind::Namespace, json!({"name": "a", "lables": {}})),
            ["metadata.lables is no known field: check its spelling"]
        );
    }

    #[test]
    fn what_only_a_server_sets_is_dropped() {
        let metadata = check(
            Kind::Gateway,
            json!({
                "name": "a", "uid": "u", "resourceVersion": "1", "generation": 7,
                "creationTimestamp": "2026-01-02T03:04:05Z", "managedFields": [],
                "deletionTimestamp": null, "finalizers": ["a/b"], "labels": {"a": "b"}
            }),
        )
        .unwrap();
        assert_eq!(metadata.generation, None);
        assert_eq!(metadata.uid, None);
        assert_eq!(metadata.resource_version, None);
        assert!(metadata.creation_timestamp.is_some());
        assert_eq!(metadata.labels.unwrap().len(), 1);
    }
}
