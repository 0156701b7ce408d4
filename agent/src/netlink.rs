//! What is asked of the kernel over netlink, by the host path and for streams.

use std::io;

use futures_util::StreamExt;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::RouteMessage;
use rtnetlink::Handle;

/// Who made routes and rules, for `ip route` and `ip rule`: a number that nobody
/// has in iproute2's rt_protos.
pub(crate) const PROTOCOL: u8 = 178;

/// Adds a route, if there is none yet.
pub(crate) async fn add_route(handle: &Handle, route: RouteMessage) -> io::Result<()> {
    add(handle, RouteNetlinkMessage::NewRoute(route)).await
}

/// Adds something, if it is not there yet.
pub(crate) async fn add(handle: &Handle, message: RouteNetlinkMessage) -> io::Result<()> {
    match ask(handle, message, NLM_F_CREATE | NLM_F_EXCL).await {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        answer => answer,
    }
}

/// Asks the kernel for something, and waits for its answer.
pub(crate) async fn ask(
    handle: &Handle,
    message: RouteNetlinkMessage,
    flags: u16,
) -> io::Result<()> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut handle = handle.clone();
    let mut answers = handle.request(request).map_err(io::Error::other)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(error.to_io());
        }
    }
    Ok(())
}
