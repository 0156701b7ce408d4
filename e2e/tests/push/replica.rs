//! A replica of the controller, as far as agents see it, and agents.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use blixt_agent::sync::{Places, Report, Serving, Settings, Sync, Wish, kept};
use blixt_controller::push::{Material, Push, ReviewError, Reviewer, Trust};
use blixt_gateway::Programming;
use blixt_model::{
    Affinity, Backend, Endpoint, EndpointState, Gateway, Generation, HashSeed, Listener,
    ListenerName, ObjectName, Port, Protocol, RouteId, RouteKind, ServiceIndex, ServicePort,
    ServicePortId, Snapshot, Target, Weight,
};
use blixt_scrape::{Review, Unavailable, Verdict};
use blixt_testkit::netns::Lab;
use futures_util::future::BoxFuture;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long anything may take that is not measured.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Waits for something.
pub(crate) async fn eventually(what: &str, is_so: impl Fn() -> bool) -> Duration {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < SOON, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    begin.elapsed()
}

/// Knows the tokens "token of NODE"; about others it may say nothing at all.
/// Counts how often it was asked.
#[derive(Clone, Default)]
struct Tokens(Arc<AtomicUsize>);

#[tonic::async_trait]
impl Reviewer for Tokens {
    async fn node_of(&self, token: &str) -> Result<String, ReviewError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        if token == "nobody answers" {
            std::future::pending::<()>().await;
        }
        let node = token.strip_prefix("token of ").map(str::to_owned);
        node.ok_or_else(|| ReviewError::Refused("the token is nobody's".to_owned()))
    }
}

/// Knows the scraper's tokens "good" and "lame".
impl Review for Tokens {
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Verdict, Unavailable>> {
        Box::pin(async move {
            match token {
                "good" => Ok(Verdict::Allowed),
                "lame" => Ok(Verdict::NotAllowed("lame may not get /metrics".to_owned())),
                "late" => Err(Unavailable("the API server can't be asked".to_owned())),
                _ => Ok(Verdict::NotAuthenticated("the token is nobody's".to_owned())),
            }
        })
    }
}

/// A replica that runs; it is gone when dropped.
pub(crate) struct Replica {
    pub(crate) push: Push,
    pub(crate) at: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    tokens: Tokens,
    task: JoinHandle<()>,
}

