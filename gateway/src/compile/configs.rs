//! The GatewayConfigs: what each says, and what those who refer to it get.

use std::collections::BTreeMap;

use blixt_model::{ObjectName, Settings};

use crate::BLIXT_GROUP;
use crate::config;
use crate::index::Index;
use crate::object::Kind;
use crate::status::{Condition, ConditionType, ConfigStatus, reason};

/// All of them, and who refers to them.
pub(super) struct Configs<'a> {
    all: BTreeMap<&'a ObjectName, Config>,
}

struct Config {
    generation: i64,
    read: Result<Settings, String>,
    /// The fields that hold for whole nodes.
    of_nodes: Vec<&'static str>,
    used_by: Vec<String>,
    /// What of it has no effect, by those who refer to it.
    complaints: Vec<String>,
}

/// A reference to parameters, as a GatewayClass or a Gateway has it.
pub(super) struct Reference<'a> {
    pub(super) group: &'a str,
    pub(super) kind: &'a str,
    pub(super) namespace: Option<&'a str>,
    pub(super) name: &'a str,
}

/// Reads all of them.
pub(super) fn judge(index: &Index) -> Configs<'_> {
    let all = index.configs().iter().map(|(name, stored)| {
        let read = config::read(&stored.spec).map_err(|problems| {
            let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
            problems.join("; ")
        });
        let config = Config {
            generation: stored.generation,
            read,
            of_nodes: config::of_nodes(&stored.spec),
            used_by: Vec::new(),
            complaints: Vec::new(),
        };
        (name, config)
    });
    Configs { all: all.collect() }
}

impl Configs<'_> {
    /// What a GatewayClass gets of its reference, or why nothing. `who` refers,
    /// as "GatewayClass blixt".
    pub(super) fn of_class(
        &mut self,
        who: &str,
        reference: &Reference<'_>,
    ) -> Result<(ObjectName, Settings), String> {
        let name = self.find(who, reference)?;
        let config = self.all.get(&name).ok_or("is gone")?;
        let settings = config.read.clone().map_err(|why| bad(&name, &why))?;
        Ok((name, settings))
    }

    /// The same of a Gateway: what holds for whole nodes is not its to say.
    pub(super) fn of_gateway(
        &mut self,
        who: &str,
        reference: &Reference<'_>,
    ) -> Result<(), String> {
        let name = self.find(who, reference)?;
        let config = self.all.get(&name).ok_or("is gone")?;
        config.read.as_ref().map_err(|why| bad(&name, why))?;
        if config.of_nodes.is_empty() {
            return Ok(());
        }
        let why = format!(
            "has {}, which hold for whole nodes: set them in the GatewayConfig of the GatewayClass",
            config.of_nodes.join(", ")
        );
        // That is a mistake of the Gateway alone: the GatewayConfig is as good as
        // it was for whoever else refers to it.
        Err(format!("GatewayConfig {name} {why}"))
    }

    /// Notes what of it has no effect for whom.
    pub(super) fn complain(&mut self, name: &ObjectName, who: &str, why: &str) {
        if let Some(config) = self.all.get_mut(name) {
            config.complaints.push(format!("{who} can't use it: it {why}"));
        }
    }

    fn find(&mut self, who: &str, reference: &Reference<'_>) -> Result<ObjectName, String> {
        let Reference { group, kind, namespace, name } = *reference;
        if (group, kind) != (BLIXT_GROUP, Kind::GatewayConfig.name()) {
            return Err(format!(
                "{kind} {name} of group {group:?} is no kind of parameters: use a GatewayConfig of \
                 group {BLIXT_GROUP}"
            ));
        }
        let Some(namespace) = namespace else {
            return Err(format!("GatewayConfig {name} is in a namespace: name it"));
        };
        let missing = || {
            format!(
                "GatewayConfig {namespace}/{name} does not exist: create it, or remove the reference"
            )
        };
        let name = ObjectName::new(namespace, name).map_err(|_| missing())?;
        let config = self.all.get_mut(&name).ok_or_else(missing)?;
        config.used_by.push(who.to_owned());
        Ok(name)
    }

    /// What becomes of each.
    pub(super) fn statuses(self) -> BTreeMap<ObjectName, ConfigStatus> {
        let status = |config: Config| {
            let (holds, reason, message) = match &config.read {
                Err(why) => (false, reason::INVALID_PARAMETERS, format!("{why}.")),
                Ok(_) if !config.complaints.is_empty() => {
                    let complaints = config.complaints.join("; ");
                    (false, reason::INVALID_PARAMETERS, format!("{complaints}."))
                }
                Ok(_) if config.used_by.is_empty() => {
                    let message =
                        "It is good, but no GatewayClass or Gateway of ours refers to it.";
                    (true, reason::ACCEPTED, message.to_owned())
                }
                Ok(_) => (true, reason::ACCEPTED, "All of it is wanted.".to_owned()),
            };
            let kind = ConditionType::Accepted;
            let condition = Condition::new(kind, holds, reason, message, config.generation);
            ConfigStatus { used_by: config.used_by, conditions: vec![condition] }
        };
        self.all.into_iter().map(|(name, config)| (name.clone(), status(config))).collect()
    }
}

fn bad(name: &ObjectName, why: &str) -> String {
    format!("GatewayConfig {name} is not good: {why}")
}
