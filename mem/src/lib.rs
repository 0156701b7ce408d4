//! The few tricks Blixt plays with memory, each safe on the outside.
//!
//! - [`prefetch`] asks the CPU for a cache line before it is needed.
//! - [`Region`] is one zeroed, page-aligned mapping with two typed sections,
//!   on huge pages where the kernel has them.
//! - [`CountingAllocator`] lets a test show that a path allocates nothing.
//!
//! Nothing here knows what the memory is for.

mod counting;
mod prefetch;
mod region;

pub use counting::{CountingAllocator, allocations_of_this_thread};
pub use prefetch::prefetch;
pub use region::{Pages, Region, RegionError};
