//! Watches: one for each kind of object, each in a task of its own that
//! survives everything: an API server that is gone, slow or restarted, a watch
//! that is too old, a kind that the cluster does not have (yet).

use std::collections::BTreeSet;
use std::fmt::{self, Debug, Display};
use std::time::{Duration, Instant};

use blixt_gateway::apis::{
    AddressPool, EndpointSlice, Gateway, GatewayClass, GatewayConfig, HttpRoute, ListenerSet,
    Namespace, ReferenceGrant, Service, TcpRoute, TlsRoute, UdpRoute,
};
use blixt_gateway::{Kind, Object, ObjectKey};
use blixt_model::ObjectName;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{Config, Error, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::metrics::Metrics;
use crate::secrets::Told;

/// The CRD whose version stands for all of Gateway API's (Gateway API,
/// "Versioning").
pub(crate) const CRD: &str = "gateways.gateway.networking.k8s.io";

/// How long a watch may last before it is begun again where it was, in
/// seconds. It is also how long a connection can be dead without anybody
/// noticing.
const WATCH_S: u32 = 60;

/// What a watch tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Watched {
    /// Objects that say what we do.
    Kind(Kind),
    /// Nodes, whose addresses no Gateway can have.
    Nodes,
    /// The CRD that says which version of Gateway API there is.
    Crd,
}

impl Watched {
    /// All of them.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        // Secrets are watched one by one: see `secrets`.
        let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Secret);
        kinds.map(Self::Kind).chain([Self::Nodes, Self::Crd])
    }
}

impl Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) => write!(f, "{kind}"),
            Self::Nodes => f.write_str("Node"),
            Self::Crd => write!(f, "CustomResourceDefinition {CRD}"),
        }
    }
}

/// One thing that happened in the cluster.
#[derive(Debug)]
pub(crate) enum Change {
    /// An object is there, new or changed.
    Apply(Object),
    /// An object as our own write left it, which was an answer to this
    /// version of it.
    Wrote {
        /// The version that was looked at.
        before: Option<String>,
        /// The object now.
        object: Object,
    },
    /// An object is gone.
    Delete(ObjectKey),
    /// Something is told of a Secret.
    Secret {
        /// Which.
        name: ObjectName,
        /// What.
        told: Told,
    },
    /// A Node is there.
    ApplyNode(Box<Node>),
    /// A Node is gone.
    DeleteNode(String),
    /// The CRD is there.
    ApplyCrd(Box<PartialObjectMeta<CustomResourceDefinition>>),
    /// The CRD is gone.
    DeleteCrd,
    /// All that there is has been told; whatever is not among these is gone.
    Listed(All),
}

/// All that there is.
#[derive(Debug)]
pub(crate) enum All {
    /// Objects of a kind.
    Objects {
        /// The kind.
        kind: Kind,
        /// All of them.
        keys: BTreeSet<ObjectKey>,
        /// By which call for a list (see [`Watches`]).
        call: u64,
    },
    /// The names of Nodes.
    Nodes(BTreeSet<String>),
    /// The CRD, if it is there.
    Crd,
}

impl All {
    pub(crate) fn what(&self) -> Watched {
        match self {
            Self::Objects { kind, .. } => Watched::Kind(*kind),
            Self::Nodes(_) => Watched::Nodes,
            Self::Crd => Watched::Crd,
        }
    }
}

/// The watches that were begun. They end when nobody listens.
#[derive(Debug)]
pub(crate) struct Watches {
    calls: watch::Sender<u64>,
}

impl Watches {
    /// Begins to watch everything.
    pub(crate) fn begin(
        client: &Client,
        changes: &UnboundedSender<Change>,
        metrics: &Metrics,
    ) -> Self {
        let (calls, called) = watch::channel(0);
        let follow = Follow { client, changes, metrics, called };
        follow.objects::<Namespace>(Kind::Namespace);
        follow.objects::<GatewayClass>(Kind::GatewayClass);
        follow.objects::<Gateway>(Kind::Gateway);
        follow.objects::<ListenerSet>(Kind::ListenerSet);
        follow.objects::<TcpRoute>(Kind::TcpRoute);
        follow.objects::<UdpRoute>(Kind::UdpRoute);
        follow.objects::<HttpRoute>(Kind::HttpRoute);
        follow.objects::<TlsRoute>(Kind::TlsRoute);
        follow.objects::<ReferenceGrant>(Kind::ReferenceGrant);
        follow.objects::<Service>(Kind::Service);
        follow.objects::<EndpointSlice>(Kind::EndpointSlice);
        follow.objects::<AddressPool>(Kind::AddressPool);
        follow.objects::<GatewayConfig>(Kind::GatewayConfig);
        follow.nodes();
        follow.crd();
        Self { calls }
    }

