//! Sockets: those that listen on addresses which no interface of the node has, and
//! how connections are kept and ended.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections that wait to be accepted; the kernel takes no more than
/// net.core.somaxconn says, which is the same since Linux 5.4.
const BACKLOG: i32 = 4_096;

/// Why nobody can be served there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Somebody else listens there, or on all addresses.
    #[error(
        "port {0} is taken on this node: `ss -ltnp sport = :{0}` says who has it, and either that one or the \
         listener needs another port"
    )]
    Taken(u16),
    /// Low ports want a capability.
    #[error("the agent may not listen on port {0}: give it the capability NET_BIND_SERVICE")]
    NotAllowed(u16),
    /// Something else.
    #[error("the kernel does not listen on {at} ({why})")]
    Refused {
        /// Where.
        at: SocketAddr,
        /// Its answer.
        why: String,
    },
}

/// Listens there. To be called on a runtime.
pub(crate) fn listen(at: SocketAddr) -> Result<TcpListener, ListenError> {
    open(at).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::Taken(at.port()),
        io::ErrorKind::PermissionDenied => ListenError::NotAllowed(at.port()),
        _ => ListenError::Refused { at, why: error.to_string() },
    })
}

fn open(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    // Connections of an agent before us may not have ended.
    socket.set_reuse_address(true)?;
    match at {
        // As one who answers for others' addresses: the kernel lets no other
        // socket send from an address that its table "local" does not have
        // (`ip_route_output_key_hash_rcu`, FLOWI_FLAG_ANYSRC), and says no word
        // for it to segments of connections that it does not know.
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// How often one that does not answer is asked whether it is there.
const QUESTIONS: u32 = 5;

/// Makes a connection as streams want it: reset unless it is let end in peace, each
/// byte sent at once, and a peer that says nothing for so long is asked whether it
/// is there. Who lets all questions pass is gone after another half of that time.
pub(crate) fn prepare(connection: &TcpStream, keepalive: Duration) {
    let _ = connection.set_zero_linger();
    let _ = connection.set_nodelay(true);
    let interval = (keepalive / (2 * QUESTIONS)).max(Duration::from_secs(1));
    let questions =
        TcpKeepalive::new().with_time(keepalive).with_interval(interval).with_retries(QUESTIONS);
    let _ = SockRef::from(connection).set_tcp_keepalive(&questions);
}

pub(crate) fn in_peace(connection: &TcpStream) {
    let _ = SockRef::from(connection).set_linger(None);
}
