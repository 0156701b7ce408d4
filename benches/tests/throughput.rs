//! The throughput run works: everybody forwards, and what it writes can be
//! read. How fast they are is nothing for a test.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use blixt_testkit::require_root;
use serde_json::Value;

/// Runs all parts for a moment.
fn run(json: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_throughput"))
        .args(["--rounds", "1", "--seconds", "0.1", "--frame-bytes", "60", "--flows", "2000"])
        .arg("--json")
        .arg(json)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Who forwarded nothing at all.
fn idle(report: &Value) -> Vec<String> {
    let sides = |cell: &Value| cell["sides"].as_array().unwrap().clone();
    let cells = report["cells"].as_array().unwrap();
    let sides = cells.iter().flat_map(|cell| {
        let name = cell["name"].as_str().unwrap().to_owned();
        sides(cell).into_iter().map(move |side| (name.clone(), side))
    });
    sides
        .filter(|(_, side)| side["through_per_second"]["median"].as_f64().unwrap() <= 0.0)
        .map(|(name, side)| format!("{name}: {}", side["name"]))
        .collect()
}

#[test]
fn everybody_forwards_and_the_report_can_be_read() {
    require_root!();
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("report.json");
    let mut said = run(&json);
    let mut report: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    if !idle(&report).is_empty() {
        // On a busy machine a thread can be kept from its core for so long.
        said = run(&json);
        report = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    }
    assert_eq!(idle(&report), Vec::<String>::new(), "{said}");

    let cells = report["cells"].as_array().unwrap();
    let names: BTreeSet<_> = cells.iter().map(|cell| cell["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        BTreeSet::from([
            "TCP, 4 streams",
            "TCP, new connections",
            "UDP, 60 bytes, 1,000 flows a queue",
            "UDP, 60 bytes, 1,000 flows a queue, there and back",
            "UDP, 60 bytes, 2,000 flows",
        ])
    );
    for cell in cells {
        for side in cell["sides"].as_array().unwrap() {
            assert!(side["cpu_ns"]["median"].as_f64().unwrap() >= 0.0, "{side:#}");
            assert_eq!(side["through_per_second"]["rounds"].as_array().unwrap().len(), 1);
        }
    }
    // Twice for UDP, and the worker without traffic.
    assert_eq!(report["goals"].as_array().unwrap().len(), 3);
    assert!(report["generator"][0]["packets_per_second"].as_f64().unwrap() > 0.0);
    for key in ["kernel", "cpu", "date", "commit", "command"] {
        assert!(!report["machine"][key].as_str().unwrap().is_empty(), "{key}");
    }
    assert!(said.contains("blixt to nftables: "), "{said}");
    assert!(said.starts_with(&fs::read_to_string(json.with_extension("txt")).unwrap()));

    let svg = fs::read_to_string(json.with_extension("svg")).unwrap();
    let chart = roxmltree::Document::parse(&svg).unwrap();
    let texts: Vec<_> = chart.descendants().filter_map(|node| node.text()).collect();
    for name in ["bare AF_XDP forwarder", "blixt", "nftables", "60 bytes, 2,000 flows"] {
        assert!(texts.contains(&name), "{name}: {texts:?}");
    }
}

#[test]
fn nonsense_is_refused_with_advice() {
    require_root!();
    for (arguments, advice) in [
        (["--flows", "0"], "--flows takes numbers from 1 to 1,048,576"),
        (["--frame-bytes", "9000"], "--frame-bytes takes numbers from 60 to 1,514"),
        (["--rounds", "0"], "at least one round"),
    ] {
        let run = Command::new(env!("CARGO_BIN_EXE_throughput")).args(arguments).output().unwrap();
        assert_eq!(run.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&run.stderr).contains(advice), "{run:?}");
    }
}
