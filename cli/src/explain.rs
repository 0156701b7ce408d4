//! `blixtctl explain`: which way a packet goes, or why it does not.

use std::time::Duration;

use blixt_api::Word;
use blixt_api::explain::{Asked, of_tables};
use blixt_api::v1alpha1::{
    Affinity, BackendChoice, Drop, EndpointChoice, ExplainRequest, ExplainResponse, Fate, Flow,
    FlowState, ListenerRef, NextHop, Protocol, Side, SocketAddress,
};
use blixt_dataplane::DropReason;

use crate::amounts::duration;
use crate::lb;
use crate::offline::World;
use crate::table;

/// The question to an agent.
pub(crate) fn request(asked: Asked) -> ExplainRequest {
    let protocol: Protocol = asked.protocol.into();
    ExplainRequest {
        protocol: protocol.into(),
        source: Some(asked.source.into()),
        destination: Some(asked.destination.into()),
    }
}

/// What manifests say of it, as far as that goes without an agent.
pub(crate) fn offline(asked: Asked, world: &World, has_snat: bool) -> ExplainResponse {
    let turned_round = asked.is_ours(&world.tables);
    let asked = if turned_round { asked.turned_round() } else { asked };
    let (mut told, decision) = of_tables(&asked, &world.snapshot, &world.tables);
    told.turned_round = turned_round;
    // Who gives no SNAT address does not ask about them.
    let is_known = |reason: &DropReason| has_snat || *reason != DropReason::NoSnatAddress;
    told.opening = Some(Fate {
        destination: told.endpoint.as_ref().and_then(|endpoint| endpoint.address.clone()),
        drop: decision.refused.filter(is_known).map(Into::into),
        ..Fate::default()
    });
    told
}

/// Why the packet is not delivered, if it is not: by its flow, or, if it has
/// none, when it asks for one.
pub(crate) fn refusal(told: &ExplainResponse) -> Option<&Drop> {
    let fate = match (&told.flow, &told.other) {
        (Some(_), Some(other)) => Some(other),
        _ => told.opening.as_ref(),
    };
    fate?.drop.as_ref()
}

/// Draws the answer.
pub(crate) fn draw(told: &ExplainResponse, width: Option<u16>) -> String {
    let mut rows = vec![("Packet", packet(told))];
    if told.side() == Side::ToVip {
        rows.push(("Listener", listener(told)));
    }
    if let Some(flow) = &told.flow {
        rows.push(("Flow", flow_told(flow)));
    }
    // What a new flow would get says nothing of one that goes on.
    let goes_on = told.opening == told.other;
    let is_udp_flow = told.flow.is_some() && told.protocol() == Protocol::Udp;
    if told.flow.is_none() || !goes_on && !is_udp_flow {
        if let Some(backend) = &told.backend {
            rows.push(("Backend", backend_told(backend)));
        }
        if let Some(endpoint) = &told.endpoint {
            rows.push(("Endpoint", endpoint_told(endpoint)));
        }
    }
    let (opening, other) = (told.opening.as_ref(), told.other.as_ref());
    if told.stream {
        rows.push(("Then", stream_told(told)));
        return draw_rows(rows, width);
    }
    let is_tcp = told.protocol() == Protocol::Tcp;
    match &told.flow {
        Some(_) => {
            rows.extend(other.or(opening).map(|usual| ("Then", fate(usual))));
            rows.extend(opening.filter(|_| is_tcp && !goes_on).map(|syn| ("A SYN", fate(syn))));
        }
        None => {
            rows.extend(opening.map(|syn| (if is_tcp { "A SYN" } else { "Then" }, fate(syn))));
            rows.extend(other.filter(|_| !goes_on).map(|other| ("Not a SYN", fate(other))));
        }
    }
    for refusal in &told.refusing_workers {
        let why = refusal.drop.as_ref().map(dropped).unwrap_or_default();
        rows.push(("But", format!("on a queue of worker {}: {why}", refusal.worker)));
    }
    draw_rows(rows, width)
}