    /// Has all Gateways and AddressPools listed anew, which remember who has
    /// which address. The lists are as new as this call, and come as
    /// [`Change::Listed`] with the number that is returned, or a higher one.
    pub(crate) fn list_memory(&self) -> u64 {
        self.calls.send_modify(|calls| *calls += 1);
        *self.calls.borrow()
    }
}

struct Follow<'a> {
    client: &'a Client,
    changes: &'a UnboundedSender<Change>,
    metrics: &'a Metrics,
    called: watch::Receiver<u64>,
}

impl Follow<'_> {
    fn objects<K>(&self, kind: Kind)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        K: Into<Object>,
    {
        let metrics = self.metrics.clone();
        let told = Telling {
            what: Watched::Kind(kind),
            changes: self.changes.clone(),
            metrics,
            name: move |object: &K| object_key(kind, object),
            apply: |mut object: K| {
                // Who wrote which field is of no interest, and often longer
                // than the rest.
                object.meta_mut().managed_fields = None;
                Change::Apply(object.into())
            },
            delete: move |object: &K| Change::Delete(object_key(kind, object)),
            listed: move |keys, call| Change::Listed(All::Objects { kind, keys, call }),
        };
        let is_memory = matches!(kind, Kind::Gateway | Kind::AddressPool);
        let called = is_memory.then(|| self.called.clone());
        tokio::spawn(told.watch(Api::<K>::all(self.client.clone()), config(), called));
    }

    fn nodes(&self) {
        let told = Telling {
            what: Watched::Nodes,
            changes: self.changes.clone(),
            metrics: self.metrics.clone(),
            name: |node: &Node| node.name_any(),
            apply: |node: Node| Change::ApplyNode(Box::new(node)),
            delete: |node: &Node| Change::DeleteNode(node.name_any()),
            listed: |names, _| Change::Listed(All::Nodes(names)),
        };
        tokio::spawn(told.watch(Api::<Node>::all(self.client.clone()), config(), None));
    }

    fn crd(&self) {
        type Crd = PartialObjectMeta<CustomResourceDefinition>;
        let told = Telling {
            what: Watched::Crd,
            changes: self.changes.clone(),
            metrics: self.metrics.clone(),
            name: |crd: &Crd| crd.name_any(),
            apply: |crd: Crd| Change::ApplyCrd(Box::new(crd)),
            delete: |_: &Crd| Change::DeleteCrd,
            listed: |_, _| Change::Listed(All::Crd),
        };
        let config = config().fields(&format!("metadata.name={CRD}"));
        tokio::spawn(told.watch(Api::<Crd>::all(self.client.clone()), config, None));
    }
}

pub(crate) fn config() -> Config {
    Config::default().timeout(WATCH_S)
}

fn object_key<K: Resource>(kind: Kind, object: &K) -> ObjectKey {
    ObjectKey { kind, namespace: object.namespace(), name: object.name_any() }
}

/// How what a watch says becomes changes.
struct Telling<N, A, D, L> {
    what: Watched,
    changes: UnboundedSender<Change>,
    metrics: Metrics,
    name: N,
    apply: A,
    delete: D,
    listed: L,
}

