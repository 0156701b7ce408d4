//! From a hash to a place: buckets of one cache line each.
//!
//! An item that does not fit into its home bucket goes to the next one with
//! room, and every bucket it passes counts it. A search ends at a bucket that
//! nobody has passed; removing an item takes its counts back. So there are no
//! tombstones, nothing is ever moved, and a table that has seen a million
//! removals is as good as a new one. (F14, Bronson and Shi 2019, does alike.)

use bytemuck::{Pod, Zeroable};

/// How many places a bucket has: what fits into a cache line.
const WIDTH: usize = 10;

/// How many items a bucket should hold on average when the table is full. At
/// 6 of the 10 it could, one bucket in 23 passes anything on (Poisson, mean 6,
/// more than 10), so that nearly every search reads one line.
const LOAD: usize = 6;

/// One cache line of the index.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Bucket {
    /// A part of each item's hash; 0 where there is none.
    tags: [u16; WIDTH],
    /// How many items were put behind this bucket for want of room.
    passed: u32,
    places: [u32; WIDTH],
}

/// How many buckets are needed for so many items.
pub(crate) const fn buckets_for(items: usize) -> usize {
    let buckets = items.div_ceil(LOAD);
    if buckets == 0 { 1 } else { buckets }
}

/// Where the search for a hash begins. The upper half of the hash decides,
/// scaled to the number of buckets (Lemire 2019) rather than divided by it.
#[inline(always)]
pub(crate) fn home(buckets: &[Bucket], hash: u64) -> usize {
    (((hash >> 32) * buckets.len() as u64) >> 32) as usize
}

/// The lowest bits, which [`home`] does not look at.
#[inline(always)]
fn tag_of(hash: u64) -> u16 {
    (hash as u16).max(1)
}

/// The first place with this hash for which `is_it`.
#[inline]
pub(crate) fn find(
    buckets: &[Bucket],
    hash: u64,
    mut is_it: impl FnMut(u32) -> bool,
) -> Option<u32> {
    let tag = tag_of(hash);
    for bucket in around(buckets, hash) {
        if let Some(place) = bucket.find(tag, &mut is_it) {
            return Some(place);
        }
        if bucket.passed == 0 {
            return None;
        }
    }
    None
}

/// What [`find`] looks at first, if it is at home in the first bucket.
#[inline(always)]
pub(crate) fn likely(buckets: &[Bucket], hash: u64) -> Option<u32> {
    buckets.get(home(buckets, hash))?.find(tag_of(hash), |_| true)
}

/// One in each lane of 16 bits.
const LANES: u64 = 0x0001_0001_0001_0001;

/// The highest bit of each lane that is 0; none of any other (Warren, Hacker's
/// Delight, §6-1).
#[inline(always)]
fn zero_lanes(lanes: u64) -> u64 {
    const BUT_HIGHEST: u64 = LANES * 0x7fff;
    !((lanes & BUT_HIGHEST).wrapping_add(BUT_HIGHEST) | lanes | BUT_HIGHEST)
}

impl Bucket {
    /// The first place with this tag for which `is_it`. Looks at four tags at
    /// a time.
    #[inline(always)]
    fn find(&self, tag: u16, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let [a, b, c, d, e, f, g, h, i, j] = self.tags.map(u64::from);
        // No tag that is searched for is 0, as the lanes left over are.
        let fours = [a | b << 16 | c << 32 | d << 48, e | f << 16 | g << 32 | h << 48, i | j << 16];
        for (four, places) in fours.into_iter().zip(self.places.chunks(4)) {
            let mut found = zero_lanes(four ^ (LANES * u64::from(tag)));
            while found != 0 {
                let lane = found.trailing_zeros() / 16;
                if let Some(&place) = places.get(lane as usize)
                    && is_it(place)
                {
                    return Some(place);
                }
                found &= found - 1;
            }
        }
        None
    }
}

/// Adds a place. `false`, and nothing has changed, if every bucket is full.
pub(crate) fn insert(buckets: &mut [Bucket], hash: u64, place: u32) -> bool {
    let has_room = |bucket: &Bucket| bucket.tags.contains(&0);
    let Some(distance) = around(buckets, hash).position(has_room) else { return false };
    let Some(bucket) = pass(buckets, hash, distance, |passed| passed.wrapping_add(1)) else {
        return false;
    };
    if let Some((tag, at)) = slot(bucket, |tag, _| tag == 0) {
        *tag = tag_of(hash);
        *at = place;
    }
    true
}

