//! The one who writes tables: compiles snapshots, gives them to the workers,
//! and knows how far these are.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use blixt_dataplane::{CompileOptions, MaglevSize, Owned, SlotCounters, SlotOwner, Slots, Tables};
use blixt_gateway::Programming;
use blixt_model::{Generation, ObjectName, Snapshot};

use crate::worker::{Published, Shared};

/// Writes [`Published::tables`], and [`Published::stats`] before them.
#[derive(Debug)]
pub struct TablesWriter {
    published: Arc<Published>,
    options: CompileOptions,
    slots: Slots,
    node: String,
    applied: Arc<Applied>,
    /// Why the newest snapshot is not the applied one.
    refused: Option<String>,
    /// Gateways that are not as the newest snapshot has them, and why.
    held_back: BTreeMap<ObjectName, String>,
    /// The newest generation that every worker has taken up.
    adopted: Generation,
    /// Where others look up what is applied.
    shared: Arc<ArcSwap<Applied>>,
}

/// The snapshot that is in force, and where its counters are.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// When it was published; `None` before the first.
    pub at: Option<SystemTime>,
    /// The counters' slots.
    pub slots: BTreeMap<SlotOwner, u32>,
}

impl Default for Applied {
    fn default() -> Self {
        Self { snapshot: Snapshot::empty(Generation::default()), at: None, slots: BTreeMap::new() }
    }
}

impl TablesWriter {
    /// Nothing is applied yet.
    pub fn new(published: Arc<Published>, options: CompileOptions, node: String) -> Self {
        Self {
            published,
            options,
            slots: Slots::default(),
            node,
            applied: Arc::default(),
            refused: None,
            held_back: BTreeMap::new(),
            adopted: Generation::default(),
            shared: Arc::default(),
        }
    }

    /// What is applied, for others to look up.
    pub fn applied(&self) -> Arc<ArcSwap<Applied>> {
        Arc::clone(&self.shared)
    }

    /// Takes what is this node's alone: its SNAT addresses, and the VIPs that it
    /// answers for. What is applied after that goes by it.
    pub fn assign(&mut self, snat_addresses: BTreeSet<IpAddr>, owned: BTreeSet<IpAddr>) {
        self.options.snat_addresses = snat_addresses;
        self.options.owned = Owned::Only(owned);
    }

    /// Slots of each Maglev table, of what is applied after that. Gives how many
    /// they were.
    pub fn set_maglev(&mut self, maglev: MaglevSize) -> MaglevSize {
        std::mem::replace(&mut self.options.maglev, maglev)
    }

