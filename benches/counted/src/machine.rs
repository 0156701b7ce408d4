//! What a number means little without: where it was measured, when, and how.

use std::process::Command;

use serde::Serialize;

/// The machine, the source and the command.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// `uname -r`.
    pub kernel: String,
    /// From /proc/cpuinfo.
    pub cpu: String,
    /// How many.
    pub cores: usize,
    /// Of the last minute, before the run: other work makes numbers noisy.
    pub load: f64,
    /// In UTC.
    pub date: String,
    /// Of the source, with `-dirty` if there are changes besides.
    pub commit: String,
    /// How it was called.
    pub command: String,
}

impl Machine {
    /// This one, now, for who was called by `program` and arguments.
    pub fn here(program: &str) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        let cpu = cpu.map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let load = read("/proc/loadavg");
        let load = load.split_whitespace().next().and_then(|load| load.parse().ok());
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: cpu.to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            load: load.unwrap_or_default(),
            date: output("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
            commit: output("git", &["describe", "--always", "--abbrev=12", "--dirty"]),
            command: format!("{program} {}", arguments.join(" ")).trim().to_owned(),
        }
    }
}

/// What a program says, or `unknown`.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().ok();
    let text = output.filter(|output| output.status.success()).map(|output| output.stdout);
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).trim().to_owned();
    if text.is_empty() { "unknown".to_owned() } else { text }
}
