//! What became of each object, into its status: only where it differs from
//! what is there, and only as an answer to the version that was looked at. A
//! write that comes too late is refused by the API server, and the newer
//! version is on its way to us.

use std::collections::{BTreeMap, BTreeSet};

use blixt_gateway::apis::{
    AddressPool, Condition, Gateway, GatewayClass, GatewayConfig, GatewayStatus, HttpRoute,
    ListenerSet, ListenerSetStatus, ObjectMeta, TcpRoute, Time, TlsRoute, UdpRoute,
};
use blixt_gateway::status::{self, RouteStatus, reason};
use blixt_gateway::{CONTROLLER_NAME, Compiled, Object, ObjectKey};
use blixt_model::{ObjectName, RouteId, RouteKind};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::json;

use crate::world::Outcome;

/// Keeps a GatewayClass there as long as a Gateway uses it (Gateway API,
/// `GatewayClassFinalizerGatewaysExist`).
const FINALIZER: &str = "gateway-exists-finalizer.gateway.networking.k8s.io";

/// The condition that tells of the agents.
const PROGRAMMED: &str = "Programmed";

/// One write that is due.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Write {
    /// An object with another status.
    Status(Object),
    /// A GatewayClass with other finalizers.
    Finalizers(Box<GatewayClass>),
}

impl Write {
    pub(crate) fn key(&self) -> ObjectKey {
        match self {
            Self::Status(object) => object.key(),
            Self::Finalizers(class) => Object::GatewayClass(class.clone()).key(),
        }
    }

    /// The version it is an answer to.
    pub(crate) fn before(&self) -> Option<String> {
        match self {
            Self::Status(object) => object.metadata().resource_version.clone(),
            Self::Finalizers(class) => class.metadata.resource_version.clone(),
        }
    }

    /// Sends it, and gives the object as it is then.
    pub(crate) async fn send(self, client: &Client) -> Result<Object, kube::Error> {
        let params = PostParams::default();
        Ok(match self {
            Self::Finalizers(class) => {
                let api = Api::<GatewayClass>::all(client.clone());
                let ObjectMeta { name, resource_version, finalizers, .. } = &class.metadata;
                // The version makes it an answer to what was looked at; the
                // rest of the class, newer fields too, is left alone.
                let patch = Patch::Merge(json!({
                    "metadata": {"resourceVersion": resource_version, "finalizers": finalizers},
                }));
                let name = name.as_deref().unwrap_or_default();
                plain(api.patch(name, &PatchParams::default(), &patch).await?)
            }
            Self::Status(object) => {
                let metadata = object.metadata();
                let name = metadata.name.clone().unwrap_or_default();
                let namespace = metadata.namespace.clone().unwrap_or_default();
                macro_rules! replace {
                    ($kind:ident, $api:expr, $object:expr) => {{
                        let api: Api<$kind> = $api;
                        plain(api.replace_status(&name, &params, $object).await?)
                    }};
                }
                match &object {
                    Object::GatewayClass(class) => {
                        replace!(GatewayClass, Api::all(client.clone()), class)
                    }
                    Object::AddressPool(pool) => {
                        replace!(AddressPool, Api::all(client.clone()), pool)
                    }
                    Object::GatewayConfig(config) => {
                        replace!(GatewayConfig, Api::namespaced(client.clone(), &namespace), config)
                    }
                    Object::Gateway(gateway) => {
                        replace!(Gateway, Api::namespaced(client.clone(), &namespace), gateway)
                    }
                    Object::ListenerSet(set) => {
                        replace!(ListenerSet, Api::namespaced(client.clone(), &namespace), set)
                    }
                    Object::TcpRoute(route) => {
                        replace!(TcpRoute, Api::namespaced(client.clone(), &namespace), route)
                    }
                    Object::UdpRoute(route) => {
                        replace!(UdpRoute, Api::namespaced(client.clone(), &namespace), route)
                    }
                    Object::HttpRoute(route) => {
                        replace!(HttpRoute, Api::namespaced(client.clone(), &namespace), route)
                    }
                    Object::TlsRoute(route) => {
                        replace!(TlsRoute, Api::namespaced(client.clone(), &namespace), route)
                    }
                    // Their status is not ours.
                    Object::Namespace(_)
                    | Object::ReferenceGrant(_)
                    | Object::Secret(_)
                    | Object::Service(_)
                    | Object::EndpointSlice(_) => object,
                }
            }
        })
    }
}

