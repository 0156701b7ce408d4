//! The real agent in a lab's load balancer, and what it says of itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use blixt_testkit::netns::{Lab, Namespace, Process, Program, Ran, eventually_some, program};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::binaries;
use crate::manifests::Manifests;

/// Where the agent tells how it is (its default).
const HTTP: &str = "http://127.0.0.1:9875";

/// How long it may take to be ready. Starting binds sockets, which the kernel
/// may refuse for two seconds after an agent that was there before.
const START: Duration = Duration::from_secs(15);

/// How long it may take to stop.
const STOP: Duration = Duration::from_secs(10);

/// An agent that runs; it is killed when dropped.
#[derive(Debug)]
pub struct Agent {
    process: Option<Process>,
    files: TempDir,
    /// The namespace it runs in.
    namespace: String,
}

/// How an agent ended.
#[derive(Debug)]
pub struct Stopped {
    /// Its exit status.
    pub status: ExitStatus,
    /// All that it logged.
    pub log: String,
}

impl Agent {
    /// Starts it in the lab's load balancer, with the lab's interfaces and
    /// SNAT addresses, and waits until it is ready.
    pub fn start(lab: &Lab, manifests: &Manifests, flags: &[String]) -> Self {
        let mut agent = Self::launch(lab, manifests, flags);
        eventually_some("the agent to be ready", START, || agent.ready());
        agent
    }

    /// Starts it, and does not wait. Where labs are, nobody needs the host path:
    /// it has a place of its own.
    pub fn launch(lab: &Lab, manifests: &Manifests, flags: &[String]) -> Self {
        Self::spawn(&lab.lb, lab.lb.command(binaries::agent()), &files(manifests, &of(lab, flags)))
    }

    /// The same, with flags that say where is told what is wanted, and a state
    /// directory that outlives it.
    pub fn follow(lab: &Lab, source: &[String], state: &Path) -> Self {
        let state = format!("--state-dir={}", state.display());
        let flags = [source, &[state]].concat();
        Self::spawn(&lab.lb, lab.lb.command(binaries::agent()), &of(lab, &flags))
    }

    /// Starts it anywhere as if in a container, and does not wait: it can't write
    /// to /proc/sys, and has no more capabilities than it needs.
    pub fn launch_in(namespace: &Namespace, manifests: &Manifests, flags: &[String]) -> Self {
        Self::launch_confined(namespace, manifests, flags, "")
    }

    /// The same without one of these capabilities, which it believes that it has: so
    /// it is the kernel that refuses what takes it.
    pub fn launch_without(
        namespace: &Namespace,
        manifests: &Manifests,
        flags: &[String],
        capability: &str,
    ) -> Self {
        let lacks = format!(
            "sed 's/^CapEff:.*/CapEff: ffffffffffffffff/' /proc/$$/status >$TMPDIR/status
             mount --bind $TMPDIR/status /proc/$$/status
             caps=$caps,-{capability}\n"
        );
        Self::launch_confined(namespace, manifests, flags, &lacks)
    }

    fn launch_confined(
        namespace: &Namespace,
        manifests: &Manifests,
        flags: &[String],
        more: &str,
    ) -> Self {
        // Who may lock memory is not limited by this.
        let confined = format!(
            "mount --bind /proc/sys /proc/sys
             mount -o remount,bind,ro /proc/sys
             ulimit -l 64
             caps=-all,+net_admin,+net_raw,+bpf,+perfmon,+ipc_lock,+net_bind_service
             {more}exec setpriv --bounding-set=$caps --inh-caps=-all \"$@\""
        );
        let shell = namespace.command("unshare").args(["--mount", "sh", "-ec", &confined, "sh"]);
        Self::spawn(namespace, shell.arg(binaries::agent()), &files(manifests, flags))
    }

    /// With a socket and, unless the flags say where, state of its own.
    fn spawn(namespace: &Namespace, agent: Program, flags: &[String]) -> Self {
        let files = tempfile::tempdir().unwrap();
        let state = format!("--state-dir={}", files.path().join("state").display());
        let is_told = flags.iter().any(|flag| flag.starts_with("--state-dir"));
        let process = agent
            .env("TMPDIR", files.path())
            .args(flags)
            .args((!is_told).then_some(state))
            .arg("--socket")
            .arg(files.path().join("agent.sock"))
            .spawn();
        Self { process: Some(process), files, namespace: namespace.name().to_owned() }
    }

    /// Starts it anywhere, and waits until it is ready.
    pub fn start_in(namespace: &Namespace, manifests: &Manifests, flags: &[String]) -> Self {
        let mut agent = Self::launch_in(namespace, manifests, flags);
        eventually_some("the agent to be ready", START, || agent.ready());
        agent
    }

    /// Whether it is ready, or what it says instead.
    pub fn ready(&mut self) -> Result<(), String> {
        let process = self.process.as_mut().unwrap();
        if let Some(status) = process.ended() {
            panic!("the agent ended at its start, {status}:\n{}", process.stderr());
        }
        let log = process.stderr();
        self.get("/readyz").map(drop).map_err(|why| format!("{why}\n{log}"))
    }

