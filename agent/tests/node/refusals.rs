//! What keeps an agent from starting: one sentence each, and the node is as
//! it was.

use blixt_testkit::require_root;

use crate::node::Node;

/// Starts it with flags that must be refused, and gives what it says.
fn refused(node: &Node, flags: &[String]) -> String {
    let (status, log) = node.launch(flags).ended();
    assert!(!status.success(), "{log}");
    assert!(!node.has_xdp("front") || !node.has_xdp("back"), "{log}");
    let errors: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "one sentence:\n{log}");
    errors[0].to_owned()
}

fn with(node: &Node, more: &[&str]) -> Vec<String> {
    node.flags().into_iter().chain(more.iter().map(|&flag| flag.to_owned())).collect()
}

#[test]
fn flags_that_do_not_fit_the_node_are_refused() {
    require_root!();
    let node = Node::new();
    for (more, part) in [
        (["--interface=absent"], "absent does not exist in this network namespace"),
        (["--snat-address=10.1.0.1"], "--snat-address 10.1.0.1 is the node's own address on front"),
        (["--manifests=/nowhere"], "--manifests"),
        (["--state-dir=/proc/x"], "--state-dir /proc/x can't be used"),
        (["--socket=/proc/x/agent.sock"], "--socket /proc/x/agent.sock can't be made"),
        (["--http=192.0.2.1:1"], "--http 192.0.2.1:1 is not on localhost"),
    ] {
        let mut flags = with(&node, &more);
        // A flag that may be given once only takes the place of the first.
        let name = more[0].split('=').next().unwrap();
        if !matches!(name, "--interface" | "--snat-address") {
            let first = flags.iter().position(|flag| flag == name);
            if let Some(first) = first {
                flags.drain(first..first + 2);
            }
        }
        let why = refused(&node, &flags);
        assert!(why.contains(part), "{more:?}: {why}");
    }
    for link in ["front", "back"] {
        assert!(!node.has_xdp(link) && node.has_tx_checksums(link), "{link}");
    }
}

#[test]
fn too_few_file_descriptors_are_called_so() {
    require_root!();
    let node = Node::new();
    for most in [12, 30, 65] {
        let log = node.launch_with_descriptors(most).ready_or_ended().unwrap_err();
        let sentence = format!("may have {most} files open, and needs 66, one for each queue");
        assert!(log.contains(&sentence), "{log}");
    }
    assert_eq!(node.launch_with_descriptors(66).ready_or_ended(), Ok(()));
}

#[test]
fn without_a_snat_address_it_says_what_to_give() {
    require_root!();
    let node = Node::new();
    let flags = node.flags();
    let flags: Vec<_> =
        flags.into_iter().filter(|flag| !flag.starts_with("--snat-address")).collect();
    assert!(refused(&node, &flags).contains("--snat-address is missing, and --host-path is off"));
}

#[test]
fn a_second_agent_on_the_node_is_refused() {
    require_root!();
    let node = Node::new();
    let _first = node.start();
    // Its address for HTTP is taken first.
    let (status, log) = node.launch(&node.flags()).ended();
    assert!(!status.success());
    assert!(log.contains("--http 127.0.0.1:9875 can't be used"), "{log}");

    let flags = with(&node, &["--http=127.0.0.1:9999"]);
    let (status, log) = node.launch(&flags).ended();
    assert!(!status.success() && log.contains("in use by another agent"), "{log}");

    let mut flags = flags;
    let place = flags.iter().position(|flag| flag == "--socket").unwrap();
    flags[place + 1] = node.files.path().join("other.sock").display().to_string();
    let (status, log) = node.launch(&flags).ended();
    assert!(!status.success() && log.contains("another blixt-agent serves it"), "{log}");
    assert_eq!(node.get("/readyz").unwrap(), "ok\n", "the first one is not disturbed");
    assert!(node.socket().exists());
}
