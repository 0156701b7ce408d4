//! The CRDs of our own kinds, made of their Rust types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use serde_json::Value;

use crate::apis::{AddressPool, GatewayConfig};

/// All of them, as `manifests/crds` has them: JSON, since of a schema's whole
/// numbers the Rust type makes floating ones, which no other tool writes so.
pub fn crds() -> Result<Vec<Value>, serde_json::Error> {
    let whole = |crd| {
        let mut crd = serde_json::to_value(crd)?;
        whole_numbers(&mut crd);
        Ok(crd)
    };
    types().into_iter().map(whole).collect()
}

fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(whole) = number.as_f64().filter(|float| float.fract() == 0.0) {
                *value = Value::from(whole as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

fn types() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![AddressPool::crd(), GatewayConfig::crd()];
    for crd in &mut crds {
        for version in &mut crd.spec.versions {
            if let Some(schema) =
                version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut())
            {
                tidy(schema);
            }
        }
    }
    crds
}

/// Fields of types that every user of Kubernetes knows: what they are for is
/// said, what is in them is not said again.
const KNOWN: [&str; 4] = ["conditions", "gatewaySelector", "namespaceSelector", "nodeSelector"];

/// What a selector of labels may do with a label's values. The type of Kubernetes
/// leaves it to those who read it (apimachinery, `LabelSelectorOperator`).
const OPERATORS: [&str; 4] = ["In", "NotIn", "Exists", "DoesNotExist"];

/// An optional field that says `null` is one that is left out, as in the CRDs
/// of Gateway API: without `nullable` the API server drops it.
fn tidy(schema: &mut JSONSchemaProps) {
    for (name, property) in schema.properties.iter_mut().flatten() {
        tidy(property);
        if KNOWN.contains(&name.as_str()) {
            each_below(property, &mut |inner| {
                inner.description = None;
                if let Some(operator) =
                    inner.properties.as_mut().and_then(|it| it.get_mut("operator"))
                {
                    operator.enum_ = Some(OPERATORS.map(|it| JSON(it.into())).into());
                }
            });
        }
    }
    each_below(schema, &mut |inner| inner.nullable = None);
}

fn each_below(schema: &mut JSONSchemaProps, change: &mut dyn FnMut(&mut JSONSchemaProps)) {
    let properties = schema.properties.iter_mut().flat_map(|map| map.values_mut());
    let items = match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => std::slice::from_mut(&mut **items),
        Some(JSONSchemaPropsOrArray::Schemas(all)) => all.as_mut_slice(),
        None => &mut [],
    };
    let values = match &mut schema.additional_properties {
        Some(JSONSchemaPropsOrBool::Schema(values)) => Some(&mut **values),
        _ => None,
    };
    for inner in properties.chain(items).chain(values) {
        change(inner);
        each_below(inner, change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_are_those_of_the_types() {
        let yaml = |crd: &Value| format!("---\n{}", serde_saphyr::to_string(crd).unwrap());
        let wanted: String = crds().unwrap().iter().map(yaml).collect();
        let found = include_str!("../../manifests/crds/blixt.dev.yaml");
        assert!(wanted == found, "make them anew: see gateway/examples/crds.rs");
    }
}
