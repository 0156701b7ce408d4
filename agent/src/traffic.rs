//! What went through backendRefs and endpoints: the workers' slot counters,
//! added up.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::Arc;

use blixt_dataplane::{SlotOwner, SlotStats};
use blixt_model::{
    Backend, Endpoint, Gateway, Listener, ListenerId, RouteId, ServicePort, ServicePortId,
    StreamListener, Target,
};

use crate::tables::Applied;

/// What was counted for one slot, all workers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Flows started.
    pub flows: u64,
    /// Flows that live.
    pub active_flows: u64,
    /// New flows that were refused.
    pub refused: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.flows += other.flows;
        self.active_flows += other.active_flows;
        self.refused += other.refused;
        self.packets_in += other.packets_in;
        self.packets_out += other.packets_out;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }
}

/// References to the same target are told apart by counting them, as
/// `Tables::compile` does.
type Occurrences = BTreeMap<(Option<RouteId>, Option<ServicePortId>), u32>;

/// The counters at one moment.
#[derive(Debug)]
pub struct Counted<'a> {
    /// What is in force.
    pub applied: &'a Applied,
    /// Each worker's counters, and those of streams.
    pub stats: Vec<Arc<SlotStats>>,
}

impl Counted<'_> {
    /// For each backendRef of a listener, in its order.
    pub fn backends(&self, gateway: &Gateway, listener: &Listener) -> Vec<Traffic> {
        let id = ListenerId { gateway: gateway.name.clone(), listener: listener.name.clone() };
        self.of_backends(&id, None, &listener.backends, &mut Occurrences::new())
    }

    /// For each backendRef of each route of a stream's listener, in their order.
    pub fn routes(&self, gateway: &Gateway, listener: &StreamListener) -> Vec<Vec<Traffic>> {
        let id = ListenerId { gateway: gateway.name.clone(), listener: listener.name.clone() };
        let mut occurrences = Occurrences::new();
        let routes = listener.routes.iter().map(|route| {
            self.of_backends(&id, Some(&route.route), &route.backends, &mut occurrences)
        });
        routes.collect()
    }

    fn of_backends(
        &self,
        listener: &ListenerId,
        route: Option<&RouteId>,
        backends: &[Backend],
        occurrences: &mut Occurrences,
    ) -> Vec<Traffic> {
        let backends = backends.iter().map(|backend| {
            let service = match backend.target {
                Target::Service(index) => self.applied.snapshot.service(index),
                Target::Rejected(_) => None,
            };
            let service = service.map(|service| service.id.clone());
            let occurrence = occurrences.entry((route.cloned(), service.clone())).or_default();
            let owner = SlotOwner::Backend {
                listener: listener.clone(),
                route: route.cloned(),
                service,
                occurrence: *occurrence,
            };
            *occurrence += 1;
            self.of(&owner)
        });
        backends.collect()
    }

    /// For one endpoint.
    pub fn endpoint(&self, service: &ServicePort, endpoint: &Endpoint) -> Traffic {
        self.of(&SlotOwner::Endpoint {
            service: service.id.clone(),
            address: endpoint.address,
            port: endpoint.port,
        })
    }

    fn of(&self, owner: &SlotOwner) -> Traffic {
        let mut sum = Traffic::default();
        let Some(&slot) = self.applied.slots.get(owner) else { return sum };
        for counters in self.stats.iter().filter_map(|stats| stats.slot(slot)) {
            sum += Traffic {
                flows: counters.flows.value(),
                active_flows: counters.active_flows.value(),
                refused: counters.refused.value(),
                packets_in: counters.packets_in.value(),
                packets_out: counters.packets_out.value(),
                bytes_in: counters.bytes_in.value(),
                bytes_out: counters.bytes_out.value(),
            };
        }
        sum
    }
}
