//! What the loop knows of the agents: where snapshots go, and what became of
//! them.

use blixt_gateway::Programming;
use blixt_model::{ObjectName, Snapshot};
use tokio::sync::watch;

/// The agents, as the loop sees them.
pub(crate) struct Agents {
    /// Takes what is wanted now; every replica publishes, leader or not.
    pub(crate) publish: Box<dyn Fn(&Snapshot) + Send>,
    /// How far they are with a Gateway.
    pub(crate) programming: Box<dyn Fn(&ObjectName) -> Programming + Send>,
    /// Changes whenever that did.
    pub(crate) progress: watch::Receiver<()>,
}

impl Agents {
    /// No agent is connected.
    pub(crate) fn none() -> Self {
        // Nothing ever changes: the sender is gone, which nobody waits for.
        let (_, progress) = watch::channel(());
        Self {
            publish: Box::new(|_| ()),
            programming: Box::new(|_| Programming::NoAgent),
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
