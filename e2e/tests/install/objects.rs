//! Manifests, read.

use std::fs;

use blixt_e2e::cluster::root;
use serde_json::Value;

/// The objects of some files.
pub(crate) struct Objects {
    pub(crate) all: Vec<Value>,
}

impl Objects {
    pub(crate) fn parse(yaml: &str) -> Self {
        let all = serde_saphyr::from_multiple::<Value>(yaml).unwrap();
        Self { all: all.into_iter().filter(|object| !object.is_null()).collect() }
    }

    pub(crate) fn in_file(path: &str) -> Self {
        Self::parse(&fs::read_to_string(root().join(path)).unwrap())
    }

    /// Those of all files of a directory, but for what makes kustomize of it.
    pub(crate) fn in_directory(path: &str) -> Self {
        let mut all = Vec::new();
        for entry in fs::read_dir(root().join(path)).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().is_some_and(|name| name != "kustomization.yaml") {
                all.extend(Self::parse(&fs::read_to_string(path).unwrap()).all);
            }
        }
        Self { all }
    }

    pub(crate) fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.all.iter().filter(move |object| object["kind"] == *kind)
    }

    pub(crate) fn one(&self, kind: &str, name: &str) -> &Value {
        let found = self.of_kind(kind).find(|object| object["metadata"]["name"] == *name);
        found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }
}

/// The containers of a workload's pods.
pub(crate) fn containers(workload: &Value) -> &[Value] {
    workload["spec"]["template"]["spec"]["containers"].as_array().unwrap()
}

/// A list of texts; none, if there is no list.
pub(crate) fn texts(list: &Value) -> Vec<String> {
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}
