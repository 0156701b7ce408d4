//! Which listeners of a Gateway are good, and what they take.

use std::collections::BTreeMap;

use blixt_model::{
    Hostname, ListenerName, ObjectName, Port, Protocol, RouteId, RouteKind, StreamTls,
};

use super::certificates::Secrets;
use super::grants::Referrer;
use super::namespaces::AllowedNamespaces;
use crate::GATEWAY_GROUP;
use crate::apis::{GatewayListeners, GatewayListenersTlsMode, GatewaySpec, GatewayTls};
use crate::set::SetSpec;
use crate::status::reason;

/// A reason and a message.
pub(super) type Fault = (&'static str, String);

/// One listener, judged.
#[derive(Debug)]
pub(super) struct Listener<'a> {
    pub(super) spec: &'a GatewayListeners,
    /// The ListenerSet that it is of, if it is not the Gateway's own.
    pub(super) set: Option<&'a ObjectName>,
    /// What the data plane needs of it; `None` if it can't be served.
    pub(super) socket: Option<Socket>,
    /// What of another listener it wants too, if anything.
    pub(super) conflict: Option<Fault>,
    /// Why it is not accepted, apart from a conflict.
    pub(super) rejected: Option<Fault>,
    /// What is wrong with its certificates.
    pub(super) unresolved: Option<Fault>,
    /// Whether it is served without some of them.
    pub(super) lacks_some: bool,
    /// The kinds of route it takes.
    pub(super) kinds: Vec<RouteKind>,
    /// Kinds in its spec that it can't take.
    pub(super) invalid_kinds: Vec<String>,
    /// From where it takes routes; `None` if that can't be read.
    pub(super) namespaces: Option<AllowedNamespaces>,
    /// The routes that attached to it, each with the hostnames that both are
    /// for; none are all that the listener is for.
    pub(super) attached: BTreeMap<RouteId, Vec<Hostname>>,
    /// The same routes, the one that comes first first.
    pub(super) order: Vec<RouteId>,
}

/// Where a listener listens, on every address of its Gateway.
#[derive(Debug, Clone)]
pub(super) struct Socket {
    pub(super) name: ListenerName,
    pub(super) port: Port,
    /// The names it is for; `None` is all.
    pub(super) hostname: Option<Hostname>,
    pub(super) service: Service,
}

/// What becomes of the traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Service {
    /// Each packet goes on.
    Packets(Protocol),
    /// Connections end at the node, and what is in them goes on.
    Stream(StreamTls),
}

impl Listener<'_> {
    pub(super) fn is_accepted(&self) -> bool {
        self.conflict.is_none() && self.rejected.is_none()
    }

    /// Where it listens, if it can be served. One that can take no kind of
    /// route can't, nor one that has no certificate to end TLS with.
    pub(super) fn served(&self) -> Option<&Socket> {
        let is_good = self.is_accepted() && !self.kinds.is_empty();
        self.socket.as_ref().filter(|socket| is_good && !socket.is_bare())
    }

    /// Why it can't be served, as one word.
    pub(super) fn fault(&self) -> Option<&'static str> {
        if let Some((reason, _)) = self.conflict.as_ref().or(self.rejected.as_ref()) {
            Some(reason)
        } else if self.kinds.is_empty() {
            Some(reason::INVALID_ROUTE_KINDS)
        } else if self.served().is_none() {
            self.unresolved.as_ref().map(|(reason, _)| *reason)
        } else {
            None
        }
    }

    /// The route that gets its packets.
    pub(super) fn winner(&self) -> Option<&RouteId> {
        self.order.first()
    }

    /// The route that has what this one would get, if there is one.
    pub(super) fn rival(&self, id: &RouteId) -> Option<&RouteId> {
        let before = self.order.iter().take_while(|other| *other != id);
        let wanted = self.attached.get(id)?;
        let is_same = |other: &&RouteId| {
            let theirs = self.attached.get(other);
            theirs.is_some_and(|theirs| {
                wanted.is_empty() == theirs.is_empty() && wanted.iter().all(|h| theirs.contains(h))
            })
        };
        let mut before = before.filter(is_same);
        before.next()
    }
}

impl Socket {
    /// Whether TLS ends there, without a certificate.
    fn is_bare(&self) -> bool {
        matches!(&self.service, Service::Stream(StreamTls::Terminate { certificates }) if certificates.is_empty())
    }
}

/// Judges all listeners of a Gateway.
pub(super) fn judge<'a>(
    spec: &'a GatewaySpec,
    owner: Referrer<'_>,
    secrets: &Secrets<'_>,
) -> Vec<Listener<'a>> {
    spec.listeners
        .iter()
        .enumerate()
        .map(|(position, listener)| {
            let others = spec.listeners.iter().enumerate().filter(|(other, _)| *other != position);
            let conflict = conflict(listener, others.map(|(_, other)| other));
            let earlier = spec.listeners.iter().take(position);
            let is_repeated = earlier.map(|other| &other.name).any(|name| *name == listener.name);
            one(listener, conflict, is_repeated, spec.tls.as_ref(), owner, secrets)
        })
        .collect()
}

