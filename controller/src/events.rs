//! Events: refusals that stand for a while are told on their objects, each
//! once, by the replica that leads.
//!
//! An Event's name is made of what it says. So a new leader finds that an old
//! one has told it already, and one that comes back counts up.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use blixt_gateway::apis::{AddressPool, EndpointSlice, Gateway, Service};
use blixt_gateway::{Kind, ObjectKey};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Status;
use kube::{Api, Client, Resource};
use serde_json::json;
use siphasher::sip::SipHasher13;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::metrics::Metrics;
use crate::refusals::Refusal;

/// How long a refusal stands until it is told: `kubectl apply` makes a route
/// before its Service, and that is no event.
const STANDS: Duration = Duration::from_secs(2);

/// When what could not be told is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Who reports, as every Event says.
const REPORTER: &str = "blixt-controller";

/// `note` takes 1 kB, and a name 253 characters (Kubernetes API, `Event`).
const MAX_NOTE_BYTES: usize = 1_024;
const MAX_NAME_BYTES: usize = 253;

/// How many refusals are remembered that were told once and are gone.
const MAX_REMEMBERED: usize = 10_000;

/// The refusals that stand, with what tells their objects apart; `None` while
/// somebody else leads.
pub(crate) type Standing = Option<BTreeMap<Refusal, Option<String>>>;

/// Begins to tell what stands, until nobody says any more what does.
pub(crate) fn begin(client: Client, identity: String, metrics: Metrics) -> watch::Sender<Standing> {
    let (sender, standing) = watch::channel(None);
    let teller = Teller { client, identity, metrics };
    tokio::spawn(follow(teller, standing));
    sender
}

async fn follow(teller: Teller, mut standing: watch::Receiver<Standing>) {
    let mut memory = Memory::default();
    let mut trouble = None;
    loop {
        let now = Instant::now();
        let known = standing.borrow_and_update().clone();
        memory.look(known.as_ref(), now);
        for refusal in memory.due(now) {
            let uid = known.as_ref().and_then(|all| all.get(&refusal)).cloned().flatten();
            let again = memory.told.contains(&refusal);
            match teller.tell(&refusal, uid, again).await {
                Ok(()) => {
                    memory.tell(refusal);
                    trouble = None;
                }
                Err(error) => {
                    let text = error.to_string();
                    if trouble.as_ref() != Some(&text) {
                        let object = &refusal.object;
                        warn!("an Event on {object} can't be made: {text}; trying again");
                        trouble = Some(text);
                    }
                    // The others would fare no better.
                    memory.wait(now + RETRY);
                    break;
                }
            }
        }
        let wakes = memory.wakes_at();
        tokio::select! {
            changed = standing.changed() => if changed.is_err() {
                return;
            },
            () = sleep_until(wakes.unwrap_or(now)), if wakes.is_some() => {}
        }
    }
}

/// What stands, and what was told.
#[derive(Debug, Default)]
struct Memory {
    /// When each is to be told; `None` once it is.
    standing: BTreeMap<Refusal, Option<Instant>>,
    told: BTreeSet<Refusal>,
}

impl Memory {
    fn look(&mut self, known: Option<&BTreeMap<Refusal, Option<String>>>, now: Instant) {
        let Some(known) = known else {
            *self = Self::default();
            return;
        };
        self.standing.retain(|refusal, _| known.contains_key(refusal));
        for refusal in known.keys() {
            self.standing.entry(refusal.clone()).or_insert(Some(now + STANDS));
        }
    }

    fn due(&self, now: Instant) -> Vec<Refusal> {
        let due = self.standing.iter().filter(|(_, at)| at.is_some_and(|at| at <= now));
        due.map(|(refusal, _)| refusal.clone()).collect()
    }

    fn tell(&mut self, refusal: Refusal) {
        if let Some(at) = self.standing.get_mut(&refusal) {
            *at = None;
        }
        if self.told.len() >= MAX_REMEMBERED {
            self.told.clear();
        }
        self.told.insert(refusal);
    }

    /// Nothing can be told before that.
    fn wait(&mut self, until: Instant) {
        for at in self.standing.values_mut().flatten() {
            *at = until.max(*at);
        }
    }

    fn wakes_at(&self) -> Option<Instant> {
        self.standing.values().flatten().min().copied()
    }
}

/// Who makes Events.
struct Teller {
    client: Client,
    identity: String,
    metrics: Metrics,
}