/// The object as a watch tells it.
fn plain<K: Resource + Into<Object>>(mut object: K) -> Object {
    object.meta_mut().managed_fields = None;
    object.into()
}

/// All writes that are due, now that it has been compiled.
pub(crate) fn due(
    objects: &BTreeMap<ObjectKey, Object>,
    outcome: &Outcome,
    now: &Time,
) -> Vec<Write> {
    let in_use = classes_in_use(objects);
    objects.values().filter_map(|object| due_for(object, outcome, &in_use, now)).collect()
}

fn due_for(
    object: &Object,
    outcome: &Outcome,
    in_use: &BTreeSet<&str>,
    now: &Time,
) -> Option<Write> {
    let compiled = &outcome.compiled;
    let statuses = &compiled.status;
    macro_rules! changed {
        ($object:expr, $merged:expr) => {{
            let merged = $merged;
            if $object.status.as_ref() == Some(&merged) {
                return None;
            }
            let mut changed = $object.clone();
            changed.status = Some(merged);
            Some(Write::Status(changed.into()))
        }};
    }
    macro_rules! of_route {
        ($route:expr, $kind:expr, $merge:expr) => {{
            let existing = $route.status.as_ref();
            let wanted = wanted_of($kind, object, compiled)?;
            let merged = $merge(existing, &wanted, CONTROLLER_NAME, now);
            // One that nobody wrote to, and that is none of our business.
            if existing.is_none() && merged.parents.is_empty() {
                return None;
            }
            changed!(**$route, merged)
        }};
    }
    match object {
        Object::GatewayClass(class) => {
            let name = class.metadata.name.as_deref()?;
            let wanted = statuses.classes.get(name)?;
            if let Some(write) = finalizers(class, in_use.contains(name)) {
                return Some(write);
            }
            changed!(**class, status::gateway_class(class.status.as_ref(), wanted, now))
        }
        Object::Gateway(gateway) => {
            let name = name_of(object)?;
            let existing = gateway.status.as_ref();
            let mut merged = status::gateway(existing, statuses.gateways.get(&name)?, now);
            if let Some(existing) = existing
                && outcome.unknown.contains(&name)
            {
                keep_progress(existing, &mut merged);
            }
            changed!(**gateway, merged)
        }
        Object::ListenerSet(set) => {
            let existing = set.status.as_ref();
            let wanted = statuses.sets.get(&name_of(object)?)?;
            let mut merged = status::listener_set(existing, wanted, now);
            let gateway = gateway_of(set);
            if let (Some(existing), Some(gateway)) = (existing, gateway)
                && outcome.unknown.contains(&gateway)
            {
                keep_progress_of_set(existing, &mut merged);
            }
            changed!(**set, merged)
        }
        Object::AddressPool(pool) => {
            let wanted = statuses.pools.get(pool.metadata.name.as_deref()?)?;
            changed!(**pool, status::address_pool(pool.status.as_ref(), wanted, now))
        }
        Object::GatewayConfig(config) => {
            let wanted = statuses.configs.get(&name_of(object)?)?;
            changed!(**config, status::gateway_config(config.status.as_ref(), wanted, now))
        }
        Object::TcpRoute(route) => of_route!(route, RouteKind::Tcp, status::tcp_route),
        Object::UdpRoute(route) => of_route!(route, RouteKind::Udp, status::udp_route),
        Object::HttpRoute(route) => of_route!(route, RouteKind::Http, status::http_route),
        Object::TlsRoute(route) => of_route!(route, RouteKind::Tls, status::tls_route),
        Object::Namespace(_)
        | Object::ReferenceGrant(_)
        | Object::Secret(_)
        | Object::Service(_)
        | Object::EndpointSlice(_) => None,
    }
}

