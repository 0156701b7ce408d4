//! Reads a CustomResourceDefinition from standard input and prints what
//! `gateway/src/schema` keeps of it: the served versions and the schema of
//! `spec`, without descriptions and messages.
//!
//! `cargo run -p blixt-gateway --example crd_schema < CRD.yaml > KIND.json`

use std::io::{Read, Write};
use std::process::ExitCode;

use serde_json::{Map, Value, json};

fn main() -> ExitCode {
    let mut text = String::new();
    if let Err(error) = std::io::stdin().read_to_string(&mut text) {
        return fail(&format!("standard input can't be read: {error}"));
    }
    let crd = match serde_saphyr::from_str::<Value>(&text) {
        Ok(crd) => crd,
        Err(error) => return fail(&format!("standard input is not YAML: {error}")),
    };
    match extract(&crd).and_then(|kept| serde_json::to_string_pretty(&kept).ok()) {
        Some(json) => match writeln!(std::io::stdout(), "{json}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("standard output can't be written: {error}")),
        },
        None => fail("this is no CustomResourceDefinition whose served versions agree"),
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("crd_schema: {why}");
    ExitCode::FAILURE
}

/// `None` if it isn't a CRD, or if its served versions differ: then one
/// schema could not stand for all of them.
fn extract(crd: &Value) -> Option<Value> {
    let served: Vec<&Value> = crd
        .pointer("/spec/versions")?
        .as_array()?
        .iter()
        .filter(|version| version.get("served") == Some(&Value::Bool(true)))
        .collect();
    let mut versions = Vec::new();
    let mut schema = None;
    for version in served {
        versions.push(version.get("name")?.clone());
        let spec = strip(version.pointer("/schema/openAPIV3Schema/properties/spec")?);
        if schema.get_or_insert(spec.clone()) != &spec {
            return None;
        }
    }
    Some(json!({
        "group": crd.pointer("/spec/group")?,
        "kind": crd.pointer("/spec/names/kind")?,
        "scope": crd.pointer("/spec/scope")?,
        "versions": versions,
        "spec": schema?,
    }))
}

/// Leaves descriptions and messages out. A field that happens to be called
/// `description` is a schema, not a text, and stays.
fn strip(schema: &Value) -> Value {
    match schema {
        Value::Object(map) => {
            let mut kept: Vec<_> = map
                .iter()
                .filter(|(key, value)| {
                    !(matches!(key.as_str(), "description" | "message") && value.is_string())
                })
                .collect();
            // Sorted, so that the same CRD always gives the same file.
            kept.sort_by_key(|(key, _)| key.as_str());
            Value::Object(
                kept.into_iter()
                    .map(|(key, value)| (key.clone(), strip(value)))
                    .collect::<Map<_, _>>(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(strip).collect()),
        // A range that was written by way of a float.
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float == float.trunc() => json!(float as i64),
            _ => schema.clone(),
        },
        other => other.clone(),
    }
}
