//! The vocabulary of the model in the words of the API: the one place where
//! the two meet.

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

#[cfg(test)]
mod tests {
    use super::*;

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
