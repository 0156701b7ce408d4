//! How much CPU time was used, and by whom.

use std::process::Command;
use std::sync::OnceLock;

use crate::Error;

/// /proc/stat counts in hundredths of a second (USER_HZ), of all kernels.
const TICK_NS: u64 = 10_000_000;

/// What one core has done so far (proc(5), /proc/stat).
#[derive(Debug, Clone, Copy, Default)]
pub struct Core {
    busy_ns: u64,
    softirq_ns: u64,
    stolen_ns: u64,
    all_ns: u64,
}

/// What it has done in some time, as shares of that.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct CoreUse {
    /// All but idle.
    pub busy: f64,
    /// In softirqs, where the kernel forwards.
    pub softirq: f64,
    /// Taken by the hypervisor.
    pub stolen: f64,
}

/// Whose CPU time a contestant's is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Whose {
    /// That of threads of this process, with what the kernel does on their
    /// behalf.
    Threads,
    /// That of the softirqs and interrupts on the contestant's core.
    Softirq,
}

impl Core {
    /// As it is now.
    pub fn read(core: usize) -> Result<Self, Error> {
        let text = std::fs::read_to_string("/proc/stat")?;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("cpu{core} ")));
        let line = line.ok_or_else(|| format!("there is no core {core}"))?;
        let ticks: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [user, nice, system, idle, iowait, irq, softirq, stolen, ..] = *ticks.as_slice() else {
            return Err("/proc/stat has too few columns".into());
        };
        let softirq_ns = (irq + softirq) * TICK_NS;
        let busy_ns = (user + nice + system) * TICK_NS + softirq_ns;
        let stolen_ns = stolen * TICK_NS;
        let all_ns = busy_ns + stolen_ns + (idle + iowait) * TICK_NS;
        Ok(Self { busy_ns, softirq_ns, stolen_ns, all_ns })
    }

    /// What it has done since then.
    pub fn since(self, then: Self) -> CoreUse {
        let all = self.all_ns.saturating_sub(then.all_ns).max(1) as f64;
        let share = |now: u64, then: u64| now.saturating_sub(then) as f64 / all;
        CoreUse {
            busy: share(self.busy_ns, then.busy_ns),
            softirq: share(self.softirq_ns, then.softirq_ns),
            stolen: share(self.stolen_ns, then.stolen_ns),
        }
    }
}

/// The CPU time so far of `threads`, by name, or of the softirqs of a core if
/// there are none.
pub fn used_ns(threads: &[String], core: usize) -> Result<u64, Error> {
    if threads.is_empty() {
        return Ok(Core::read(core)?.softirq_ns);
    }
    let mut sum = 0;
    for name in threads {
        sum += thread_ns(name)?;
    }
    if softirqs_are_apart() {
        sum += Core::read(core)?.softirq_ns;
    }
    Ok(sum)
}

/// Whether the kernel takes softirqs out of the time of the thread that they
/// ran on top of (CONFIG_IRQ_TIME_ACCOUNTING). Where it does not say, it is
/// believed not to.
fn softirqs_are_apart() -> bool {
    static APART: OnceLock<bool> = OnceLock::new();
    *APART.get_or_init(|| {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let packed = Command::new("gzip").args(["-dc", "/proc/config.gz"]).output();
        let config = match packed {
            Ok(output) if output.status.success() => output.stdout,
            _ => std::fs::read(format!("/boot/config-{}", release.trim())).unwrap_or_default(),
        };
        String::from_utf8_lossy(&config).lines().any(|line| line == "CONFIG_IRQ_TIME_ACCOUNTING=y")
    })
}

/// The CPU time of this process's thread of this name (schedstat in
/// Documentation/scheduler/sched-stats.rst).
fn thread_ns(name: &str) -> Result<u64, Error> {
    for task in std::fs::read_dir("/proc/self/task")?.flatten() {
        let comm = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if comm.trim() == name {
            let stat = std::fs::read_to_string(task.path().join("schedstat"))?;
            return Ok(stat.split_whitespace().next().unwrap_or_default().parse()?);
        }
    }
    Err(format!("there is no thread {name}").into())
}
