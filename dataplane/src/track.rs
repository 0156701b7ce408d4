//! Finds the flow of each packet, follows its state, and says what the
//! packet's tuple becomes. A packet that belongs to no flow of this worker
//! goes to the one that has it; or it starts one, if it can.
//!
//! Packets are taken one after the other, so that each sees what the ones
//! before it did; only memory is asked for in advance, for all of them.

use crate::checksum;
use crate::counters::Counters;
use crate::drops::DropReason;
use crate::flows::{Direction, Flow, Flows, Found, Moment, Stage, for_slots};
use crate::packet::{Burst, FlowId, Kind, Packet, Tick};
use crate::pipeline::View;
use crate::select::{self, Started};
use crate::tables::{EndpointFate, Tables};
use crate::tcp::{self, TcpState};
use crate::timeouts::Millis;
use crate::wire;

/// Finds or starts the flow of every packet that is to be balanced. Sets
/// `meta.flow` and `meta.rewritten`, hands the packet off or refuses it.
pub(crate) fn burst(
    burst: &mut Burst<'_>,
    flows: &mut Flows,
    view: View<'_>,
    now: Tick,
    counters: &Counters,
) {
    for packet in burst.iter_mut().filter(|packet| packet.is_balanced()) {
        packet.meta.hash = flows.table.hash(&packet.meta.tuple);
        flows.table.prefetch_index(packet.meta.hash);
    }
    for packet in burst.iter().filter(|packet| packet.is_balanced()) {
        flows.table.prefetch_entry(packet.meta.hash);
    }
    flows.snat.refill();
    let moment = Moment { now: Millis::at(now), stats: view.stats, counters };
    for packet in burst.iter_mut().filter(|packet| packet.is_balanced()) {
        if let Err(reason) = track(packet, flows, view, moment) {
            packet.refuse(reason);
        }
    }
    flows.publish(counters);
}

fn track(
    packet: &mut Packet<'_>,
    flows: &mut Flows,
    view: View<'_>,
    moment: Moment<'_>,
) -> Result<(), DropReason> {
    if let Some((id, direction)) = flows.table.find(packet.meta.hash, &packet.meta.tuple) {
        let found = Found { id, direction };
        if goes_on(packet, found, flows, view.tables, moment)? {
            return follow(packet, found, flows, moment);
        }
    }
    miss(packet, flows, view, moment)
}

/// Finds out what a packet that belongs to no flow here is to others.
fn miss(
    packet: &mut Packet<'_>,
    flows: &mut Flows,
    view: View<'_>,
    moment: Moment<'_>,
) -> Result<(), DropReason> {
    let meta = &packet.meta;
    if let Some(owner) = flows.other_owner(meta.side, &meta.tuple, meta.hash) {
        packet.hand_off(owner);
        return Ok(());
    }
    match select::start(packet, flows, view, moment)? {
        Started::Here(id) => {
            let flow = flows.flow(id).ok_or(DropReason::FlowTableFull)?;
            forward(packet, id, Direction::ToEndpoint, flow, moment);
        }
        Started::Elsewhere(owner) => packet.hand_off(owner),
    }
    Ok(())
}

/// Whether the packet belongs to the flow it was found for: `false` says that
/// the flow has made way for another.
#[inline(always)]
fn goes_on(
    packet: &Packet<'_>,
    found: Found,
    flows: &mut Flows,
    tables: &Tables,
    moment: Moment<'_>,
) -> Result<bool, DropReason> {
    let Some(flow) = flows.flow(found.id) else { return Ok(false) };
    let opens = packet.meta.kind == Kind::Tcp && tcp::opens(packet.meta.tcp_flags);
    let asks_anew = opens && found.direction == Direction::ToEndpoint;
    match standing(flow, asks_anew, tables, moment.now) {
        Standing::GoesOn => Ok(true),
        Standing::Over => {
            flows.remove(found.id, moment);
            Ok(false)
        }
        Standing::MakesWay => make_way(packet, found.id, flows, moment),
        Standing::Replaced => Err(DropReason::NoFlow),
        Standing::Lost => lose(packet, found, asks_anew, flows, moment),
    }
}

