//! Finds the flow of each packet, follows its state, and says what the
//! packet's tuple becomes. A packet that belongs to no flow of this worker
//! goes to the one that has it; or it starts one, if it can.
//!
//! Packets are taken one after the other, so that each sees what the ones
//! before it did; only memory is asked for in advance, for all of them.

use crate::checksum;
use crate::classify;
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
/// `meta.rewritten`, hands the packet off or refuses it.
#[inline(never)]
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
    for packet in burst.iter_mut().filter(|packet| packet.is_balanced()) {
        packet.meta.likely = flows.table.prefetch_entry(packet.meta.hash);
    }
    flows.snat.refill();
    let moment = Moment { now: Millis::at(now), stats: view.stats, counters };
    for packet in burst.iter_mut().filter(|packet| packet.is_balanced()) {
        if carries_on(packet, flows, view.tables, &moment) {
            continue;
        }
        if let Err(reason) = track(packet, flows, &view, &moment) {
            packet.refuse(reason);
        }
    }
    flows.publish(counters);
}

/// Takes nearly every packet into account: one that only shows that its flow
/// is still alive. `false` for any other, with nothing done.
#[inline(always)]
fn carries_on(
    packet: &mut Packet<'_>,
    flows: &mut Flows,
    tables: &Tables,
    moment: &Moment<'_>,
) -> bool {
    let meta = &packet.meta;
    let Some((id, direction)) = flows.table.find_at(meta.likely, &meta.tuple) else {
        return false;
    };
    let Some(flow) = flows.flow(id) else { return false };
    let stage = flow.stage();
    if !stage.is_steady()
        || !tcp::carries_on(meta.tcp_flags)
        || flow.is_over(moment.now)
        || tables.fate(flow.endpoint_slot) != EndpointFate::Keeps
    {
        return false;
    }
    let expiry = flows.expiry(stage, moment.now);
    let Some(flow) = flows.table.flow_mut(id) else { return false };
    flow.expires = expiry.0;
    if meta.tcp_flags & tcp::ACK != 0 {
        acknowledge(flow, direction, meta.tcp_ack);
    }
    packet.meta.rewritten = flow.rewritten(direction);
    count(packet, direction, flow, moment);
    true
}

/// Takes any packet into account.
#[inline(never)]
fn track(
    packet: &mut Packet<'_>,
    flows: &mut Flows,
    view: &View<'_>,
    moment: &Moment<'_>,
) -> Result<(), DropReason> {
    if let Some((id, direction)) = flows.table.find(packet.meta.hash, &packet.meta.tuple) {
        let found = Found { id, direction };
        if goes_on(packet, found, flows, view.tables, *moment)? {
            return follow(packet, found, flows, *moment);
        }
    }
    miss(packet, flows, *view, *moment)
}

/// Finds out what a packet that belongs to no flow here is to others.
fn miss(
    packet: &mut Packet<'_>,
    flows: &mut Flows,
    view: View<'_>,
    moment: Moment<'_>,
) -> Result<(), DropReason> {
    let meta = &packet.meta;
    if !classify::is_possible_source(meta.tuple.src, view.tables) {
        return Err(DropReason::SourceAddress);
    }
    if let Some(owner) = flows.other_owner(meta.side, &meta.tuple, meta.hash) {
        packet.hand_off(owner);
        return Ok(());
    }
    match select::start(packet, flows, view, moment)? {
        Started::Here(id) => {
            let flow = flows.flow(id).ok_or(DropReason::FlowTableFull)?;
            forward(packet, Direction::ToEndpoint, flow, moment);
        }
        Started::Elsewhere(owner) => packet.hand_off(owner),
    }
    Ok(())
}