/// Leaves what a status says of the agents where nobody knows better yet, and
/// it is said of the Gateway as it is.
fn keep_progress(existing: &GatewayStatus, merged: &mut GatewayStatus) {
    keep(existing.conditions.as_deref(), merged.conditions.as_deref_mut());
    for listener in merged.listeners.iter_mut().flatten() {
        let mut listeners = existing.listeners.iter().flatten();
        if let Some(old) = listeners.find(|old| old.name == listener.name) {
            keep(Some(&old.conditions), Some(&mut listener.conditions));
        }
    }
}

fn keep_progress_of_set(existing: &ListenerSetStatus, merged: &mut ListenerSetStatus) {
    keep(existing.conditions.as_deref(), merged.conditions.as_deref_mut());
    for listener in merged.listeners.iter_mut().flatten() {
        let mut listeners = existing.listeners.iter().flatten();
        if let Some(old) = listeners.find(|old| old.name == listener.name) {
            keep(Some(&old.conditions), Some(&mut listener.conditions));
        }
    }
}

fn keep(existing: Option<&[Condition]>, merged: Option<&mut [Condition]>) {
    let is_about = |condition: &&Condition| condition.type_ == PROGRAMMED;
    let Some(old) = existing.unwrap_or_default().iter().find(is_about) else { return };
    let merged = merged.into_iter().flatten();
    for new in merged.filter(|condition| condition.type_ == PROGRAMMED) {
        let is_open = new.reason == reason::PENDING;
        if is_open && old.observed_generation == new.observed_generation {
            *new = old.clone();
        }
    }
}

fn gateway_of(set: &ListenerSet) -> Option<ObjectName> {
    let parent = &set.spec.parent_ref;
    let namespace = parent.namespace.as_ref().or(set.metadata.namespace.as_ref())?;
    ObjectName::new(namespace.as_str(), parent.name.as_str()).ok()
}

/// Our part of a route's status; none of it if the route refers to none of our
/// Gateways (any more).
fn wanted_of(kind: RouteKind, object: &Object, compiled: &Compiled) -> Option<RouteStatus> {
    let id = RouteId { kind, name: name_of(object)? };
    Some(compiled.status.routes.get(&id).cloned().unwrap_or_default())
}

fn name_of(object: &Object) -> Option<ObjectName> {
    let key = object.key();
    ObjectName::new(key.namespace?, key.name).ok()
}

fn classes_in_use(objects: &BTreeMap<ObjectKey, Object>) -> BTreeSet<&str> {
    let gateways = objects.values().filter_map(|object| match object {
        Object::Gateway(gateway) => Some(gateway.spec.gateway_class_name.as_str()),
        _ => None,
    });
    gateways.collect()
}

