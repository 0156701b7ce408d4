//! What the documents point at is there: links, headings, files of the code.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The pages at the top, and all below docs/.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut directories = vec![root().join("docs")];
    pages.extend(markdown_in(&root()));
    while let Some(directory) = directories.pop() {
        pages.extend(markdown_in(&directory));
        directories.extend(entries(&directory).into_iter().filter(|path| path.is_dir()));
    }
    pages
}

fn markdown_in(directory: &Path) -> Vec<PathBuf> {
    let is_page = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    entries(directory).into_iter().filter(is_page).collect()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// The text outside of fenced code.
fn prose(page: &Path) -> String {
    let text = fs::read_to_string(page).unwrap();
    text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n")
}

/// A heading's anchor, as the usual renderers make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().replace(' ', "-")
}

fn anchors(page: &Path) -> BTreeSet<String> {
    let text = prose(page);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut dead = Vec::new();
    for page in pages() {
        for link in prose(&page).split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.starts_with("http") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            let has_heading =
                heading.is_empty() || target.is_file() && anchors(&target).contains(heading);
            if !target.exists() || !has_heading {
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

#[test]
fn files_that_are_named_exist() {
    const KINDS: [&str; 5] = [".rs", ".proto", ".yaml", ".toml", "/"];
    let mut missing = Vec::new();
    for page in pages() {
        for (place, quoted) in prose(&page).split('`').enumerate() {
            let is_path = place % 2 == 1
                && quoted.contains('/')
                && !quoted.starts_with('/')
                && !quoted.contains([' ', '*', '{', '<', ':', '$'])
                && KINDS.iter().any(|kind| quoted.ends_with(kind));
            if is_path && !root().join(quoted).exists() {
                missing.push(format!("{}: {quoted}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_crate_is_on_the_map() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = workspace.split_once("members = [").unwrap().1.split_once(']').unwrap().0;
    for member in members.split('"').skip(1).step_by(2) {
        assert!(map.contains(&format!("`{member}/`")), "ARCHITECTURE.md lacks {member}/");
    }
}

#[test]
fn every_metric_is_explained() {
    let page = fs::read_to_string(root().join("docs/operations-standalone.md")).unwrap();
    let served = fs::read_to_string(root().join("agent/tests/golden/metrics.txt")).unwrap();
    let lines =
        |start: &'static str| served.lines().filter_map(move |line| line.strip_prefix(start));
    for (help, kind) in lines("# HELP ").zip(lines("# TYPE ")) {
        let (name, meaning) = help.split_once(' ').unwrap();
        let name = match kind.ends_with(" counter") {
            true => format!("{name}_total"),
            false => name.to_owned(),
        };
        let mut rows = page.lines().filter(|row| {
            row.starts_with(&format!("| `{name}`")) || row.starts_with(&format!("| `{name}{{"))
        });
        let row = rows.next().unwrap_or_else(|| panic!("{name} has no row"));
        assert!(row.ends_with(&format!(" | {meaning} |")), "{name}: {meaning}");
    }
}

#[test]
fn every_decision_is_in_the_list() {
    let directory = root().join("docs/decisions");
    let list = fs::read_to_string(directory.join("README.md")).unwrap();
    for page in markdown_in(&directory) {
        let name = page.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(name == "README.md" || list.contains(&format!("({name})")), "{name} is not listed");
    }
}
