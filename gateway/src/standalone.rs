//! The stand-in for an API server: files in, accepted objects out.
//!
//! It keeps what was good. A file that can't be read or parsed counts with
//! its last good contents, and an object that is refused with its last good
//! version, as when an API server refuses an update. What is not in any file
//! any more is gone.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::path::Path;

use blixt_model::HashSeed;

use crate::index::Event;
use crate::manifest::{self, Document, ObjectRef, ParseError};
use crate::object::{Object, ObjectKey};
use crate::plain::plain;
use crate::validate;

/// Seeds the choice of backends where no controller gives a seed. All agents
/// have the same, so that those with the same manifests choose alike; it is
/// no secret.
pub const SEED: HashSeed = HashSeed(u64::from_be_bytes(*b"blixt\0\0\x01"));

/// The largest file that is read. etcd takes objects of 1.5 MiB at most, and
/// a file may hold several.
pub const MAX_FILE_BYTES: u64 = 16 << 20;

/// Whether a file of this name in a directory is a manifest. Names that begin
/// with a dot are not: editors keep half-written files there, and ConfigMap
/// volumes the directories that their links point into.
pub fn is_manifest(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    !name.starts_with('.') && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// How many problems of one object are told; the rest is counted.
const MAX_PROBLEMS: usize = 10;

/// All files of a directory, and the objects that were accepted from them.
#[derive(Debug, Clone, Default)]
pub struct Manifests {
    files: BTreeMap<String, File>,
    accepted: BTreeMap<ObjectKey, Object>,
}

/// What came of an update.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Whether any accepted object is new, different or gone.
    pub changed: bool,
    /// The same, object by object, for an [`crate::Index`].
    pub events: Vec<Event>,
    /// All that is refused at the moment, also what was refused before, in
    /// the order of files and lines.
    pub refusals: Vec<Refusal>,
}

/// Something that is not taken from a file, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// The file.
    pub file: String,
    /// The line of what is wrong, counted from 1.
    pub line: Option<u32>,
    /// The object; `None` if it concerns the whole file.
    pub object: Option<ObjectRef>,
    /// What is wrong and what to do.
    pub reason: String,
    /// Whether what was good before stays in force.
    pub last_good_stays: bool,
}

impl Refusal {
    /// Names and values are quoted as they were written, by anybody.
    fn make_plain(&mut self) {
        let object = self.object.iter_mut();
        let named = object.flat_map(|object| {
            [Some(&mut object.kind), object.namespace.as_mut(), object.name.as_mut()]
        });
        for text in [&mut self.file, &mut self.reason].into_iter().chain(named.flatten()) {
            *text = plain(text);
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        match &self.object {
            Some(object) => write!(f, ": {object}: {}", self.reason)?,
            None => write!(f, ": {}", self.reason)?,
        }
        f.write_str(match (self.last_good_stays, &self.object) {
            (true, Some(_)) => " (its last good version stays in force)",
            (true, None) => " (its last good contents stay in force)",
            (false, _) => " (nothing of it is in force)",
        })
    }
}

#[derive(Debug, Clone, Default)]
struct File {
    /// What was read last, so that an unchanged file is not parsed again.
    bytes: Option<Vec<u8>>,
    /// Why the newest contents do not count, if they do not.
    fault: Option<ParseError>,
    /// The last good contents, if there ever were any.
    good: Option<Vec<Checked>>,
}

/// A document, checked by itself.
#[derive(Debug, Clone)]
struct Checked {
    line: u32,
    object: Option<ObjectRef>,
    key: Option<ObjectKey>,
    /// The object with the line of its immutable field, or what is wrong.
    outcome: Result<(Object, u32), Vec<Wrong>>,
}

#[derive(Debug, Clone)]
struct Wrong {
    line: u32,
    reason: String,
}

impl Manifests {
    /// Takes the state of all files: for each name its contents, or why they
    /// can't be read. A file that is not among them is gone.
    pub fn update(&mut self, files: &BTreeMap<String, Result<Vec<u8>, String>>) -> Update {
        self.files.retain(|name, _| files.contains_key(name));
        for (name, contents) in files {
            self.files.entry(name.clone()).or_default().read(contents);
        }
        let mut refusals = Vec::new();
        let mut wanted = BTreeMap::new();
        for (name, file) in &self.files {
            let fault = file.refusal(name);
            for document in file.good.iter().flatten() {
                let refused = admit(name, document, &mut wanted, &self.accepted);
                // What was wrong with contents that are in the file no more
                // can't be found there.
                refusals.extend(refused.into_iter().filter(|_| fault.is_none()));
            }
            refusals.extend(fault);
        }
        for refusal in &mut refusals {
            refusal.make_plain();
        }
        refusals.sort();
        let wanted =
            wanted.into_iter().filter_map(|(key, wish)| Some((key, wish.object?))).collect();
        let events = self.accept(wanted);
        Update { changed: !events.is_empty(), events, refusals }
    }

    /// The accepted objects, in the order of their identities. Each has a
    /// `generation` that grows when its spec changes.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.accepted.values()
    }

