//! What things are called: Kubernetes names, and the identities built of them.

use std::fmt;
use std::str::FromStr;

use crate::{Port, Protocol};

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Kubernetes limits names to 253 characters (RFC 1123 subdomain).
    #[error("{0:?} is not a name: it must have 1 to 253 characters")]
    Length(String),
    /// Only what an RFC 1123 subdomain allows.
    #[error(
        "{0:?} is not a name: use lower-case letters, digits, '-' and '.', with a letter or digit at both ends"
    )]
    Characters(String),
}

/// A namespace and a name, which together name one object of a kind.
///
/// Ordered by namespace, then name: the tie-breaker of Gateway API.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    namespace: String,
    name: String,
}

impl ObjectName {
    /// Checks both parts as RFC 1123 subdomains.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Result<Self, NameError> {
        Ok(Self { namespace: subdomain(namespace.into())?, name: subdomain(name.into())? })
    }

    /// The namespace; never empty.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name within the namespace; never empty.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The name of a listener within its Gateway (`spec.listeners[].name`), be it
/// the Gateway's own or one that a ListenerSet brings along.
///
/// Ordered with the Gateway's own first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerName {
    set: Option<ObjectName>,
    name: String,
}

impl ListenerName {
    /// Checks the text as an RFC 1123 subdomain.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        Ok(Self { set: None, name: subdomain(name.into())? })
    }

    /// The listener of that name in a ListenerSet.
    #[must_use]
    pub fn in_set(self, set: ObjectName) -> Self {
        Self { set: Some(set), ..self }
    }

    /// The ListenerSet that it is from; `None` is the Gateway itself.
    pub fn set(&self) -> Option<&ObjectName> {
        self.set.as_ref()
    }

    /// The name as text, without the ListenerSet's.
    pub fn as_str(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for ListenerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.set {
            Some(set) => write!(f, "{set}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// One listener of one Gateway.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId {
    /// The Gateway.
    pub gateway: ObjectName,
    /// The listener in it.
    pub listener: ListenerName,
}

impl fmt::Display for ListenerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.gateway, self.listener)
    }
}

/// The kinds of route that can send a listener's traffic somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// `TCPRoute`.
    Tcp,
    /// `UDPRoute`.
    Udp,
    /// `HTTPRoute`.
    Http,
    /// `TLSRoute`.
    Tls,
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCPRoute",
            Self::Udp => "UDPRoute",
            Self::Http => "HTTPRoute",
            Self::Tls => "TLSRoute",
        })
    }
}

/// One route object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId {
    /// Its kind.
    pub kind: RouteKind,
    /// Its namespace and name.
    pub name: ObjectName,
}

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// One port of one Service, for one protocol: the thing whose endpoints share
/// a Maglev table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortId {
    /// The Service.
    pub service: ObjectName,
    /// TCP or UDP: a Service may have the same port for both.
    pub protocol: Protocol,
    /// The Service's port, as `backendRef.port` names it.
    pub port: Port,
}

impl fmt::Display for ServicePortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.service, self.port, self.protocol)
    }
}

/// RFC 1123 §2.1 as Kubernetes applies it to object names
/// (`IsDNS1123Subdomain`).
pub(crate) fn is_subdomain(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.as_bytes().split(|&b| b == b'.').all(|label| {
        label.first().is_some_and(|&b| alphanumeric(b))
            && label.last().is_some_and(|&b| alphanumeric(b))
            && label.iter().all(|&b| alphanumeric(b) || b == b'-')
    })
}

fn subdomain(text: String) -> Result<String, NameError> {
    if text.is_empty() || text.len() > 253 {
        return Err(NameError::Length(text));
    }
    if is_subdomain(&text) { Ok(text) } else { Err(NameError::Characters(text)) }
}

impl FromStr for ObjectName {
    type Err = NameError;

    /// Reads `namespace/name`; a text without a slash is in `default`.
    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once('/') {
            Some((namespace, name)) => Self::new(namespace, name),
            None => Self::new("default", text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_rfc_1123() {
        for good in ["a", "web-1", "a.b-c.d9", &"x".repeat(253)] {
            assert!(ObjectName::new("default", good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a..b", ".a", "a/b", "ä", &"x".repeat(254)] {
            assert!(ObjectName::new("default", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn object_names_order_by_namespace_first() {
        let name = |text: &str| text.parse::<ObjectName>().unwrap();
        let mut names = [name("b/a"), name("a/z"), name("a/b"), name("c")];
        names.sort();
        assert_eq!(names.map(|n| n.to_string()), ["a/b", "a/z", "b/a", "default/c"]);
    }

    #[test]
    fn identities_read_well() {
        let id = ServicePortId {
            service: "shop/web".parse().unwrap(),
            protocol: Protocol::Tcp,
            port: Port::new(80).unwrap(),
        };
        assert_eq!(id.to_string(), "shop/web:80/TCP");
        let route = RouteId { kind: RouteKind::Udp, name: "dns".parse().unwrap() };
        assert_eq!(route.to_string(), "UDPRoute default/dns");
        let own = ListenerName::new("web").unwrap();
        let brought = own.clone().in_set("team/more".parse().unwrap());
        assert_eq!([&own, &brought].map(ToString::to_string), ["web", "team/more/web"]);
        assert_eq!(own.as_str(), brought.as_str());
    }
}
