//! Listeners, their backendRefs and the endpoints of these, in the words of the
//! API: told alike by an agent and by who compiles the same files without one.

use std::collections::HashMap;
use std::net::SocketAddr;

use blixt_dataplane::{Share, Tables};
use blixt_model::{
    Backend, Endpoint, Gateway, Listener, ServicePort, Snapshot, Stream, StreamListener, StreamTls,
    Target,
};

use crate::v1alpha1;

/// Knows what went through backendRefs and endpoints.
pub trait Traffic {
    /// For each backendRef of a listener, in its order.
    fn backends(&self, gateway: &Gateway, listener: &Listener) -> Vec<v1alpha1::Traffic>;

    /// For each backendRef of each route of a stream's listener, in their order.
    fn routes(&self, gateway: &Gateway, listener: &StreamListener) -> Vec<Vec<v1alpha1::Traffic>>;

    /// For one endpoint.
    fn endpoint(&self, service: &ServicePort, endpoint: &Endpoint) -> v1alpha1::Traffic;
}

/// All listeners of a snapshot. `tables` are those made of it, where they are
/// at hand; `traffic` is `None` where there is none.
pub fn listeners(
    snapshot: &Snapshot,
    tables: Option<&Tables>,
    traffic: Option<&dyn Traffic>,
) -> Vec<v1alpha1::Listener> {
    let told = Told { snapshot, tables, traffic };
    let mut all = Vec::new();
    for gateway in snapshot.gateways() {
        all.extend(gateway.listeners.iter().map(|listener| told.listener(gateway, listener)));
        all.extend(gateway.streams.iter().flat_map(|stream| told.stream(gateway, stream)));
    }
    all
}

struct Told<'a> {
    snapshot: &'a Snapshot,
    tables: Option<&'a Tables>,
    traffic: Option<&'a dyn Traffic>,
}

