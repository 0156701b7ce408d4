//! What is balanced to where, in the words of the API.

use blixt_api::listeners;
use blixt_api::v1alpha1 as api;
use blixt_dataplane::Tables;
use blixt_model::{Endpoint, Gateway, Listener, ServicePort, StreamListener};

use crate::traffic::{Counted, Traffic};

/// All listeners. `tables` are the newest; they may be of another generation
/// for a moment.
pub(super) fn of(counted: &Counted<'_>, tables: &Tables) -> api::GetLoadBalancingResponse {
    let snapshot = &counted.applied.snapshot;
    let tables = Some(tables).filter(|tables| tables.generation() == snapshot.generation());
    api::GetLoadBalancingResponse {
        generation: snapshot.generation().0,
        listeners: listeners::listeners(snapshot, tables, Some(counted)),
    }
}

impl listeners::Traffic for Counted<'_> {
    fn backends(&self, gateway: &Gateway, listener: &Listener) -> Vec<api::Traffic> {
        self.backends(gateway, listener).into_iter().map(shown).collect()
    }

    fn routes(&self, gateway: &Gateway, listener: &StreamListener) -> Vec<Vec<api::Traffic>> {
        let routes = self.routes(gateway, listener).into_iter();
        routes.map(|route| route.into_iter().map(shown).collect()).collect()
    }

    fn endpoint(&self, service: &ServicePort, endpoint: &Endpoint) -> api::Traffic {
        shown(self.endpoint(service, endpoint))
    }
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
        let state = example();
        let tables = state.published.tables.load();
        let shown = state.counted(|counted| of(&counted, &tables));
        assert_eq!(shown.generation, 3);
        let [listener] = &shown.listeners[..] else { panic!("{shown:?}") };
        assert_eq!(listener.addresses, ["192.0.2.1"]);
        let shares: Vec<_> = listener.backends.iter().map(|backend| backend.share).collect();
        assert_eq!(shares, [0.75, 0.25, 0.0]);
        let slots = listener.backends.iter().map(|backend| backend.maglev.unwrap().slots);
        assert_eq!(slots.collect::<Vec<_>>(), [188, 63, 0]);
        assert_eq!(listener.backends[1].reject_reason.as_deref(), Some("BackendNotFound"));
        assert_eq!(listener.backends[1].endpoints, []);
        let endpoint = &listener.backends[0].endpoints[0];
        assert_eq!((endpoint.address.as_str(), endpoint.port), ("10.0.0.1", 8_080));
        let active = |traffic: &Option<api::Traffic>| traffic.unwrap().active_flows;
        assert_eq!(active(&endpoint.traffic), 2);
        assert_eq!(active(&listener.traffic), 6, "the sum of its backends");
    }
}