impl Teller {
    /// `again`: we have told it before, and it was gone since.
    async fn tell(
        &self,
        refusal: &Refusal,
        uid: Option<String>,
        again: bool,
    ) -> Result<(), kube::Error> {
        // Events on what is in no namespace are in this one.
        let namespace = refusal.object.namespace.as_deref().unwrap_or("default");
        let api = Api::<Event>::namespaced(self.client.clone(), namespace);
        let event = event(refusal, uid, namespace, &self.identity);
        let name = event.metadata.name.clone().unwrap_or_default();
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                self.metrics.events.inc();
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                if again {
                    count_up(&api, &name).await?;
                    self.metrics.events.inc();
                }
            }
            Err(kube::Error::Api(status)) if is_final(&status) => {
                debug!("no Event on {}: {}", refusal.object, status.message);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// A namespace that is going takes nothing new, one that is gone neither. (An
/// API server that has just started forbids for a moment what it allows.)
fn is_final(status: &Status) -> bool {
    let is_going = status.code == 403 && status.message.contains("is being terminated");
    is_going || matches!(status.code, 404 | 422)
}

/// It happened once more.
async fn count_up(api: &Api<Event>, name: &str) -> Result<(), kube::Error> {
    let Some(event) = api.get_opt(name).await? else { return Ok(()) };
    let count = event.series.map_or(1, |series| series.count).saturating_add(1);
    let series = json!({"count": count, "lastObservedTime": MicroTime(Timestamp::now())});
    let patch = Patch::Merge(json!({"series": series}));
    api.patch(name, &PatchParams::default(), &patch).await?;
    Ok(())
}

fn event(refusal: &Refusal, uid: Option<String>, namespace: &str, identity: &str) -> Event {
    let Refusal { object, reason, message } = refusal;
    Event {
        metadata: ObjectMeta {
            name: Some(name(refusal, uid.as_deref())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        type_: Some("Warning".to_owned()),
        reason: Some((*reason).to_owned()),
        note: Some(cut(message, MAX_NOTE_BYTES).to_owned()),
        action: Some("Compile".to_owned()),
        reporting_controller: Some(REPORTER.to_owned()),
        reporting_instance: Some(identity.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(api_version(object).into_owned()),
            kind: Some(object.kind.name().to_owned()),
            namespace: object.namespace.clone(),
            name: Some(object.name.clone()),
            uid,
            ..ObjectReference::default()
        }),
        ..Event::default()
    }
}

/// The same for the same words on the same object.
fn name(refusal: &Refusal, uid: Option<&str>) -> String {
    let Refusal { object, reason, message } = refusal;
    let words = [uid.unwrap_or_default(), object.kind.name(), reason, message].join("\0");
    let digest = format!("{:016x}", SipHasher13::new().hash(words.as_bytes()));
    let object = cut(&refusal.object.name, MAX_NAME_BYTES - digest.len() - 1);
    format!("{}.{digest}", object.trim_end_matches(['.', '-']))
}

fn api_version(object: &ObjectKey) -> Cow<'static, str> {
    match object.kind {
        Kind::AddressPool => AddressPool::api_version(&()),
        Kind::Namespace | Kind::Secret | Kind::Service => Service::api_version(&()),
        Kind::EndpointSlice => EndpointSlice::api_version(&()),
        Kind::GatewayClass
        | Kind::Gateway
        | Kind::ListenerSet
        | Kind::TcpRoute
        | Kind::UdpRoute
        | Kind::HttpRoute
        | Kind::TlsRoute
        | Kind::ReferenceGrant => Gateway::api_version(&()),
    }
}

fn cut(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;

    fn refusal(name: &str, message: &str) -> Refusal {
        let namespace = Some("shop".to_owned());
        let object = ObjectKey { kind: Kind::Gateway, namespace, name: name.to_owned() };
        Refusal { object, reason: "AddressNotUsable", message: message.to_owned() }
    }

    fn standing(refusals: &[Refusal]) -> BTreeMap<Refusal, Option<String>> {
        refusals.iter().map(|refusal| (refusal.clone(), None)).collect()
    }

    #[test]
    fn what_stands_for_a_while_is_told_once() {
        let (start, mut memory) = (Instant::now(), Memory::default());
        let (short, long) = (refusal("a", "short"), refusal("b", "long"));
        memory.look(Some(&standing(&[short.clone(), long.clone()])), start);
        assert!(memory.due(start).is_empty());
        assert_eq!(memory.wakes_at(), Some(start + STANDS));
        memory.look(Some(&standing(slice::from_ref(&long))), start + STANDS);
        assert_eq!(memory.due(start + STANDS), slice::from_ref(&long));
        memory.tell(long.clone());
        memory.look(Some(&standing(slice::from_ref(&long))), start + 2 * STANDS);
        assert!(memory.due(start + 2 * STANDS).is_empty());
        assert_eq!(memory.wakes_at(), None);
        // Gone and back: that is news, and it is known that it was told.
        memory.look(Some(&standing(&[])), start + 3 * STANDS);
        memory.look(Some(&standing(slice::from_ref(&long))), start + 3 * STANDS);
        assert_eq!(memory.due(start + 4 * STANDS), slice::from_ref(&long));
        assert!(memory.told.contains(&long));
        // Who leads no more knows nothing.
        memory.look(None, start + 5 * STANDS);
        assert!(memory.standing.is_empty() && memory.told.is_empty());
    }

    #[test]
    fn names_are_those_of_their_words() {
        let named = |object: &str, message: &str, uid| name(&refusal(object, message), uid);
        assert_eq!(named("a", "x", Some("1")), named("a", "x", Some("1")));
        assert_ne!(named("a", "x", Some("1")), named("a", "y", Some("1")));
        assert_ne!(named("a", "x", Some("1")), named("a", "x", Some("2")));
        // Known for ever: another version of the controller must find it.
        assert_eq!(named("edge", "x", None), "edge.33719f5a0f9f333a");
        let long = named(&format!("{}.b", "a".repeat(235)), "x", None);
        assert_eq!(long.len(), 235 + 17);
    }

    #[test]
    fn long_messages_are_cut() {
        let event = event(&refusal("a", &"ä".repeat(900)), None, "shop", "pod-1");
        assert_eq!(event.note.unwrap().len(), MAX_NOTE_BYTES);
    }
}
