//! `blixtctl lb`: listeners, their backendRefs, and the endpoints of these.

use std::net::{IpAddr, SocketAddr};

use blixt_api::Word;
use blixt_api::v1alpha1::{
    Affinity, Backend, Endpoint, EndpointState, GetLoadBalancingResponse, Listener, ObjectName,
    StreamKind, Traffic,
};

use crate::amounts::{Precision, amount, percent};
use crate::table::{self, Column, number, text};

/// Draws the answer. Where it does not fit the terminal, numbers are rounded
/// first, then packets left out, then bytes; then names wrap.
pub(crate) fn draw(balancing: &GetLoadBalancingResponse, width: Option<u16>) -> String {
    if balancing.listeners.is_empty() {
        return "No listener takes traffic; `blixtctl status` says what became of each Gateway.\n"
            .to_owned();
    }
    let (exact, rounded) = (Precision::Exact, Precision::Rounded);
    let details = [
        Detail { precision: exact, packets: true, bytes: true },
        Detail { precision: rounded, packets: true, bytes: true },
        Detail { precision: rounded, packets: false, bytes: true },
    ];
    for detail in details {
        let drawing = draw_with(balancing, detail, None);
        if width.is_none_or(|width| table::width_of(&drawing) <= width.into()) {
            return drawing;
        }
    }
    draw_with(balancing, Detail { precision: rounded, packets: false, bytes: false }, width)
}

/// How much is told of each row.
#[derive(Clone, Copy)]
struct Detail {
    precision: Precision,
    packets: bool,
    bytes: bool,
}

fn draw_with(balancing: &GetLoadBalancingResponse, detail: Detail, width: Option<u16>) -> String {
    let mut rows = Vec::new();
    for (place, listener) in balancing.listeners.iter().enumerate() {
        if place > 0 {
            rows.push(vec![String::new()]);
        }
        rows.push(row(
            listener_cell(listener),
            [String::new(), String::new()],
            &listener.traffic,
            detail,
        ));
        for backend in &listener.backends {
            let share = [backend.weight.to_string(), percent(backend.share)];
            rows.push(row(backend_cell(backend), share, &backend.traffic, detail));
            for endpoint in &backend.endpoints {
                let share = [String::new(), String::new()];
                rows.push(row(endpoint_cell(endpoint), share, &endpoint.traffic, detail));
            }
        }
    }
    table::draw(&columns(detail), &rows, width)
}

fn columns(detail: Detail) -> Vec<Column> {
    let mut columns = vec![
        text("LISTENER\n  -> BACKEND\n     -> ENDPOINT"),
        number("WEIGHT"),
        number("SHARE"),
        number("FLOWS"),
        number("ACTIVE"),
        number("REFUSED"),
    ];
    if detail.packets {
        columns.extend([number("PACKETS\nIN"), number("PACKETS\nOUT")]);
    }
    if detail.bytes {
        columns.extend([number("BYTES\nIN"), number("BYTES\nOUT")]);
    }
    columns
}

fn row(name: String, share: [String; 2], traffic: &Option<Traffic>, detail: Detail) -> Vec<String> {
    let traffic = traffic.unwrap_or_default();
    let amount = |value| amount(value, detail.precision);
    let mut row = vec![name];
    row.extend(share);
    row.extend([traffic.flows, traffic.active_flows, traffic.refused_flows].map(amount));
    if detail.packets {
        row.extend([traffic.packets_in, traffic.packets_out].map(amount));
    }
    if detail.bytes {
        row.extend([traffic.bytes_in, traffic.bytes_out].map(amount));
    }
    row
}

pub(crate) fn listener_cell(listener: &Listener) -> String {
    let protocol = listener.protocol().word().to_ascii_uppercase();
    let route = match &listener.route {
        Some(route) => format!("{} {}", route.kind, name(&route.name)),
        None => "no route, all is refused".to_owned(),
    };
    let mut lines: Vec<_> = listener
        .addresses
        .iter()
        .map(|address| format!("{protocol} {}", socket(address, listener.port)))
        .collect();
    lines.push(format!("{}/{}, {route}", name(&listener.gateway), listener.name));
    lines.extend(stream(listener));
    lines.join("\n")
}

/// What becomes of its connections, if they end on the node.
fn stream(listener: &Listener) -> Option<String> {
    listener.stream?;
    let what = match listener.stream() {
        StreamKind::TlsPassthrough => "TLS is passed through",
        StreamKind::TlsTerminate => "TLS ends on the node",
        StreamKind::Bytes | StreamKind::Unspecified => "ends on the node",
    };
    Some(match listener.hostnames.as_slice() {
        [] => what.to_owned(),
        names => format!("{what}, for {}", names.join(", ")),
    })
}

pub(crate) fn backend_cell(backend: &Backend) -> String {
    let affinity = match backend.affinity() {
        Affinity::ClientIp => " (by client IP)",
        Affinity::None | Affinity::Unspecified => "",
    };
    backend_name(backend) + affinity
}

pub(crate) fn backend_name(backend: &Backend) -> String {
    match (&backend.service, &backend.reject_reason) {
        (Some(service), _) => format!("  -> {}:{}", name(&service.name), service.port),
        (None, Some(reason)) => format!("  -> refused: {reason}"),
        (None, None) => "  -> refused".to_owned(),
    }
}

pub(crate) fn endpoint_cell(endpoint: &Endpoint) -> String {
    let state = match endpoint.state() {
        EndpointState::Ready => String::new(),
        other => format!(" ({})", other.word()),
    };
    format!("     -> {}{state}", socket(&endpoint.address, endpoint.port))
}

pub(crate) fn name(name: &Option<ObjectName>) -> String {
    name.as_ref().map(|name| format!("{}/{}", name.namespace, name.name)).unwrap_or_default()
}

/// `192.0.2.1:80` and `[2001:db8::1]:80`.
pub(crate) fn socket(address: &str, port: u32) -> String {
    match (address.parse::<IpAddr>(), u16::try_from(port)) {
        (Ok(address), Ok(port)) => SocketAddr::new(address, port).to_string(),
        // From an agent that knows more kinds of address than we do.
        _ => format!("{address}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_wide_table_tells_everything() {
        fixture::assert_golden("lb.txt", &draw(&fixture::load_balancing(), None));
    }

    #[test]
    fn a_narrow_table_leaves_columns_out() {
        let drawing = draw(&fixture::load_balancing(), Some(80));
        assert!(table::width_of(&drawing) <= 80, "{drawing}");
        fixture::assert_golden("lb-80.txt", &drawing);
    }

    #[test]
    fn a_medium_table_only_rounds() {
        let exact = draw(&fixture::load_balancing(), None);
        let width = u16::try_from(table::width_of(&exact) - 1).unwrap();
        let drawing = draw(&fixture::load_balancing(), Some(width));
        assert!(drawing.contains("PACKETS") && drawing.contains("1.25G"), "{drawing}");
    }

    #[test]
    fn no_name_is_broken_however_narrow() {
        let drawing = draw(&fixture::load_balancing(), Some(40));
        assert!(drawing.contains("-> [2001:db8:1::53]:5353"), "{drawing}");
        assert!(drawing.contains("-> default/web-green:80"), "{drawing}");
    }

    #[test]
    fn no_listener_is_a_sentence() {
        let drawing = draw(&GetLoadBalancingResponse::default(), None);
        assert!(drawing.starts_with("No listener takes traffic"), "{drawing}");
    }
}
