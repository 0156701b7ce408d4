//! One contiguous mapping with two typed sections.
//!
//! The flow table keeps its index and its entries in one: no pointers inside,
//! so that another process could map it and go on.

use std::io;
use std::marker::PhantomData;
use std::ptr::NonNull;

use bytemuck::Pod;

/// What kind of pages a region got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// Reserved huge pages (`vm.nr_hugepages`).
    Huge,
    /// Ordinary pages that the kernel was asked to merge into huge ones
    /// (transparent huge pages); it may or may not have done so.
    Ordinary,
}

/// Why there is no region.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The sizes asked for do not fit into an address space.
    #[error(
        "a mapping of {first} x {first_bytes} and {second} x {second_bytes} bytes is too large"
    )]
    TooLarge {
        /// Items in the first section.
        first: usize,
        /// Bytes of each.
        first_bytes: usize,
        /// Items in the second section.
        second: usize,
        /// Bytes of each.
        second_bytes: usize,
    },
    /// The kernel has no memory for it.
    #[error(
        "the kernel refused {mib} MiB of memory ({source}): free some, or ask for a smaller capacity"
    )]
    Refused {
        /// How much was asked for.
        mib: usize,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A zeroed mapping that holds `A`s, and behind them `B`s.
///
/// All pages are there from the start: using it later neither faults nor
/// fails. `Pod` lets any bytes be a value, all zeroes to begin with.
#[derive(Debug)]
pub struct Region<A: Pod, B: Pod> {
    base: NonNull<u8>,
    mapped_bytes: usize,
    first: usize,
    second: usize,
    second_offset: usize,
    pages: Pages,
    _sections: PhantomData<(A, B)>,
}

// SAFETY: the region owns its mapping alone, as a `Box<[T]>` would, and `Pod`
// types own nothing else; so it may move to, and be read from, other threads.
unsafe impl<A: Pod + Send, B: Pod + Send> Send for Region<A, B> {}
// SAFETY: as above; shared access only reads.
unsafe impl<A: Pod + Sync, B: Pod + Sync> Sync for Region<A, B> {}

/// The size of a huge page on `x86_64` and, with 4 KiB pages, on `aarch64`.
const HUGE_PAGE_BYTES: usize = 2 << 20;

impl<A: Pod, B: Pod> Region<A, B> {
    /// Maps room for `first` values of `A` and `second` values of `B`, zeroed.
    pub fn new(first: usize, second: usize) -> Result<Self, RegionError> {
        let too_large = || RegionError::TooLarge {
            first,
            first_bytes: size_of::<A>(),
            second,
            second_bytes: size_of::<B>(),
        };
        let second_offset = first
            .checked_mul(size_of::<A>())
            .and_then(|bytes| bytes.checked_next_multiple_of(align_of::<B>().max(64)))
            .ok_or_else(too_large)?;
        let bytes = second
            .checked_mul(size_of::<B>())
            .and_then(|bytes| bytes.checked_add(second_offset))
            .and_then(|bytes| bytes.max(1).checked_next_multiple_of(HUGE_PAGE_BYTES))
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or_else(too_large)?;
        let (base, pages) = match map(bytes, libc::MAP_HUGETLB) {
            Ok(base) => (base, Pages::Huge),
            Err(_) => (map_ordinary(bytes)?, Pages::Ordinary),
        };
        Ok(Self {
            base,
            mapped_bytes: bytes,
            first,
            second,
            second_offset,
            pages,
            _sections: PhantomData,
        })
    }

    /// What kind of pages it lies on.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// How much memory it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.mapped_bytes
    }

    /// Both sections, to read.
    #[inline]
    pub fn sections(&self) -> (&[A], &[B]) {
        let second_base = self.second_base();
        // SAFETY: `new` mapped and zeroed `first` values of `A` at `base`,
        // page aligned; any bytes are an `A`; `&self` excludes writers.
        let first = unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), self.first) };
        // SAFETY: likewise for `second` values of `B`, behind the first
        // section and aligned to `B`.
        let second = unsafe { std::slice::from_raw_parts(second_base.cast(), self.second) };
        (first, second)
    }

    /// Both sections, to write.
    #[inline]
    pub fn sections_mut(&mut self) -> (&mut [A], &mut [B]) {
        let second_base = self.second_base();
        // SAFETY: as in `sections`; `&mut self` excludes all others.
        let first =
            unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().cast(), self.first) };
        // SAFETY: as in `sections`; it does not overlap the first section.
        let second = unsafe { std::slice::from_raw_parts_mut(second_base.cast(), self.second) };
        (first, second)
    }

    #[inline]
    fn second_base(&self) -> *mut u8 {
        // SAFETY: `new` made the mapping at least `second_offset` bytes long.
        unsafe { self.base.as_ptr().add(self.second_offset) }
    }
}

