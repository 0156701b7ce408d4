//! A real API server, etcd and kube-apiserver, alone in a network namespace:
//! no node, no controller but ours.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blixt_testkit::netns::{Namespace, Process, eventually_some, program};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kube_api::KubeApi;
use crate::lab;
use crate::slow::Slow;

/// An address that is none of the loopback network, which an API server does
/// not tell others as its own.
const ADDRESS: &str = "10.0.0.1";

/// How long the API server may take to be ready: it makes a hundred tables,
/// on cores that are busy.
const START: Duration = Duration::from_secs(60);

/// Who may do anything.
const TESTS: &str = "tests";

/// Who may do what the manifests say: the controller's service account.
const CONTROLLER: &str = "system:serviceaccount:blixt-system:blixt-controller";

/// An API server that runs; it is ended when dropped.
#[derive(Debug)]
pub struct ApiServer {
    /// How to speak to it.
    pub kube: KubeApi,
    /// Where it is, and whoever speaks to it.
    pub namespace: Namespace,
    server: Option<Process>,
    _etcd: Process,
    files: TempDir,
}

impl ApiServer {
    /// The programs it takes.
    pub const PROGRAMS: [&'static str; 2] = ["etcd", "kube-apiserver"];

    /// Starts it, and gives it the CRDs of Gateway API and ours, and the
    /// controller its rights.
    pub fn start() -> Self {
        let namespace = Namespace::new("api");
        namespace.ip(&format!("address add {ADDRESS}/32 dev lo"));
        let files = tempfile::tempdir().unwrap();
        let tokens = format!("of-tests,{TESTS},1,system:masters\nof-controller,{CONTROLLER},2\n");
        fs::write(files.path().join("tokens.csv"), tokens).unwrap();
        let key = files.path().join("service-accounts.key");
        program("openssl")
            .args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"])
            .arg(&key)
            .ok();
        let etcd = start_etcd(&namespace, &files);
        let server = start_server(&namespace, &files);
        let certificate = files.path().join("certificates/apiserver.crt");
        eventually_some("the API server's certificate", START, || fs::metadata(&certificate));
        let of_controller = kubeconfig(&certificate, "of-controller");
        fs::write(files.path().join("kubeconfig"), of_controller).unwrap();
        let kube = KubeApi::new(&namespace, &kubeconfig(&certificate, "of-tests"));
        let mut started = Self { kube, namespace, server: Some(server), _etcd: etcd, files };
        started.wait_until_ready();
        started.add_crds();
        started.add_rights();
        started
    }

    /// The file that leads the controller to it, with the rights that the
    /// manifests give, from its namespace.
    pub fn kubeconfig(&self) -> PathBuf {
        self.files.path().join("kubeconfig")
    }

    /// Ends the API server at once, as a power cut would.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Starts it again, and waits until it is ready.
    pub fn resume(&mut self) {
        self.server = Some(start_server(&self.namespace, &self.files));
        self.wait_until_ready();
    }

    /// Has controllers that start meanwhile speak to it on a way that takes so long
    /// in each direction.
    pub fn slowly<T>(&self, delay: Duration, work: impl FnOnce(&Self) -> T) -> T {
        let [fast, slow] = [6_443, 6_444].map(|port| format!("{ADDRESS}:{port}"));
        let [to, at] = [&fast, &slow].map(|at| at.parse::<SocketAddr>().unwrap());
        let before = fs::read_to_string(self.kubeconfig()).unwrap();
        fs::write(self.kubeconfig(), before.replace(&fast, &slow)).unwrap();
        let way = Slow::way(&self.namespace, at, to, delay);
        let done = work(self);
        way.end(&self.namespace);
        fs::write(self.kubeconfig(), before).unwrap();
        done
    }

    /// Lets it hang: connections stay, and nobody answers.
    pub fn hang(&self) {
        self.server.as_ref().unwrap().signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.server.as_ref().unwrap().signal(Signal::SIGCONT);
    }

    /// Has etcd forget all that was before now: a watch that is behind can't
    /// go on where it was.
    pub fn compact(&self) {
        let ask = |path: &str, question: &Value| {
            let answer = self
                .namespace
                .command("curl")
                .args(["--silent", "--show-error", "--fail-with-body", "--max-time", "10"])
                .args(["--data", &question.to_string()])
                .arg(format!("http://127.0.0.1:2379/v3/kv/{path}"))
                .ok();
            serde_json::from_str::<Value>(&answer).unwrap()
        };
        // The header of any answer says which revision is the newest.
        let now = ask("range", &json!({"key": "AA==", "limit": 1}));
        let revision = now.pointer("/header/revision").unwrap();
        ask("compaction", &json!({"revision": revision, "physical": true}));
    }

    fn wait_until_ready(&mut self) {
        eventually_some("the API server to be ready", START, || {
            let server = self.server.as_mut().unwrap();
            if let Some(status) = server.ended() {
                panic!("the API server ended at its start, {status}:\n{}", server.stderr());
            }
            self.kube.ask("/readyz")
        });
    }

    fn add_rights(&self) {
        let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: blixt-system}}";
        self.kube.apply(namespace);
        self.kube.apply(&manifest("default/controller-rbac.yaml"));
    }

    fn add_crds(&self) {
        for yaml in lab::crds().into_iter().chain([manifest("crds/blixt.dev.yaml")]) {
            // A policy is there, too, which is for people who upgrade.
            if yaml.contains("kind: CustomResourceDefinition") {
                self.kube.apply(&yaml);
            }
        }
        eventually_some("the CRDs to be served", START, || {
            let is_served = |path| self.kube.ask(path).map(drop);
            is_served("/apis/gateway.networking.k8s.io/v1/tcproutes")?;
            is_served("/apis/gateway.networking.k8s.io/v1/udproutes")?;
            is_served("/apis/gateway.networking.k8s.io/v1/gateways")?;
            is_served("/apis/gateway.networking.k8s.io/v1/gatewayclasses")?;
            is_served("/apis/gateway.networking.k8s.io/v1/referencegrants")?;
            is_served("/apis/blixt.dev/v1alpha1/gatewayconfigs")
        });
    }
}

