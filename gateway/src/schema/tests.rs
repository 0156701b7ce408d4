//! The schemas as a whole: what is in them, and that every range in them is
//! kept at both ends.

use serde_json::{Value, json};

use super::*;
use crate::manifest::{Path, Problem, Step};

/// Every CEL rule of every schema, with where it is.
pub(crate) fn rules() -> Vec<(Kind, Path, &'static str)> {
    let mut found = Vec::new();
    for (&kind, crd) in CRDS.iter() {
        visit(&crd.spec, &Path::of("spec"), &mut |path, schema| {
            found.extend(schema.rules.iter().map(|r| (kind, path.clone(), r.rule.as_str())));
        });
    }
    found
}

/// A spec with every field that there is, each of them good.
pub(crate) fn sample(schema: &Schema) -> Value {
    match schema.kind {
        Some(Type::Object) => match &schema.additional_properties {
            Some(inner) => json!({ "key": sample(inner) }),
            None => schema.properties.iter().map(|(key, s)| (key.clone(), sample(s))).collect(),
        },
        Some(Type::Array) => {
            let items = schema.items.iter().map(|item| sample(item));
            Value::Array(items.collect())
        }
        Some(Type::Integer) => match schema.choices.first() {
            Some(choice) => choice.clone(),
            None => json!(schema.minimum.unwrap_or(1)),
        },
        Some(Type::Boolean) => json!(true),
        Some(Type::String) => match schema.choices.first() {
            Some(choice) => choice.clone(),
            None => {
                let candidates = [
                    "x",
                    "example.com/x",
                    "TCP",
                    "IPAddress",
                    "5m",
                    "https://example.com",
                    "192.0.2.1",
                ];
                let fits = |text: &&str| {
                    schema.pattern.as_ref().is_none_or(|pattern| pattern.regex.is_match(text))
                };
                json!(candidates.into_iter().find(fits).unwrap())
            }
        },
        None => Value::Null,
    }
}

fn visit<'a>(schema: &'a Schema, path: &Path, see: &mut dyn FnMut(&Path, &'a Schema)) {
    see(path, schema);
    for (name, property) in &schema.properties {
        visit(property, &path.key(name), see);
    }
    if let Some(inner) = &schema.items {
        visit(inner, &path.index(0), see);
    }
    if let Some(inner) = &schema.additional_properties {
        visit(inner, &path.key("key"), see);
    }
}

/// A text of this length that fits the pattern, if there is one.
fn text_of(schema: &Schema, length: usize) -> String {
    let mut candidates =
        ["", "example.com/", "https://"].map(|start| format!("{start:x<length$}")).to_vec();
    candidates.push("0".repeat(length));
    let fits =
        |text: &&String| schema.pattern.as_ref().is_none_or(|pattern| pattern.regex.is_match(text));
    candidates.iter().find(fits).unwrap().clone()
}

/// What is wrong with the sample if this value is put there.
fn with(crd: &Crd, path: &Path, value: Value) -> Vec<Problem> {
    let mut spec = sample(&crd.spec);
    let mut place = &mut spec;
    for step in &path.steps()[1..] {
        place = match step {
            Step::Key(key) => &mut place[key],
            Step::Index(index) => &mut place[index],
        };
    }
    *place = value;
    crd.spec.admit(&mut spec, &Path::of("spec"))
}

#[test]
fn the_schemas_are_those_of_the_kinds() {
    for kind in Kind::ALL {
        let Some(crd) = crd(kind) else { continue };
        assert_eq!((crd.group.as_str(), crd.kind.as_str()), (kind.group(), kind.name()));
        assert_eq!(crd.scope == "Namespaced", kind.is_namespaced());
    }
    assert_eq!(CRDS.len(), 10);
    assert_eq!(versions(Kind::TcpRoute), ["v1"]);
    assert_eq!(versions(Kind::ReferenceGrant), ["v1", "v1beta1"]);
}

