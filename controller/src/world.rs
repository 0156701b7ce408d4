//! The cluster as it is: the index for `compile`, and the objects whose status
//! is ours to write, as the API server has them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use blixt_gateway::{
    CONTROLLER_NAME, Compiled, CrdVersion, Environment, Event, Index, Kind, Object, ObjectKey,
    Programming, SEED, compile,
};
use blixt_model::{Generation, ObjectName, SnapshotError};
use k8s_openapi::api::core::v1::Node;

use crate::watch::{Change, Watched};

/// The cluster as it is.
#[derive(Debug)]
pub(crate) struct World {
    index: Index,
    objects: BTreeMap<ObjectKey, Object>,
    nodes: BTreeMap<String, BTreeSet<IpAddr>>,
    /// What has not been told whole yet.
    awaited: BTreeSet<Watched>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            index: Index::default(),
            objects: BTreeMap::new(),
            nodes: BTreeMap::new(),
            awaited: Watched::all().collect(),
        }
    }

    /// Whether all that there is has been told once.
    pub(crate) fn is_complete(&self) -> bool {
        self.awaited.is_empty()
    }

    /// What has not been told yet.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = Watched> {
        self.awaited.iter().copied()
    }

    /// The objects whose status is ours to write.
    pub(crate) fn objects(&self) -> &BTreeMap<ObjectKey, Object> {
        &self.objects
    }

    /// Takes a change in. `true` if something may have to be compiled or
    /// written.
    pub(crate) fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Apply(object) => self.apply_object(object),
            // What a watch has told since is newer.
            Change::Wrote { before, object } => {
                let known = self.objects.get(&object.key());
                known.is_some_and(|known| known.metadata().resource_version == before)
                    && self.apply_object(object)
            }
            Change::Delete(key) => self.delete(key),
            Change::ApplyNode(node) => {
                let (name, addresses) = addresses_of(*node);
                self.nodes.insert(name, addresses.clone()).as_ref() != Some(&addresses)
            }
            Change::DeleteNode(name) => self.nodes.remove(&name).is_some(),
            Change::Listed(what, keys) => {
                let gone: Vec<_> = self
                    .index
                    .keys()
                    .filter(|key| Watched::Kind(key.kind) == what && !keys.contains(key))
                    .collect();
                let mut changed = self.awaited.remove(&what);
                for key in gone {
                    changed |= self.delete(key);
                }
                changed
            }
            Change::ListedNodes(names) => {
                let before = self.nodes.len();
                self.nodes.retain(|name, _| names.contains(name));
                self.awaited.remove(&Watched::Nodes) || self.nodes.len() != before
            }
        }
    }

    fn apply_object(&mut self, object: Object) -> bool {
        let key = object.key();
        let mut changed = false;
        if has_our_status(key.kind) {
            changed = self.objects.get(&key) != Some(&object);
            self.objects.insert(key, object.clone());
        }
        self.index.apply(Event::Upsert(object)) || changed
    }

    fn delete(&mut self, key: ObjectKey) -> bool {
        self.objects.remove(&key);
        self.index.apply(Event::Delete(key))
    }

    /// Compiles all there is.
    pub(crate) fn compile(
        &self,
        crds: CrdVersion,
        programmed: &dyn Fn(&ObjectName) -> Programming,
    ) -> Result<Compiled, SnapshotError> {
        let (unusable, assigned) = (self.unusable(), self.assigned());
        let environment = Environment {
            controller_name: CONTROLLER_NAME,
            seed: SEED,
            generation: Generation(1),
            crds,
            unusable_addresses: &unusable,
            assigned: &assigned,
            nodes: &BTreeMap::new(),
            programmed,
        };
        compile(&self.index, &environment)
    }

    fn unusable(&self) -> BTreeMap<IpAddr, String> {
        let of = |(name, addresses): (&String, &BTreeSet<IpAddr>)| {
            let why = format!("is an address of Node {name}: use one that nobody has");
            addresses.iter().map(move |address| (*address, why.clone())).collect::<Vec<_>>()
        };
        self.nodes.iter().flat_map(of).collect()
    }

    /// The addresses that Gateways have: their status is where it is kept.
    fn assigned(&self) -> BTreeMap<ObjectName, Vec<IpAddr>> {
        let gateways = self.objects.values().filter_map(|object| match object {
            Object::Gateway(gateway) => Some(gateway),
            _ => None,
        });
        let assigned = gateways.filter_map(|gateway| {
            let metadata = &gateway.metadata;
            let name = ObjectName::new(metadata.namespace.clone()?, metadata.name.clone()?).ok()?;
            let addresses = gateway.status.as_ref()?.addresses.as_ref()?;
            let read = addresses.iter().filter_map(|address| address.value.parse().ok());
            Some((name, read.collect()))
        });
        assigned.collect()
    }
}

/// Whether objects of the kind have a status that is ours to write.
pub(crate) fn has_our_status(kind: Kind) -> bool {
    match kind {
        Kind::GatewayClass
        | Kind::Gateway
        | Kind::TcpRoute
        | Kind::UdpRoute
        | Kind::AddressPool => true,
        Kind::Namespace | Kind::ReferenceGrant | Kind::Service | Kind::EndpointSlice => false,
    }
}

fn addresses_of(node: Node) -> (String, BTreeSet<IpAddr>) {
    let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
    let read = addresses.into_iter().filter_map(|address| address.address.parse().ok());
    (node.metadata.name.unwrap_or_default(), read.collect())
}
