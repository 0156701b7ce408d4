//! The page about drop reasons says what the code says, so that it cannot
//! fall behind.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::Path;

use blixt_dataplane::DropReason;

#[test]
fn every_drop_reason_has_its_row() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/drop-reasons.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (reasons, _) = page.split_once("## What the XDP program counts").unwrap();
    let rows: Vec<Vec<_>> = reasons
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    for (row, reason) in rows.iter().zip(DropReason::ALL) {
        let [name, meaning, advice] = row[..] else { panic!("three columns: {row:?}") };
        assert_eq!(name, format!("`{}`", reason.name()), "rows are in the order of the code");
        assert_eq!(meaning, reason.meaning(), "{name}");
        assert_eq!(unlinked(advice), reason.advice(), "{name}");
    }
    assert_eq!(rows.len(), DropReason::ALL.len(), "a row for each reason");
}

/// The text without what its links lead to.
fn unlinked(text: &str) -> String {
    let mut plain = String::new();
    for (place, part) in text.split('[').enumerate() {
        match part.split_once("](") {
            Some((shown, rest)) if place > 0 => {
                plain += shown;
                plain += rest.split_once(')').unwrap().1;
            }
            _ => plain += part,
        }
    }
    plain
}
