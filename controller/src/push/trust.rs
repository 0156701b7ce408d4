//! The CA in force, and the door: TLS connections, each with the newest server
//! certificate. Connections that are open keep what they began with.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use futures_util::Stream;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};

use super::certificates::{Authority, LIFE, Material, TrustError};

/// How long a client may take for its handshake, and how many may be at it.
const HANDSHAKE: Duration = Duration::from_secs(5);
const HANDSHAKES: usize = 256;

/// How long a client that is refused has to read why.
const LINGER: Duration = Duration::from_secs(1);

/// The CA and the server certificate in force. Copies are one.
#[derive(Debug, Clone, Default)]
pub struct Trust(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    authority: ArcSwapOption<Authority>,
    server: ArcSwapOption<ServerConfig>,
    /// What both were made of, and when.
    made: RwLock<Option<(Material, Instant)>>,
}

impl Trust {
    /// Nobody can be let in yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a CA, and makes a server certificate where it is another one, or
    /// the certificate has had half of its life. Call it now and then. On an
    /// error the last ones stay.
    pub fn update(&self, material: &Material) -> Result<(), TrustError> {
        {
            let made = self.0.made.read().unwrap_or_else(PoisonError::into_inner);
            let is_good =
                |(of, at): &(Material, Instant)| of == material && at.elapsed() < LIFE / 2;
            if made.as_ref().is_some_and(is_good) {
                return Ok(());
            }
        }
        let authority = Authority::open(material)?;
        let server = authority.server(SystemTime::now())?;
        self.0.authority.store(Some(Arc::new(authority)));
        self.0.server.store(Some(Arc::new(server)));
        let mut made = self.0.made.write().unwrap_or_else(PoisonError::into_inner);
        *made = Some((material.clone(), Instant::now()));
        info!("there is a new server certificate");
        Ok(())
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

/// Connections that have shaken hands.
pub(crate) struct Connections(mpsc::Receiver<TlsStream<TcpStream>>);

impl Stream for Connections {
    type Item = io::Result<TlsStream<TcpStream>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|stream| stream.map(Ok))
    }
}

/// Lets clients in, in a task of its own, until nobody takes them any more. A
/// client that is slow holds up no other.
pub(crate) fn open(listener: TcpListener, trust: Trust) -> Connections {
    let (sender, connections) = mpsc::channel(16);
    let room = Arc::new(Semaphore::new(HANDSHAKES));
    tokio::spawn(async move {
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, say: that passes.
                    warn!("no connection can be taken: {error}");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (trust, sender) = (trust.clone(), sender.clone());
            tokio::spawn(async move {
                if let Some(stream) = shake_hands(stream, from, &trust).await {
                    let _ = sender.send(stream).await;
                }
                drop(permit);
            });
        }
    });
    Connections(connections)
}

/// Lets a client hear why it is refused. It believes that it is connected (TLS 1.3)
/// and has said more, which, if nobody took it, would reset the connection
/// before the alert is read.
async fn linger(mut stream: TcpStream) {
    let drain = async {
        let mut said = [0; 1_024];
        stream.shutdown().await?;
        while stream.read(&mut said).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(LINGER, drain).await;
}

async fn shake_hands(
    stream: TcpStream,
    from: SocketAddr,
    trust: &Trust,
) -> Option<TlsStream<TcpStream>> {
    let Some(server) = trust.0.server.load_full() else {
        debug!("a connection from {from} is refused: there is no CA yet");
        return None;
    };
    // Beats are small, and shall not wait for each other.
    let _ = stream.set_nodelay(true);
    let accepting = TlsAcceptor::from(server).accept(stream).into_fallible();
    match timeout(HANDSHAKE, accepting).await {
        Ok(Ok(stream)) => Some(stream),
        // Looked at, and gone: probes of ports and of readiness do that.
        Ok(Err((error, _))) if error.kind() == io::ErrorKind::UnexpectedEof => None,
        Ok(Err((error, stream))) => {
            warn!("a connection from {from} is refused: {error}");
            linger(stream).await;
            None
        }
        Err(_) => {
            warn!("a connection from {from} is refused: no handshake within {HANDSHAKE:?}");
            None
        }
    }
}
