//! Starts a flow: chooses its endpoint and its SNAT source, and remembers
//! both.
//!
//! Of several workers that try to start the same flow at once, one does.

use bytemuck::Zeroable;

use crate::address;
use crate::checksum;
use crate::drops::DropReason;
use crate::flows::{Flow, Flows, Moment, Stage};
use crate::packet::{FlowId, Kind, Packet, Side, Tuple, WorkerId};
use crate::pipeline::View;
use crate::snat::Steering;
use crate::tables::EndpointChoice;
use crate::tcp::{self, TcpState};
use crate::team::Membership;
use crate::udp::UdpState;
use crate::wire;

/// Where a flow is.
pub(crate) enum Started {
    /// It has begun here.
    Here(FlowId),
    /// Another worker has just begun it.
    Elsewhere(WorkerId),
}

/// Which way a flow takes to its endpoint.
struct Way<'a> {
    /// Where it may leave from.
    addresses: &'a [u128],
    /// Whether it goes through the node's kernel, and how many flows of this
    /// worker may.
    by_host: Option<usize>,
}

impl<'a> Way<'a> {
    /// Out of an attached interface where all routes lead there, and there is an
    /// address to leave from; else through the node's kernel, if it can be.
    fn to(endpoint: u128, view: View<'a>) -> Self {
        let v4 = address::is_v4(endpoint);
        let own = view.tables.snat_addresses(v4);
        let host = view.tables.host_addresses(v4);
        match view.fib.host_path() {
            Some(path) if !host.is_empty() && (own.is_empty() || view.fib.needs_host(endpoint)) => {
                Self { addresses: host, by_host: Some(path.flows_per_worker) }
            }
            _ => Self { addresses: own, by_host: None },
        }
    }

    /// How replies can be brought to this worker. Nobody knows how the kernel
    /// spreads those that it brings.
    fn steering(
        &self,
        endpoint: u128,
        protocol: u8,
        team: Option<&'a Membership>,
        view: View<'a>,
    ) -> Option<Steering<'a>> {
        let team = team.filter(|_| self.by_host.is_none())?;
        Steering::towards(endpoint, protocol, view.fib, team)
    }
}

/// Starts a flow with a packet that belongs to none, or says why that cannot
/// be.
pub(crate) fn start(
    packet: &Packet<'_>,
    flows: &mut Flows,
    view: View<'_>,
    moment: Moment<'_>,
) -> Result<Started, DropReason> {
    let stage = opening(packet).ok_or(DropReason::NoFlow)?;
    // What was damaged on its way may not even be meant for us.
    if !checksum::l4_is_right(packet) {
        return Err(DropReason::L4Checksum);
    }
    let choice = view.tables.choose(&packet.meta.tuple);
    let refused = |reason, slot: Option<u32>| {
        if let Some(counters) = slot.and_then(|slot| moment.stats.slot(slot)) {
            counters.refused.add(1);
        }
        reason
    };
    let (backend_slot, endpoint) = match (choice.backend_slot, choice.endpoint) {
        (Some(slot), Ok(endpoint)) => (slot, endpoint),
        (slot, endpoint) => {
            return Err(refused(endpoint.err().unwrap_or(DropReason::NoWeight), slot));
        }
    };
    admit(packet, stage, backend_slot, &endpoint, flows, view, moment).map_err(|reason| {
        refused(reason, Some(backend_slot));
        refused(reason, Some(endpoint.slot))
    })
}

/// What becomes of the flow that a packet was found to belong to, before that
/// packet starts another one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Before {
    /// This one is removed.
    pub(crate) removed: Option<FlowId>,
    /// This one has ended and rests, so that it is not half-open any more.
    pub(crate) rests: Option<FlowId>,
}

