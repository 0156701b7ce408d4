//! Agents that are not heard of again and again: what they own does not go to and fro.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use blixt_api::sync::v1alpha1 as wire;
use blixt_api::sync::v1alpha1::follow_response::Message as Told;
use blixt_gateway::Programming;
use tokio::time::sleep;

use crate::replica::{Agent, Files, ca, eventually, snapshot};
use crate::scripted::Scripted;
use crate::wires::Puppet;

#[tokio::test(flavor = "multi_thread")]
async fn vips_leave_a_node_that_falls_silent_again_and_again_and_stay_away() {
    let (replica, [one, two], all) = Puppet::two().await;
    let before = (one.owned(), two.owned());
    let moves = Arc::new(AtomicUsize::new(0));
    let (mut owns, counted) = (two.owns.clone(), moves.clone());
    owns.mark_unchanged();
    let counting = tokio::spawn(async move {
        while owns.changed().await.is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    for _ in 0..6 {
        one.is_silent();
        sleep(Duration::from_millis(1_600)).await;
        one.has_trouble("");
        sleep(Duration::from_millis(1_600)).await;
    }
    // Away and back, and away: without a memory it were twelve.
    assert_eq!((moves.load(Ordering::Relaxed), two.owned()), (3, all));
    counting.abort();
    let [state, _] = &replica.push.agents()[..] else { panic!() };
    let why = "it was silent or in trouble again and again of late";
    assert_eq!((state.lives, state.trouble.as_deref()), (true, Some(why)));
    assert_eq!(replica.programming(), Some(Programming::Applied));

    // There is nobody else.
    two.has_trouble("eth0 is down");
    eventually("it to own all", || (one.owned(), two.owned()) == (all, 0)).await;
    two.has_trouble("");
    eventually("the better one to own all", || (one.owned(), two.owned()) == (0, all)).await;
    assert_ne!(before.0, 0, "it owned some at the beginning");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_knows_of_an_agent_the_agent_tells_all() {
    let ca = ca();
    let tables = snapshot(80, 1);
    let replicas = [Scripted::start(&ca, &tables).await, Scripted::start(&ca, &tables).await];
    let at = replicas.each_ref().map(|it| it.at);
    let agent = Agent::start_at(Files::new(&ca, "token of node-1"), &at);
    agent.gets(&tables).await;
    let say = || replicas.each_ref().map(|it| it.script(|script| script.is_unsteady()));
    let beats = |it: &Scripted| it.script(|script| script.trouble().as_deref() == Some(""));
    eventually("both to hear that it serves", || replicas.iter().all(beats)).await;
    assert_eq!(say(), [false, false]);

    let digest = replicas[0].script(|script| script.tables.digest.clone());
    let beat = wire::ControllerBeat { digest, settled: true, unsteady_ms: 2_000 };
    replicas[0].script(|script| script.tell(Some(Told::Beat(beat))));
    let took = eventually("both to hear it", || say() == [true, true]).await;
    println!("the other replica heard it after {took:?}");
    // Claimed: at once. A busy machine may take longer.
    assert!(took < Duration::from_secs(1), "{took:?}");
    let took = eventually("it to be over", || say() == [false, false]).await;
    assert!(took > Duration::from_secs(1), "{took:?}");
}
