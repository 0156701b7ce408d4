//! The door: TLS on any address, and HTTP in it. Whoever is slow, or has no
//! token, takes little and not for long.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use crate::decisions::{Decisions, LONGEST_TOKEN, Review};
use crate::files::Files;
use crate::flags::SecureFlags;
use crate::page::{self, Page};

/// How many connections there are at once; more wait to be taken.
const CONNECTIONS: usize = 64;

/// How long a handshake may take, and a request until it is read.
const HANDSHAKE: Duration = Duration::from_secs(5);
const REQUEST: Duration = Duration::from_secs(5);

/// How long a connection may last: scrapers make another one.
const LIFE: Duration = Duration::from_secs(60);

/// Room for the longest token and what stands beside it.
const LONGEST_HEAD: usize = 2 * LONGEST_TOKEN;

/// Why metrics can't be served.
#[derive(Debug, thiserror::Error)]
pub enum SecureError {
    /// The address is not to be had.
    #[error(
        "--secure-metrics {0} can't be used ({1}): stop what uses it (`ss -ltnp`), or give another \
         address"
    )]
    Address(SocketAddr, #[source] io::Error),
    /// The certificate is no good.
    #[error("{0}: give a certificate and its key as PEM files, or none, for one of Blixt's own CA")]
    Files(String),
    /// TLS does not go.
    #[error("TLS is not to be had: {0}")]
    Tls(#[from] rustls::Error),
}

/// An address that is taken, with what shows itself there.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    files: Option<Arc<Files>>,
}

impl Door {
    /// Takes the address, and reads the files, if the flags say so.
    pub async fn open(flags: &SecureFlags) -> Result<Option<Self>, SecureError> {
        let Some(address) = flags.secure_metrics else { return Ok(None) };
        let files = flags.tls_cert_file.clone().zip(flags.tls_private_key_file.clone());
        let files = files.map(|(certificate, key)| Files::open(certificate, key));
        let files = files.transpose().map_err(SecureError::Files)?;
        let refused = |source| SecureError::Address(address, source);
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        Ok(Some(Self { listener, files }))
    }

    /// Where it is.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves the page to whoever may have it, for ever. `own` is the
    /// certificate if no files were given.
    pub async fn serve(
        self,
        own: Arc<dyn ResolvesServerCert>,
        review: Arc<dyn Review>,
        page: Page,
    ) -> Result<(), SecureError> {
        let certificate = self.files.map_or(own, |files| files as Arc<dyn ResolvesServerCert>);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(certificate);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let router = page::router(Arc::new(Decisions::new(review)), page);
        if let Ok(address) = self.listener.local_addr() {
            info!(%address, "metrics are served over TLS");
        }
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // It is never closed.
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
            let (stream, from) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, say: that passes.
                    warn!("no connection for metrics can be taken: {error}");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (acceptor, router) = (acceptor.clone(), router.clone());
            tokio::spawn(async move {
                if let Err(why) = converse(stream, acceptor, router).await {
                    debug!("a connection for metrics from {from} ends: {why}");
                }
                drop(permit);
            });
        }
    }
}

