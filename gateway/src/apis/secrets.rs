//! Secrets, of which nothing is ever shown.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1;
use serde::Deserialize;

use super::ObjectMeta;

/// A Secret. Printing it shows its name only.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Secret {
    /// Its metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What it is for; `Opaque`, if it is not said.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// What is in it.
    pub data: Option<BTreeMap<String, ByteString>>,
    /// The same, as people write it. An API server moves it into `data`.
    pub string_data: Option<BTreeMap<String, String>>,
    /// Whether it may change.
    pub immutable: Option<bool>,
}

impl Secret {
    /// Moves what people wrote to where the rest is, as an API server does.
    pub(crate) fn fold(&mut self) {
        for (key, text) in self.string_data.take().into_iter().flatten() {
            self.data.get_or_insert_default().insert(key, ByteString(text.into_bytes()));
        }
    }
}

impl From<v1::Secret> for Secret {
    fn from(secret: v1::Secret) -> Self {
        Self {
            metadata: secret.metadata,
            type_: secret.type_,
            data: secret.data,
            string_data: secret.string_data,
            immutable: secret.immutable,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("metadata", &self.metadata.name).finish_non_exhaustive()
    }
}
