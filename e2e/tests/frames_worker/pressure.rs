//! Rings and frames that are all in use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_agent::worker::{Command, HoldLimits};
use blixt_dataplane::{DropReason, WorkerId};
use blixt_testkit::netns::eventually;
use blixt_testkit::require_root;

use super::given::{CLIENTS, ENDPOINTS, LIMIT, endpoint};
use super::world::{World, in_namespace};

#[test]
fn a_link_that_takes_nothing_drops_by_name_and_recovers_by_itself() {
    require_root!();
    in_namespace("txfull", |namespace| {
        let mut world = World::new(namespace);
        world.attach_both();
        world.client_sends(0..1);
        let before = world.wait_at_endpoint(1);
        world.ip("link set n1 down");
        // The ring holds 512 of them.
        let until = Instant::now() + LIMIT;
        while world.dropped(DropReason::TxRingFull) == 0 {
            assert!(Instant::now() < until, "{:?}", world.counters());
            world.client_sends(0..200);
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = Arc::clone(world.worker.status());
        let full = || status.interface(ENDPOINTS).unwrap().tx_ring_full.value();
        eventually("the metric to say so", LIMIT, || full() > 0);
        world.ip("link set n1 up");
        // What waited in the ring leaves first; what comes now passes as before.
        let until = Instant::now() + LIMIT;
        let (mut waited, mut dropped) = (0, 0);
        loop {
            assert!(Instant::now() < until, "{:?}", world.counters());
            dropped = world.dropped(DropReason::TxRingFull).max(dropped);
            world.client_sends(0..1);
            std::thread::sleep(Duration::from_millis(5));
            let arrived = world.arrived(1, endpoint().ip());
            waited += arrived.len();
            // The flow is what it was.
            if arrived == before {
                break;
            }
        }
        assert!(waited >= 512, "{waited}");
        assert_eq!(world.dropped(DropReason::TxRingFull), dropped);
        world.stop();
    });
}

#[test]
fn without_a_free_frame_packets_are_lost_by_name_until_there_are_some() {
    require_root!();
    in_namespace("noframe", |namespace| {
        // As many as there are frames may wait: more than an agent allows.
        let hold = HoldLimits {
            packets: 4_096,
            per_neighbour: 4_096,
            patience: Duration::from_millis(1_500),
        };
        let mut world = World::with(namespace, WorkerId(0), hold);
        world.attach_both();
        world.client_sends(0..1);
        let before = world.wait_at_endpoint(1);
        world.publish(2, false);
        let status = Arc::clone(world.worker.status());
        let missed = || {
            let clients = status.interface(CLIENTS).unwrap();
            clients.fill_ring_empty.value() + clients.rx_dropped.value()
        };
        let until = Instant::now() + LIMIT;
        while missed() == 0 || world.dropped(DropReason::NoFrame) == 0 {
            assert!(Instant::now() < until, "{} held", status.holding.value());
            world.client_sends(0..200);
            // Packets of the worker's own find no frame either.
            world.worker.send(Command::Announce);
            std::thread::sleep(Duration::from_millis(1));
        }

        // Those that wait give up, and their frames are there again.
        eventually("them to give up", LIMIT, || status.holding.value() == 0);
        assert!(world.dropped(DropReason::Unresolved) > 0);
        world.publish(3, true);
        eventually("free frames", LIMIT, || status.frames_home.value() > 500);
        world.arrived(1, endpoint().ip());
        let lost = world.dropped(DropReason::NoFrame);
        world.client_sends(0..1);
        assert_eq!(world.wait_at_endpoint(1), before, "the flow is what it was");
        assert_eq!(world.dropped(DropReason::NoFrame), lost);
        world.stop();
    });
}
