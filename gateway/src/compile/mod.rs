//! The index into a snapshot and conditions.
//!
//! It reads from top to bottom: which classes are ours, which of their
//! Gateways get which addresses, which listeners are good, which routes
//! attach to them, where these send the traffic; then the same facts are
//! told twice, as a snapshot and as statuses.

mod addresses;
mod backends;
mod certificates;
mod classes;
mod conditions;
mod configs;
mod endpoints;
mod gateways;
mod grants;
mod listeners;
mod namespaces;
mod pools;
mod room;
mod routes;
mod selector;
mod sets;
mod snapshot;
mod sources;

use std::collections::BTreeMap;
use std::net::IpAddr;

use blixt_model::{Certificate, Generation, HashSeed, ObjectName, Snapshot, SnapshotError};

use crate::index::Index;
use crate::status::Statuses;

use certificates::Secrets;
use grants::Grants;
use room::Room;
pub use room::{MOST_CERTIFICATE_BYTES, wanted_secrets};
pub(crate) use routes::{Parent, parent_of};
pub(crate) use selector::Selector;

/// What the result depends on besides the objects.
pub struct Environment<'a> {
    /// Which classes are ours; see [`crate::CONTROLLER_NAME`].
    pub controller_name: &'a str,
    /// Seeds the choice of backends.
    pub seed: HashSeed,
    /// The number of the snapshot.
    pub generation: Generation,
    /// Whether the cluster's CRDs are known.
    pub crds: CrdVersion,
    /// Addresses that no Gateway can have, each with the reason, as the end
    /// of a sentence that begins with the address: "is the node's own address
    /// on eth0".
    pub unusable_addresses: &'a BTreeMap<IpAddr, String>,
    /// The addresses that Gateways have had until now: who has one keeps it.
    pub assigned: &'a BTreeMap<ObjectName, Vec<IpAddr>>,
    /// The nodes that send from addresses of pools. Who reads files knows none.
    pub nodes: &'a BTreeMap<String, Node>,
    /// How far the data plane is with a Gateway.
    pub programmed: &'a dyn Fn(&ObjectName) -> Programming,
}

/// A node, as far as pools are concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its labels, which pools select by.
    pub labels: BTreeMap<String, String>,
    /// The addresses that it has sent from until now: it keeps them.
    pub sources: Vec<IpAddr>,
}

/// Whether the Gateway API CRDs of the cluster are of a version we know.
/// Files have none, so there they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CrdVersion {
    /// They are.
    Supported,
    /// They are not; we do our best.
    Unsupported {
        /// What was found, such as "Gateway API v1.9.0".
        found: String,
    },
}

/// How far the data plane is with a Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Programming {
    /// Some node that carries it has yet to apply it.
    Pending,
    /// No node carries it: the controller hears of no agent.
    NoAgent,
    /// All have.
    Applied,
    /// Nobody can, for a reason, and what to do.
    NoNode {
        /// As a sentence.
        why: String,
    },
    /// An address of it is one that a node has itself; the others are served.
    AddressTaken {
        /// Which node.
        node: String,
        /// Which address, and what to do.
        reason: String,
    },
    /// One can't.
    Refused {
        /// Which.
        node: String,
        /// Why.
        reason: String,
    },
}

/// What is wanted, and what becomes of each object.
#[derive(Debug, Clone, PartialEq)]
pub struct Compiled {
    /// What is wanted.
    pub snapshot: Snapshot,
    /// The certificates that it names, in order. They are for those who end TLS
    /// with them, and for no disk.
    pub certificates: Vec<Certificate>,
    /// What becomes of each object that is ours.
    pub status: Statuses,
    /// Which node sends from which addresses: one of each family at most. A
    /// node that has none is not in it.
    pub sources: BTreeMap<String, Vec<IpAddr>>,
}

/// Compiles all objects.
///
/// Bad objects never make it fail: they become conditions. An error is a
/// fault of this code, and there is a test that looks for one; the caller
/// keeps the last good snapshot.
pub fn compile(index: &Index, environment: &Environment<'_>) -> Result<Compiled, SnapshotError> {
    let mut configs = configs::judge(index);
    let classes = classes::judge(index, &mut configs, environment);
    let pools = pools::judge(index);
    let grants = Grants::new(index);
    let room = Room::new(index, &grants, environment.controller_name);
    let secrets = Secrets { index, grants, room };
    let mut gateways =
        gateways::judge(index, &classes, &pools, &mut configs, &secrets, environment);
    let sets = sets::attach(index, &mut gateways, &secrets);
    let attachments = routes::attach(index, &mut gateways, &sets);
    let resolved = backends::resolve(index, &secrets.grants, attachments.routes());
    let sources = sources::assign(&pools, &gateways, environment);
    let snapshot = snapshot::build(index, environment, &gateways, &resolved)?;
    Ok(Compiled {
        certificates: certificates::of_snapshot(index, &snapshot),
        snapshot: snapshot.with_settings(classes.settings),
        status: Statuses {
            classes: classes.statuses,
            configs: configs.statuses(),
            pools: pools.statuses(&gateways, &sources, environment.unusable_addresses),
            gateways: conditions::gateways(&gateways, &sets),
            sets: conditions::sets(&gateways, &sets),
            routes: conditions::routes(&attachments, &gateways, &resolved, environment),
        },
        sources,
    })
}
