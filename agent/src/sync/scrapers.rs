//! Whether a scraper may read the agent's metrics: the agent has no rights to
//! ask the API server, so a replica of the controller does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blixt_api::sync::v1alpha1::controller_client::ControllerClient;
use blixt_api::sync::v1alpha1::{self as wire, ReviewRequest};
use blixt_scrape::{Review, Unavailable, Verdict};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::trust::describe;

/// How long a replica may take, before another one is asked.
const PATIENCE: Duration = Duration::from_secs(2);

type Client = ControllerClient<Channel>;

/// The replicas that can be asked now. Copies are one.
#[derive(Debug, Clone, Default)]
pub struct Scrapers(Arc<Mutex<Replicas>>);

#[derive(Debug, Default)]
struct Replicas {
    last: u64,
    clients: BTreeMap<u64, (String, Client)>,
}

/// A replica that can be asked until this is dropped.
pub(super) struct Asked {
    of: Scrapers,
    number: u64,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.of.replicas().clients.remove(&self.number);
    }
}

impl Scrapers {
    /// There is a connection to a replica.
    pub(super) fn may_ask(&self, replica: &str, client: Client) -> Asked {
        let mut replicas = self.replicas();
        replicas.last += 1;
        let number = replicas.last;
        replicas.clients.insert(number, (replica.to_owned(), client));
        Asked { of: self.clone(), number }
    }

    fn replicas(&self) -> MutexGuard<'_, Replicas> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, token: &str) -> Result<Verdict, Unavailable> {
        let clients: Vec<_> = self.replicas().clients.values().cloned().collect();
        let mut why = "none is in reach".to_owned();
        for (replica, mut client) in clients {
            let asked = client.review(ReviewRequest { token: token.to_owned() });
            why = match timeout(PATIENCE, asked).await {
                Ok(Ok(answer)) => match verdict(answer.into_inner()) {
                    Some(verdict) => return Ok(verdict),
                    None => format!("{replica}: it answers what only a newer agent knows"),
                },
                Ok(Err(status)) => format!("{replica}: {}", describe(&status)),
                Err(_) => format!("{replica}: no answer within {PATIENCE:?}"),
            };
        }
        Err(Unavailable(format!("no controller says whether the token is good: {why}")))
    }
}

impl Review for Scrapers {
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Verdict, Unavailable>> {
        self.ask(token).boxed()
    }
}

fn verdict(answer: wire::ReviewResponse) -> Option<Verdict> {
    match answer.verdict() {
        wire::Verdict::Unspecified => None,
        wire::Verdict::Allowed => Some(Verdict::Allowed),
        wire::Verdict::NotAuthenticated => Some(Verdict::NotAuthenticated(answer.reason)),
        wire::Verdict::NotAllowed => Some(Verdict::NotAllowed(answer.reason)),
    }
}
