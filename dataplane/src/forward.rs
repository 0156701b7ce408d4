//! Where each packet leaves: its next hop is found before it is rewritten, so
//! that an ICMP error can still quote it as it came, and its frame is
//! addressed afterwards.

use crate::counters::Counters;
use crate::drops::DropReason;
use crate::fib::{Fib, HopId, NextHop, Resolution, Ways};
use crate::hops::Hops;
use crate::packet::{Burst, Kind, Packet, Side, Tuple, Verdict};
use crate::parse::{ETHERNET_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::tables::{AddressRole, Tables};
use crate::wire;

/// Finds the next hop of each packet that goes on, and refuses what does not
/// fit or has none. A neighbour that is not known yet leaves the hop open.
#[inline(never)]
pub(crate) fn resolve(burst: &mut Burst<'_>, hops: &mut Hops, tables: &Tables, fib: &Fib) {
    hops.begin(fib);
    let host = fib.host_hop();
    for packet in burst {
        if !goes_on(packet) {
            continue;
        }
        let tuple = &packet.meta.rewritten;
        if tables.is_host_address(tuple.src) {
            through_the_kernel(packet, fib);
            continue;
        }
        let spread = if fib.spreads() { spread(tuple) } else { 0 };
        match hops.known(tuple.dst, spread, packet.meta.l3_bytes) {
            Some(hop) if hop != host || packet.meta.side == Side::ToSnat => packet.meta.hop = hop,
            _ => ask(packet, hops, fib, spread),
        }
    }
}

/// Asks the routes: for a destination that no packet had lately, or what is to
/// be told of a packet that is too big.
#[inline(never)]
fn ask(packet: &mut Packet<'_>, hops: &mut Hops, fib: &Fib, spread: u32) {
    let ways = match packet.meta.side {
        Side::ToVip => Ways::Out,
        Side::ToSnat => Ways::OutOrHost,
    };
    match hops.learn(fib, packet.meta.rewritten.dst, spread, ways) {
        Resolution::Hop(id) => take(packet, fib, id),
        Resolution::Unresolved { mtu, .. } => {
            packet.meta.hop = HopId::NONE;
            check_size(packet, mtu);
        }
        Resolution::Drop(reason) => packet.refuse(reason),
    }
}

/// Has a packet leave by a hop, if it fits.
fn take(packet: &mut Packet<'_>, fib: &Fib, id: HopId) {
    packet.meta.hop = id;
    if let Some(hop) = fib.hop(id) {
        check_size(packet, hop.mtu);
    }
}

/// The way of flows that the node's kernel carries: nothing is asked.
fn through_the_kernel(packet: &mut Packet<'_>, fib: &Fib) {
    match fib.host_hop() {
        HopId::NONE => packet.refuse(DropReason::NotAttached),
        hop => take(packet, fib, hop),
    }
}

/// The ways that are open to a packet with this tuple, which we send.
pub(crate) fn ways(tuple: &Tuple, tables: &Tables) -> Ways {
    match tables.role(tuple.src) {
        Some(AddressRole::Host) => Ways::Host,
        Some(AddressRole::Vip) => Ways::OutOrHost,
        Some(AddressRole::Snat) | None => Ways::Out,
    }
}

/// Addresses each frame to its next hop and decides that it is sent, or that
/// it waits for the hop to be known. Says how many wait.
#[inline(never)]
pub(crate) fn burst(burst: &mut Burst<'_>, fib: &Fib, counters: &Counters) -> u64 {
    let (mut waiting, mut errors, mut to_endpoints, mut to_clients) = (0, 0, 0, 0);
    for packet in burst {
        if !goes_on(packet) {
            continue;
        }
        let Some(hop) = fib.hop(packet.meta.hop) else {
            waiting += u64::from(hold(packet, fib));
            continue;
        };
        if !address_to(packet, hop) {
            packet.refuse(DropReason::NoFrame);
            continue;
        }
        match (packet.meta.kind, packet.meta.side) {
            (Kind::IcmpError, _) => errors += 1,
            (_, Side::ToVip) => to_endpoints += 1,
            (_, Side::ToSnat) => to_clients += 1,
        }
        packet.decide(Verdict::Transmit(hop.egress));
    }
    counters.icmp_errors.add(errors);
    counters.packets_to_endpoints.add(to_endpoints);
    counters.packets_to_clients.add(to_clients);
    waiting
}

#[inline(always)]
fn goes_on(packet: &Packet<'_>) -> bool {
    packet.is_balanced() || packet.meta.kind == Kind::IcmpError && packet.is_pending()
}

/// Spreads flows over equal paths. By what a packet has when it leaves, so
/// that one that is held and tried again goes the way it would have gone.
#[inline(always)]
pub(crate) fn spread(tuple: &Tuple) -> u32 {
    let addresses = tuple.src ^ tuple.dst.rotate_left(64);
    let ports = u64::from(tuple.src_port) << 16 | u64::from(tuple.dst_port);
    let mixed = (addresses as u64) ^ ((addresses >> 64) as u64) ^ ports;
    // Fibonacci hashing (Knuth, TAOCP 3, §6.4): the upper half is well mixed.
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// Refuses a packet that the next link does not take.
fn check_size(packet: &mut Packet<'_>, mtu: usize) {
    if packet.meta.l3_bytes <= mtu {
        return;
    }
    packet.meta.mtu = mtu;
    let flags = wire::u8_at(packet.frame(), packet.meta.l3 + 6);
    let may_be_fragmented = packet.meta.v4 && flags & 0x40 == 0;
    packet.refuse(if may_be_fragmented {
        DropReason::TooBigToFragment
    } else {
        DropReason::TooBig
    });
}

/// The rare way: asks again for the neighbour to wait for.
#[cold]
fn hold(packet: &mut Packet<'_>, fib: &Fib) -> bool {
    // Nobody waits for the kernel, so none of these has its way.
    match fib.resolve(packet.meta.rewritten.dst, spread(&packet.meta.rewritten), Ways::Out) {
        Resolution::Unresolved { neighbour, .. } => {
            packet.decide(Verdict::Hold(neighbour));
            true
        }
        // Nothing has changed since `resolve` left the hop open.
        Resolution::Hop(_) | Resolution::Drop(_) => {
            packet.refuse(DropReason::Unroutable);
            false
        }
    }
}

/// Puts the hop's MAC addresses and tags in front of the IP packet. `false` if
/// the buffer has no room.
#[inline(always)]
fn address_to(packet: &mut Packet<'_>, hop: &NextHop) -> bool {
    if packet.meta.l3 == ETHERNET_BYTES && hop.tags.is_empty() {
        // What follows the addresses stays as it is.
        wire::put(packet.room_mut(), 0, &hop.macs);
        return true;
    }
    retag(packet, hop)
}

/// Likewise, where there are tags. The IP packet moves if there are more or
/// fewer of them than before. Ethernet padding stays: frames that were long
/// enough for the wire still are.
#[inline(never)]
fn retag(packet: &mut Packet<'_>, hop: &NextHop) -> bool {
    let (l3, bytes) = (packet.meta.l3, packet.len());
    let new_l3 = ETHERNET_BYTES + 4 * hop.tags.len();
    if new_l3 != l3 {
        let moved = bytes.saturating_sub(l3);
        if bytes < new_l3 + moved && !packet.resize(new_l3 + moved) {
            return false;
        }
        wire::shift(packet.frame_mut(), l3, new_l3, moved);
        packet.resize(new_l3 + moved);
    }
    let ethertype = if packet.meta.v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    ethernet(packet.frame_mut(), hop, ethertype);
    true
}

/// Writes the Ethernet header of a frame to `hop`. Says where it ends.
#[inline(always)]
pub(crate) fn ethernet(frame: &mut [u8], hop: &NextHop, ethertype: u16) -> usize {
    wire::put(frame, 0, &hop.macs);
    let mut at = hop.macs.len();
    for &[tpid, tci] in &hop.tags {
        wire::put_u16(frame, at, tpid);
        wire::put_u16(frame, at + 2, tci);
        at += 4;
    }
    wire::put_u16(frame, at, ethertype);
    at + 2
}
