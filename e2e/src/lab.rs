//! The programs of Kubernetes that tests with an API server or a cluster run,
//! and the CRDs of Gateway API. They are built by a script, into a directory
//! that outlives tests.

use std::env;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Says where the programs are.
const DIRECTORY: &str = "BLIXT_LAB_BIN";

/// Where a test that is skipped would go unnoticed.
const REQUIRED: &str = "BLIXT_REQUIRE_LAB";

/// Where the programs are: as the environment says, or in the target
/// directory that this test is in.
pub fn directory() -> PathBuf {
    if let Some(directory) = env::var_os(DIRECTORY) {
        return directory.into();
    }
    // TARGET/debug/deps/TEST-HASH
    let test = env::current_exe().unwrap();
    test.ancestors().nth(3).unwrap().join("lab/bin")
}

/// One of the programs.
pub fn bin(name: &str) -> PathBuf {
    directory().join(name)
}

/// The CRDs of Gateway API, as YAML.
pub fn crds() -> Vec<String> {
    let directory = directory();
    let directory = directory.parent().unwrap().join("crds");
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| {
        panic!("{}: {error}: the CRDs of Gateway API belong there", directory.display())
    });
    let paths = entries.map(|entry| entry.unwrap().path());
    let yaml = paths.filter(|path| path.extension().is_some_and(|found| found == "yaml"));
    yaml.map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// Whether these programs are there. If one is not, says so loudly, or fails
/// where [`REQUIRED`] forbids to skip.
pub fn there_or_skip(test: &str, programs: &[&str]) -> bool {
    let is_missing = |name: &&&str| !Path::exists(&bin(name));
    let Some(missing) = programs.iter().find(is_missing) else { return true };
    let path = bin(missing);
    let what =
        format!("{test} needs {}: build it, or say by {DIRECTORY} where it is", path.display());
    assert!(env::var_os(REQUIRED).is_none(), "{what}; {REQUIRED} forbids to skip it");
    // Not by eprintln!, which nobody sees of a test that passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
    false
}
