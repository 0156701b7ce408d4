//! Who may refer to what in another namespace: ReferenceGrants.

use std::collections::BTreeMap;

use crate::GATEWAY_GROUP;
use crate::apis::ReferenceGrantSpec;
use crate::index::Index;

/// All grants, by the namespace that they are of.
pub(super) struct Grants<'a>(BTreeMap<&'a str, Vec<&'a ReferenceGrantSpec>>);

/// Who refers: a kind of Gateway API's, in a namespace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Referrer<'r> {
    pub(super) kind: &'r str,
    pub(super) namespace: &'r str,
}

impl<'a> Grants<'a> {
    pub(super) fn new(index: &'a Index) -> Self {
        let mut grants: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (name, grant) in index.grants() {
            grants.entry(name.namespace()).or_default().push(grant);
        }
        Self(grants)
    }

    /// Whether it may refer to an object of a core kind. Within a namespace
    /// everybody may.
    pub(super) fn permit(
        &self,
        from: Referrer<'_>,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> bool {
        if from.namespace == namespace {
            return true;
        }
        self.0.get(namespace).into_iter().flatten().any(|grant| {
            grant.from.iter().any(|it| {
                it.group == GATEWAY_GROUP && it.kind == from.kind && it.namespace == from.namespace
            }) && grant.to.iter().any(|to| {
                to.group.is_empty()
                    && to.kind == kind
                    && to.name.as_deref().is_none_or(|named| named.is_empty() || named == name)
            })
        })
    }
}
