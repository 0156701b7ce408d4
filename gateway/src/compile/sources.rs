//! Which node sends from which addresses: one of each family from the pools
//! for nodes.
//!
//! A node keeps what it has as long as it may have it, so that its flows go on
//! when others come and go. What is left is given out in the order of the
//! nodes' names: whoever computes it with the same memory gets the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::gateways::Gateways;
use super::pools::Pools;
use super::{Environment, Node};
use crate::pools::not_for_a_host;

/// Gives out addresses to the nodes.
pub(super) fn assign(
    pools: &Pools<'_>,
    gateways: &Gateways<'_>,
    environment: &Environment<'_>,
) -> BTreeMap<String, Vec<IpAddr>> {
    let mut taken: BTreeSet<_> =
        gateways.values().flat_map(|gateway| &gateway.addresses.assigned).copied().collect();
    let mut sources = BTreeMap::new();
    for (name, node) in environment.nodes {
        sources.insert(name.clone(), keep(node, pools, environment, &mut taken));
    }
    for (name, node) in environment.nodes {
        let has = sources.entry(name.clone()).or_default();
        for is_v6 in [false, true] {
            if has.iter().any(|address| address.is_ipv6() == is_v6) {
                continue;
            }
            let found = pools.find_for_node(is_v6, node, |address| {
                !taken.contains(&address) && is_usable(address, environment)
            });
            if let Some(address) = found {
                taken.insert(address);
                has.push(address);
            }
        }
        has.sort();
    }
    sources.retain(|_, addresses| !addresses.is_empty());
    sources
}

/// What a node has and may keep: one of each family.
fn keep(
    node: &Node,
    pools: &Pools<'_>,
    environment: &Environment<'_>,
    taken: &mut BTreeSet<IpAddr>,
) -> Vec<IpAddr> {
    let mut kept: Vec<IpAddr> = Vec::new();
    for &address in &node.sources {
        let first = kept.iter().all(|other| other.is_ipv6() != address.is_ipv6());
        let may = is_usable(address, environment) && pools.leave_to_node(address, node);
        if first && may && taken.insert(address) {
            kept.push(address);
        }
    }
    kept
}

