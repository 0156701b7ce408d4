//! Sockets that listen on addresses which no interface of the node has.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

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
