//! How much CPU time threads of this process have had, as the kernel counts it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// By the threads' names, in nanoseconds. Those that can't be read are left out:
/// they are ending, or the kernel was built without CONFIG_SCHED_INFO.
pub(super) fn times() -> HashMap<String, u64> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks.filter_map(|task| time(&task.path())).collect()
}

fn time(task: &Path) -> Option<(String, u64)> {
    let name = fs::read_to_string(task.join("comm")).ok()?;
    // Time on a CPU, time in a queue for one, turns (Documentation/scheduler/
    // sched-stats.rst).
    let counted = fs::read_to_string(task.join("schedstat")).ok()?;
    let on_cpu = counted.split_whitespace().next()?.parse().ok()?;
    Some((name.trim_end().to_owned(), on_cpu))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn threads_are_known_by_their_names() {
        let (ready, is_ready) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let thread = thread::Builder::new()
            .name("some-worker-7".to_owned())
            .spawn(move || {
                let sum = (0..1_000_000_u64).fold(0, |sum: u64, n| sum.wrapping_mul(31) ^ n);
                ready.send(sum).unwrap();
                let _ = ended.recv();
            })
            .unwrap();
        is_ready.recv().unwrap();
        let time = times().get("some-worker-7").copied();
        assert!(time.is_some_and(|time| time > 0), "{time:?}");
        drop(end);
        thread.join().unwrap();
    }
}
