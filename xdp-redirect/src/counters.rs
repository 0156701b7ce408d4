//! Counts, on the CPU that runs the program: no two writers, no atomics.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use blixt_xdp_abi::Counter;

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::ALL.len() as u32, 0);

/// Adds one.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter.index()) {
        // SAFETY: the look-up returned this CPU's own cell, and XDP programs
        // on one CPU do not interrupt each other (they run in NAPI context).
        let value = unsafe { &mut *value };
        *value += 1;
    }
}