/// A file of `manifests/`.
fn manifest(path: &str) -> String {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("manifests");
    fs::read_to_string(manifests.join(path)).unwrap()
}

fn start_etcd(namespace: &Namespace, files: &TempDir) -> Process {
    namespace
        .command(lab::bin("etcd"))
        .args(["--name", "tests", "--unsafe-no-fsync", "--log-level", "warn"])
        .arg("--data-dir")
        .arg(files.path().join("etcd"))
        .args(["--listen-client-urls", "http://127.0.0.1:2379"])
        .args(["--advertise-client-urls", "http://127.0.0.1:2379"])
        .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
        .args(["--initial-advertise-peer-urls", "http://127.0.0.1:2380"])
        .args(["--initial-cluster", "tests=http://127.0.0.1:2380"])
        .spawn()
}

fn start_server(namespace: &Namespace, files: &TempDir) -> Process {
    let file = |name: &str| files.path().join(name).into_os_string().into_string().unwrap();
    namespace
        .command(lab::bin("kube-apiserver"))
        .args(["--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443"])
        .args(["--bind-address=0.0.0.0", "--service-cluster-ip-range=10.96.0.0/16"])
        .arg(format!("--advertise-address={ADDRESS}"))
        // It makes a certificate itself if there is none.
        .arg(format!("--cert-dir={}", file("certificates")))
        .arg(format!("--token-auth-file={}", file("tokens.csv")))
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .arg(format!("--service-account-key-file={}", file("service-accounts.key")))
        .arg(format!("--service-account-signing-key-file={}", file("service-accounts.key")))
        .args(["--authorization-mode=RBAC", "--profiling=false", "--v=0"])
        .args(["--shutdown-delay-duration=0s", "--endpoint-reconciler-type=none"])
        .spawn()
}

fn kubeconfig(certificate: &Path, token: &str) -> String {
    let certificate = certificate.display();
    format!(
        "apiVersion: v1
kind: Config
current-context: tests
clusters: [{{name: tests, cluster: {{server: 'https://{ADDRESS}:6443', certificate-authority: '{certificate}'}}}}]
users: [{{name: tests, user: {{token: '{token}'}}}}]
contexts: [{{name: tests, context: {{cluster: tests, user: tests}}}}]
"
    )
}
