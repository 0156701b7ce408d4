//! One network namespace.

use std::fs;
use std::fs::File;
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};

use super::process::{Program, program};

/// Where iproute2 keeps the names of namespaces (ip-netns(8)).
const NAMES: &str = "/run/netns";

/// How the names of ours begin; the number of their process follows.
const PREFIX: &str = "blx";

/// A network namespace, removed when dropped, and its links with it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, with `lo` up. Its name holds `tag`, this process and a
    /// number, so that tests never meet.
    pub fn new(tag: &str) -> Self {
        static STALE: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        STALE.call_once(remove_stale);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{tag}", std::process::id());
        program("ip").args(["netns", "add", &name]).ok();
        let namespace = Self { name };
        namespace.ip("link set lo up");
        // Addresses are usable at once: nobody else is on these networks.
        for scope in ["all", "default"] {
            namespace.sysctl(&format!("net.ipv6.conf.{scope}.accept_dad"), "0");
            namespace.sysctl(&format!("net.ipv6.conf.{scope}.accept_ra"), "0");
        }
        namespace
    }

    /// Its name, for `ip`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A program inside.
    pub fn command(&self, name: impl AsRef<std::ffi::OsStr>) -> Program {
        Program::new(&["ip", "netns", "exec", &self.name], name.as_ref())
    }

    /// Runs `ip` inside, with arguments divided by spaces; panics if it fails.
    pub fn ip(&self, arguments: &str) -> String {
        program("ip").args(["-n", &self.name]).args(arguments.split_whitespace()).ok()
    }

    /// Sets a sysctl inside.
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        let (name, value) = (name.to_owned(), value.to_owned());
        self.inside(move || {
            fs::write(path, &value).unwrap_or_else(|error| panic!("{name}={value}: {error}"));
        });
    }

    /// Runs `work` in a thread that is inside, and waits for it.
    pub fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self.thread(work).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Starts `work` in a thread that is inside. The namespace lives for as
    /// long as the thread, but its links go when the namespace is dropped.
    pub fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        thread_in(&Path::new(NAMES).join(&self.name), work)
    }
}

/// Starts `work` in a thread that is in the network namespace of this file.
pub fn thread_in<T: Send + 'static>(
    network: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let file = File::open(network).unwrap_or_else(|error| panic!("{}: {error}", network.display()));
    thread::spawn(move || {
        setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = program("ip").args(["netns", "del", &self.name]).run();
    }
}

/// Removes the namespaces of test processes that no longer exist.
fn remove_stale() {
    let Ok(names) = fs::read_dir(NAMES) else { return };
    for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if !Path::new(&format!("/proc/{pid}")).exists() {
            let _ = program("ip").args(["netns", "del", &name]).run();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_goes_when_its_test_panics() {
        crate::require_root!();
        let name = thread::spawn(|| {
            let namespace = Namespace::new("panic");
            assert!(Path::new(NAMES).join(namespace.name()).exists());
            std::panic::resume_unwind(Box::new(namespace.name().to_owned()));
        })
        .join()
        .unwrap_err();
        let name = name.downcast::<String>().unwrap();
        assert!(!Path::new(NAMES).join(*name).exists());
    }

    #[test]
    fn what_a_dead_process_left_is_removed_and_the_rest_stays() {
        crate::require_root!();
        // A process that is certainly gone: it was waited for.
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = format!("{PREFIX}{}-0-stale", child.id());
        child.wait().unwrap();
        let alive = Namespace::new("alive");
        program("ip").args(["netns", "add", &dead]).ok();
        remove_stale();
        assert!(!Path::new(NAMES).join(&dead).exists());
        assert!(Path::new(NAMES).join(alive.name()).exists());
    }
}
