//! What is done on each port, out of a snapshot and certificates.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use blixt_model::{
    Certificate, CertificateId, ListenerId, ObjectName, Snapshot, Stream, StreamKind,
    StreamListener, StreamTls,
};
use blixt_streams::{Hostname, Listener, Port, Route, RoutePlace, Tls, server_config};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Certificates by their names, in memory alone.
pub type Certificates = Arc<BTreeMap<CertificateId, Arc<Certificate>>>;

/// Makes ports, and remembers what ends TLS: sessions go on with it, and it
/// takes a while to make.
#[derive(Debug, Default)]
pub(super) struct Ports {
    made: BTreeMap<Vec<CertificateId>, Arc<ServerConfig>>,
    /// What each listener ended TLS with last, while its newest certificates
    /// can't be used.
    last: BTreeMap<ListenerId, Arc<ServerConfig>>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) ports: BTreeMap<SocketAddr, Arc<Port>>,
    /// Whose each port is.
    pub(super) owners: BTreeMap<SocketAddr, ObjectName>,
    /// What Gateways lack.
    pub(super) troubles: BTreeMap<ObjectName, String>,
}

impl Ports {
    /// Of everything that is wanted.
    pub(super) fn make(&mut self, snapshot: &Snapshot, certificates: &Certificates) -> Made {
        let before = std::mem::take(self);
        let mut made = Made::default();
        for gateway in snapshot.gateways() {
            for stream in &gateway.streams {
                let port = self.port(&gateway.name, stream, &before, certificates, &mut made);
                let port = Arc::new(port);
                for &address in &gateway.addresses {
                    let at = SocketAddr::new(address, stream.port.number());
                    made.ports.insert(at, Arc::clone(&port));
                    made.owners.insert(at, gateway.name.clone());
                }
            }
        }
        made
    }

    fn port(
        &mut self,
        gateway: &ObjectName,
        stream: &Stream,
        before: &Self,
        certificates: &Certificates,
        made: &mut Made,
    ) -> Port {
        // As tables count them: through all listeners.
        let mut places = (0..).map(RoutePlace);
        if stream.kind == StreamKind::Plain && !stream.asks_for_name() {
            let mut listeners = stream.listeners.iter();
            let has_route = listeners.any(|listener| !listener.routes.is_empty());
            return Port::Plain(places.next().filter(|_| has_route));
        }
        let listeners = stream.listeners.iter().map(|listener| Listener {
            hostname: listener.hostname.as_ref().map(hostname),
            tls: match self.tls(gateway, listener, before, certificates) {
                Ok(tls) => tls,
                Err((tls, why)) => {
                    made.troubles.entry(gateway.clone()).or_insert(why);
                    tls
                }
            },
            routes: listener
                .routes
                .iter()
                .zip(&mut places)
                .map(|(route, place)| Route {
                    hostnames: route.hostnames.iter().map(hostname).collect(),
                    place,
                })
                .collect(),
        });
        let listeners = listeners.collect();
        match stream.kind {
            StreamKind::Plain => Port::Http(listeners),
            StreamKind::Tls => Port::Tls(listeners),
        }
    }

    /// `Err` has what is done all the same.
    fn tls(
        &mut self,
        gateway: &ObjectName,
        listener: &StreamListener,
        before: &Self,
        certificates: &Certificates,
    ) -> Result<Tls, (Tls, String)> {
        let StreamTls::Terminate { certificates: wanted } = &listener.tls else {
            return Ok(Tls::Passthrough);
        };
        let id = ListenerId { gateway: gateway.clone(), listener: listener.name.clone() };
        let known = self.made.get(wanted).or_else(|| before.made.get(wanted)).cloned();
        let config = match known.map_or_else(|| config(wanted, certificates), Ok) {
            Ok(config) => config,
            Err(why) => {
                let last = before.last.get(&id).cloned();
                self.last.extend(last.clone().map(|last| (id.clone(), last)));
                return Err((Tls::Terminate(last), format!("listener {}: {why}", id.listener)));
            }
        };
        self.made.insert(wanted.clone(), Arc::clone(&config));
        self.last.insert(id, Arc::clone(&config));
        Ok(Tls::Terminate(Some(config)))
    }
}

fn hostname(hostname: &blixt_model::Hostname) -> Hostname {
    Hostname::new(&hostname.to_string())
}

fn config(
    wanted: &[CertificateId],
    certificates: &Certificates,
) -> Result<Arc<ServerConfig>, String> {
    let chains = wanted.iter().map(|id| {
        let certificate = certificates.get(id).ok_or_else(|| {
            format!(
                "the certificate of Secret {} has not come here yet; it does from a controller \
                 that this node reaches",
                id.secret
            )
        })?;
        let chain = certificate.chain.iter().cloned().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::try_from(certificate.key.0.clone())
            .map_err(|why| format!("the key in Secret {} can't be used: {why}", id.secret))?;
        Ok((chain, key))
    });
    let chains = chains.collect::<Result<Vec<_>, String>>()?;
    server_config(chains).map_err(|why| {
        let secrets = wanted.iter().map(|id| id.secret.to_string()).collect::<Vec<_>>();
        format!("of its Secrets ({}), {why}", secrets.join(", "))
    })
}
