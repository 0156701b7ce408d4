//! Queues that are busy, and interfaces that vanish and return.

use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_afxdp::{BindError, Exchange, Slot};
use blixt_agent::worker::{AttachAnswer, Event, FrameAccount, HoldLimits, WorkerConfig};
use blixt_dataplane::WorkerId;
use blixt_testkit::netns::eventually;
use blixt_testkit::require_root;
use tokio::sync::oneshot;

use super::given::{CLIENTS, ENDPOINTS, LIMIT, SIZES, config};
use super::threads::waits_of;
use super::world::{World, in_namespace};

#[test]
fn a_busy_queue_is_waited_for_while_the_rest_goes_on() {
    require_root!();
    in_namespace("busy", |namespace| {
        let mut world = World::new(namespace);
        world.attach(CLIENTS);
        let mut other = Exchange::new(SIZES).unwrap();
        drop(other.bind(Slot(1), "n1", &[0], true).unwrap());
        let answer = world.ask_attach(ENDPOINTS);
        std::thread::sleep(Duration::from_millis(200));
        let answer = match answer.try_into_pending() {
            Ok(pending) => pending,
            Err(answer) => panic!("answered too early: {answer:?}"),
        };
        // Meanwhile what comes in on the other interface is looked at.
        let before = world.worker.status().pipeline.by_name();
        world.client_sends(0..1);
        eventually("a packet to be dropped for want of a way out", LIMIT, || {
            world.worker.status().pipeline.by_name() != before
        });
        other.close();
        assert_eq!(answer.blocking_recv().unwrap().unwrap().len(), 1);

        // One that stays busy is given up, by name.
        assert_eq!(world.detach(ENDPOINTS), 1);
        drop(other.bind_patiently(Slot(1), "n1", &[0], true).unwrap());
        let start = Instant::now();
        let error = world.ask_attach(ENDPOINTS).blocking_recv().unwrap().unwrap_err();
        assert!(matches!(&error, BindError::Busy { queue: 0, .. }), "{error}");
        assert!(start.elapsed() >= Duration::from_millis(1_900));
        drop(other);
        world.stop();
    });
}

trait Pending: Sized {
    /// Itself, if there is no answer yet.
    fn try_into_pending(self) -> Result<Self, AttachAnswer>;
}

impl Pending for oneshot::Receiver<AttachAnswer> {
    fn try_into_pending(mut self) -> Result<Self, AttachAnswer> {
        self.try_recv().map_or_else(|_| Ok(self), Err)
    }
}

#[test]
fn an_interface_that_vanishes_is_told_of_and_attached_again_when_it_returns() {
    require_root!();
    in_namespace("gone", |namespace| {
        let mut world = World::new(namespace);
        world.attach_both();
        world.client_sends(0..10);
        world.wait_at_endpoint(10);

        world.ip("link del n0");
        let mut told = Vec::new();
        eventually("the worker to notice", LIMIT, || {
            told.extend(world.heard());
            told.iter().any(|event| matches!(event, Event::QueueDead { slot: CLIENTS, .. }))
        });
        assert_eq!(world.detach(CLIENTS), 1);
        world.far.unbind(Slot(0));

        world.add_link(0);
        world.attach_far(0);
        // The memory was registered with the socket that is gone, so the
        // other interface gets a new one too.
        assert_eq!(world.attach(CLIENTS), 1);
        let moved = world.wait_for_a_move();
        assert_eq!(moved.slot, ENDPOINTS);
        world.take(moved);
        world.publish(2, true);
        world.client_sends(0..100);
        world.wait_at_endpoint(100);
        let status = Arc::clone(world.worker.status());
        // The memory of before is no more.
        eventually("frames to be counted anew", LIMIT, || status.frames_now().born == 2_048);
        world.stop();
        assert_eq!(status.interface(ENDPOINTS).unwrap().copied.value(), 0);
        assert_eq!(status.frames(), FrameAccount { born: 4_096, home: 4_096 });
        assert_eq!(status.frames_now(), FrameAccount { born: 0, home: 0 });
    });
}

#[test]
fn letting_go_of_an_interface_makes_the_others_wait_for_nothing() {
    const TIMES: u64 = 5;
    require_root!();
    in_namespace("letgo", |namespace| {
        // One that never sleeps, so that whatever it waits for is that.
        let busy = WorkerConfig { spin: true, ..config(WorkerId(8), HoldLimits::default()) };
        let mut world = World::of(namespace, busy, 1);
        world.attach_both();
        let mut waits = 0;
        for _ in 0..TIMES {
            world.client_sends(0..100);
            world.wait_at_endpoint(100);
            let before = waits_of("blixt-worker-8");
            let begin = Instant::now();
            // Not the first: its socket stays as long as there are others.
            assert_eq!(world.detach(ENDPOINTS), 1);
            waits += waits_of("blixt-worker-8") - before;
            println!("its queue was free after {:?}", begin.elapsed());
            world.attach(ENDPOINTS);
        }
        let status = Arc::clone(world.worker.status());
        world.stop();
        let longest = Duration::from_nanos(status.longest_turn_ns.value());
        println!("{waits} waits, and {longest:?} for the longest turn, with binding");
        // To close a socket is to wait.
        assert!(waits < TIMES / 2, "{waits}");
    });
}
