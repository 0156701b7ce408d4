//! How much memory the agent is going to take, and whether there is as much.
//!
//! All that packets need is taken at the start, so it can be told beforehand. An
//! agent that takes more than there is does not fail: the node begins to reclaim
//! pages, and hangs or kills somebody. So it is refused in a sentence instead.
//!
//! Each part is computed by who takes it, to the byte; tests there compare. What
//! is around the parts is not in it: the kernel's rings and page tables, the few
//! words that an allocator or a queue has of its own. Nor is a second set of
//! frames, where interfaces in zero-copy and in copy mode meet, since that shows
//! when they are bound.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use blixt_afxdp::Sizes;
use blixt_dataplane::flow_bytes;
use blixt_model::Bytes;

use crate::flags::Settings;
use crate::worker::{FlowDirectory, mailbox_bytes};

/// What is left for everything else: compiled tables, manifests, the kernel's
/// routes, threads.
const HEADROOM: u64 = 64 << 20;

/// What is taken, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// The flow tables of all workers.
    pub flows: u64,
    /// Their frames. Where interfaces in zero-copy and in copy mode meet, as
    /// much again.
    pub frames: u64,
    /// Which worker has which flow, where there are several.
    pub directory: u64,
    /// Where they give each other packets.
    pub mailboxes: u64,
    /// The most that is allowed.
    pub budget: Option<u64>,
}

/// Why the agent does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Somebody has set a bound.
    #[error(
        "the agent would take {memory}, and --memory-budget allows {}: {}",
        Bytes(*.budget),
        advice(*.fitting)
    )]
    Budget {
        /// What would be taken.
        memory: Memory,
        /// What may.
        budget: u64,
        /// The capacity that would do.
        fitting: Option<usize>,
    },
    /// There is not as much.
    #[error(
        "the agent would take {memory}, and {} are available ({limit}): {}",
        Bytes(*.available),
        advice(*.fitting)
    )]
    Unavailable {
        /// What would be taken.
        memory: Memory,
        /// What is there.
        available: u64,
        /// Who says so.
        limit: String,
        /// The capacity that would do.
        fitting: Option<usize>,
    },
}

fn advice(fitting: Option<usize>) -> String {
    match fitting {
        Some(flows) => format!("give --flow-capacity {flows} or less"),
        None => "give fewer --workers or --ring-entries".to_owned(),
    }
}

impl Memory {
    /// What an agent with these settings takes.
    pub fn needed(settings: &Settings, sizes: &Sizes) -> Self {
        Self { budget: settings.memory_budget, ..Self::of(settings, sizes, settings.flow_capacity) }
    }

    fn of(settings: &Settings, sizes: &Sizes, flow_capacity: usize) -> Self {
        let workers = u64::from(settings.workers);
        let frame_bytes = sizes.frame_bytes.bytes();
        let mut memory = Self {
            flows: workers * flow_bytes(flow_capacity) as u64,
            frames: workers * sizes.bytes(),
            ..Self::default()
        };
        if workers > 1 {
            let flows = flow_capacity.saturating_mul(settings.workers.into());
            memory.directory = FlowDirectory::bytes(flows) as u64;
            memory.mailboxes = workers * mailbox_bytes(frame_bytes);
        }
        memory
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.flows + self.frames + self.directory + self.mailboxes
    }

    /// Whether it is allowed, and there.
    pub fn check(
        &self,
        settings: &Settings,
        sizes: &Sizes,
        available: &Available,
    ) -> Result<(), MemoryError> {
        // Of the capacities with two digits, so that it is easily typed.
        let fitting = |bytes: u64| {
            let fits = |flows: &usize| Self::of(settings, sizes, *flows).total() <= bytes;
            round_numbers().take_while(fits).last()
        };
        if let Some(budget) = self.budget
            && self.total() > budget
        {
            return Err(MemoryError::Budget { memory: *self, budget, fitting: fitting(budget) });
        }
        let usable = available.bytes.saturating_sub(HEADROOM);
        if self.total() > usable {
            return Err(MemoryError::Unavailable {
                memory: *self,
                available: available.bytes,
                limit: available.limit.clone(),
                fitting: fitting(usable),
            });
        }
        Ok(())
    }
}

