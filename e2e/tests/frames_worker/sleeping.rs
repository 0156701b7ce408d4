//! A worker without packets sleeps, and wakes for what is new.

use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_agent::worker::HoldLimits;
use blixt_dataplane::WorkerId;
use blixt_testkit::require_root;

use super::threads::cpu_time_of;
use super::world::{World, in_namespace};

#[test]
fn a_sleeping_worker_takes_up_what_is_published_at_once() {
    require_root!();
    in_namespace("wake", |namespace| {
        let mut world = World::new(namespace);
        world.attach_both();
        let status = Arc::clone(world.worker.status());
        for generation in 2..12 {
            std::thread::sleep(Duration::from_millis(15));
            let start = Instant::now();
            world.publish(generation, true);
            while status.tables_generation.value() != generation {
                assert!(start.elapsed() < Duration::from_millis(60), "generation {generation}");
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        world.stop();
    });
}

#[test]
fn a_worker_with_nothing_to_do_sleeps() {
    require_root!();
    in_namespace("idle", |namespace| {
        // Other tests have their workers in the same process: one of its own name.
        let mut world = World::with(namespace, WorkerId(9), HoldLimits::default());
        world.attach_both();
        std::thread::sleep(Duration::from_millis(500));
        let before = cpu_time_of("blixt-worker-9");
        let start = Instant::now();
        std::thread::sleep(Duration::from_secs(2));
        let used = cpu_time_of("blixt-worker-9") - before;
        let share = used.as_secs_f64() / start.elapsed().as_secs_f64();
        // The bound is for a release build; this one is several times slower.
        let most = if cfg!(debug_assertions) { 0.05 } else { 0.01 };
        assert!(share <= most, "{:.2} % of a core", share * 100.0);
        assert!(world.worker.status().sleeps.value() > 0);
        world.stop();
    });
}
