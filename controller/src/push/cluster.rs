//! What push keeps in the cluster: the CA in a Secret, and for agents, who have
//! no rights there, a ConfigMap with all that they need to find us. All of it is
//! watched: where nothing happens nothing is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::PostParams;
use kube::runtime::events::{Event as NewEvent, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::known::Known;
use crate::watch::config;

use super::certificates::Material;
use super::{Push, Trust};

/// The Secret with the CA.
const CA: &str = "blixt-ca";

/// The ConfigMap for agents, and the headless Service of all replicas.
const CONTROLLER: &str = "blixt-controller";

/// Whoever brings a Secret along does not have this label on it. Then only he
/// writes it.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "blixt-controller");

/// The keys of a Secret of type kubernetes.io/tls, that of its CA as
/// cert-manager has it, and ours for what signs next.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const BUNDLE: &str = "ca.crt";
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";

/// The keys of the ConfigMap.
const URLS: &str = "urls";

/// How often is looked what time alone changes, and when what failed is tried
/// again.
const LOOK: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);

/// Something in the cluster is not as it has to be.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("{0}")]
    Api(kube::Error),
    #[error("is another one already")]
    Outdated,
    #[error("{0}")]
    Trust(#[from] super::TrustError),
    #[error("has no {0}: a CA is kept as tls.crt, tls.key and ca.crt")]
    Lacks(&'static str),
    #[error("is not there yet; the leader makes it")]
    Absent,
    #[error("is gone, and was not made here: bring it back, or delete the pods of the controller")]
    Gone,
}

/// Whom and what is kept for.
pub struct Keeping {
    /// For watches.
    pub watching: Client,
    /// For everything else.
    pub asking: Client,
    /// Where it is kept.
    pub namespace: String,
    /// Which replica this is, for people.
    pub identity: String,
    /// Where agents find each replica.
    pub port: u16,
    /// Whether this one may write.
    pub leads: watch::Receiver<bool>,
}

/// Keeps the CA in force, and the ConfigMap of it, for ever. Only a leader
/// writes.
pub async fn keep(keeping: Keeping, trust: Trust, push: Push) {
    let Keeping { watching, asking, namespace, identity, port, mut leads } = keeping;
    let named = |name: &str| config().fields(&format!("metadata.name={name}"));
    let of_service = config().labels(&format!("kubernetes.io/service-name={CONTROLLER}"));
    let mut secrets: Known<Secret> =
        Known::follow(Api::namespaced(watching.clone(), &namespace), named(CA));
    let mut maps: Known<ConfigMap> =
        Known::follow(Api::namespaced(watching.clone(), &namespace), named(CONTROLLER));
    let mut slices: Known<EndpointSlice> =
        Known::follow(Api::namespaced(watching, &namespace), of_service);
    let keeper = Keeper {
        is_ours: AtomicBool::new(false),
        secrets: Api::namespaced(asking.clone(), &namespace),
        maps: Api::namespaced(asking.clone(), &namespace),
        port,
        trust,
        push,
    };
    let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(identity) };
    let recorder = Recorder::new(asking, reporter);
    let mut troubles = BTreeMap::new();
    loop {
        let leading = *leads.borrow_and_update();
        let mut outcomes = Vec::new();
        if let Some(secret) = secrets.all().map(|all| all.first().cloned()) {
            let kept = keeper.keep_ca(secret.as_deref(), leading).await;
            outcomes.push((format!("Secret {namespace}/{CA}"), kept, secret));
            // Whatever came of it: the CA in force goes on.
            let renewed = keeper.trust.renew(SystemTime::now()).map_err(KeepError::from);
            outcomes.push(("The server certificate:".to_owned(), renewed, None));
        }
        if let (Some(slices), Some(maps)) = (slices.all(), maps.all()) {
            let kept = keeper.keep_map(&slices, maps.first().map(Arc::as_ref), leading).await;
            outcomes.push((format!("ConfigMap {namespace}/{CONTROLLER}"), kept, None));
        }
        let mut wait = LOOK;
        for (what, kept, secret) in outcomes {
            if matches!(kept, Err(KeepError::Api(_) | KeepError::Outdated)) {
                wait = RETRY;
            }
            let told = tell(&mut troubles, what, kept);
            if let (Some(why), Some(secret), true) = (told, secret, leading) {
                record(&recorder, &secret, why).await;
            }
        }
        tokio::select! {
            () = secrets.changed() => {}
            () = maps.changed() => {}
            () = slices.changed() => {}
            changed = leads.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
                // Who leads tells anew what is wrong.
                troubles.clear();
            }
            () = sleep(wait) => {}
        }
    }
}

