//! Label selectors, with all they can say (`metav1.LabelSelector`).

use crate::apis::LabelSelector;
use crate::validate::names;

/// Selects by labels. All of its requirements have to be met; without any it
/// selects everything.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selector(Vec<Requirement>);

#[derive(Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    rule: Rule,
}

#[derive(Debug, PartialEq, Eq)]
enum Rule {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

impl Selector {
    /// Reads it, or says what is wrong with it; CRDs do not check this.
    pub(crate) fn new(spec: &LabelSelector) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for (key, value) in spec.match_labels.iter().flatten() {
            let rule = Rule::In(vec![value.clone()]);
            requirements.push(Requirement { key: key.clone(), rule });
        }
        for expression in spec.match_expressions.iter().flatten() {
            let values = expression.values.clone().unwrap_or_default();
            let (key, operator) = (expression.key.clone(), expression.operator.as_str());
            let rule = match (operator, values.is_empty()) {
                ("In", false) => Rule::In(values),
                ("NotIn", false) => Rule::NotIn(values),
                ("Exists", true) => Rule::Exists,
                ("DoesNotExist", true) => Rule::DoesNotExist,
                ("In" | "NotIn", true) => {
                    return Err(format!("operator {operator} for {key:?} needs values"));
                }
                ("Exists" | "DoesNotExist", false) => {
                    return Err(format!("operator {operator} for {key:?} takes no values"));
                }
                _ => {
                    return Err(format!(
                        "operator {operator:?} for {key:?} is unknown: use In, NotIn, Exists or \
                         DoesNotExist"
                    ));
                }
            };
            requirements.push(Requirement { key, rule });
        }
        for requirement in &requirements {
            requirement.check()?;
        }
        Ok(Self(requirements))
    }

    /// Whether it selects what has these labels.
    pub(super) fn selects<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|requirement| {
            let value = label(&requirement.key);
            let listed =
                |values: &[String]| values.iter().any(|wanted| Some(wanted.as_str()) == value);
            match &requirement.rule {
                Rule::In(values) => listed(values),
                Rule::NotIn(values) => !listed(values),
                Rule::Exists => value.is_some(),
                Rule::DoesNotExist => value.is_none(),
            }
        })
    }
}

impl Requirement {
    fn check(&self) -> Result<(), String> {
        if !names::is_qualified_name(&self.key) {
            return Err(format!("{:?} is no key of a label", self.key));
        }
        match &self.rule {
            Rule::In(values) | Rule::NotIn(values) => {
                match values.iter().find(|value| !names::is_label_value(value)) {
                    Some(bad) => Err(format!("{bad:?} is no value of a label")),
                    None => Ok(()),
                }
            }
            Rule::Exists | Rule::DoesNotExist => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn selector(value: Value) -> Result<Selector, String> {
        Selector::new(&serde_json::from_value(value).unwrap())
    }

    fn selects(value: Value, labels: &[(&str, &str)]) -> bool {
        selector(value)
            .unwrap()
            .selects(|key| labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value))
    }

    #[test]
    fn all_requirements_have_to_be_met() {
        let labels = [("tier", "web"), ("env", "prod")];
        assert!(selects(json!({}), &labels));
        assert!(selects(json!({"matchLabels": {"tier": "web", "env": "prod"}}), &labels));
        assert!(!selects(json!({"matchLabels": {"tier": "web", "env": "test"}}), &labels));
        assert!(!selects(
            json!({
                "matchLabels": {"tier": "web"},
                "matchExpressions": [{"key": "env", "operator": "DoesNotExist"}]
            }),
            &labels
        ));
    }

    #[test]
    fn expressions_mean_what_kubernetes_means() {
        let one = |operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": "env", "operator": operator, "values": values}]});
        let (prod, none) = ([("env", "prod")], []);
        for (expression, with, without) in [
            (one("In", &["prod", "test"]), true, false),
            (one("In", &["test"]), false, false),
            // A label that is not there is not in the list either.
            (one("NotIn", &["prod"]), false, true),
            (one("NotIn", &["test"]), true, true),
            (one("Exists", &[]), true, false),
            (one("DoesNotExist", &[]), false, true),
        ] {
            assert_eq!(selects(expression.clone(), &prod), with, "{expression}");
            assert_eq!(selects(expression.clone(), &none), without, "{expression}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        for (expression, part) in [
            (json!({"key": "a", "operator": "In"}), "needs values"),
            (json!({"key": "a", "operator": "NotIn", "values": []}), "needs values"),
            (json!({"key": "a", "operator": "Exists", "values": ["b"]}), "takes no values"),
            (json!({"key": "a", "operator": "Near", "values": ["b"]}), "is unknown"),
            (json!({"key": "a b", "operator": "Exists"}), "no key of a label"),
            (json!({"key": "a", "operator": "In", "values": ["b c"]}), "no value of a label"),
        ] {
            let error = selector(json!({"matchExpressions": [expression]})).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert!(selector(json!({"matchLabels": {"-": "x"}})).is_err());
    }
}
