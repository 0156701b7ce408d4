//! What the kernel tells of this process's threads, by their names.

use std::time::Duration;

/// The CPU time of the threads of this name.
pub(super) fn cpu_time_of(thread: &str) -> Duration {
    let stats = told_of(thread, "schedstat").into_iter();
    stats
        .filter_map(|stat| stat.split_whitespace().next()?.parse().ok())
        .map(Duration::from_nanos)
        .sum()
}

/// How often they have waited for something.
pub(super) fn waits_of(thread: &str) -> u64 {
    const SWITCHES: &str = "\nvoluntary_ctxt_switches:";
    let stats = told_of(thread, "status").into_iter();
    stats
        .filter_map(|stat| stat.split_once(SWITCHES)?.1.lines().next()?.trim().parse::<u64>().ok())
        .sum()
}

fn told_of(thread: &str, file: &str) -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let of_name = tasks.filter(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == thread)
    });
    of_name.filter_map(|task| std::fs::read_to_string(task.path().join(file)).ok()).collect()
}
