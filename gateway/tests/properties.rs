//! What holds whatever the objects and texts are: the order of events plays
//! no part, compiling never fails, no text makes anything panic, and an edit
//! that is taken back leaves no trace.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests say what they expect by unwrapping"
)]

mod common;
mod objects;

use std::collections::BTreeMap;

use common::render;

use blixt_gateway::{Event, Index, Kind, Manifests, Object, ObjectKey, warnings};
use proptest::prelude::*;
use proptest::sample::Index as Position;
use proptest::strategy::ValueTree;

/// Files that are good as they are.
const GOOD: [&str; 4] = [
    include_str!("golden/tcp-and-udp.yaml"),
    include_str!("golden/endpoints.yaml"),
    include_str!("golden/kubectl-dump.yaml"),
    include_str!("golden/several-routes.yaml"),
];

/// What is accepted, apart from how often it changed.
fn accepted(manifests: &Manifests) -> Vec<String> {
    let without_generation = |object: &Object| {
        let text = format!("{object:?}");
        let generation = format!("generation: {:?}", object.metadata().generation);
        text.replace(&generation, "")
    };
    manifests.objects().map(without_generation).collect()
}

/// What comes after reading, for whatever was read.
fn follow(index: &Index) {
    let compiled = common::compiled(index);
    assert!(warnings(index, &compiled).is_sorted());
}

fn update(manifests: &mut Manifests, index: &mut Index, files: &[(usize, Vec<u8>)]) -> usize {
    let mut contents: BTreeMap<_, Vec<u8>> = BTreeMap::new();
    for (file, text) in files {
        contents.entry(format!("{file}.yaml")).or_default().extend(text);
    }
    let files = contents.into_iter().map(|(file, text)| (file, Ok(text))).collect();
    let update = manifests.update(&files);
    assert_eq!(update.changed, !update.events.is_empty());
    for event in update.events {
        let is_delete = matches!(event, Event::Delete(_));
        // An object may change in ways that do not matter, but not go.
        assert!(index.apply(event) || !is_delete);
    }
    follow(index);
    update.refusals.len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Old versions and deletions come between; what counts is the last word
    /// on each object. Nothing is validated here: whatever an API server may
    /// let through some day must not break anything. A Secret alone leaves something
    /// behind, its last good certificate, until it is deleted.
    #[test]
    fn any_order_of_events_gives_the_same(
        old in prop::collection::vec(objects::any(), 0..20),
        last in prop::collection::vec(objects::any(), 0..30),
        order in prop::collection::vec(any::<Position>(), 30),
    ) {
        let last: BTreeMap<ObjectKey, Object> =
            last.into_iter().filter_map(objects::read).map(|object| (object.key(), object)).collect();
        let straight = common::index_of(last.values().cloned().map(Event::Upsert));

        let mut index = Index::default();
        let old: Vec<_> = old.into_iter().filter_map(objects::read).collect();
        for object in &old {
            index.apply(Event::Upsert(object.clone()));
        }
        let goes = |key: &ObjectKey| key.kind == Kind::Secret || !last.contains_key(key);
        for object in old.iter().filter(|object| goes(&object.key())) {
            index.apply(Event::Delete(object.key()));
        }
        let mut rest: Vec<_> = last.into_values().collect();
        for position in &order {
            if !rest.is_empty() {
                index.apply(Event::Upsert(rest.swap_remove(position.index(rest.len()))));
            }
        }
        for object in rest {
            index.apply(Event::Upsert(object));
        }

        prop_assert_eq!(&index, &straight);
        prop_assert_eq!(common::compiled(&index), common::compiled(&straight));
        follow(&index);
    }

    /// Which file an object is in, and whether the files come at once or one
    /// by one, plays no part either.
    #[test]
    fn any_way_to_spread_objects_over_files_gives_the_same(
        values in prop::collection::vec((objects::any(), 0_usize..4), 0..20),
    ) {
        let mut seen = std::collections::BTreeSet::new();
        let documents: Vec<_> = values
            .into_iter()
            .filter(|(value, _)| seen.insert(objects::name_of(value)))
            .map(|(value, file)| (file, format!("---\n{value}\n").into_bytes()))
            .collect();
        let in_one: Vec<_> = documents.iter().map(|(_, text)| (0, text.clone())).collect();

        let (mut one, mut one_index) = <(Manifests, Index)>::default();
        let refused = update(&mut one, &mut one_index, &in_one);
        let (mut spread, mut spread_index) = <(Manifests, Index)>::default();
        let mut refused_spread = 0;
        for end in 0..=documents.len() {
            refused_spread = update(&mut spread, &mut spread_index, &documents[..end]);
        }

        prop_assert_eq!(refused, refused_spread);
        prop_assert_eq!(accepted(&one), accepted(&spread));
        prop_assert_eq!(&one_index, &spread_index);
        let objects = one.objects().cloned().map(Event::Upsert);
        prop_assert_eq!(&common::index_of(objects), &one_index);
    }

    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let (mut manifests, mut index) = Default::default();
        update(&mut manifests, &mut index, &[(0, bytes)]);
    }

    #[test]
    fn no_yaml_is_too_odd(words in prop::collection::vec(0..WORDS.len(), 0..60)) {
        let text: String = words.into_iter().map(|word| WORDS[word]).collect();
        let (mut manifests, mut index) = Default::default();
        update(&mut manifests, &mut index, &[(0, text.into_bytes())]);
    }

    /// Whatever happens to a good file in between, once it is good again all
    /// is as before.
    #[test]
    fn an_edit_that_is_taken_back_leaves_no_trace(
        file in 0..GOOD.len(),
        edits in prop::collection::vec((any::<Position>(), 0_usize..40, word()), 1..4),
    ) {
        let good = GOOD[file].as_bytes();
        let (mut manifests, mut index) = Default::default();
        prop_assert_eq!(update(&mut manifests, &mut index, &[(0, good.to_vec())]), 0);
        let before = (accepted(&manifests), render::snapshot(&common::compiled(&index).snapshot));

        let mut edited = good.to_vec();
        for (position, length, insert) in edits {
            let start = position.index(edited.len() + 1);
            let end = (start + length).min(edited.len());
            edited.splice(start..end, insert);
        }
        update(&mut manifests, &mut index, &[(0, edited)]);

        prop_assert_eq!(update(&mut manifests, &mut index, &[(0, good.to_vec())]), 0);
        let after = (accepted(&manifests), render::snapshot(&common::compiled(&index).snapshot));
        prop_assert_eq!(before, after);
    }
}

