//! The address pools: which are good, and which of their addresses a Gateway
//! may have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use blixt_model::ObjectName;

use super::Node;
use super::gateways::Gateways;
use super::namespaces;
use super::selector::Selector;
use crate::apis::{AddressPoolSpec, GatewaySpec, LabelSelector, PoolUse};
use crate::index::{Index, Stored};
use crate::pools::AddressRange;
use crate::status::{Condition, ConditionType, PoolStatus, reason};

/// All pools. Addresses are taken from those first that are for some Gateways
/// only, so that these do not use up what is for all; then by name.
#[derive(Debug)]
pub(super) struct Pools<'a> {
    index: &'a Index,
    all: Vec<Pool<'a>>,
}

#[derive(Debug)]
struct Pool<'a> {
    name: &'a str,
    stored: &'a Stored<AddressPoolSpec>,
    ranges: Vec<AddressRange>,
    namespaces: Option<Selector>,
    gateways: Option<Selector>,
    nodes: Option<Selector>,
    /// What of it can't be read. The rest of its addresses are given out
    /// nevertheless, unless it can't be told to whom.
    faults: Vec<String>,
    selects_nobody: bool,
}

/// Reads all pools.
pub(super) fn judge(index: &Index) -> Pools<'_> {
    let mut all: Vec<_> =
        index.pools().iter().map(|(name, stored)| Pool::new(name, stored)).collect();
    all.sort_by_key(|pool| {
        [&pool.namespaces, &pool.gateways, &pool.nodes].iter().all(|selector| selector.is_none())
    });
    Pools { index, all }
}

impl Pools<'_> {
    /// Whether there is one for Gateways: then no Gateway has an address that
    /// is in none of them.
    pub(super) fn rule(&self) -> bool {
        self.for_gateways().next().is_some()
    }

    /// Whether a Gateway may have the address; one that `has` it keeps it while
    /// it can't be told whom its pool selects.
    pub(super) fn allow(
        &self,
        address: IpAddr,
        name: &ObjectName,
        gateway: &Stored<GatewaySpec>,
        has: bool,
    ) -> bool {
        let mut doubtful = self.for_gateways().filter(|pool| pool.selects_nobody);
        self.of(name, gateway).any(|pool| pool.contains(address))
            || has && doubtful.any(|pool| pool.contains(address))
    }

    /// The pool of sources for nodes that the address is of: no Gateway can
    /// have it.
    pub(super) fn for_nodes(&self, address: IpAddr) -> Option<&str> {
        let mut pools = self.all.iter().filter(|pool| !pool.is_for_gateways());
        pools.find(|pool| pool.contains(address)).map(|pool| pool.name)
    }

    /// Whether a Gateway that names no address may keep this one.
    pub(super) fn leave(
        &self,
        address: IpAddr,
        name: &ObjectName,
        gateway: &Stored<GatewaySpec>,
    ) -> bool {
        let doubtful = self.for_gateways().filter(|pool| pool.selects_nobody);
        let mut pools = self.of(name, gateway).chain(doubtful);
        pools.any(|pool| pool.stored.spec.auto_assign && pool.contains(address))
    }

    /// The first address for a Gateway that `is_free`.
    pub(super) fn find(
        &self,
        is_v6: bool,
        name: &ObjectName,
        gateway: &Stored<GatewaySpec>,
        is_free: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        self.of(name, gateway)
            .filter(|pool| pool.stored.spec.auto_assign)
            .flat_map(|pool| &pool.ranges)
            .filter(|range| range.is_v6() == is_v6)
            .find_map(|range| range.addresses().find(|address| is_free(*address)))
    }

    /// Whether a node may go on sending from an address that it has.
    pub(super) fn leave_to_node(&self, address: IpAddr, node: &Node) -> bool {
        let mut pools = self.all.iter().filter(|pool| !pool.is_for_gateways());
        pools.any(|pool| pool.contains(address) && (pool.selects_nobody || pool.selects(node)))
    }

    /// The first address for a node that `is_free`.
    pub(super) fn find_for_node(
        &self,
        is_v6: bool,
        node: &Node,
        is_free: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let pools = self.all.iter().filter(|pool| !pool.is_for_gateways());
        pools
            .filter(|pool| !pool.selects_nobody && pool.selects(node))
            .flat_map(|pool| &pool.ranges)
            .filter(|range| range.is_v6() == is_v6)
            .find_map(|range| range.addresses().find(|address| is_free(*address)))
    }

    /// The names of the pools that a Gateway may have addresses of, and
    /// whether it gets them unasked.
    pub(super) fn names(
        &self,
        name: &ObjectName,
        gateway: &Stored<GatewaySpec>,
    ) -> Vec<(String, bool)> {
        let pools = self.of(name, gateway);
        pools.map(|pool| (pool.name.to_owned(), pool.stored.spec.auto_assign)).collect()
    }

    fn for_gateways(&self) -> impl Iterator<Item = &Pool<'_>> {
        self.all.iter().filter(|pool| pool.is_for_gateways())
    }

    fn of<'a>(
        &'a self,
        name: &'a ObjectName,
        gateway: &'a Stored<GatewaySpec>,
    ) -> impl Iterator<Item = &'a Pool<'a>> {
        self.for_gateways().filter(|pool| !pool.selects_nobody).filter(move |pool| {
            let namespace = pool.namespaces.as_ref().is_none_or(|selector| {
                namespaces::is_selected(selector, name.namespace(), self.index)
            });
            let label = |key: &str| gateway.labels.get(key).map(String::as_str);
            namespace && pool.gateways.as_ref().is_none_or(|selector| selector.selects(label))
        })
    }

    /// What becomes of each, now that addresses are given out.
    pub(super) fn statuses(
        &self,
        gateways: &Gateways<'_>,
        sources: &BTreeMap<String, Vec<IpAddr>>,
        unusable: &BTreeMap<IpAddr, String>,
    ) -> BTreeMap<String, PoolStatus> {
        let of_gateways: BTreeSet<_> =
            gateways.values().flat_map(|gateway| &gateway.addresses.assigned).copied().collect();
        let of_nodes: BTreeSet<_> = sources.values().flatten().copied().collect();
        let status = |pool: &Pool<'_>| {
            let within = |addresses: &mut dyn Iterator<Item = &IpAddr>| {
                addresses.filter(|address| pool.contains(**address)).count()
            };
            let given = if pool.is_for_gateways() { &of_gateways } else { &of_nodes };
            let used = within(&mut given.iter());
            let lost = within(&mut unusable.keys().filter(|address| !given.contains(*address)));
            let free = pool.len().saturating_sub((used + lost) as u128);
            PoolStatus {
                used,
                free,
                nodes: pool.nodes(sources),
                conditions: vec![self.accepted(pool)],
            }
        };
        self.all.iter().map(|pool| (pool.name.to_owned(), status(pool))).collect()
    }

    fn accepted(&self, pool: &Pool<'_>) -> Condition {
        let shares = |other: &&Pool<'_>| other.name != pool.name && pool.overlaps(other);
        let (holds, reason, message) = if !pool.faults.is_empty() {
            let faults = pool.faults.join("; ");
            let rest = if pool.selects_nobody {
                "Until that is mended it gives out nothing; who has an address keeps it."
            } else {
                "The rest of its addresses are given out."
            };
            (false, reason::INVALID_PARAMETERS, format!("{faults}. {rest}"))
        } else if let Some(other) = self.all.iter().find(shares) {
            let message = match (pool.is_for_gateways(), other.is_for_gateways()) {
                (true, false) => format!(
                    "It has addresses in common with AddressPool {}, which is for nodes: no Gateway \
                     gets these.",
                    other.name
                ),
                _ => format!(
                    "It has addresses in common with AddressPool {}: each is given out once.",
                    other.name
                ),
            };
            (true, reason::OVERLAPS, message)
        } else {
            (true, reason::ACCEPTED, "All of its addresses can be given out.".to_owned())
        };
        let kind = ConditionType::Accepted;
        Condition::new(kind, holds, reason, message, pool.stored.generation)
    }
}

