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
