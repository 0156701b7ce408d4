//! What the loop knows of the agents: where snapshots go, and what became of
//! them.

use std::collections::BTreeMap;

use blixt_gateway::{Compiled, Programming};
use blixt_model::ObjectName;
use tokio::sync::watch;

/// How far agents are with each Gateway; `None` while nobody knows, as in the
/// first moments of a replica, when no agent has found it yet.
pub(crate) type Progress = BTreeMap<ObjectName, Option<Programming>>;

/// Takes what is wanted, and says whether that is something new.
type Publish = dyn Fn(&Compiled) -> bool + Send;

/// How far agents are with a Gateway, as in [`Progress`].
type Ask = dyn Fn(&ObjectName) -> Option<Programming> + Send;

/// The agents, as the loop sees them.
pub(crate) struct Agents {
    /// Takes what is wanted now, and which node sends from where; every
    /// replica publishes, leader or not. `true` if that is something new.
    pub(crate) publish: Box<Publish>,
    /// How far they are with a Gateway of what was published last.
    pub(crate) programming: Box<Ask>,
    /// Changes whenever that did.
    pub(crate) progress: watch::Receiver<Progress>,
}

impl Agents {
    /// No agent is connected.
    pub(crate) fn none() -> Self {
        // Nothing ever changes: the sender is gone, which nobody waits for.
        let (_, progress) = watch::channel(Progress::new());
        Self {
            publish: Box::new(|_| false),
            programming: Box::new(|_| Some(Programming::NoAgent)),
            progress,
        }
    }

    /// Waits until they have made progress.
    pub(crate) async fn changed(&mut self) {
        if self.progress.changed().await.is_err() {
            std::future::pending().await
        }
    }
}
