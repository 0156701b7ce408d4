//! `benches/pktgen/pktgen` says the right things to the kernel's generator, and
//! reads its results. The generator itself takes a kernel that has it.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

fn benches(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn pktgen(arguments: &[&str]) -> Output {
    Command::new(benches("pktgen/pktgen")).args(arguments).output().unwrap()
}

/// All that has to be said.
const WHERE: [&str; 8] = [
    "--interface",
    "eth1",
    "--mac",
    "52:54:00:12:34:56",
    "--vip",
    "192.0.2.100:53",
    "--from",
    "192.0.2.2-192.0.2.33",
];

/// Compares with a file; with BLESS it is written anew.
#[track_caller]
fn is_golden(text: &str, name: &str) {
    let path = benches("tests/golden").join(name);
    if env::var_os("BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&path).unwrap(), "{name}: look, then BLESS=1");
}

#[test]
fn a_dry_run_prints_every_line_for_the_kernel() {
    let more = ["--threads", "2", "--sizes", "60,1400", "--rate", "1000000", "--seconds", "5"];
    let ran = pktgen(&[&["--dry-run"], &WHERE[..], &more].concat());
    assert!(ran.status.success(), "{ran:?}");
    assert!(ran.stderr.is_empty(), "{ran:?}");
    is_golden(&String::from_utf8(ran.stdout).unwrap(), "pktgen-dry-run.txt");
}

#[test]
fn results_of_all_threads_are_summed_up() {
    let results = benches("tests/golden/pktgen-device.txt");
    let ran = pktgen(&["--results", "60", results.to_str().unwrap()]);
    assert_eq!(
        String::from_utf8(ran.stdout).unwrap(),
        "60 bytes: 3000000 packets/s sent by 2 threads (2.02 Gbit/s on the wire), \
         30000000 packets, 7 errors\n"
    );
    let ran = pktgen(&["--results", "60", "/dev/null"]);
    assert!(!ran.status.success());
    assert_eq!(String::from_utf8(ran.stderr).unwrap(), "pktgen: nothing was sent\n");
}

#[test]
fn nonsense_is_refused_with_advice() {
    for (arguments, advice) in [
        (&["--rounds", "3"][..], "there is no --rounds: see --help"),
        (&["--mac"], "--mac wants a value: see --help"),
        (&["--vip", "192.0.2.100"], "--vip wants ADDRESS:PORT, such as 192.0.2.100:53"),
        (&["--mac", "52:54"], "--mac wants the MAC address of the node, such as 52:54:00:12:34:56"),
        (&["--sizes", "60,59"], "--sizes wants lengths from 60 to 9014, and there is 59"),
        (&["--from", "a-b"], "--from wants one source address, or two with - between"),
        (&["--rate", "-1"], "--rate wants packets a second"),
    ] {
        let ran = pktgen(&[&["--dry-run"], &WHERE[..], arguments].concat());
        assert_eq!(ran.status.code(), Some(1), "{ran:?}");
        assert_eq!(String::from_utf8(ran.stderr).unwrap(), format!("pktgen: {advice}\n"));
    }
    let ran = pktgen(&["--dry-run"]);
    assert!(String::from_utf8(ran.stderr).unwrap().contains("--interface is missing"));
}

#[test]
fn without_the_generator_it_says_so_in_a_sentence() {
    if Path::new("/proc/net/pktgen").exists() {
        return;
    }
    let here = ["--interface", "lo"];
    let ran = pktgen(&[&WHERE[..], &here].concat());
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    let said = String::from_utf8(ran.stderr).unwrap();
    let expected = [
        "pktgen: this kernel has no pktgen: it takes one with CONFIG_NET_PKTGEN\n",
        "pktgen: this needs root: try sudo\n",
    ];
    assert!(expected.contains(&said.as_str()), "{said}");
}
