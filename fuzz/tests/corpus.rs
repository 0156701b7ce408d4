//! Replays what the fuzzer kept, and what ever broke us: on any compiler, in
//! every `cargo test`.

#![allow(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

use std::fs;
use std::path::{Path, PathBuf};

fn inputs(kind: &str, target: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(kind).join(target);
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The name of an input that breaks a law is on standard error, last.
fn replay(name: &str) {
    let (_, target) = blixt_fuzz::TARGETS.iter().find(|(target, _)| *target == name).unwrap();
    let corpus = inputs("corpus", name);
    assert!(!corpus.is_empty(), "no corpus for {name}: make one with the example seeds");
    target(&[]);
    for file in corpus.into_iter().chain(inputs("regressions", name)) {
        eprintln!("{}", file.display());
        target(&fs::read(file).unwrap());
    }
}

#[test]
fn packet() {
    replay("packet");
}

#[test]
fn pipeline() {
    replay("pipeline");
}

#[test]
fn team() {
    replay("team");
}

#[test]
fn manifests() {
    replay("manifests");
}

#[test]
fn api() {
    replay("api");
}

#[test]
fn sync() {
    replay("sync");
}

#[test]
fn hello() {
    replay("hello");
}
