//! The lease: one of the replicas holds it, and only that one writes.

use std::time::Duration;

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

/// The lease's name.
const LEASE: &str = "blixt-controller";

/// A leader that says nothing for so long has lost it, in seconds. It renews
/// it [`GRACE_S`] before. A new leader is there within 15 s.
const DURATION_S: u64 = 10;
const GRACE_S: u64 = 5;

/// How long is waited before it is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Takes part in the election for ever, in a task of its own. Says whether we
/// lead.
pub(crate) fn run(client: Client, namespace: String, identity: String) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        let mut trouble = None;
        loop {
            if let Err(error) = take_part(&client, &namespace, &identity, &sender).await {
                let text = error.to_string();
                if trouble.as_ref() != Some(&text) {
                    warn!("the lease {namespace}/{LEASE}: {text}; trying again");
                    trouble = Some(text);
                }
            }
            sender.send_replace(false);
            if sender.is_closed() {
                return;
            }
            sleep(PAUSE).await;
        }
    });
    receiver
}

async fn take_part(
    client: &Client,
    namespace: &str,
    identity: &str,
    leads: &watch::Sender<bool>,
) -> Result<(), LeaseManagerError> {
    let manager: LeaseManager = LeaseManagerBuilder::new(client.clone(), LEASE)
        .with_namespace(namespace)
        .with_identity(identity)
        .with_duration(DURATION_S)
        .with_grace(GRACE_S)
        .with_field_manager(format!("blixt-controller-{identity}"))
        .build()
        .await?;
    loop {
        tokio::select! {
            changed = manager.changed() => {
                let now = changed?;
                if leads.send_replace(now) != now {
                    info!(leads = now, identity, "the lease was {}", if now { "taken" } else { "lost" });
                }
            }
            () = leads.closed() => {
                // Another one need not wait for its end.
                return manager.release().await;
            }
        }
    }
}
