//! How an agent comes to a certificate, and to the controller by TLS. The key
//! is made here and stays in this process's memory.

use std::error::Error;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use blixt_api::sync::v1alpha1::EnrollRequest;
use blixt_api::sync::v1alpha1::controller_client::ControllerClient;
use blixt_api::sync::{MAX_MESSAGE_BYTES, SERVER_NAME};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use tracing::{info, warn};

use super::pauses::jittered;

/// How long it may take until a connection can be used, and an answer to come.
const PATIENCE: Duration = Duration::from_secs(3);

/// When a connection that says nothing is asked whether it still is one.
const PING: Duration = Duration::from_secs(5);

/// How often a new certificate is asked for at most, while there is a good one.
const RENEW_AGAIN: Duration = Duration::from_secs(60);

/// How often a replica that hangs up may be asked for another certificate.
const DOUBT_AGAIN: Duration = Duration::from_secs(10);

/// What is believed of how long a certificate is good.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);
const LONGEST_LIFE: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Why a replica can't be spoken to. All of it is shown to people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TrustError {
    #[error("{file} can't be used ({why})")]
    File { file: String, why: String },
    #[error("{0}")]
    Connect(String),
    /// Once it knew the agent's certificate. In TLS 1.3 the client believes by
    /// then that it is connected.
    #[error("{0}")]
    HungUp(String),
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
    /// When a good certificate was last given up for a reason that was none.
    doubted: Mutex<Option<Instant>>,
    /// One stream at a time goes over to a new certificate.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The last there was, whether a replica takes it or not: scrapers do.
    shown: ArcSwapOption<CertifiedKey>,
}

/// For those who come to the agent by TLS.
impl ResolvesServerCert for Trust {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.shown.load_full()
    }
}

/// With what it is let in.
#[derive(Debug)]
pub(super) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    since: Instant,
    /// How long it is good.
    life: Duration,
    /// Whether a replica may not take it.
    is_doubted: AtomicBool,
    /// Whether the log says that it can't be renewed.
    is_told: AtomicBool,
}

/// A stream has it while it goes over to a new certificate.
pub(super) type Turn = OwnedMutexGuard<()>;

impl Identity {
    fn is_good(&self) -> bool {
        self.since.elapsed() < self.life
    }
}

impl Trust {
    pub(super) fn new(ca: PathBuf, token: PathBuf) -> Self {
        let (identity, doubted, turn, shown) = Default::default();
        Self { ca, token, identity, doubted, turn, shown }
    }

    /// The agent's certificate; a replica gives it one if it has none.
    pub(super) async fn identity(&self, replica: SocketAddr) -> Result<Arc<Identity>, TrustError> {
        let Some(known) = self.current() else { return self.enrol(replica).await };
        if known.is_doubted.swap(false, Ordering::Relaxed) {
            // It is good for all that is known, if there is no other.
            return Ok(self.enrol(replica).await.unwrap_or(known));
        }
        Ok(known)
    }

    /// How a replica is spoken to with that: by the CA that is in the file now.
    pub(super) fn config(&self, identity: &Identity) -> Result<Arc<ClientConfig>, TrustError> {
        let (chain, key) = (identity.chain.clone(), identity.key.clone_key());
        let with = tls(self.roots()?)?.with_client_auth_cert(chain, key);
        Ok(Arc::new(h2(with.map_err(|why| TrustError::Request(why.to_string()))?)))
    }

    /// Waits until a certificate has had half of its life and there is a newer
    /// one, which `replica` is asked for until it gives one or another has. The
    /// old one stays in use meanwhile.
    pub(super) async fn newer(&self, than: &Arc<Identity>, replica: SocketAddr) -> Turn {
        sleep_until((than.since + than.life / 2).into()).await;
        loop {
            let turn = self.turn.clone().lock_owned().await;
            if self.current().is_some_and(|known| !Arc::ptr_eq(&known, than)) {
                return turn;
            }
            let Err(why) = self.enrol(replica).await else { return turn };
            drop(turn);
            if !than.is_told.swap(true, Ordering::Relaxed) {
                let left = than.life.saturating_sub(than.since.elapsed()).as_secs();
                warn!(
                    "the agent's certificate can't be renewed yet ({why}): it is good for {left} s \
                     more, and a new one is asked for again and again until there is one"
                );
            }
            sleep(jittered((than.life / 100).min(RENEW_AGAIN))).await;
        }
    }

    /// A replica says that it does not take a certificate.
    pub(super) fn forget(&self, refused: &Arc<Identity>) {
        let mut identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        if identity.as_ref().is_some_and(|known| Arc::ptr_eq(known, refused)) {
            *identity = None;
        }
    }

    /// A replica hangs up on a certificate, perhaps since it does not take it. It
    /// is asked for another one, which it may not have to give; not often, for
    /// it may have other reasons.
    pub(super) fn doubt(&self, identity: &Identity) {
        let mut doubted = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        if doubted.is_none_or(|at| at.elapsed() > DOUBT_AGAIN) {
            *doubted = Some(Instant::now());
            identity.is_doubted.store(true, Ordering::Relaxed);
        }
    }

    fn current(&self) -> Option<Arc<Identity>> {
        let known = self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.filter(|known| known.is_good())
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TrustError> {
        roots(&self.ca, &read(&self.ca)?)
    }

    async fn enrol(&self, replica: SocketAddr) -> Result<Arc<Identity>, TrustError> {
        let before = self.current();
        let token = read(&self.token)?.trim().to_owned();
        let failed = |why: &dyn ToString| TrustError::Request(why.to_string());
        let key = KeyPair::generate().map_err(|why| failed(&why))?;
        let request = CertificateParams::default().serialize_request(&key);
        let request = request.map_err(|why| failed(&why))?.der().to_vec();
        let without = tls(self.roots()?)?.with_no_client_auth();
        let mut client = ControllerClient::new(connect(replica, Arc::new(h2(without))).await?);
        let since = Instant::now();
        let asked = client.enroll(EnrollRequest { request, token });
        let answer = timeout(PATIENCE, asked)
            .await
            .map_err(|_| TrustError::Connect(format!("no answer within {PATIENCE:?}")))?
            .map_err(|status| TrustError::Enrol(describe(&status)))?
            .into_inner();
        let new = Arc::new(Identity {
            chain: answer.certificates.into_iter().map(CertificateDer::from).collect(),
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            since,
            life: Duration::from_secs(answer.good_for_s).clamp(SHORTEST_LIFE, LONGEST_LIFE),
            is_doubted: AtomicBool::new(false),
            is_told: AtomicBool::new(false),
        });
        // Whether it can be used at all.
        self.config(&new)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let shown = CertifiedKey::from_der(new.chain.clone(), new.key.clone_key(), &provider);
        self.shown.store(Some(Arc::new(shown.map_err(|why| failed(&why))?)));
        info!(good_for_s = answer.good_for_s, "enrolled with a controller");
        let mut identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        // All streams have the same one: the first that came, if many asked at once.
        let is_newer = |known: &&Arc<Identity>| {
            known.is_good() && before.as_ref().is_none_or(|before| !Arc::ptr_eq(known, before))
        };
        let used = identity.as_ref().filter(is_newer).unwrap_or(&new).clone();
        *identity = Some(used.clone());
        Ok(used)
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
        .map_err(|why| TrustError::HungUp(describe(&why)))
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
