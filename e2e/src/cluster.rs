//! A real cluster to install Blixt into: one of `scripts/cluster`, or, with
//! KUBECONFIG in the environment, that one, and this machine as its client.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use blixt_testkit::netns::{Process, Program, Ran, program, root_or_skip, thread_in};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::alone;
use crate::binaries;
use crate::knocks::{Door, Knocks};
use crate::lab;

/// What clusters of tests are called. How long nobody answers is measured in them: each
/// has two cores of the machine, or there is only one; but where tests wait for each other
/// ([`alone::AT_WORK`]).
const NAMES: [&str; 3] = ["blixt-cluster", "blixt-cluster2", "blixt-cluster3"];
const CORES: usize = 2;

/// What a cluster is brought up with.
const PROGRAMS: [&str; 6] = ["kubelet", "kube-apiserver", "etcd", "containerd", "kubectl", "helm"];

/// The tag of images that are the same and yet another version, for upgrades.
pub const NEXT: &str = "next";

/// How long building images may take where nothing is built yet.
const BUILDING: Duration = Duration::from_secs(1_800);

/// How long a cluster may take to come up, or something in it.
const PATIENCE: Duration = Duration::from_secs(300);

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A cluster. One that was brought up for a test goes with it.
#[derive(Debug)]
pub struct Cluster {
    /// Whether it was.
    ours: bool,
    /// What `scripts/cluster` knows it by.
    name: &'static str,
    /// Held for as long as it is used.
    _lock: Flock<File>,
}

/// Requests, one after the other, for as long as it is there.
#[derive(Debug)]
pub struct Load(Process);

/// What became of a [`Load`].
#[derive(Debug)]
pub struct Outcome {
    /// How many requests were answered.
    pub answered: usize,
    /// What the others came to.
    pub failures: Vec<String>,
    /// The longest time without an answer, in seconds.
    pub longest_gap_s: f64,
}

impl Cluster {
    /// Brings one up, with Blixt's images on its nodes; or takes the one that
    /// KUBECONFIG leads to, which has to have them. `None` if the test is to be
    /// skipped.
    pub fn up(test: &str, offloads: bool) -> Option<Self> {
        let ours = env::var_os("KUBECONFIG").is_none();
        if ours {
            if !root_or_skip(test) {
                return None;
            }
            lab::require(&PROGRAMS);
        }
        let cores = thread::available_parallelism().unwrap().get();
        let at_once = match env::var_os(alone::AT_WORK) {
            _ if !ours => 1,
            None => (cores / CORES).clamp(1, NAMES.len()),
            Some(_) => NAMES.len(),
        };
        let (name, lock) = one_that_is_free(&NAMES[..at_once]);
        let cluster = Self { ours, name, _lock: lock };
        if !ours {
            return Some(cluster);
        }
        let images = images(name);
        // What a test that was killed has left.
        cluster.script("down").ok();
        let offloads = (!offloads).then_some("--no-offloads");
        cluster.script("up").args(offloads).limit(PATIENCE).ok();
        cluster.script("load").args(images).limit(PATIENCE).ok();
        Some(cluster)
    }

    fn script(&self, command: &str) -> Program {
        script(command).env("BLIXT_CLUSTER", self.name)
    }

    /// The network of a place, where it is one of `scripts/cluster`.
    pub fn network(&self, place: &str) -> PathBuf {
        format!("/run/netns/{}-{place}", self.name).into()
    }

    /// What is kept of it, where it is one of `scripts/cluster`.
    pub fn directory(&self) -> PathBuf {
        format!("/var/lib/{}", self.name).into()
    }

