//! All objects that matter, as they are now. The controller feeds its watch
//! events into it, the standalone agent the changes of its files.
//!
//! It keeps of each object what `compile` reads and nothing else, so that an
//! update of, say, a status changes nothing here and says so.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use blixt_model::{Certificate, ObjectName, RouteId, RouteKind};

use crate::apis::{
    AddressPoolSpec, EndpointSlice, GatewayClassSpec, GatewayConfigSpec, GatewaySpec, ObjectMeta,
    ReferenceGrantSpec, ServiceSpec, Time,
};
use crate::certificate::{self, Known};
use crate::object::{Kind, Object, ObjectKey};
use crate::route::RouteSpec;
use crate::set::SetSpec;

/// The label of an EndpointSlice that names its Service.
pub(crate) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Something that happened to an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It is there, new or changed.
    Upsert(Object),
    /// It is gone.
    Delete(ObjectKey),
    /// A Secret can't be read, and why. What is known of it stays.
    Unreadable(ObjectName, String),
}

/// All objects that matter, as they are now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Index {
    classes: BTreeMap<String, Stored<GatewayClassSpec>>,
    gateways: BTreeMap<ObjectName, Stored<GatewaySpec>>,
    sets: BTreeMap<ObjectName, Stored<SetSpec>>,
    routes: BTreeMap<RouteId, Stored<RouteSpec>>,
    grants: BTreeMap<ObjectName, ReferenceGrantSpec>,
    secrets: BTreeMap<ObjectName, Known>,
    services: BTreeMap<ObjectName, ServiceSpec>,
    slices: BTreeMap<ObjectName, Slice>,
    slices_of: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pools: BTreeMap<String, Stored<AddressPoolSpec>>,
    configs: BTreeMap<ObjectName, Stored<GatewayConfigSpec>>,
}

/// A spec, with what of the metadata decides about order and status.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored<S> {
    pub(crate) generation: i64,
    pub(crate) created: Option<Time>,
    /// Of Gateways only.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) spec: S,
}

impl<S> Stored<S> {
    fn new(metadata: &ObjectMeta, spec: S) -> Self {
        Self {
            generation: metadata.generation.unwrap_or_default(),
            created: metadata.creation_timestamp.clone(),
            labels: BTreeMap::new(),
            spec,
        }
    }

    /// Who comes first: the older one, then the one whose name does. An
    /// object without a creation time counts as the youngest, so that files
    /// without times are ordered by name alone.
    pub(crate) fn before<N: Ord>(&self, name: &N, other: &Self, other_name: &N) -> Ordering {
        let age = |stored: &Self| (stored.created.is_none(), stored.created.clone());
        age(self).cmp(&age(other)).then_with(|| name.cmp(other_name))
    }
}

/// What matters of an EndpointSlice.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Slice {
    service: Option<ObjectName>,
    pub(crate) content: EndpointSlice,
}

impl Index {
    /// Takes an event in, and says whether anything that matters changed.
    ///
    /// An object without a proper name is ignored: no API server has one.
    pub fn apply(&mut self, event: Event) -> bool {
        match event {
            Event::Upsert(object) => self.upsert(object),
            Event::Delete(key) => self.delete(&key),
            Event::Unreadable(secret, why) => self.unreadable(secret, &why),
        }
    }

    fn unreadable(&mut self, secret: ObjectName, why: &str) -> bool {
        self.found_in(secret, Err(format!("can't be read: {why}")))
    }

    fn found_in(&mut self, secret: ObjectName, found: Result<Certificate, String>) -> bool {
        let before = self.secrets.get(&secret).cloned().unwrap_or_default();
        set(&mut self.secrets, secret, before.with(found))
    }

