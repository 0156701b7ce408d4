//! Refusals, snapshots and statuses as text: short enough to be read in a
//! review, and with everything in it that another program would act on.

use std::fmt::Write;

use blixt_gateway::status::{Condition, ListenerStatus};
use blixt_gateway::{Compiled, ParentRef, Refusal, Statuses, Warning};
use blixt_model::{
    Affinity, Backend, Endpoint, EndpointState, Snapshot, StreamKind, StreamListener, StreamTls,
    Target,
};

pub(crate) fn refusals(refusals: &[Refusal]) -> String {
    refusals.iter().fold(String::new(), |text, refusal| text + &format!("{refusal}\n"))
}

pub(crate) fn warnings(warnings: &[Warning]) -> String {
    warnings.iter().fold(String::new(), |text, warning| text + &format!("{warning}\n"))
}

pub(crate) fn snapshot(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for gateway in snapshot.gateways() {
        let addresses: Vec<_> = gateway.addresses.iter().map(ToString::to_string).collect();
        writeln!(text, "Gateway {} on {}", gateway.name, addresses.join(", ")).unwrap();
        for listener in &gateway.listeners {
            let route = match &listener.route {
                Some(route) => format!("<- {route}"),
                None => "refuses all".to_owned(),
            };
            let port = format!("{}/{}", listener.port, listener.protocol);
            writeln!(text, "  {} {port} {route}", listener.name).unwrap();
            for backend in &listener.backends {
                writeln!(text, "    {}", target(backend, snapshot)).unwrap();
            }
        }
        for stream in &gateway.streams {
            let by = match (stream.asks_for_name(), stream.kind) {
                (false, _) => "",
                (true, StreamKind::Plain) => " by host",
                (true, StreamKind::Tls) => " by SNI",
            };
            writeln!(text, "  port {}{by}", stream.port).unwrap();
            for listener in &stream.listeners {
                stream_listener(&mut text, listener, snapshot);
            }
        }
    }
    for service in snapshot.services() {
        let affinity = match service.affinity {
            Affinity::None => "",
            Affinity::ClientIp => ", ClientIP",
        };
        writeln!(text, "Service {}{affinity}", service.id).unwrap();
        for endpoint in &service.endpoints {
            writeln!(text, "  {}", place(endpoint)).unwrap();
        }
    }
    text
}

fn stream_listener(text: &mut String, listener: &StreamListener, snapshot: &Snapshot) {
    let hostname = listener.hostname.as_ref().map_or("all".to_owned(), ToString::to_string);
    let tls = match &listener.tls {
        StreamTls::None => String::new(),
        StreamTls::Passthrough => ", TLS passed on".to_owned(),
        StreamTls::Terminate { certificates } => {
            let all: Vec<_> = certificates.iter().map(|id| id.secret.to_string()).collect();
            format!(", TLS ended with {}", all.join(", "))
        }
    };
    writeln!(text, "    {} for {hostname}{tls}", listener.name).unwrap();
    for route in &listener.routes {
        let hostnames: Vec<_> = route.hostnames.iter().map(ToString::to_string).collect();
        let hostnames = if hostnames.is_empty() {
            String::new()
        } else {
            format!(" for {}", hostnames.join(", "))
        };
        writeln!(text, "      <- {}{hostnames}", route.route).unwrap();
        for backend in &route.backends {
            writeln!(text, "        {}", target(backend, snapshot)).unwrap();
        }
    }
}

fn target(backend: &Backend, snapshot: &Snapshot) -> String {
    let target = match backend.target {
        Target::Rejected(reason) => format!("nobody, {}", reason.as_str()),
        Target::Service(index) => snapshot.service(index).unwrap().id.to_string(),
    };
    format!("{} to {target}", backend.weight)
}

fn place(endpoint: &Endpoint) -> String {
    let state = match endpoint.state {
        EndpointState::Ready => "ready",
        EndpointState::Draining => "draining",
    };
    format!("{} port {} {state}", endpoint.address, endpoint.port)
}

pub(crate) fn statuses(compiled: &Compiled) -> String {
    let Statuses { classes, gateways, sets, routes, pools } = &compiled.status;
    let mut text = String::new();
    for (name, class) in classes {
        writeln!(text, "GatewayClass {name}").unwrap();
        conditions(&mut text, "  ", &class.conditions);
    }
    for (name, pool) in pools {
        writeln!(text, "AddressPool {name}, used: {}, free: {}", pool.used, pool.free).unwrap();
        conditions(&mut text, "  ", &pool.conditions);
    }
    for (name, gateway) in gateways {
        let addresses: Vec<_> = gateway.addresses.iter().map(ToString::to_string).collect();
        writeln!(text, "Gateway {name} [{}]", addresses.join(", ")).unwrap();
        conditions(&mut text, "  ", &gateway.conditions);
        if gateway.attached_sets > 0 {
            writeln!(text, "  ListenerSets: {}", gateway.attached_sets).unwrap();
        }
        listeners(&mut text, &gateway.listeners);
    }
    for (name, set) in sets {
        writeln!(text, "ListenerSet {name}").unwrap();
        conditions(&mut text, "  ", &set.conditions);
        listeners(&mut text, &set.listeners);
    }
    for (id, route) in routes {
        writeln!(text, "{id}").unwrap();
        for parent in &route.parents {
            writeln!(text, "  parent {}", parent_ref(&parent.parent_ref)).unwrap();
            conditions(&mut text, "    ", &parent.conditions);
        }
    }
    text
}

fn listeners(text: &mut String, listeners: &[ListenerStatus]) {
    for listener in listeners {
        let kinds: Vec<_> = listener.supported_kinds.iter().map(ToString::to_string).collect();
        let (name, attached) = (&listener.name, listener.attached_routes);
        writeln!(text, "  listener {name} [{}], routes: {attached}", kinds.join(", ")).unwrap();
        conditions(text, "    ", &listener.conditions);
    }
}

/// Only what is written in it.
fn parent_ref(parent: &ParentRef) -> String {
    let port = parent.port.map(|port| port.to_string());
    let fields = [
        ("group", &parent.group),
        ("kind", &parent.kind),
        ("namespace", &parent.namespace),
        ("name", &Some(parent.name.clone())),
        ("sectionName", &parent.section_name),
        ("port", &port),
    ];
    let written = fields.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    let texts: Vec<_> = written.map(|(name, value)| format!("{name}: {value}")).collect();
    format!("{{{}}}", texts.join(", "))
}

fn conditions(text: &mut String, indent: &str, conditions: &[Condition]) {
    for condition in conditions {
        let Condition { kind, status, reason, message, observed_generation } = condition;
        writeln!(
            text,
            "{indent}{kind}={status} {reason} (generation {observed_generation}): {message}"
        )
        .unwrap();
    }
}