/// The packet that one with this tuple would become if it started a flow, after
/// what comes `before`; or why it could not. Changes nothing.
pub(crate) fn foresee(
    tuple: &Tuple,
    flows: &Flows,
    before: Before,
    view: View<'_>,
) -> Result<Tuple, DropReason> {
    let Before { removed, rests } = before;
    let choice = view.tables.choose(tuple);
    let endpoint = choice.endpoint?;
    if flows.table.is_full() && removed.is_none() && !flows.table.has_half_open_besides(rests) {
        return Err(DropReason::FlowTableFull);
    }
    let way = Way::to(endpoint.address, view);
    if let Some(most) = way.by_host {
        flows.room_by_host(most, before)?;
    }
    let steering = way.steering(endpoint.address, tuple.protocol, flows.team.as_ref(), view);
    let source = flows.snat.foresee(
        &flows.table,
        way.addresses,
        &endpoint,
        tuple.protocol,
        view.stats.slot(endpoint.slot),
        steering,
        before,
    )?;
    Ok(Tuple {
        src: source.address,
        dst: endpoint.address,
        src_port: source.port,
        dst_port: endpoint.port,
        protocol: tuple.protocol,
    })
}

/// What a flow that begins with this packet is.
fn opening(packet: &Packet<'_>) -> Option<Stage> {
    match (packet.meta.kind, packet.meta.side) {
        (Kind::Udp, Side::ToVip) => Some(Stage::Udp(UdpState::Asked)),
        (Kind::Tcp, Side::ToVip) if tcp::opens(packet.meta.tcp_flags) => {
            Some(Stage::Tcp(TcpState::SynSent))
        }
        _ => None,
    }
}

fn admit(
    packet: &Packet<'_>,
    stage: Stage,
    backend_slot: u32,
    endpoint: &EndpointChoice,
    flows: &mut Flows,
    view: View<'_>,
    moment: Moment<'_>,
) -> Result<Started, DropReason> {
    if flows.table.is_full() && !flows.table.has_half_open() {
        return Err(DropReason::FlowTableFull);
    }
    let tuple = &packet.meta.tuple;
    let way = Way::to(endpoint.address, view);
    let gives_way = match way.by_host {
        Some(most) => flows.room_by_host(most, Before::default())?,
        None => None,
    };
    let steering = way.steering(endpoint.address, tuple.protocol, flows.team.as_ref(), view);
    let source = flows.snat.find(
        &flows.table,
        way.addresses,
        endpoint,
        tuple.protocol,
        moment.stats.slot(endpoint.slot),
        steering,
    )?;
    // Nothing can go wrong any more.
    if let Err(owner) = flows.claim(packet.meta.hash) {
        return Ok(Started::Elsewhere(owner));
    }
    match (source.taken_by, gives_way) {
        // It goes that way too, if it has a source of that way.
        (Some(half_open), _) => flows.evict(half_open, moment),
        (None, Some(half_open)) => flows.give_way_by_host(half_open, moment),
        (None, None) if flows.table.is_full() => flows.make_room(moment),
        (None, None) => {}
    }
    let mut flow = Flow {
        client: tuple.src,
        vip: tuple.dst,
        endpoint: endpoint.address,
        snat: source.address,
        client_port: tuple.src_port,
        vip_port: tuple.dst_port,
        endpoint_port: endpoint.port,
        snat_port: source.port,
        protocol: tuple.protocol,
        endpoint_slot: endpoint.slot,
        backend_slot,
        by_host: way.by_host.is_some().into(),
        expires: flows.expiry(stage, moment.now).0,
        ..Flow::zeroed()
    };
    flow.set_stage(stage);
    if packet.meta.kind == Kind::Tcp {
        // A SYN takes one sequence number.
        let sequence = wire::u32_at(packet.frame(), packet.meta.l4 + 4);
        flow.endpoint_ack = sequence.wrapping_add(1);
    }
    flows
        .begin(&flow, [packet.meta.hash, source.hash], moment)
        .map(Started::Here)
        .ok_or(DropReason::FlowTableFull)
}
