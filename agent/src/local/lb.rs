//! What is balanced to where, in the words of the API.

use blixt_api::v1alpha1 as api;
use blixt_model::{Backend, Endpoint, Gateway, Listener, ServicePort, Target};

use crate::traffic::{Counted, Traffic};

/// All listeners.
pub(super) fn of(counted: &Counted<'_>) -> api::GetLoadBalancingResponse {
    let snapshot = &counted.applied.snapshot;
    let gateways = snapshot.gateways().iter();
    api::GetLoadBalancingResponse {
        generation: snapshot.generation().0,
        listeners: gateways
            .flat_map(|gateway| gateway.listeners.iter().map(move |listener| (gateway, listener)))
            .map(|(gateway, found)| listener(gateway, found, counted))
            .collect(),
    }
}

fn listener(gateway: &Gateway, listener: &Listener, counted: &Counted<'_>) -> api::Listener {
    let each = counted.backends(gateway, listener);
    let mut sum = Traffic::default();
    each.iter().for_each(|traffic| sum += *traffic);
    let weights = listener.backends.iter().map(|backend| u64::from(backend.weight.number())).sum();
    let protocol: api::Protocol = listener.protocol.into();
    api::Listener {
        gateway: Some((&gateway.name).into()),
        name: listener.name.to_string(),
        addresses: gateway.addresses.iter().map(ToString::to_string).collect(),
        protocol: protocol.into(),
        port: listener.port.number().into(),
        route: listener.route.as_ref().map(Into::into),
        traffic: Some(shown(sum)),
        backends: listener
            .backends
            .iter()
            .zip(each)
            .map(|(found, traffic)| backend(found, weights, traffic, counted))
            .collect(),
    }
}

fn backend(
    backend: &Backend,
    weights: u64,
    traffic: Traffic,
    counted: &Counted<'_>,
) -> api::Backend {
    let weight = backend.weight.number();
    let mut shown = api::Backend {
        weight,
        share: if weights == 0 { 0.0 } else { f64::from(weight) / weights as f64 },
        traffic: Some(self::shown(traffic)),
        ..api::Backend::default()
    };
    match backend.target {
        Target::Rejected(reason) => shown.reject_reason = Some(reason.as_str().to_owned()),
        Target::Service(index) => {
            if let Some(service) = counted.applied.snapshot.service(index) {
                let affinity: api::Affinity = service.affinity.into();
                shown.service = Some((&service.id).into());
                shown.affinity = Some(affinity.into());
                shown.endpoints = endpoints(service, counted);
            }
        }
    }
    shown
}

fn endpoints(service: &ServicePort, counted: &Counted<'_>) -> Vec<api::Endpoint> {
    let mut sorted: Vec<&Endpoint> = service.endpoints.iter().collect();
    sorted.sort();
    let shown = sorted.into_iter().map(|endpoint| {
        let state: api::EndpointState = endpoint.state.into();
        api::Endpoint {
            address: endpoint.address.to_string(),
            port: endpoint.port.number().into(),
            state: state.into(),
            traffic: Some(shown(counted.endpoint(service, endpoint))),
        }
    });
    shown.collect()
}

fn shown(traffic: Traffic) -> api::Traffic {
    api::Traffic {
        flows: traffic.flows,
        active_flows: traffic.active_flows,
        refused_flows: traffic.refused,
        packets_in: traffic.packets_in,
        packets_out: traffic.packets_out,
        bytes_in: traffic.bytes_in,
        bytes_out: traffic.bytes_out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::example;

    #[test]
    fn a_listener_shows_its_shares_and_what_went_through_them() {
        let shown = example().counted(|counted| of(&counted));
        assert_eq!(shown.generation, 3);
        let [listener] = &shown.listeners[..] else { panic!("{shown:?}") };
        assert_eq!(listener.addresses, ["192.0.2.1"]);
        let shares: Vec<_> = listener.backends.iter().map(|backend| backend.share).collect();
        assert_eq!(shares, [0.75, 0.25, 0.0]);
        assert_eq!(listener.backends[1].reject_reason.as_deref(), Some("BackendNotFound"));
        assert_eq!(listener.backends[1].endpoints, []);
        let endpoint = &listener.backends[0].endpoints[0];
        assert_eq!((endpoint.address.as_str(), endpoint.port), ("10.0.0.1", 8_080));
        let active = |traffic: &Option<api::Traffic>| traffic.unwrap().active_flows;
        assert_eq!(active(&endpoint.traffic), 2);
        assert_eq!(active(&listener.traffic), 6, "the sum of its backends");
    }
}
