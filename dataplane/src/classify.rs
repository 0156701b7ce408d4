//! The second stage: whether a packet is ours, and on which side it is.
//!
//! Whether it can have come from its source is asked here only of what begins
//! or asks something. A packet that has a flow comes from where the flow's
//! first one came from; whoever finds that it has none asks then.

use crate::address;
use crate::drops::DropReason;
use crate::fib::{Fib, Mac};
use crate::packet::{Burst, Kind, Meta, Packet, Side};
use crate::tables::{AddressRole, Tables};
use crate::wire;

const BROADCAST: Mac = [0xff; 6];

/// ff02::1:ff00:0/104, the solicited-node groups (RFC 4291 §2.7.1), without
/// the 24 bits they take from an address.
const SOLICITED_NODE: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;

/// Refuses what is not ours, and tells apart what is.
#[inline(never)]
pub(crate) fn burst(burst: &mut Burst<'_>, tables: &Tables, fib: &Fib) {
    for packet in burst {
        if !packet.is_pending() {
            continue;
        }
        match side(packet, tables, fib) {
            Ok(side) => packet.meta.side = side,
            Err(reason) => packet.refuse(reason),
        }
    }
}

/// Tells apart packets that were rewritten before, and held: they come from
/// our addresses.
pub(crate) fn as_rewritten(burst: &mut Burst<'_>, tables: &Tables) {
    for packet in burst {
        packet.meta.rewritten = packet.meta.tuple;
        match tables.role(packet.meta.tuple.src) {
            Some(AddressRole::Snat | AddressRole::Host) => packet.meta.side = Side::ToVip,
            Some(AddressRole::Vip) => packet.meta.side = Side::ToSnat,
            // The address was taken away meanwhile.
            None => packet.refuse(DropReason::NotOurAddress),
        }
    }
}

#[inline(always)]
fn side(packet: &Packet<'_>, tables: &Tables, fib: &Fib) -> Result<Side, DropReason> {
    let Some(interface) = fib.interface(packet.ingress()) else {
        return Err(DropReason::InterfaceGone);
    };
    let meta = &packet.meta;
    let start = start(packet);
    if start & MAC != mac_number(interface.mac) && !is_for_group(packet) {
        return Err(DropReason::NotOurMac);
    }
    // No station has a group's address; an answer would go to the group.
    if start & FROM_GROUP != 0 {
        return Err(DropReason::SourceAddress);
    }
    if !packet.is_balanced() {
        return otherwise(meta, tables);
    }
    let side = match tables.role(meta.tuple.dst) {
        Some(AddressRole::Vip) => Side::ToVip,
        Some(AddressRole::Snat | AddressRole::Host) => Side::ToSnat,
        None => return Err(not_ours(meta, tables)),
    };
    if meta.hop_limit <= 1 {
        return Err(expired(meta, tables));
    }
    Ok(side)
}

/// The same for what is not to be balanced: it asks us something, or tells of
/// what was.
#[inline(never)]
fn otherwise(meta: &Meta, tables: &Tables) -> Result<Side, DropReason> {
    if meta.kind == Kind::Arp {
        return Ok(Side::default());
    }
    let is_solicitation = meta.kind == Kind::Solicitation;
    // A solicitation out of duplicate address detection has no source yet
    // (RFC 4862 §5.4.2).
    let without_source = is_solicitation && meta.tuple.src == 0;
    if !without_source && !is_possible_source(meta.tuple.src, tables) {
        return Err(DropReason::SourceAddress);
    }
    let side = match tables.role(meta.tuple.dst) {
        Some(AddressRole::Vip) => Side::ToVip,
        Some(AddressRole::Snat | AddressRole::Host) => Side::ToSnat,
        None if is_solicitation && is_solicited_node(meta.tuple.dst) => Side::default(),
        None => return Err(DropReason::NotOurAddress),
    };
    match meta.kind {
        Kind::Icmp => Err(DropReason::IcmpType),
        Kind::IcmpError if meta.hop_limit <= 1 => Err(DropReason::HopLimit),
        _ => Ok(side),
    }
}

/// Why a packet is refused that has no hop left. Nobody is told at an address
/// that no host has.
#[cold]
fn expired(meta: &Meta, tables: &Tables) -> DropReason {
    match is_possible_source(meta.tuple.src, tables) {
        true => DropReason::HopLimit,
        false => DropReason::SourceAddress,
    }
}

/// Why a packet is refused that was sent to none of our addresses.
#[cold]
fn not_ours(meta: &Meta, tables: &Tables) -> DropReason {
    match is_possible_source(meta.tuple.src, tables) {
        true => DropReason::NotOurAddress,
        false => DropReason::SourceAddress,
    }
}

/// Whether another host can have sent something from there.
pub(crate) fn is_possible_source(source: u128, tables: &Tables) -> bool {
    address::is_valid_source(source) && tables.role(source).is_none()
}

/// A frame's first 8 bytes as a number, the first of them lowest: whom it is
/// for, and the beginning of whom it is from.
#[inline(always)]
fn start(packet: &Packet<'_>) -> u64 {
    u64::from_le_bytes(wire::array_at(packet.frame(), 0))
}

/// The bits of [`start`] that are the destination.
const MAC: u64 = (1 << 48) - 1;

/// The bit of [`start`] that says whether the source is a group: of its first
/// byte the first bit on the wire (IEEE 802).
const FROM_GROUP: u64 = 1 << 48;

/// A MAC address as [`start`] has it.
#[inline(always)]
fn mac_number([a, b, c, d, e, f]: Mac) -> u64 {
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

/// Whether a frame to a group is for us: neighbours look for ours there.
#[cold]
fn is_for_group(packet: &Packet<'_>) -> bool {
    let to: Mac = wire::array_at(packet.frame(), 0);
    match packet.meta.kind {
        Kind::Arp => to == BROADCAST,
        // RFC 2464 §7: 33:33 and the group's last 32 bits.
        Kind::Solicitation => {
            let [_, _, a, b, c, d] = to;
            to.starts_with(&[0x33, 0x33])
                && u32::from_be_bytes([a, b, c, d]) == packet.meta.tuple.dst as u32
        }
        _ => false,
    }
}

fn is_solicited_node(address: u128) -> bool {
    address >> 24 == SOLICITED_NODE >> 24
}
