//! A value that one thread exchanges as a whole and workers look at.
//!
//! A worker that takes up the new value lets go of the old one. Were it the
//! last to do so, it would have to free it: 10,000 endpoints or a million
//! routes, while packets wait. So whoever exchanges the value keeps the old one
//! until nobody else does, and frees it itself.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::cache::Cache;
use arc_swap::{ArcSwap, Guard};

/// The newest value, and older ones that somebody may still look at.
#[derive(Debug, Default)]
pub struct Shared<T> {
    newest: ArcSwap<T>,
    /// Workers never touch the lock.
    retired: Mutex<Vec<Arc<T>>>,
}

/// A worker's look at it: an ordinary load where nothing has changed.
pub type Reader<'a, T> = Cache<&'a ArcSwap<T>, Arc<T>>;

impl<T> Shared<T> {
    /// The newest value, for a short look.
    pub fn load(&self) -> Guard<Arc<T>> {
        self.newest.load()
    }

    /// The newest value, to keep.
    pub fn load_full(&self) -> Arc<T> {
        self.newest.load_full()
    }

    /// Exchanges it. Old values that nobody looks at any more are freed here.
    pub fn publish(&self, value: T) {
        let before = self.newest.swap(Arc::new(value));
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).push(before);
        self.reclaim();
    }

    /// Frees old values that nobody looks at any more. Call it now and then:
    /// workers let go of a value some time after it was exchanged.
    pub fn reclaim(&self) {
        // Nobody can take up a retired value any more, only let go of it: a
        // count of 1, that of this list, is final.
        let is_free = |value: &mut Arc<T>| Arc::strong_count(value) == 1;
        let free: Vec<_> = {
            let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
            retired.extract_if(.., is_free).collect()
        };
        // Not under the lock: it may take a while.
        drop(free);
    }

    /// How many old values are kept.
    pub fn retired(&self) -> usize {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// For a worker, which looks all the time.
    pub(super) fn reader(&self) -> Reader<'_, T> {
        Cache::new(&self.newest)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HoldLimits, Published, WorkerConfig, event_channel, spawn};
    use super::*;
    use blixt_afxdp::{FrameBytes, Sizes};
    use blixt_dataplane::{
        CompileOptions, Fib, Limits, MaglevSize, PipelineConfig, Slots, Tables, Timeouts, WorkerId,
    };
    use blixt_model::{Generation, HashSeed, Snapshot};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread::{self, ThreadId};

    /// Notes which thread frees it.
    #[derive(Debug, Default)]
    struct Value {
        number: usize,
        freed_by: Arc<Mutex<Vec<(usize, ThreadId)>>>,
    }

    impl Drop for Value {
        fn drop(&mut self) {
            self.freed_by.lock().unwrap().push((self.number, thread::current().id()));
        }
    }

    #[test]
    fn the_thread_that_publishes_frees_what_workers_let_go_of() {
        const VALUES: usize = 10_000;
        let freed_by = Arc::<Mutex<Vec<_>>>::default();
        let shared = Shared::<Value>::default();
        let seen = AtomicUsize::new(0);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut reader = shared.reader();
                    while !done.load(Ordering::Relaxed) {
                        seen.fetch_max(reader.load().number, Ordering::Relaxed);
                    }
                });
            }
            for number in 1..=VALUES {
                shared.publish(Value { number, freed_by: Arc::clone(&freed_by) });
                // Values come and go while they are looked at.
                while number % 100 == 0 && seen.load(Ordering::Relaxed) < number {
                    thread::yield_now();
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        shared.reclaim();
        assert_eq!(shared.retired(), 0);
        let freed_by = freed_by.lock().unwrap();
        let numbers: std::collections::BTreeSet<_> = freed_by.iter().map(|(n, _)| *n).collect();
        assert_eq!(numbers.len(), VALUES - 1, "all but the newest");
        let here = thread::current().id();
        assert!(freed_by.iter().all(|(_, thread)| *thread == here), "a worker had to free one");
    }

    fn config() -> WorkerConfig {
        WorkerConfig {
            id: WorkerId(0),
            core: None,
            pipeline: PipelineConfig {
                worker: WorkerId(0),
                flow_capacity: 64,
                snat_ports: 50_000..=50_100,
                hash_key: [1, 2],
                timeouts: Timeouts::default(),
                limits: Limits::default(),
            },
            sizes: Sizes::for_queues(1, FrameBytes::Half, 2_048),
            hold: HoldLimits::default(),
            spin: false,
        }
    }

    fn tables(generation: u64) -> Tables {
        let snapshot = Snapshot::new(Generation(generation), HashSeed(0), vec![], vec![]).unwrap();
        let maglev = MaglevSize::new(251).unwrap();
        let options = CompileOptions { maglev, ..CompileOptions::default() };
        Tables::compile(&snapshot, &options, &mut Slots::default(), &Tables::default()).unwrap()
    }

    #[test]
    fn a_worker_lets_go_of_tables_and_routes_and_frees_none() {
        let published = Arc::new(Published::new(1));
        let (events, _told) = event_channel();
        let worker = spawn(config(), Arc::clone(&published), events).unwrap();
        // What it starts with counts as adopted too, and must not pass for what comes next.
        while worker.status().fibs_adopted.value() == 0 {
            thread::yield_now();
        }
        for generation in 1..50 {
            // Held here, they can't be freed by `publish` before we have looked.
            let (old_tables, old_fib) = (published.tables.load_full(), published.fib.load_full());
            let (tables_before, fib_before) =
                (Arc::downgrade(&old_tables), Arc::downgrade(&old_fib));
            let adopted = worker.status().fibs_adopted.value();
            published.tables.publish(tables(generation));
            published.fib.publish(Fib::new(vec![], [], [], []));
            worker.wake();
            while worker.status().tables_generation.value() < generation
                || worker.status().fibs_adopted.value() == adopted
            {
                thread::yield_now();
            }
            // The worker has new ones, and the old ones are kept for the writer.
            assert_eq!((Arc::strong_count(&old_tables), Arc::strong_count(&old_fib)), (2, 2));
            drop((old_tables, old_fib));
            assert!(tables_before.upgrade().is_some() && fib_before.upgrade().is_some());
            // Each by its own writer: a full table of routes takes a while.
            published.reclaim_tables();
            assert!(tables_before.upgrade().is_none() && fib_before.upgrade().is_some());
            published.fib.reclaim();
            assert!(fib_before.upgrade().is_none());
        }
        worker.stop();
    }

    #[test]
    fn a_value_that_is_looked_at_is_kept() {
        let shared = Shared::<Vec<u8>>::default();
        let mut reader = shared.reader();
        let old = Arc::downgrade(reader.load());
        shared.publish(vec![1]);
        shared.publish(vec![2]);
        shared.reclaim();
        assert!(old.upgrade().is_some());
        assert_eq!(shared.retired(), 1, "what nobody looked at is gone at once");
        assert_eq!(**reader.load(), [2]);
        assert!(old.upgrade().is_some(), "the reader has let go of it, and freed nothing");
        shared.reclaim();
        assert!(old.upgrade().is_none());
    }
}
