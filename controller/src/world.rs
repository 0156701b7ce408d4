//! The cluster as it is: the index for `compile`, and the objects whose status
//! is ours to write, as the API server has them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use blixt_gateway::{
    CONTROLLER_NAME, Compiled, CrdVersion, Environment, Event, Index, Kind, Node, Object,
    ObjectKey, Programming, SEED, compile, wanted_secrets,
};
use blixt_model::{Generation, ObjectName, SnapshotError};
use k8s_openapi::api::core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::push::Progress;
use crate::secrets::Told;
use crate::watch::{All, Change, Watched};

/// Where the CRDs of Gateway API say which release they are of, and the ones
/// we know.
const BUNDLE_VERSION: &str = "gateway.networking.k8s.io/bundle-version";
const KNOWN_BUNDLE: &str = "v1.6.";

/// How long it is waited for a Secret that is referred to: without it a
/// listener that was served would be served no more.
const SECRET: Duration = Duration::from_secs(10);

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
    nodes: BTreeMap<String, Known>,
    crds: CrdVersion,
    /// Those that are referred to; each with the time since when it is waited
    /// for, until something is told of it.
    secrets: BTreeMap<ObjectName, Option<Instant>>,
    /// What has not been told whole yet.
    awaited: BTreeSet<Watched>,
}

/// What is wanted, and what becomes of each object.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) compiled: Compiled,
    /// Gateways of which nobody knows yet how far agents are with them: what
    /// their status says of that should stay.
    pub(crate) unknown: BTreeSet<ObjectName>,
}

