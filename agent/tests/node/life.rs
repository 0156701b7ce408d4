//! Start, stop, and being killed in between.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use blixt_testkit::require_root;
use nix::sys::signal::Signal;

use crate::node::Node;

const LINKS: [&str; 2] = ["front", "back"];

#[test]
fn sigterm_leaves_the_node_as_it_was() {
    require_root!();
    let node = Node::new();
    let agent = node.start();
    for link in LINKS {
        assert!(node.has_xdp(link) && !node.has_tx_checksums(link), "{link}");
    }
    assert_eq!(fs::metadata(node.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(node.get("/healthz").unwrap(), "ok\n");

    let (status, log) = agent.end(Signal::SIGTERM);
    assert!(status.success(), "{status}\n{log}");
    assert!(log.contains("all frames are home"), "{log}");
    for link in LINKS {
        assert!(!node.has_xdp(link) && node.has_tx_checksums(link), "{link}");
    }
    assert!(!node.socket().exists());
}

#[test]
fn sigint_stops_it_too() {
    require_root!();
    let node = Node::new();
    let (status, log) = node.start().end(Signal::SIGINT);
    assert!(status.success(), "{status}\n{log}");
}

#[test]
fn the_next_one_takes_over_from_one_that_was_killed() {
    require_root!();
    let node = Node::new();
    let (status, _) = node.start().end(Signal::SIGKILL);
    assert!(!status.success());
    for link in LINKS {
        assert!(!node.has_xdp(link), "{link}: the program goes with the process");
        assert!(!node.has_tx_checksums(link), "{link}: nobody put it on again");
    }
    assert!(node.socket().exists());
    // The kernel's own traffic goes on.
    node.node.command("ping").args(["-c1", "-W2", "10.1.0.2"]).ok();

    let (status, log) = node.start().end(Signal::SIGTERM);
    assert!(status.success(), "{log}");
    for link in LINKS {
        assert!(node.has_tx_checksums(link), "{link}: as it was before the first one");
    }
}

#[test]
fn what_is_logged_is_json_if_that_is_asked_for() {
    require_root!();
    let node = Node::new();
    let mut flags = node.flags();
    flags.extend(["--log-format=json".to_owned(), "--log-level=debug".to_owned()]);
    let mut agent = node.launch(&flags);
    agent.wait_until_ready();
    let (_, log) = agent.end(Signal::SIGTERM);
    assert!(log.lines().count() > 3, "{log}");
    for line in log.lines() {
        let object: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(object["message"].is_string() && object["level"].is_string(), "{line}");
    }
}

#[test]
fn a_signal_while_it_starts_is_obeyed_too() {
    require_root!();
    let node = Node::new();
    for pause_ms in [5, 20, 40, 60, 80, 120] {
        let agent = node.launch(&node.flags());
        std::thread::sleep(std::time::Duration::from_millis(pause_ms));
        let (_, log) = agent.end(Signal::SIGTERM);
        for link in LINKS {
            assert!(!node.has_xdp(link), "{link} after {pause_ms} ms:\n{log}");
            assert!(node.has_tx_checksums(link), "{link} after {pause_ms} ms:\n{log}");
        }
    }
}