/// What a flow is to a packet that has its tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The packet is one of its own.
    GoesOn,
    /// It has been idle for too long; the sweep has not come by yet.
    Over,
    /// It has ended, and the packet asks for another.
    MakesWay,
    /// It has ended, and its client is talking to another endpoint by now.
    Replaced,
    /// Its endpoint is gone; see [`lose`].
    Lost,
}

/// `asks_anew` says that the packet is a SYN from the client.
#[inline(always)]
pub(crate) fn standing(flow: &Flow, asks_anew: bool, tables: &Tables, now: Millis) -> Standing {
    if flow.is_over(now) {
        return Standing::Over;
    }
    match flow.stage() {
        Stage::Resting if asks_anew => Standing::MakesWay,
        Stage::Resting if flow.is_replaced() => Standing::Replaced,
        Stage::Resting | Stage::Free => Standing::GoesOn,
        Stage::Udp | Stage::Tcp(_) if tables.fate(flow.endpoint_slot) == EndpointFate::Gone => {
            Standing::Lost
        }
        Stage::Tcp(state) if asks_anew && state.is_done() => Standing::MakesWay,
        Stage::Udp | Stage::Tcp(_) => Standing::GoesOn,
    }
}

/// Lets a SYN have its tuple for a flow of its own, unless it only looks like
/// a SYN.
#[cold]
fn make_way(
    packet: &Packet<'_>,
    id: FlowId,
    flows: &mut Flows,
    moment: Moment<'_>,
) -> Result<bool, DropReason> {
    if !checksum::l4_is_right(packet) {
        return Err(DropReason::L4Checksum);
    }
    flows.replace(id, moment);
    Ok(false)
}

/// What becomes of a packet whose flow's endpoint is gone.
#[cold]
fn lose(
    packet: &Packet<'_>,
    found: Found,
    asks_anew: bool,
    flows: &mut Flows,
    moment: Moment<'_>,
) -> Result<bool, DropReason> {
    if found.direction == Direction::ToClient {
        // The sweep is about to tell the client.
        return Err(DropReason::EndpointGone);
    }
    if packet.meta.kind == Kind::Udp {
        flows.remove(found.id, moment);
        return Ok(false);
    }
    if asks_anew {
        return make_way(packet, found.id, flows, moment);
    }
    // The endpoint may be back before its own end of the connection is
    // forgotten, so the port rests.
    flows.replace(found.id, moment);
    if packet.meta.tcp_flags & tcp::RST == 0 {
        moment.counters.flows_reset.add(1);
    }
    Err(DropReason::EndpointGone)
}

/// Takes a packet into account that goes on with its flow.
#[inline(always)]
fn follow(
    packet: &mut Packet<'_>,
    found: Found,
    flows: &mut Flows,
    moment: Moment<'_>,
) -> Result<(), DropReason> {
    let Found { id, direction } = found;
    let flow = flows.table.flow_mut(id).ok_or(DropReason::NoFlow)?;
    let before = flow.stage();
    let after = match before {
        Stage::Tcp(state) => segment(packet, flow, state, direction),
        Stage::Udp => Some(Stage::Udp),
        // TIME_WAIT starts again with a FIN that was sent again (RFC 9293
        // §3.10.7.4). So it does with anything else but a RST: the one that
        // ended the flow may not have been believed by its receiver, or come
        // from a stranger, and who still talks keeps the way open (RFC 7857
        // §2.2).
        Stage::Resting | Stage::Free => {
            (packet.meta.tcp_flags & tcp::RST == 0).then_some(Stage::Resting)
        }
    };
    forward(packet, id, direction, flow, moment);
    match after {
        Some(Stage::Resting) if before.is_live() => flows.rest(id, moment),
        Some(stage) => flows.touch(id, stage, moment.now),
        None => {}
    }
    Ok(())
}

