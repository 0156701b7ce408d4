//! Secrets with certificates. Each that a listener refers to is watched by its
//! name, in a task of its own, and no other one is read: rights to those are
//! enough.

use std::collections::{BTreeMap, BTreeSet};

use blixt_model::ObjectName;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;
use tracing::{info, warn};

use crate::watch::{Change, Patience, Trouble, config};

/// What is told of a Secret.
#[derive(Debug)]
pub(crate) enum Told {
    /// It is there, new or changed.
    There(Box<blixt_gateway::apis::Secret>),
    /// There is none.
    Missing,
    /// It can't be read, and why.
    Unreadable(String),
}

/// The watches.
pub(crate) struct Secrets {
    client: Client,
    changes: UnboundedSender<Change>,
    watched: BTreeMap<ObjectName, AbortHandle>,
}

impl Secrets {
    pub(crate) fn new(client: &Client, changes: &UnboundedSender<Change>) -> Self {
        Self { client: client.clone(), changes: changes.clone(), watched: BTreeMap::new() }
    }

    /// Watches these, and no others.
    pub(crate) fn follow(&mut self, wanted: &BTreeSet<ObjectName>) {
        self.watched.retain(|name, task| {
            let stays = wanted.contains(name);
            if !stays {
                task.abort();
            }
            stays
        });
        for name in wanted {
            if !self.watched.contains_key(name) {
                let api = Api::namespaced(self.client.clone(), name.namespace());
                let task = tokio::spawn(watch(api, name.clone(), self.changes.clone()));
                self.watched.insert(name.clone(), task.abort_handle());
            }
        }
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        self.watched.values().for_each(AbortHandle::abort);
    }
}

/// Whether trying again does not help by itself.
fn is_final(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::InitialListFailed(kube::Error::Api(status))
            if matches!(status.code, 403 | 404)
    )
}

/// Tells of one Secret until nobody listens.
async fn watch(api: Api<Secret>, name: ObjectName, changes: UnboundedSender<Change>) {
    let config = config().fields(&format!("metadata.name={}", name.name()));
    let mut events = std::pin::pin!(watcher(api, config).backoff(Patience::default()));
    let mut found = None;
    let mut trouble = Trouble::default();
    while let Some(event) = events.next().await {
        let told = match event {
            Err(error) => {
                let Some(why) = trouble.news(&error) else { continue };
                warn!("Secret {name} can't be read: {why}; trying again");
                // What passes is waited for: who has just begun knows no last good one.
                if !is_final(&error) {
                    continue;
                }
                Told::Unreadable(why)
            }
            Ok(Event::Init) => {
                found = None;
                continue;
            }
            Ok(Event::InitApply(secret)) => {
                found = Some(secret);
                continue;
            }
            Ok(Event::InitDone) => {
                if trouble.ends() {
                    info!("Secret {name} can be read again");
                }
                found.take().map_or(Told::Missing, there)
            }
            Ok(Event::Apply(secret)) => there(secret),
            Ok(Event::Delete(_)) => Told::Missing,
        };
        if changes.send(Change::Secret { name: name.clone(), told }).is_err() {
            return;
        }
    }
}

fn there(secret: Secret) -> Told {
    Told::There(Box::new(secret.into()))
}
