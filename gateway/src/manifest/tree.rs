//! YAML (and with it JSON) as a tree that knows its line numbers.
//!
//! The parser does the hard part; this file bounds what it may be asked for
//! and keeps the line of every value, so that whatever is found to be wrong
//! later can be pointed at.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number};
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Options, Spanned};

use super::path::{Path, Problem, Step};

/// Twice as deep as any object here goes, and shallow enough for the stack of
/// a thread: without optimization a level takes some 40 kB of its 2 MiB.
const MAX_DEPTH: usize = 32;

/// Room for a file with all EndpointSlices of a large cluster: some 30,000
/// endpoints, as `kubectl get` prints them.
const MAX_VALUES: usize = 1_000_000;

/// How many values aliases (`*name`) may repeat: a handful of bytes can
/// otherwise ask for billions.
const MAX_REPEATED: usize = 100_000;

/// Why a text is not YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParseError {
    /// The line, counted from 1.
    pub(crate) line: Option<u32>,
    /// What is wrong there.
    pub(crate) reason: String,
}

/// One value and the line on which it begins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) line: u32,
    pub(crate) value: Value,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a map and its value. Keys may repeat: that is refused later,
/// object by object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) line: u32,
    pub(crate) node: Node,
}

/// Reads all documents of a text. Empty ones are left out.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Node>, ParseError> {
    parse_bounded(bytes, MAX_VALUES)
}

fn parse_bounded(bytes: &[u8], max_values: usize) -> Result<Vec<Node>, ParseError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        ParseError {
            line: Some(line_number(1 + good.iter().filter(|&&b| b == b'\n').count() as u64)),
            reason: "is not UTF-8 text: save it as UTF-8".to_owned(),
        }
    })?;
    serde_saphyr::from_multiple_with_options(text, options(max_values)).map_err(|error| {
        let line = error.location().map(|at| line_number(at.line())).filter(|&line| line > 0);
        ParseError { line, reason: reason(&error, max_values) }
    })
}

fn options(max_values: usize) -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_nodes: max_values,
            max_events: max_values.saturating_mul(4),
            max_documents: 100_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPEATED,
        },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        reject_unsupported_tags: true,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    }
}

/// The parser's words, except where it speaks of its own workings.
fn reason(error: &serde_saphyr::Error, max_values: usize) -> String {
    let text = error.to_string();
    // The line is told apart from the reason.
    let text = text.split(" at line ").next().unwrap_or(&text);
    if text.starts_with("budget breached") || text.starts_with("recursion limit") {
        format!(
            "is larger than what is read from one file ({max_values} values, {MAX_DEPTH} levels): \
             split it"
        )
    } else if text.starts_with("alias replay limit") {
        format!("repeats more than {MAX_REPEATED} values by aliases (*name): write fewer")
    } else if text.starts_with("recursive references") {
        "has an alias (*name) within what it stands for: write the value out".to_owned()
    } else {
        format!("is not YAML: {text}")
    }
}

fn line_number(line: u64) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

impl Node {
    /// The value of a key, if this is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => {
                entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
            }
            _ => None,
        }
    }

    /// The text of a key, if this is a map that has it as a text.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The line of what a path leads to, or of the last thing on the way
    /// that is there.
    pub(crate) fn line_of(&self, path: &Path) -> u32 {
        let mut line = self.line;
        let mut node = self;
        for step in path.steps() {
            let next = match (&node.value, step) {
                (Value::Map(entries), Step::Key(key)) => {
                    entries.iter().find(|entry| &entry.key == key).map(|e| (e.line, &e.node))
                }
                (Value::List(items), Step::Index(index)) => {
                    items.get(*index).map(|item| (item.line, item))
                }
                _ => None,
            };
            let Some(found) = next else { break };
            (line, node) = found;
        }
        line
    }

    /// Keys that are in one map twice.
    pub(crate) fn repeated_keys(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.collect_repeated_keys(&mut Path::root(), &mut problems);
        problems
    }

    fn collect_repeated_keys(&self, path: &mut Path, problems: &mut Vec<Problem>) {
        match &self.value {
            Value::Map(entries) => {
                let mut seen = BTreeMap::new();
                for entry in entries {
                    path.push(Step::Key(entry.key.clone()));
                    if let Some(first) = seen.insert(&entry.key, entry.line) {
                        let (first, again) = (first, entry.line);
                        problems.push(Problem::new(
                            path.clone(),
                            format!("is given twice, on lines {first} and {again}: keep one"),
                        ));
                    }
                    entry.node.collect_repeated_keys(path, problems);
                    path.pop();
                }
            }
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    path.push(Step::Index(index));
                    item.collect_repeated_keys(path, problems);
                    path.pop();
                }
            }
            _ => {}
        }
    }

    /// The same without lines.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => serde_json::Value::Bool(*value),
            Value::Integer(value) => i64::try_from(*value)
                .map(Number::from)
                .or_else(|_| u64::try_from(*value).map(Number::from))
                .map_or_else(|_| float(*value as f64), serde_json::Value::Number),
            Value::Float(value) => float(*value),
            Value::Text(text) => serde_json::Value::String(text.clone()),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => entries
                .iter()
                .map(|entry| (entry.key.clone(), entry.node.to_json()))
                .collect::<Map<_, _>>()
                .into(),
        }
    }
}

fn float(value: f64) -> serde_json::Value {
    Number::from_f64(value).map_or(serde_json::Value::Null, serde_json::Value::Number)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { line: line_number(spanned.referenced.line()), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(i128::try_from(value).map_or(Value::Float(value as f64), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            entries.push(Entry {
                key: key.value,
                line: line_number(key.referenced.line()),
                node: access.next_value()?,
            });
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests;
