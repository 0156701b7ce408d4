//! Benches: instruction counts, time, throughput.
