//! Counts instructions with valgrind's callgrind, and reads what it wrote.
//!
//! A count is the same on every run, busy machine or not, so that a test can
//! hold a packet's cost to a number. It says nothing of waiting for memory.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// Whether it can be used here.
pub fn is_installed() -> bool {
    Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Instructions by who called whom: inclusive ones of each function that
/// another one called, by their names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    calls: BTreeMap<(String, String), u64>,
}

/// Runs a program, counting only while a function whose name contains `within`
/// runs. `directory` is where callgrind may leave its file. Returns what the
/// program said, too.
pub fn run(
    program: &Path,
    args: &[String],
    within: &str,
    directory: &Path,
) -> io::Result<(Profile, String)> {
    let file = directory.join(format!("callgrind.{}.{}", std::process::id(), args.join("-")));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--compress-strings=no", "--compress-pos=no"])
        .arg(format!("--toggle-collect=*{within}*"))
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .args(args)
        .output()?;
    if !output.status.success() {
        let complaints = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("valgrind failed:\n{complaints}")));
    }
    let text = std::fs::read_to_string(&file)?;
    std::fs::remove_file(&file)?;
    Ok((Profile::read(&text), String::from_utf8_lossy(&output.stdout).into_owned()))
}

impl Profile {
    /// Reads callgrind's format, uncompressed (Valgrind manual, §"Callgrind
    /// Format Specification"): `fn=` opens a function; `cfn=` names one it
    /// calls, and the line after the next `calls=` ends with what the call
    /// cost.
    fn read(text: &str) -> Self {
        let mut profile = Self::default();
        let (mut caller, mut callee) = ("", "");
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(name) = line.strip_prefix("fn=") {
                caller = name;
            } else if let Some(name) = line.strip_prefix("cfn=") {
                callee = name;
            } else if line.starts_with("calls=") {
                let cost = lines.next().and_then(|line| line.rsplit(' ').next());
                let cost: u64 = cost.and_then(|cost| cost.parse().ok()).unwrap_or(0);
                *profile.calls.entry((caller.to_owned(), callee.to_owned())).or_default() += cost;
            }
        }
        profile
    }

    /// Instructions of a function, and of all that it called. Names are as far
    /// as they go: the end of a path will do.
    pub fn inclusive(&self, function: &str) -> u64 {
        self.calls
            .iter()
            .filter(|((_, callee), _)| is(callee, function))
            .map(|(_, cost)| cost)
            .sum()
    }

    /// Instructions of a function where `caller` called it.
    pub fn of_call(&self, caller: &str, function: &str) -> u64 {
        let calls = self.calls.iter();
        let calls = calls.filter(|((from, to), _)| is(from, caller) && is(to, function));
        calls.map(|(_, cost)| cost).sum()
    }
}

fn is(name: &str, end: &str) -> bool {
    name.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_with_what_they_cost() {
        let profile = Profile::read(
            "events: Ir\n\nfl=a.rs\nfn=a::outer\n10 5\ncfi=b.rs\ncfn=b::inner\ncalls=2 7\n11 300\n\
             12 1\ncfn=b::other\ncalls=1 9\n12 40\n\nfl=b.rs\nfn=b::inner\n7 300\n",
        );
        assert_eq!(profile.inclusive("inner"), 300);
        assert_eq!(profile.inclusive("b::other"), 40);
        assert_eq!(profile.of_call("a::outer", "inner"), 300);
        assert_eq!(profile.of_call("b::inner", "inner"), 0);
    }
}
