//! Who gets which flow, and how long flows, ports and entries are kept:
//! through the whole pipeline, and beyond one connection.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod changes;
mod endings;
mod idle;
mod laws;
mod memory;
mod millions;
mod ports;
mod pressure;
mod shares;
mod world;

/// Counts, so that a test can show that nothing is allocated.
#[global_allocator]
static ALLOCATOR: blixt_mem::CountingAllocator = blixt_mem::CountingAllocator;