impl<N, A, D, L> Telling<N, A, D, L> {
    /// Follows all objects of a type, and tells until nobody listens.
    async fn watch<K, Name>(
        self,
        api: Api<K>,
        config: Config,
        mut called: Option<watch::Receiver<u64>>,
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        Name: Ord,
        N: Fn(&K) -> Name,
        A: Fn(K) -> Change,
        D: Fn(&K) -> Change,
        L: Fn(BTreeSet<Name>, u64) -> Change,
    {
        let what = self.what;
        let mut trouble = Trouble::default();
        let mut call = 0;
        'anew: loop {
            let stream = watcher(api.clone(), config.clone()).backoff(Patience::default());
            let mut stream = std::pin::pin!(stream);
            let mut listed = BTreeSet::new();
            loop {
                let event = tokio::select! {
                    event = stream.next() => event,
                    newest = changed(&mut called) => {
                        call = newest;
                        continue 'anew;
                    }
                };
                let change = match event {
                    None => return,
                    Some(Err(error)) => {
                        let missing = is_missing(&error);
                        match trouble.news(&error) {
                            Some(text) if missing => info!("the cluster has no {what}: {text}"),
                            Some(text) => warn!("watching {what}: {text}; trying again"),
                            None => {}
                        }
                        // What the cluster does not have is complete.
                        missing.then(|| (self.listed)(BTreeSet::new(), call))
                    }
                    Some(Ok(event)) => {
                        // Who begins has not got anything yet.
                        if !matches!(event, Event::Init) && trouble.ends() {
                            info!("watching {what} again");
                        }
                        match event {
                            Event::Init => {
                                listed.clear();
                                None
                            }
                            Event::InitApply(object) => {
                                listed.insert((self.name)(&object));
                                Some((self.apply)(object))
                            }
                            Event::InitDone => {
                                debug!("{what}: {} objects", listed.len());
                                self.metrics.listed(what);
                                Some((self.listed)(std::mem::take(&mut listed), call))
                            }
                            Event::Apply(object) => Some((self.apply)(object)),
                            Event::Delete(object) => Some((self.delete)(&object)),
                        }
                    }
                };
                let is_heard = match change {
                    Some(change) => self.changes.send(change).is_ok(),
                    None => !self.changes.is_closed(),
                };
                if !is_heard {
                    return;
                }
            }
        }
    }
}

/// Waits for a call for a list, if there ever is one.
async fn changed(called: &mut Option<watch::Receiver<u64>>) -> u64 {
    if let Some(called) = called
        && called.changed().await.is_ok()
    {
        return *called.borrow_and_update();
    }
    std::future::pending().await
}

/// How often it is tried again: soon, then every few seconds. An API server
/// that is back should not wait for us, and a dozen requests hurt none.
#[derive(Default)]
pub(crate) struct Patience {
    tries: u32,
    last: Option<Instant>,
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        const FIRST: Duration = Duration::from_millis(250);
        const LAST: Duration = Duration::from_secs(4);
        // So long after the last failure this one is another one.
        const OLD: Duration = Duration::from_secs(20);
        if self.last.is_some_and(|last| last.elapsed() > OLD) {
            self.tries = 0;
        }
        let pause = FIRST.saturating_mul(1 << self.tries).min(LAST);
        self.tries = (self.tries + 1).min(8);
        self.last = Some(Instant::now());
        Some(pause)
    }
}

impl Backoff for Patience {
    /// Called for whatever a watch says, that it begins included: that is no
    /// success.
    fn reset(&mut self) {}
}

/// Whether the API server knows no such kind: its CRD is not installed.
fn is_missing(error: &Error) -> bool {
    matches!(
        error,
        Error::InitialListFailed(kube::Error::Api(status))
            | Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 404
    )
}

/// What is wrong with a watch: it is told once.
#[derive(Debug, Default)]
pub(crate) struct Trouble(Option<String>);

impl Trouble {
    /// What is wrong, if that is news.
    pub(crate) fn news(&mut self, error: &Error) -> Option<String> {
        let text = describe(error);
        if is_expired(error) {
            debug!("{text}; it begins anew");
            return None;
        }
        let is_news = self.0.as_ref() != Some(&text);
        self.0 = Some(text.clone());
        is_news.then_some(text)
    }

    /// Nothing is. Gives whether something was.
    pub(crate) fn ends(&mut self) -> bool {
        self.0.take().is_some()
    }
}

/// Whether too much has happened since then to go on from there: no trouble, for
/// all is listed anew.
fn is_expired(error: &Error) -> bool {
    matches!(
        error,
        Error::WatchError(status)
            | Error::WatchStartFailed(kube::Error::Api(status))
            | Error::WatchFailed(kube::Error::Api(status)) if status.code == 410
    )
}

/// What is wrong, in the same words as long as it is the same trouble: one
/// outage has many faces.
fn describe(error: &Error) -> String {
    let status = match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status))
        | Error::WatchError(status) => status,
        other => {
            debug!("{other}");
            return "the API server does not answer".to_owned();
        }
    };
    status.message.trim().to_owned()
}