async fn converse(stream: TcpStream, acceptor: TlsAcceptor, router: Router) -> Result<(), String> {
    let accepted = timeout(HANDSHAKE, acceptor.accept(stream)).await;
    let accepted = accepted.map_err(|_| format!("no handshake within {HANDSHAKE:?}"))?;
    let stream = accepted.map_err(|error| error.to_string())?;
    let mut http = Builder::new(TokioExecutor::new()).http1_only();
    http.http1().timer(TokioTimer::new()).header_read_timeout(REQUEST).max_buf_size(LONGEST_HEAD);
    let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(LIFE, served).await {
        Ok(served) => served.map_err(|error| error.to_string()),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decisions::{Unavailable, Verdict};
    use axum::response::IntoResponse;
    use futures_util::future::BoxFuture;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, RootCertStore};
    use std::fs;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsConnector;

    /// Longer than anything here takes, and much less than for ever.
    const SOON: Duration = Duration::from_secs(30);

    struct Good;

    impl Review for Good {
        fn review<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Verdict, Unavailable>> {
            Box::pin(async { Ok(Verdict::Allowed) })
        }
    }

    /// A door with a certificate of files, and who trusts it.
    async fn open() -> (SocketAddr, TlsConnector) {
        let directory = tempfile::tempdir().unwrap();
        let (at, key_at) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["metrics".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(&at, certificate.pem()).unwrap();
        fs::write(&key_at, key.serialize_pem()).unwrap();
        let flags = SecureFlags {
            secure_metrics: Some("127.0.0.1:0".parse().unwrap()),
            tls_cert_file: Some(at),
            tls_private_key_file: Some(key_at),
        };
        let door = Door::open(&flags).await.unwrap().unwrap();
        let address = door.address().unwrap();
        let own = door.files.clone().unwrap();
        let page: Page = Arc::new(|| "it is well\n".into_response());
        tokio::spawn(door.serve(own, Arc::new(Good), page));
        (address, TlsConnector::from(trusting(certificate.der())))
    }

    fn trusting(root: &CertificateDer<'static>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap();
        Arc::new(config.with_root_certificates(roots).with_no_client_auth())
    }

    /// What comes until the connection ends, when this was sent.
    async fn said(at: SocketAddr, client: &TlsConnector, sent: &str) -> String {
        let name = ServerName::try_from("metrics").unwrap();
        let stream = TcpStream::connect(at).await.unwrap();
        let mut stream = client.connect(name, stream).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut heard = Vec::new();
        // Whether it ends with a goodbye makes no difference.
        let _ = timeout(SOON, stream.read_to_end(&mut heard)).await.expect("it has no end");
        String::from_utf8(heard).unwrap()
    }

    #[tokio::test]
    async fn metrics_are_served_and_nothing_else() {
        let (at, client) = open().await;
        let ask = |line: &str, more: &str| {
            let text = format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{more}\r\n");
            let client = client.clone();
            async move { said(at, &client, &text).await }
        };
        let token = "authorization: Bearer x\r\n";
        let page = ask("GET /metrics", token).await;
        assert!(
            page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("it is well\n"),
            "{page}"
        );
        let page = ask("GET /metrics", "").await;
        assert!(
            page.starts_with("HTTP/1.1 401 ") && page.contains("www-authenticate: Bearer"),
            "{page}"
        );
        assert!(ask("GET /healthz", token).await.starts_with("HTTP/1.1 404 "));
        assert!(ask("POST /metrics", token).await.starts_with("HTTP/1.1 405 "));
        let long = format!("x: {}\r\n", "x".repeat(2 * LONGEST_HEAD));
        assert!(ask("GET /metrics", &long).await.starts_with("HTTP/1.1 431 "));
        assert!(ask("\u{1}\u{2}", "").await.starts_with("HTTP/1.1 400 "));
    }

    #[tokio::test]
    async fn who_is_slow_is_not_waited_for() {
        let (at, client) = open().await;
        let silent = async {
            let mut stream = TcpStream::connect(at).await.unwrap();
            let ended = timeout(SOON, stream.read_to_end(&mut Vec::new())).await;
            let _ = ended.expect("it may be silent for ever");
        };
        let half = said(at, &client, "GET /metrics HTTP/1.1\r\nhost: x\r\n");
        let ((), half) = tokio::join!(silent, half);
        assert!(half.is_empty() || half.starts_with("HTTP/1.1 408 "), "{half}");
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named() {
        let (at, _) = open().await;
        let flags = SecureFlags { secure_metrics: Some(at), ..SecureFlags::default() };
        let why = Door::open(&flags).await.unwrap_err().to_string();
        assert!(why.starts_with(&format!("--secure-metrics {at} can't be used (")), "{why}");
        assert!(Door::open(&SecureFlags::default()).await.unwrap().is_none());
    }
}
