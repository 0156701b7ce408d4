//! What the loop knows of the agents: where snapshots go, and what became of
//! them.

use std::collections::BTreeMap;
use std::sync::Arc;

use blixt_gateway::Compiled;
use blixt_model::ObjectName;
use blixt_scrape::{Door, Page};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tracing::error;

use crate::clients::Clients;
use crate::flags::Flags;
use crate::push::cluster::Keeping;
use crate::push::{self, Heard, Progress, Push, TokenReviews, Trust};

/// What has to do with agents, in tasks of its own.
pub(crate) struct Pushing {
    push: Push,
    trust: Trust,
    reviews: Arc<TokenReviews>,
    /// The CA, and what agents find us by.
    keeping: JoinHandle<()>,
    serving: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Pushing {
    /// Serves agents, and keeps in the cluster what they need for it.
    pub(crate) fn begin(
        push: Push,
        clients: &Clients,
        flags: &Flags,
        identity: &str,
        listener: TcpListener,
        leads: watch::Receiver<bool>,
    ) -> Self {
        let trust = Trust::new();
        let keeping = Keeping {
            watching: clients.watching.clone(),
            asking: clients.asking.clone(),
            namespace: flags.namespace.clone(),
            identity: identity.to_owned(),
            port: listener.local_addr().map_or(0, |address| address.port()),
            leads,
        };
        let keeping = push::cluster::keep(keeping, trust.clone(), push.clone());
        let (stop, stopped) = oneshot::channel();
        let end = async { drop(stopped.await) };
        let reviews = Arc::new(TokenReviews::new(clients.asking.clone(), &flags.namespace));
        let served = push.clone().serve(listener, trust.clone(), reviews.clone(), end);
        let serving = async {
            if let Err(error) = served.await {
                error!("agents can't be served any more: {error}");
            }
        };
        let (keeping, serving) = (tokio::spawn(keeping), tokio::spawn(serving));
        Self { push, trust, reviews, keeping, serving, stop }
    }

    /// Serves metrics to scrapers, for ever.
    pub(crate) fn scraped(&self, door: Door, page: Page) {
        let served = door.serve(Arc::new(self.trust.clone()), self.reviews.clone(), page);
        tokio::spawn(async {
            if let Err(error) = served.await {
                error!("metrics can't be served over TLS: {error}");
            }
        });
    }

    /// The agents, for the loop.
    pub(crate) fn agents(&self) -> Agents {
        Agents { push: self.push.clone(), heard: self.push.heard() }
    }

    /// Waits until one of its tasks ends, as none does by itself.
    pub(crate) async fn ended(&mut self) {
        tokio::select! {
            _ = &mut self.keeping => {}
            _ = &mut self.serving => {}
        }
    }

    /// Lets agents know, so that they turn to another replica at once.
    pub(crate) async fn end(self) {
        let _ = self.stop.send(());
        self.keeping.abort();
        let _ = self.keeping.await;
        let _ = self.serving.await;
    }
}

/// The agents, as the loop sees them.
pub(crate) struct Agents {
    push: Push,
    /// Changes whenever they say something else.
    heard: watch::Receiver<Heard>,
}

impl Agents {
    /// Takes what is wanted now, and which node sends from where; every
    /// replica publishes, leader or not. `true` if that is something new.
    pub(crate) fn publish(&self, compiled: &Compiled) -> bool {
        self.push.assign_snat(&compiled.sources);
        let named = compiled.snapshot.certificates();
        let certificates = compiled.certificates.iter();
        self.push.certify(certificates.filter(|certificate| named.contains(&certificate.id)));
        self.push.publish(&compiled.snapshot)
    }

    /// How far they are with Gateways of what was published last.
    pub(crate) fn programming(&self, of: impl IntoIterator<Item = ObjectName>) -> Progress {
        self.push.programming(of)
    }

    /// Which nodes can't use the newest tables, and why.
    pub(crate) fn refusals(&self) -> BTreeMap<String, String> {
        self.heard.borrow().refusals.clone()
    }

    /// Waits until they have made progress.
    pub(crate) async fn changed(&mut self) {
        if self.heard.changed().await.is_err() {
            std::future::pending().await
        }
    }
}