/// 1,000, 1,100, and so on to 9,900, 10,000, 11,000, and so on.
fn round_numbers() -> impl Iterator<Item = usize> {
    (2..8).flat_map(|power| (10..100).map(move |digits| digits * 10_usize.pow(power)))
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of memory", Bytes(self.total()))?;
        let parts = [
            ("flow tables", self.flows),
            ("frames", self.frames),
            ("the directory of flows", self.directory),
            ("packets between workers", self.mailboxes),
        ];
        let mut before = " (";
        for (name, bytes) in parts.into_iter().filter(|(_, bytes)| *bytes > 0) {
            write!(f, "{before}{name} {}", Bytes(bytes))?;
            before = ", ";
        }
        f.write_str(")")
    }
}

/// What can be had, in bytes, and what bounds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Available {
    bytes: u64,
    limit: String,
}

impl Available {
    /// What this process can have now, by the node and by its cgroups.
    pub fn now() -> Self {
        Self::read(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
    }

    /// Half of that.
    pub fn half(self) -> Self {
        let limit = format!("half of {}, since a GatewayConfig says so", self.limit);
        Self { bytes: self.bytes / 2, limit }
    }

    /// What cannot be read bounds nothing.
    fn read(proc: &Path, cgroups: &Path) -> Self {
        let unbounded = Self { bytes: u64::MAX, limit: "nothing is known".to_owned() };
        let node = node(proc).map(|bytes| {
            // Free huge pages are in no other number, and are used first.
            let huge = meminfo(proc, "HugePages_Free").unwrap_or(0)
                * meminfo(proc, "Hugepagesize").unwrap_or(0);
            let limit = "MemAvailable in /proc/meminfo".to_owned();
            Self { bytes: bytes.saturating_add(huge << 10), limit }
        });
        let groups = groups(proc, cgroups);
        node.into_iter().chain(groups).min_by_key(|found| found.bytes).unwrap_or(unbounded)
    }
}

fn node(proc: &Path) -> Option<u64> {
    meminfo(proc, "MemAvailable").map(|kib| kib << 10)
}

fn meminfo(proc: &Path, name: &str) -> Option<u64> {
    number_of(&fs::read_to_string(proc.join("meminfo")).ok()?, name)
}

/// The number in the line that begins with a name.
fn number_of(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()?.trim_end_matches(':') == name).then(|| words.next()?.parse().ok())?
    })
}

/// What each cgroup of this process leaves it, in version 2 and in version 1
/// (Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst).
fn groups(proc: &Path, cgroups: &Path) -> Vec<Available> {
    let Ok(memberships) = fs::read_to_string(proc.join("self/cgroup")) else { return Vec::new() };
    let mut found = Vec::new();
    for line in memberships.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (root, files) = match controllers {
            "" => (cgroups.to_owned(), ["memory.max", "memory.current", "inactive_file"]),
            _ if controllers.split(',').any(|name| name == "memory") => (
                cgroups.join("memory"),
                ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"],
            ),
            _ => continue,
        };
        // Each of them bounds those below it. Inside a container the path may
        // be one that is not there; its own is the root then.
        let inside = root.join(path.trim_start_matches('/'));
        let all = inside.ancestors().take_while(|path| path.starts_with(&root));
        found.extend(all.filter_map(|path| left_in(path, files)));
    }
    found
}

