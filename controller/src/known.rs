//! A few objects, as a watch tells them, for who looks at all of them each time
//! that something is other than it was.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tracing::warn;

use crate::watch::{Patience, Trouble};

/// Objects as a watch tells them.
pub(crate) struct Known<K: Resource + 'static>
where
    K::DynamicType: Eq + std::hash::Hash,
{
    told: BoxStream<'static, Result<Event<K>, watcher::Error>>,
    all: Store<K>,
    is_listed: bool,
    trouble: Trouble,
}

impl<K> Known<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// Begins to follow them.
    pub(crate) fn follow(api: Api<K>, config: watcher::Config) -> Self {
        let (all, writer) = reflector::store();
        let told = reflector::reflector(writer, watcher(api, config).backoff(Patience::default()));
        Self { told: told.boxed(), all, is_listed: false, trouble: Trouble::default() }
    }

    /// All there are, once that is known.
    pub(crate) fn all(&self) -> Option<Vec<Arc<K>>> {
        self.is_listed.then(|| self.all.state())
    }

    /// Waits until something is other than it was. May be cut short.
    pub(crate) async fn changed(&mut self) {
        while let Some(event) = self.told.next().await {
            match event {
                Ok(Event::Init | Event::InitApply(_)) => continue,
                Ok(Event::InitDone) => self.is_listed = true,
                Ok(Event::Apply(_) | Event::Delete(_)) => {}
                Err(error) => {
                    if let Some(text) = self.trouble.news(&error) {
                        warn!("watching {} of our own: {text}; trying again", K::kind(&()));
                    }
                    continue;
                }
            }
            self.trouble.ends();
            return;
        }
        // A watch does not end.
        std::future::pending().await
    }
}
