//! The rules of AddressPool that its schema cannot say.

use crate::apis::{AddressPoolSpec, LabelSelector};
use crate::compile::Selector;
use crate::manifest::{Path, Problem};
use crate::pools::AddressRange;

pub(super) fn rules(spec: &AddressPoolSpec) -> Vec<Problem> {
    let here = Path::of("spec");
    let mut problems = Vec::new();
    for (index, text) in spec.addresses.iter().enumerate() {
        if let Err(why) = AddressRange::new(text) {
            problems.push(Problem::new(here.key("addresses").index(index), why));
        }
    }
    let mut selector = |field, selector: Option<&LabelSelector>| {
        if let Some(Err(why)) = selector.map(Selector::new) {
            problems.push(Problem::new(here.key(field), format!("can't be used: {why}")));
        }
    };
    selector("namespaceSelector", spec.namespace_selector.as_ref());
    selector("gatewaySelector", spec.gateway_selector.as_ref());
    selector("nodeSelector", spec.node_selector.as_ref());
    problems
}