fn draw_rows(rows: Vec<(&str, String)>, width: Option<u16>) -> String {
    let rows: Vec<_> = rows.into_iter().map(|(name, said)| vec![name.to_owned(), said]).collect();
    table::draw_list(&rows, width)
}

/// What becomes of a connection that ends on the node.
fn stream_told(told: &ExplainResponse) -> String {
    let ends = "ends on the node's own TCP stack";
    if let Some(drop) = refusal(told) {
        return format!("{ends}, and is RESET, {}", why(drop));
    }
    match (&told.endpoint, told.by_name) {
        (Some(to), false) => format!("{ends}; its bytes go to {}", at(&to.address)),
        (Some(to), true) => format!(
            "{ends}; its bytes go to {}, if it asks for a name that is served",
            at(&to.address)
        ),
        (None, _) => {
            format!("{ends}; the name that it asks for decides who gets it: `blixtctl lb` has all")
        }
    }
}

fn packet(told: &ExplainResponse) -> String {
    let protocol = told.protocol().word().to_ascii_uppercase();
    let (source, destination) = (at(&told.source), at(&told.destination));
    let side = match told.side() {
        Side::ToVip => "from a client to a Gateway's address",
        Side::ToSnat => "from an endpoint to a SNAT address",
        Side::NotOurs => "to none of our addresses",
        Side::Unspecified => "to somebody",
    };
    let turned = match told.turned_round {
        true => "\nIt is the answer to the packet you asked about, which we sent ourselves.",
        false => "",
    };
    format!("{protocol} {source} -> {destination}, {side}{turned}")
}

fn listener(told: &ExplainResponse) -> String {
    let Some(listener) = &told.listener else {
        return if told.stream { "one of several" } else { "none" }.to_owned();
    };
    let route = match &told.route {
        Some(route) => format!("{} {}", route.kind, lb::name(&route.name)),
        None if told.stream && refusal(told).is_none() => "one of its routes".to_owned(),
        None => "no route".to_owned(),
    };
    format!("{}, {route}", listener_name(listener))
}

/// `NAMESPACE/GATEWAY/LISTENER`.
pub(crate) fn listener_name(listener: &ListenerRef) -> String {
    format!("{}/{}", lb::name(&listener.gateway), listener.name)
}

fn flow_told(flow: &Flow) -> String {
    let idle = duration(Duration::from_millis(flow.idle_ms));
    let left = duration(Duration::from_millis(flow.forgotten_in_ms));
    let state = match flow.state() {
        FlowState::Resting => "over, its SNAT port rests".to_owned(),
        FlowState::Udp => "known".to_owned(),
        state => state.word().replace('_', " "),
    };
    let replaced =
        if flow.replaced { "\nIts client has begun another from the same port." } else { "" };
    format!(
        "{state}, on worker {}, without a packet for {idle}, forgotten in {left}\n\
         {} -> {} is {} -> {}{replaced}",
        flow.worker,
        at(&flow.client),
        at(&flow.vip),
        at(&flow.snat),
        at(&flow.endpoint),
    )
}

fn backend_told(backend: &BackendChoice) -> String {
    let what = match (&backend.service, &backend.reject_reason) {
        (Some(service), _) => format!("{}:{}", lb::name(&service.name), service.port),
        (None, Some(reason)) => format!("refused: {reason}"),
        (None, None) => "refused".to_owned(),
    };
    let affinity = match backend.affinity() {
        Affinity::ClientIp => ", by client IP",
        Affinity::None | Affinity::Unspecified => "",
    };
    let slot = slot(backend.slot, backend.of);
    format!("{what}, backendRef {} of weight {}{affinity}{slot}", backend.place, backend.weight)
}

fn endpoint_told(endpoint: &EndpointChoice) -> String {
    format!("{}{}", at(&endpoint.address), slot(endpoint.slot, endpoint.of))
}

