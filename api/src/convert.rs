//! The vocabulary of the model in the words of the API: the one place where
//! the two meet.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use blixt_model as model;

use crate::v1alpha1;

impl From<model::Protocol> for v1alpha1::Protocol {
    fn from(protocol: model::Protocol) -> Self {
        match protocol {
            model::Protocol::Tcp => Self::Tcp,
            model::Protocol::Udp => Self::Udp,
        }
    }
}

impl From<model::Affinity> for v1alpha1::Affinity {
    fn from(affinity: model::Affinity) -> Self {
        match affinity {
            model::Affinity::None => Self::None,
            model::Affinity::ClientIp => Self::ClientIp,
        }
    }
}

impl From<model::EndpointState> for v1alpha1::EndpointState {
    fn from(state: model::EndpointState) -> Self {
        match state {
            model::EndpointState::Ready => Self::Ready,
            model::EndpointState::Draining => Self::Draining,
        }
    }
}

impl From<&model::ObjectName> for v1alpha1::ObjectName {
    fn from(name: &model::ObjectName) -> Self {
        Self { namespace: name.namespace().to_owned(), name: name.name().to_owned() }
    }
}

impl From<&model::RouteId> for v1alpha1::RouteRef {
    fn from(route: &model::RouteId) -> Self {
        Self { kind: route.kind.to_string(), name: Some((&route.name).into()) }
    }
}

impl From<&model::ServicePortId> for v1alpha1::ServicePort {
    fn from(id: &model::ServicePortId) -> Self {
        Self { name: Some((&id.service).into()), port: id.port.number().into() }
    }
}

impl From<SocketAddr> for v1alpha1::SocketAddress {
    fn from(at: SocketAddr) -> Self {
        Self { address: at.ip().to_string(), port: at.port().into() }
    }
}

/// What is no address, or no port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoSocketAddress(pub v1alpha1::SocketAddress);

impl fmt::Display for NoSocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} with port {} is no address with a port", self.0.address, self.0.port)
    }
}

impl std::error::Error for NoSocketAddress {}

impl TryFrom<&v1alpha1::SocketAddress> for SocketAddr {
    type Error = NoSocketAddress;

    fn try_from(wire: &v1alpha1::SocketAddress) -> Result<Self, NoSocketAddress> {
        match (wire.address.parse::<IpAddr>(), u16::try_from(wire.port)) {
            (Ok(address), Ok(port)) => Ok(Self::new(address.to_canonical(), port)),
            _ => Err(NoSocketAddress(wire.clone())),
        }
    }
}

impl TryFrom<v1alpha1::Protocol> for model::Protocol {
    type Error = v1alpha1::Protocol;

    fn try_from(wire: v1alpha1::Protocol) -> Result<Self, v1alpha1::Protocol> {
        match wire {
            v1alpha1::Protocol::Tcp => Ok(Self::Tcp),
            v1alpha1::Protocol::Udp => Ok(Self::Udp),
            v1alpha1::Protocol::Unspecified => Err(wire),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_there_and_back_and_are_refused() {
        for text in ["192.0.2.1:80", "[2001:db8::1]:65535"] {
            let at: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::try_from(&at.into()), Ok(at));
        }
        let wire = |address: &str, port| v1alpha1::SocketAddress { address: address.into(), port };
        let mapped = SocketAddr::try_from(&wire("::ffff:192.0.2.1", 1)).unwrap();
        assert_eq!(mapped.to_string(), "192.0.2.1:1");
        for wrong in [wire("", 80), wire("web", 80), wire("192.0.2.1", 65_536)] {
            assert!(SocketAddr::try_from(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn identities_come_over_whole() {
        let name: model::ObjectName = "shop/web".parse().unwrap();
        let wire = v1alpha1::ObjectName { namespace: "shop".to_owned(), name: "web".to_owned() };
        let route = model::RouteId { kind: model::RouteKind::Udp, name: name.clone() };
        assert_eq!(
            v1alpha1::RouteRef::from(&route),
            v1alpha1::RouteRef { kind: "UDPRoute".to_owned(), name: Some(wire.clone()) }
        );
        let service = model::ServicePortId {
            service: name,
            protocol: model::Protocol::Tcp,
            port: model::Port::new(80).unwrap(),
        };
        assert_eq!(
            v1alpha1::ServicePort::from(&service),
            v1alpha1::ServicePort { name: Some(wire), port: 80 }
        );
    }
}
