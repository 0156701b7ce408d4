//! Builds the XDP program and hands it to the agent to include.
//!
//! The program wants another compiler than the agent: one with `core` for the
//! BPF target. Two are known, and the first that is there is taken: Debian's
//! own rustc with `libstd-rust-web-dev-bpf`, or a rustup nightly with
//! `rust-src`; with either, `bpf-linker`. `scripts/setup` installs them.
//! Without one the agent builds all the same, and says at run time what it
//! lacks. With one, a program that does not build fails the build.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a program, its maps' layouts and its dependencies are made of.
const SOURCES: [&str; 5] = ["src", "abi/src", "Cargo.toml", "Cargo.lock", "abi/Cargo.toml"];

/// The file that `src/xdp/object.rs` includes.
const OBJECT: &str = "blixt-xdp.o";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(blixt_xdp_object)");
    match build() {
        Ok(()) => println!("cargo::rustc-cfg=blixt_xdp_object"),
        Err(Failure::Absent(why)) => {
            println!("cargo::warning=the agent is built without its XDP program: {why}");
            println!("cargo::warning=to build it in, run scripts/setup and build again");
            println!("cargo::rustc-env=BLIXT_XDP_ABSENT={why}");
        }
        Err(Failure::Broken(why)) => {
            for line in why.lines() {
                println!("cargo::error={line}");
            }
        }
    }
}

enum Failure {
    /// The tools are not there: build without.
    Absent(String),
    /// They are, and it does not work.
    Broken(String),
}

/// A compiler for the BPF target.
enum Toolchain {
    /// Debian's: `core` is there, compiled.
    Distribution { cargo: PathBuf, rustc: PathBuf },
    /// A nightly that compiles `core` from `rust-src`.
    Nightly,
}

fn build() -> Result<(), Failure> {
    let program = variable("CARGO_MANIFEST_DIR")?.join("../xdp-redirect");
    let out = variable("OUT_DIR")?;
    for source in SOURCES {
        watch(&program.join(source));
    }

    let target = match env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() {
        Ok("big") => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    let linker = linker().ok_or_else(|| {
        // When it arrives, try again. (scripts/setup touches this file when it
        // has installed something.)
        if let Some(bin) = cargo_bin() {
            watch(&bin);
        }
        Failure::Absent("bpf-linker is not installed".into())
    })?;
    watch(&linker);
    let toolchain = toolchain(target).ok_or_else(|| {
        Failure::Absent("no Rust compiler with the BPF target is installed".into())
    })?;

    let target_dir = out.join("xdp-redirect");
    let mut cargo = toolchain.cargo();
    cargo
        .current_dir(&program)
        .args(["build", "--locked", "--release", "--target", target, "--target-dir"])
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flag("-Clinker=", &linker));
    let output = cargo
        .output()
        .map_err(|error| Failure::Broken(format!("{cargo:?} does not start: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::Broken(format!("the XDP program does not build:\n{said}")));
    }
    let built = target_dir.join(target).join("release/blixt-xdp");
    fs::copy(&built, out.join(OBJECT))
        .map(|_| ())
        .map_err(|error| Failure::Broken(format!("{} was not built: {error}", built.display())))
}

impl Toolchain {
    /// Cargo, as if called from a clean shell: what the cargo that runs this
    /// script was told (its compiler, flags, profile, target) is not meant for
    /// another compiler and target.
    fn cargo(&self) -> Command {
        let mut command = match self {
            Self::Distribution { cargo, .. } => Command::new(cargo),
            Self::Nightly => Command::new("rustup"),
        };
        for (name, _) in env::vars_os() {
            if !is_meant_for_every_cargo(&name.to_string_lossy()) {
                command.env_remove(name);
            }
        }
        match self {
            // The only thing unstable about it is the target's tier.
            Self::Distribution { rustc, .. } => {
                command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
            }
            Self::Nightly => {
                command.args(["run", "nightly", "cargo", "-Z", "build-std=core"]);
            }
        }
        command
    }
}

/// Where to find things and how to download stays; all else of cargo's and
/// rustc's goes.
fn is_meant_for_every_cargo(name: &str) -> bool {
    const KEPT: [&str; 6] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "RUSTUP_HOME",
    ];
    const OURS: [&str; 2] = ["CARGO", "RUST"];

    KEPT.iter().any(|prefix| name.starts_with(prefix))
        || !OURS.iter().any(|prefix| name.starts_with(prefix))
}

fn toolchain(target: &str) -> Option<Toolchain> {
    let (cargo, rustc) = (PathBuf::from("/usr/bin/cargo"), PathBuf::from("/usr/bin/rustc"));
    if cargo.exists() && has_core(&rustc, target) {
        watch(&rustc);
        return Some(Toolchain::Distribution { cargo, rustc });
    }
    let source = sysroot(Command::new("rustup").args(["run", "nightly", "rustc"]))?
        .join("lib/rustlib/src/rust/library/core");
    source.exists().then_some(Toolchain::Nightly)
}

/// Whether a compiler has `core`, compiled for the target.
fn has_core(rustc: &Path, target: &str) -> bool {
    let Some(sysroot) = sysroot(&mut Command::new(rustc)) else {
        return false;
    };
    let libraries = sysroot.join("lib/rustlib").join(target).join("lib");
    fs::read_dir(libraries).is_ok_and(|files| {
        files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

fn sysroot(rustc: &mut Command) -> Option<PathBuf> {
    let output = rustc
        .env_remove("RUSTUP_TOOLCHAIN")
        .args(["--print", "sysroot"])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

fn linker() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_bin())
        .map(|directory| directory.join("bpf-linker"))
        .find(|candidate| candidate.is_file())
}

/// Where `cargo install` puts programs, in the `PATH` or not.
fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| Some(env::home_dir()?.join(".cargo"))).map(|home| home.join("bin"))
}

fn watch(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}

fn flag(name: &str, value: &Path) -> OsString {
    let mut flag = OsString::from(name);
    flag.push(value);
    flag
}

fn variable(name: &str) -> Result<PathBuf, Failure> {
    env::var_os(name)
        .map(PathBuf::from)
        .ok_or_else(|| Failure::Broken(format!("cargo does not set {name}")))
}
