//! Text in, documents out: what each of them claims to be, and its content as
//! a tree with line numbers. Whether the content is any good is for
//! `validate` to say.

mod path;
mod tree;

pub(crate) use path::{Path, Problem, Step};
pub(crate) use tree::{Node, ParseError};

use std::fmt;

use crate::object::{Kind, ObjectKey};
use crate::schema;
use tree::Value;

/// An object as its manifest names it, which may be no object we know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// The kind as written.
    pub kind: String,
    /// The namespace, if the kind has one.
    pub namespace: Option<String>,
    /// The name, if one is written.
    pub name: Option<String>,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(name) = &self.name else { return write!(f, "{} without a name", self.kind) };
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{name}", self.kind),
            None => write!(f, "{} {name}", self.kind),
        }
    }
}

/// One document of a file, or one item of a List in it.
#[derive(Debug)]
pub(crate) struct Document {
    /// Where it begins.
    pub(crate) line: u32,
    /// What it calls itself.
    pub(crate) object: Option<ObjectRef>,
    /// Which object it is about, if that much can be told.
    pub(crate) key: Option<ObjectKey>,
    /// Its kind and content, or why it isn't a manifest for us.
    pub(crate) content: Result<(Kind, Node), Problem>,
}

/// Splits a file into its documents.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<Document>, ParseError> {
    let mut documents = Vec::new();
    for node in tree::parse(bytes)? {
        read_document(node, &mut documents);
    }
    Ok(documents)
}

fn read_document(node: Node, documents: &mut Vec<Document>) {
    if node.text("kind") == Some("List") && node.text("apiVersion") == Some("v1") {
        return read_list(node, documents);
    }
    let line = node.line;
    let (object, key, kind) = match identify(&node) {
        Ok(kind) => (Some(describe(&node, Some(kind))), key_of(&node, kind), Ok(kind)),
        Err(refused) => {
            let object = node.text("kind").map(|_| describe(&node, refused.kind));
            let key = refused.kind.and_then(|kind| key_of(&node, kind));
            (object, key, Err(refused.problem))
        }
    };
    let content = kind.map(|kind| (kind, node));
    documents.push(Document { line, object, key, content });
}

fn read_list(node: Node, documents: &mut Vec<Document>) {
    let line = node.line;
    let Value::Map(entries) = node.value else { return };
    match entries.into_iter().find(|entry| entry.key == "items").map(|entry| entry.node.value) {
        Some(Value::List(items)) => {
            for item in items {
                read_document(item, documents);
            }
        }
        _ => documents.push(Document {
            line,
            object: Some(ObjectRef { kind: "List".to_owned(), namespace: None, name: None }),
            key: None,
            content: Err(Problem::new(
                Path::of("items"),
                "must be a list of objects: write items: [] if there are none",
            )),
        }),
    }
}

/// Why a document is of no kind we take; with the kind, if only its version
/// is wrong.
struct Unidentified {
    kind: Option<Kind>,
    problem: Problem,
}

fn identify(node: &Node) -> Result<Kind, Unidentified> {
    let unidentified = |path, reason: &str| Unidentified {
        kind: None,
        problem: Problem::new(path, reason.to_owned()),
    };
    if !matches!(node.value, Value::Map(_)) {
        return Err(unidentified(
            Path::root(),
            "is not an object: a manifest begins with apiVersion, kind and metadata",
        ));
    }
    let Some(kind) = node.text("kind") else {
        return Err(unidentified(Path::of("kind"), "is missing: say which kind of object this is"));
    };
    let Some(api_version) = node.text("apiVersion") else {
        return Err(unidentified(
            Path::of("apiVersion"),
            "is missing: say which version of the kind this is",
        ));
    };
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let known = Kind::ALL.into_iter().find(|known| known.group() == group && known.name() == kind);
    let Some(known) = known else {
        return Err(unidentified(Path::root(), &unknown_kind(api_version, kind)));
    };
    let versions = schema::versions(known);
    if !versions.contains(&version) {
        let reason = format!("{api_version} is not served: write {}", api_version_of(known));
        return Err(Unidentified {
            kind: Some(known),
            problem: Problem::new(Path::of("apiVersion"), reason),
        });
    }
    Ok(known)
}

fn unknown_kind(api_version: &str, kind: &str) -> String {
    let advice = match (api_version, kind) {
        ("v1", "Endpoints") => "write an EndpointSlice instead".to_owned(),
        (_, name) if Kind::ALL.iter().any(|known| known.name().eq_ignore_ascii_case(name)) => {
            let meant: Vec<_> = Kind::ALL
                .into_iter()
                .filter(|known| known.name().eq_ignore_ascii_case(name))
                .map(|known| format!("apiVersion {} and kind {known}", api_version_of(known)))
                .collect();
            format!("write {}", meant.join(", or "))
        }
        _ => "keep it elsewhere".to_owned(),
    };
    let kinds: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    let (last, others) = kinds.split_last().unwrap_or((&"", &[]));
    format!(
        "unknown kind: {api_version} {kind}. This directory is read by blixt, which takes {} and \
         {last}: {advice}",
        others.join(", ")
    )
}

fn api_version_of(kind: Kind) -> String {
    let version = schema::versions(kind).first().copied().unwrap_or_default();
    match kind.group() {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    }
}