/// Whether the packet belongs to the flow it was found for: `false` says that
/// the flow has made way for another.
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
        Standing::GoesOn if is_of_another(packet, flow, found.direction) => Err(DropReason::NoFlow),
        Standing::GoesOn => Ok(true),
        Standing::Over => {
            flows.expire(found.id, moment);
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
        Stage::Udp(_) | Stage::Tcp(_) if tables.fate(flow.endpoint_slot) == EndpointFate::Gone => {
            Standing::Lost
        }
        // A SYN that comes upon a connection is for the endpoint to judge (RFC
        // 5961 §4): anybody may have sent it.
        Stage::Udp(_) | Stage::Tcp(_) => Standing::GoesOn,
    }
}

/// Whether a segment that comes upon a client's connection that has ended is of a later one
/// from the same port, which began where we do not see it: at another node, while that had
/// the VIP. What remembers the old one (TIME_WAIT) would answer with what the client does
/// not believe, and it would wait until it gives up by itself.
///
/// By what it acknowledges: a client begins its connections from one port not far from each
/// other (RFC 6528 §3).
#[inline(always)]
fn is_of_another(packet: &Packet<'_>, flow: &Flow, direction: Direction) -> bool {
    let ahead = packet.meta.tcp_ack.wrapping_sub(flow.client_ack);
    flow.stage() == Stage::Resting
        && direction == Direction::ToEndpoint
        && packet.meta.tcp_flags & tcp::ACK != 0
        && ahead.wrapping_add(UNDER_WAY) > 2 * UNDER_WAY
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
        Stage::Udp(state) => Says::Becomes(Stage::Udp(state.after(direction))),
        // TIME_WAIT starts again with a FIN that was sent again (RFC 9293
        // §3.10.7.4). So it does with anything else but a RST: the one that
        // ended the flow may not have been believed by its receiver, or come
        // from a stranger, and who still talks keeps the way open (RFC 7857
        // §2.2).
        Stage::Resting | Stage::Free if packet.meta.tcp_flags & tcp::RST == 0 => {
            if packet.meta.tcp_flags & tcp::ACK != 0 {
                acknowledge(flow, direction, packet.meta.tcp_ack);
            }
            Says::Becomes(Stage::Resting)
        }
        Stage::Resting | Stage::Free => Says::Nothing,
    };
    forward(packet, direction, flow, moment);
    match after {
        Says::Becomes(Stage::Resting) if before.is_live() => flows.rest(id, moment),
        Says::Becomes(stage) => {
            flows.touch(id, stage, moment.now);
            if before.is_half_open() && !stage.is_half_open() {
                flows.table.opened(id);
            }
        }
        Says::PerhapsTheEnd => flows.doubt(id, moment.now),
        Says::Nothing => {}
    }
    Ok(())
}

/// Says what the packet becomes, and counts it for the flow's slots. Those of
/// a flow that has ended may have other owners by now.
#[inline(always)]
fn forward(packet: &mut Packet<'_>, direction: Direction, flow: &Flow, moment: Moment<'_>) {
    packet.meta.rewritten = flow.rewritten(direction);
    if flow.stage().is_live() {
        count(packet, direction, flow, &moment);
    }
}

/// Counts a packet for the slots of its flow.
#[inline(always)]
fn count(packet: &Packet<'_>, direction: Direction, flow: &Flow, moment: &Moment<'_>) {
    let bytes = packet.meta.l3_bytes as u64;
    for_slots(flow, moment.stats, |slot| {
        let (packets, total) = match direction {
            Direction::ToEndpoint => (&slot.packets_in, &slot.bytes_in),
            Direction::ToClient => (&slot.packets_out, &slot.bytes_out),
        };
        packets.add(1);
        total.add(bytes);
    });
}

/// What a segment says about its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// That it is at this stage.
    Becomes(Stage),
    /// That it may have ended: the receiver may not believe it.
    PerhapsTheEnd,
    Nothing,
}

#[inline(always)]
fn segment(packet: &Packet<'_>, flow: &mut Flow, state: TcpState, direction: Direction) -> Says {
    let flags = packet.meta.tcp_flags;
    let sequence = wire::u32_at(packet.frame(), packet.meta.l4 + 4);
    let acknowledged = packet.meta.tcp_ack;
    let changes = flags & (tcp::FIN | tcp::RST) != 0 || state == TcpState::SynReceived;
    if changes && let Err(says) = judge(flow, state, direction, sequence, acknowledged, flags) {
        return says;
    }
    learn(flow, state, direction, sequence, acknowledged, flags);
    Says::Becomes(state.after(direction, flags))
}