/// Says what the packet becomes, and counts it for the flow's slots. Those of
/// a flow that has ended may have other owners by now.
#[inline(always)]
fn forward(
    packet: &mut Packet<'_>,
    id: FlowId,
    direction: Direction,
    flow: &Flow,
    moment: Moment<'_>,
) {
    packet.meta.flow = Some(id);
    packet.meta.rewritten = flow.rewritten(direction);
    if !flow.stage().is_live() {
        return;
    }
    let bytes = packet.ip_bytes() as u64;
    for_slots(flow, moment.stats, |slot| {
        let (packets, total) = match direction {
            Direction::ToEndpoint => (&slot.packets_in, &slot.bytes_in),
            Direction::ToClient => (&slot.packets_out, &slot.bytes_out),
        };
        packets.add(1);
        total.add(bytes);
    });
}

/// What a segment makes of its flow; `None` for one that says nothing.
#[inline(always)]
fn segment(
    packet: &Packet<'_>,
    flow: &mut Flow,
    state: TcpState,
    direction: Direction,
) -> Option<Stage> {
    let flags = packet.meta.tcp_flags;
    let sequence = wire::u32_at(packet.frame(), packet.meta.l4 + 4);
    let acknowledged = wire::u32_at(packet.frame(), packet.meta.l4 + 8);
    if flags & tcp::RST != 0 && !is_credible(flow, state, direction, sequence, acknowledged, flags)
    {
        return None;
    }
    learn(flow, state, direction, sequence, acknowledged, flags);
    Some(state.after(direction, flags))
}

/// How far a RST may be ahead of what its receiver has acknowledged: more than
/// nearly any connection has under way, and little enough that a blind guess
/// fails 255 times in 256.
const RESET_WINDOW: u32 = 1 << 24;

/// Whether the receiver of a RST is likely to obey it (RFC 9293 §3.10.7.3 and
/// §3.10.7.4, RFC 5961 §3.2). One that is not is passed on all the same, for
/// the receiver to judge, but does not end the flow.
fn is_credible(
    flow: &Flow,
    state: TcpState,
    direction: Direction,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
) -> bool {
    let near = |number: u32, expected: u32| number.wrapping_sub(expected) <= RESET_WINDOW;
    match (direction, state) {
        (Direction::ToClient, TcpState::SynSent) => {
            flags & tcp::ACK != 0 && near(acknowledged, flow.endpoint_ack)
        }
        (Direction::ToClient, _) => near(sequence, flow.client_ack),
        (Direction::ToEndpoint, _) => near(sequence, flow.endpoint_ack),
    }
}

/// The largest window (RFC 7323 §2.3): no acknowledgement is farther ahead of
/// the one before.
const LARGEST_WINDOW: u32 = 1 << 30;

/// Remembers what each end waits for next.
#[inline(always)]
fn learn(
    flow: &mut Flow,
    state: TcpState,
    direction: Direction,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
) {
    let has = |flag: u8| flags & flag != 0;
    let known = match direction {
        Direction::ToEndpoint => &mut flow.client_ack,
        Direction::ToClient => &mut flow.endpoint_ack,
    };
    if state != TcpState::SynSent {
        if has(tcp::ACK) && acknowledged.wrapping_sub(*known) < LARGEST_WINDOW {
            *known = acknowledged;
        }
        return;
    }
    // Until both have said where they begin, only that counts.
    match direction {
        Direction::ToEndpoint if has(tcp::SYN) => flow.endpoint_ack = sequence.wrapping_add(1),
        Direction::ToClient if has(tcp::SYN) && has(tcp::ACK) => {
            flow.client_ack = sequence.wrapping_add(1);
        }
        Direction::ToEndpoint | Direction::ToClient => {}
    }
}