fn describe(node: &Node, kind: Option<Kind>) -> ObjectRef {
    let metadata = node.get("metadata");
    let text = |key| metadata.and_then(|metadata| metadata.text(key)).map(str::to_owned);
    let default = || kind.is_some_and(Kind::is_namespaced).then(|| "default".to_owned());
    ObjectRef {
        kind: node.text("kind").unwrap_or_default().to_owned(),
        namespace: text("namespace").filter(|written| !written.is_empty()).or_else(default),
        name: text("name"),
    }
}

/// As `validate` fills it in, so that what is refused is held against the
/// object that it would have been.
fn key_of(node: &Node, kind: Kind) -> Option<ObjectKey> {
    let metadata = node.get("metadata")?;
    let namespace = match metadata.get("namespace").map(|node| &node.value) {
        _ if !kind.is_namespaced() => None,
        None | Some(Value::Null) => Some("default"),
        Some(Value::Text(text)) if text.is_empty() => Some("default"),
        Some(Value::Text(text)) => Some(text.as_str()),
        Some(_) => return None,
    };
    let name = metadata.text("name")?.to_owned();
    Some(ObjectKey { kind, namespace: namespace.map(str::to_owned), name })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(text: &str) -> Vec<String> {
        read(text.as_bytes())
            .unwrap()
            .into_iter()
            .map(|document| match document.content {
                Ok((kind, _)) => format!("{kind} at {}", document.line),
                Err(problem) => problem.to_string(),
            })
            .collect()
    }

    #[test]
    fn kinds_are_told_by_group_version_and_kind() {
        for (api_version, kind) in [
            ("v1", "Namespace"),
            ("v1", "Service"),
            ("discovery.k8s.io/v1", "EndpointSlice"),
            ("gateway.networking.k8s.io/v1", "GatewayClass"),
            ("gateway.networking.k8s.io/v1beta1", "GatewayClass"),
            ("gateway.networking.k8s.io/v1", "Gateway"),
            ("gateway.networking.k8s.io/v1beta1", "Gateway"),
            ("gateway.networking.k8s.io/v1", "TCPRoute"),
            ("gateway.networking.k8s.io/v1", "UDPRoute"),
            ("gateway.networking.k8s.io/v1", "ReferenceGrant"),
            ("gateway.networking.k8s.io/v1beta1", "ReferenceGrant"),
        ] {
            assert_eq!(
                reasons(&format!("apiVersion: {api_version}\nkind: {kind}\n")),
                [format!("{kind} at 1")]
            );
        }
    }

    #[test]
    fn versions_that_are_not_served_are_refused() {
        let text = "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TCPRoute\n\
                    metadata: {name: a}\n";
        assert_eq!(
            reasons(text),
            ["apiVersion gateway.networking.k8s.io/v1alpha2 is not served: write \
              gateway.networking.k8s.io/v1"]
        );
        // It still says which object it means.
        let documents = read(text.as_bytes()).unwrap();
        assert_eq!(documents[0].key.as_ref().unwrap().to_string(), "TCPRoute default/a");
    }

    #[test]
    fn unknown_kinds_are_refused_by_name() {
        let found = reasons("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n");
        assert!(
            found[0].starts_with(
                "unknown kind: apps/v1 Deployment. This directory is read by blixt, which takes \
                 Namespace, GatewayClass, "
            ),
            "{found:?}"
        );
        assert!(found[0].ends_with("keep it elsewhere"), "{found:?}");
        let found = reasons("apiVersion: v1\nkind: Endpoints\n");
        assert!(found[0].ends_with("write an EndpointSlice instead"), "{found:?}");
        let found = reasons("apiVersion: networking.istio.io/v1\nkind: Gateway\n");
        let meant = "write apiVersion gateway.networking.k8s.io/v1 and kind Gateway";
        assert!(found[0].ends_with(meant), "{found:?}");
        let found = reasons("apiVersion: v1\nkind: service\n");
        assert!(found[0].ends_with("write apiVersion v1 and kind Service"), "{found:?}");
    }

    #[test]
    fn what_is_no_object_is_refused_alone() {
        assert_eq!(
            reasons("- a\n---\nkind: Service\n---\napiVersion: v1\n---\njust text\n"),
            [
                "is not an object: a manifest begins with apiVersion, kind and metadata",
                "apiVersion is missing: say which version of the kind this is",
                "kind is missing: say which kind of object this is",
                "is not an object: a manifest begins with apiVersion, kind and metadata",
            ]
        );
    }

    #[test]
    fn lists_are_unpacked() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n\
                    - apiVersion: v1\n  kind: List\n  items:\n  - {apiVersion: v1, kind: Namespace}\n";
        assert_eq!(reasons(text), ["Service at 4", "Namespace at 9"]);
        assert_eq!(
            reasons("apiVersion: v1\nkind: List\n"),
            ["items must be a list of objects: write items: [] if there are none"]
        );
    }

    #[test]
    fn objects_are_described_as_written() {
        let documents = read(
            b"apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: b}\n---\n\
              apiVersion: v1\nkind: Service\nmetadata: {}\n---\n\
              apiVersion: v1\nkind: Namespace\nmetadata: {name: c}\n",
        )
        .unwrap();
        let names: Vec<_> = documents
            .iter()
            .map(|document| document.object.as_ref().unwrap().to_string())
            .collect();
        assert_eq!(names, ["Service b/a", "Service without a name", "Namespace c"]);
    }
}
