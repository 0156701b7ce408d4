//! Agents that can't serve, and say so.

use std::time::Duration;

use blixt_gateway::Programming;

use crate::replica::eventually;
use crate::wires::Puppet;

#[tokio::test(flavor = "multi_thread")]
async fn vips_leave_a_node_in_trouble_at_once_and_come_back_when_it_is_over_for_good() {
    let (replica, [one, two], all) = Puppet::two().await;
    let before = (one.owned(), two.owned());

    one.has_trouble("eth0 is down");
    let took =
        eventually("the other one to own all", || (one.owned(), two.owned()) == (0, all)).await;
    println!("a node in trouble lost its VIPs within {took:?}");
    assert_eq!(replica.programming(), Some(Programming::Applied));
    // Well and not, and well and not: nothing moves.
    let mut owns = two.owns.clone();
    owns.mark_unchanged();
    for _ in 0..4 {
        one.has_trouble("");
        tokio::time::sleep(Duration::from_millis(600)).await;
        one.has_trouble("eth0 is down");
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    assert!(!owns.has_changed().unwrap(), "VIPs went to and fro");
    one.has_trouble("");
    eventually("what it had", || (one.owned(), two.owned()) == before).await;

    // The last one.
    one.has_trouble("eth0 is down");
    two.has_trouble("no worker answers");
    let nobody = || match replica.programming() {
        Some(Programming::NoNode { why }) => why.contains("node-1: eth0 is down"),
        _ => false,
    };
    eventually("the Gateway to say so", nobody).await;
    eventually("both to own nothing", || (one.owned(), two.owned()) == (0, 0)).await;
    two.has_trouble("");
    eventually("it to serve again", || two.owned() == all).await;
    let applied = || replica.programming() == Some(Programming::Applied);
    eventually("the Gateway to be programmed", applied).await;
}
