//! Which worker has which flow: the one table that all workers write. Only
//! misses and new flows come here.
//!
//! It has room for all flows that the workers together can have, and takes it
//! at the start: 10 bytes a flow, which a map that grows by doubling needs two
//! to four times of. It is cut into shards with a lock each; a shard is an
//! array that is searched from a flow's place on, and four fifths full at most
//! on the average (Knuth, The Art of Computer Programming 3, 6.4, algorithms L
//! and R).

use std::sync::{Mutex, MutexGuard, PoisonError};

use blixt_dataplane::{Directory, WorkerId};

/// How many shards there are at most, and bits of a name that choose one.
const MOST_SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = 8;

/// How many flows a shard should have at least: so many that chance never
/// gives one a quarter more than its share (16 standard deviations).
const FLOWS_PER_SHARD: usize = 4_096;

/// A place that nobody has.
const EMPTY: u64 = u64::MAX;

/// A map in parts.
#[derive(Debug)]
pub(crate) struct FlowDirectory(Box<[Mutex<Shard>]>);

/// Flows with their workers: 56 bits of a flow's name, and 8 that say which of
/// up to 256 workers has it. The name's other 8 bits have chosen the shard,
/// where there are 256 of them.
#[derive(Debug)]
struct Shard {
    places: Box<[u64]>,
    used: usize,
}

const WORKER_BITS: u32 = 8;

impl FlowDirectory {
    /// With room for so many flows.
    pub(crate) fn new(flows: usize) -> Self {
        let (shards, places) = dimensions(flows);
        Self((0..shards).map(|_| Mutex::new(Shard::new(places))).collect())
    }

    /// What one for so many flows takes, in bytes.
    pub(crate) fn bytes(flows: usize) -> usize {
        let (shards, places) = dimensions(flows);
        shards * places * size_of::<u64>()
    }

    /// The shard of a flow, to be used alone for a moment. It is never left
    /// half changed, so whoever panicked before does not matter.
    fn shard(&self, flow: u64) -> Option<MutexGuard<'_, Shard>> {
        // There is a power of two of them.
        let number = (flow >> (u64::BITS - SHARD_BITS)) as usize & self.0.len().wrapping_sub(1);
        Some(self.0.get(number)?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How many shards, and how many places in each.
fn dimensions(flows: usize) -> (usize, usize) {
    let shards = (flows / FLOWS_PER_SHARD).clamp(1, MOST_SHARDS);
    // Rounded down to a power of two.
    let shards = 1 << shards.ilog2();
    let each = flows.div_ceil(shards);
    // One is always empty: there a search ends.
    (shards, each + each / 4 + 1)
}

impl Directory for FlowDirectory {
    fn owner(&self, flow: u64) -> Option<WorkerId> {
        self.shard(flow)?.find(name_of(flow)).ok().map(|(_, owner)| owner)
    }

    fn claim(&self, flow: u64, worker: WorkerId) -> WorkerId {
        let Some(mut shard) = self.shard(flow) else { return worker };
        match shard.find(name_of(flow)) {
            Ok((_, owner)) => owner,
            Err(place) => {
                shard.put(place, entry(name_of(flow), worker));
                worker
            }
        }
    }

    fn release(&self, flow: u64, worker: WorkerId) {
        let Some(mut shard) = self.shard(flow) else { return };
        if let Ok((place, owner)) = shard.find(name_of(flow))
            && owner == worker
        {
            shard.take(place);
        }
    }
}

impl Shard {
    fn new(places: usize) -> Self {
        // Written to, so that the memory is there.
        Self { places: vec![EMPTY; places].into(), used: 0 }
    }

    /// Where a flow is and whose, or else where it could be.
    fn find(&self, name: u64) -> Result<(usize, WorkerId), usize> {
        let home = self.home(name);
        let (before, from_home) = self.places.split_at_checked(home).unwrap_or_default();
        let around = from_home.iter().chain(before).zip(0..);
        for (&entry, distance) in around {
            let place = self.after(home, distance);
            if entry == EMPTY {
                return Err(place);
            }
            if name_in(entry) == name {
                return Ok((place, WorkerId((entry & ((1 << WORKER_BITS) - 1)) as u16)));
            }
        }
        Err(home)
    }

    /// Puts an entry into an empty place. If that would be the last one the
    /// flow stays unlisted: only packets that come to another worker miss it.
    fn put(&mut self, place: usize, entry: u64) {
        if self.used + 1 < self.places.len()
            && let Some(empty) = self.places.get_mut(place)
        {
            *empty = entry;
            self.used += 1;
        }
    }

    /// Empties a place, and lets those behind it that were driven away from
    /// their homes move up.
    fn take(&mut self, place: usize) {
        self.used -= 1;
        let mut hole = place;
        for distance in 1..self.places.len() {
            let next = self.after(place, distance);
            let Some(&entry) = self.places.get(next).filter(|entry| **entry != EMPTY) else {
                break;
            };
            let home = self.home(name_in(entry));
            // Whether its way from home leads through the hole.
            if self.distance(home, next) >= self.distance(hole, next)
                && let Some(empty) = self.places.get_mut(hole)
            {
                *empty = entry;
                hole = next;
            }
        }
        if let Some(last) = self.places.get_mut(hole) {
            *last = EMPTY;
        }
    }

    /// Where the search for a name begins: its upper half, scaled to the
    /// number of places (Lemire 2019).
    fn home(&self, name: u64) -> usize {
        let upper = name >> (u64::BITS - WORKER_BITS - u32::BITS);
        ((upper * self.places.len() as u64) >> u32::BITS) as usize
    }

    fn after(&self, place: usize, distance: usize) -> usize {
        let sum = place + distance;
        if sum < self.places.len() { sum } else { sum - self.places.len() }
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.places.len() - from }
    }
}

/// A flow's name within its shard. It is never all ones, so that no entry looks
/// empty.
fn name_of(flow: u64) -> u64 {
    const BITS: u32 = u64::BITS - WORKER_BITS;
    (flow & ((1 << BITS) - 1)).min((1 << BITS) - 2)
}

fn entry(name: u64, worker: WorkerId) -> u64 {
    name << WORKER_BITS | u64::from(worker.0 & 0xff)
}

fn name_in(entry: u64) -> u64 {
    entry >> WORKER_BITS
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::thread;

    const A: WorkerId = WorkerId(0);
    const B: WorkerId = WorkerId(1);

    /// Noise: a xorshift generator (Marsaglia, 2003).
    fn noise() -> impl FnMut() -> u64 {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        }
    }