    /// What leads to it, from the networks of its control plane and its client, where
    /// it is one of `scripts/cluster`.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory().join("kubeconfig")
    }

    /// The processes of a program on one of its nodes, where it is one of
    /// `scripts/cluster`.
    pub fn processes(&self, program_name: &str, node: &str) -> Vec<String> {
        processes(program_name, &format!("/{}/{node}/", self.name))
    }

    /// Whether it is one of `scripts/cluster`, whose nodes can be looked at.
    pub fn is_ours(&self) -> bool {
        self.ours
    }

    /// The same, and says that this is not done if not: it takes a hand on nodes.
    pub fn is_ours_or_skip(&self, what: &str) -> bool {
        if !self.ours {
            println!("SKIPPED {what}: this is somebody else's cluster");
        }
        self.ours
    }

    /// kubectl, not run yet.
    pub fn kubectl(&self, arguments: &[&str]) -> Program {
        let kubectl = if self.is_ours() { self.script("kubectl") } else { program("kubectl") };
        kubectl.args(arguments).limit(PATIENCE)
    }

    /// Applies the objects of a YAML text.
    pub fn apply(&self, yaml: &str) {
        self.with_file(yaml, "apply");
    }

    /// Deletes the objects of a YAML text.
    pub fn delete(&self, yaml: &str) {
        self.with_file(yaml, "delete");
    }

    fn with_file(&self, yaml: &str, verb: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, yaml).unwrap();
        self.kubectl(&[verb, "-f", file.path().to_str().unwrap()]).ok();
    }

    /// What users type: a shell's line at the root of the repository, where
    /// `kubectl` and `helm` lead to this cluster.
    pub fn shell(&self, line: &str) -> Ran {
        let programs = match self.is_ours() {
            true => format!(
                "export BLIXT_CLUSTER={name}
                 kubectl() {{ {script} kubectl \"$@\"; }}
                 helm() {{ {script} exec control env KUBECONFIG={kubeconfig} {helm} \"$@\"; }}
                 ",
                name = self.name,
                script = root().join("scripts/cluster").display(),
                kubeconfig = self.kubeconfig().display(),
                helm = lab::bin("helm").display()
            ),
            false => String::new(),
        };
        program("bash")
            .args(["-euo", "pipefail", "-c"])
            .arg(format!("cd {}; {programs}{line}", root().display()))
            .limit(PATIENCE)
            .run()
    }

    /// A program in the client's place, outside of the cluster.
    pub fn client(&self, name: &str) -> Program {
        self.at("client", name)
    }

    /// A program in the network of a node, or another place. In somebody else's
    /// cluster there is no such place but this machine.
    pub fn at(&self, place: &str, name: &str) -> Program {
        match self.is_ours() {
            true => self.script("exec").args([place, name]),
            false => program(name),
        }
    }

    /// Begins to ask a web server of the sample for its name.
    pub fn load(&self, address: &str) -> Load {
        const LOOP: &str = r#"
            while :; do
                answer=$(curl -s -S --max-time 2 "http://$0/hostname" 2>&1) && what=ok || what=failed
                echo "$EPOCHREALTIME $what $answer"
                sleep 0.02
            done"#;
        Load(self.client("bash").args(["-c", LOOP, address]).spawn())
    }

    /// Begins to knock at a door, every 10 ms.
    pub fn knocks(&self, door: Door) -> Knocks {
        Knocks::begin(door, |work| self.client_thread(work))
    }

    /// Does something in the client's network. What is opened there stays there.
    pub fn as_client<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.client_thread(work).join().unwrap()
    }

    fn client_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        match self.is_ours() {
            true => thread_in(&self.network("client"), work),
            false => thread::spawn(work),
        }
    }

    /// A command of `scripts/cluster`, which ours alone has.
    pub fn lab(&self, arguments: &[&str]) -> Ran {
        let (command, arguments) = arguments.split_first().unwrap();
        self.script(command).args(arguments).limit(PATIENCE).run()
    }
}

impl Load {
    /// Ends it, and gives what became of it.
    pub fn stop(self) -> Outcome {
        let (stdout, _) = self.0.into_output();
        let (mut failures, mut all, mut answered) = (Vec::new(), Vec::new(), Vec::new());
        for line in stdout.lines() {
            let (time, what) = line.split_once(' ').unwrap();
            let time = time.parse::<f64>().unwrap();
            all.push(time);
            match what.strip_prefix("ok ") {
                Some(_) => answered.push(time),
                None => failures.push(line.to_owned()),
            }
        }
        Outcome::new(&all, answered, failures)
    }
}

impl Outcome {
    /// Of when requests began (or ended), in seconds: all in their order, and those
    /// that were answered; and what came of the others.
    pub(crate) fn new(all: &[f64], answered: Vec<f64>, failures: Vec<String>) -> Self {
        // An outage from the beginning, or to the end, is one too.
        let ends = all.first().into_iter().chain(all.last());
        let mut times: Vec<_> = ends.chain(&answered).copied().collect();
        times.sort_by(f64::total_cmp);
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        let longest_gap_s = gaps.fold(0.0, f64::max);
        Self { answered: answered.len(), failures, longest_gap_s }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        if std::thread::panicking() {
            eprintln!("{}", self.shell(STATE_OF_THINGS).stdout);
        }
        self.script("down").run();
    }
}

/// Waits for one that no other test has.
fn one_that_is_free(names: &[&'static str]) -> (&'static str, Flock<File>) {
    loop {
        for name in names {
            let file = File::create(env::temp_dir().join(format!("{name}.lock"))).unwrap();
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return (name, lock),
                Err((_, Errno::EWOULDBLOCK)) => {}
                Err((_, error)) => panic!("{name}: {error}"),
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// The processes of a program on clusters of `scripts/cluster`, by a part of their
/// cgroup's path, such as a pod's uid. Whatever else this machine runs is none of them.
pub fn processes(program_name: &str, cgroup: &str) -> Vec<String> {
    let found = program("pgrep").args(["-x", program_name]).run().stdout;
    let is_there = |pid: &&str| {
        fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|path| path.contains(cgroup))
    };
    found.split_whitespace().filter(is_there).map(str::to_owned).collect()
}

/// What one wants to see of a cluster where a test has failed.
const STATE_OF_THINGS: &str = "
    kubectl get pods,gateways,tcproutes,udproutes,addresspools,gatewayconfigs --all-namespaces --output wide || true
    kubectl get events --all-namespaces --sort-by .lastTimestamp | tail -n 30 || true
    for who in daemonset/blixt-agent deployment/blixt-controller; do
        echo \"== $who\"
        kubectl --namespace blixt-system logs --all-pods --prefix --tail 60 $who 2>&1 || true
    done";

fn script(command: &str) -> Program {
    program(root().join("scripts/cluster")).env("BLIXT_LAB_BIN", lab::directory()).arg(command)
}

/// The images of what is under test, made of this build.
fn images(name: &str) -> Vec<PathBuf> {
    let test = env::current_exe().unwrap();
    // TARGET/debug/deps/TEST-HASH
    let target = test.ancestors().nth(3).unwrap();
    let directory = target.join("lab").join(name);
    program(root().join("scripts/images"))
        .env("CARGO_TARGET_DIR", target)
        .env("BLIXT_IMAGES_PROFILE", "dev")
        .env("BLIXT_IMAGES_TAGS", format!("v{} {NEXT}", env!("CARGO_PKG_VERSION")))
        .arg(&directory)
        .limit(BUILDING)
        .ok();
    ["blixt-agent", "blixt-controller"].map(|name| directory.join(format!("{name}.tar"))).into()
}

/// Asks one of our programs for help, with flags before: it complains of one
/// that does not exist.
pub fn takes(program_name: &str, flags: &[String]) -> Ran {
    let path = match program_name {
        "blixt-agent" => binaries::agent(),
        "blixt-controller" => binaries::controller(),
        other => panic!("there is no program {other}"),
    };
    program(path).args(flags).arg("--help").run()
}
