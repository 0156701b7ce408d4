//! Packets for another worker, which takes none or too few of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_agent::worker::{HoldLimits, event_channel, spawn};
use blixt_dataplane::{DropReason, WorkerId};
use blixt_testkit::netns::eventually;
use blixt_testkit::require_root;

use super::given::{LIMIT, config};
use super::world::{World, in_namespace};

#[test]
fn an_owner_that_takes_nothing_costs_only_its_own_packets() {
    require_root!();
    in_namespace("notaken", |namespace| {
        // Worker 0 has not begun: nothing finds room in its mailbox.
        let mut world = World::with(namespace, WorkerId(1), HoldLimits::default());
        world.attach_both();
        world.client_sends(0..1);
        let before = world.wait_at_endpoint(1);
        let (_, mine) = before[0];
        // The ports are dealt out in turn: this one is worker 0's.
        let other = SocketAddr::new(mine.ip(), mine.port() ^ 1);
        world.endpoint_sends(other, 0..20);
        eventually("them to be dropped", LIMIT, || world.dropped(DropReason::HandOffFull) == 20);
        world.client_sends(0..1);
        assert_eq!(world.wait_at_endpoint(1), before, "its own flow goes on");

        let (sender, _events) = event_channel();
        let zero = config(WorkerId(0), HoldLimits::default());
        let zero = spawn(zero, Arc::clone(&world.published), sender).unwrap();
        let handed_off = &Arc::clone(world.worker.status()).pipeline.handed_off;
        let until = Instant::now() + LIMIT;
        while handed_off.value() == 0 {
            assert!(Instant::now() < until, "{:?}", world.counters());
            world.endpoint_sends(other, 0..1);
            std::thread::sleep(Duration::from_millis(5));
        }
        zero.stop();
        world.stop();
    });
}
