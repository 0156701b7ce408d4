//! Packets for another worker, which takes none or too few of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use blixt_agent::worker::{HoldLimits, WorkerConfig, event_channel, spawn, thread_name};
use blixt_dataplane::{DropReason, WorkerId};
use blixt_testkit::netns::{eventually, program};
use blixt_testkit::require_root;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::given::{ENDPOINTS, LIMIT, client, config, endpoint};
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

/// The core of whoever is to be slow.
const CORE: usize = 0;

/// Somebody who wants all of [`CORE`], and leaves the kernel no more than some
/// thousandths of it for the worker there (SCHED_IDLE, sched(7)).
struct Hog {
    worker: String,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hog {
    fn starve(worker: WorkerId) -> Self {
        let worker = tid_of(&thread_name(worker.0.into()));
        program("chrt").args(["--idle", "--pid", "0", &worker]).ok();
        let over = Arc::new(AtomicBool::new(false));
        let enough = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut here = CpuSet::new();
            here.set(CORE).unwrap();
            sched_setaffinity(Pid::from_raw(0), &here).unwrap();
            while !enough.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        Self { worker, over, thread: Some(thread) }
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
        program("chrt").args(["--other", "--pid", "0", &self.worker]).run();
    }
}

/// The thread of this process with that name: there is one.
fn tid_of(name: &str) -> String {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let of_name = |comm: String| comm.trim() == name;
    let mut found =
        tasks.filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(of_name));
    found.next().unwrap().file_name().into_string().unwrap()
}

/// Numbers of packets, in the order that they came.
fn numbers(arrived: &[(u16, SocketAddr)], snat: SocketAddr) -> Vec<u16> {
    arrived.iter().filter(|(_, from)| *from == snat).map(|(number, _)| *number).collect()
}

#[test]
fn an_owner_without_cpu_loses_what_is_too_much_and_goes_on_in_order() {
    // Names that no other test's workers have in this process.
    const OWNER: WorkerId = WorkerId(7);
    const ME: WorkerId = WorkerId(8);
    const TOO_MANY: u64 = 500;
    require_root!();
    in_namespace("slow", |namespace| {
        let me = WorkerConfig { core: None, ..config(ME, HoldLimits::default()) };
        let mut world = World::of(namespace, me, 2);
        world.attach_both();
        let slow = WorkerConfig { core: Some(CORE), ..config(OWNER, HoldLimits::default()) };
        let owner = world.join(slow);
        let (my_queue, its_queue) = (world.queue(), 1 - world.queue());
        let (mine, its) = (client(0), client(1));
        world.client_says(mine, 0..1, my_queue);
        let (_, my_snat) = world.wait_at_endpoint(1)[0];
        world.client_says(its, 0..1, its_queue);
        let (_, its_snat) = world.wait_at_endpoint(1)[0];

        // From now on the network card brings everything to me.
        let handed_off = &Arc::clone(world.worker.status()).pipeline.handed_off;
        world.client_says(its, 1..2, my_queue);
        assert_eq!(world.wait_at_endpoint(1), [(1, its_snat)]);
        assert_eq!(handed_off.value(), 1);

        // More of its flow than an owner takes that hardly runs; and with each 64
        // of them one of mine, which passes.
        let hog = Hog::starve(OWNER);
        let (mut sent, mut rounds, mut arrived) = (2, 1, Vec::new());
        while world.dropped(DropReason::HandOffFull) < TOO_MANY {
            assert!(sent < 60_000, "{:?}", world.counters());
            world.client_says(its, sent..sent + 64, my_queue);
            world.client_says(mine, rounds..rounds + 1, my_queue);
            (sent, rounds) = (sent + 64, rounds + 1);
            let until = Instant::now() + LIMIT;
            while numbers(&arrived, my_snat).last() != Some(&(rounds - 1)) {
                assert!(Instant::now() < until, "round {rounds}: {:?}", world.counters());
                arrived.extend(world.arrived(1, endpoint().ip()));
            }
        }
        let full = world.dropped(DropReason::HandOffFull);
        let handed = handed_off.value();
        // All but the first one have come to me.
        assert_eq!(handed + full, u64::from(sent) - 1);
        assert_eq!(numbers(&arrived, my_snat), (1..rounds).collect::<Vec<_>>());

        // It goes on by itself: whatever was handed over leaves.
        drop(hog);
        let status = Arc::clone(owner.status());
        let interface = status.interface(ENDPOINTS).unwrap();
        let lost = || {
            let dropped = |reason| status.pipeline.dropped(reason).value();
            dropped(DropReason::NoFrame) + dropped(DropReason::TxRingFull)
        };
        let until = Instant::now() + LIMIT;
        while interface.tx_packets.value() + lost() < handed + 1 {
            assert!(Instant::now() < until, "{:?}", status.pipeline.by_name());
            arrived.extend(world.arrived(1, endpoint().ip()));
        }
        assert_eq!(interface.tx_packets.value() + lost(), handed + 1);

        // And the flow is what it was. The far end may still have no room.
        let (until, mut next) = (Instant::now() + LIMIT, sent);
        while numbers(&arrived, its_snat).last().is_none_or(|last| *last < sent) {
            assert!(Instant::now() < until, "{:?}", status.pipeline.by_name());
            world.client_says(its, next..next + 1, my_queue);
            next += 1;
            std::thread::sleep(Duration::from_millis(5));
            arrived.extend(world.arrived(1, endpoint().ip()));
        }
        let in_order = numbers(&arrived, its_snat);
        println!(
            "{handed} of {} packets were handed over, {full} found no room; {} of them came to \
             the endpoint, {} of mine",
            sent - 1,
            in_order.len(),
            rounds - 1,
        );
        assert!(in_order.is_sorted_by(|one, next| one < next));
        assert_eq!(world.dropped(DropReason::HandOffFull), full);
        let frames = owner.stop();
        assert_eq!(frames.born, frames.home);
        world.stop();
    });
}