    /// The addresses that flows leave from.
    pub fn snat_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.options.snat_addresses
    }

    /// Applies what was in force again, under another number, after the newest
    /// snapshot was refused: what was assigned with that holds all the same.
    pub fn apply_again(&mut self, last: &Snapshot) -> Result<(), String> {
        let refused = self.refused.take();
        self.apply(last)?;
        self.refused = refused;
        Ok(())
    }

    /// Whether a snapshot could be applied that is not, as some of its addresses are
    /// left out here. `Err` says why it is refused: it would be, once they are free,
    /// and the last tables would be gone by then.
    pub fn check(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        let nothing = Tables::default();
        let (snapshot, _) = self.fitting(snapshot);
        let compiled =
            Tables::compile(&snapshot, &self.options, &mut Slots::default(), &nothing).map(drop);
        compiled.map_err(|error| {
            let why = error.to_string();
            self.refused = Some(why.clone());
            why
        })
    }

    /// Compiles and publishes a snapshot, but for Gateways that are held back. `Err`
    /// says why it is refused; the last tables stay.
    pub fn apply(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        let previous = self.published.tables.load_full();
        let (fitting, held_back) = self.fitting(snapshot);
        match Tables::compile(&fitting, &self.options, &mut self.slots, &previous) {
            Err(error) => {
                let why = error.to_string();
                self.refused = Some(why.clone());
                Err(why)
            }
            Ok(tables) => {
                self.refused = None;
                self.held_back = held_back;
                self.grow_stats();
                self.published.tables.publish(tables);
                self.applied = Arc::new(Applied {
                    snapshot: fitting.into_owned(),
                    at: Some(SystemTime::now()),
                    slots: self.slots.owners().map(|(owner, slot)| (owner.clone(), slot)).collect(),
                });
                self.shared.store(Arc::clone(&self.applied));
                Ok(())
            }
        }
    }

    /// As much of a snapshot as there may be tables for. Where it is too much, the
    /// Gateways that have grown most stay as they were, or are left out where they
    /// are new: nobody else is to suffer from them.
    fn fitting<'s>(
        &self,
        snapshot: &'s Snapshot,
    ) -> (Cow<'s, Snapshot>, BTreeMap<ObjectName, String>) {
        let (mut fitting, mut held_back) = (Cow::Borrowed(snapshot), BTreeMap::new());
        let mut looked_at = BTreeSet::new();
        while let Err(error) = Tables::fit(&fitting, self.options.maglev) {
            let grown = self.grown_most(&fitting, |name| !looked_at.contains(name));
            // Something else is too much than one of them: it is refused as a whole.
            let Some(name) = grown else { return (Cow::Borrowed(snapshot), BTreeMap::new()) };
            let kept = |of: &Snapshot| fitting.with_last_of(&name, of).ok();
            let (last, newest) = (kept(&self.applied.snapshot), kept(&fitting));
            // Where only endpoints are others it is the same.
            if let Some(last) = last.filter(|last| newest.is_some_and(|it| !it.same_wishes(last))) {
                let stays = match last.gateways().iter().any(|gateway| gateway.name == name) {
                    true => "it stays as it was",
                    false => "it is left out",
                };
                held_back.insert(name.clone(), format!("{stays}, since {error}"));
                fitting = Cow::Owned(last);
            }
            looked_at.insert(name);
        }
        (fitting, held_back)
    }

    /// The Gateway whose tables have grown most since what is applied.
    fn grown_most(
        &self,
        snapshot: &Snapshot,
        may: impl Fn(&ObjectName) -> bool,
    ) -> Option<ObjectName> {
        let (size, last) = (self.options.maglev, &self.applied.snapshot);
        let grown =
            snapshot.gateways().iter().filter(|gateway| may(&gateway.name)).map(|gateway| {
                let before = last.gateways().iter().find(|it| it.name == gateway.name);
                let before = before.map_or(0, |gateway| Tables::bytes_of(last, gateway, size));
                (Tables::bytes_of(snapshot, gateway, size).saturating_sub(before), gateway)
            });
        let (bytes, gateway) = grown.max_by_key(|(bytes, _)| *bytes)?;
        (bytes > 0).then(|| gateway.name.clone())
    }

    /// Room for every slot, before there are tables that name it.
    fn grow_stats(&self) {
        for stats in self.published.all_stats() {
            let room = stats.load().room();
            if room < self.slots.capacity() {
                stats.publish(stats.load().grown_to(self.slots.capacity()));
            }
        }
    }

    /// Takes in that every worker uses this generation or a newer one. `true`
    /// if that is news.
    pub fn adopted(&mut self, generation: Generation) -> bool {
        let news = generation > self.adopted;
        self.adopted = self.adopted.max(generation);
        news
    }

    /// Whether some worker has yet to take up the newest tables.
    pub fn is_pending(&self) -> bool {
        self.adopted < self.applied.snapshot.generation()
    }

    /// Why the newest snapshot is refused, if it is.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Gateways that are not as the newest snapshot has them, though that is in force,
    /// and why.
    pub fn held_back(&self) -> &BTreeMap<ObjectName, String> {
        &self.held_back
    }

    /// How far a Gateway of `wanted` is.
    pub fn programming(&self, wanted: &Snapshot, name: &ObjectName) -> Programming {
        let of = |snapshot: &Snapshot| {
            snapshot.gateways().iter().find(|gateway| gateway.name == *name).cloned()
        };
        match &self.refused {
            // A Gateway that has not changed is none the worse.
            Some(reason) if of(wanted) != of(&self.applied.snapshot) => {
                self.refusal(reason.clone())
            }
            _ if let Some(why) = self.held_back.get(name) => self.refusal(why.clone()),
            _ if of(&self.applied.snapshot).is_none() || self.is_pending() => Programming::Pending,
            _ => Programming::Applied,
        }
    }

    /// This node can't, for a reason.
    pub fn refusal(&self, reason: String) -> Programming {
        Programming::Refused { node: self.node.clone(), reason }
    }

    /// Frees slots that nothing uses any more, and what has been replaced. Call
    /// it now and then. `oldest` are the oldest tables that somebody else than a
    /// worker looks at.
    pub fn reclaim(&mut self, oldest: Generation) {
        self.published.reclaim_tables();
        let stats: Vec<_> = self.published.all_stats().map(Shared::load_full).collect();
        let is_idle =
            |slot| stats.iter().filter_map(|stats| stats.slot(slot)).all(SlotCounters::is_idle);
        for slot in self.slots.reclaim(self.adopted.min(oldest), is_idle) {
            for stats in &stats {
                stats.clear(slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blixt_model::{
        Affinity, Backend, Endpoint, EndpointState, Gateway, HashSeed, Listener, Port, Protocol,
        ServiceIndex, ServicePort, ServicePortId, Target, Weight,
    };

    fn port(number: u16) -> Port {
        Port::new(number).unwrap()
    }

    fn service(name: &str, endpoints: &[u8]) -> ServicePort {
        ServicePort {
            id: ServicePortId {
                service: name.parse().unwrap(),
                protocol: Protocol::Tcp,
                port: port(80),
            },
            affinity: Affinity::None,
            endpoints: endpoints
                .iter()
                .map(|&host| Endpoint {
                    address: [10, 0, 0, host].into(),
                    port: port(8080),
                    state: EndpointState::Ready,
                })
                .collect(),
        }
    }

    fn snapshot(generation: u64, endpoints: &[u8], backends: usize) -> Snapshot {
        let service = service("web", endpoints);
        let backend = Backend { weight: Weight::DEFAULT, target: Target::Service(ServiceIndex(0)) };
        let listener = Listener {
            name: blixt_model::ListenerName::new("tcp").unwrap(),
            protocol: Protocol::Tcp,
            port: port(80),
            route: None,
            backends: vec![backend; backends],
        };
        let gateway = Gateway {
            name: "web".parse().unwrap(),
            addresses: vec![[192, 0, 2, 1].into()],
            listeners: vec![listener],
            streams: vec![],
        };
        Snapshot::new(Generation(generation), HashSeed(0), vec![gateway], vec![service]).unwrap()
    }

    fn writer() -> TablesWriter {
        let options = CompileOptions {
            maglev: blixt_dataplane::MaglevSize::new(251).unwrap(),
            ..CompileOptions::default()
        };
        TablesWriter::new(Arc::new(Published::new(2)), options, "node".to_owned())
    }

    #[test]
    fn a_gateway_is_programmed_when_every_worker_has_it() {
        let mut writer = writer();
        let wanted = snapshot(1, &[1], 1);
        let name = "web".parse().unwrap();
        assert_eq!(writer.programming(&wanted, &name), Programming::Pending);
        writer.apply(&wanted).unwrap();
        assert_eq!(writer.published.tables.load().generation(), Generation(1));
        assert!(writer.is_pending());
        assert_eq!(writer.programming(&wanted, &name), Programming::Pending);
        assert!(writer.adopted(Generation(1)) && !writer.adopted(Generation(1)));
        assert_eq!(writer.programming(&wanted, &name), Programming::Applied);
    }

    #[test]
    fn what_is_refused_leaves_the_last_tables() {
        let mut writer = writer();
        writer.apply(&snapshot(1, &[1], 1)).unwrap();
        writer.adopted(Generation(1));
        let too_much = snapshot(2, &[1], 256);
        assert_eq!(writer.check(&snapshot(1, &[1, 2], 2)), Ok(()));
        assert!(writer.check(&too_much).is_err() && writer.refused().is_some());
        let why = writer.apply(&too_much).unwrap_err();
        assert!(why.contains("256 backendRefs"), "{why}");
        assert_eq!(writer.published.tables.load().generation(), Generation(1));
        let name = "web".parse().unwrap();
        let refused = Programming::Refused { node: "node".to_owned(), reason: why };
        assert_eq!(writer.programming(&too_much, &name), refused);
        assert_eq!(writer.programming(&snapshot(1, &[1], 1), &name), Programming::Applied);
        writer.apply(&snapshot(3, &[1], 1)).unwrap();
        assert_eq!(writer.refused(), None);
    }

    #[test]
    fn a_gateway_that_is_too_much_disturbs_no_other() {
        let mut writer = writer();
        let maglev = blixt_dataplane::MaglevSize::new(16_777_213).unwrap();
        writer.set_maglev(maglev);
        // Each mix of weights would take a table of 16 MiB.
        let listeners = |count: u16| {
            let share = |weight: u32| Backend {
                weight: Weight::new(weight).unwrap(),
                target: Target::Service(ServiceIndex(0)),
            };
            (1..=count).map(move |number| Listener {
                name: blixt_model::ListenerName::new(format!("l{number}")).unwrap(),
                protocol: Protocol::Tcp,
                port: port(number),
                route: None,
                backends: if count == 1 {
                    vec![share(1)]
                } else {
                    vec![share(1), share(number.into())]
                },
            })
        };
        let wanted = |generation: u64, of_web: u16, of_new: u16| {
            let one = snapshot(generation, &[1], 1);
            let web =
                Gateway { listeners: listeners(of_web).collect(), ..one.gateways()[0].clone() };
            let new = Gateway {
                name: "new".parse().unwrap(),
                addresses: vec![[192, 0, 2, 2].into()],
                listeners: listeners(of_new).collect(),
                streams: vec![],
            };
            let gateways = vec![web, new];
            Snapshot::new(Generation(generation), HashSeed(0), gateways, one.services().to_vec())
                .unwrap()
        };
        let applied = |writer: &TablesWriter| {
            let gateways = writer.applied.snapshot.gateways().iter();
            gateways.map(|it| (it.name.to_string(), it.listeners.len())).collect::<Vec<_>>()
        };
        let is = |name: &str, listeners: usize| (format!("default/{name}"), listeners);
        let (web, new) = ("web".parse().unwrap(), "new".parse().unwrap());

        // It is new: it is left out, and the other is served.
        let first = wanted(1, 1, 80);
        writer.apply(&first).unwrap();
        writer.adopted(Generation(1));
        assert_eq!(applied(&writer), [is("web", 1)]);
        assert_eq!(writer.programming(&first, &web), Programming::Applied);
        let refused = writer.programming(&first, &new);
        let Programming::Refused { reason, .. } = refused else { panic!("{refused:?}") };
        assert!(reason.starts_with("it is left out, since Maglev tables of 16777213"), "{reason}");
        // It was there: it stays as it was.
        writer.apply(&wanted(2, 1, 1)).unwrap();
        assert_eq!(writer.held_back(), &BTreeMap::new());
        writer.apply(&wanted(3, 80, 1)).unwrap();
        assert_eq!(applied(&writer), [is("web", 1), is("new", 1)]);
        let why = writer.held_back().get(&web).unwrap();
        assert!(why.starts_with("it stays as it was, since "), "{why}");
        // Both are too much.
        writer.apply(&wanted(4, 90, 80)).unwrap();
        assert_eq!(applied(&writer), [is("web", 1), is("new", 1)]);
        assert_eq!(writer.held_back().len(), 2);
        // It is not that one of them has grown: nothing is changed.
        let many: Vec<_> = (0..200).map(|number| service(&format!("s{number}"), &[1, 2])).collect();
        let all = Snapshot::new(Generation(5), HashSeed(0), vec![], many).unwrap();
        assert!(writer.apply(&all).unwrap_err().starts_with("Maglev tables of 16777213"));
        assert_eq!(applied(&writer), [is("web", 1), is("new", 1)]);
    }

    #[test]
    fn slots_are_reused_when_no_flow_counts_on_them() {
        let mut writer = writer();
        writer.apply(&snapshot(1, &[1, 2], 1)).unwrap();
        let endpoint = |writer: &TablesWriter, host: u8| {
            let applied = writer.applied.slots.iter();
            let wanted = std::net::IpAddr::from([10, 0, 0, host]);
            applied
                .filter_map(|(owner, slot)| match owner {
                    SlotOwner::Endpoint { address, .. } if *address == wanted => Some(*slot),
                    _ => None,
                })
                .next()
        };
        let gone = endpoint(&writer, 2).unwrap();
        let stats = writer.published.stats[1].load_full();
        stats.slot(gone).unwrap().active_flows.add(1);
        stats.slot(gone).unwrap().flows.add(1);

        writer.apply(&snapshot(2, &[1], 1)).unwrap();
        writer.adopted(Generation(2));
        writer.reclaim(Generation(2));
        writer.apply(&snapshot(3, &[1, 3], 1)).unwrap();
        assert_ne!(endpoint(&writer, 3), Some(gone), "a flow still counts on it");

        stats.slot(gone).unwrap().active_flows.sub(1);
        writer.adopted(Generation(3));
        writer.reclaim(Generation(1));
        assert_eq!(stats.slot(gone).unwrap().flows.value(), 1, "a stream may choose it");
        let streams = writer.published.streams.load_full();
        streams.slot(gone).unwrap().active_flows.add_shared(1);
        writer.reclaim(Generation(3));
        assert_eq!(stats.slot(gone).unwrap().flows.value(), 1, "a stream counts on it");
        streams.slot(gone).unwrap().active_flows.sub_shared(1);
        writer.reclaim(Generation(3));
        assert_eq!(stats.slot(gone).unwrap().flows.value(), 0);
        writer.apply(&snapshot(4, &[1, 3, 4], 1)).unwrap();
        assert_eq!(endpoint(&writer, 4), Some(gone));
    }
}
