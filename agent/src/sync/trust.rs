//! How an agent comes to a certificate, and to the controller by TLS. The key
//! is made here and stays in this process's memory.

use std::error::Error;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use blixt_api::sync::v1alpha1::EnrollRequest;
use blixt_api::sync::v1alpha1::controller_client::ControllerClient;
use blixt_api::sync::{MAX_MESSAGE_BYTES, SERVER_NAME};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use tracing::info;

/// How long it may take until a connection can be used, and an answer to come.
const PATIENCE: Duration = Duration::from_secs(3);

/// When a connection that says nothing is asked whether it still is one.
const PING: Duration = Duration::from_secs(5);

/// Why a replica can't be spoken to. All of it is shown to people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TrustError {
    #[error("{file} can't be used ({why})")]
    File { file: String, why: String },
    #[error("{0}")]
    Connect(String),
    #[error("it does not take the agent's token: {0}")]
    Enrol(String),
    #[error("no certificate can be asked for: {0}")]
    Request(String),
}

/// The agent's own certificate, when it has one.
#[derive(Debug)]
pub(super) struct Trust {
    ca: PathBuf,
    token: PathBuf,
    identity: Mutex<Option<Arc<Identity>>>,
}

/// With what it is let in.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) config: Arc<ClientConfig>,
    /// What the other side has to be signed by.
    bundle: String,
    /// From when on it needs another one.
    pub(super) renew_at: Instant,
}

impl Trust {
    pub(super) fn new(ca: PathBuf, token: PathBuf) -> Self {
        Self { ca, token, identity: Mutex::new(None) }
    }

    /// The agent's certificate; a replica gives it one if it has none.
    pub(super) async fn identity(&self, replica: SocketAddr) -> Result<Arc<Identity>, TrustError> {
        let bundle = read(&self.ca)?;
        let known = self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_good =
            |known: &Arc<Identity>| known.renew_at > Instant::now() && known.bundle == bundle;
        if let Some(known) = known.filter(is_good) {
            return Ok(known);
        }
        let new = Arc::new(self.enrol(replica, bundle).await?);
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(new.clone());
        Ok(new)
    }

    /// The certificate is not taken any more.
    pub(super) fn forget(&self) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn enrol(&self, replica: SocketAddr, bundle: String) -> Result<Identity, TrustError> {
        let token = read(&self.token)?.trim().to_owned();
        let failed = |why: &dyn ToString| TrustError::Request(why.to_string());
        let key = KeyPair::generate().map_err(|why| failed(&why))?;
        let request = CertificateParams::default().serialize_request(&key);
        let request = request.map_err(|why| failed(&why))?.der().to_vec();
        let roots = roots(&self.ca, &bundle)?;
        let without = tls(roots.clone())?.with_no_client_auth();
        let mut client = ControllerClient::new(connect(replica, Arc::new(h2(without))).await?);
        let begin = Instant::now();
        let asked = client.enroll(EnrollRequest { request, token });
        let answer = timeout(PATIENCE, asked)
            .await
            .map_err(|_| TrustError::Connect(format!("no answer within {PATIENCE:?}")))?
            .map_err(|status| TrustError::Enrol(describe(&status)))?
            .into_inner();
        let chain = answer.certificates.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let with = tls(roots)?.with_client_auth_cert(chain, key).map_err(|why| failed(&why))?;
        info!(good_for_s = answer.good_for_s, "enrolled with a controller");
        Ok(Identity {
            config: Arc::new(h2(with)),
            bundle,
            renew_at: begin + Duration::from_secs(answer.good_for_s) / 2,
        })
    }
}

fn read(file: &Path) -> Result<String, TrustError> {
    fs::read_to_string(file).map_err(|why| unusable(file, &why))
}

fn unusable(file: &Path, why: &dyn ToString) -> TrustError {
    TrustError::File { file: file.display().to_string(), why: why.to_string() }
}

fn roots(file: &Path, bundle: &str) -> Result<Arc<RootCertStore>, TrustError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        let certificate = certificate.map_err(|why| unusable(file, &why))?;
        roots.add(certificate).map_err(|why| unusable(file, &why))?;
    }
    if roots.is_empty() {
        return Err(unusable(file, &"there is no certificate in it"));
    }
    Ok(Arc::new(roots))
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn tls(roots: Arc<RootCertStore>) -> Result<Builder, TrustError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|why| TrustError::Request(why.to_string()))?;
    Ok(builder.with_root_certificates(roots))
}

fn h2(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// A connection to a replica, which has to be one whatever its address is.
pub(super) async fn connect(
    replica: SocketAddr,
    config: Arc<ClientConfig>,
) -> Result<Channel, TrustError> {
    let connect = async {
        let stream = TcpStream::connect(replica).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
        TlsConnector::from(config).connect(name, stream).await
    };
    let stream = timeout(PATIENCE, connect)
        .await
        .map_err(|_| TrustError::Connect(format!("no connection within {PATIENCE:?}")))?
        .map_err(|why| TrustError::Connect(why.to_string()))?;
    let mut stream = Some(TokioIo::new(stream));
    // Used once: a connection that ends is made anew by whoever has it.
    let once = service_fn(move |_| {
        let stream = stream.take().ok_or_else(|| io::Error::other("the connection has ended"));
        async move { stream }
    });
    Endpoint::from_static("http://blixt-controller")
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .keep_alive_while_idle(true)
        .connect_with_connector(once)
        .await
        .map_err(|why| TrustError::Connect(describe(&why)))
}

/// A client of it.
pub(super) fn client(channel: Channel) -> ControllerClient<Channel> {
    ControllerClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// An error with what is behind it: what happened stands last.
pub(super) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = match error.downcast_ref::<tonic::Status>() {
        Some(status) => status.message().to_owned(),
        None => error.to_string(),
    };
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}