    /// What it knows, in no particular order.
    pub fn keys(&self) -> impl Iterator<Item = ObjectKey> {
        fn cluster<V>(kind: Kind, map: &BTreeMap<String, V>) -> impl Iterator<Item = ObjectKey> {
            map.keys().map(move |name| ObjectKey { kind, namespace: None, name: name.clone() })
        }
        fn namespaced<'a>(
            kind: Kind,
            names: impl Iterator<Item = &'a ObjectName>,
        ) -> impl Iterator<Item = ObjectKey> {
            names.map(move |name| ObjectKey {
                kind,
                namespace: Some(name.namespace().to_owned()),
                name: name.name().to_owned(),
            })
        }
        let routes = |wanted| {
            let routes = self.routes.keys().filter(move |route| route.kind == wanted);
            routes.map(|route| &route.name)
        };
        cluster(Kind::Namespace, &self.namespaces)
            .chain(cluster(Kind::GatewayClass, &self.classes))
            .chain(cluster(Kind::AddressPool, &self.pools))
            .chain(namespaced(Kind::Gateway, self.gateways.keys()))
            .chain(namespaced(Kind::ListenerSet, self.sets.keys()))
            .chain(namespaced(Kind::TcpRoute, routes(RouteKind::Tcp)))
            .chain(namespaced(Kind::UdpRoute, routes(RouteKind::Udp)))
            .chain(namespaced(Kind::HttpRoute, routes(RouteKind::Http)))
            .chain(namespaced(Kind::TlsRoute, routes(RouteKind::Tls)))
            .chain(namespaced(Kind::ReferenceGrant, self.grants.keys()))
            .chain(namespaced(Kind::Secret, self.secrets.keys()))
            .chain(namespaced(Kind::Service, self.services.keys()))
            .chain(namespaced(Kind::EndpointSlice, self.slices.keys()))
            .chain(namespaced(Kind::GatewayConfig, self.configs.keys()))
    }

    fn upsert(&mut self, object: Object) -> bool {
        let key = object.key();
        match object {
            Object::Namespace(namespace) => {
                let labels = namespace.metadata.labels.unwrap_or_default();
                set(&mut self.namespaces, key.name, labels)
            }
            Object::GatewayClass(class) => {
                let stored = Stored::new(&class.metadata, class.spec);
                set(&mut self.classes, key.name, stored)
            }
            Object::AddressPool(pool) => {
                let stored = Stored::new(&pool.metadata, pool.spec);
                set(&mut self.pools, key.name, stored)
            }
            other => {
                let Some(name) = object_name(&key) else { return false };
                self.upsert_namespaced(name, other)
            }
        }
    }

    fn upsert_namespaced(&mut self, name: ObjectName, object: Object) -> bool {
        match object {
            Object::Gateway(gateway) => {
                let labels = gateway.metadata.labels.clone().unwrap_or_default();
                let stored = Stored { labels, ..Stored::new(&gateway.metadata, gateway.spec) };
                set(&mut self.gateways, name, stored)
            }
            Object::ListenerSet(set_) => {
                let spec = SetSpec::new(&set_.spec, name.namespace());
                set(&mut self.sets, name, Stored::new(&set_.metadata, spec))
            }
            Object::TcpRoute(route) => self.upsert_route(
                RouteKind::Tcp,
                name,
                &route.metadata,
                RouteSpec::from(&route.spec),
            ),
            Object::UdpRoute(route) => self.upsert_route(
                RouteKind::Udp,
                name,
                &route.metadata,
                RouteSpec::from(&route.spec),
            ),
            Object::HttpRoute(route) => self.upsert_route(
                RouteKind::Http,
                name,
                &route.metadata,
                RouteSpec::from(&route.spec),
            ),
            Object::TlsRoute(route) => self.upsert_route(
                RouteKind::Tls,
                name,
                &route.metadata,
                RouteSpec::from(&route.spec),
            ),
            Object::ReferenceGrant(grant) => set(&mut self.grants, name, grant.spec),
            Object::Secret(secret) => {
                let read = certificate::read(&name, &secret);
                self.found_in(name, read)
            }
            Object::Service(service) => {
                set(&mut self.services, name, service.spec.unwrap_or_default())
            }
            Object::EndpointSlice(slice) => self.upsert_slice(name, *slice),
            Object::GatewayConfig(config) => {
                let stored = Stored::new(&config.metadata, config.spec);
                set(&mut self.configs, name, stored)
            }
            // These are in no namespace.
            Object::Namespace(_) | Object::GatewayClass(_) | Object::AddressPool(_) => false,
        }
    }

    fn upsert_route(
        &mut self,
        kind: RouteKind,
        name: ObjectName,
        metadata: &ObjectMeta,
        spec: RouteSpec,
    ) -> bool {
        set(&mut self.routes, RouteId { kind, name }, Stored::new(metadata, spec))
    }

    fn delete_route(&mut self, kind: RouteKind, name: ObjectName) -> bool {
        self.routes.remove(&RouteId { kind, name }).is_some()
    }

    fn upsert_slice(&mut self, name: ObjectName, mut slice: EndpointSlice) -> bool {
        let labels = std::mem::take(&mut slice.metadata).labels.unwrap_or_default();
        let service = labels
            .get(SERVICE_NAME_LABEL)
            .and_then(|service| ObjectName::new(name.namespace(), service).ok());
        let new = Slice { service: service.clone(), content: slice };
        if self.slices.get(&name) == Some(&new) {
            return false;
        }
        self.delete_slice(&name);
        if let Some(service) = service {
            self.slices_of.entry(service).or_default().insert(name.clone());
        }
        self.slices.insert(name, new);
        true
    }

    fn delete(&mut self, key: &ObjectKey) -> bool {
        match key.kind {
            Kind::Namespace => return self.namespaces.remove(&key.name).is_some(),
            Kind::GatewayClass => return self.classes.remove(&key.name).is_some(),
            Kind::AddressPool => return self.pools.remove(&key.name).is_some(),
            _ => {}
        }
        let Some(name) = object_name(key) else { return false };
        match key.kind {
            Kind::Gateway => self.gateways.remove(&name).is_some(),
            Kind::ListenerSet => self.sets.remove(&name).is_some(),
            Kind::TcpRoute => self.delete_route(RouteKind::Tcp, name),
            Kind::UdpRoute => self.delete_route(RouteKind::Udp, name),
            Kind::HttpRoute => self.delete_route(RouteKind::Http, name),
            Kind::TlsRoute => self.delete_route(RouteKind::Tls, name),
            Kind::ReferenceGrant => self.grants.remove(&name).is_some(),
            Kind::Secret => self.secrets.remove(&name).is_some(),
            Kind::Service => self.services.remove(&name).is_some(),
            Kind::EndpointSlice => self.delete_slice(&name),
            Kind::GatewayConfig => self.configs.remove(&name).is_some(),
            Kind::Namespace | Kind::GatewayClass | Kind::AddressPool => false,
        }
    }

    fn delete_slice(&mut self, name: &ObjectName) -> bool {
        let Some(old) = self.slices.remove(name) else { return false };
        if let Some(service) = old.service
            && let Some(siblings) = self.slices_of.get_mut(&service)
        {
            siblings.remove(name);
            if siblings.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        true
    }

    pub(crate) fn classes(&self) -> &BTreeMap<String, Stored<GatewayClassSpec>> {
        &self.classes
    }

    pub(crate) fn pools(&self) -> &BTreeMap<String, Stored<AddressPoolSpec>> {
        &self.pools
    }

    pub(crate) fn configs(&self) -> &BTreeMap<ObjectName, Stored<GatewayConfigSpec>> {
        &self.configs
    }

    pub(crate) fn gateways(&self) -> &BTreeMap<ObjectName, Stored<GatewaySpec>> {
        &self.gateways
    }

    pub(crate) fn sets(&self) -> &BTreeMap<ObjectName, Stored<SetSpec>> {
        &self.sets
    }

    pub(crate) fn routes(&self) -> &BTreeMap<RouteId, Stored<RouteSpec>> {
        &self.routes
    }

    pub(crate) fn secret(&self, name: &ObjectName) -> Option<&Known> {
        self.secrets.get(name)
    }

    pub(crate) fn service(&self, name: &ObjectName) -> Option<&ServiceSpec> {
        self.services.get(name)
    }

    pub(crate) fn grants(&self) -> &BTreeMap<ObjectName, ReferenceGrantSpec> {
        &self.grants
    }

    /// The slices of a Service, in the order of their names.
    pub(crate) fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &EndpointSlice> {
        let names = self.slices_of.get(service).into_iter().flatten();
        names.filter_map(|name| self.slices.get(name)).map(|slice| &slice.content)
    }

    /// All slices, each with the Service that it names.
    pub(crate) fn services_of_slices(
        &self,
    ) -> impl Iterator<Item = (&ObjectName, Option<&ObjectName>)> {
        self.slices.iter().map(|(name, slice)| (name, slice.service.as_ref()))
    }

    /// The labels of a namespace, if its object is there.
    pub(crate) fn namespace_labels(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.namespaces.get(name)
    }
}

