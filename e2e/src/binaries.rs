//! The programs under test, built when they are first asked for.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Says where the programs are, if they are built already: `scripts/test` builds
/// all of the workspace at once.
const BUILT: &str = "BLIXT_BUILT";

/// The agent.
pub(crate) fn agent() -> PathBuf {
    directory().join("blixt-agent")
}

/// blixtctl.
pub(crate) fn blixtctl() -> PathBuf {
    directory().join("blixtctl")
}

/// The controller.
pub(crate) fn controller() -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| build(&["blixt-controller"])).join("blixt-controller")
}

/// Where agent and blixtctl are.
fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| build(&["blixt-agent", "blixt-cli"]))
}

/// Cargo builds a test's own package only, so it is asked for others, in the
/// profile and place of the test; gives the place.
fn build(packages: &[&str]) -> PathBuf {
    if let Some(directory) = env::var_os(BUILT) {
        return directory.into();
    }
    // TARGET/debug/deps/TEST-HASH
    let test = env::current_exe().unwrap();
    let directory = test.parent().and_then(Path::parent).unwrap().to_owned();
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => panic!("{} is in no profile's directory", test.display()),
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
        .args(["build", "--quiet", "--profile", profile])
        .args(packages.iter().flat_map(|package| ["-p", package]))
        .arg("--target-dir")
        .arg(directory.parent().unwrap())
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the programs under test do not build:\n{complaints}");
    directory
}