impl Told<'_> {
    fn listener(&self, gateway: &Gateway, listener: &Listener) -> v1alpha1::Listener {
        let each = self.traffic.map(|traffic| traffic.backends(gateway, listener));
        let shares = self.shares(gateway, listener);
        let protocol: v1alpha1::Protocol = listener.protocol.into();
        v1alpha1::Listener {
            gateway: Some((&gateway.name).into()),
            name: listener.name.to_string(),
            addresses: gateway.addresses.iter().map(ToString::to_string).collect(),
            protocol: protocol.into(),
            port: listener.port.number().into(),
            route: listener.route.as_ref().map(Into::into),
            traffic: each.as_ref().map(|each| sum(each)),
            backends: self.backends(&listener.backends, each.as_deref(), shares.as_deref()),
            ..v1alpha1::Listener::default()
        }
    }

    /// The listeners of a port whose connections end on the node: one for each of
    /// their routes.
    fn stream(&self, gateway: &Gateway, stream: &Stream) -> Vec<v1alpha1::Listener> {
        let mut told = Vec::new();
        let mut places = 0..;
        for listener in &stream.listeners {
            let kind = match listener.tls {
                StreamTls::None => v1alpha1::StreamKind::Bytes,
                StreamTls::Passthrough => v1alpha1::StreamKind::TlsPassthrough,
                StreamTls::Terminate { .. } => v1alpha1::StreamKind::TlsTerminate,
            };
            let own = listener.hostname.iter().map(ToString::to_string).collect();
            let bare = v1alpha1::Listener {
                gateway: Some((&gateway.name).into()),
                name: listener.name.to_string(),
                addresses: gateway.addresses.iter().map(ToString::to_string).collect(),
                protocol: v1alpha1::Protocol::Tcp.into(),
                port: stream.port.number().into(),
                stream: Some(kind.into()),
                hostnames: own,
                ..v1alpha1::Listener::default()
            };
            if listener.routes.is_empty() {
                let traffic = self.traffic.map(|_| v1alpha1::Traffic::default());
                told.push(v1alpha1::Listener { traffic, ..bare });
                continue;
            }
            let traffic = self.traffic.map(|traffic| traffic.routes(gateway, listener));
            for (number, (route, place)) in listener.routes.iter().zip(&mut places).enumerate() {
                let each = traffic.as_ref().and_then(|traffic| traffic.get(number));
                let each = each.map(Vec::as_slice);
                let shares = self.stream_shares(gateway, stream, place);
                let mut shown = v1alpha1::Listener {
                    route: Some((&route.route).into()),
                    traffic: each.map(sum),
                    backends: self.backends(&route.backends, each, shares.as_deref()),
                    ..bare.clone()
                };
                if !route.hostnames.is_empty() {
                    shown.hostnames = route.hostnames.iter().map(ToString::to_string).collect();
                }
                told.push(shown);
            }
        }
        told
    }

    fn backends(
        &self,
        backends: &[Backend],
        traffic: Option<&[v1alpha1::Traffic]>,
        shares: Option<&[Share]>,
    ) -> Vec<v1alpha1::Backend> {
        let weights = backends.iter().map(|backend| u64::from(backend.weight.number())).sum();
        let told = backends.iter().enumerate().map(|(place, backend)| v1alpha1::Backend {
            traffic: traffic.and_then(|each| each.get(place).copied()),
            maglev: shares.and_then(|shares| Some((*shares.get(place)?).into())),
            ..self.backend(backend, weights)
        });
        told.collect()
    }

    fn stream_shares(
        &self,
        gateway: &Gateway,
        stream: &Stream,
        route: usize,
    ) -> Option<Vec<Share>> {
        let vip = SocketAddr::new(*gateway.addresses.first()?, stream.port.number());
        self.tables?.stream_shares(vip, route)
    }

    /// The same on each of the Gateway's addresses, so that one tells it.
    fn shares(&self, gateway: &Gateway, listener: &Listener) -> Option<Vec<Share>> {
        let vip = SocketAddr::new(*gateway.addresses.first()?, listener.port.number());
        self.tables?.backend_shares(vip, listener.protocol)
    }

    fn backend(&self, backend: &Backend, weights: u64) -> v1alpha1::Backend {
        let weight = backend.weight.number();
        let share = if weights == 0 { 0.0 } else { f64::from(weight) / weights as f64 };
        let mut told = v1alpha1::Backend { weight, share, ..v1alpha1::Backend::default() };
        match backend.target {
            Target::Rejected(reason) => told.reject_reason = Some(reason.as_str().to_owned()),
            Target::Service(index) => {
                if let Some(service) = self.snapshot.service(index) {
                    let affinity: v1alpha1::Affinity = service.affinity.into();
                    told.service = Some((&service.id).into());
                    told.affinity = Some(affinity.into());
                    told.endpoints = self.endpoints(index.0 as usize, service);
                }
            }
        }
        told
    }

    fn endpoints(&self, place: usize, service: &ServicePort) -> Vec<v1alpha1::Endpoint> {
        let shares: HashMap<_, _> =
            self.tables.into_iter().flat_map(|tables| tables.endpoint_shares(place)).collect();
        let mut sorted: Vec<&Endpoint> = service.endpoints.iter().collect();
        sorted.sort();
        let told = sorted.into_iter().map(|endpoint| {
            let state: v1alpha1::EndpointState = endpoint.state.into();
            let at = SocketAddr::new(endpoint.address, endpoint.port.number());
            v1alpha1::Endpoint {
                address: endpoint.address.to_string(),
                port: endpoint.port.number().into(),
                state: state.into(),
                traffic: self.traffic.map(|traffic| traffic.endpoint(service, endpoint)),
                maglev: shares.get(&at).map(|&share| share.into()),
            }
        });
        told.collect()
    }
}

impl From<Share> for v1alpha1::MaglevShare {
    fn from(Share { slots, of }: Share) -> Self {
        Self { slots, of }
    }
}

fn sum(each: &[v1alpha1::Traffic]) -> v1alpha1::Traffic {
    each.iter().fold(v1alpha1::Traffic::default(), |sum, one| v1alpha1::Traffic {
        flows: sum.flows + one.flows,
        active_flows: sum.active_flows + one.active_flows,
        refused_flows: sum.refused_flows + one.refused_flows,
        packets_in: sum.packets_in + one.packets_in,
        packets_out: sum.packets_out + one.packets_out,
        bytes_in: sum.bytes_in + one.bytes_in,
        bytes_out: sum.bytes_out + one.bytes_out,
    })
}