fn object_name(key: &ObjectKey) -> Option<ObjectName> {
    ObjectName::new(key.namespace.as_deref()?, key.name.as_str()).ok()
}

/// Whether the map changed.
fn set<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    if map.get(&key) == Some(&value) {
        return false;
    }
    map.insert(key, value);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apis::{Gateway, Service};

    fn metadata(name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("default".to_owned()),
            ..ObjectMeta::default()
        }
    }

    fn slice(name: &str, service: &str) -> Event {
        let labels = [(SERVICE_NAME_LABEL.to_owned(), service.to_owned())].into();
        Event::Upsert(Object::from(EndpointSlice {
            address_type: "IPv4".to_owned(),
            metadata: ObjectMeta { labels: Some(labels), ..metadata(name) },
            ..EndpointSlice::default()
        }))
    }

    fn key(kind: Kind, name: &str) -> ObjectKey {
        ObjectKey { kind, namespace: Some("default".to_owned()), name: name.to_owned() }
    }

    #[test]
    fn only_what_matters_is_a_change() {
        let mut index = Index::default();
        let mut gateway = Gateway { metadata: metadata("web"), ..Gateway::default() };
        gateway.metadata.generation = Some(1);
        assert!(index.apply(Event::Upsert(gateway.clone().into())));
        gateway.metadata.resource_version = Some("2".to_owned());
        gateway.status = Some(Default::default());
        assert!(!index.apply(Event::Upsert(gateway.clone().into())));
        gateway.metadata.generation = Some(2);
        assert!(index.apply(Event::Upsert(gateway.into())));
        assert!(index.apply(Event::Delete(key(Kind::Gateway, "web"))));
        assert!(!index.apply(Event::Delete(key(Kind::Gateway, "web"))));
        assert_eq!(index, Index::default());
    }

    #[test]
    fn slices_follow_their_service() {
        let mut index = Index::default();
        let count =
            |index: &Index, service: &str| index.slices_of(&service.parse().unwrap()).count();
        assert!(index.apply(slice("a-1", "a")));
        assert!(index.apply(slice("a-2", "a")));
        assert!(!index.apply(slice("a-2", "a")));
        assert_eq!((count(&index, "a"), count(&index, "b")), (2, 0));
        assert!(index.apply(slice("a-2", "b")));
        assert_eq!((count(&index, "a"), count(&index, "b")), (1, 1));
        assert!(index.apply(Event::Delete(key(Kind::EndpointSlice, "a-1"))));
        assert!(index.apply(Event::Delete(key(Kind::EndpointSlice, "a-2"))));
        assert_eq!(index, Index::default());
    }

    #[test]
    fn names_that_no_server_has_are_ignored() {
        let mut index = Index::default();
        let service = Service { metadata: metadata("Not A Name"), ..Service::default() };
        assert!(!index.apply(Event::Upsert(service.into())));
        assert_eq!(index, Index::default());
    }

    #[test]
    fn age_orders_before_names_and_no_age_comes_last() {
        let stored = |created: Option<&str>| Stored {
            generation: 1,
            created: created.map(|text| Time(text.parse().unwrap())),
            labels: BTreeMap::new(),
            spec: (),
        };
        let (old, young, none) = (
            stored(Some("2026-01-01T00:00:00Z")),
            stored(Some("2026-01-02T00:00:00Z")),
            stored(None),
        );
        assert_eq!(old.before(&"b", &young, &"a"), Ordering::Less);
        assert_eq!(young.before(&"b", &none, &"a"), Ordering::Less);
        assert_eq!(none.before(&"a", &none, &"b"), Ordering::Less);
        assert_eq!(old.before(&"a", &old, &"b"), Ordering::Less);
    }
}
