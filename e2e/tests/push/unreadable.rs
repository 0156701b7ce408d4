//! What an agent can't read: of a newer version, cut off, or too large.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use blixt_api::parts::Parts;
use blixt_api::sync::MAX_MESSAGE_BYTES;
use blixt_api::sync::v1alpha1 as wire;
use blixt_api::sync::v1alpha1::follow_response::Message as Told;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::replica::{Agent, Files, ca, eventually, snapshot};
use crate::scripted::Scripted;

/// A snapshot with a part of a kind that is not known.
fn with_part(number: u16, body: Vec<u8>) -> wire::Snapshot {
    let mut parts = Parts::of(&snapshot(number, 1)).to_wire();
    // Keys are in order.
    parts.parts.insert(0, wire::Part { key: "Future x".to_owned(), body: body.into() });
    Parts::from_wire(parts).unwrap().to_snapshot()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_controller_is_understood_as_far_as_it_goes() {
    let ca = ca();
    let replica = Scripted::start(&ca, &snapshot(80, 1)).await;
    let agent = Agent::start_at(Files::new(&ca, "token of node-1"), &[replica.at]);
    agent.gets(&snapshot(80, 1)).await;
    agent.applies();
    // A message, a part, and in each part that is known a field, of a version that
    // is not: field 100, two bytes.
    let mut parts = Parts::from_snapshot(with_part(81, vec![0xff; 9])).unwrap().to_wire();
    for part in &mut parts.parts {
        part.body = [&part.body[..], &[0xa2, 0x06, 2, 1, 2]].concat().into();
    }
    let newer = Parts::from_wire(parts).unwrap();
    replica.script(|script| {
        script.tell(None);
        script.publish(newer.to_snapshot());
        script.tell(None);
    });
    agent.gets(&snapshot(81, 1)).await;
    assert_eq!(agent.wish().unwrap().parts.digest(), newer.digest(), "nothing of it is lost");
    agent.applies();

    // Changes to it, and a start from the disk with it.
    let newest = Parts::from_snapshot(with_part(82, vec![1])).unwrap();
    let delta = newest.since(&newer);
    replica.script(|script| script.tables = newest.to_snapshot());
    replica.script(|script| script.tell(Some(Told::Delta(delta))));
    agent.gets(&snapshot(82, 1)).await;
    agent.applies();
    let file = agent.files.path("state/snapshot");
    let kept = newest.digest();
    eventually("it to be kept", || {
        std::fs::read(&file).is_ok_and(|bytes| bytes.windows(8).any(|it| it == b"Future x"))
    })
    .await;
    sleep(Duration::from_millis(1_500)).await;
    let Agent { sync, files } = agent;
    drop(sync);
    let again = Agent::start_at(files, &[]);
    assert_eq!(again.wish().map(|wish| wish.parts.digest()), Some(kept));
    assert_eq!(replica.script(|script| script.followed()), 1, "one stream did for all of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_is_asked_for_again_and_not_all_the_time() {
    let ca = ca();
    let replica = Scripted::start(&ca, &snapshot(80, 1)).await;
    let agent = Agent::start_at(Files::new(&ca, "token of node-1"), &[replica.at]);
    agent.gets(&snapshot(80, 1)).await;
    let mut cut = Parts::of(&snapshot(81, 1)).to_snapshot();
    cut.parts.pop();
    let before = replica.script(|script| script.wants());
    replica.script(|script| script.publish(cut));
    eventually("it to ask again", || replica.script(|script| script.wants() >= before + 2)).await;
    sleep(Duration::from_secs(2)).await;
    let wants = replica.script(|script| script.wants()) - before;
    // After 0.1, 0.2, 0.4, 0.8 s and so on, or half of that.
    assert!(wants <= 7, "{wants} times");
    assert!(agent.has(&snapshot(80, 1)), "the last tables stay");
    replica.script(|script| script.publish(Parts::of(&snapshot(82, 1)).to_snapshot()));
    agent.gets(&snapshot(82, 1)).await;
    assert_eq!(replica.script(|script| script.followed()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_too_large_cost_neither_the_last_ones_nor_the_stream() {
    let ca = ca();
    let replica = Scripted::start(&ca, &snapshot(80, 1)).await;
    let agent = Agent::start_at(Files::new(&ca, "token of node-1"), &[replica.at]);
    agent.gets(&snapshot(80, 1)).await;
    let large = with_part(81, vec![0; MAX_MESSAGE_BYTES]);
    replica.script(|script| script.publish(large));
    let why = "larger than the 64 MiB that one message may have";
    let told = || agent.sync.reach.borrow().unreadable.clone().unwrap_or_default();
    eventually("it to be told", || told().contains(why)).await;
    sleep(Duration::from_secs(3)).await;
    eventually("it to be back", || agent.sync.reach.borrow().connected == 1).await;
    assert!(agent.has(&snapshot(80, 1)), "the last tables stay");
    let wants = replica.script(|script| script.wants());
    assert!(wants <= 8, "{wants} times");
    replica.script(|script| script.publish(Parts::of(&snapshot(82, 1)).to_snapshot()));
    agent.gets(&snapshot(82, 1)).await;
    assert_eq!(told(), "");
}

/// Leads to a replica, and hangs up in the middle of what that says, as often as
/// it is told.
async fn cutter(to: std::net::SocketAddr, cuts: Arc<AtomicUsize>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut agent, _)) = listener.accept().await {
            let mut replica = TcpStream::connect(to).await.unwrap();
            let cuts = cuts.clone();
            tokio::spawn(async move {
                let (mut said, mut says) = agent.split();
                let (mut told, mut tells) = replica.split();
                let there = tokio::io::copy(&mut said, &mut tells);
                let back = async {
                    let mut passed = 0;
                    let mut bytes = vec![0; 64 << 10];
                    while let Ok(length @ 1..) = told.read(&mut bytes).await {
                        passed += length;
                        let over = passed > 1 << 20;
                        let cut = |left: usize| left.checked_sub(1);
                        if over
                            && cuts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, cut).is_ok()
                        {
                            return;
                        }
                        says.write_all(&bytes[..length]).await.unwrap_or_default();
                    }
                };
                tokio::select! {
                    _ = there => {}
                    () = back => {}
                }
            });
        }
    });
    at
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_cut_off_in_the_middle_comes_again() {
    let ca = ca();
    let replica = Scripted::start(&ca, &snapshot(80, 1)).await;
    let cuts = Arc::new(AtomicUsize::new(2));
    let at = cutter(replica.at, cuts.clone()).await;
    let agent = Agent::start_at(Files::new(&ca, "token of node-1"), &[at]);
    agent.gets(&snapshot(80, 1)).await;
    let large = with_part(81, vec![7; 8 << 20]);
    let snapshots = agent.sync.reach.borrow().snapshots;
    replica.script(|script| script.publish(large));
    eventually("it to be cut off twice", || cuts.load(Ordering::Relaxed) == 0).await;
    assert!(agent.has(&snapshot(80, 1)), "the last tables stay");
    agent.gets(&snapshot(81, 1)).await;
    assert_eq!(agent.sync.reach.borrow().snapshots, snapshots + 1, "only the whole one counts");
}