/// Judges the listeners of a ListenerSet, which comes after these: of two that
/// want the same the first has it.
pub(super) fn judge_set<'a>(
    name: &'a ObjectName,
    spec: &'a SetSpec,
    earlier: &[Listener<'a>],
    gateway: Option<&GatewayTls>,
    owner: Referrer<'_>,
    secrets: &Secrets<'_>,
) -> Vec<Listener<'a>> {
    let mut judged: Vec<Listener<'a>> = Vec::new();
    for listener in &spec.listeners {
        let before = earlier.iter().chain(&judged);
        let holders = before.filter(|other| other.conflict.is_none()).map(|other| other.spec);
        let conflict = conflict(listener, holders);
        let is_repeated = judged.iter().any(|other| other.spec.name == listener.name);
        let mut one = one(listener, conflict, is_repeated, gateway, owner, secrets);
        one.set = Some(name);
        if let Some(socket) = &mut one.socket {
            socket.name = socket.name.clone().in_set(name.clone());
        }
        judged.push(one);
    }
    judged
}

/// Whether it ends TLS.
pub(super) fn ends_tls(spec: &GatewayListeners) -> bool {
    let mode = spec.tls.as_ref().and_then(|tls| tls.mode.as_ref());
    matches!(spec.protocol.as_str(), "HTTPS" | "TLS")
        && !matches!(mode, Some(GatewayListenersTlsMode::Passthrough))
}

fn one<'a>(
    spec: &'a GatewayListeners,
    conflict: Option<Fault>,
    is_repeated: bool,
    gateway: Option<&GatewayTls>,
    owner: Referrer<'_>,
    secrets: &Secrets<'_>,
) -> Listener<'a> {
    let (kinds, invalid_kinds) = route_kinds(spec);
    let (namespaces, unreadable) = match AllowedNamespaces::new(spec.allowed_routes.as_ref()) {
        Ok(namespaces) => (Some(namespaces), None),
        Err(why) => (None, Some((reason::UNSUPPORTED_VALUE, format!("{why}.")))),
    };
    let (mut socket, rejected) = match socket(spec, is_repeated) {
        Ok(socket) => (Some(socket), unreadable.or_else(|| unsupported_tls(spec, gateway))),
        Err(rejected) => (None, Some(rejected)),
    };
    let (mut unresolved, mut lacks_some) = (None, false);
    if ends_tls(spec) {
        let found = secrets.of(spec, owner);
        (unresolved, lacks_some) = (found.problem, found.lacks_some);
        if let Some(socket) = &mut socket {
            socket.service = Service::Stream(StreamTls::Terminate { certificates: found.good });
        }
    }
    Listener {
        spec,
        set: None,
        socket,
        conflict,
        rejected,
        unresolved,
        lacks_some,
        kinds,
        invalid_kinds,
        namespaces,
        attached: BTreeMap::new(),
        order: Vec::new(),
    }
}

fn socket(spec: &GatewayListeners, is_repeated: bool) -> Result<Socket, Fault> {
    let unsupported = |message| (reason::UNSUPPORTED_VALUE, message);
    let Some(service) = service(spec) else {
        let message =
            format!("Protocol {} is not served: use TCP, UDP, HTTP, HTTPS or TLS.", spec.protocol);
        return Err((reason::UNSUPPORTED_PROTOCOL, message));
    };
    // No API server lets these through; then nothing here breaks on them.
    if is_repeated {
        return Err(unsupported(format!("Another listener is called {} too.", spec.name)));
    }
    let name = ListenerName::new(spec.name.as_str());
    let name = name.map_err(|error| unsupported(format!("The name can't be used: {error}.")))?;
    let port = Port::new(spec.port).map_err(|error| unsupported(format!("{error}.")))?;
    let named = hostname(spec).filter(|_| matches!(service, Service::Stream(_)));
    let hostname = named.map(str::parse::<Hostname>).transpose();
    let hostname = hostname.map_err(|error| unsupported(format!("{error}.")))?;
    Ok(Socket { name, port, hostname, service })
}