#[test]
fn nothing_in_the_schemas_is_left_out() {
    let mut with_one_of = Vec::new();
    for (kind, crd) in CRDS.iter() {
        visit(&crd.spec, &Path::of("spec"), &mut |path, schema| {
            if schema.one_of.is_some() {
                with_one_of.push(format!("{kind} {path}"));
            }
            assert!(matches!(schema.format.as_deref(), None | Some("int32")));
            assert!(matches!(schema.list_type.as_deref(), None | Some("atomic" | "map" | "set")));
            assert!(matches!(schema.map_type.as_deref(), None | Some("atomic")));
            if let Some(pattern) = &schema.pattern {
                assert!(words::of(&pattern.text).is_some(), "{path}: {}", pattern.text);
            }
        });
    }
    // Done by hand in `validate`.
    assert_eq!(with_one_of, ["Gateway spec.addresses[0]"]);
}

#[test]
fn a_sample_of_everything_is_good() {
    for (kind, crd) in CRDS.iter() {
        let mut spec = sample(&crd.spec);
        let full = spec.clone();
        assert_eq!(crd.spec.admit(&mut spec, &Path::of("spec")), [], "{kind}");
        assert_eq!(spec, full, "{kind}: nothing was left to fill in");
    }
}

/// Both ends of every range, in every schema: the last good value and the
/// first bad one.
#[test]
fn every_range_is_kept_at_both_ends() {
    let mut checked = 0;
    for (kind, crd) in CRDS.iter() {
        let mut check = |path: &Path, value: Value, good: bool| {
            let problems = with(crd, path, value.clone());
            let found = problems.iter().any(|problem| problem.path == *path);
            assert_eq!(found, !good, "{kind} {path} = {value}: {problems:?}");
            checked += 1;
        };
        visit(&crd.spec, &Path::of("spec"), &mut |path, schema| {
            if path.steps().len() == 1 {
                return;
            }
            if let Some(least) = schema.minimum {
                check(path, json!(least), true);
                check(path, json!(least - 1), false);
            }
            if let Some(most) = schema.maximum {
                check(path, json!(most), true);
                check(path, json!(most + 1), false);
            }
            if let Some(most) = schema.max_length {
                check(path, json!(text_of(schema, most)), true);
                check(path, json!(text_of(schema, most + 1)), false);
            }
            if schema.min_length.is_some_and(|least| least > 0) {
                check(path, json!(""), false);
            }
            if let (Some(most), Some(item)) = (schema.max_items, &schema.items) {
                if schema.list_type.as_deref() != Some("set") {
                    check(path, vec![sample(item); most].into(), true);
                }
                check(path, vec![sample(item); most + 1].into(), false);
            }
            if schema.min_items.is_some() {
                check(path, json!([]), false);
            }
            if let (Some(most), Some(inner)) =
                (schema.max_properties, &schema.additional_properties)
            {
                let map =
                    |size| (0..size).map(|i| (format!("k{i}"), sample(inner))).collect::<Value>();
                check(path, map(most), true);
                check(path, map(most + 1), false);
            }
            for choice in &schema.choices {
                check(path, choice.clone(), true);
            }
            let is_text = schema.kind == Some(Type::String);
            if is_text && !schema.choices.is_empty() || schema.pattern.is_some() {
                check(path, json!("?"), false);
            }
        });
    }
    assert!(checked > 250, "{checked}");
}

/// What must be there, and what must not be given twice.
#[test]
fn every_required_field_is_required() {
    for (kind, crd) in CRDS.iter() {
        visit(&crd.spec, &Path::of("spec"), &mut |path, schema| {
            for field in &schema.required {
                let mut value = sample(schema);
                value.as_object_mut().unwrap().remove(field);
                let problems = with(crd, path, value);
                let here = path.key(field);
                assert!(problems.iter().any(|problem| problem.path == here), "{kind} {here}");
            }
            if !schema.list_map_keys.is_empty() || schema.list_type.as_deref() == Some("set") {
                let item = sample(schema.items.as_ref().unwrap());
                let problems = with(crd, path, json!([item, item]));
                assert!(problems.iter().any(|p| p.path == path.index(1)), "{kind} {path}");
            }
            if schema.additional_properties.is_none() && schema.kind == Some(Type::Object) {
                let mut value = sample(schema);
                value.as_object_mut().unwrap().insert("unknown".to_owned(), Value::Null);
                let problems = with(crd, path, value);
                let here = path.key("unknown");
                assert!(problems.iter().any(|problem| problem.path == here), "{kind} {here}");
            }
        });
    }
}
