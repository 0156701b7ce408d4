//! Manifests in, what became of them out, both as files that people read:
//! `golden/NAME.yaml` and, beside it, `golden/NAME.txt`.
//!
//! A line `#! then: …` in the YAML begins the next state of the same file, so
//! that a case can tell a story. After a change that is meant, write the
//! results anew and read the difference:
//!
//! `BLIXT_GOLDEN=write cargo test -p blixt-gateway --test golden`

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests say what they expect by unwrapping"
)]

mod common;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use common::render;

use blixt_gateway::{Index, Manifests, status, warnings};

const THEN: &str = "#! then: ";

/// The states of a file, each with its headline. All keep the line numbers
/// of the whole.
fn states(text: &str) -> Vec<(String, String)> {
    let mut states = vec![("at first".to_owned(), String::new())];
    for (number, line) in text.lines().enumerate() {
        if let Some(headline) = line.strip_prefix(THEN) {
            states.push((headline.to_owned(), "\n".repeat(number)));
        }
        let (_, state) = states.last_mut().unwrap();
        state.push_str(line);
        state.push('\n');
    }
    states
}

fn result_of(file: &str, text: &str) -> String {
    let mut manifests = Manifests::default();
    let mut index = Index::default();
    let mut result = String::new();
    let mut before = Vec::new();
    let mut assigned = common::Assigned::new();
    let states = states(text);
    for (headline, state) in &states {
        let update = common::read(&mut manifests, file, state.as_bytes());
        for event in update.events {
            index.apply(event);
        }
        let compiled = common::compiled_after(&index, &assigned);
        promises(&manifests, &index, &assigned, &compiled);
        assigned = common::assigned(&compiled);
        if states.len() > 1 {
            writeln!(result, "# {headline}\n").unwrap();
        }
        let sections = [
            ("refused", render::refusals(&update.refusals)),
            ("snapshot", render::snapshot(&compiled.snapshot)),
            ("status", render::statuses(&compiled)),
            ("warnings", render::warnings(&warnings(&index, &compiled))),
        ];
        for (title, section) in &sections {
            let is_as_before = before.contains(&(*title, section.clone()));
            match section.as_str() {
                "" => {}
                _ if is_as_before => writeln!(result, "## {title}, as before\n").unwrap(),
                _ => writeln!(result, "## {title}\n\n{section}").unwrap(),
            }
        }
        before = sections.to_vec();
    }
    result.truncate(result.trim_end().len());
    result + "\n"
}

/// What holds for every case.
fn promises(
    manifests: &Manifests,
    index: &Index,
    assigned: &common::Assigned,
    compiled: &blixt_gateway::Compiled,
) {
    // The order of events plays no part.
    let mut backwards = Index::default();
    let objects: Vec<_> = manifests.objects().cloned().collect();
    for object in objects.into_iter().rev() {
        backwards.apply(blixt_gateway::Event::Upsert(object));
    }
    assert_eq!(&backwards, index);
    assert_eq!(&common::compiled_after(&backwards, assigned), compiled);
    // What was given out stays so.
    assert_eq!(&common::compiled_after(index, &common::assigned(compiled)), compiled);

    // Every condition tells of the object as it is.
    let generations: BTreeMap<_, _> = manifests
        .objects()
        .map(|object| (object.key().to_string(), object.metadata().generation.unwrap()))
        .collect();
    let observed = |object: String, conditions: &[status::Condition]| {
        assert!(!conditions.is_empty(), "{object}");
        for condition in conditions {
            assert_eq!(condition.observed_generation, generations[&object], "{object}");
            assert!(!condition.message.is_empty(), "{object}: {condition:?}");
        }
    };
    for (name, pool) in &compiled.status.pools {
        observed(format!("AddressPool {name}"), &pool.conditions);
    }
    for (name, class) in &compiled.status.classes {
        observed(format!("GatewayClass {name}"), &class.conditions);
    }
    for (name, gateway) in &compiled.status.gateways {
        observed(format!("Gateway {name}"), &gateway.conditions);
        for listener in &gateway.listeners {
            observed(format!("Gateway {name}"), &listener.conditions);
        }
    }
    for (name, set) in &compiled.status.sets {
        observed(format!("ListenerSet {name}"), &set.conditions);
        for listener in &set.listeners {
            observed(format!("ListenerSet {name}"), &listener.conditions);
        }
    }
    for (id, route) in &compiled.status.routes {
        for parent in &route.parents {
            observed(id.to_string(), &parent.conditions);
        }
    }
}

/// The first line that differs, with what is around it.
fn difference(expected: &str, found: &str) -> String {
    let lines = expected.lines().zip(found.lines());
    let same = lines.take_while(|(expected, found)| expected == found).count();
    let part = |text: &str| {
        let lines: Vec<_> = text.lines().skip(same).take(4).collect();
        if lines.is_empty() { "(the end)".to_owned() } else { lines.join("\n  ") }
    };
    format!("line {}, expected:\n  {}\nfound:\n  {}", same + 1, part(expected), part(found))
}

fn files(folder: &Path, extension: &str) -> BTreeMap<String, PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path))
        .collect()
}

#[test]
fn manifests_become_what_is_written_beside_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let write = std::env::var("BLIXT_GOLDEN").is_ok_and(|value| value == "write");
    let cases = files(&folder, "yaml");
    assert!(cases.len() > 15, "{}", cases.len());
    let mut wrong = String::new();
    for (name, path) in &cases {
        let found = result_of(&format!("{name}.yaml"), &fs::read_to_string(path).unwrap());
        let result = path.with_extension("txt");
        if write {
            fs::write(&result, found).unwrap();
            continue;
        }
        let expected = fs::read_to_string(&result).unwrap_or_default();
        if expected != found {
            writeln!(wrong, "{name}.txt, {}", difference(&expected, &found)).unwrap();
        }
    }
    for name in files(&folder, "txt").keys().filter(|name| !cases.contains_key(*name)) {
        writeln!(wrong, "{name}.txt has no {name}.yaml: remove it").unwrap();
    }
    assert!(
        wrong.is_empty(),
        "{wrong}\nIf that is what you want: BLIXT_GOLDEN=write cargo test -p blixt-gateway --test \
         golden, and read the difference."
    );
}
