//! The counting allocator in its place: as the global allocator of a binary.

use blixt_mem::{CountingAllocator, allocations_of_this_thread};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn allocations_are_counted_per_thread() {
    let before = allocations_of_this_thread();
    let boxed = std::hint::black_box(Box::new(1_u64));
    assert_eq!(allocations_of_this_thread() - before, 1);
    drop(boxed);
    assert_eq!(allocations_of_this_thread() - before, 1);

    let elsewhere = std::thread::spawn(|| {
        let before = allocations_of_this_thread();
        let sum: u64 = std::hint::black_box([1_u64, 2, 3]).iter().sum();
        (sum, allocations_of_this_thread() - before)
    });
    assert_eq!(elsewhere.join().unwrap(), (6, 0));
}
