//! How long a process was ready to run and had no CPU. A test that holds it to
//! a time takes that off: it says something of the machine, nothing of the
//! process.

use std::fs;
use std::time::{Duration, Instant};

/// What is waited for in all, looked at again and again.
#[derive(Debug)]
pub struct Starved {
    pid: u32,
    looks: Vec<(Instant, Duration)>,
}

impl Starved {
    /// Of this process.
    pub fn of(pid: u32) -> Self {
        Self { pid, looks: Vec::new() }
    }

    /// Looks for so long, often.
    pub fn watch(&mut self, duration: Duration) {
        const OFTEN: Duration = Duration::from_millis(10);
        let begin = Instant::now();
        while begin.elapsed() < duration {
            self.looks.push((Instant::now(), on_run_queues(self.pid) + stolen()));
            std::thread::sleep(OFTEN);
        }
    }

    /// How long it waited between two moments, or a little around them.
    pub fn between(&self, from: Instant, to: Instant) -> Duration {
        let before = self.looks.iter().rev().find(|(at, _)| *at <= from).or(self.looks.first());
        let after = self.looks.iter().find(|(at, _)| *at >= to).or(self.looks.last());
        match (before, after) {
            (Some((_, before)), Some((_, after))) => after.saturating_sub(*before),
            _ => Duration::ZERO,
        }
    }
}

/// The time that all its threads have spent on run queues: the second number of
/// `schedstat` (Documentation/scheduler/sched-stats.rst).
fn on_run_queues(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok());
    let waits = stats.filter_map(|stat| stat.split_whitespace().nth(1)?.parse().ok());
    waits.map(Duration::from_nanos).sum()
}

/// The time that this machine's own host has taken from it: the eighth number of
/// all CPUs in /proc/stat, in hundredths of a second (proc_stat(5)).
fn stolen() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let hundredths =
        stat.lines().next().and_then(|all| all.split_whitespace().nth(8)?.parse().ok());
    Duration::from_millis(10 * hundredths.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_waited_is_that_between_the_looks_around() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let looks = [(10, 1), (20, 4), (30, 9)];
        let looks = looks.map(|(when, waited)| (at(when), Duration::from_millis(waited)));
        let starved = Starved { pid: 0, looks: looks.to_vec() };
        let waited = |from, to| starved.between(at(from), at(to)).as_millis();
        assert_eq!(waited(12, 18), 3);
        assert_eq!(waited(10, 30), 8);
        assert_eq!(waited(0, 99), 8);
        assert_eq!(waited(25, 26), 5);
    }

    #[test]
    fn a_process_that_is_there_has_waited() {
        let mut own = Starved::of(std::process::id());
        own.watch(Duration::from_millis(30));
        assert!(own.looks.iter().all(|(_, waited)| *waited > Duration::ZERO));
    }
}
