//! A snapshot in which one Gateway stays as it was.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Backend, Gateway, ServiceIndex, ServicePort, Snapshot, SnapshotError, Target};
use crate::{ObjectName, ServicePortId};

impl Snapshot {
    /// The same wishes, but of one Gateway those of `last`, on the addresses that it
    /// has here: none, if `last` has none of it. Services that are in both have the
    /// endpoints that they have here.
    pub fn with_last_of(&self, name: &ObjectName, last: &Self) -> Result<Self, SnapshotError> {
        let newest = self.services.iter().map(|service| (&service.id, service)).collect();
        let mut services = Services { newest, made: Vec::new(), numbers: BTreeMap::new() };
        let mut gateways = Vec::new();
        for gateway in &self.gateways {
            let (kept, of) = match gateway.name == *name {
                false => (Some(gateway), self),
                true => (last.gateways.iter().find(|it| it.name == *name), last),
            };
            let addresses = &gateway.addresses;
            gateways.extend(kept.map(|kept| services.taken(kept, addresses, of)));
        }
        let made = Self::new(self.generation, self.seed, gateways, services.made)?;
        Ok(made.with_settings(self.settings.clone()))
    }
}

/// Those that some Gateway names, with new numbers.
struct Services<'a> {
    newest: BTreeMap<&'a ServicePortId, &'a ServicePort>,
    made: Vec<ServicePort>,
    numbers: BTreeMap<ServicePortId, ServiceIndex>,
}

impl Services<'_> {
    fn taken(&mut self, gateway: &Gateway, addresses: &[IpAddr], of: &Snapshot) -> Gateway {
        let mut gateway = Gateway { addresses: addresses.to_vec(), ..gateway.clone() };
        let streams = gateway.streams.iter_mut().flat_map(|stream| &mut stream.listeners);
        let routes = streams.flat_map(|listener| &mut listener.routes);
        let listeners = gateway.listeners.iter_mut().map(|listener| &mut listener.backends);
        for backend in listeners.chain(routes.map(|route| &mut route.backends)).flatten() {
            self.renumber(backend, of);
        }
        gateway
    }

    fn renumber(&mut self, backend: &mut Backend, of: &Snapshot) {
        let Target::Service(index) = backend.target else { return };
        let Some(service) = of.service(index) else { return };
        let next = self.made.len() as u32;
        let number = *self.numbers.entry(service.id.clone()).or_insert_with(|| {
            self.made.push(ServicePort::clone(self.newest.get(&service.id).unwrap_or(&service)));
            ServiceIndex(next)
        });
        backend.target = Target::Service(number);
    }
}
