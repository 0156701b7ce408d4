//! Watches: one for each kind of object, each in a task of its own that
//! survives everything: an API server that is gone, slow or restarted, a watch
//! that is too old, a kind that the cluster does not have (yet).

use std::collections::BTreeSet;
use std::fmt::{Debug, Display};

use blixt_gateway::apis::{
    AddressPool, EndpointSlice, Gateway, GatewayClass, Namespace, ReferenceGrant, Service,
    TcpRoute, UdpRoute,
};
use blixt_gateway::{Kind, Object, ObjectKey};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Error, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedSender;
use tracing::{debug, info, warn};

/// What a watch tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Watched {
    /// Objects that say what we do.
    Kind(Kind),
    /// Nodes, whose addresses no Gateway can have.
    Nodes,
}

impl Watched {
    /// All of them.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Kind::ALL.into_iter().map(Self::Kind).chain([Self::Nodes])
    }
}

impl Display for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kind(kind) => write!(f, "{kind}"),
            Self::Nodes => f.write_str("Node"),
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
    /// A Node is there.
    ApplyNode(Box<Node>),
    /// A Node is gone.
    DeleteNode(String),
    /// All that there is of a kind has been told; whatever is not among these
    /// is gone.
    Listed(Watched, BTreeSet<ObjectKey>),
    /// The same of Nodes, by name.
    ListedNodes(BTreeSet<String>),
}

/// Begins to watch everything. Ends when nobody listens.
pub(crate) fn begin(client: &Client, changes: &UnboundedSender<Change>) {
    follow::<Namespace>(client, Kind::Namespace, changes);
    follow::<GatewayClass>(client, Kind::GatewayClass, changes);
    follow::<Gateway>(client, Kind::Gateway, changes);
    follow::<TcpRoute>(client, Kind::TcpRoute, changes);
    follow::<UdpRoute>(client, Kind::UdpRoute, changes);
    follow::<ReferenceGrant>(client, Kind::ReferenceGrant, changes);
    follow::<Service>(client, Kind::Service, changes);
    follow::<EndpointSlice>(client, Kind::EndpointSlice, changes);
    follow::<AddressPool>(client, Kind::AddressPool, changes);
    follow_nodes(client, changes);
}

fn follow<K>(client: &Client, kind: Kind, changes: &UnboundedSender<Change>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    K: Into<Object>,
{
    let changes = changes.clone();
    let tell = move |event: Told<K>| {
        let change = match event {
            Told::Apply(object) => Change::Apply(object.into()),
            Told::Delete(object) => Change::Delete(object.into().key()),
            Told::Listed(keys) => Change::Listed(Watched::Kind(kind), keys),
        };
        changes.send(change).is_ok()
    };
    let key = |object: &K| {
        let object: Object = object.clone().into();
        object.key()
    };
    tokio::spawn(watch_all(Api::<K>::all(client.clone()), Watched::Kind(kind), key, tell));
}

fn follow_nodes(client: &Client, changes: &UnboundedSender<Change>) {
    let changes = changes.clone();
    let tell = move |event: Told<Node, String>| {
        let change = match event {
            Told::Apply(node) => Change::ApplyNode(Box::new(node)),
            Told::Delete(node) => Change::DeleteNode(node.name_any()),
            Told::Listed(names) => Change::ListedNodes(names),
        };
        changes.send(change).is_ok()
    };
    let name = |node: &Node| node.name_any();
    tokio::spawn(watch_all(Api::<Node>::all(client.clone()), Watched::Nodes, name, tell));
}

enum Told<K, N = ObjectKey> {
    Apply(K),
    Delete(K),
    Listed(BTreeSet<N>),
}

/// Follows all objects of a type, and tells until nobody listens.
async fn watch_all<K, N: Ord>(
    api: Api<K>,
    what: Watched,
    name: impl Fn(&K) -> N,
    tell: impl Fn(Told<K, N>) -> bool,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let stream = watcher(api, watcher::Config::default()).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut listed = BTreeSet::new();
    let mut trouble = None;
    while let Some(event) = stream.next().await {
        let told = match event {
            Err(error) => {
                let missing = is_missing(&error);
                let text = describe(&error);
                if trouble.as_ref() != Some(&text) {
                    if missing {
                        info!("the cluster has no {what}: {text}");
                    } else {
                        warn!("watching {what}: {text}; trying again");
                    }
                    trouble = Some(text);
                }
                // What the cluster does not have is complete.
                !missing || tell(Told::Listed(BTreeSet::new()))
            }
            Ok(event) => {
                if trouble.take().is_some() {
                    info!("watching {what} again");
                }
                match event {
                    Event::Init => {
                        listed.clear();
                        true
                    }
                    Event::InitApply(object) => {
                        listed.insert(name(&object));
                        tell(Told::Apply(object))
                    }
                    Event::InitDone => {
                        debug!("{what}: {} objects", listed.len());
                        tell(Told::Listed(std::mem::take(&mut listed)))
                    }
                    Event::Apply(object) => tell(Told::Apply(object)),
                    Event::Delete(object) => tell(Told::Delete(object)),
                }
            }
        };
        if !told {
            return;
        }
    }
}

/// Whether the API server knows no such kind: its CRD is not installed.
fn is_missing(error: &Error) -> bool {
    matches!(
        error,
        Error::InitialListFailed(kube::Error::Api(status))
            | Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 404
    )
}

fn describe(error: &Error) -> String {
    match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status)) => status.message.trim().to_owned(),
        other => other.to_string(),
    }
}