fn finalizers(class: &GatewayClass, in_use: bool) -> Option<Write> {
    let has_it = class.metadata.finalizers.iter().flatten().any(|other| other == FINALIZER);
    // Nothing can be added to what is being deleted.
    let wants_it = in_use && (has_it || class.metadata.deletion_timestamp.is_none());
    if has_it == wants_it {
        return None;
    }
    let mut changed = class.clone();
    let finalizers = changed.metadata.finalizers.get_or_insert_default();
    if wants_it {
        finalizers.push(FINALIZER.to_owned());
    } else {
        finalizers.retain(|other| other != FINALIZER);
    }
    Some(Write::Finalizers(Box::new(changed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::Change;
    use crate::world::World;
    use blixt_gateway::{Kind, Programming};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn read<T: serde::de::DeserializeOwned + Into<Object>>(value: Value) -> Change {
        Change::Apply(serde_json::from_value::<T>(value).unwrap().into())
    }

    fn class(finalizers: &[&str], deleted: bool) -> Change {
        read::<GatewayClass>(json!({
            "metadata": {
                "name": "blixt", "generation": 1, "finalizers": finalizers,
                "deletionTimestamp": deleted.then_some("2026-01-02T00:00:00Z"),
            },
            "spec": {"controllerName": CONTROLLER_NAME},
        }))
    }

    fn gateway() -> Change {
        read::<Gateway>(json!({
            "metadata": {"name": "edge", "namespace": "shop", "generation": 1},
            "spec": {
                "gatewayClassName": "blixt", "addresses": [{"value": "192.0.2.1"}],
                "listeners": [{"name": "tcp", "protocol": "TCP", "port": 80}],
            },
        }))
    }

    fn route(gateway: &str) -> Change {
        read::<TcpRoute>(json!({
            "metadata": {"name": "web", "namespace": "shop", "generation": 1},
            "spec": {
                "parentRefs": [{"name": gateway}],
                "rules": [{"backendRefs": [{"name": "web", "port": 80}]}],
            },
        }))
    }

    fn at(day: u8) -> Time {
        Time(format!("2026-01-{day:02}T00:00:00Z").parse().unwrap())
    }

    fn compiled(world: &World) -> Outcome {
        world.compile_with_all(Some(Programming::Applied))
    }

    /// Writes, as an API server would take them, until nothing is due; the
    /// number of each round's.
    fn settle(world: &mut World, day: u8) -> Vec<usize> {
        let mut rounds = Vec::new();
        loop {
            let due = due(world.objects(), &compiled(world), &at(day));
            if due.is_empty() {
                return rounds;
            }
            rounds.push(due.len());
            assert!(rounds.len() < 5, "it writes for ever: {due:?}");
            for write in due {
                let object = match write {
                    Write::Status(object) => object,
                    Write::Finalizers(class) => Object::GatewayClass(class),
                };
                world.apply(Change::Apply(object));
            }
        }
    }

    #[test]
    fn what_is_right_is_not_written_again() {
        let mut world = World::new();
        for change in [class(&[], false), gateway(), route("edge")] {
            world.apply(change);
        }
        // The class gets its finalizer first, and its status with the next.
        assert_eq!(settle(&mut world, 1), [3, 1]);
        assert_eq!(settle(&mut world, 2), [0; 0]);
        let key = |object: &&Object| matches!(object, Object::Gateway(_));
        let Some(Object::Gateway(gateway)) = world.objects().values().find(key) else { panic!() };
        let status = gateway.status.as_ref().unwrap();
        assert_eq!(status.addresses.as_ref().unwrap()[0].value, "192.0.2.1");
        let conditions = status.conditions.as_ref().unwrap();
        assert!(conditions.iter().all(|condition| condition.last_transition_time == at(1)));
    }

    #[test]
    fn a_new_replica_leaves_what_is_said_of_agents_until_it_knows() {
        let mut world = World::new();
        for change in [class(&[], false), gateway(), route("edge")] {
            world.apply(change);
        }
        let refused = || Programming::Refused { node: "n1".to_owned(), reason: "no".to_owned() };
        for programming in [Programming::Applied, refused()] {
            let known = |world: &World| world.compile_with_all(Some(programming.clone()));
            for _ in 0..2 {
                for write in due(world.objects(), &known(&world), &at(1)) {
                    let Write::Status(object) = write else { continue };
                    world.apply(Change::Apply(object));
                }
            }
            let unknown = world.compile_with_all(None);
            let writes = due(world.objects(), &unknown, &at(2));
            let of_gateways = writes.iter().filter(|write| write.key().kind == Kind::Gateway);
            assert_eq!(of_gateways.count(), 0, "{writes:?}");
        }
        // It is not said of a Gateway that is another one now.
        let Change::Apply(Object::Gateway(mut changed)) = gateway() else { panic!() };
        let key = Object::Gateway(changed.clone()).key();
        let Object::Gateway(before) = &world.objects()[&key] else { panic!() };
        changed.status = before.status.clone();
        changed.metadata.generation = Some(2);
        world.apply(Change::Apply(Object::Gateway(changed)));
        let writes = due(world.objects(), &world.compile_with_all(None), &at(2));
        let Some(Write::Status(Object::Gateway(written))) =
            writes.iter().find(|write| write.key().kind == Kind::Gateway)
        else {
            panic!("{writes:?}")
        };
        let conditions = written.status.as_ref().unwrap().conditions.as_ref().unwrap();
        let programmed = conditions.iter().find(|condition| condition.type_ == PROGRAMMED).unwrap();
        assert_eq!(programmed.reason, reason::PENDING);
    }

    #[test]
    fn a_route_that_leaves_takes_our_part_of_its_status_along() {
        let mut world = World::new();
        for change in [class(&[], false), gateway(), route("edge")] {
            world.apply(change);
        }
        settle(&mut world, 1);
        let Some(Object::TcpRoute(with_status)) =
            world.objects().values().find(|object| matches!(object, Object::TcpRoute(_))).cloned()
        else {
            panic!()
        };
        let Change::Apply(Object::TcpRoute(mut elsewhere)) = route("other") else { panic!() };
        elsewhere.status = with_status.status;
        world.apply(Change::Apply(Object::TcpRoute(elsewhere)));
        let due = due(world.objects(), &compiled(&world), &at(2));
        // The Gateway counts one route less.
        let [Write::Status(Object::Gateway(_)), Write::Status(Object::TcpRoute(route))] =
            due.as_slice()
        else {
            panic!("{due:?}")
        };
        assert!(route.status.as_ref().unwrap().parents.is_empty());
    }

    #[test]
    fn routes_of_others_are_left_alone() {
        let mut world = World::new();
        world.apply(route("edge"));
        world.apply(gateway());
        assert_eq!(due(world.objects(), &compiled(&world), &at(1)), []);
    }

    #[test]
    fn a_class_stays_as_long_as_a_gateway_uses_it() {
        let mut world = World::new();
        world.apply(class(&["example.com/other", FINALIZER], true));
        world.apply(gateway());
        settle(&mut world, 1);
        let finalizers = |world: &World| {
            let object = world.objects().values().next().unwrap();
            object.metadata().finalizers.clone().unwrap()
        };
        assert_eq!(finalizers(&world), ["example.com/other", FINALIZER]);
        let Change::Apply(gateway) = gateway() else { panic!() };
        world.apply(Change::Delete(gateway.key()));
        settle(&mut world, 2);
        assert_eq!(finalizers(&world), ["example.com/other"]);
    }

    #[test]
    fn nothing_is_added_to_a_class_that_is_being_deleted() {
        let mut world = World::new();
        world.apply(class(&["example.com/other"], true));
        world.apply(gateway());
        let due = due(world.objects(), &compiled(&world), &at(1));
        assert!(!due.iter().any(|write| matches!(write, Write::Finalizers(_))), "{due:?}");
    }

    fn pool() -> Change {
        read::<AddressPool>(json!({
            "metadata": {"name": "public", "generation": 1},
            "spec": {"addresses": ["192.0.2.0/30"]},
        }))
    }

    fn config() -> Change {
        read::<GatewayConfig>(json!({
            "metadata": {"name": "nodes", "namespace": "shop", "generation": 1},
            "spec": {"flowCapacity": 5000},
        }))
    }

    fn configured() -> Change {
        read::<GatewayClass>(json!({
            "metadata": {"name": "configured", "generation": 1},
            "spec": {"controllerName": CONTROLLER_NAME, "parametersRef": {
                "group": "blixt.dev", "kind": "GatewayConfig", "namespace": "shop", "name": "nodes",
            }},
        }))
    }

    /// One that takes whichever address is left.
    fn hungry(name: &str) -> Change {
        read::<Gateway>(json!({
            "metadata": {"name": name, "namespace": "shop", "generation": 1},
            "spec": {
                "gatewayClassName": "blixt",
                "listeners": [{"name": "tcp", "protocol": "TCP", "port": 80}],
            },
        }))
    }

    type Step = fn() -> Change;

    /// What there is in the end, told in some order.
    const STEPS: [Step; 9] = [
        || class(&[], false),
        gateway,
        || hungry("b"),
        || hungry("c"),
        || route("edge"),
        || route("b"),
        pool,
        config,
        configured,
    ];

    proptest! {
        /// Two things about one route are told, of which the last one counts;
        /// all else is told once.
        #[test]
        fn any_order_of_changes_gives_the_same_status(
            order in Just((0..STEPS.len()).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let tell = |order: &mut dyn Iterator<Item = usize>| {
                let mut world = World::new();
                for step in order {
                    world.apply(STEPS[step]());
                }
                world.apply(route("edge"));
                let settled = |world: &mut World| {
                    settle(world, 1);
                    world.objects().clone()
                };
                let first = due(world.objects(), &compiled(&world), &at(1));
                (first, settled(&mut world))
            };
            let (first, last) = tell(&mut order.into_iter());
            let (straight, settled) = tell(&mut (0..STEPS.len()));
            prop_assert_eq!(first, straight);
            prop_assert_eq!(last, settled);
        }
    }
}
