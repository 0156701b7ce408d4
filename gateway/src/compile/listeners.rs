//! Which listeners of a Gateway are good, and what they take.

use std::collections::BTreeSet;

use blixt_model::{ListenerName, Port, Protocol, RouteId, RouteKind};

use super::namespaces::AllowedNamespaces;
use crate::GATEWAY_GROUP;
use crate::apis::{GatewayListeners, GatewaySpec};
use crate::status::reason;

/// One listener, judged.
#[derive(Debug)]
pub(super) struct Listener<'a> {
    pub(super) spec: &'a GatewayListeners,
    /// What the data plane needs of it; `None` if it can't be served.
    pub(super) socket: Option<Socket>,
    /// The other listeners that want the same port, if any.
    pub(super) conflict: Option<String>,
    /// Why it is not accepted, apart from a conflict: reason and message.
    pub(super) rejected: Option<(&'static str, String)>,
    /// The kinds of route it takes.
    pub(super) kinds: Vec<RouteKind>,
    /// Kinds in its spec that it can't take.
    pub(super) invalid_kinds: Vec<String>,
    /// From where it takes routes; `None` if that can't be read.
    pub(super) namespaces: Option<AllowedNamespaces>,
    /// The routes that attached to it.
    pub(super) attached: BTreeSet<RouteId>,
    /// The one of them that gets the traffic.
    pub(super) winner: Option<RouteId>,
}

/// Where a listener listens, on every address of its Gateway.
#[derive(Debug, Clone)]
pub(super) struct Socket {
    pub(super) name: ListenerName,
    pub(super) protocol: Protocol,
    pub(super) port: Port,
}

impl Listener<'_> {
    pub(super) fn is_accepted(&self) -> bool {
        self.conflict.is_none() && self.rejected.is_none()
    }

    /// Where it listens, if it can be served. One that can take no kind of
    /// route can't.
    pub(super) fn served(&self) -> Option<&Socket> {
        self.socket.as_ref().filter(|_| self.is_accepted() && !self.kinds.is_empty())
    }

    /// Why it can't be served, as one word.
    pub(super) fn fault(&self) -> Option<&'static str> {
        if self.conflict.is_some() {
            Some(reason::PROTOCOL_CONFLICT)
        } else if let Some((reason, _)) = &self.rejected {
            Some(reason)
        } else if self.kinds.is_empty() {
            Some(reason::INVALID_ROUTE_KINDS)
        } else {
            None
        }
    }
}

/// Judges all listeners of a Gateway.
pub(super) fn judge(spec: &GatewaySpec) -> Vec<Listener<'_>> {
    spec.listeners
        .iter()
        .enumerate()
        .map(|(position, listener)| {
            let others = spec.listeners.iter().enumerate().filter(|(other, _)| *other != position);
            let conflicting: Vec<_> = others
                .filter(|(_, other)| exclude_each_other(listener, other))
                .map(|(_, other)| format!("{} ({})", other.name, other.protocol))
                .collect();
            let conflict = (!conflicting.is_empty()).then(|| {
                format!(
                    "Port {} can't be shared with {}: give this listener another port.",
                    listener.port,
                    conflicting.join(", ")
                )
            });
            let earlier = spec.listeners.iter().take(position);
            let is_repeated = earlier.map(|other| &other.name).any(|name| *name == listener.name);
            one(listener, conflict, is_repeated)
        })
        .collect()
}

fn one(spec: &GatewayListeners, conflict: Option<String>, is_repeated: bool) -> Listener<'_> {
    let (kinds, invalid_kinds) = route_kinds(spec);
    let (namespaces, unreadable) = match AllowedNamespaces::new(spec.allowed_routes.as_ref()) {
        Ok(namespaces) => (Some(namespaces), None),
        Err(why) => (None, Some((reason::UNSUPPORTED_VALUE, format!("{why}.")))),
    };
    let (socket, rejected) = match socket(spec, is_repeated) {
        Ok(socket) => (Some(socket), unreadable),
        Err(rejected) => (None, Some(rejected)),
    };
    Listener {
        spec,
        socket,
        conflict,
        rejected,
        kinds,
        invalid_kinds,
        namespaces,
        attached: BTreeSet::new(),
        winner: None,
    }
}

fn socket(spec: &GatewayListeners, is_repeated: bool) -> Result<Socket, (&'static str, String)> {
    let unsupported = |message| (reason::UNSUPPORTED_VALUE, message);
    let Some(protocol) = protocol(&spec.protocol) else {
        let message = format!("Protocol {} is not served: use TCP or UDP.", spec.protocol);
        return Err((reason::UNSUPPORTED_PROTOCOL, message));
    };
    // No API server lets these through; then nothing here breaks on them.
    if is_repeated {
        return Err(unsupported(format!("Another listener is called {} too.", spec.name)));
    }
    let name = ListenerName::new(spec.name.as_str());
    let name = name.map_err(|error| unsupported(format!("The name can't be used: {error}.")))?;
    let port = Port::new(spec.port).map_err(|error| unsupported(format!("{error}.")))?;
    Ok(Socket { name, protocol, port })
}

fn protocol(name: &str) -> Option<Protocol> {
    match name {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        _ => None,
    }
}

/// The kinds a listener takes, and those it is told to take but can't.
fn route_kinds(spec: &GatewayListeners) -> (Vec<RouteKind>, Vec<String>) {
    let of_protocol = match protocol(&spec.protocol) {
        Some(Protocol::Tcp) => Some(RouteKind::Tcp),
        Some(Protocol::Udp) => Some(RouteKind::Udp),
        None => None,
    };
    let listed = spec.allowed_routes.as_ref().and_then(|allowed| allowed.kinds.as_deref());
    let listed = listed.unwrap_or_default();
    if listed.is_empty() {
        return (of_protocol.into_iter().collect(), Vec::new());
    }
    let (mut kinds, mut invalid) = (Vec::new(), Vec::new());
    for kind in listed {
        let group = kind.group.as_deref().unwrap_or(GATEWAY_GROUP);
        match of_protocol.filter(|of| group == GATEWAY_GROUP && kind.kind == of.to_string()) {
            Some(kind) if kinds.contains(&kind) => {}
            Some(kind) => kinds.push(kind),
            None if group == GATEWAY_GROUP => invalid.push(kind.kind.clone()),
            None => invalid.push(format!("{} of group {group:?}", kind.kind)),
        }
    }
    (kinds, invalid)
}

/// Whether two listeners of a Gateway want the same traffic (Gateway API,
/// "Distinct Listeners"): TCP shares a port with nothing that runs over TCP,
/// HTTP with nothing that begins with TLS, and neither TCP nor UDP with
/// itself. No listener wins.
fn exclude_each_other(one: &GatewayListeners, other: &GatewayListeners) -> bool {
    let pair = (one.protocol.as_str(), other.protocol.as_str());
    one.port == other.port
        && matches!(
            pair,
            ("TCP", "TCP" | "HTTP" | "HTTPS" | "TLS")
                | ("HTTP" | "HTTPS" | "TLS", "TCP")
                | ("HTTP", "HTTPS" | "TLS")
                | ("HTTPS" | "TLS", "HTTP")
                | ("UDP", "UDP")
        )
}