fn left_in(group: &Path, [max, current, reclaimable]: [&str; 3]) -> Option<Available> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok();
    // "max" is no number: no bound.
    let limit: u64 = read(max)?.trim().parse().ok()?;
    let used: u64 = read(current)?.trim().parse().ok()?;
    let cache = read("memory.stat").and_then(|stat| number_of(&stat, reclaimable)).unwrap_or(0);
    let bytes = limit.saturating_sub(used.saturating_sub(cache));
    let file: PathBuf = group.join(max);
    Some(Available { bytes, limit: format!("{} in {}", Bytes(limit), file.display()) })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use blixt_afxdp::FrameBytes;
    use clap::Parser;

    fn settings(more: &str) -> Settings {
        let line =
            format!("blixt-agent --manifests /m --interface eth0 --snat-address 192.0.2.10 {more}");
        crate::flags::Flags::parse_from(line.split_whitespace()).settings().unwrap()
    }

    const SIZES: Sizes =
        Sizes { frames: 8_192, frame_bytes: FrameBytes::Half, ring_entries: 2_048 };

    fn checked(more: &str, available: u64) -> Result<(), String> {
        let settings = settings(more);
        let available = Available { bytes: available, limit: "a test".to_owned() };
        let memory = Memory::needed(&settings, &SIZES);
        memory.check(&settings, &SIZES, &available).map_err(|error| error.to_string())
    }

    #[test]
    fn ten_million_flows_take_128_bytes_each_on_any_number_of_workers() {
        for workers in [1, 2, 4, 8] {
            let flags = format!("--workers {workers} --flow-capacity {}", 10_000_000 / workers);
            let memory = Memory::needed(&settings(&flags), &SIZES);
            let each = (memory.flows + memory.directory) as f64 / 10_000_000.0;
            assert!(each <= if workers == 1 { 118.0 } else { 128.0 }, "{workers}: {each}");
        }
    }

    #[test]
    fn it_is_told_by_its_parts() {
        let alone = Memory::needed(&settings("--flow-capacity 10000000"), &SIZES);
        assert_eq!(alone.to_string(), "1.1 GiB of memory (flow tables 1.1 GiB, frames 16.0 MiB)");
        let two = Memory::needed(&settings("--workers 2 --flow-capacity 1000"), &SIZES);
        assert_eq!(
            two.to_string(),
            "40.0 MiB of memory (flow tables 4.0 MiB, frames 32.0 MiB, the directory of flows \
             19.5 KiB, packets between workers 4.0 MiB)"
        );
    }

    #[test]
    fn more_than_is_allowed_or_there_is_refused_with_what_would_do() {
        const GIB: u64 = 1 << 30;
        assert_eq!(checked("", GIB), Ok(()));
        assert_eq!(checked("--memory-budget 1GiB", GIB), Ok(()));
        assert_eq!(
            checked("--flow-capacity 100000000", GIB).unwrap_err(),
            "the agent would take 11.0 GiB of memory (flow tables 10.9 GiB, frames 16.0 MiB), and \
             1.0 GiB are available (a test): give --flow-capacity 8400000 or less"
        );
        assert_eq!(
            checked("--flow-capacity 10000000 --memory-budget 512MiB", 99 * GIB).unwrap_err(),
            "the agent would take 1.1 GiB of memory (flow tables 1.1 GiB, frames 16.0 MiB), and \
             --memory-budget allows 512.0 MiB: give --flow-capacity 4400000 or less"
        );
        let none = checked("--workers 16 --memory-budget 100MiB", GIB).unwrap_err();
        assert!(none.ends_with("give fewer --workers or --ring-entries"), "{none}");
    }

    /// Files with these contents below a directory.
    fn files(contents: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in contents {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) = (
        "meminfo",
        "MemTotal: 9000 kB\nMemAvailable:    8000 kB\nHugePages_Free:        1\nHugepagesize:       2048 kB\n",
    );

    fn available(proc: &[(&str, &str)], cgroups: &[(&str, &str)]) -> (u64, String) {
        let (proc, cgroups) = (files(proc), files(cgroups));
        let found = Available::read(proc.path(), cgroups.path());
        (found.bytes, found.limit.replace(&cgroups.path().display().to_string(), "/cg"))
    }

    #[test]
    fn the_tightest_bound_counts() {
        let node = (10_048 << 10, "MemAvailable in /proc/meminfo".to_owned());
        assert_eq!(available(&[MEMINFO], &[]), node);
        let own = ("self/cgroup", "0::/pods/agent\n");
        assert_eq!(available(&[MEMINFO, own], &[("pods/agent/memory.max", "max\n")]), node);
        let cgroups = [
            ("pods/agent/memory.max", "max\n"),
            ("pods/agent/memory.current", "100\n"),
            ("pods/memory.max", "2000000\n"),
            ("pods/memory.current", "1500000\n"),
            ("pods/memory.stat", "anon 900000\ninactive_file 400000\n"),
        ];
        assert_eq!(
            available(&[MEMINFO, own], &cgroups),
            (900_000, "1.9 MiB in /cg/pods/memory.max".to_owned())
        );
        // In a container of its own.
        let cgroups = [("memory.max", "500000\n"), ("memory.current", "100000\n")];
        assert_eq!(available(&[MEMINFO, own], &cgroups).0, 400_000);
        let old = ("self/cgroup", "5:devices:/\n4:cpu,memory:/a\n0::/\n");
        let cgroups = [
            ("memory/a/memory.limit_in_bytes", "300000\n"),
            ("memory/a/memory.usage_in_bytes", "100000\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/memory.usage_in_bytes", "100000\n"),
        ];
        assert_eq!(available(&[MEMINFO, old], &cgroups).0, 200_000);
    }

    #[test]
    fn what_cannot_be_read_bounds_nothing() {
        assert_eq!(available(&[], &[]).0, u64::MAX);
        assert!(Available::now().bytes > 0);
    }
}
