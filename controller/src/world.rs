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
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::watch::{All, Change, Watched};

/// Where the CRDs of Gateway API say which release they are of, and the ones
/// we know.
const BUNDLE_VERSION: &str = "gateway.networking.k8s.io/bundle-version";
const KNOWN_BUNDLE: &str = "v1.6.";

/// The cluster as it is.
#[derive(Debug)]
pub(crate) struct World {
    index: Index,
    objects: BTreeMap<ObjectKey, Object>,
    /// Objects that our own write made newer than what a watch has told, with
    /// their versions.
    ahead: BTreeMap<ObjectKey, u64>,
    /// What Services are told apart by from others of their name.
    uids: BTreeMap<ObjectKey, String>,
    nodes: BTreeMap<String, BTreeSet<IpAddr>>,
    crds: CrdVersion,
    /// What has not been told whole yet.
    awaited: BTreeSet<Watched>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            index: Index::default(),
            objects: BTreeMap::new(),
            ahead: BTreeMap::new(),
            uids: BTreeMap::new(),
            nodes: BTreeMap::new(),
            crds: CrdVersion::Supported,
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

    /// All objects, for what is told beside the status.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// What tells an object apart from others of its name, earlier and later.
    pub(crate) fn uid(&self, key: &ObjectKey) -> Option<&str> {
        let ours = self.objects.get(key).and_then(|object| object.metadata().uid.as_deref());
        ours.or_else(|| self.uids.get(key).map(String::as_str))
    }

