//! Netlink sockets, and threads that follow them.

use std::future::Future;
use std::io;
use std::thread;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use tracing::debug;

/// How long until the next try after netlink failed.
pub(super) const RETRY: Duration = Duration::from_millis(200);

/// The kernel's receive buffer for what it tells: 4 MiB are some 10,000
/// changes. When it is full all is read anew.
const RECEIVE_BYTES: u32 = 4 << 20;

/// A socket that is told what changes. The kernel gives out one table at a
/// time on each (`netlink_dump_start` in net/netlink/af_netlink.c), so who
/// reads large ones has a socket of his own.
pub(super) struct Connection {
    pub(super) handle: Handle,
    events: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
}

impl Connection {
    /// One that is told of these.
    pub(super) fn open(groups: &[MulticastGroup]) -> io::Result<Self> {
        let (mut connection, handle, events) = new_multicast_connection(groups)?;
        // Less than that is no reason to give up.
        if let Err(error) = connection.socket_mut().socket_mut().set_rx_buf_sz(RECEIVE_BYTES) {
            debug!("netlink keeps its small receive buffer: {error}");
        }
        tokio::spawn(connection);
        Ok(Self { handle, events: events.map(|(message, _)| message).boxed() })
    }

    /// The next change; `None` when the socket failed. May be cut short.
    pub(super) async fn event(&mut self) -> Option<NetlinkMessage<RouteNetlinkMessage>> {
        self.events.next().await
    }

    /// One more, if it is there already.
    pub(super) fn another(&mut self) -> Option<NetlinkMessage<RouteNetlinkMessage>> {
        self.events.next().now_or_never().flatten()
    }
}

/// Runs something on a thread and a runtime of its own, in the network
/// namespace of the calling thread.
pub(super) fn on_a_thread(
    name: &str,
    future: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(future))?;
    Ok(())
}