    /// Makes the wanted objects the accepted ones.
    fn accept(&mut self, wanted: BTreeMap<ObjectKey, Object>) -> Vec<Event> {
        let mut events = Vec::new();
        for key in self.accepted.keys().filter(|key| !wanted.contains_key(key)) {
            events.push(Event::Delete(key.clone()));
        }
        for (key, object) in &wanted {
            if self.accepted.get(key) != Some(object) {
                events.push(Event::Upsert(object.clone()));
            }
        }
        self.accepted = wanted;
        events
    }
}

/// What is wanted of one object, and where that is said.
struct Wish {
    file: String,
    line: u32,
    object: Option<Object>,
}

/// Takes a document in, or says why not. The first one about an object
/// counts, good or bad: what counts must not depend on what else is wrong.
fn admit(
    file: &str,
    document: &Checked,
    wanted: &mut BTreeMap<ObjectKey, Wish>,
    accepted: &BTreeMap<ObjectKey, Object>,
) -> Vec<Refusal> {
    let refuse = |line: u32, reason: String, last_good_stays: bool| Refusal {
        file: file.to_owned(),
        line: Some(line),
        object: document.object.clone(),
        reason,
        last_good_stays,
    };
    let wrongs = |wrongs: &[Wrong], stays: bool| -> Vec<_> {
        wrongs.iter().map(|wrong| refuse(wrong.line, wrong.reason.clone(), stays)).collect()
    };
    let Some(key) = &document.key else {
        return document.outcome.as_ref().err().map_or_else(Vec::new, |all| wrongs(all, false));
    };
    let place = match wanted.entry(key.clone()) {
        Entry::Vacant(place) => place,
        Entry::Occupied(first) => {
            let Wish { file, line, .. } = first.get();
            let reason = format!("is given twice; the one in {file}:{line} counts, so remove one");
            return vec![refuse(document.line, reason, first.get().object.is_some())];
        }
    };
    let last = accepted.get(key);
    let mut wish = Wish { file: file.to_owned(), line: document.line, object: last.cloned() };
    let refusals = match &document.outcome {
        Err(all) => wrongs(all, last.is_some()),
        Ok((new, line)) => match last.and_then(|last| validate::forbidden_change(last, new)) {
            Some(problem) => vec![refuse(*line, problem.to_string(), true)],
            None => {
                wish.object = Some(with_generation(new.clone(), last));
                Vec::new()
            }
        },
    };
    place.insert(wish);
    refusals
}

fn with_generation(mut new: Object, last: Option<&Object>) -> Object {
    let generation = match last {
        None => 1,
        Some(last) => {
            let before = last.metadata().generation.unwrap_or(1);
            if last.same_spec(&new) { before } else { before.saturating_add(1) }
        }
    };
    new.metadata_mut().generation = Some(generation);
    new
}

impl File {
    fn read(&mut self, contents: &Result<Vec<u8>, String>) {
        let bytes = match contents {
            Ok(bytes) if self.bytes.as_ref() == Some(bytes) => return,
            Ok(bytes) => bytes,
            Err(why) => {
                let reason = format!("can't be read: {why}");
                self.fault = Some(ParseError { line: None, reason });
                self.bytes = None;
                return;
            }
        };
        self.bytes = Some(bytes.clone());
        match manifest::read(bytes) {
            // Programs that write in place begin so, some of them seconds
            // before they go on.
            Ok(documents) if documents.is_empty() && self.has_objects() => {
                let reason = "is empty now: remove the file if its objects are to go".to_owned();
                self.fault = Some(ParseError { line: None, reason });
            }
            Ok(documents) => {
                self.good = Some(documents.into_iter().map(Checked::new).collect());
                self.fault = None;
            }
            Err(fault) => self.fault = Some(fault),
        }
    }

    fn has_objects(&self) -> bool {
        self.good.as_ref().is_some_and(|documents| !documents.is_empty())
    }

    fn refusal(&self, name: &str) -> Option<Refusal> {
        let fault = self.fault.as_ref()?;
        Some(Refusal {
            file: name.to_owned(),
            line: fault.line,
            object: None,
            reason: fault.reason.clone(),
            last_good_stays: self.good.is_some(),
        })
    }
}

impl Checked {
    fn new(document: Document) -> Self {
        let Document { line, object, key, content } = document;
        let outcome = match content {
            Err(problem) => Err(vec![Wrong { line, reason: problem.to_string() }]),
            Ok((kind, node)) => match validate::check(kind, &node) {
                Ok(object) => Ok((object, node.line_of(&validate::immutable_field(kind)))),
                Err(problems) => Err(told(problems.iter().map(|problem| Wrong {
                    line: node.line_of(&problem.path),
                    reason: problem.to_string(),
                }))),
            },
        };
        Self { line, object, key, outcome }
    }
}

fn told(problems: impl ExactSizeIterator<Item = Wrong>) -> Vec<Wrong> {
    let more = problems.len().saturating_sub(MAX_PROBLEMS);
    let mut told: Vec<_> = problems.take(MAX_PROBLEMS).collect();
    if let Some(last) = told.last_mut().filter(|_| more > 0) {
        last.reason.push_str(&format!("; and {more} more"));
    }
    told
}

#[cfg(test)]
mod tests;