    /// Takes a change in. `true` if something may have to be compiled or
    /// written.
    pub(crate) fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Apply(object) => {
                let key = object.key();
                // What we wrote since is newer, and will be told, too.
                if self.ahead.get(&key) > version_of(object.metadata()).as_ref() {
                    return false;
                }
                self.ahead.remove(&key);
                self.apply_object(key, object)
            }
            Change::Wrote { before, object } => {
                let key = object.key();
                let known = self.objects.get(&key);
                // What a watch has told since is newer.
                if known.is_none_or(|known| known.metadata().resource_version != before) {
                    return false;
                }
                self.ahead
                    .extend(version_of(object.metadata()).map(|version| (key.clone(), version)));
                self.apply_object(key, object)
            }
            Change::Delete(key) => self.delete(key),
            Change::ApplyNode(node) => {
                let (name, addresses) = addresses_of(*node);
                self.nodes.insert(name, addresses.clone()).as_ref() != Some(&addresses)
            }
            Change::DeleteNode(name) => self.nodes.remove(&name).is_some(),
            Change::ApplyCrd(crd) => {
                let found = version_of_crd(&crd.metadata);
                let changed = self.crds != found;
                self.crds = found;
                changed
            }
            // Nobody has objects of it either, so it is no matter of version.
            Change::DeleteCrd => false,
            Change::Listed(all) => {
                let first = self.awaited.remove(&all.what());
                self.forget_others(all) || first
            }
        }
    }

    /// Forgets what is not among all that there is.
    fn forget_others(&mut self, all: All) -> bool {
        match all {
            All::Objects { kind, keys, .. } => {
                let known = self.index.keys();
                let gone: Vec<_> =
                    known.filter(|key| key.kind == kind && !keys.contains(key)).collect();
                let any = !gone.is_empty();
                for key in gone {
                    self.delete(key);
                }
                any
            }
            All::Nodes(names) => {
                let before = self.nodes.len();
                self.nodes.retain(|name, _| names.contains(name));
                self.nodes.len() != before
            }
            All::Crd => false,
        }
    }

    fn apply_object(&mut self, key: ObjectKey, object: Object) -> bool {
        let mut changed = false;
        if has_our_status(key.kind) {
            changed = self.objects.get(&key) != Some(&object);
            self.objects.insert(key, object.clone());
        } else if let (Kind::Service, Some(uid)) = (key.kind, &object.metadata().uid) {
            self.uids.insert(key, uid.clone());
        }
        self.index.apply(Event::Upsert(object)) || changed
    }

    fn delete(&mut self, key: ObjectKey) -> bool {
        self.objects.remove(&key);
        self.ahead.remove(&key);
        self.uids.remove(&key);
        self.index.apply(Event::Delete(key))
    }

    /// Compiles all there is. The snapshot has those addresses only that are
    /// in the status of their Gateways: what is not written there may be
    /// given to another one by the next leader.
    pub(crate) fn compile(
        &self,
        programmed: &dyn Fn(&ObjectName) -> Programming,
    ) -> Result<Compiled, SnapshotError> {
        let (unusable, assigned) = (self.unusable(), self.assigned());
        let environment = Environment {
            controller_name: CONTROLLER_NAME,
            seed: SEED,
            generation: Generation(1),
            crds: self.crds.clone(),
            unusable_addresses: &unusable,
            assigned: &assigned,
            nodes: &BTreeMap::new(),
            programmed,
        };
        let compiled = compile(&self.index, &environment)?;
        let is_written = |gateway: &ObjectName, address: IpAddr| {
            assigned.get(gateway).is_some_and(|written| written.contains(&address))
        };
        Ok(Compiled { snapshot: compiled.snapshot.retain_addresses(is_written), ..compiled })
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

/// A version as a number. Those of one object may be compared (Kubernetes API
/// concepts, "Resource versions").
fn version_of(metadata: &ObjectMeta) -> Option<u64> {
    metadata.resource_version.as_ref()?.parse().ok()
}

fn addresses_of(node: Node) -> (String, BTreeSet<IpAddr>) {
    let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
    let read = addresses.into_iter().filter_map(|address| address.address.parse().ok());
    (node.metadata.name.unwrap_or_default(), read.collect())
}

fn version_of_crd(metadata: &ObjectMeta) -> CrdVersion {
    match metadata.annotations.as_ref().and_then(|all| all.get(BUNDLE_VERSION)) {
        Some(version) if version.starts_with(KNOWN_BUNDLE) => CrdVersion::Supported,
        Some(version) => CrdVersion::Unsupported { found: format!("Gateway API {version}") },
        None => CrdVersion::Unsupported { found: "a release that they do not tell".to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blixt_gateway::apis::{AddressPool, Gateway, GatewayClass};
    use serde_json::{Value, json};

    fn gateway(name: &str, version: u32, address: Option<&str>) -> Object {
        let addresses = address.map(|value| json!([{"type": "IPAddress", "value": value}]));
        let gateway: Gateway = serde_json::from_value(json!({
            "metadata": {
                "name": name, "namespace": "shop", "generation": 1,
                "resourceVersion": version.to_string(), "uid": name,
            },
            "spec": {
                "gatewayClassName": "blixt",
                "listeners": [{"name": "tcp", "protocol": "TCP", "port": 80}],
            },
            "status": {"addresses": addresses},
        }))
        .unwrap();
        gateway.into()
    }

    fn world() -> World {
        let mut world = World::new();
        let read = |value: Value| serde_json::from_value::<GatewayClass>(value).unwrap().into();
        world.apply(Change::Apply(read(json!({
            "metadata": {"name": "blixt", "generation": 1},
            "spec": {"controllerName": CONTROLLER_NAME},
        }))));
        let pool: AddressPool = serde_json::from_value(json!({
            "metadata": {"name": "public", "generation": 1},
            "spec": {"addresses": ["192.0.2.1-192.0.2.2"]},
        }))
        .unwrap();
        world.apply(Change::Apply(pool.into()));
        world
    }

    fn compiled(world: &World) -> Compiled {
        world.compile(&|_| Programming::Applied).unwrap()
    }

    fn given(compiled: &Compiled) -> Vec<String> {
        let gateways = compiled.status.gateways.values();
        gateways.flat_map(|gateway| &gateway.addresses).map(ToString::to_string).collect()
    }

    #[test]
    fn an_address_is_served_when_the_status_has_it() {
        let mut world = world();
        world.apply(Change::Apply(gateway("edge", 1, None)));
        let first = compiled(&world);
        assert_eq!(given(&first), ["192.0.2.1"]);
        assert!(first.snapshot.gateways().is_empty());
        world.apply(Change::Apply(gateway("edge", 2, Some("192.0.2.1"))));
        let vips = compiled(&world).snapshot.vips();
        assert_eq!(vips, ["192.0.2.1".parse().unwrap()].into());
    }

    #[test]
    fn who_has_an_address_keeps_it_whoever_else_comes() {
        let mut world = world();
        world.apply(Change::Apply(gateway("zeta", 1, Some("192.0.2.1"))));
        world.apply(Change::Apply(gateway("alpha", 2, None)));
        let compiled = compiled(&world);
        assert_eq!(given(&compiled), ["192.0.2.2", "192.0.2.1"]);
    }

    #[test]
    fn what_a_watch_told_before_our_write_is_old() {
        let mut world = world();
        world.apply(Change::Apply(gateway("edge", 7, None)));
        for (before, now) in [(7, 8), (8, 9)] {
            let object = gateway("edge", now, Some("192.0.2.1"));
            assert!(world.apply(Change::Wrote { before: Some(before.to_string()), object }));
        }
        // The first write's event comes after the second write's answer.
        assert!(!world.apply(Change::Apply(gateway("edge", 8, None))));
        assert_eq!(compiled(&world).snapshot.vips().len(), 1);
        assert!(!world.apply(Change::Apply(gateway("edge", 9, Some("192.0.2.1")))));
        assert!(world.ahead.is_empty());
        assert!(world.apply(Change::Apply(gateway("edge", 12, None))));
        // An answer that comes after a newer event is old, too.
        let object = gateway("edge", 11, Some("192.0.2.1"));
        assert!(!world.apply(Change::Wrote { before: Some("9".to_owned()), object }));
    }

    #[test]
    fn what_is_not_in_a_list_is_gone() {
        let mut world = world();
        for name in ["a", "b"] {
            world.apply(Change::Apply(gateway(name, 1, None)));
        }
        let keys = [gateway("a", 1, None).key()].into();
        let all = All::Objects { kind: Kind::Gateway, keys, call: 0 };
        assert!(world.apply(Change::Listed(all)));
        assert_eq!(compiled(&world).status.gateways.len(), 1);
        assert!(!world.awaited().any(|what| what == Watched::Kind(Kind::Gateway)));
        assert!(!world.is_complete());
    }

    #[test]
    fn addresses_of_nodes_are_nobodys() {
        let mut world = world();
        let node = |address: &str| {
            Change::ApplyNode(Box::new(
                serde_json::from_value(json!({
                    "metadata": {"name": "n1"},
                    "status": {"addresses": [
                        {"type": "Hostname", "address": "n1"},
                        {"type": "InternalIP", "address": address},
                    ]},
                }))
                .unwrap(),
            ))
        };
        world.apply(Change::Apply(gateway("edge", 1, None)));
        assert!(world.apply(node("192.0.2.1")));
        assert!(!world.apply(node("192.0.2.1")));
        assert_eq!(given(&compiled(&world)), ["192.0.2.2"]);
        assert!(world.apply(Change::DeleteNode("n1".to_owned())));
        assert_eq!(given(&compiled(&world)), ["192.0.2.1"]);
    }

    #[test]
    fn the_release_of_the_crds_is_told() {
        let mut world = world();
        let crd = |version: &str| {
            Change::ApplyCrd(Box::new(
                serde_json::from_value(json!({
                    "metadata": {"name": "x", "annotations": {BUNDLE_VERSION: version}},
                }))
                .unwrap(),
            ))
        };
        let is_supported = |world: &World| {
            let class = &compiled(world).status.classes["blixt"];
            class.conditions[1].status == blixt_gateway::status::ConditionStatus::True
        };
        assert!(!world.apply(crd("v1.6.3")));
        assert!(is_supported(&world));
        assert!(world.apply(crd("v1.9.0")));
        assert!(!is_supported(&world));
    }
}