fn is_usable(address: IpAddr, environment: &Environment<'_>) -> bool {
    !environment.unusable_addresses.contains_key(&address) && not_for_a_host(address).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apis::AddressPool;
    use crate::compile::{CrdVersion, Programming, compile};
    use crate::index::{Event, Index};
    use blixt_model::{Generation, HashSeed};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    type Sources = BTreeMap<String, Vec<IpAddr>>;

    fn pool(name: &str, addresses: &[&str], more: &Value) -> Value {
        let mut spec = json!({"use": "SNAT", "addresses": addresses});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        json!({"metadata": {"name": name}, "spec": spec})
    }

    fn compiled(pools: &[Value], nodes: &BTreeMap<String, Node>) -> crate::Compiled {
        let mut index = Index::default();
        for pool in pools {
            let pool: AddressPool = serde_json::from_value(pool.clone()).unwrap();
            index.apply(Event::Upsert(pool.into()));
        }
        let unusable = [("10.0.0.1".parse().unwrap(), "is an address of Node a".to_owned())].into();
        let environment = Environment {
            controller_name: "example.com/us",
            seed: HashSeed(1),
            generation: Generation(1),
            crds: CrdVersion::Supported,
            unusable_addresses: &unusable,
            assigned: &BTreeMap::new(),
            nodes,
            programmed: &|_| Programming::Pending,
        };
        compile(&index, &environment).unwrap()
    }

    /// Nodes with what they had before.
    fn nodes(names: &[&str], before: &Sources) -> BTreeMap<String, Node> {
        let node = |name: &&str| {
            let labels = [("rack".to_owned(), name[..1].to_owned())].into();
            let sources = before.get(*name).cloned().unwrap_or_default();
            ((*name).to_owned(), Node { labels, sources })
        };
        names.iter().map(node).collect()
    }

    fn told(sources: &Sources) -> Vec<String> {
        let one = |(node, addresses): (&String, &Vec<IpAddr>)| {
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            format!("{node}: {}", addresses.join(" "))
        };
        sources.iter().map(one).collect()
    }

    #[test]
    fn nodes_have_one_of_each_family_and_keep_it() {
        let all = [pool("all", &["10.0.0.0/29", "2001:db8::/127"], &json!({}))];
        let first = compiled(&all, &nodes(&["b", "c"], &Sources::new())).sources;
        // 10.0.0.1 is an address of a node.
        assert_eq!(told(&first), ["b: 10.0.0.0 2001:db8::", "c: 10.0.0.2 2001:db8::1"]);
        // One comes before them: they keep theirs, and IPv6 has run out.
        let second = compiled(&all, &nodes(&["a", "b", "c"], &first)).sources;
        assert_eq!(
            told(&second),
            ["a: 10.0.0.3", "b: 10.0.0.0 2001:db8::", "c: 10.0.0.2 2001:db8::1"]
        );
        // One is gone: what it had is free again.
        let third = compiled(&all, &nodes(&["a", "c"], &second));
        assert_eq!(told(&third.sources), ["a: 10.0.0.3 2001:db8::", "c: 10.0.0.2 2001:db8::1"]);
        let status = &third.status.pools["all"];
        assert_eq!((status.used, status.free), (4, 5));
        assert_eq!(status.nodes, third.sources);
    }

    #[test]
    fn pools_for_some_nodes_come_first_and_those_for_gateways_never() {
        let pools = [
            pool("all", &["10.0.1.0/30"], &json!({})),
            pool(
                "rack-b",
                &["10.0.2.0/31"],
                &json!({"nodeSelector": {"matchLabels": {"rack": "b"}}}),
            ),
            pool("edge", &["10.0.3.0/30"], &json!({"use": "VIP"})),
        ];
        let sources = compiled(&pools, &nodes(&["a1", "b1", "b2", "b3"], &Sources::new())).sources;
        assert_eq!(
            told(&sources),
            ["a1: 10.0.1.0", "b1: 10.0.2.0", "b2: 10.0.2.1", "b3: 10.0.1.1"]
        );
        // A pool that shrinks takes back what is no longer of it.
        let shrunk = [pool("all", &["10.0.1.0/31"], &json!({}))];
        let sources = compiled(&shrunk, &nodes(&["a1", "b1", "b2", "b3"], &sources)).sources;
        assert_eq!(told(&sources), ["a1: 10.0.1.0", "b3: 10.0.1.1"]);
    }

    #[test]
    fn a_selector_that_cannot_be_read_takes_nothing_away() {
        let good = [pool("all", &["10.0.1.0/30"], &json!({}))];
        let before = compiled(&good, &nodes(&["a"], &Sources::new())).sources;
        let odd =
            json!({"nodeSelector": {"matchExpressions": [{"key": "rack", "operator": "Like"}]}});
        let bad = [pool("all", &["10.0.1.0/30"], &odd)];
        let after = compiled(&bad, &nodes(&["a", "b"], &before));
        assert_eq!(told(&after.sources), ["a: 10.0.1.0"]);
        let accepted = &after.status.pools["all"].conditions[0];
        assert!(
            accepted.message.contains("spec.nodeSelector can't be used"),
            "{}",
            accepted.message
        );
    }

    proptest! {
        /// Whatever comes and goes: no address is given out twice, and no node
        /// loses one that it may have.
        #[test]
        fn nobody_shares_and_nobody_loses(
            steps in prop::collection::vec(prop::collection::btree_set(0_usize..12, 0..8), 1..12),
        ) {
            let names: Vec<_> = (0..12).map(|number| format!("n{number}")).collect();
            let all = [pool("all", &["10.0.0.0/29", "2001:db8::/126"], &json!({}))];
            let mut before = Sources::new();
            for step in steps {
                let present: Vec<_> = step.iter().map(|&number| names[number].as_str()).collect();
                let now = compiled(&all, &nodes(&present, &before)).sources;
                let given: Vec<_> = now.values().flatten().collect();
                let different: BTreeSet<_> = given.iter().collect();
                prop_assert_eq!(given.len(), different.len());
                for (name, had) in before.iter().filter(|(name, _)| present.contains(&name.as_str())) {
                    let has = now.get(name).cloned().unwrap_or_default();
                    prop_assert!(had.iter().all(|address| has.contains(address)));
                }
                before = now;
            }
        }
    }
}
