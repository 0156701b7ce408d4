//! What is made for a Gateway: a ServiceAccount in its namespace, which carries
//! the labels and annotations of `spec.infrastructure` and goes with the Gateway.
//! Only the leader makes one, and only where such are asked for.
//!
//! Gateway API has them put on all that is made for a Gateway, for those who look
//! for it by these. The data plane is made for no single Gateway; so this is all
//! there is to carry them (docs/decisions/0042).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use blixt_gateway::apis::{Gateway, ObjectMeta};
use blixt_gateway::{Compiled, Object, ObjectKey};
use blixt_model::ObjectName;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use siphasher::sip::SipHasher13;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::clients::Clients;
use crate::known::Known;
use crate::watch::config;

/// Which Gateway an object is made for (Gateway API, GEP-1762).
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// By this and the label above ours are known.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "blixt-controller");

/// Who applies.
const MANAGER: &str = "blixt-controller";

/// When what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The longest name of an object, and the longest value of a label (Kubernetes,
/// "Object Names and IDs", "Labels and Selectors").
const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// What is wanted, by namespace and name; `None` while somebody else leads.
pub(crate) type Wanted = Option<BTreeMap<ObjectName, Infrastructure>>;

/// What one Gateway has.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Infrastructure {
    /// Whether the Gateway asks for it. Else it is brought up to date if it is
    /// there, since it was asked for once.
    is_asked: bool,
    account: ServiceAccount,
}

/// What all Gateways that are ours should have.
pub(crate) fn wanted(
    objects: &BTreeMap<ObjectKey, Object>,
    compiled: &Compiled,
) -> BTreeMap<ObjectName, Infrastructure> {
    let gateways = objects.values().filter_map(|object| match object {
        Object::Gateway(gateway) => Some(gateway),
        _ => None,
    });
    let wanted = gateways.filter_map(|gateway| {
        let (namespace, name) = (gateway.namespace()?, gateway.name_any());
        let is_ours =
            compiled.status.gateways.contains_key(&ObjectName::new(&*namespace, &*name).ok()?);
        // Nothing new is made for who is going.
        let stays = gateway.metadata.deletion_timestamp.is_none();
        let infrastructure = (is_ours && stays).then(|| one(gateway))?;
        let name = ObjectName::new(namespace, infrastructure.account.name_any()).ok()?;
        Some((name, infrastructure))
    });
    wanted.collect()
}

fn one(gateway: &Gateway) -> Infrastructure {
    let asked = gateway.spec.infrastructure.clone().unwrap_or_default();
    let mut labels = asked.labels.unwrap_or_default();
    let annotations = asked.annotations.unwrap_or_default();
    let is_asked = !labels.is_empty() || !annotations.is_empty();
    let name = gateway.name_any();
    labels.insert(GATEWAY_NAME.to_owned(), fit(&name, MAX_LABEL_BYTES));
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    // As GEP-1762 has it.
    let account_name = format!("{name}-{}", gateway.spec.gateway_class_name);
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some(fit(&account_name, MAX_NAME_BYTES)),
            namespace: gateway.namespace(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: gateway.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        // It is nobody's account.
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    };
    Infrastructure { is_asked, account }
}

/// A name that is too long ends in what tells it from others that begin alike.
fn fit(name: &str, bytes: usize) -> String {
    if name.len() <= bytes {
        return name.to_owned();
    }
    let digest = format!("{:016x}", SipHasher13::new().hash(name.as_bytes()));
    let end = name.floor_char_boundary(bytes - digest.len() - 1);
    let begin = name.get(..end).unwrap_or_default().trim_end_matches(['.', '-']);
    format!("{begin}-{digest}")
}

/// Begins to make what is wanted, until nobody says any more what is.
pub(crate) fn begin(clients: &Clients) -> watch::Sender<Wanted> {
    let (sender, wanted) = watch::channel(None);
    let labels = format!("{GATEWAY_NAME},{}={}", MANAGED_BY.0, MANAGED_BY.1);
    let known = Known::follow(Api::all(clients.watching.clone()), config().labels(&labels));
    let maker = Maker { client: clients.asking.clone(), known, made: BTreeMap::new() };
    tokio::spawn(maker.follow(wanted));
    sender
}

/// Who makes them.
struct Maker {
    client: Client,
    /// Those that there are.
    known: Known<ServiceAccount>,
    /// Those that were made or found to be so, or whose failure was told.
    made: BTreeMap<ObjectName, (Infrastructure, Result<(), String>)>,
}

impl Maker {
    async fn follow(mut self, mut wanted: watch::Receiver<Wanted>) {
        loop {
            let now = wanted.borrow_and_update().clone();
            let mut failed = false;
            match (now, self.known.all()) {
                (Some(wanted), Some(known)) => failed = !self.make(wanted, &known).await,
                (None, _) => self.made.clear(),
                (Some(_), None) => {}
            }
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() {
                    return;
                },
                () = self.known.changed() => {}
                () = sleep(RETRY), if failed => {}
            }
        }
    }

    /// `false` if something has to be tried again.
    async fn make(
        &mut self,
        wanted: BTreeMap<ObjectName, Infrastructure>,
        known: &[Arc<ServiceAccount>],
    ) -> bool {
        let known: BTreeMap<_, _> = known
            .iter()
            .filter_map(|account| {
                Some((ObjectName::new(account.namespace()?, account.name_any()).ok()?, account))
            })
            .collect();
        self.made.retain(|name, _| wanted.contains_key(name));
        let mut all = true;
        for (name, wanted) in wanted {
            let known = known.get(&name);
            if !wanted.is_asked && known.is_none() {
                continue;
            }
            let before = self.made.get(&name);
            let was_made = before.is_some_and(|(made, outcome)| *made == wanted && outcome.is_ok());
            if was_made && known.is_some_and(|known| carries(known, &wanted.account)) {
                continue;
            }
            let outcome = apply(&self.client, &name, &wanted.account, known.is_some()).await;
            if let Err(why) = &outcome {
                all = false;
                if before.is_none_or(|(_, before)| *before != outcome) {
                    warn!("ServiceAccount {name} can't be made for its Gateway: {why}");
                }
            }
            self.made.insert(name, (wanted, outcome));
        }
        all
    }
}

