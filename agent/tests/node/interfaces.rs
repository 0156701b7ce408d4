//! Interfaces that go and come, and addresses that do.

use blixt_testkit::netns::{eventually, eventually_some};
use blixt_testkit::require_root;
use nix::sys::signal::Signal;

use crate::node::{Node, SOON};

#[test]
fn an_interface_that_vanishes_and_returns_is_attached_again() {
    require_root!();
    let node = Node::new();
    let agent = node.start();
    for round in 0..3 {
        node.node.ip("link delete back");
        eventually("the agent to miss it", SOON, || {
            node.get("/readyz").is_err_and(|why| why.contains("interface back is not there"))
        });
        assert_eq!(node.metric("blixt_interface_attached{interface=\"front\"}"), 1);
        assert!(node.has_xdp("front"), "the other one is not disturbed");

        node.connect("back", "10.2.0", "2001:db8:2:");
        eventually_some("the agent to find it", SOON, || {
            node.get("/readyz").map_err(|why| format!("round {round}: {why}{}", agent.log()))
        });
        assert!(node.has_xdp("back") && !node.has_tx_checksums("back"));
    }
    let (status, log) = agent.end(Signal::SIGTERM);
    assert!(status.success() && log.contains("all frames are home"), "{log}");
    assert!(node.has_tx_checksums("back"));
}

#[test]
fn the_first_interface_may_go_too() {
    require_root!();
    let node = Node::new();
    let agent = node.start();
    node.node.ip("link delete front");
    eventually("the agent to miss it", SOON, || node.get("/readyz").is_err());
    node.connect("front", "10.1.0", "2001:db8:1:");
    eventually_some("the agent to find it", SOON, || {
        node.get("/readyz").map_err(|why| format!("{why}{}", agent.log()))
    });
    let (status, log) = agent.end(Signal::SIGTERM);
    assert!(status.success() && log.contains("all frames are home"), "{log}");
}

#[test]
fn an_interface_that_gets_another_name_is_left_as_it_was() {
    require_root!();
    let node = Node::new();
    let agent = node.start();
    assert!(!node.has_tx_checksums("back"));
    node.node.ip("link set back down");
    node.node.ip("link set back name elsewhere");
    eventually("the agent to let go of it", SOON, || {
        node.has_tx_checksums("elsewhere") && !node.has_xdp("elsewhere")
    });
    node.node.ip("link set elsewhere name back");
    node.node.ip("link set back up");
    eventually_some("the agent to find it", SOON, || {
        node.get("/readyz").map_err(|why| format!("{why}{}", agent.log()))
    });
    agent.end(Signal::SIGTERM);
    assert!(node.has_tx_checksums("back"));
}

#[test]
fn an_address_of_the_node_is_no_vip() {
    require_root!();
    let node = Node::new();
    let agent = node.start();
    let flows = "blixt_backend_flows{gateway=\"default/web\",listener=\"tcp\",\
                 backend_ref=\"0\",backend=\"default/web:80\"}";
    assert_eq!(node.metric(flows), 0);
    for address in ["10.1.0.100/24", "2001:db8:1::100/64"] {
        node.node.ip(&format!("address add {address} dev front"));
    }
    eventually("the Gateway to go", SOON, || {
        !node.get("/metrics").unwrap().contains("gateway=\"default/web\"")
    });
    for address in ["10.1.0.100/24", "2001:db8:1::100/64"] {
        node.node.ip(&format!("address delete {address} dev front"));
    }
    eventually("the Gateway to return", SOON, || {
        node.get("/metrics").unwrap().contains("gateway=\"default/web\"")
    });
    drop(agent);
}

#[test]
fn groups_of_ipv6_addresses_are_joined() {
    require_root!();
    let node = Node::new();
    let agent = node.start();
    let joined = |group: &str| node.node.ip("maddress show dev front").contains(group);
    // RFC 4291 §2.7.1: the low 24 bits of 2001:db8:1::100.
    assert!(joined("ff02::1:ff00:100"));
    // With too small an MTU the kernel gives up IPv6 there, and all groups.
    node.node.ip("link set front mtu 1200");
    eventually("the group to go", SOON, || !joined("ff02::1:ff00:100"));
    eventually("the agent to see it", SOON, || agent.log().contains("no IPv6 on front"));
    node.node.ip("link set front mtu 1500");
    eventually("the group to be joined again", SOON, || joined("ff02::1:ff00:100"));
    agent.end(Signal::SIGTERM);
    assert!(!joined("ff02::1:ff00:100"));
}

#[test]
fn interfaces_are_found_by_the_default_route_or_by_their_names() {
    require_root!();
    let node = Node::new();
    let unnamed = || node.flags().into_iter().filter(|flag| !flag.starts_with("--interface"));
    node.node.ip("route add default via 10.2.0.2");
    for (more, attached) in [
        (None, [false, true]),
        (Some("--interface-regex=f.*t"), [true, false]),
        (Some("--interface-regex=front|back"), [true, true]),
    ] {
        let flags: Vec<_> = unnamed().chain(more.map(str::to_owned)).collect();
        let mut agent = node.launch(&flags);
        agent.wait_until_ready();
        assert_eq!(["front", "back"].map(|name| node.has_xdp(name)), attached, "{more:?}");
        assert!(agent.end(Signal::SIGTERM).0.success());
    }

    node.node.ip("route delete default");
    for (more, part) in [
        (None, "the node has no default route"),
        (Some("--interface-regex=eth.*"), "no interface matches --interface-regex eth.*"),
    ] {
        let flags: Vec<_> = unnamed().chain(more.map(str::to_owned)).collect();
        let (status, log) = node.launch(&flags).ended();
        assert!(!status.success() && log.contains(part), "{log}");
    }
}
