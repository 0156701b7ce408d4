//! The programs of Kubernetes that tests with an API server or a cluster run,
//! and the CRDs of Gateway API. They are built by a script, into a directory
//! that outlives tests.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Says where the programs are.
const DIRECTORY: &str = "BLIXT_LAB_BIN";

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

/// Sees to it that these programs are there: who asks for tests with the feature
/// `lab` wants them.
pub fn require(programs: &[&str]) {
    for path in programs.iter().map(|name| bin(name)) {
        assert!(
            Path::exists(&path),
            "there is no {}: `scripts/cluster build` makes it, or say by {DIRECTORY} where it is",
            path.display()
        );
    }
}
