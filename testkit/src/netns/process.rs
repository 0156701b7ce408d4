//! Programs with a time limit, whose end is certain.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

/// How long a program may run that says nothing else.
const LIMIT: Duration = Duration::from_secs(30);

/// A program that is about to be run.
#[derive(Debug)]
pub struct Program {
    command: Command,
    line: String,
    limit: Duration,
}

/// A program of this machine, in the namespace of the calling thread.
pub fn program(name: impl AsRef<OsStr>) -> Program {
    Program::new(&[], name.as_ref())
}

impl Program {
    /// Runs `name` by way of `prefix`. It dies with the thread that starts
    /// it: a test that is killed leaves no server behind.
    pub(super) fn new(prefix: &[&str], name: &OsStr) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).args(prefix).arg(name).stdin(Stdio::null());
        Self { command, line: name.to_string_lossy().into_owned(), limit: LIMIT }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        let _ = write!(self.line, " {}", arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Lets it run for at most `limit`.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end. Panics only if it can't be started or takes longer
    /// than it may; that it failed is for the caller to judge.
    pub fn run(self) -> Ran {
        let (limit, line, start) = (self.limit, self.line.clone(), Instant::now());
        let mut process = self.spawn();
        let status = process.wait_for(limit);
        let (stdout, stderr) = process.into_output();
        let Some(status) = status else {
            panic!("`{line}` ran for longer than {limit:?}\n{stdout}{stderr}");
        };
        Ran { line, status, stdout, stderr, took: start.elapsed() }
    }

    /// Runs it to its end and gives what it printed; panics if it fails.
    pub fn ok(self) -> String {
        self.run().ok()
    }

    /// Starts it. It is ended when the result is dropped; nobody else ends it.
    pub fn spawn(mut self) -> Process {
        use std::os::unix::process::CommandExt;
        // A group of its own, so that what it starts can be ended with it.
        let mut child = self
            .command
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("`{}` can't be started: {error}", self.line));
        let stdout = Reader::new(child.stdout.take().unwrap());
        let stderr = Reader::new(child.stderr.take().unwrap());
        Process { child, line: self.line, status: None, stdout, stderr }
    }
}

/// What came of a program.
#[derive(Debug)]
pub struct Ran {
    /// What was run, for messages.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Ran {
    /// What it printed; panics if it failed.
    pub fn ok(self) -> String {
        let Self { line, status, stdout, stderr, .. } = self;
        assert!(status.success(), "`{line}`: {status}\n{stdout}{stderr}");
        stdout
    }
}

/// A program that runs.
#[derive(Debug)]
pub struct Process {
    child: Child,
    line: String,
    status: Option<ExitStatus>,
    stdout: Reader,
    stderr: Reader,
}

impl Process {
    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has complained about so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            let id = Id::Pid(Pid::from_raw(self.pid().cast_signed()));
            let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            if waitid(id, look).unwrap() != WaitStatus::StillAlive {
                self.end();
            }
        }
        self.status
    }

    /// Sends it, and it alone, a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed());
        nix::sys::signal::kill(pid, signal)
            .unwrap_or_else(|error| panic!("`{}` takes no {signal}: {error}", self.line));
    }

    /// Waits for its end, for `limit` at most.
    pub fn wait_for(&mut self, limit: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if start.elapsed() > limit {
                return None;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends it, with all it started, and gives what it printed.
    pub fn into_output(mut self) -> (String, String) {
        self.end();
        (self.stdout.finish(), self.stderr.finish())
    }

    /// Ends its group. It has not been waited for before, so its number can't
    /// have become somebody else's.
    fn end(&mut self) {
        if self.status.is_none() {
            let _ = killpg(Pid::from_raw(self.pid().cast_signed()), Signal::SIGKILL);
            self.status = self.child.wait().ok();
            // All that it said is there when its end is known.
            self.stdout.finish();
            self.stderr.finish();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Collects what a pipe gives, so that a program never blocks on a full one.
#[derive(Debug)]
struct Reader {
    text: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn new(mut pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&text);
        let thread = thread::spawn(move || {
            let mut piece = [0; 8_192];
            while let Ok(length @ 1..) = pipe.read(&mut piece) {
                written.lock().unwrap().extend_from_slice(&piece[..length]);
            }
        });
        Self { text, thread: Some(thread) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    /// All of it: the other ends of the pipe are closed by now.
    fn finish(&mut self) -> String {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_status_come_back() {
        let ran = program("sh").args(["-c", "echo out; echo err >&2; exit 3"]).run();
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
        assert_eq!(ran.status.code(), Some(3));
    }

    #[test]
    #[should_panic(expected = "ran for longer than")]
    fn a_program_that_hangs_is_ended() {
        program("sleep").arg("100").limit(Duration::from_millis(50)).run();
    }

    #[test]
    fn what_a_program_started_goes_with_it() {
        let shell = program("sh").args(["-c", "sleep 100 & echo $!; wait"]).spawn();
        super::super::eventually("the shell", LIMIT, || shell.stdout().ends_with('\n'));
        let pid = shell.stdout();
        let proc = std::path::PathBuf::from(format!("/proc/{}", pid.trim()));
        assert!(proc.exists());
        drop(shell);
        // It is a zombie until init has taken notice.
        super::super::eventually("the end of sleep", LIMIT, || {
            std::fs::read_to_string(proc.join("stat")).map_or(true, |stat| stat.contains(") Z "))
        });
    }
}
