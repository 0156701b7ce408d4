//! Manifests: any text is read or refused, whatever is accepted compiles, and
//! an edit that is taken back leaves no trace.

use std::collections::BTreeMap;

use blixt_gateway::{
    CONTROLLER_NAME, CrdVersion, Environment, Event, Index, Manifests, Object, Programming, Update,
    compile, warnings,
};
use blixt_model::{Generation, HashSeed};

use crate::bytes::Bytes;

/// Files that are good as they are, up to [`NEXT_STEP`].
const GOOD: [&str; 6] = [
    include_str!("../../gateway/tests/golden/tcp-and-udp.yaml"),
    include_str!("../../gateway/tests/golden/endpoints.yaml"),
    include_str!("../../gateway/tests/golden/kubectl-dump.yaml"),
    include_str!("../../gateway/tests/golden/several-routes.yaml"),
    include_str!("../../gateway/tests/golden/reference-grants.yaml"),
    include_str!("../../gateway/tests/golden/weights.yaml"),
];

/// Where a file of the golden tests is replaced by the next.
const NEXT_STEP: &str = "#! ";

/// The first byte says which good file is edited and how; where it is none of
/// their numbers, all of it is a file by itself.
pub fn manifests(data: &[u8]) {
    let mut bytes = Bytes(data);
    let Some(good) = GOOD.get(usize::from(bytes.u8())) else {
        let mut world = World::default();
        world.update(data);
        return;
    };
    let good = good.split(NEXT_STEP).next().unwrap_or(good).as_bytes();
    let mut edited = good.to_vec();
    while !bytes.is_empty() {
        let (place, cut, insert) = (bytes.u16(), bytes.u8(), bytes.u8());
        let start = usize::from(place) % (edited.len() + 1);
        let end = (start + usize::from(cut)).min(edited.len());
        edited.splice(start..end, bytes.take(usize::from(insert)).iter().copied());
    }

    let mut world = World::default();
    assert_eq!(world.update(good).refusals, [], "the file is good as it is");
    let before = world.accepted();
    let update = world.update(&edited);
    let refused_whole = |update: &Update| update.refusals.iter().any(|why| why.object.is_none());
    if refused_whole(&update) && update.refusals.iter().all(|why| why.last_good_stays) {
        assert_eq!(world.accepted(), before, "the last good contents stay: {:?}", update.refusals);
    }
    world.update(good);
    assert_eq!(world.accepted(), before, "an edit that was taken back left a trace");
}

#[derive(Default)]
struct World {
    manifests: Manifests,
    index: Index,
}

impl World {
    fn update(&mut self, text: &[u8]) -> Update {
        let update = self.manifests.update(&[("a.yaml".to_owned(), Ok(text.to_vec()))].into());
        assert_eq!(update.changed, !update.events.is_empty());
        assert!(update.refusals.is_sorted());
        for refusal in &update.refusals {
            assert!(refusal.to_string().starts_with("a.yaml"), "{refusal}");
        }
        for event in &update.events {
            self.index.apply(event.clone());
        }
        let mut fresh = Index::default();
        for object in self.manifests.objects() {
            fresh.apply(Event::Upsert(object.clone()));
        }
        assert_eq!(self.index, fresh, "events and objects tell two things");
        self.follow();
        update
    }

    /// What comes after reading, for whatever was read.
    fn follow(&self) {
        let environment = Environment {
            controller_name: CONTROLLER_NAME,
            seed: HashSeed(1),
            generation: Generation(1),
            crds: CrdVersion::Supported,
            unusable_addresses: &BTreeMap::new(),
            assigned: &BTreeMap::new(),
            nodes: &BTreeMap::new(),
            programmed: &|_| Programming::Applied,
        };
        let compiled = compile(&self.index, &environment)
            .unwrap_or_else(|error| panic!("accepted, and does not compile: {error}"));
        assert!(warnings(&self.index, &compiled).is_sorted());
    }

    /// What is accepted, apart from how often it changed.
    fn accepted(&self) -> Vec<String> {
        let without_generation = |object: &Object| {
            let generation = format!("generation: {:?}", object.metadata().generation);
            format!("{object:?}").replace(&generation, "")
        };
        self.manifests.objects().map(without_generation).collect()
    }
}
