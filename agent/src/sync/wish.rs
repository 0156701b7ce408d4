//! What the controller wants of this agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use blixt_api::parts::{Parts, PartsError, address_in, assignment_out};
use blixt_api::sync::v1alpha1 as wire;
use blixt_model::{Generation, Snapshot};

/// What is wanted of this agent, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The snapshot as it came, which is how it is named and kept.
    pub parts: Parts,
    /// The same, read. Its generation means nothing.
    pub snapshot: Snapshot,
    /// What is this agent's alone.
    pub assignment: Assignment,
}

/// What is this agent's alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    /// The VIPs that it answers for.
    pub owned: BTreeSet<IpAddr>,
    /// Its SNAT addresses.
    pub snat: BTreeSet<IpAddr>,
}

impl Wish {
    /// Reads the parts.
    pub fn new(parts: Parts, assignment: Assignment) -> Result<Self, PartsError> {
        let snapshot = parts.snapshot(Generation::default())?;
        Ok(Self { parts, snapshot, assignment })
    }

    /// Those of a node's own addresses that it would give to Gateways or flows,
    /// with the reason why it can't.
    pub(super) fn own_addresses(&self, own: &BTreeMap<IpAddr, String>) -> BTreeMap<IpAddr, String> {
        let mut wanted = self.snapshot.vips();
        wanted.extend(&self.assignment.snat);
        own.iter()
            .filter(|(address, _)| wanted.contains(address))
            .map(|(address, why)| (*address, why.clone()))
            .collect()
    }
}

impl Assignment {
    pub(super) fn to_wire(&self) -> wire::Assignment {
        assignment_out(&self.owned, &self.snat)
    }

    pub(super) fn from_wire(assignment: &wire::Assignment) -> Result<Self, String> {
        let read = |addresses: &[Vec<u8>]| {
            addresses.iter().map(|bytes| address_in(bytes)).collect::<Result<BTreeSet<_>, _>>()
        };
        Ok(Self { owned: read(&assignment.owned_vips)?, snat: read(&assignment.snat_addresses)? })
    }
}
