//! Families of addresses: which ones Gateways have, and what their flows lack
//! on this node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use blixt_dataplane::Fib;
use blixt_dataplane::address::from_ip;
use blixt_gateway::{Kind, ObjectKey, Warning};
use blixt_model::Snapshot;

use crate::hostpath::{Family, Fault};

/// The families of VIPs.
pub(crate) fn served(snapshot: &Snapshot) -> BTreeSet<Family> {
    let gateways = snapshot.gateways().iter();
    gateways.flat_map(|gateway| gateway.addresses.iter().map(Family::of)).collect()
}

/// Those of them that have endpoints which nothing else than the node's
/// kernel leads to.
pub(crate) fn needing_host(
    snapshot: &Snapshot,
    snat: &BTreeSet<IpAddr>,
    fib: &Fib,
) -> BTreeSet<Family> {
    let endpoints = snapshot.services().iter().flat_map(|service| &service.endpoints);
    let endpoints = endpoints.map(|endpoint| endpoint.address);
    let served = served(snapshot);
    let with_snat: BTreeSet<_> = snat.iter().map(Family::of).collect();
    let needs = |endpoint: &IpAddr| {
        let family = Family::of(endpoint);
        served.contains(&family)
            && (!with_snat.contains(&family) || fib.needs_host(from_ip(*endpoint)))
    };
    endpoints.filter(needs).map(|endpoint| Family::of(&endpoint)).collect()
}

/// What is at fault for packets of these families.
pub(crate) fn sentences(faults: &[Fault], families: &BTreeSet<Family>) -> Vec<String> {
    let matters = |fault: &&Fault| match fault.family {
        Some(family) => families.contains(&family),
        None => !families.is_empty(),
    };
    faults.iter().filter(matters).map(|fault| fault.sentence.clone()).collect()
}

/// Gateways whose flows would need a SNAT address of a family that has none,
/// where there is no host path.
pub(crate) fn missing(snapshot: &Snapshot, snat: &BTreeSet<IpAddr>) -> Vec<Warning> {
    let with_snat: BTreeSet<_> = snat.iter().map(Family::of).collect();
    let mut missing = Vec::new();
    for gateway in snapshot.gateways() {
        let families: BTreeSet<_> = gateway.addresses.iter().map(Family::of).collect();
        for family in families.difference(&with_snat) {
            missing.push(Warning {
                object: ObjectKey {
                    kind: Kind::Gateway,
                    namespace: Some(gateway.name.namespace().to_owned()),
                    name: gateway.name.name().to_owned(),
                },
                message: format!(
                    "has an {family} address, but the agent has no {family} address for flows to \
                     endpoints, so these are dropped: give it an {family} --snat-address (in a \
                     cluster, make an AddressPool with use SNAT), or let --host-path be auto"
                ),
            });
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use blixt_model::{Gateway, Generation, HashSeed};

    #[test]
    fn faults_of_a_family_that_nobody_uses_do_not_matter() {
        let fault = |family, word: &str| Fault { family, sentence: word.to_owned() };
        let faults = [fault(Some(Family::V6), "six"), fault(None, "all")];
        let told = |families: &[Family]| sentences(&faults, &families.iter().copied().collect());
        assert_eq!(told(&[]), [""; 0]);
        assert_eq!(told(&[Family::V4]), ["all"]);
        assert_eq!(told(&[Family::V4, Family::V6]), ["six", "all"]);
    }

    #[test]
    fn a_family_without_a_snat_address_is_told() {
        let gateway = |name: &str, addresses: &[&str]| Gateway {
            name: name.parse().unwrap(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            listeners: vec![],
            streams: vec![],
        };
        let gateways =
            vec![gateway("a", &["192.0.2.1", "2001:db8::1"]), gateway("b", &["192.0.2.2"])];
        let snapshot = Snapshot::new(Generation(1), HashSeed(0), gateways, vec![]).unwrap();
        let told = |snat: &[&str]| {
            let snat = snat.iter().map(|address| address.parse().unwrap()).collect();
            let warnings = missing(&snapshot, &snat);
            warnings.iter().map(|warning| warning.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(told(&["10.0.0.1", "fd00::1"]), [""; 0]);
        let lacks = told(&["10.0.0.1"]);
        assert_eq!(lacks.len(), 1);
        assert!(lacks[0].starts_with("Gateway default/a: has an IPv6 address"), "{lacks:?}");
        assert_eq!(told(&["fd00::1"]).len(), 2);
    }
}