impl<'a> Pool<'a> {
    fn new(name: &'a str, stored: &'a Stored<AddressPoolSpec>) -> Self {
        let spec = &stored.spec;
        let (mut ranges, mut faults) = (Vec::new(), Vec::new());
        for text in &spec.addresses {
            match AddressRange::new(text) {
                Ok(range) => ranges.push(range),
                Err(why) => faults.push(format!("spec.addresses: {text:?} {why}")),
            }
        }
        merge(&mut ranges);
        let mut selects_nobody = false;
        let mut selector = |field: &str, selector: Option<&LabelSelector>| {
            let read = selector.map(Selector::new).transpose();
            read.unwrap_or_else(|why| {
                faults.push(format!("spec.{field} can't be used: {why}"));
                selects_nobody = true;
                None
            })
        };
        let namespaces = selector("namespaceSelector", spec.namespace_selector.as_ref());
        let gateways = selector("gatewaySelector", spec.gateway_selector.as_ref());
        let nodes = selector("nodeSelector", spec.node_selector.as_ref());
        Self { name, stored, ranges, namespaces, gateways, nodes, faults, selects_nobody }
    }

    fn selects(&self, node: &Node) -> bool {
        let label = |key: &str| node.labels.get(key).map(String::as_str);
        self.nodes.as_ref().is_none_or(|selector| selector.selects(label))
    }

    /// What nodes have of it.
    fn nodes(&self, sources: &BTreeMap<String, Vec<IpAddr>>) -> BTreeMap<String, Vec<IpAddr>> {
        if self.is_for_gateways() {
            return BTreeMap::new();
        }
        let of_it = sources.iter().map(|(node, addresses)| {
            let addresses = addresses.iter().copied().filter(|address| self.contains(*address));
            (node.clone(), addresses.collect::<Vec<_>>())
        });
        of_it.filter(|(_, addresses)| !addresses.is_empty()).collect()
    }

    fn is_for_gateways(&self) -> bool {
        self.stored.spec.r#use == PoolUse::Vip
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.ranges.iter().any(|range| other.ranges.iter().any(|theirs| range.overlaps(theirs)))
    }

    fn len(&self) -> u128 {
        self.ranges.iter().fold(0, |sum, range| sum.saturating_add(range.len()))
    }
}

/// Makes of ranges that overlap one, so that each address counts once.
fn merge(ranges: &mut Vec<AddressRange>) {
    ranges.sort();
    ranges.dedup_by(|later, earlier| match earlier.union(later) {
        Some(union) => {
            *earlier = union;
            true
        }
        None => false,
    });
}
