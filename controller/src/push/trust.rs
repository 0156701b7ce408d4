//! The CA in force, and the newest server certificate that it signed.
//! Connections that are open keep what they began with.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tracing::info;

use super::certificates::{Authority, LIFE, Material, TrustError};

/// The CA and the server certificate in force. Copies are one.
#[derive(Debug, Clone, Default)]
pub struct Trust(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    authority: ArcSwapOption<Authority>,
    server: ArcSwapOption<ServerConfig>,
    made: RwLock<Option<Made>>,
}

/// What both were made of, and when, and when that CA ends.
#[derive(Debug, Clone)]
struct Made {
    of: Material,
    at: SystemTime,
    expires: SystemTime,
}

impl Trust {
    /// Nobody can be let in yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a CA, and makes a server certificate of it. On an error the last
    /// ones stay.
    pub fn update(&self, material: &Material) -> Result<(), TrustError> {
        if self.made().as_ref().is_some_and(|made| made.of == *material) {
            return self.renew(SystemTime::now());
        }
        self.make(material, SystemTime::now())
    }

    /// Makes a new server certificate where the last one has had half of its
    /// life. Call it now and then.
    pub fn renew(&self, now: SystemTime) -> Result<(), TrustError> {
        match self.made() {
            // A clock that was put back is as good a reason.
            Some(made) if now.duration_since(made.at).is_ok_and(|age| age < LIFE / 2) => Ok(()),
            Some(made) => self.make(&made.of, now),
            None => Ok(()),
        }
    }

    fn make(&self, material: &Material, now: SystemTime) -> Result<(), TrustError> {
        let authority = Authority::open(material)?;
        let server = authority.server(now)?;
        let made = Made { of: material.clone(), at: now, expires: authority.expires() };
        self.0.authority.store(Some(Arc::new(authority)));
        self.0.server.store(Some(Arc::new(server)));
        *self.0.made.write().unwrap_or_else(PoisonError::into_inner) = Some(made);
        info!("there is a new server certificate");
        Ok(())
    }

    fn made(&self) -> Option<Made> {
        self.0.made.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The CA in force, as it was taken.
    pub(crate) fn material(&self) -> Option<Material> {
        self.made().map(|made| made.of)
    }

    /// When the CA and the server certificate end.
    pub(crate) fn expires(&self) -> Option<[(&'static str, SystemTime); 2]> {
        let made = self.0.made.read().unwrap_or_else(PoisonError::into_inner);
        let made = made.as_ref()?;
        Some([("ca", made.expires), ("server", made.at + LIFE)])
    }

    /// How clients are let in, if there is a CA yet.
    pub(crate) fn server(&self) -> Option<Arc<ServerConfig>> {
        self.0.server.load_full()
    }

    /// The CA, if there is one yet.
    pub(crate) fn authority(&self) -> Option<Arc<Authority>> {
        self.0.authority.load_full()
    }

    /// All that certificates may be signed by, as PEM.
    pub fn bundle(&self) -> Option<String> {
        self.authority().map(|authority| authority.bundle().to_owned())
    }
}

/// For whoever else serves by TLS here: the server certificate in force.
impl ResolvesServerCert for Trust {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.server.load_full()?.cert_resolver.resolve(hello)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::StreamExt;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use rustls::{ClientConfig, RootCertStore};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::super::{door, meters::Meters};
    use super::*;

    type Client = TlsStream<TcpStream>;

    async fn connect(listener: std::net::SocketAddr, ca: &Material) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.bundle.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(listener).await.unwrap();
        let name = "blixt-controller".try_into().unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    fn shown(client: &Client) -> CertificateDer<'static> {
        client.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }

    #[tokio::test]
    async fn a_server_certificate_is_exchanged_beneath_connections_that_go_on() {
        // It was made some time ago, and half of its life is over now.
        let (now, early) = (SystemTime::now(), Duration::from_secs(60));
        let made = now - LIFE / 2;
        let ca = Material::new(made).unwrap();
        let trust = Trust::new();
        trust.make(&ca, made).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let mut connections = door::open(listener, trust.clone(), Meters::default());
        let (mut client, open) = tokio::join!(connect(at, &ca), connections.next());
        let mut open = open.unwrap().unwrap();
        let first = shown(&client);

        trust.renew(now - early).unwrap();
        assert_eq!(shown(&connect(at, &ca).await), first, "that is too early");
        let ends = |at: SystemTime| Some([("ca", ca_ends(&ca)), ("server", at + LIFE)]);
        assert_eq!(trust.expires(), ends(made));

        trust.renew(now).unwrap();
        let new = connect(at, &ca).await;
        assert_ne!(shown(&new), first);
        assert_eq!(trust.expires(), ends(now));
        assert_eq!(trust.material().as_ref(), Some(&ca), "the CA is the same");
        // Both ways, with what it began with.
        let mut heard = [0; 4];
        client.write_all(b"ping").await.unwrap();
        open.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"ping");
        open.write_all(b"pong").await.unwrap();
        open.flush().await.unwrap();
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"pong");
        assert_eq!(shown(&client), first);
        // The next one is due when that has had half of its life.
        trust.renew(now + LIFE / 2 - early).unwrap();
        assert_eq!(shown(&connect(at, &ca).await), shown(&new));
    }

    fn ca_ends(ca: &Material) -> SystemTime {
        Authority::open(ca).unwrap().expires()
    }
}
