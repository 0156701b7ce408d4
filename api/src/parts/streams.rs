//! Streams and their certificates, for the wire and off it.

use std::fmt;

use blixt_model as model;

use super::{
    Numbers, backend_out, backends_in, listener_name_in, name_in, name_out, port_in, route_in,
    route_out, wire,
};

pub(super) fn out(stream: &model::Stream, snapshot: &model::Snapshot) -> wire::Stream {
    let kind = match stream.kind {
        model::StreamKind::Plain => wire::StreamKind::Plain,
        model::StreamKind::Tls => wire::StreamKind::Tls,
    };
    wire::Stream {
        port: stream.port.number().into(),
        kind: kind.into(),
        listeners: stream
            .listeners
            .iter()
            .map(|listener| listener_out(listener, snapshot))
            .collect(),
    }
}

pub(super) fn taken_in(stream: wire::Stream, numbers: &Numbers) -> Result<model::Stream, String> {
    let kind = match wire::StreamKind::try_from(stream.kind) {
        Ok(wire::StreamKind::Plain) => model::StreamKind::Plain,
        Ok(wire::StreamKind::Tls) => model::StreamKind::Tls,
        Ok(wire::StreamKind::Unspecified) | Err(_) => {
            return Err(format!("kind {} is unknown", stream.kind));
        }
    };
    let listeners = stream.listeners.into_iter().map(|listener| {
        let name = listener.name.clone();
        listener_in(listener, numbers).map_err(|what| format!("listener {name:?}: {what}"))
    });
    Ok(model::Stream {
        port: port_in(stream.port)?,
        kind,
        listeners: listeners.collect::<Result<_, _>>()?,
    })
}

fn listener_out(
    listener: &model::StreamListener,
    snapshot: &model::Snapshot,
) -> wire::StreamListener {
    let (tls, certificates) = match &listener.tls {
        model::StreamTls::None => (wire::StreamTls::None, vec![]),
        model::StreamTls::Passthrough => (wire::StreamTls::Passthrough, vec![]),
        model::StreamTls::Terminate { certificates } => {
            (wire::StreamTls::Terminate, certificates.iter().map(id_out).collect())
        }
    };
    wire::StreamListener {
        name: listener.name.as_str().to_owned(),
        set: listener.name.set().map(name_out),
        hostname: listener.hostname.as_ref().map(ToString::to_string).unwrap_or_default(),
        tls: tls.into(),
        certificates,
        routes: listener.routes.iter().map(|route| stream_route_out(route, snapshot)).collect(),
    }
}

fn listener_in(
    listener: wire::StreamListener,
    numbers: &Numbers,
) -> Result<model::StreamListener, String> {
    let certificates = listener.certificates.into_iter().map(|id| id_in(Some(id)));
    let tls = match wire::StreamTls::try_from(listener.tls) {
        Ok(wire::StreamTls::None) => model::StreamTls::None,
        Ok(wire::StreamTls::Passthrough) => model::StreamTls::Passthrough,
        Ok(wire::StreamTls::Terminate) => {
            model::StreamTls::Terminate { certificates: certificates.collect::<Result<_, _>>()? }
        }
        Ok(wire::StreamTls::Unspecified) | Err(_) => {
            return Err(format!("TLS mode {} is unknown", listener.tls));
        }
    };
    let hostname = Some(listener.hostname).filter(|hostname| !hostname.is_empty());
    let routes = (0..).zip(listener.routes).map(|(place, route): (usize, _)| {
        stream_route_in(route, numbers).map_err(|what| format!("route {place}: {what}"))
    });
    Ok(model::StreamListener {
        name: listener_name_in(listener.name, listener.set)?,
        hostname: hostname.as_deref().map(hostname_in).transpose()?,
        tls,
        routes: routes.collect::<Result<_, _>>()?,
    })
}

fn hostname_in(text: &str) -> Result<model::Hostname, String> {
    text.parse().map_err(|error: model::HostnameError| error.to_string())
}

fn stream_route_out(route: &model::StreamRoute, snapshot: &model::Snapshot) -> wire::StreamRoute {
    wire::StreamRoute {
        route: Some(route_out(&route.route)),
        hostnames: route.hostnames.iter().map(ToString::to_string).collect(),
        backends: route.backends.iter().map(|backend| backend_out(backend, snapshot)).collect(),
    }
}

fn stream_route_in(
    route: wire::StreamRoute,
    numbers: &Numbers,
) -> Result<model::StreamRoute, String> {
    let hostnames = route.hostnames.iter().map(|hostname| hostname_in(hostname));
    Ok(model::StreamRoute {
        route: route_in(route.route.ok_or("has no name")?)?,
        hostnames: hostnames.collect::<Result<_, _>>()?,
        backends: backends_in(route.backends, numbers)?,
    })
}

fn id_out(id: &model::CertificateId) -> wire::CertificateId {
    wire::CertificateId { secret: Some(name_out(&id.secret)), sha256: id.sha256.to_vec() }
}

fn id_in(id: Option<wire::CertificateId>) -> Result<model::CertificateId, String> {
    let id = id.ok_or("a certificate has no identity")?;
    let sha256 = id.sha256.as_slice().try_into().map_err(|_| {
        format!("a certificate's digest has 32 bytes, and this one has {}", id.sha256.len())
    })?;
    Ok(model::CertificateId { secret: name_in(id.secret)?, sha256 })
}

impl fmt::Debug for wire::Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Certificates for the wire, in the order that they are given in.
pub fn certificates_out<'a>(
    certificates: impl IntoIterator<Item = &'a model::Certificate>,
) -> wire::Certificates {
    let certificates = certificates.into_iter().map(|certificate| wire::Certificate {
        id: Some(id_out(&certificate.id)),
        chain: certificate.chain.clone(),
        key: certificate.key.0.clone(),
    });
    wire::Certificates { certificates: certificates.collect() }
}

/// Certificates off the wire.
pub fn certificates_in(
    certificates: wire::Certificates,
) -> Result<Vec<model::Certificate>, String> {
    let certificates = certificates.certificates.into_iter().map(|certificate| {
        Ok(model::Certificate {
            id: id_in(certificate.id)?,
            chain: certificate.chain,
            key: model::PrivateKey(certificate.key),
        })
    });
    certificates.collect()
}