    #[test]
    fn who_comes_first_has_the_flow_until_he_gives_it_back() {
        let directory = FlowDirectory::new(4);
        assert_eq!(directory.owner(7), None);
        assert_eq!(directory.claim(7, A), A);
        assert_eq!(directory.claim(7, B), A);
        directory.release(7, B);
        assert_eq!(directory.owner(7), Some(A), "it was not his");
        directory.release(7, A);
        assert_eq!(directory.claim(7, B), B);
    }

    #[test]
    fn of_many_that_claim_at_once_one_gets_it() {
        let directory = FlowDirectory::new(10_000);
        let directory = &directory;
        let winners: Vec<Vec<WorkerId>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|id| {
                    scope.spawn(move || {
                        let mut next = noise();
                        (0..10_000).map(|_| directory.claim(next(), WorkerId(id))).collect()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(winners.iter().all(|each| *each == winners[0]));
    }

    /// All flows that the workers can have are known, each of them in at most
    /// 10 bytes and a bit, and after any coming and going the table is as new.
    #[test]
    fn it_knows_as_many_flows_as_there_can_be() {
        const FLOWS: usize = 300_000;
        let directory = FlowDirectory::new(FLOWS);
        assert!(FlowDirectory::bytes(FLOWS) <= FLOWS * 10 + 4_096);
        for flows in [0, 1, 5_000, FLOWS] {
            let FlowDirectory(shards) = FlowDirectory::new(flows);
            let places = |shard: &Mutex<Shard>| size_of_val(&*shard.lock().unwrap().places);
            assert_eq!(shards.iter().map(places).sum::<usize>(), FlowDirectory::bytes(flows));
        }
        let mut next = noise();
        let flows: Vec<_> = (0..FLOWS).map(|_| next()).collect();
        for (n, &flow) in flows.iter().enumerate() {
            assert_eq!(directory.claim(flow, WorkerId(n as u16 % 256)), WorkerId(n as u16 % 256));
        }
        for (n, &flow) in flows.iter().enumerate() {
            assert_eq!(directory.owner(flow), Some(WorkerId(n as u16 % 256)));
        }
        for (n, &flow) in flows.iter().enumerate() {
            directory.release(flow, WorkerId(n as u16 % 256));
        }
        for shard in &directory.0 {
            let shard = shard.lock().unwrap();
            assert!(shard.used == 0 && shard.places.iter().all(|entry| *entry == EMPTY));
        }
    }

    #[test]
    fn one_that_is_full_forgets_nobody() {
        let directory = FlowDirectory::new(4);
        let flows: Vec<u64> = (0..20).map(|n| n << 40 | n).collect();
        for &flow in &flows {
            assert_eq!(directory.claim(flow, B), B);
        }
        let known = flows.iter().filter(|flow| directory.owner(**flow) == Some(B)).count();
        assert_eq!(known, 5);
        flows.iter().for_each(|flow| directory.release(*flow, B));
        assert!(flows.iter().all(|flow| directory.owner(*flow).is_none()));
    }

    /// Few places and few homes, so that everything collides and goes around:
    /// after any sequence it knows what a plain map knows.
    #[test]
    fn equals_a_map() {
        let directory = FlowDirectory::new(24);
        let mut next = noise();
        let mut model = HashMap::new();
        for _ in 0..20_000 {
            let (n, worker) = (next() >> 20, WorkerId((next() >> 30) as u16 % 3));
            let flow = crowded(n % 40);
            match n >> 40 & 1 {
                0 if model.len() < 24 => {
                    let owner = *model.entry(flow).or_insert(worker);
                    assert_eq!(directory.claim(flow, worker), owner);
                }
                _ => {
                    directory.release(flow, worker);
                    if model.get(&flow) == Some(&worker) {
                        model.remove(&flow);
                    }
                }
            }
            for n in 0..40 {
                let flow = crowded(n);
                assert_eq!(directory.owner(flow), model.get(&flow).copied());
            }
        }
    }

    /// Names whose homes are a few neighbours, the last one among them.
    fn crowded(n: u64) -> u64 {
        [0, 0x80, 0xff, 0xff][(n % 4) as usize] << 48 | n
    }
}