/// Has it applied, unless there is another one of that name.
async fn apply(
    client: &Client,
    name: &ObjectName,
    account: &ServiceAccount,
    is_known: bool,
) -> Result<(), String> {
    let api = Api::<ServiceAccount>::namespaced(client.clone(), name.namespace());
    let failed = |error: kube::Error| match error {
        kube::Error::Api(status) => format!("{}; trying again", status.message),
        error => format!("{error}; trying again"),
    };
    // One that is not known to be ours may be somebody else's.
    if !is_known {
        let found = api.get_opt(name.name()).await.map_err(failed)?;
        if found.is_some_and(|found| !is_ours(&found, account)) {
            return Err("there is another one of that name: rename it, or the Gateway".to_owned());
        }
    }
    let params = PatchParams::apply(MANAGER).force();
    match api.patch(name.name(), &params, &Patch::Apply(account)).await {
        Ok(_) if is_known => debug!("ServiceAccount {name} is as its Gateway has it"),
        Ok(_) => info!("ServiceAccount {name} is made for its Gateway"),
        // A namespace that is going takes nothing new.
        Err(kube::Error::Api(status)) if status.message.contains("is being terminated") => {
            debug!("no ServiceAccount {name}: {}", status.message);
        }
        Err(error) => return Err(failed(error)),
    }
    Ok(())
}

fn is_ours(found: &ServiceAccount, wanted: &ServiceAccount) -> bool {
    let owners = |account: &ServiceAccount| account.metadata.owner_references.clone();
    found.labels().get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1)
        || (owners(found).is_some() && owners(found) == owners(wanted))
}

/// Whether all that is wanted is on it. What others put there stays.
fn carries(known: &ServiceAccount, wanted: &ServiceAccount) -> bool {
    let has = |known: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>| {
        wanted.iter().all(|(key, value)| known.get(key) == Some(value))
    };
    has(known.labels(), wanted.labels())
        && has(known.annotations(), wanted.annotations())
        && known.owner_references() == wanted.owner_references()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn gateway(name: &str, infrastructure: Value) -> Gateway {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "shop", "uid": "1234"},
            "spec": {"gatewayClassName": "blixt", "listeners": [], "infrastructure": infrastructure},
        }))
        .unwrap()
    }

    #[test]
    fn what_a_gateway_says_is_on_its_account() {
        let found = one(&gateway(
            "edge",
            json!({"labels": {"team": "a", GATEWAY_NAME: "mine"}, "annotations": {"note": "b"}}),
        ));
        assert!(found.is_asked);
        let expected = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {
                "name": "edge-blixt", "namespace": "shop",
                "labels": {
                    "team": "a", GATEWAY_NAME: "edge",
                    "app.kubernetes.io/managed-by": "blixt-controller",
                },
                "annotations": {"note": "b"},
                "ownerReferences": [{
                    "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
                    "name": "edge", "uid": "1234", "controller": true,
                }],
            },
            "automountServiceAccountToken": false,
        });
        assert_eq!(serde_json::to_value(&found.account).unwrap(), expected);
    }

    #[test]
    fn who_says_nothing_asks_for_nothing() {
        for nothing in [json!(null), json!({}), json!({"labels": {}, "annotations": {}})] {
            assert!(!one(&gateway("edge", nothing)).is_asked);
        }
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let long = |end: &str| format!("{}.{end}", "a".repeat(60));
        let [one, other] = [long("b"), long("c")].map(|name| fit(&name, MAX_LABEL_BYTES));
        assert_ne!(one, other);
        assert!(one.len() <= MAX_LABEL_BYTES && one.starts_with("aaaa"), "{one}");
        assert_eq!(fit("short", MAX_LABEL_BYTES), "short");
        // Never a dot before a dash, which no name may have.
        assert!(fit(&"a.".repeat(200), MAX_NAME_BYTES).contains("a-"));
    }

    #[test]
    fn another_ones_account_is_told_from_ours() {
        let wanted = one(&gateway("edge", json!({"labels": {"team": "a"}}))).account;
        let mut found = wanted.clone();
        found.annotations_mut().insert("of/others".to_owned(), "stays".to_owned());
        assert!(carries(&found, &wanted) && is_ours(&found, &wanted));
        found.labels_mut().insert("team".to_owned(), "b".to_owned());
        assert!(!carries(&found, &wanted) && is_ours(&found, &wanted));
        let theirs = ServiceAccount {
            metadata: ObjectMeta { name: Some("edge-blixt".to_owned()), ..ObjectMeta::default() },
            ..ServiceAccount::default()
        };
        assert!(!is_ours(&theirs, &wanted));
    }
}
