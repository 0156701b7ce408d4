//! A node with two links, an agent on it, and questions to that agent.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use blixt_testkit::netns::{Namespace, Process, eventually_some, veth};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// How long anything may take that is not measured.
pub(crate) const SOON: Duration = Duration::from_secs(15);

const HTTP: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9_875);

/// A Gateway at 10.1.0.100 with one endpoint behind it.
pub(crate) const GOOD: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: blixt}
spec: {controllerName: gateway.networking.k8s.io/blixt}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web}
spec:
  gatewayClassName: blixt
  addresses: [{value: 10.1.0.100}, {value: \"2001:db8:1::100\"}]
  listeners: [{name: tcp, protocol: TCP, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: web}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.2.0.2]}]
ports: [{port: 8080}]
";

/// A namespace with the links `front` and `back`, their other ends in
/// another one, and files for an agent.
pub(crate) struct Node {
    pub(crate) node: Namespace,
    pub(crate) far: Namespace,
    pub(crate) files: TempDir,
}

impl Node {
    pub(crate) fn new() -> Self {
        let (node, far) = (Namespace::new("node"), Namespace::new("far"));
        let files = tempfile::tempdir().unwrap();
        let this = Self { node, far, files };
        this.connect("front", "10.1.0", "2001:db8:1:");
        this.connect("back", "10.2.0", "2001:db8:2:");
        fs::create_dir(this.manifests()).unwrap();
        this.write(GOOD);
        this
    }

    /// Links `name` with the far namespace; the node has the networks' .1.
    pub(crate) fn connect(&self, name: &str, v4: &str, v6: &str) {
        veth(&self.node, name, &self.far, name);
        for (namespace, host) in [(&self.node, 1), (&self.far, 2)] {
            namespace.ip(&format!("address add {v4}.{host}/24 dev {name}"));
            namespace.ip(&format!("address add {v6}:{host}/64 dev {name} nodad"));
        }
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.files.path().join("manifests")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.files.path().join("run/agent.sock")
    }

    /// Writes the manifests as a careful person does: whole or not at all.
    pub(crate) fn write(&self, text: &str) {
        let new = self.manifests().join(".new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.manifests().join("all.yaml")).unwrap();
    }

    /// The flags of an agent on both links.
    pub(crate) fn flags(&self) -> Vec<String> {
        let path = |path: PathBuf| path.display().to_string();
        [
            "--manifests",
            &path(self.manifests()),
            "--interface=front",
            "--interface=back",
            "--snat-address=10.2.0.50",
            "--snat-address=2001:db8:2::50",
            "--socket",
            &path(self.socket()),
            "--state-dir",
            &path(self.files.path().join("state")),
            "--flow-capacity=4096",
            // It has tests of its own.
            "--host-path=off",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Starts an agent with these flags.
    pub(crate) fn launch(&self, flags: &[String]) -> Agent<'_> {
        let process = self.node.command(env!("CARGO_BIN_EXE_blixt-agent")).args(flags).spawn();
        Agent { node: self, process }
    }

    /// Starts one that may have so many file descriptors open.
    pub(crate) fn launch_with_descriptors(&self, most: usize) -> Agent<'_> {
        let command = self.node.command("prlimit").arg(format!("--nofile={most}:{most}"));
        let agent = command.arg(env!("CARGO_BIN_EXE_blixt-agent"));
        Agent { node: self, process: agent.args(self.flags()).spawn() }
    }

    /// Starts an agent on both links, and waits until it is ready.
    pub(crate) fn start(&self) -> Agent<'_> {
        let mut agent = self.launch(&self.flags());
        agent.wait_until_ready();
        agent
    }

    /// Whether an interface of the node runs an XDP program.
    pub(crate) fn has_xdp(&self, name: &str) -> bool {
        self.node.ip(&format!("link show {name}")).contains("xdp")
    }

    /// Whether it leaves checksums to the hardware.
    pub(crate) fn has_tx_checksums(&self, name: &str) -> bool {
        self.node.has_offload(name, "tx-checksum-ip-generic")
    }

    /// Asks over HTTP: whether the answer is good, and its text.
    pub(crate) fn get(&self, path: &'static str) -> Result<String, String> {
        let answer = self.node.inside(move || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&HTTP, SOON)?;
            stream.set_read_timeout(Some(SOON))?;
            write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        let answer = answer.map_err(|error| error.to_string())?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        if head.starts_with("HTTP/1.1 200") { Ok(body.to_owned()) } else { Err(body.to_owned()) }
    }

    /// A metric without labels, or with just these.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    }
}

/// An agent that runs.
pub(crate) struct Agent<'a> {
    node: &'a Node,
    process: Process,
}

impl Agent<'_> {
    pub(crate) fn wait_until_ready(&mut self) {
        eventually_some("the agent to be ready", SOON, || {
            if let Some(status) = self.process.ended() {
                panic!("the agent ended, {status}:\n{}", self.process.stderr());
            }
            self.node.get("/readyz").map_err(|why| format!("{why}\n{}", self.process.stderr()))
        });
    }

    /// Waits until it is ready, or gives what it says if it ends instead.
    pub(crate) fn ready_or_ended(&mut self) -> Result<(), String> {
        eventually_some("the agent to be ready, or to end", SOON, || {
            match (self.process.ended(), self.node.get("/readyz")) {
                (Some(_), _) => Ok(Err(self.process.stderr())),
                (None, Ok(_)) => Ok(Ok(())),
                (None, Err(why)) => Err(why),
            }
        })
    }

    pub(crate) fn log(&self) -> String {
        self.process.stderr()
    }

    /// Sends a signal and waits for the end: the status, and the log.
    pub(crate) fn end(mut self, signal: Signal) -> (ExitStatus, String) {
        self.process.signal(signal);
        self.ended()
    }

    /// Waits until it ends by itself.
    pub(crate) fn ended(&mut self) -> (ExitStatus, String) {
        let status = self.process.wait_for(SOON);
        let log = self.process.stderr();
        (status.unwrap_or_else(|| panic!("the agent does not end:\n{log}")), log)
    }
}
