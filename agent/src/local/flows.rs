//! The flows there are: pulled out of the workers page by page, as fast as the
//! client takes them, and the streams after them. Nothing is kept between two pages but where to go on, so
//! a client that goes away leaves nothing behind.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use blixt_api::v1alpha1 as api;
use blixt_dataplane::{
    FLOWS_AT_ONCE, FlowFilter, FlowRecord, FlowState, Network, PeerFilter, SlotOwner,
};
use blixt_model::{ListenerId, ObjectName, Protocol, ServicePortId};
use blixt_streams::Stream;
use futures_util::stream;
use tokio::sync::oneshot;
use tonic::Status;

use super::explain::answered;
use crate::state::State;
use crate::streams::Running;
use crate::tables::Applied;
use crate::worker::{FlowPage, Question, WorkerHandle};

/// Flows as they come.
pub(super) type Flows =
    Pin<Box<dyn stream::Stream<Item = Result<api::ListFlowsResponse, Status>> + Send + 'static>>;

/// How many pages are looked through for one message, so that the client sees
/// that something goes on where few flows are asked for.
const PAGES_PER_MESSAGE: usize = 256;

/// Those that are asked for.
pub(super) fn of(
    state: &State,
    workers: Arc<Vec<WorkerHandle>>,
    request: &api::ListFlowsRequest,
) -> Result<Flows, Status> {
    let applied = state.applied.load_full();
    let filter = Arc::new(filter(request, &applied)?);
    let walk = Walk {
        workers,
        streams: Some(Arc::clone(&state.streams)),
        filter,
        owners: Owners::of(&applied),
        at: Some((0, 0)),
        left: request.limit.unwrap_or(u64::MAX),
        page: Vec::with_capacity(if request.count_only { 0 } else { FLOWS_AT_ONCE as usize }),
    };
    Ok(Box::pin(stream::try_unfold(walk, Walk::go_on)))
}

/// A walk through the flows of all workers.
struct Walk {
    workers: Arc<Vec<WorkerHandle>>,
    /// `None` once they are told.
    streams: Option<Running>,
    filter: Arc<FlowFilter>,
    owners: Owners,
    /// The worker and the entry to go on with; `None` at the end.
    at: Option<(usize, u32)>,
    /// How many flows are still wanted.
    left: u64,
    /// Where workers put flows, again and again, so that it is memory that they
    /// need not wait for. Has no room if flows are only counted.
    page: Vec<FlowRecord>,
}

impl Walk {
    /// The next message, if there is any.
    async fn go_on(mut self) -> Result<Option<(api::ListFlowsResponse, Self)>, Status> {
        let mut message = api::ListFlowsResponse::default();
        let mut pages = 0;
        while let Some((place, from)) = self.at.filter(|_| self.left > 0)
            && pages < PAGES_PER_MESSAGE
            && message.flows.is_empty()
        {
            let Some(worker) = self.workers.get(place) else { break };
            let (reply, answer) = oneshot::channel();
            let filter = Arc::clone(&self.filter);
            let page = std::mem::take(&mut self.page);
            worker.ask(Question::Flows { from, filter, page, reply });
            let FlowPage { flows, scanned } = answered(worker.id().0, answer).await?;
            let wanted = u64::from(scanned.matched).min(self.left);
            self.left -= wanted;
            message.matched += wanted;
            let id = u32::from(worker.id().0);
            let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
            message
                .flows
                .extend(flows.iter().take(wanted).map(|record| flow(record, id, &self.owners)));
            self.at = Some(scanned.next.map_or((place + 1, 0), |next| (place, next)));
            self.page = flows;
            pages += 1;
        }
        if pages == 0
            && let Some(streams) = self.streams.take()
        {
            self.tell(&streams, &mut message);
            pages += 1;
        }
        Ok((pages > 0).then_some((message, self)))
    }

    /// All streams at once: there are far fewer of them than there may be flows.
    fn tell(&mut self, streams: &Running, message: &mut api::ListFlowsResponse) {
        let Some(streams) = streams.get() else { return };
        for stream in streams.list() {
            let record = record(&stream, streams.ends_in(&stream));
            if self.left == 0 || !self.filter.admits_record(&record) {
                continue;
            }
            self.left -= 1;
            message.matched += 1;
            // Flows are only counted if there is no room for them.
            if self.page.capacity() > 0 {
                let told = flow(&record, 0, &self.owners);
                message.flows.push(api::Flow { stream: true, ..told });
            }
        }
    }
}

