//! Certificates, made into what rustls takes.

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Why certificates can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// There is none.
    #[error("there is no certificate")]
    None,
    /// rustls does not take one.
    #[error("certificate number {number} can't be used: {source}")]
    Unusable {
        /// Which one, from 1.
        number: usize,
        /// Why not.
        source: rustls::Error,
    },
}

/// A chain, the server's own certificate first, and its key.
pub type Chain = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What ends TLS with these certificates. Who asks for a name gets the first
/// certificate that is for it, and the first of all if none is. It offers no
/// protocol above TLS (ALPN), since nothing is known of what the endpoints speak.
pub fn server_config(
    chains: impl IntoIterator<Item = Chain>,
) -> Result<Arc<ServerConfig>, CertificateError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let keys = chains
        .into_iter()
        .zip(1..)
        .map(|(chain, number)| {
            certified(chain, &provider)
                .map_err(|source| CertificateError::Unusable { number, source })
        })
        .collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() {
        return Err(CertificateError::None);
    }
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| CertificateError::Unusable { number: 1, source })?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName(keys)));
    Ok(Arc::new(config))
}

/// Checks too that the key is the certificate's.
fn certified(
    (chain, key): Chain,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let certified = CertifiedKey::from_der(chain, key, provider)?;
    // `verify_server_name` is asked at each handshake, so it must parse.
    ParsedCertificate::try_from(certified.end_entity_cert()?)?;
    Ok(Arc::new(certified))
}

/// In the order in which they are named.
struct ByName(Vec<Arc<CertifiedKey>>);

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificates", self.0.len())
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let is_for = |key: &&Arc<CertifiedKey>| {
            let certificate = key.end_entity_cert().ok();
            let parsed = certificate.and_then(|it| ParsedCertificate::try_from(it).ok());
            let both = parsed.zip(name.as_ref());
            both.is_some_and(|(parsed, name)| verify_server_name(&parsed, name).is_ok())
        };
        self.0.iter().find(is_for).or(self.0.first()).cloned()
    }
}
