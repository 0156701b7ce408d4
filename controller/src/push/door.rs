//! The door: TLS connections, each with the newest server certificate. Anybody
//! may knock; who shows no certificate is a guest, has little time, and there
//! are not many of them at once.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TlsConnectInfo};
use tracing::{debug, warn};

use super::Trust;
use super::meters::{self, Meters};
use super::seldom::Seldom;

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long one may stay without a certificate: long enough to enrol.
const VISIT: Duration = Duration::from_secs(10);

/// How many may be at their handshake or without a certificate, from one
/// address and from all. A node's agent needs one connection for a moment.
const GUESTS_OF_ONE: usize = 64;
const GUESTS: usize = 512;

/// How long a client that is refused has to read why.
const LINGER: Duration = Duration::from_secs(1);

/// Connections that have shaken hands.
pub(crate) struct Connections(mpsc::Receiver<Connection>);

impl Stream for Connections {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|stream| stream.map(Ok))
    }
}

/// Lets clients in, in a task of its own, until nobody takes them any more. A
/// client that is slow holds up no other.
pub(crate) fn open(listener: TcpListener, trust: Trust, meters: Meters) -> Connections {
    let (sender, connections) = mpsc::channel(16);
    let guests = Arc::new(Guests::default());
    let doorman = Arc::new(Doorman { trust, meters, warnings: Seldom::default() });
    tokio::spawn(async move {
        loop {
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
            let guest = match guests.admit(from.ip()) {
                Ok(guest) => guest,
                Err(why) => {
                    doorman.refuses(from, meters::TOO_MANY, why);
                    continue;
                }
            };
            let (doorman, sender) = (doorman.clone(), sender.clone());
            tokio::spawn(async move {
                if let Some(connection) = doorman.lets_in(stream, from, guest).await {
                    let _ = sender.send(connection).await;
                }
            });
        }
    });
    Connections(connections)
}

/// Those who have not shown a certificate, or not yet, by address.
#[derive(Debug, Default)]
struct Guests(Mutex<(usize, HashMap<IpAddr, usize>)>);

/// One of them, for as long as it lasts.
#[derive(Debug)]
struct Guest {
    guests: Arc<Guests>,
    from: IpAddr,
}

impl Guests {
    fn admit(self: &Arc<Self>, from: IpAddr) -> Result<Guest, &'static str> {
        let mut counts = self.counts();
        let (all, by_address) = &mut *counts;
        if *all >= GUESTS {
            return Err("too many clients have shown no certificate (yet)");
        }
        let its = by_address.entry(from).or_default();
        if *its >= GUESTS_OF_ONE {
            return Err("too many clients of its address have shown no certificate (yet)");
        }
        *its += 1;
        *all += 1;
        Ok(Guest { guests: self.clone(), from })
    }

    fn counts(&self) -> MutexGuard<'_, (usize, HashMap<IpAddr, usize>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut counts = self.guests.counts();
        let (all, by_address) = &mut *counts;
        *all = all.saturating_sub(1);
        if let Some(its) = by_address.get_mut(&self.from) {
            *its = its.saturating_sub(1);
            if *its == 0 {
                by_address.remove(&self.from);
            }
        }
    }
}

struct Doorman {
    trust: Trust,
    meters: Meters,
    warnings: Seldom,
}

impl Doorman {
    async fn lets_in(
        &self,
        stream: TcpStream,
        from: SocketAddr,
        guest: Guest,
    ) -> Option<Connection> {
        let end = Box::pin(sleep(VISIT));
        let Some(server) = self.trust.server() else {
            self.meters.refused(meters::NO_CA);
            debug!("a connection from {from} is refused: there is no CA yet");
            return None;
        };
        // Beats are small, and shall not wait for each other.
        let _ = stream.set_nodelay(true);
        let accepting = TlsAcceptor::from(server).accept(stream).into_fallible();
        match timeout(HANDSHAKE, accepting).await {
            Ok(Ok(stream)) => {
                let is_known = stream.get_ref().1.peer_certificates().is_some();
                let visit = (!is_known).then_some(Visit { end, _guest: guest });
                Some(Connection { stream, visit })
            }
            // Looked at, and gone: probes of ports and of readiness do that.
            Ok(Err((error, _))) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Ok(Err((error, stream))) => {
                self.refuses(from, meters::HANDSHAKE, &error.to_string());
                linger(stream).await;
                None
            }
            Err(_) => {
                let why = format!("no handshake within {HANDSHAKE:?}");
                self.refuses(from, meters::TIMEOUT, &why);
                None
            }
        }
    }

    fn refuses(&self, from: SocketAddr, reason: &'static str, why: &str) {
        self.meters.refused(reason);
        if self.warnings.turn(Instant::now()) {
            warn!("a connection from {from} is refused: {why}");
        } else {
            debug!("a connection from {from} is refused: {why}");
        }
    }
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

/// One connection. Without a certificate it ends after a while, whatever is
/// said on it.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    visit: Option<Visit>,
}

struct Visit {
    end: Pin<Box<Sleep>>,
    _guest: Guest,
}

impl Connection {
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let visit = self.visit.as_mut();
        visit.is_some_and(|visit| visit.end.as_mut().poll(context).is_ready())
    }
}

fn over() -> io::Error {
    let why = format!("without a client certificate a connection ends after {VISIT:?}");
    io::Error::new(io::ErrorKind::TimedOut, why)
}

impl Connected for Connection {
    type ConnectInfo = TlsConnectInfo<<TcpStream as Connected>::ConnectInfo>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(context) {
            return Poll::Ready(Err(over()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_over(context) {
            return Poll::Ready(Err(over()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_over(context) {
            return Poll::Ready(Err(over()));
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_over(context) {
            return Poll::Ready(Err(over()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_bounded_by_address_and_in_all() {
        let guests = Arc::new(Guests::default());
        let address = |n: usize| IpAddr::from([10, 0, 0, u8::try_from(n).unwrap()]);
        let one: Vec<_> = (0..GUESTS_OF_ONE).map(|_| guests.admit(address(0)).unwrap()).collect();
        let why = guests.admit(address(0)).unwrap_err();
        assert_eq!(why, "too many clients of its address have shown no certificate (yet)");
        let others = (1..GUESTS / GUESTS_OF_ONE).flat_map(|n| vec![n; GUESTS_OF_ONE]);
        let others: Vec<_> = others.map(|n| guests.admit(address(n)).unwrap()).collect();
        let why = guests.admit(address(99)).unwrap_err();
        assert_eq!(why, "too many clients have shown no certificate (yet)");
        // There is room again when they go, and nothing is kept of them.
        drop(one);
        drop(guests.admit(address(0)).unwrap());
        drop(others);
        assert_eq!(*guests.counts(), (0, HashMap::new()));
    }
}