/// A stream as a flow, as far as it is one.
fn record(stream: &Stream, forgotten_in: Duration) -> FlowRecord {
    FlowRecord {
        protocol: Protocol::Tcp,
        state: match (stream.client_finished(), stream.endpoint_finished()) {
            (false, false) => FlowState::Established,
            (true, false) => FlowState::ClientFinished,
            (false, true) => FlowState::EndpointFinished,
            (true, true) => FlowState::Closing,
        },
        client: stream.client,
        vip: stream.vip,
        snat: stream.local,
        endpoint: stream.endpoint,
        backend_slot: stream.backend_slot,
        endpoint_slot: stream.slot,
        idle: stream.idle(),
        forgotten_in,
        replaced: false,
    }
}

fn filter(request: &api::ListFlowsRequest, applied: &Applied) -> Result<FlowFilter, Status> {
    let refused = |what: String| Status::invalid_argument(what);
    let protocol = match request.protocol {
        None => None,
        Some(_) => Some(
            Protocol::try_from(request.protocol())
                .map_err(|_| refused("there is no such protocol".to_owned()))?,
        ),
    };
    let states = request.states.iter();
    let states: Option<Vec<_>> =
        states.map(|&number| state_of(api::FlowState::try_from(number).ok()?)).collect();
    Ok(FlowFilter {
        protocol,
        states: states.ok_or_else(|| refused("there is no such state of a flow".to_owned()))?,
        client: peer(request.client.as_ref())?,
        vip: peer(request.vip.as_ref())?,
        snat: peer(request.snat.as_ref())?,
        endpoint: peer(request.endpoint.as_ref())?,
        endpoint_slots: match &request.service {
            None => None,
            Some(name) => Some(slots(name, applied)?),
        },
    })
}

fn peer(filter: Option<&api::PeerFilter>) -> Result<PeerFilter, Status> {
    let Some(filter) = filter else { return Ok(PeerFilter::default()) };
    let network = match &filter.network {
        None => None,
        Some(text) => Some(network(text).ok_or_else(|| {
            Status::invalid_argument(format!("{text:?} is neither an address nor a network"))
        })?),
    };
    let port = filter.port.map(|port| {
        u16::try_from(port).map_err(|_| Status::invalid_argument(format!("{port} is no port")))
    });
    Ok(PeerFilter { network, port: port.transpose()? })
}

/// An address, or one with the length of a prefix behind it.
fn network(text: &str) -> Option<Network> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let all = if address.is_ipv4() { 32 } else { 128 };
    Network::new(address, bits.unwrap_or(all))
}

/// The slots of all endpoints of a Service, whatever its port.
fn slots(name: &api::ObjectName, applied: &Applied) -> Result<Vec<u32>, Status> {
    let (namespace, name) = (&name.namespace, &name.name);
    let name: ObjectName = format!("{namespace}/{name}").parse().map_err(|_| {
        Status::invalid_argument(format!("{namespace:?} and {name:?} are no Service's"))
    })?;
    let mut slots: Vec<_> = applied
        .slots
        .iter()
        .filter(|(owner, _)| {
            matches!(owner, SlotOwner::Endpoint { service, .. } if service.service == name)
        })
        .map(|(_, slot)| *slot)
        .collect();
    slots.sort_unstable();
    Ok(slots)
}

/// Who has which slot.
pub(super) struct Owners {
    listeners: HashMap<u32, ListenerId>,
    services: HashMap<u32, ServicePortId>,
}

impl Owners {
    pub(super) fn of(applied: &Applied) -> Self {
        let mut owners = Self { listeners: HashMap::new(), services: HashMap::new() };
        for (owner, &slot) in &applied.slots {
            match owner {
                SlotOwner::Backend { listener, .. } => {
                    owners.listeners.insert(slot, listener.clone());
                }
                SlotOwner::Endpoint { service, .. } => {
                    owners.services.insert(slot, service.clone());
                }
            }
        }
        owners
    }
}

