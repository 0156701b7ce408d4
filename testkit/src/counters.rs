//! What moved between two readings of counters; all others must stand still.

use std::collections::BTreeMap;

/// A reading: each counter by its name.
pub type Reading = BTreeMap<String, u64>;

/// Asserts that exactly the counters of `expected` moved: `"flow.created"` by
/// one, `"bytes +120"` and `"flow.entries -1"` by so much.
///
/// # Panics
///
/// With both lists, when they differ.
#[track_caller]
pub fn assert_moved<'a>(
    before: &Reading,
    after: &Reading,
    expected: impl IntoIterator<Item = &'a str>,
) {
    let mut moves: Vec<_> = expected.into_iter().map(spelled_out).collect();
    moves.sort();
    assert_eq!(moved(before, after), moves, "(left: the counters that moved; right: expected)");
}

/// Which counters moved and by how much: `"flow.created +1"`, sorted by name.
pub fn moved(before: &Reading, after: &Reading) -> Vec<String> {
    let mut names: Vec<_> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    let value = |reading: &Reading, name| i128::from(reading.get(name).copied().unwrap_or(0));
    names
        .into_iter()
        .map(|name| (name, value(after, name) - value(before, name)))
        .filter(|(_, by)| *by != 0)
        .map(|(name, by)| format!("{name} {by:+}"))
        .collect()
}

fn spelled_out(expected: &str) -> String {
    if expected.contains(' ') { expected.to_owned() } else { format!("{expected} +1") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(values: &[(&str, u64)]) -> Reading {
        values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn what_moved_is_named_with_how_much() {
        let before = reading(&[("a", 1), ("b", 5), ("c", 7)]);
        let after = reading(&[("a", 2), ("b", 5), ("c", 4), ("d", 9)]);
        assert_eq!(moved(&before, &after), ["a +1", "c -3", "d +9"]);
        assert_moved(&before, &after, ["d +9", "a", "c -3"]);
    }

    #[test]
    #[should_panic(expected = "a +1")]
    fn a_counter_that_should_have_stood_still_is_found() {
        assert_moved(&reading(&[("a", 1)]), &reading(&[("a", 2)]), []);
    }

    #[test]
    #[should_panic(expected = "b +1")]
    fn a_counter_that_should_have_moved_is_found() {
        assert_moved(&reading(&[]), &reading(&[("a", 1)]), ["a", "b"]);
    }
}
