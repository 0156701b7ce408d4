//! One connection's way: whose it is, who gets it, bytes both ways, its end.
//!
//! It is reset wherever something is wrong, since that is what tells both ends
//! at once, and nothing that was said is mistaken for all of it. Whoever ends in
//! peace is let end in peace.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustls::ServerConfig;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::hello::HelloReader;
use crate::host::{Host, HostReader};
use crate::live::Stream;
use crate::pipe::{self, Idle};
use crate::port::{Listener, Port, RoutePlace, Tls, pick};
use crate::sockets::{in_peace, prepare};
use crate::tls::{Client, Rewound};
use crate::{Chosen, Inner, Reason, Wanted};

/// How long accepting rests when the system has no room for connections.
const REST: std::time::Duration = std::time::Duration::from_millis(50);

/// Accepts for ever.
pub(crate) async fn accept(inner: Arc<Inner>, listener: TcpListener, vip: SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((connection, client)) => {
                prepare(&connection, inner.limits.keepalive);
                inner.accepted.fetch_add(1, Ordering::Relaxed);
                let place = match inner.rooms.enter(client.ip()) {
                    Ok(place) => place,
                    Err(reason) => {
                        inner.reasons.count(reason);
                        continue;
                    }
                };
                let inner = Arc::clone(&inner);
                tokio::spawn(async move {
                    if let Err(reason) = serve(&inner, connection, client, vip).await {
                        inner.reasons.count(reason);
                    }
                    drop(place);
                });
            }
            // Of descriptors, say. Who is not accepted waits in the kernel.
            Err(_) => sleep(REST).await,
        }
    }
}

async fn serve(
    inner: &Inner,
    connection: TcpStream,
    from: SocketAddr,
    vip: SocketAddr,
) -> Result<(), Reason> {
    let opened = timeout(inner.limits.hello, open(inner, vip, connection)).await;
    let Opened { client, asked, first } = opened.map_err(|_| Reason::HelloTimeout)??;
    // Another one than when it was opened, perhaps: clients take their time.
    let wanted = inner.wanted.load_full();
    let (_, place) = meant(&wanted, vip, &asked)?;
    let chosen = wanted.balancer.choose(from, vip, place)?;
    // It would come back here, and again, until there is room for nobody.
    if wanted.ports.contains_key(&chosen.endpoint) {
        return Err(Reason::Loop);
    }
    drop(wanted);
    let mut endpoint = connect(inner, chosen.endpoint).await?;
    prepare(&endpoint, inner.limits.keepalive);
    relay(inner, client, &mut endpoint, from, vip, &first, chosen).await
}

/// A client whose wish is known.
struct Opened {
    client: Client,
    asked: Asked,
    /// What the endpoint has to be told first.
    first: Vec<u8>,
}

/// What a client asks for.
enum Asked {
    /// The port alone says it.
    Bytes,
    /// A host by its name, or by none.
    Host(Option<String>),
    /// A server by its name, or by none, with TLS.
    Server(Option<String>),
}

async fn open(inner: &Inner, vip: SocketAddr, mut connection: TcpStream) -> Result<Opened, Reason> {
    match inner.wanted.load().ports.get(&vip).map(|port| &**port) {
        None => return Err(Reason::PortGone),
        Some(Port::Plain(_)) => {
            let client = Client::Plain(connection);
            return Ok(Opened { client, asked: Asked::Bytes, first: Vec::new() });
        }
        Some(Port::Http(_)) => return read_host(inner, vip, connection).await,
        Some(Port::Tls(_)) => {}
    }
    let mut reader = HelloReader::default();
    // What comes after the hello is left where it is, but for what came with it.
    let mut bytes = [0; 4_096];
    let hello = loop {
        let length = connection.read(&mut bytes).await.map_err(|_| Reason::NoHello)?;
        let taken = bytes.get(..length).filter(|taken| !taken.is_empty()).ok_or(Reason::NoHello)?;
        if let Some(hello) = reader.take(taken).map_err(|_| Reason::NoHello)? {
            break hello;
        }
    };
    let asked = Asked::Server(hello.server_name);
    let raw = reader.into_raw();
    // Who would be refused later is refused at once, and hears no TLS.
    let tls = meant(&inner.wanted.load(), vip, &asked)?.0;
    match tls {
        None | Some(Tls::Passthrough) => {
            Ok(Opened { client: Client::Plain(connection), asked, first: raw })
        }
        Some(Tls::Terminate(config)) => {
            let config = config.ok_or(Reason::NoCertificate)?;
            let client = terminate(&config, Rewound::new(raw, connection)).await?;
            Ok(Opened { client, asked, first: Vec::new() })
        }
    }
}

