//! Benches: instruction counts, time, throughput.

#![forbid(unsafe_code)]