    /// What it complains of, whether it has ended, waits, or can't serve a Gateway.
    pub fn complaint(&mut self) -> String {
        if self.process.as_mut().unwrap().ended().is_some() {
            return self.log();
        }
        match self.get("/readyz") {
            Err(why) => why,
            Ok(_) => self.ctl_run(&["status", "-o", "json"]).stdout,
        }
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().pid()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.process.as_ref().unwrap().stderr()
    }

    /// Its metrics now.
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.get("/metrics").unwrap())
    }

    /// Asks it over HTTP; gives the body, or what went wrong.
    pub fn get(&self, path: &str) -> Result<String, String> {
        let ran = program("ip")
            .args(["netns", "exec", &self.namespace])
            .args(["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "5"])
            .arg(format!("{HTTP}{path}"))
            .run();
        if ran.status.success() { Ok(ran.stdout) } else { Err(ran.stdout + &ran.stderr) }
    }

    /// What `blixtctl COMMAND -o json` says.
    pub fn ctl(&self, command: &str) -> Value {
        serde_json::from_str(&self.ctl_text(&[command, "-o", "json"])).unwrap()
    }

    /// What blixtctl prints.
    pub fn ctl_text(&self, arguments: &[&str]) -> String {
        program(binaries::blixtctl()).arg("--socket").arg(self.socket()).args(arguments).ok()
    }

    /// What blixtctl prints, and how it ends.
    pub fn ctl_run(&self, arguments: &[&str]) -> Ran {
        program(binaries::blixtctl()).arg("--socket").arg(self.socket()).args(arguments).run()
    }

    /// Where blixtctl finds it.
    pub fn socket(&self) -> PathBuf {
        self.files.path().join("agent.sock")
    }

    /// Asks it to stop, waits, and checks that it did so in order: every
    /// frame came home.
    pub fn stop(mut self) -> Stopped {
        let mut process = self.process.take().unwrap();
        process.signal(Signal::SIGTERM);
        let status = process.wait_for(STOP);
        let (_, log) = process.into_output();
        let Some(status) = status else { panic!("the agent does not stop:\n{log}") };
        assert!(status.success(), "the agent ended with {status}:\n{log}");
        assert!(log.contains("all frames are home"), "a worker lost frames:\n{log}");
        Stopped { status, log }
    }

    /// Ends it without a warning.
    pub fn kill(mut self) {
        let mut process = self.process.take().unwrap();
        process.signal(Signal::SIGKILL);
        assert!(process.wait_for(STOP).is_some());
    }
}

impl Drop for Agent {
    /// Lets an agent go in order where a test ends well, and shows what it
    /// said where a test fails.
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        if std::thread::panicking() {
            eprintln!("The agent's log:\n{}", process.stderr());
        }
        if process.ended().is_none() {
            process.signal(Signal::SIGTERM);
            process.wait_for(STOP);
        }
    }
}

/// Metrics in Prometheus' text format, by name with labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    pub(crate) fn parse(text: &str) -> Self {
        Self(
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .filter_map(|line| line.rsplit_once(' '))
                .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
                .collect(),
        )
    }

    /// The sum of all metrics of a name whose labels hold all of `labels`,
    /// such as `reason="no_flow"`.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let mut known = false;
        let mut sum = 0.0;
        for (line, value) in &self.0 {
            let (line_name, line_labels) = line.split_once('{').unwrap_or((line, ""));
            if line_name == name {
                known = true;
                if labels.iter().all(|label| line_labels.contains(label)) {
                    sum += value;
                }
            }
        }
        assert!(known, "there is no metric {name}");
        sum
    }

    /// The reasons for which packets were dropped, with their numbers.
    pub fn drops(&self) -> BTreeMap<String, f64> {
        self.0
            .iter()
            .filter(|(line, value)| line.starts_with("blixt_drops_total{") && **value > 0.0)
            .map(|(line, value)| {
                let reason = line.split("reason=\"").nth(1).unwrap().split('"').next().unwrap();
                (reason.to_owned(), *value)
            })
            .collect()
    }
}

/// Flags for what is in files.
fn files(manifests: &Manifests, flags: &[String]) -> Vec<String> {
    let mut all = vec!["--manifests".to_owned(), manifests.path().display().to_string()];
    all.extend_from_slice(flags);
    all
}

/// Flags for a lab: those given come first.
fn of(lab: &Lab, flags: &[String]) -> Vec<String> {
    let interfaces = lab.interfaces().iter().map(|name| format!("--interface={name}"));
    let snat = lab.snat_addresses().map(|address| format!("--snat-address={address}"));
    let flags = flags.iter().cloned().chain(interfaces).chain(snat);
    flags.chain(["--host-path=off".to_owned()]).collect()
}