async fn read_host(
    inner: &Inner,
    vip: SocketAddr,
    mut connection: TcpStream,
) -> Result<Opened, Reason> {
    let mut reader = HostReader::default();
    let mut bytes = [0; 4_096];
    let host = loop {
        let length = connection.read(&mut bytes).await.map_err(|_| Reason::NoHello)?;
        let taken = bytes.get(..length).unwrap_or_default();
        match reader.take(taken) {
            Some(Host::Named(name)) => break Some(name),
            None if !taken.is_empty() => {}
            // Who says no more names none.
            Some(Host::Unnamed) | None => break None,
        }
    };
    let asked = Asked::Host(host);
    meant(&inner.wanted.load(), vip, &asked)?;
    Ok(Opened { client: Client::Plain(connection), asked, first: reader.into_raw() })
}

/// The route that a client means, and what becomes of its TLS, if it speaks it.
fn meant(
    wanted: &Wanted,
    vip: SocketAddr,
    asked: &Asked,
) -> Result<(Option<Tls>, RoutePlace), Reason> {
    match (wanted.ports.get(&vip).map(|port| &**port), asked) {
        (Some(Port::Plain(place)), Asked::Bytes) => Ok((None, place.ok_or(Reason::NoRoute)?)),
        (Some(Port::Http(listeners)), Asked::Host(name)) => {
            let (_, place) = picked(listeners, name.as_deref())?;
            Ok((None, place))
        }
        (Some(Port::Tls(listeners)), Asked::Server(name)) => {
            let (listener, place) = picked(listeners, name.as_deref())?;
            Ok((Some(listener.tls.clone()), place))
        }
        // It is of another kind by now.
        _ => Err(Reason::PortGone),
    }
}

fn picked<'a>(
    listeners: &'a [Listener],
    name: Option<&str>,
) -> Result<(&'a Listener, RoutePlace), Reason> {
    let (listener, place) = pick(listeners, name).ok_or(Reason::NoServerName)?;
    let place = place.ok_or(match listener.routes.is_empty() {
        true => Reason::NoRoute,
        false => Reason::NoServerName,
    })?;
    Ok((listener, place))
}

async fn terminate(config: &Arc<ServerConfig>, rewound: Rewound) -> Result<Client, Reason> {
    let accepted = TlsAcceptor::from(Arc::clone(config)).accept(rewound).into_fallible().await;
    match accepted {
        Ok(tls) => Ok(Client::Tls(Box::new(tls))),
        Err((_, rewound)) => {
            // So that the alert gets there which says why.
            in_peace(&rewound.into_connection());
            Err(Reason::HandshakeFailed)
        }
    }
}

/// To the one endpoint that was chosen: another one would get what is not its
/// share, and the client can try again.
async fn connect(inner: &Inner, endpoint: SocketAddr) -> Result<TcpStream, Reason> {
    match timeout(inner.limits.connect, TcpStream::connect(endpoint)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Err(Reason::ConnectTimeout),
        Ok(Err(_)) => Err(Reason::ConnectFailed),
        Err(_) => Err(Reason::ConnectTimeout),
    }
}

async fn relay(
    inner: &Inner,
    mut client: Client,
    endpoint: &mut TcpStream,
    from: SocketAddr,
    vip: SocketAddr,
    first: &[u8],
    chosen: Chosen,
) -> Result<(), Reason> {
    let local = endpoint.local_addr().map_err(|_| Reason::ConnectFailed)?;
    let stream = Arc::new(Stream::new(from, vip, local, &chosen));
    let (_place, told) = inner.live.enter(Arc::clone(&stream));
    inner.begun.fetch_add(1, Ordering::Relaxed);
    chosen.tally.began();
    // Who was not there yet when others were told.
    if let Some(reason) = inner.wanted.load().end(&stream) {
        return Err(reason);
    }
    let idle = Idle { open: inner.limits.idle, half_closed: inner.limits.half_closed };
    let moved = tokio::select! {
        moved = pipe::run(&mut client, endpoint, first, &stream, &*chosen.tally, idle) => moved,
        Ok(reason) = told => return Err(reason),
    };
    match moved {
        Ok(true) => {
            in_peace(client.connection());
            in_peace(endpoint);
            Ok(())
        }
        Ok(false) => Err(Reason::Idle),
        Err(error) if pipe::is_silence(&error) => Err(Reason::PeerLost),
        // One of them reset it, and so do we to the other.
        Err(_) => {
            inner.resets.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }
}
