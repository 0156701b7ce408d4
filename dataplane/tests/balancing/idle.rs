//! What it costs to hold flows that say nothing.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use blixt_dataplane::{Tick, Timeouts};
use blixt_testkit::frame::{ACK, RST, tcp};

use crate::millions::{FLOWS, Nowhere, queries, roomy};
use crate::world::{Seen, Situation, WEB, World, at, client, ready, web_and_dns};

/// How a worker looks after things when nothing comes in: so often, and so many
/// turns until it sleeps again (`agent/src/worker/run.rs`).
const TEND: Duration = Duration::from_millis(100);
const EMPTY_TURNS: usize = 200;

/// What this thread has had of any core.
fn cpu_time() -> Duration {
    let counted = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(counted.split_whitespace().next().unwrap().parse().unwrap())
}

/// Sweeps as a worker with nothing else to do. The share of a core that it
/// takes, and how often it was called.
fn idle(world: &mut World, seconds: u64) -> (f64, usize) {
    let (first, began, cpu) = (world.now, Instant::now(), cpu_time());
    let mut calls = 0;
    while began.elapsed() < Duration::from_secs(seconds) {
        let mut empty = 0;
        while empty < EMPTY_TURNS {
            world.now = Tick(first.0 + began.elapsed().as_nanos() as u64);
            let now = world.now;
            let (pipeline, view) = world.parts();
            calls += 1;
            match pipeline.sweep(view, now, &mut Nowhere) {
                true => empty = 0,
                false => empty += 1,
            }
        }
        thread::sleep(TEND);
    }
    let cpu = cpu_time() - cpu;
    (cpu.as_secs_f64() / began.elapsed().as_secs_f64(), calls)
}

/// Connections that are open and were looked at once since: nothing of them is
/// due for two hours.
fn silent(count: u16) -> (World, Vec<Seen>) {
    let situation = Situation { flow_capacity: count.into(), ..Situation::default() };
    let mut world = World::new(&situation, &web_and_dns(1, &ready(2)));
    let opened = (0..count).map(|n| world.open(client(n), at(WEB))).collect();
    world.later(300);
    for _ in 0..3 {
        world.sweep();
    }
    assert_eq!(world.entries(), (count.into(), 0));
    (world, opened)
}

/// How often a worker has to sweep for a second that has gone by.
fn sweeps(world: &mut World) -> usize {
    world.later(1);
    let now = world.now;
    let (pipeline, view) = world.parts();
    1 + (0..).take_while(|_| pipeline.sweep(view, now, &mut Nowhere)).count()
}

#[test]
fn silent_flows_are_passed_by_many_at_a_time() {
    const COUNT: u16 = 20_000;
    let (mut world, _) = silent(COUNT);
    assert!(sweeps(&mut world) <= 3);
    // New tables may have lost the endpoint of any of them.
    world.apply(&web_and_dns(2, &ready(2)));
    assert!(sweeps(&mut world) >= usize::from(COUNT) / 256);
    sweeps(&mut world);
    assert!(sweeps(&mut world) <= 3);
}

#[test]
fn what_ends_sooner_than_it_was_to_is_seen_among_silent_ones() {
    let (mut world, opened) = silent(500);
    let entries = |world: &mut World, seconds| {
        world.later(seconds);
        world.sweep();
        world.entries()
    };
    // A port rests for a minute.
    world.close(client(70), at(WEB), &opened[70]);
    assert_eq!(entries(&mut world, 57), (500, 1));
    assert_eq!(entries(&mut world, 2), (499, 0));
    // A reset that may not be believed leaves four minutes; then it rests.
    world.send(tcp(client(499), at(WEB)).flags(RST).seq(1_001 + 1_000)).sent();
    assert_eq!(entries(&mut world, 237), (499, 0));
    assert_eq!(entries(&mut world, 2), (499, 1));
    assert_eq!(entries(&mut world, 61), (498, 0));
    // What comes into a place that was given up counts anew.
    world.query(7);
    assert_eq!(world.entries(), (499, 0));
    assert_eq!(entries(&mut world, 297), (499, 0));
    assert_eq!(entries(&mut world, 2), (498, 0));
    // Those who talk are left alone when the others end.
    for seconds in [3_000, 3_000] {
        world.later(seconds);
        world.sweep();
        world.send(tcp(client(200), at(WEB)).flags(ACK).seq(1_001).ack(5_001)).sent();
    }
    assert_eq!(entries(&mut world, 500), (498, 497));
    assert_eq!(entries(&mut world, 61), (1, 0));
}

#[test]
fn clients_are_told_of_an_endpoint_that_goes_wherever_their_flows_are() {
    let (mut world, opened) = silent(500);
    world.apply(&web_and_dns(2, &ready(1)));
    let left = opened.iter().filter(|seen| seen.dst == at("10.1.0.1:8080")).count();
    let told = world.sweep();
    assert_eq!(told.len(), 500 - left);
    assert!(left > 0 && told.len() > 100, "{left}");
}

#[test]
#[ignore = "takes minutes and 2 GB: scripts/test long"]
fn ten_million_silent_flows_take_less_than_a_hundredth_of_a_core() {
    let mut world = roomy();
    assert_eq!(queries(&mut world, 0..FLOWS), FLOWS.into());
    // Once round, so that what has changed since is known.
    idle(&mut world, 3);
    let (share, calls) = idle(&mut world, 5);
    println!("{FLOWS} silent flows take {:.2} % of a core, in {calls} calls", share * 100.0);
    assert_eq!(world.entries(), (FLOWS.into(), 0));
    // Not without optimisation, which is ten times slower.
    assert!(share <= 0.01 || cfg!(debug_assertions), "{share}");
}

#[test]
fn another_timeout_holds_for_flows_that_there_are_and_those_that_come() {
    const COUNT: u16 = 500;
    let (mut world, opened) = silent(COUNT);
    let timeouts = Timeouts { tcp_established: Duration::from_secs(10), ..Timeouts::default() };
    world.parts().0.keep_for(&timeouts);
    for _ in 0..3 {
        sweeps(&mut world);
    }
    assert_eq!(world.entries(), (COUNT.into(), 0), "not idle for so long since then");
    for _ in 0..11 {
        sweeps(&mut world);
    }
    assert_eq!(world.entries(), (COUNT.into(), COUNT.into()), "over, and at rest");
    drop(opened);
}