/// A flow of a worker in the words of the API.
pub(super) fn flow(record: &FlowRecord, worker: u32, owners: &Owners) -> api::Flow {
    let protocol: api::Protocol = record.protocol.into();
    let millis = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    // Those of a flow that has ended may have other owners by now.
    let live = record.state != FlowState::Resting;
    let listener = owners.listeners.get(&record.backend_slot).filter(|_| live);
    let service = owners.services.get(&record.endpoint_slot);
    api::Flow {
        worker,
        protocol: protocol.into(),
        state: state_shown(record.state).into(),
        client: Some(record.client.into()),
        vip: Some(record.vip.into()),
        snat: Some(record.snat.into()),
        endpoint: Some(record.endpoint.into()),
        idle_ms: millis(record.idle),
        forgotten_in_ms: millis(record.forgotten_in),
        replaced: record.replaced,
        listener: listener.map(|id| api::ListenerRef {
            gateway: Some((&id.gateway).into()),
            name: id.listener.to_string(),
        }),
        service: service.map(Into::into),
        stream: false,
    }
}

/// States here, and in the API.
const STATES: [(FlowState, api::FlowState); 8] = [
    (FlowState::Udp, api::FlowState::Udp),
    (FlowState::SynSent, api::FlowState::SynSent),
    (FlowState::SynReceived, api::FlowState::SynReceived),
    (FlowState::Established, api::FlowState::Established),
    (FlowState::ClientFinished, api::FlowState::ClientFinished),
    (FlowState::EndpointFinished, api::FlowState::EndpointFinished),
    (FlowState::Closing, api::FlowState::Closing),
    (FlowState::Resting, api::FlowState::Resting),
];

fn state_of(wire: api::FlowState) -> Option<FlowState> {
    STATES.iter().find(|(_, other)| *other == wire).map(|(state, _)| *state)
}

fn state_shown(state: FlowState) -> api::FlowState {
    let known = STATES.iter().find(|(other, _)| *other == state);
    known.map_or(api::FlowState::Unspecified, |(_, wire)| *wire)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::example;

    fn asking(request: api::ListFlowsRequest) -> Result<FlowFilter, String> {
        let applied = example().applied.load_full();
        filter(&request, &applied).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn nothing_asked_for_is_everything() {
        assert_eq!(asking(api::ListFlowsRequest::default()), Ok(FlowFilter::default()));
    }

    #[test]
    fn what_is_asked_for_is_understood_or_refused() {
        let of = |network: &str, port| {
            let client = Some(api::PeerFilter { network: Some(network.to_owned()), port });
            asking(api::ListFlowsRequest { client, ..api::ListFlowsRequest::default() })
        };
        let expected = |address: [u8; 4], bits, port| PeerFilter {
            network: Network::new(address.into(), bits),
            port,
        };
        assert_eq!(of("192.0.2.0/24", None).unwrap().client, expected([192, 0, 2, 0], 24, None));
        assert_eq!(of("192.0.2.1", Some(9)).unwrap().client, expected([192, 0, 2, 1], 32, Some(9)));
        assert!(of("192.0.2.0/33", None).unwrap_err().contains("192.0.2.0/33"));
        assert!(of("web", None).is_err() && of("192.0.2.1", Some(65_536)).is_err());
        let states = vec![api::FlowState::Established.into(), 99];
        let unknown = api::ListFlowsRequest { states, ..api::ListFlowsRequest::default() };
        assert!(asking(unknown).is_err());
    }

    #[test]
    fn a_service_is_known_by_the_slots_of_its_endpoints() {
        let applied = example().applied.load_full();
        let named = |name: &str| {
            let service = Some(api::ObjectName { namespace: "default".into(), name: name.into() });
            asking(api::ListFlowsRequest { service, ..api::ListFlowsRequest::default() })
        };
        let slots = named("web").unwrap().endpoint_slots.unwrap();
        let owners = Owners::of(&applied);
        assert_eq!(slots.len(), 1);
        assert_eq!(owners.services[&slots[0]].service.to_string(), "default/web");
        assert_eq!(named("nobody").unwrap().endpoint_slots, Some(vec![]), "no flow is its");
        assert!(named("No Name").is_err());
    }

    #[test]
    fn every_state_has_its_name() {
        for (state, wire) in STATES {
            assert_eq!(state_of(wire), Some(state));
            assert_eq!(state_shown(state), wire);
        }
    }
}