/// The random objects would prove little if they never met.
#[test]
fn the_random_world_is_full_of_traffic() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let objects = prop::collection::vec(objects::any(), 30);
    let (mut served, mut routes) = (0, 0);
    for _ in 0..100 {
        let values = objects.new_tree(&mut runner).unwrap().current();
        let events = values.into_iter().filter_map(objects::read).map(Event::Upsert);
        let compiled = common::compiled(&common::index_of(events));
        served += usize::from(compiled.snapshot.services().iter().any(|s| !s.endpoints.is_empty()));
        routes += compiled.status.routes.len();
    }
    assert!(served > 20 && routes > 100, "{served} with endpoints, {routes} routes");
}

/// What YAML and manifests are made of.
const WORDS: [&str; 48] = [
    "\n",
    "\n",
    "\n",
    " ",
    "  ",
    "    ",
    "\t",
    "\r\n",
    "- ",
    "? ",
    ": ",
    ":",
    ",",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "*b",
    "<<: ",
    "|\n",
    ">-\n",
    "'",
    "\"",
    "\\u0000",
    "#",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "!!str ",
    "!!binary ",
    "!x ",
    "~",
    "0x7f",
    "-1",
    ".nan",
    "1e999",
    "é",
    "\u{feff}",
    "\u{85}",
    "\0",
    "apiVersion: v1\n",
    "kind: List\n",
    "items:\n",
    "kind: Service\n",
    "metadata: {name: a}\n",
    "spec: {ports: [{port: 80}]}\n",
];

fn word() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0..WORDS.len()).prop_map(|word| WORDS[word].as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..3),
    ]
}