/// Where nothing was chosen there is no slot to tell of.
fn slot(slot: u32, of: u32) -> String {
    match of {
        0 | 1 => ", the only one".to_owned(),
        of => format!(", by slot {slot} of {of}"),
    }
}

fn fate(fate: &Fate) -> String {
    let mut lines = Vec::new();
    if let (Some(_), Some(_)) = (&fate.source, &fate.destination) {
        lines.push(format!("becomes {} -> {}", at(&fate.source), at(&fate.destination)));
    } else if let Some(destination) = &fate.destination {
        lines.push(format!("goes to {}", at(&Some(destination.clone()))));
    }
    lines.extend(fate.next_hop.as_ref().map(hop));
    lines.extend(fate.drop.as_ref().map(dropped));
    lines.join("\n")
}

fn hop(hop: &NextHop) -> String {
    let NextHop { interface, address, mac, mtu_bytes, by_host } = hop;
    if *by_host {
        return format!(
            "takes the host path: through {interface} into the node's kernel, whose routes lead to {address}, MTU {mtu_bytes}"
        );
    }
    match mac {
        Some(mac) => format!("leaves through {interface} to {address} ({mac}), MTU {mtu_bytes}"),
        None => format!(
            "waits for {address} on {interface}, whose MAC address is not known (yet), MTU {mtu_bytes}"
        ),
    }
}

fn dropped(drop: &Drop) -> String {
    format!("is DROPPED, {}", why(drop))
}

fn why(drop: &Drop) -> String {
    format!("{}: {}\n-> {}", drop.reason, drop.meaning, drop.advice)
}

/// `192.0.2.1:80` and `[2001:db8::1]:80`.
pub(crate) fn at(address: &Option<SocketAddress>) -> String {
    address.as_ref().map_or_else(|| "?".to_owned(), |at| lb::socket(&at.address, at.port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn drawn(told: &ExplainResponse) -> String {
        let drawing = draw(told, Some(80));
        assert!(table::width_of(&drawing) <= 80, "{drawing}");
        drawing
    }

    #[test]
    fn a_new_flow_is_told_with_all_that_chooses_for_it() {
        fixture::assert_golden("explain.txt", &drawn(&fixture::explained_new()));
    }

    #[test]
    fn a_flow_that_goes_on_is_told_by_what_it_is() {
        fixture::assert_golden("explain-flow.txt", &drawn(&fixture::explained_flow()));
        assert_eq!(refusal(&fixture::explained_flow()), None);
    }

    #[test]
    fn a_drop_is_told_with_what_to_do() {
        let told = fixture::explained_dropped();
        fixture::assert_golden("explain-dropped.txt", &drawn(&told));
        assert_eq!(refusal(&told).unwrap().reason, "bad_backend");
    }

    #[test]
    fn a_connection_that_ends_on_the_node_is_told_by_who_gets_its_bytes() {
        let told = fixture::explained_stream();
        fixture::assert_golden("explain-stream.txt", &drawn(&told));
        let on_a_line = |told: &ExplainResponse| draw(told, None);
        let named = ExplainResponse { by_name: true, ..told };
        let drawing = on_a_line(&named);
        assert!(drawing.contains("if it asks for a name that is served"), "{drawing}");
        let several = ExplainResponse { route: None, backend: None, endpoint: None, ..named };
        let drawing = on_a_line(&several);
        assert!(drawing.contains("default/edge/web, one of its routes"), "{drawing}");
        assert!(drawing.contains("decides who gets it"), "{drawing}");
        let refused = ExplainResponse { stream: true, ..fixture::explained_dropped() };
        let drawing = on_a_line(&refused);
        assert!(drawing.contains("is RESET, bad_backend"), "{drawing}");
        assert!(refusal(&refused).is_some() && refusal(&several).is_none());
    }

    #[test]
    fn what_we_send_is_told_by_what_answers_it() {
        let told = ExplainResponse { turned_round: true, ..fixture::explained_flow() };
        assert!(drawn(&told).contains("which we sent ourselves"), "{}", drawn(&told));
    }
}