impl Replica {
    pub(crate) async fn start(ca: &Material) -> Self {
        Self::start_at(ca, "127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn start_at(ca: &Material, at: SocketAddr) -> Self {
        // One that has just ended lets go of it in a moment.
        for _ in 0..100 {
            if let Ok(listener) = TcpListener::bind(at).await {
                return Self::serve(ca, listener);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{at} is taken")
    }

    /// Serves on a socket that may be in another namespace.
    pub(crate) fn serve(ca: &Material, listener: TcpListener) -> Self {
        let at = listener.local_addr().unwrap();
        let trust = Trust::new();
        trust.update(ca).unwrap();
        let push = Push::new();
        let (end, ended) = oneshot::channel();
        let tokens = Tokens::default();
        let serving = push.clone().serve(listener, trust, Arc::new(tokens.clone()), async {
            let _ = ended.await;
        });
        let task = tokio::spawn(async {
            serving.await.unwrap();
        });
        Self { push, at, end: Some(end), tokens, task }
    }

    /// Serves in the load balancer's network.
    pub(crate) fn serve_in(lab: &Lab, runtime: &Runtime, ca: &Material) -> Self {
        let listener = listen_in(lab, runtime);
        let _inside = runtime.enter();
        Self::serve(ca, listener)
    }

    /// Ends, and waits until its socket is free.
    pub(crate) async fn stop(mut self) {
        drop(self.end.take());
        let _ = (&mut self.task).await;
    }

    /// How often it has been asked whose token it is.
    pub(crate) fn reviews(&self) -> usize {
        self.tokens.0.load(Ordering::Relaxed)
    }

    pub(crate) fn programming(&self) -> Option<Programming> {
        self.programming_of(gateway())
    }

    pub(crate) fn programming_of(&self, gateway: ObjectName) -> Option<Programming> {
        self.push.programming([gateway]).into_values().next().flatten()
    }
}

pub(crate) fn ca() -> Material {
    Material::new(SystemTime::now()).unwrap()
}

pub(crate) fn gateway() -> ObjectName {
    "shop/edge".parse().unwrap()
}

/// A Gateway on a port, before so many endpoints.
pub(crate) fn snapshot(number: u16, endpoints: u8) -> Snapshot {
    let endpoints = (1..=endpoints).map(|host| IpAddr::from([10, 0, 0, host]));
    let vips = (1..=20).map(|host| IpAddr::from([192, 0, 2, host])).collect();
    snapshot_of(vips, number, endpoints.collect(), 8_080)
}

/// A Gateway with these addresses, before endpoints on a port.
pub(crate) fn snapshot_of(
    addresses: Vec<IpAddr>,
    number: u16,
    endpoints: Vec<IpAddr>,
    target: u16,
) -> Snapshot {
    let port = |number: u16| Port::new(number).unwrap();
    let endpoint = |address| Endpoint { address, port: port(target), state: EndpointState::Ready };
    let id = ServicePortId {
        service: "shop/web".parse().unwrap(),
        protocol: Protocol::Tcp,
        port: port(80),
    };
    let service = ServicePort {
        id,
        affinity: Affinity::None,
        endpoints: endpoints.into_iter().map(endpoint).collect(),
    };
    let backend = Backend { weight: Weight::DEFAULT, target: Target::Service(ServiceIndex(0)) };
    let listener = Listener {
        name: ListenerName::new("tcp").unwrap(),
        protocol: Protocol::Tcp,
        port: port(number),
        route: Some(RouteId { kind: RouteKind::Tcp, name: "shop/web".parse().unwrap() }),
        backends: vec![backend],
    };
    let gateway =
        Gateway { name: gateway(), addresses, listeners: vec![listener], streams: vec![] };
    Snapshot::new(Generation(1), HashSeed(1), vec![gateway], vec![service]).unwrap()
}

/// A socket in the load balancer's network, for a replica of this runtime.
pub(crate) fn listen_in(lab: &Lab, runtime: &Runtime) -> TcpListener {
    let listener = lab.lb.inside(|| std::net::TcpListener::bind("127.0.0.1:9874").unwrap());
    listener.set_nonblocking(true).unwrap();
    let _inside = runtime.enter();
    TcpListener::from_std(listener).unwrap()
}

/// The files that an agent is given.
pub(crate) struct Files(pub(crate) TempDir);

impl Files {
    pub(crate) fn new(ca: &Material, token: &str) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        fs::write(files.path("ca.crt"), &ca.bundle).unwrap();
        fs::write(files.path("token"), token).unwrap();
        fs::create_dir(files.path("state")).unwrap();
        files
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What the real agent is told of them, and of a replica.
    pub(crate) fn flags(&self, replica: SocketAddr) -> [String; 3] {
        [
            format!("--controller=https://{replica}"),
            format!("--ca={}", self.path("ca.crt").display()),
            format!("--token={}", self.path("token").display()),
        ]
    }
}

/// An agent as far as the controller sees it: it has no packets. It applies all
/// that it gets at once, unless it is told not to.
pub(crate) struct Agent {
    pub(crate) sync: Sync,
    pub(crate) files: Files,
}

impl Agent {
    /// Begins in the runtime it is called in.
    pub(crate) fn start(files: Files, replicas: &[&Replica]) -> Self {
        Self::start_at(files, &replicas.iter().map(|replica| replica.at).collect::<Vec<_>>())
    }

    pub(crate) fn start_at(files: Files, replicas: &[SocketAddr]) -> Self {
        let urls = replicas.iter().map(|at| format!("https://{at}"));
        let places = Places::Given {
            urls: urls.map(|url| url.parse().unwrap()).collect(),
            ca: files.path("ca.crt"),
        };
        let settings = Settings { places, token: files.path("token") };
        let state = files.path("state");
        let sync = Sync::start(&settings, &state, kept(&state));
        let serving = sync.serving.clone();
        tokio::spawn(async move {
            while !serving.is_closed() {
                serving.send_replace(Serving::now(None, None));
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        Self { sync, files }
    }

    pub(crate) fn wish(&self) -> Option<Arc<Wish>> {
        self.sync.wishes.borrow().clone()
    }

    pub(crate) fn owned(&self) -> BTreeSet<IpAddr> {
        self.wish().map(|wish| wish.assignment.owned.clone()).unwrap_or_default()
    }

    pub(crate) fn has(&self, snapshot: &Snapshot) -> bool {
        self.wish().is_some_and(|wish| wish.snapshot.same_wishes(snapshot))
    }

    pub(crate) async fn gets(&self, snapshot: &Snapshot) -> Duration {
        eventually("a snapshot", || self.has(snapshot)).await
    }

    /// Says that it uses what it got last.
    pub(crate) fn applies(&self) {
        let wish = self.wish().unwrap();
        let applied = Some(wish.parts.digest());
        self.sync.report.send_replace(Report { applied, kept: Some(wish), ..Report::default() });
    }

    pub(crate) fn refuses(&self, why: &str) {
        let digest = self.wish().unwrap().parts.digest();
        self.sync.report.send_modify(|report| report.refused = Some((digest, why.to_owned())));
    }

    pub(crate) fn trouble(&self) -> String {
        self.sync.reach.borrow().trouble.clone().unwrap_or_default()
    }
}

/// An agent in a runtime of its own, which can die without a word.
pub(crate) struct Mortal {
    pub(crate) agent: Agent,
    runtime: Runtime,
}

impl Mortal {
    pub(crate) fn start(files: Files, replicas: &[&Replica]) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let agent = {
            let _inside = runtime.enter();
            Agent::start(files, replicas)
        };
        Self { agent, runtime }
    }

    /// Its sockets close, and it says nothing any more.
    pub(crate) fn dies(self) -> Files {
        self.runtime.shutdown_background();
        self.agent.files
    }
}
