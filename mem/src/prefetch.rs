//! One hint to the CPU.

/// Asks the CPU to bring the cache line that holds the first byte of `value`
/// near, for reading. Never faults and changes nothing; elsewhere than on
/// `x86_64` and `aarch64` it does nothing at all.
#[inline(always)]
pub fn prefetch<T: ?Sized>(value: &T) {
    let address = std::ptr::from_ref(value).cast::<i8>();
    #[cfg(target_arch = "x86_64")]
    // SAFETY: PREFETCHT0 is a hint: it reads nothing the program can see and
    // does not fault, whatever the address; this one is of a live reference.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address);
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: PRFM is a hint: it reads nothing the program can see and does
    // not fault, whatever the address; this one is of a live reference.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::prefetch;

    #[test]
    fn a_hint_changes_nothing() {
        let values = [1_u64, 2, 3];
        prefetch(&values[0]);
        prefetch(&values[1..]);
        prefetch::<[u8]>(&[]);
        assert_eq!(values, [1, 2, 3]);
    }
}