impl<A: Pod, B: Pod> Drop for Region<A, B> {
    fn drop(&mut self) {
        // SAFETY: `new` mapped exactly these bytes, and no reference into
        // them can outlive `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped_bytes) };
    }
}

fn map_ordinary(bytes: usize) -> Result<NonNull<u8>, RegionError> {
    map(bytes, libc::MAP_NORESERVE)
        .map_err(|source| RegionError::Refused { mib: bytes >> 20, source })
}

/// Maps zeroed pages that are all there: what is not is refused here, and
/// not by a signal later. (MAP_POPULATE would not tell, and a limit on the
/// huge pages of a cgroup shows only when they are touched.)
fn map(bytes: usize, kind: i32) -> io::Result<NonNull<u8>> {
    // SAFETY: a new anonymous mapping at an address of the kernel's choice
    // touches no memory that exists.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | kind,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // Before the pages are touched, so that they can be huge.
    // SAFETY: advice on a mapping that was just made; a kernel without
    // transparent huge pages refuses it, and ordinary pages are fine too.
    unsafe { libc::madvise(base, bytes, libc::MADV_HUGEPAGE) };
    // Linux 5.14.
    // SAFETY: advice on a mapping that was just made; it only writes zeroes
    // over zeroes.
    let populated = unsafe { libc::madvise(base, bytes, libc::MADV_POPULATE_WRITE) };
    let refusal = io::Error::last_os_error();
    match NonNull::new(base.cast()) {
        Some(base) if populated == 0 => Ok(base),
        mapped => {
            // SAFETY: unmaps what was just mapped and given to nobody.
            unsafe { libc::munmap(base, bytes) };
            Err(mapped.map_or_else(|| io::Error::other("it mapped address 0"), |_| refusal))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sections_are_zeroed_and_apart() {
        let mut region = Region::<[u8; 3], u64>::new(5, 7).unwrap();
        let (first, second) = region.sections_mut();
        assert_eq!((first.len(), second.len()), (5, 7));
        assert!(first.iter().all(|value| *value == [0; 3]));
        assert!(second.iter().all(|value| *value == 0));
        first.fill([0xff; 3]);
        assert!(second.iter().all(|value| *value == 0));
        second.fill(u64::MAX);
        let (first, second) = region.sections();
        assert!(first.iter().all(|value| *value == [0xff; 3]));
        assert!(second.iter().all(|value| *value == u64::MAX));
    }

    #[test]
    fn empty_sections_are_fine() {
        let region = Region::<u32, u32>::new(0, 0).unwrap();
        assert_eq!(region.sections(), (&[][..], &[][..]));
    }

    #[test]
    fn the_second_section_starts_on_a_cache_line() {
        let region = Region::<u8, u8>::new(1, 1).unwrap();
        let (first, second) = region.sections();
        let distance = second.as_ptr() as usize - first.as_ptr() as usize;
        assert_eq!(distance, 64);
    }

    #[test]
    fn too_much_is_refused_with_a_reason() {
        let error = Region::<u64, u64>::new(usize::MAX, 1).unwrap_err();
        assert!(matches!(error, RegionError::TooLarge { .. }), "{error}");
        let error = Region::<u64, u64>::new(1 << 57, 1).unwrap_err();
        assert!(error.to_string().contains("smaller capacity"), "{error}");
    }
}