/// What is asked of TLS that is not done.
fn unsupported_tls(spec: &GatewayListeners, gateway: Option<&GatewayTls>) -> Option<Fault> {
    let unsupported = |message: &str| Some((reason::UNSUPPORTED_VALUE, message.to_owned()));
    let tls = spec.tls.as_ref();
    if spec.protocol == "HTTPS" && !ends_tls(spec) {
        return unsupported("tls.mode is Passthrough: with protocol HTTPS use Terminate.");
    }
    if tls.is_some_and(|tls| tls.options.as_ref().is_some_and(|options| !options.is_empty())) {
        return unsupported("There are no options for TLS here: remove tls.options.");
    }
    if ends_tls(spec) && gateway.is_some_and(|tls| validates_clients(tls, spec.port)) {
        return unsupported(
            "Client certificates are not looked at, so what spec.tls.frontend of the Gateway asks \
             for is not done: remove its validation.",
        );
    }
    None
}

/// What a port says takes the place of the default.
fn validates_clients(tls: &GatewayTls, port: i32) -> bool {
    let Some(frontend) = &tls.frontend else { return false };
    let mut ports = frontend.per_port.iter().flatten();
    match ports.find(|it| it.port == port) {
        Some(own) => own.tls.validation.is_some(),
        None => frontend.default.validation.is_some(),
    }
}

/// The certificates of whoever ends TLS come later.
fn service(spec: &GatewayListeners) -> Option<Service> {
    Some(match spec.protocol.as_str() {
        "TCP" => Service::Packets(Protocol::Tcp),
        "UDP" => Service::Packets(Protocol::Udp),
        "HTTP" => Service::Stream(StreamTls::None),
        "HTTPS" | "TLS" => Service::Stream(StreamTls::Passthrough),
        _ => return None,
    })
}

fn hostname(spec: &GatewayListeners) -> Option<&str> {
    spec.hostname.as_deref().filter(|hostname| !hostname.is_empty())
}

/// The kinds a listener takes, and those it is told to take but can't.
fn route_kinds(spec: &GatewayListeners) -> (Vec<RouteKind>, Vec<String>) {
    let of_protocol = match spec.protocol.as_str() {
        "TCP" => Some(RouteKind::Tcp),
        "UDP" => Some(RouteKind::Udp),
        "HTTP" | "HTTPS" => Some(RouteKind::Http),
        "TLS" => Some(RouteKind::Tls),
        _ => None,
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

/// What of other listeners a listener wants too.
fn conflict<'a>(
    listener: &GatewayListeners,
    others: impl Iterator<Item = &'a GatewayListeners>,
) -> Option<Fault> {
    let clashes: Vec<_> =
        others.filter_map(|other| Some((clash(listener, other)?, other))).collect();
    let because = |wanted| {
        let others = clashes.iter().filter(|(reason, _)| *reason == wanted);
        let named: Vec<_> =
            others.map(|(_, other)| format!("{} ({})", other.name, other.protocol)).collect();
        (!named.is_empty()).then(|| named.join(", "))
    };
    let port = listener.port;
    if let Some(others) = because(reason::PROTOCOL_CONFLICT) {
        let message =
            format!("Port {port} can't be shared with {others}: give this listener another port.");
        return Some((reason::PROTOCOL_CONFLICT, message));
    }
    because(reason::HOSTNAME_CONFLICT).map(|others| {
        let which = match hostname(listener) {
            Some(hostname) => format!("Hostname {hostname}"),
            None => "No hostname".to_owned(),
        };
        let message = format!(
            "{which} on port {port} is what {others} has too: give this listener another hostname \
             or port."
        );
        (reason::HOSTNAME_CONFLICT, message)
    })
}

/// How bytes are told apart that come to one port.
#[derive(PartialEq, Eq)]
enum Lane {
    Udp,
    Tcp,
    /// HTTP: by the host of requests.
    Plain,
    /// By the name that the client asks for.
    Tls,
}

fn lane(listener: &GatewayListeners) -> Option<Lane> {
    Some(match listener.protocol.as_str() {
        "UDP" => Lane::Udp,
        "TCP" => Lane::Tcp,
        "HTTP" => Lane::Plain,
        "HTTPS" | "TLS" => Lane::Tls,
        _ => return None,
    })
}

/// Why two listeners of a Gateway want the same traffic, if they do (Gateway
/// API, "Distinct Listeners"): TCP shares a port with nothing that runs over
/// TCP, HTTP with nothing that begins with TLS, neither TCP nor UDP with
/// itself, and the others with what has another hostname.
fn clash(one: &GatewayListeners, other: &GatewayListeners) -> Option<&'static str> {
    if one.port != other.port {
        return None;
    }
    match (lane(one)?, lane(other)?) {
        (Lane::Udp, Lane::Udp) => Some(reason::PROTOCOL_CONFLICT),
        (Lane::Udp, _) | (_, Lane::Udp) => None,
        (Lane::Tcp, _) | (_, Lane::Tcp) => Some(reason::PROTOCOL_CONFLICT),
        (a, b) if a != b => Some(reason::PROTOCOL_CONFLICT),
        _ => (hostname(one) == hostname(other)).then_some(reason::HOSTNAME_CONFLICT),
    }
}
