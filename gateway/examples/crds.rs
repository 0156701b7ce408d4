//! Writes the CRDs of our own kinds, as they follow from the Rust types:
//!
//! `cargo run -p blixt-gateway --example crds > manifests/crds/blixt.dev.yaml`

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let crds = match blixt_gateway::crds() {
        Ok(crds) => crds,
        Err(error) => return fail(&format!("a CRD can't be written as JSON: {error}")),
    };
    let mut text = String::new();
    for crd in crds {
        match serde_saphyr::to_string(&crd) {
            Ok(yaml) => text += &format!("---\n{yaml}"),
            Err(error) => return fail(&format!("a CRD can't be written as YAML: {error}")),
        }
    }
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("standard output can't be written: {error}")),
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("crds: {why}");
    ExitCode::FAILURE
}
