//! A certificate from files, which are looked at now and then: whoever renews
//! it has nothing to start anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::time::sleep;
use tracing::{info, warn};

/// How often they are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// The certificate in force.
#[derive(Debug)]
pub(crate) struct Files(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Files {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// Both files' bytes.
type Read = (Vec<u8>, Vec<u8>);

impl Files {
    /// Reads the files, and follows them for as long as somebody has what it
    /// gives.
    pub(crate) fn open(certificate: PathBuf, key: PathBuf) -> Result<Arc<Self>, String> {
        Self::follow(certificate, key, LOOK)
    }

    fn follow(certificate: PathBuf, key: PathBuf, every: Duration) -> Result<Arc<Self>, String> {
        let mut last = read(&certificate, &key)?;
        let files = Arc::new(Self(ArcSwap::from_pointee(parse(&certificate, &last)?)));
        let followed = Arc::downgrade(&files);
        tokio::spawn(async move {
            let mut told = None;
            loop {
                sleep(every).await;
                let Some(files) = followed.upgrade() else { return };
                let now = match read(&certificate, &key) {
                    Ok(now) if now == last => continue,
                    now => now,
                };
                let parsed = now.and_then(|now| Ok((parse(&certificate, &now)?, now)));
                // While they are being written they don't belong together.
                match parsed {
                    Ok((parsed, now)) => {
                        files.0.store(Arc::new(parsed));
                        (last, told) = (now, None);
                        info!("{} is new, and in force", certificate.display());
                    }
                    Err(why) if told.as_ref() != Some(&why) => {
                        warn!("the last certificate for metrics stays: {why}");
                        told = Some(why);
                    }
                    Err(_) => {}
                }
            }
        });
        Ok(files)
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Read, String> {
    let read = |flag, file: &Path| fs::read(file).map_err(unusable(flag, file));
    Ok((read("--tls-cert-file", certificate)?, read("--tls-private-key-file", key)?))
}

fn unusable<E: ToString>(flag: &str, file: &Path) -> impl Fn(E) -> String {
    move |why| format!("{flag} {} can't be used ({})", file.display(), why.to_string())
}

fn parse(certificate: &Path, (chain, key): &Read) -> Result<CertifiedKey, String> {
    let unusable = || unusable("--tls-cert-file", certificate);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.map_err(|why| unusable()(why.to_string()))?;
    if chain.is_empty() {
        return Err(unusable()("there is no certificate in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|why| format!("the key of --tls-private-key-file can't be used ({why})"))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map_err(|why| unusable()(why.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> (String, String, CertificateDer<'static>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["metrics".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem(), certificate.der().clone())
    }

    #[tokio::test]
    async fn a_new_certificate_is_taken_and_a_bad_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let (at, key_at) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
        let write = |certificate: &str, key: &str| {
            fs::write(&at, certificate).unwrap();
            fs::write(&key_at, key).unwrap();
        };
        let (first, second) = (new(), new());
        write(&first.0, &first.1);
        let look = Duration::from_millis(5);
        let files = Files::follow(at.clone(), key_at.clone(), look).unwrap();
        let in_force = || files.0.load().cert[0].clone();
        assert_eq!(in_force(), first.2);
        // A key that is another's, half a file, and none.
        for (certificate, key) in [(&second.0[..], &first.1[..]), ("x", "x"), ("", "")] {
            write(certificate, key);
            sleep(look * 20).await;
            assert_eq!(in_force(), first.2);
        }
        write(&second.0, &second.1);
        let renewed = async {
            while in_force() != second.2 {
                sleep(look).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), renewed).await.unwrap();
    }

    #[tokio::test]
    async fn files_that_are_no_good_at_the_start_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let (at, key_at) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
        let refused = || Files::open(at.clone(), key_at.clone()).unwrap_err();
        assert!(refused().starts_with("--tls-cert-file "), "{}", refused());
        let (first, second) = (new(), new());
        fs::write(&at, &first.0).unwrap();
        assert!(refused().starts_with("--tls-private-key-file "), "{}", refused());
        fs::write(&key_at, &second.1).unwrap();
        assert!(refused().contains("tls.crt can't be used ("), "{}", refused());
        fs::write(&key_at, "x").unwrap();
        assert!(refused().starts_with("the key of --tls-private-key-file"), "{}", refused());
    }
}
