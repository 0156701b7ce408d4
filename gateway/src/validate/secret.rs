//! What an API server checks of a Secret, as far as certificates go.

use crate::apis::Secret;
use crate::manifest::{Path, Problem};

/// Moves `stringData` into `data`, and says what is wrong.
pub(super) fn rules(secret: &mut Secret) -> Vec<Problem> {
    secret.fold();
    if secret.type_.as_deref() != Some("kubernetes.io/tls") {
        return Vec::new();
    }
    let has = |key: &str| secret.data.as_ref().is_some_and(|data| data.contains_key(key));
    let missing = ["tls.crt", "tls.key"].into_iter().filter(|key| !has(key));
    missing
        .map(|key| {
            let reason = "is missing: a Secret of type kubernetes.io/tls has it";
            Problem::new(Path::of("data").key(key), reason)
        })
        .collect()
}
