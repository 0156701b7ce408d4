//! Packets in, packets out, counters that moved.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "what builds the stories is as much a test as they are"
)]

mod answers;
mod drops;
mod explained;
mod flows;
mod hostpath;
mod icmp;
mod properties;
mod team;
mod world;

/// Counts, so that a test can show that a hit allocates nothing.
#[global_allocator]
static ALLOCATOR: blixt_mem::CountingAllocator = blixt_mem::CountingAllocator;
