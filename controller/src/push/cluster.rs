//! What push keeps in the cluster: the CA in a Secret, and for agents, who have
//! no rights there, a ConfigMap with all that they need to find us.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

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

/// How often is looked, when all is well and when it is not.
const LOOK: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(500);

/// Something in the cluster is not as it has to be.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("{0}")]
    Trust(#[from] super::TrustError),
    #[error("has no {0}: a CA is kept as tls.crt, tls.key and ca.crt")]
    Lacks(&'static str),
    #[error("is not there yet; the leader makes it")]
    Absent,
}

/// Keeps the CA in force, and the ConfigMap of it, for ever. Only a leader
/// writes.
pub async fn keep(
    client: Client,
    namespace: String,
    port: u16,
    leads: watch::Receiver<bool>,
    trust: Trust,
    push: Push,
) {
    let keeper = Keeper {
        secrets: Api::namespaced(client.clone(), &namespace),
        maps: Api::namespaced(client.clone(), &namespace),
        slices: Api::namespaced(client, &namespace),
        port,
        trust,
        push,
    };
    let mut troubles = BTreeMap::new();
    loop {
        let leads = *leads.borrow();
        let ca = keeper.keep_ca(leads).await;
        let found = keeper.keep_map(leads).await;
        let well = ca.is_ok() && found.is_ok();
        tell(&mut troubles, format!("Secret {namespace}/{CA}"), ca);
        tell(&mut troubles, format!("ConfigMap {namespace}/{CONTROLLER}"), found);
        sleep(if well { LOOK } else { RETRY }).await;
    }
}

/// Logs what is wrong, once.
fn tell(troubles: &mut BTreeMap<String, String>, what: String, how: Result<(), KeepError>) {
    match how {
        Ok(()) => {
            if troubles.remove(&what).is_some() {
                info!("{what} is as it should be");
            }
        }
        Err(error) => {
            let text = error.to_string();
            if troubles.get(&what) != Some(&text) {
                match error {
                    // As it is where everything is new.
                    KeepError::Absent => info!("{what} {text}"),
                    _ => warn!("{what} {text}; trying again"),
                }
                troubles.insert(what, text);
            }
        }
    }
}

struct Keeper {
    secrets: Api<Secret>,
    maps: Api<ConfigMap>,
    slices: Api<EndpointSlice>,
    port: u16,
    trust: Trust,
    push: Push,
}

impl Keeper {
    async fn keep_ca(&self, leads: bool) -> Result<(), KeepError> {
        let now = SystemTime::now();
        let Some(secret) = self.secrets.get_opt(CA).await? else {
            if !leads {
                return Err(KeepError::Absent);
            }
            let material = Material::new(now)?;
            write(&self.secrets, secret_of(&material, None), false).await?;
            info!("there is a new CA");
            self.trust.update(&material)?;
            return Ok(());
        };
        let material = material_of(&secret)?;
        self.trust.update(&material)?;
        if leads
            && is_ours(&secret)
            && let Some(renewed) = material.renewed(now)?
        {
            write(&self.secrets, secret_of(&renewed, Some(&secret)), true).await?;
            info!("the CA is being renewed");
            self.trust.update(&renewed)?;
        }
        Ok(())
    }

    async fn keep_map(&self, leads: bool) -> Result<(), KeepError> {
        let selector = format!("kubernetes.io/service-name={CONTROLLER}");
        let slices = self.slices.list(&ListParams::default().labels(&selector)).await?;
        let urls = urls(&slices.items, self.port);
        self.push.tell_peers(urls.iter().cloned().collect());
        let Some(bundle) = self.trust.bundle().filter(|_| leads) else { return Ok(()) };
        let data: BTreeMap<_, _> = [
            (BUNDLE.to_owned(), bundle),
            (URLS.to_owned(), urls.into_iter().map(|url| url + "\n").collect()),
        ]
        .into();
        let before = self.maps.get_opt(CONTROLLER).await?;
        if before.as_ref().is_some_and(|map| map.data.as_ref() == Some(&data)) {
            return Ok(());
        }
        let exists = before.is_some();
        let mut map = before.unwrap_or_default();
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
    match exists {
        true => api.replace(&name, &PostParams::default(), &object).await?,
        false => api.create(&PostParams::default(), &object).await?,
    };
    Ok(())
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
fn urls(slices: &[EndpointSlice], port: u16) -> BTreeSet<String> {
    let ready =
        slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()).filter(|endpoint| {
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
        let found: Vec<_> = urls(&[slice], 9_874).into_iter().collect();
        assert_eq!(found, ["https://10.0.0.2:9874", "https://[2001:db8::1]:9874"]);
    }
}
