//! What the whole pipeline costs for a packet, without I/O: frames that hit a
//! flow, among few and among many, in bursts and one at a time, and frames that
//! start one while there are as many.
//!
//! `cargo bench -p blixt-benches --bench pipeline`. The time is that of 64
//! packets; criterion's throughput divides it by them. For ratios there is
//! `ratios` (benches/counted/src/bin/ratios.rs), which measures in turn, and for
//! what each stage takes of it `times` beside that.

use std::time::{Duration, Instant};

use blixt_counted::{Family, Filled, World};
use blixt_dataplane::BURST;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// How packets are received, and how they go through the pipeline.
type Receive = fn(&mut Filled);
type Way = fn(&mut World, usize);

/// How long so many bursts take; that they come in is not counted.
fn timed(filled: &mut Filled, bursts: u64, receive: Receive, way: Way) -> Duration {
    (0..bursts)
        .map(|_| {
            receive(filled);
            let start = Instant::now();
            way(&mut filled.world, BURST);
            start.elapsed()
        })
        .sum()
}

fn pipeline(criterion: &mut Criterion) {
    let cases: [(&str, &str, Receive, Way); 3] = [
        ("hit", "burst", Filled::receive_hits, World::burst),
        ("hit", "single", Filled::receive_hits, World::one_by_one),
        ("miss", "burst", Filled::receive_misses, World::burst),
    ];
    for family in [Family::V4, Family::V6] {
        for flows in [1_000_u32, 100_000, 1_000_000, 10_000_000] {
            let mut filled = Filled::half(flows, family);
            for (kind, name, receive, way) in cases {
                let mut group = criterion.benchmark_group(kind);
                group.throughput(Throughput::Elements(BURST as u64));
                group.sample_size(20);
                let id = BenchmarkId::new(format!("{family:?}/{name}"), flows);
                group.bench_function(id, |bencher| {
                    bencher.iter_custom(|bursts| timed(&mut filled, bursts, receive, way));
                });
                group.finish();
            }
        }
    }
}

criterion_group!(benches, pipeline);
criterion_main!(benches);
