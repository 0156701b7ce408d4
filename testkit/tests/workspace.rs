//! The rules of the workspace that no compiler knows: which crate may depend
//! on which, where versions stand, where `unsafe` lives, which licence holds.
//!
//! `deny.toml` has the rules for the crates of others, transitive ones too;
//! these tests need no tool but cargo, and no network.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Which crates of ours a crate may be built with. An arrow against this
/// order would let I/O into what is pure.
const ARROWS: [(&str, &[&str]); 17] = [
    ("blixt-model", &[]),
    ("blixt-mem", &[]),
    ("blixt-xdp-abi", &[]),
    ("blixt-gateway", &["blixt-model"]),
    ("blixt-streams", &[]),
    ("blixt-dataplane", &["blixt-mem", "blixt-model"]),
    ("blixt-afxdp", &["blixt-mem"]),
    ("blixt-api", &["blixt-dataplane", "blixt-gateway", "blixt-model"]),
    ("blixt-scrape", &[]),
    (
        "blixt-agent",
        &[
            "blixt-afxdp",
            "blixt-api",
            "blixt-dataplane",
            "blixt-gateway",
            "blixt-mem",
            "blixt-model",
            "blixt-scrape",
            "blixt-streams",
            "blixt-xdp-abi",
        ],
    ),
    ("blixt-controller", &["blixt-api", "blixt-gateway", "blixt-model", "blixt-scrape"]),
    ("blixt-cli", &["blixt-api", "blixt-dataplane", "blixt-gateway", "blixt-mem", "blixt-model"]),
    // The throughput run measures the agent's own worker.
    (
        "blixt-benches",
        &[
            "blixt-afxdp",
            "blixt-agent",
            "blixt-counted",
            "blixt-dataplane",
            "blixt-gateway",
            "blixt-mem",
            "blixt-model",
            "blixt-testkit",
        ],
    ),
    ("blixt-counted", &["blixt-dataplane", "blixt-mem", "blixt-model", "blixt-testkit"]),
    (
        "blixt-fuzz",
        &[
            "blixt-api",
            "blixt-dataplane",
            "blixt-gateway",
            "blixt-model",
            "blixt-streams",
            "blixt-testkit",
        ],
    ),
    ("blixt-testkit", &[]),
    // Nothing but tests, and what they share.
    ("blixt-e2e", &["blixt-testkit"]),
];

/// Who may depend on crates that bring a runtime, a protocol or the kernel
/// with them, be it for tests or for building. `deny.toml` says the same of
/// the whole tree.
const HEAVY: [(&str, &[&str]); 16] = [
    // The generated route types derive kube's trait; gateway/ takes no client.
    ("kube", &["blixt-controller", "blixt-e2e", "blixt-gateway"]),
    ("k8s-openapi", &["blixt-controller", "blixt-e2e", "blixt-gateway"]),
    ("gateway-api", &["blixt-gateway"]),
    (
        "tokio",
        &[
            "blixt-agent",
            "blixt-cli",
            "blixt-controller",
            "blixt-e2e",
            "blixt-scrape",
            "blixt-streams",
        ],
    ),
    ("tonic", &["blixt-agent", "blixt-api", "blixt-cli", "blixt-controller", "blixt-e2e"]),
    ("axum", &["blixt-agent", "blixt-controller", "blixt-scrape"]),
    ("aya", &["blixt-agent", "blixt-benches", "blixt-e2e"]),
    ("xsk-rs", &["blixt-afxdp", "blixt-benches"]),
    ("rtnetlink", &["blixt-agent"]),
    ("notify", &["blixt-agent"]),
    ("tracing", &["blixt-agent", "blixt-controller", "blixt-scrape"]),
    ("tracing-subscriber", &["blixt-agent", "blixt-controller"]),
    ("clap", &["blixt-agent", "blixt-benches", "blixt-cli", "blixt-controller", "blixt-scrape"]),
    ("protox", &["blixt-api"]),
    // Who speaks TLS, who looks whether a certificate and a key fit, and who makes
    // certificates.
    (
        "rustls",
        &[
            "blixt-agent",
            "blixt-controller",
            "blixt-e2e",
            "blixt-fuzz",
            "blixt-gateway",
            "blixt-scrape",
            "blixt-streams",
        ],
    ),
    (
        "rcgen",
        &[
            "blixt-agent",
            "blixt-controller",
            "blixt-e2e",
            "blixt-gateway",
            "blixt-scrape",
            "blixt-streams",
        ],
    ),
];

/// Crates that exist for tests: nothing that ships may be built with them.
const FOR_TESTS: [&str; 5] =
    ["blixt-testkit", "blixt-e2e", "blixt-benches", "blixt-counted", "blixt-fuzz"];

/// Where `unsafe` may be written.
const UNSAFE: [&str; 3] = ["mem", "afxdp", "xdp-redirect"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().unwrap()
}

