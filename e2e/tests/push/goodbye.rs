//! Agents that end in order: nobody waits for their silence.

use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use crate::replica::{Agent, Files, Replica, ca, eventually, snapshot};
use crate::wires::Puppet;

/// An agent serves for a moment after its goodbye, so that others can take over
/// meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn vips_leave_a_node_at_its_goodbye_and_not_when_its_stream_ends() {
    let (_replica, [one, two], all) = Puppet::two().await;
    one.says_goodbye();
    let took = eventually("the other one to own all", || two.owned() == all).await;
    println!("a node that said goodbye lost its VIPs within {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_goodbye_waits_for_no_replica_that_does_not_answer() {
    let ca = ca();
    let replica = Replica::start(&ca).await;
    let wanted = snapshot(80, 1);
    replica.push.publish(&wanted);
    // The kernel takes connections, and nobody speaks.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = [replica.at, silent.local_addr().unwrap()];
    let mut agent = Agent::start_at(Files::new(&ca, "token of node-1"), &at);
    agent.gets(&wanted).await;
    agent.applies();
    let begin = Instant::now();
    agent.sync.end().await;
    let took = begin.elapsed();
    // Claimed: 50 ms. It does not wait longer than 300 ms for anybody.
    assert!(took < Duration::from_millis(250), "{took:?}");
}
