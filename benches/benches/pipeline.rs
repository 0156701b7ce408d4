//! What the whole pipeline costs for a packet, without I/O: frames that hit a
//! flow, among few and among many, in bursts and one at a time, and frames that
//! start one.
//!
//! `cargo bench -p blixt-benches --bench pipeline`. The time is that of 64
//! packets; criterion's throughput divides it by them. For ratios there is
//! `ratios` (benches/counted/src/bin/ratios.rs), which measures in turn.

#![allow(clippy::unwrap_used, reason = "a bench that goes wrong should stop")]

use std::time::{Duration, Instant};

use blixt_counted::{Family, Protocol, World};
use blixt_dataplane::BURST;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// How packets that were received go through the pipeline.
type Way = fn(&mut World, usize);

/// How long `process` has 64 packets; that they come in is not counted.
fn timed(world: &mut World, frames: &[Vec<u8>], process: Way) -> Duration {
    world.receive(frames.iter().map(Vec::as_slice));
    let start = Instant::now();
    process(world, frames.len());
    start.elapsed()
}

fn hits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hit");
    group.throughput(Throughput::Elements(BURST as u64));
    group.sample_size(20);
    for family in FAMILIES {
        for flows in [1_000_u32, 100_000, 1_000_000, 10_000_000] {
            let mut world = World::new(family, Protocol::Udp, flows as usize).with_flows(flows);
            // A stride that shares no factor with their number visits them
            // all, in no order that a prefetcher could guess.
            let mut next = 0;
            let mut frames = |world: &World| -> Vec<_> {
                (0..BURST)
                    .map(|_| {
                        next = ((u64::from(next) + 611_953) % u64::from(flows)) as u32;
                        world.request(next)
                    })
                    .collect()
            };
            let ways: [(&str, Way); 2] = [("burst", World::burst), ("single", World::one_by_one)];
            for (name, process) in ways {
                let id = BenchmarkId::new(format!("{family:?}/{name}"), flows);
                group.bench_function(id, |bencher| {
                    bencher.iter_custom(|bursts| {
                        (0..bursts)
                            .map(|_| {
                                let frames = frames(&world);
                                timed(&mut world, &frames, process)
                            })
                            .sum()
                    });
                });
            }
        }
    }
    group.finish();
}

fn misses(criterion: &mut Criterion) {
    const CAPACITY: u32 = 100_000;
    let mut group = criterion.benchmark_group("miss");
    group.throughput(Throughput::Elements(BURST as u64));
    for family in FAMILIES {
        let mut world = World::new(family, Protocol::Udp, CAPACITY as usize);
        let frames: Vec<_> = (0..CAPACITY).map(|client| world.opening(client)).collect();
        let mut bursts_of_new = frames.chunks_exact(BURST);
        group.bench_function(format!("{family:?}"), |bencher| {
            bencher.iter_custom(|bursts| {
                (0..bursts)
                    .map(|_| {
                        let burst = bursts_of_new.next().unwrap_or_else(|| {
                            world.everything_expires();
                            bursts_of_new = frames.chunks_exact(BURST);
                            bursts_of_new.next().unwrap()
                        });
                        timed(&mut world, burst, World::burst)
                    })
                    .sum()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, hits, misses);
criterion_main!(benches);