/// Takes a place out again. Nothing happens if it is not there.
pub(crate) fn remove(buckets: &mut [Bucket], hash: u64, place: u32) {
    let tag = tag_of(hash);
    let holds = |bucket: &Bucket| {
        bucket.tags.iter().zip(&bucket.places).any(|(&have, &at)| have == tag && at == place)
    };
    let Some(distance) = around(buckets, hash).position(holds) else { return };
    let Some(bucket) = pass(buckets, hash, distance, |passed| passed.wrapping_sub(1)) else {
        return;
    };
    if let Some((have, _)) = slot(bucket, |have, at| have == tag && at == place) {
        *have = 0;
    }
}

/// Each bucket once, from the hash's home on.
#[inline(always)]
fn around(buckets: &[Bucket], hash: u64) -> impl Iterator<Item = &Bucket> {
    let (before, from_home) = buckets.split_at_checked(home(buckets, hash)).unwrap_or_default();
    from_home.iter().chain(before)
}

/// Changes the counts of the `distance` buckets from the hash's home on, and
/// returns the one behind them.
fn pass(
    buckets: &mut [Bucket],
    hash: u64,
    distance: usize,
    change: impl Fn(u32) -> u32,
) -> Option<&mut Bucket> {
    let home = home(buckets, hash);
    let (before, from_home) = buckets.split_at_mut_checked(home)?;
    let mut path = from_home.iter_mut().chain(before);
    for bucket in path.by_ref().take(distance) {
        bucket.passed = change(bucket.passed);
    }
    path.next()
}

/// The first slot of a bucket whose tag and place are as asked for.
fn slot(bucket: &mut Bucket, is_it: impl Fn(u16, u32) -> bool) -> Option<(&mut u16, &mut u32)> {
    bucket.tags.iter_mut().zip(&mut bucket.places).find(|(tag, place)| is_it(**tag, **place))
}

#[cfg(test)]
impl Bucket {
    /// Whether nothing is in it and nothing was passed on.
    pub(crate) fn is_as_new(&self) -> bool {
        self.tags == [0; WIDTH] && self.passed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bucket_is_a_cache_line() {
        assert_eq!((size_of::<Bucket>(), align_of::<Bucket>()), (64, 64));
    }

    #[test]
    fn items_beyond_a_bucket_go_on_to_the_next_and_around() {
        let mut buckets = vec![Bucket::zeroed(); 3];
        // All of them at home in the last bucket.
        let hash = |n: u32| u64::from(u32::MAX) << 32 | u64::from(n + 1);
        let items = 3 * WIDTH as u32;
        for n in 0..items {
            assert!(insert(&mut buckets, hash(n), n));
        }
        assert!(!insert(&mut buckets, hash(items), items), "full");
        for n in 0..items {
            assert_eq!(find(&buckets, hash(n), |place| place == n), Some(n));
        }
        for n in 0..items {
            remove(&mut buckets, hash(n), n);
            assert_eq!(find(&buckets, hash(n), |place| place == n), None);
        }
        assert!(buckets.iter().all(Bucket::is_as_new), "{buckets:?}");
    }

    #[test]
    fn removing_what_is_not_there_changes_nothing() {
        let mut buckets = vec![Bucket::zeroed(); 2];
        assert!(insert(&mut buckets, 7, 1));
        remove(&mut buckets, 7, 2);
        remove(&mut buckets, 8, 1);
        assert_eq!(find(&buckets, 7, |_| true), Some(1));
    }

    proptest! {
        /// Few buckets and few hashes, so that everything collides: after any
        /// sequence a search finds just what is there, and once all is removed
        /// no count is left.
        #[test]
        fn equals_a_list(steps in proptest::collection::vec((any::<bool>(), 0_u32..40), 1..300)) {
            let mut buckets = vec![Bucket::zeroed(); 4];
            let mut model = std::collections::BTreeSet::new();
            let hash = |n: u32| u64::from(n % 5) << 62 | u64::from(n % 7);
            for (is_insert, n) in steps {
                if is_insert && !model.contains(&n) {
                    let fits = model.len() < 4 * WIDTH;
                    prop_assert_eq!(insert(&mut buckets, hash(n), n), fits);
                    model.insert(n);
                } else {
                    remove(&mut buckets, hash(n), n);
                    model.remove(&n);
                }
                for n in 0..40 {
                    let found = find(&buckets, hash(n), |place| place == n);
                    prop_assert_eq!(found, model.get(&n).copied());
                }
            }
            for n in model {
                remove(&mut buckets, hash(n), n);
            }
            prop_assert!(buckets.iter().all(Bucket::is_as_new));
        }
    }
}
