//! The address pools: which are good, and which of their addresses a Gateway
//! may have.

use std::collections::BTreeMap;
use std::net::IpAddr;

use blixt_model::ObjectName;

use super::gateways::Gateways;
use super::namespaces;
use super::selector::Selector;
use crate::apis::{AddressPoolSpec, GatewaySpec, PoolUse};
use crate::index::{Index, Stored};
use crate::pools::AddressRange;
use crate::status::{Condition, ConditionType, PoolStatus, reason};

/// All pools. Addresses are taken from those first that are for some Gateways
/// only, so that these do not use up what is for all; then by name.
#[derive(Debug)]
pub(super) struct Pools<'a> {
    index: &'a Index,
    good: Vec<Pool<'a>>,
    bad: BTreeMap<&'a str, PoolStatus>,
}

#[derive(Debug)]
struct Pool<'a> {
    name: &'a str,
    stored: &'a Stored<AddressPoolSpec>,
    ranges: Vec<AddressRange>,
    namespaces: Option<Selector>,
    gateways: Option<Selector>,
}

/// Reads all pools.
pub(super) fn judge(index: &Index) -> Pools<'_> {
    let mut pools = Pools { index, good: Vec::new(), bad: BTreeMap::new() };
    for (name, stored) in index.pools() {
        match Pool::new(name, stored) {
            Ok(pool) => pools.good.push(pool),
            Err(why) => {
                let message = format!("It gives out nothing: {why}.");
                let kind = ConditionType::Accepted;
                let reason = reason::INVALID_PARAMETERS;
                let accepted = Condition::new(kind, false, reason, message, stored.generation);
                let status = PoolStatus { used: 0, free: 0, conditions: vec![accepted] };
                pools.bad.insert(name, status);
            }
        }
    }
    pools.good.sort_by_key(|pool| pool.namespaces.is_none() && pool.gateways.is_none());
    pools
}

impl Pools<'_> {
    /// Whether there is one for Gateways: then no Gateway has an address that
    /// is in none of them.
    pub(super) fn rule(&self) -> bool {
        self.for_gateways().next().is_some()
    }

    /// Whether a Gateway may have the address.
    pub(super) fn allow(
        &self,
        address: IpAddr,
        name: &ObjectName,
        gateway: &Stored<GatewaySpec>,
    ) -> bool {
        self.of(name, gateway).any(|pool| pool.contains(address))
    }

    /// Whether a Gateway that names no address may have this one.
    pub(super) fn give(
        &self,
        address: IpAddr,
        name: &ObjectName,
        gateway: &Stored<GatewaySpec>,
    ) -> bool {
        let mut pools = self.of(name, gateway).filter(|pool| pool.stored.spec.auto_assign);
        pools.any(|pool| pool.contains(address))
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
        self.good.iter().filter(|pool| pool.stored.spec.r#use == PoolUse::Vip)
    }

    fn of<'a>(
        &'a self,
        name: &'a ObjectName,
        gateway: &'a Stored<GatewaySpec>,
    ) -> impl Iterator<Item = &'a Pool<'a>> {
        self.for_gateways().filter(move |pool| {
            let namespace = pool.namespaces.as_ref().is_none_or(|selector| {
                namespaces::is_selected(selector, name.namespace(), self.index)
            });
            let label = |key: &str| gateway.labels.get(key).map(String::as_str);
            namespace && pool.gateways.as_ref().is_none_or(|selector| selector.selects(label))
        })
    }

    /// What becomes of each, now that addresses are given out.
    pub(super) fn statuses(&self, gateways: &Gateways<'_>) -> BTreeMap<String, PoolStatus> {
        let given: Vec<_> =
            gateways.values().flat_map(|gateway| &gateway.addresses.assigned).copied().collect();
        let mut statuses: BTreeMap<_, _> =
            self.bad.iter().map(|(&name, status)| (name.to_owned(), status.clone())).collect();
        for pool in &self.good {
            let shared =
                self.good.iter().find(|other| other.name != pool.name && pool.overlaps(other));
            let (reason, message) = match shared {
                Some(other) => (
                    reason::OVERLAPS,
                    format!(
                        "It has addresses in common with AddressPool {}: each is given out once.",
                        other.name
                    ),
                ),
                None => (reason::ACCEPTED, "All of its addresses can be given out.".to_owned()),
            };
            let kind = ConditionType::Accepted;
            let accepted = Condition::new(kind, true, reason, message, pool.stored.generation);
            let used = given.iter().filter(|address| pool.contains(**address)).count();
            let free = pool.len().saturating_sub(used as u128);
            let status = PoolStatus { used, free, conditions: vec![accepted] };
            statuses.insert(pool.name.to_owned(), status);
        }
        statuses
    }
}

impl<'a> Pool<'a> {
    fn new(name: &'a str, stored: &'a Stored<AddressPoolSpec>) -> Result<Self, String> {
        let spec = &stored.spec;
        let read = |text: &String| {
            AddressRange::new(text).map_err(|why| format!("spec.addresses: {text:?} {why}"))
        };
        let mut ranges = spec.addresses.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let selector = |field: &str, selector: Option<&_>| {
            let read = selector.map(Selector::new).transpose();
            read.map_err(|why| format!("spec.{field} can't be used: {why}"))
        };
        let namespaces = selector("namespaceSelector", spec.namespace_selector.as_ref())?;
        let gateways = selector("gatewaySelector", spec.gateway_selector.as_ref())?;
        merge(&mut ranges);
        Ok(Self { name, stored, ranges, namespaces, gateways })
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
