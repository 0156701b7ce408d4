//! A value into its Rust type, with the path of whatever does not fit.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Segment, Track};

use crate::manifest::{Path, Problem};

/// Refuses fields that the type does not know.
pub(super) fn decode<T: DeserializeOwned>(value: Value) -> Result<T, Vec<Problem>> {
    decode_and(value, reason)
}

/// The same, of what nobody may read in a log.
pub(super) fn decode_secret<T: DeserializeOwned>(value: Value) -> Result<T, Vec<Problem>> {
    decode_and(value, |_| "is of the wrong type".to_owned())
}

fn decode_and<T: DeserializeOwned>(
    value: Value,
    reason: fn(&erased_serde::Error) -> String,
) -> Result<T, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut track = Track::new();
    let mut unknown = |path: serde_ignored::Path<'_>| {
        problems.push(Problem::new(from_ignored(&path), "is no known field: check its spelling"));
    };
    let deserializer = serde_ignored::Deserializer::new(value, &mut unknown);
    let deserializer = serde_path_to_error::Deserializer::new(deserializer, &mut track);
    // Each type is read by one reader, and not by one for each of these layers: it would
    // take minutes to build.
    let mut deserializer = <dyn erased_serde::Deserializer<'_>>::erase(deserializer);
    let result = erased_serde::deserialize(&mut deserializer);
    match result {
        Ok(read) if problems.is_empty() => Ok(read),
        Ok(_) => Err(problems),
        Err(error) => {
            let path = from_track(&track.path());
            problems.push(Problem::new(path, reason(&error)));
            Err(problems)
        }
    }
}

fn reason(error: &erased_serde::Error) -> String {
    let text = error.to_string();
    let Some((found, wanted)) =
        text.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected "))
    else {
        return format!("is wrong: {text}");
    };
    let is_scalar = ["integer", "boolean", "floating point"].iter().any(|k| found.starts_with(k));
    let advice = match wanted {
        "a string" if is_scalar => "put it in quotes".to_owned(),
        "i32" | "i64" => "write a whole number, without quotes".to_owned(),
        other => format!("write {other}"),
    };
    format!("is of the wrong type, {}: {advice}", found.replace('`', ""))
}

fn from_ignored(path: &serde_ignored::Path<'_>) -> Path {
    match path {
        serde_ignored::Path::Root => Path::root(),
        serde_ignored::Path::Seq { parent, index } => from_ignored(parent).index(*index),
        serde_ignored::Path::Map { parent, key } => from_ignored(parent).key(key),
        serde_ignored::Path::Some { parent }
        | serde_ignored::Path::NewtypeStruct { parent }
        | serde_ignored::Path::NewtypeVariant { parent } => from_ignored(parent),
    }
}

fn from_track(path: &serde_path_to_error::Path) -> Path {
    path.iter().fold(Path::root(), |path, segment| match segment {
        Segment::Seq { index } => path.index(*index),
        Segment::Map { key } => path.key(key),
        Segment::Enum { .. } | Segment::Unknown => path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apis::{EndpointSlice, Service};
    use serde_json::json;

    fn problems<T: DeserializeOwned + std::fmt::Debug>(value: Value) -> Vec<String> {
        decode::<T>(value).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_a_secret_says_is_not_repeated() {
        let value = json!({"metadata": "-----BEGIN PRIVATE KEY-----"});
        let told = decode::<Service>(value.clone()).unwrap_err()[0].to_string();
        assert!(told.contains("PRIVATE KEY"), "{told}");
        let told = decode_secret::<Service>(value).unwrap_err()[0].to_string();
        assert_eq!(told, "metadata is of the wrong type");
    }

    #[test]
    fn unknown_fields_are_refused_where_they_are() {
        let value =
            json!({"metadata": {}, "spec": {"ports": [{"port": 80, "prot": "TCP"}], "x": 1}});
        assert_eq!(
            problems::<Service>(value),
            [
                "spec.ports[0].prot is no known field: check its spelling",
                "spec.x is no known field: check its spelling"
            ]
        );
        let value = json!({
            "metadata": {}, "addressType": "IPv4", "endpoints": [{"addresses": [], "ready": true}]
        });
        assert_eq!(
            problems::<EndpointSlice>(value),
            ["endpoints[0].ready is no known field: check its spelling"]
        );
    }

    #[test]
    fn wrong_types_are_refused_where_they_are() {
        let value = json!({"metadata": {}, "spec": {"ports": [{"port": "80"}]}});
        assert_eq!(
            problems::<Service>(value),
            [
                "spec.ports[0].port is of the wrong type, string \"80\": write a whole number, without \
              quotes"
            ]
        );
    }
}