#[test]
fn arrows_point_one_way() {
    let arrows = BTreeMap::from(ARROWS);
    let mut wrong = Vec::new();
    for package in metadata().packages {
        let name = package.name.as_str();
        let Some(allowed) = arrows.get(name) else {
            panic!("{name} is new: say in ARROWS what it may depend on, and in ARCHITECTURE.md");
        };
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            let for_tests = dependency.kind == DependencyKind::Development
                // A crate names itself to switch features on for its tests.
                && (to == name || to == "blixt-testkit" || FOR_TESTS.contains(&name));
            if arrows.contains_key(to) && !allowed.contains(&to) && !for_tests {
                wrong.push(format!("{name} -> {to}"));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows against the order of ARCHITECTURE.md: {wrong:?}");
}

#[test]
fn heavy_crates_stay_where_they_belong() {
    let heavy = BTreeMap::from(HEAVY);
    let mut wrong = Vec::new();
    for package in metadata().packages {
        for dependency in &package.dependencies {
            let owners = heavy.get(dependency.name.as_str());
            if owners.is_some_and(|owners| !owners.contains(&package.name.as_str())) {
                wrong.push(format!("{} -> {}", package.name, dependency.name));
            }
        }
    }
    assert!(wrong.is_empty(), "not allowed to depend on these: {wrong:?}");
}

#[test]
fn versions_stand_in_the_root_alone() {
    let mut wrong = Vec::new();
    for manifest in manifests() {
        for line in dependency_lines(&fs::read_to_string(&manifest).unwrap()) {
            let itself = line.contains("path = \".\"");
            if !line.contains("workspace = true") && !itself {
                wrong.push(format!("{}: {line}", manifest.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "versions belong to the root Cargo.toml: {wrong:#?}");
}

#[test]
fn members_share_lints_and_what_describes_the_workspace() {
    for manifest in manifests() {
        let text = fs::read_to_string(&manifest).unwrap();
        let place = manifest.display();
        assert!(text.contains("[lints]\nworkspace = true"), "{place} does not take the lints");
        for key in ["version", "edition", "rust-version", "repository", "publish"] {
            assert!(
                text.contains(&format!("\n{key}.workspace = true")),
                "{place} has its own {key}"
            );
        }
    }
}

#[test]
fn unsafe_lives_in_three_places() {
    let mut wrong = Vec::new();
    for file in rust_files(&root()) {
        let place = file.strip_prefix(root()).unwrap();
        if UNSAFE.iter().any(|allowed| place.starts_with(allowed)) {
            continue;
        }
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            if says_unsafe(line) {
                wrong.push(format!("{}:{}", place.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "unsafe outside {UNSAFE:?}: {wrong:#?}");
}

#[test]
fn crates_without_unsafe_forbid_it() {
    for package in metadata().packages {
        let directory = package.manifest_path.parent().unwrap();
        if UNSAFE.iter().any(|allowed| directory == root().join(allowed)) {
            continue;
        }
        for target in package.targets.iter().filter(|target| target.is_lib() || target.is_bin()) {
            let text = fs::read_to_string(&target.src_path).unwrap();
            assert!(
                text.contains("#![forbid(unsafe_code)]"),
                "{} lacks #![forbid(unsafe_code)]",
                target.src_path
            );
        }
    }
}

#[test]
fn licences_are_what_they_should_be() {
    for package in metadata().packages {
        let expected = match package.name.as_str() {
            "blixt-xdp-abi" => "Apache-2.0 OR GPL-2.0-only",
            _ => "Apache-2.0",
        };
        assert_eq!(package.license.as_deref(), Some(expected), "{}", package.name);
    }
    let program = fs::read_to_string(root().join("xdp-redirect/Cargo.toml")).unwrap();
    assert!(program.contains("\nlicense = \"GPL-2.0-only\"\n"));
    for (file, title) in
        [("LICENSE", "Apache License"), ("xdp-redirect/LICENSE", "GNU GENERAL PUBLIC LICENSE")]
    {
        assert!(fs::read_to_string(root().join(file)).unwrap().contains(title), "{file}");
    }
}

/// The manifests of all members.
fn manifests() -> Vec<PathBuf> {
    metadata().packages.iter().map(|package| package.manifest_path.clone().into()).collect()
}

/// The lines that name a dependency, in whichever section they are.
fn dependency_lines(manifest: &str) -> Vec<&str> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.trim_end_matches(']').ends_with("dependencies");
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            lines.push(line);
        }
    }
    lines
}

/// Whether a line of code has the keyword, and not just a word in a comment,
/// in the name of a lint or of a flag.
fn says_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '"' | '-');
    let mut words = code.split(|c: char| !is_part(c));
    words.any(|word| word == "unsafe")
}

fn rust_files(directory: &Path) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.insert(path);
        }
    }
    files
}

#[test]
fn the_keyword_is_told_from_the_word() {
    // Put together, so that this file is not found itself.
    let keyword = ["un", "safe"].concat();
    assert!(says_unsafe(&format!("    {keyword} {{ x() }}")));
    assert!(says_unsafe(&format!("pub {keyword} fn f() {{}}")));
    assert!(!says_unsafe("#![forbid(unsafe_code)]"));
    assert!(!says_unsafe("// unsafe is elsewhere"));
    assert!(!says_unsafe("let word = \"unsafe\";"));
    assert!(!says_unsafe("let flags = [\"--unsafe-no-fsync\"];"));
}

#[test]
fn dependencies_are_found_in_every_section() {
    let manifest = "[package]\nversion = \"1\"\n[dependencies]\na.workspace = true\n\
                    [target.'cfg(unix)'.dev-dependencies]\n# no\nb = \"1\"\n[lints]\nc = 1\n";
    assert_eq!(dependency_lines(manifest), ["a.workspace = true", "b = \"1\""]);
}