/// How far a FIN or a RST may be ahead of what its receiver has acknowledged:
/// more than nearly any connection has under way, and little enough that a
/// blind guess fails 255 times in 256.
const UNDER_WAY: u32 = 1 << 24;

/// How far it may be behind: it ends a segment that was sent again, part of
/// which had arrived.
const SENT_AGAIN: u32 = 1 << 16;

/// How much an endpoint can have sent before the client's first
/// acknowledgement: ten segments at the start (RFC 6928 §2), jumbo frames even,
/// and that only where the SYN brought a cookie (RFC 7413). A blind guess
/// fails 32,767 times in 32,768.
const FIRST_FLIGHT: u32 = 1 << 17;

/// Whether a segment that would change a flow's state can be believed, that
/// is, whether its sender sees what the other end sends. One that cannot is
/// passed on all the same, for its receiver to judge.
#[cold]
fn judge(
    flow: &Flow,
    state: TcpState,
    direction: Direction,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
) -> Result<(), Says> {
    let (expected, last) = match direction {
        // What it acknowledges is what the client began with (RFC 9293
        // §3.10.7.3).
        Direction::ToClient if state == TcpState::SynSent => {
            let first = acknowledged.wrapping_sub(flow.endpoint_ack) <= FIRST_FLIGHT;
            return if first && flags & tcp::ACK != 0 { Ok(()) } else { Err(Says::Nothing) };
        }
        Direction::ToClient => (flow.client_ack, flow.endpoint_ack),
        Direction::ToEndpoint => (flow.endpoint_ack, flow.client_ack),
    };
    // Who acknowledges what he did before knows the connection as well as who
    // goes on where the other end has got to.
    let repeats = flags & tcp::ACK != 0 && acknowledged == last;
    let ahead = sequence.wrapping_sub(expected);
    if flags & tcp::RST != 0 {
        // Its receiver obeys the very number that it waits for (RFC 5961 §3.2),
        // which is the one acknowledged last, unless something is under way.
        // Then nobody here can tell: RFC 7857 §2.2 has such a flow end if it
        // stays silent.
        return match ahead {
            _ if repeats => Ok(()),
            0 => Ok(()),
            1..=UNDER_WAY => Err(Says::PerhapsTheEnd),
            _ => Err(Says::Nothing),
        };
    }
    let near = ahead.wrapping_add(SENT_AGAIN) <= UNDER_WAY + SENT_AGAIN;
    if flags & tcp::FIN != 0 && !near && !repeats {
        return Err(Says::Nothing);
    }
    // Who acknowledges the endpoint's SYN has seen it, so the client is there.
    let opens = state == TcpState::SynReceived && direction == Direction::ToEndpoint;
    if opens && acknowledged.wrapping_sub(flow.client_ack) > FIRST_FLIGHT {
        return Err(Says::Nothing);
    }
    Ok(())
}

/// The largest window (RFC 7323 §2.3): no acknowledgement is farther ahead of
/// the one before.
const LARGEST_WINDOW: u32 = 1 << 30;

/// Remembers what each end waits for next.
fn learn(
    flow: &mut Flow,
    state: TcpState,
    direction: Direction,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
) {
    let has = |flag: u8| flags & flag != 0;
    if state != TcpState::SynSent {
        if has(tcp::ACK) {
            acknowledge(flow, direction, acknowledged);
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

/// Remembers what an end has acknowledged, if it is news.
#[inline(always)]
fn acknowledge(flow: &mut Flow, direction: Direction, acknowledged: u32) {
    let known = match direction {
        Direction::ToEndpoint => &mut flow.client_ack,
        Direction::ToClient => &mut flow.endpoint_ack,
    };
    if acknowledged.wrapping_sub(*known) < LARGEST_WINDOW {
        *known = acknowledged;
    }
}