/// What matters of a Node.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    addresses: BTreeSet<IpAddr>,
    labels: BTreeMap<String, String>,
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
            secrets: BTreeMap::new(),
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
            Change::Secret { name, told } => self.take_secret(name, told),
            Change::ApplyNode(node) => {
                let (name, known) = known_of(*node);
                self.nodes.insert(name, known.clone()).as_ref() != Some(&known)
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

    /// The Secrets that have to be read. What others hold is forgotten.
    pub(crate) fn want_secrets(&mut self, now: Instant) -> BTreeSet<ObjectName> {
        let wanted = wanted_secrets(&self.index, CONTROLLER_NAME);
        let gone: Vec<_> =
            self.secrets.keys().filter(|name| !wanted.contains(*name)).cloned().collect();
        for name in gone {
            self.secrets.remove(&name);
            self.index.apply(Event::Delete(secret_key(&name)));
        }
        for name in &wanted {
            self.secrets.entry(name.clone()).or_insert(Some(now));
        }
        wanted
    }

    /// Until when it is to be waited for Secrets of which nothing has been told.
    pub(crate) fn awaits_secrets(&mut self, now: Instant) -> Option<Instant> {
        let mut until = None;
        for (name, since) in &mut self.secrets {
            let Some(end) = since.map(|since| since + SECRET) else { continue };
            if end > now {
                until = until.max(Some(end));
            } else {
                *since = None;
                let why = "the API server does not answer".to_owned();
                self.index.apply(Event::Unreadable(name.clone(), why));
            }
        }
        until
    }

    fn take_secret(&mut self, name: ObjectName, told: Told) -> bool {
        // Perhaps it is wanted no more.
        let Some(awaited) = self.secrets.get_mut(&name) else { return false };
        let first = awaited.take().is_some();
        let event = match told {
            Told::There(secret) => Event::Upsert(Object::Secret(secret)),
            Told::Missing => Event::Delete(secret_key(&name)),
            Told::Unreadable(why) => Event::Unreadable(name, why),
        };
        self.index.apply(event) || first
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

    /// The names of all Gateways.
    pub(crate) fn gateways(&self) -> impl Iterator<Item = ObjectName> {
        let gateways = self.objects.keys().filter(|key| key.kind == Kind::Gateway);
        gateways.filter_map(|key| ObjectName::new(key.namespace.clone()?, key.name.clone()).ok())
    }

    /// Compiles all there is, where agents are so far. The snapshot has those
    /// addresses only that are in the status of their Gateways, and nodes have those
    /// sources only that are in the status of a pool: what is not written there may be
    /// given to somebody else by the next leader.
    pub(crate) fn compile(&self, progress: &Progress) -> Result<Outcome, SnapshotError> {
        let known = |name: &ObjectName| progress.get(name).cloned().flatten();
        let programmed = |name: &ObjectName| known(name).unwrap_or(Programming::Pending);
        let (unusable, assigned, nodes) = (self.unusable(), self.assigned(), self.nodes());
        let environment = Environment {
            controller_name: CONTROLLER_NAME,
            seed: SEED,
            generation: Generation(1),
            crds: self.crds.clone(),
            unusable_addresses: &unusable,
            assigned: &assigned,
            nodes: &nodes,
            programmed: &programmed,
        };
        let compiled = compile(&self.index, &environment)?;
        let is_written = |gateway: &ObjectName, address: IpAddr| {
            assigned.get(gateway).is_some_and(|written| written.contains(&address))
        };
        let mut sources = compiled.sources;
        for (name, addresses) in &mut sources {
            let written = nodes.get(name).map(|node| node.sources.as_slice()).unwrap_or_default();
            addresses.retain(|address| written.contains(address));
        }
        sources.retain(|_, addresses| !addresses.is_empty());
        let snapshot = compiled.snapshot.retain_addresses(is_written);
        let unknown = progress.iter().filter(|(_, progress)| progress.is_none());
        Ok(Outcome {
            unknown: unknown.map(|(name, _)| name.clone()).collect(),
            compiled: Compiled { snapshot, sources, ..compiled },
        })
    }

    /// The same, where agents are as far with each Gateway.
    #[cfg(test)]
    pub(crate) fn compile_with_all(&self, programming: Option<Programming>) -> Outcome {
        let progress = self.gateways().map(|name| (name, programming.clone())).collect();
        self.compile(&progress).unwrap()
    }

    fn unusable(&self) -> BTreeMap<IpAddr, String> {
        let of = |(name, known): (&String, &Known)| {
            let why = format!("is an address of Node {name}: use one that nobody has");
            known.addresses.iter().map(move |address| (*address, why.clone())).collect::<Vec<_>>()
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

    /// The nodes, with the sources that they have: the status of pools is
    /// where that is kept.
    fn nodes(&self) -> BTreeMap<String, Node> {
        let known = self.nodes.iter().map(|(name, known)| {
            (name.clone(), Node { labels: known.labels.clone(), sources: Vec::new() })
        });
        let mut nodes: BTreeMap<_, _> = known.collect();
        let statuses = self.objects.values().filter_map(|object| match object {
            Object::AddressPool(pool) => pool.status.as_ref()?.nodes.as_ref(),
            _ => None,
        });
        for written in statuses.flatten() {
            let Some(node) = nodes.get_mut(&written.name) else { continue };
            let read =
                written.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok());
            node.sources.extend(read);
        }
        nodes
    }
}

/// Whether objects of the kind have a status that is ours to write.
pub(crate) fn has_our_status(kind: Kind) -> bool {
    match kind {
        Kind::GatewayClass
        | Kind::Gateway
        | Kind::ListenerSet
        | Kind::TcpRoute
        | Kind::UdpRoute
        | Kind::HttpRoute
        | Kind::TlsRoute
        | Kind::AddressPool
        | Kind::GatewayConfig => true,
        Kind::Namespace
        | Kind::ReferenceGrant
        | Kind::Secret
        | Kind::Service
        | Kind::EndpointSlice => false,
    }
}

fn secret_key(name: &ObjectName) -> ObjectKey {
    let namespace = Some(name.namespace().to_owned());
    ObjectKey { kind: Kind::Secret, namespace, name: name.name().to_owned() }
}

/// A version as a number. Those of one object may be compared (Kubernetes API
/// concepts, "Resource versions").
fn version_of(metadata: &ObjectMeta) -> Option<u64> {
    metadata.resource_version.as_ref()?.parse().ok()
}

fn known_of(node: core::v1::Node) -> (String, Known) {
    let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
    let read = addresses.into_iter().filter_map(|address| address.address.parse().ok());
    let labels = node.metadata.labels.unwrap_or_default();
    (node.metadata.name.unwrap_or_default(), Known { addresses: read.collect(), labels })
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
        world.compile_with_all(Some(Programming::Applied)).compiled
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
    fn nodes_send_from_what_the_status_of_a_pool_has() {
        let mut world = world();
        let node = |name: &str, labels: Value| {
            let node = json!({"metadata": {"name": name, "labels": labels}});
            Change::ApplyNode(Box::new(serde_json::from_value(node).unwrap()))
        };
        let pool = |status: Value| {
            let pool: AddressPool = serde_json::from_value(json!({
                "metadata": {"name": "sources", "generation": 1},
                "spec": {"use": "SNAT", "addresses": ["10.9.0.1-10.9.0.2"]},
                "status": status,
            }))
            .unwrap();
            Change::Apply(pool.into())
        };
        for name in ["n1", "n2"] {
            assert!(world.apply(node(name, json!({"zone": "a"}))));
        }
        world.apply(pool(Value::Null));
        // Given out, and not written down yet.
        let first = compiled(&world);
        assert_eq!(first.status.pools["sources"].used, 2);
        assert!(first.sources.is_empty());
        // n2 has had the first one: it keeps that, and may send from it.
        let has = json!([{"name": "n2", "addresses": ["10.9.0.1"]}]);
        world.apply(pool(json!({"nodes": has})));
        let next = compiled(&world);
        let address = |text: &str| -> Vec<IpAddr> { vec![text.parse().unwrap()] };
        assert_eq!(next.sources, [("n2".to_owned(), address("10.9.0.1"))].into());
        assert_eq!(next.status.pools["sources"].nodes["n1"], address("10.9.0.2"));
        // Labels matter: pools select by them.
        assert!(world.apply(node("n1", json!({"zone": "b"}))));
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
