//! The real controller beside an API server, and what it says of itself.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use blixt_testkit::netns::{Process, eventually_some};
use nix::sys::signal::Signal;

use crate::agent::Metrics;
use crate::api_server::ApiServer;
use crate::binaries;

/// How long it may take to be ready.
const START: Duration = Duration::from_secs(20);

/// How long it may take to stop.
const STOP: Duration = Duration::from_secs(10);

/// The namespace that it takes itself to be in.
pub const NAMESPACE: &str = "blixt-system";

/// A controller that runs; it is killed when dropped.
#[derive(Debug)]
pub struct Controller {
    process: Option<Process>,
    /// The API server's namespace.
    namespace: String,
    http: String,
    agents_port: u16,
}

impl Controller {
    /// Builds it now, so that nothing has to be built while it is started.
    pub fn build() {
        binaries::controller();
    }

    /// Starts a replica, and waits until it knows the cluster.
    pub fn start(server: &ApiServer, identity: &str) -> Self {
        Self::start_with(server, identity, &[])
    }

    /// Starts one with more flags.
    pub fn start_with(server: &ApiServer, identity: &str, flags: &[&str]) -> Self {
        let mut controller = Self::launch_with(server, identity, flags);
        eventually_some("the controller to be ready", START, || controller.ready());
        controller
    }

    /// Starts a replica, and does not wait.
    pub fn launch(server: &ApiServer, identity: &str) -> Self {
        Self::launch_with(server, identity, &[])
    }

    fn launch_with(server: &ApiServer, identity: &str, flags: &[&str]) -> Self {
        // Replicas share the namespace, and tests follow one another quickly.
        static PORT: AtomicU16 = AtomicU16::new(9_876);
        let port = || PORT.fetch_add(1, Ordering::Relaxed);
        let http = format!("127.0.0.1:{}", port());
        let agents_port = port();
        let process = server
            .namespace
            .command(binaries::controller())
            .env("KUBECONFIG", server.kubeconfig())
            .args(["--namespace", NAMESPACE, "--identity", identity])
            .args(["--listen", &format!("127.0.0.1:{agents_port}")])
            .args(["--http", &http, "--log-level", "debug,hyper=off,tower=off,rustls=off,h2=off"])
            .args(flags)
            .spawn();
        let namespace = server.namespace.name().to_owned();
        Self { process: Some(process), namespace, http, agents_port }
    }

    /// The port at which agents find it.
    pub fn agents_port(&self) -> u16 {
        self.agents_port
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().pid()
    }

    /// Whether it is ready, or what it says instead.
    pub fn ready(&mut self) -> Result<(), String> {
        let process = self.process.as_mut().unwrap();
        if let Some(status) = process.ended() {
            panic!("the controller ended at its start, {status}:\n{}", process.stderr());
        }
        self.get("/readyz").map(drop)
    }

    /// Whether it leads.
    pub fn leads(&self) -> bool {
        self.metrics().sum("blixt_controller_leader", &[]) == 1.0
    }

    /// Its metrics now.
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.get("/metrics").unwrap())
    }

    /// How many writes came to this.
    pub fn writes(&self, outcome: &str) -> f64 {
        self.metrics().sum("blixt_controller_writes_total", &[&format!("outcome=\"{outcome}\"")])
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.process.as_ref().unwrap().stderr()
    }

    /// Lets it hang, as a machine without time would.
    pub fn hang(&self) {
        self.process.as_ref().unwrap().signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.process.as_ref().unwrap().signal(Signal::SIGCONT);
    }

    /// Asks it to stop, and checks that it did so in order; gives its log.
    pub fn stop(mut self) -> String {
        let mut process = self.process.take().unwrap();
        process.signal(Signal::SIGTERM);
        let status = process.wait_for(STOP);
        let (_, log) = process.into_output();
        let Some(status) = status else { panic!("the controller does not stop:\n{log}") };
        assert!(status.success(), "the controller ended with {status}:\n{log}");
        log
    }

    /// Ends it without a warning.
    pub fn kill(mut self) {
        drop(self.process.take());
    }

    fn get(&self, path: &str) -> Result<String, String> {
        let ran = blixt_testkit::netns::program("ip")
            .args(["netns", "exec", &self.namespace])
            .args(["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "5"])
            .arg(format!("http://{}{path}", self.http))
            .run();
        if ran.status.success() { Ok(ran.stdout) } else { Err(ran.stdout + &ran.stderr) }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let Some(process) = self.process.take() else { return };
        if std::thread::panicking() {
            eprintln!("The controller's log:\n{}", process.stderr());
        }
    }
}