/// Tells on a Secret what is wrong with it.
async fn record(recorder: &Recorder, secret: &Secret, why: String) {
    let event = NewEvent {
        type_: EventType::Warning,
        reason: "NotUsable".to_owned(),
        note: Some(format!("Secret {CA} {why}. The last good CA stays.")),
        action: "Read".to_owned(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&event, &secret.object_ref(&())).await {
        warn!("an Event on Secret {CA} can't be made: {error}");
    }
}

/// Logs what is wrong, once. Gives it, if it is with the object itself.
fn tell(
    troubles: &mut BTreeMap<String, String>,
    what: String,
    how: Result<(), KeepError>,
) -> Option<String> {
    let Err(error) = how else {
        if troubles.remove(&what).is_some() {
            info!("{what} is as it should be");
        }
        return None;
    };
    let text = match &error {
        // A watch tells of it in a moment.
        KeepError::Outdated => return None,
        KeepError::Api(kube::Error::Api(status)) => status.message.clone(),
        error => error.to_string(),
    };
    if troubles.get(&what) == Some(&text) {
        return None;
    }
    match error {
        // As it is where everything is new.
        KeepError::Absent => info!("{what} {text}"),
        KeepError::Api(_) => warn!("{what}: {text}; trying again"),
        _ => warn!("{what} {text}"),
    }
    let is_its_own = matches!(error, KeepError::Trust(_) | KeepError::Lacks(_));
    troubles.insert(what, text.clone());
    is_its_own.then_some(text)
}

struct Keeper {
    /// Whether the CA in force is one that the leader made.
    is_ours: AtomicBool,
    secrets: Api<Secret>,
    maps: Api<ConfigMap>,
    port: u16,
    trust: Trust,
    push: Push,
}

impl Keeper {
    async fn keep_ca(&self, secret: Option<&Secret>, leads: bool) -> Result<(), KeepError> {
        let now = SystemTime::now();
        let Some(secret) = secret else {
            if !leads {
                return Err(KeepError::Absent);
            }
            let material = match self.trust.material() {
                // All agents know it.
                Some(material) if self.is_ours.load(Ordering::Relaxed) => material,
                Some(_) => return Err(KeepError::Gone),
                None => Material::new(now)?,
            };
            write(&self.secrets, secret_of(&material, None), false).await?;
            info!("there is a new Secret with the CA");
            return self.take(&material, true);
        };
        let material = material_of(secret)?;
        let taken = self.take(&material, is_ours(secret));
        // Also one that can't be taken: for having expired.
        if leads
            && is_ours(secret)
            && let Some(renewed) = material.renewed(now)?
        {
            write(&self.secrets, secret_of(&renewed, Some(secret)), true).await?;
            info!("the CA is being renewed");
            return self.take(&renewed, true);
        }
        taken
    }

    fn take(&self, material: &Material, is_ours: bool) -> Result<(), KeepError> {
        self.trust.update(material)?;
        self.is_ours.store(is_ours, Ordering::Relaxed);
        Ok(())
    }

    async fn keep_map(
        &self,
        slices: &[Arc<EndpointSlice>],
        before: Option<&ConfigMap>,
        leads: bool,
    ) -> Result<(), KeepError> {
        let urls = urls(slices.iter().map(Arc::as_ref), self.port);
        self.push.tell_peers(urls.iter().cloned().collect());
        let Some(bundle) = self.trust.bundle().filter(|_| leads) else { return Ok(()) };
        // An agent is started once there is a map, and shown another one a minute or so
        // later: there is none before it leads to somebody.
        if before.is_none() && urls.is_empty() {
            return Ok(());
        }
        let data: BTreeMap<_, _> = [
            (BUNDLE.to_owned(), bundle),
            (URLS.to_owned(), urls.into_iter().map(|url| url + "\n").collect()),
        ]
        .into();
        if before.is_some_and(|map| map.data.as_ref() == Some(&data)) {
            return Ok(());
        }
        let exists = before.is_some();
        let mut map = before.cloned().unwrap_or_default();
        map.metadata.name = Some(CONTROLLER.to_owned());
        map.data = Some(data);
        write(&self.maps, map, exists).await
    }
}

/// Writes an object. Where somebody else was faster it fails, and is looked at again.
async fn write<K>(api: &Api<K>, object: K, exists: bool) -> Result<(), KeepError>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
{
    let name = object.meta().name.clone().unwrap_or_default();
    let written = match exists {
        true => api.replace(&name, &PostParams::default(), &object).await,
        false => api.create(&PostParams::default(), &object).await,
    };
    match written {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Err(KeepError::Outdated),
        Err(error) => Err(KeepError::Api(error)),
    }
}

fn is_ours(secret: &Secret) -> bool {
    let labels = secret.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY.0)).is_some_and(|by| by == MANAGED_BY.1)
}

