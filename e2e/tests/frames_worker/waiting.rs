//! Packets whose next hop is not known yet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_afxdp::Slot;
use blixt_agent::worker::{Event, HoldLimits};
use blixt_dataplane::{DropReason, WorkerId};
use blixt_testkit::frame;
use blixt_testkit::netns::eventually;
use blixt_testkit::require_root;

use super::given::{CLIENT_MAC, LIMIT, OUR_MACS, endpoint, late_client, neighbour, vip};
use super::world::{World, in_namespace};

#[test]
fn a_packet_waits_for_its_neighbour_and_leaves_when_it_is_known() {
    require_root!();
    in_namespace("hold", |namespace| {
        let mut world = World::new(namespace);
        world.attach_both();
        world.publish(2, false);
        world.client_sends(0..5);
        let status = Arc::clone(world.worker.status());
        eventually("five packets to wait", LIMIT, || status.holding.value() == 5);
        let asked = world.heard().into_iter().filter_map(|event| match event {
            Event::Unresolved(neighbour) => Some(neighbour),
            _ => None,
        });
        let asked: Vec<_> = asked.collect();
        assert_eq!(asked.first(), Some(&neighbour(1, endpoint().ip())));
        assert!(asked.len() <= 3, "{asked:?}");

        world.publish(3, true);
        let mut arrived = world.wait_at_endpoint(5);
        arrived.sort_unstable();
        assert_eq!(arrived.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        eventually("none to wait", LIMIT, || status.holding.value() == 0);
        assert_eq!(world.dropped(DropReason::Unresolved), 0);
        world.stop();
    });
}

#[test]
fn what_waits_too_long_or_is_too_much_is_dropped_by_name() {
    require_root!();
    in_namespace("late", |namespace| {
        let patience = Duration::from_millis(300);
        let limits = HoldLimits { packets: 8, per_neighbour: 4, patience };
        let mut world = World::with(namespace, WorkerId(0), limits);
        world.attach_both();
        world.publish(2, false);
        world.client_sends(0..6);
        eventually("two too many", LIMIT, || world.dropped(DropReason::HoldFull) == 2);
        eventually("four too late", LIMIT, || world.dropped(DropReason::Unresolved) == 4);
        let status = Arc::clone(world.worker.status());
        eventually("all frames but those of the rings to be home", LIMIT, || {
            status.holding.value() == 0
        });
        // Still waiting when the worker stops.
        world.client_sends(6..8);
        eventually("two to wait", LIMIT, || status.holding.value() == 2);
        world.stop();
    });
}

#[test]
fn a_neighbour_that_does_not_answer_leaves_room_for_others() {
    require_root!();
    in_namespace("share", |namespace| {
        let patience = Duration::from_secs(5);
        let limits = HoldLimits { packets: 16, per_neighbour: 4, patience };
        let mut world = World::with(namespace, WorkerId(0), limits);
        world.attach_both();
        let query = frame::udp(late_client(), vip()).payload(&[0, 7]);
        let query = query.from(CLIENT_MAC).to(OUR_MACS[0]).bytes();
        world.far.transmit_copy(Slot(0), 0, &query).unwrap();
        world.far.flush();
        let (_, snat) = world.wait_at_endpoint(1)[0];
        world.publish(2, false);
        world.client_sends(0..100);
        eventually("its share to be taken", LIMIT, || world.dropped(DropReason::HoldFull) == 96);
        // Answers to a client that is not known either wait besides.
        world.endpoint_sends(snat, 0..3);
        let status = Arc::clone(world.worker.status());
        eventually("all to wait", LIMIT, || status.holding.value() == 7);
        assert_eq!(world.dropped(DropReason::HoldFull), 96);
        world.publish(3, true);
        let mut answers = Vec::new();
        let until = Instant::now() + LIMIT;
        while answers.len() < 3 {
            assert!(Instant::now() < until, "{answers:?}: {:?}", world.counters());
            answers.extend(world.arrived(0, late_client().ip()));
        }
        assert_eq!(answers.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2]);
        eventually("none to wait", LIMIT, || status.holding.value() == 0);
        assert_eq!(world.dropped(DropReason::Unresolved), 0);
        world.stop();
    });
}
