//! Which GatewayClasses are ours, and whether we accept them.

use std::collections::{BTreeMap, BTreeSet};

use blixt_model::{ObjectName, Settings};

use super::configs::{Configs, Reference};
use super::{CrdVersion, Environment};
use crate::apis::GatewayClassSpec;
use crate::index::Index;
use crate::status::{ClassStatus, Condition, ConditionType, reason};

/// The release of Gateway API whose CRDs and rules these are.
const GATEWAY_API: &str = "Gateway API v1.6";

/// The classes that are ours.
pub(super) struct Classes {
    /// What becomes of each.
    pub(super) statuses: BTreeMap<String, ClassStatus>,
    /// What holds on all nodes.
    pub(super) settings: Settings,
    accepted: BTreeSet<String>,
    /// Those whose parameters are not good.
    refused: BTreeSet<String>,
}

impl Classes {
    /// Whether a Gateway of this class is ours. Where a class has lost its
    /// parameters those stay that `have_addresses`; others wait.
    pub(super) fn accepts(&self, name: &str, has_addresses: bool) -> bool {
        self.accepted.contains(name) || has_addresses && self.refused.contains(name)
    }
}

/// The one who settles what holds on all nodes.
struct Settled {
    class: String,
    config: ObjectName,
    settings: Settings,
}

pub(super) fn judge(
    index: &Index,
    configs: &mut Configs<'_>,
    environment: &Environment<'_>,
) -> Classes {
    let mut ours: Vec<_> = index
        .classes()
        .iter()
        .filter(|(_, class)| class.spec.controller_name == environment.controller_name)
        .collect();
    ours.sort_by(|(name, class), (other_name, other)| class.before(name, other, other_name));
    let mut classes = Classes {
        statuses: BTreeMap::new(),
        settings: Settings::default(),
        accepted: BTreeSet::new(),
        refused: BTreeSet::new(),
    };
    let mut settled = None;
    for (name, class) in ours {
        let accepted = match parameters(name, &class.spec, configs, &mut settled) {
            Ok(()) => {
                classes.accepted.insert(name.clone());
                Condition::new(
                    ConditionType::Accepted,
                    true,
                    reason::ACCEPTED,
                    "Gateways of this class are served.",
                    class.generation,
                )
            }
            Err(why) => {
                classes.refused.insert(name.clone());
                Condition::new(
                    ConditionType::Accepted,
                    false,
                    reason::INVALID_PARAMETERS,
                    format!(
                        "spec.parametersRef: {why}. Meanwhile Gateways that have addresses are \
                         served, and others of this class are not."
                    ),
                    class.generation,
                )
            }
        };
        let conditions = vec![accepted, supported_version(environment, class.generation)];
        classes.statuses.insert(name.clone(), ClassStatus { conditions });
    }
    classes.settings = settled.map(|settled| settled.settings).unwrap_or_default();
    classes
}

/// Follows a class's reference. The first class that says something of what
/// holds on all nodes settles it.
fn parameters(
    name: &str,
    class: &GatewayClassSpec,
    configs: &mut Configs<'_>,
    settled: &mut Option<Settled>,
) -> Result<(), String> {
    let Some(reference) = &class.parameters_ref else { return Ok(()) };
    let who = format!("GatewayClass {name}");
    let reference = Reference {
        group: &reference.group,
        kind: &reference.kind,
        namespace: reference.namespace.as_deref(),
        name: &reference.name,
    };
    let (config, settings) = configs.of_class(&who, &reference)?;
    if settings == Settings::default() {
        return Ok(());
    }
    match settled {
        Some(first) if first.settings != settings => {
            let why = format!(
                "asks for something else than GatewayConfig {} of GatewayClass {}, which is older \
                 and holds on all nodes: refer to that one, or say the same",
                first.config, first.class
            );
            configs.complain(&config, &who, &why);
            Err(format!("GatewayConfig {config} {why}"))
        }
        Some(_) => Ok(()),
        None => {
            *settled = Some(Settled { class: name.to_owned(), config, settings });
            Ok(())
        }
    }
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