/// The CA that a Secret has. One without a bundle is its own.
fn material_of(secret: &Secret) -> Result<Material, KeepError> {
    let read = |key| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key))?;
        String::from_utf8(bytes.0.clone()).ok()
    };
    let certificate = read(CERTIFICATE).ok_or(KeepError::Lacks(CERTIFICATE))?;
    Ok(Material {
        key: read(KEY).ok_or(KeepError::Lacks(KEY))?,
        bundle: read(BUNDLE).unwrap_or_else(|| certificate.clone()),
        certificate,
        next: read(NEXT_CERTIFICATE).zip(read(NEXT_KEY)),
    })
}

/// The Secret that has a CA: a new one, or one that is there with another CA.
fn secret_of(material: &Material, before: Option<&Secret>) -> Secret {
    let mut secret = before.cloned().unwrap_or_else(|| Secret {
        type_: Some("kubernetes.io/tls".to_owned()),
        ..Secret::default()
    });
    secret.metadata.name = Some(CA.to_owned());
    let labels = secret.metadata.labels.get_or_insert_default();
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    let (next_certificate, next_key) = material.next.clone().unzip();
    let data = [
        (CERTIFICATE, Some(material.certificate.clone())),
        (KEY, Some(material.key.clone())),
        (BUNDLE, Some(material.bundle.clone())),
        (NEXT_CERTIFICATE, next_certificate),
        (NEXT_KEY, next_key),
    ];
    let data = data
        .into_iter()
        .filter_map(|(key, text)| Some((key.to_owned(), ByteString(text?.into_bytes()))));
    secret.data = Some(data.collect());
    secret
}

/// Where the replicas are that are ready.
fn urls<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>, port: u16) -> BTreeSet<String> {
    let ready =
        slices.into_iter().flat_map(|slice| slice.endpoints.iter().flatten()).filter(|endpoint| {
            // "nil should be interpreted as true" (EndpointConditions).
            endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
        });
    let addresses = ready.flat_map(|endpoint| &endpoint.addresses);
    let url = |address: &String| {
        Some(format!("https://{}", SocketAddr::new(address.parse().ok()?, port)))
    };
    addresses.filter_map(url).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions};

    #[test]
    fn a_ca_comes_back_from_its_secret() {
        let now = SystemTime::now();
        let material = Material::new(now).unwrap();
        let secret = secret_of(&material, None);
        assert!(is_ours(&secret));
        assert_eq!(material_of(&secret).unwrap(), material);
        // While there are two, and again with one, in the same Secret.
        let year = Duration::from_secs(300 * 24 * 3_600);
        let renewed = material.renewed(now + year).unwrap().unwrap();
        let two = secret_of(&renewed, Some(&secret));
        assert_eq!(material_of(&two).unwrap(), renewed);
        assert_eq!(material_of(&secret_of(&material, Some(&two))).unwrap(), material);
    }

    #[test]
    fn a_secret_that_was_brought_along_is_not_ours() {
        let mut secret = secret_of(&Material::new(SystemTime::now()).unwrap(), None);
        secret.metadata.labels = None;
        secret.data.as_mut().unwrap().remove(BUNDLE);
        assert!(!is_ours(&secret));
        let material = material_of(&secret).unwrap();
        assert_eq!(material.bundle, material.certificate);
        secret.data.as_mut().unwrap().remove(KEY);
        let why = material_of(&secret).unwrap_err().to_string();
        assert!(why.starts_with("has no tls.key"), "{why}");
    }

    #[test]
    fn urls_are_those_of_replicas_that_are_ready() {
        let endpoint = |address: &str, ready| Endpoint {
            addresses: vec![address.to_owned()],
            conditions: Some(EndpointConditions { ready, ..EndpointConditions::default() }),
            ..Endpoint::default()
        };
        let slice = EndpointSlice {
            endpoints: Some(vec![
                endpoint("10.0.0.2", Some(true)),
                endpoint("10.0.0.3", Some(false)),
                endpoint("2001:db8::1", None),
                endpoint("nonsense", None),
            ]),
            ..EndpointSlice::default()
        };
        let found: Vec<_> = urls([&slice], 9_874).into_iter().collect();
        assert_eq!(found, ["https://10.0.0.2:9874", "https://[2001:db8::1]:9874"]);
    }
}
