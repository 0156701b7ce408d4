//! Which GatewayClasses are ours, and whether we accept them.

use std::collections::{BTreeMap, BTreeSet};

use super::{CrdVersion, Environment};
use crate::index::Index;
use crate::status::{ClassStatus, Condition, ConditionType, reason};

/// The release of Gateway API whose CRDs and rules these are.
const GATEWAY_API: &str = "Gateway API v1.6";

/// The classes that are ours.
pub(super) struct Classes {
    /// What becomes of each.
    pub(super) statuses: BTreeMap<String, ClassStatus>,
    accepted: BTreeSet<String>,
}

impl Classes {
    /// Whether Gateways of this class are ours.
    pub(super) fn accepts(&self, name: &str) -> bool {
        self.accepted.contains(name)
    }
}

pub(super) fn judge(index: &Index, environment: &Environment<'_>) -> Classes {
    let mut classes = Classes { statuses: BTreeMap::new(), accepted: BTreeSet::new() };
    for (name, class) in index.classes() {
        if class.spec.controller_name != environment.controller_name {
            continue;
        }
        // The place to look parameters up, once there is a kind for them.
        let accepted = match &class.spec.parameters_ref {
            None => {
                classes.accepted.insert(name.clone());
                Condition::new(
                    ConditionType::Accepted,
                    true,
                    reason::ACCEPTED,
                    "Gateways of this class are served.",
                    class.generation,
                )
            }
            Some(parameters) => Condition::new(
                ConditionType::Accepted,
                false,
                reason::INVALID_PARAMETERS,
                format!(
                    "spec.parametersRef refers to {} {}, but this controller knows no parameters: \
                     remove it.",
                    parameters.kind, parameters.name
                ),
                class.generation,
            ),
        };
        let conditions = vec![accepted, supported_version(environment, class.generation)];
        classes.statuses.insert(name.clone(), ClassStatus { conditions });
    }
    classes
}

fn supported_version(environment: &Environment<'_>, generation: i64) -> Condition {
    let kind = ConditionType::SupportedVersion;
    match &environment.crds {
        CrdVersion::Supported => Condition::new(
            kind,
            true,
            reason::SUPPORTED_VERSION,
            format!("{GATEWAY_API} is supported."),
            generation,
        ),
        CrdVersion::Unsupported { found } => Condition::new(
            kind,
            false,
            reason::UNSUPPORTED_VERSION,
            format!(
                "The CRDs are of {found}, and {GATEWAY_API} is supported: install those, or \
                 expect fields that are new to have no effect."
            ),
            generation,
        ),
    }
}
