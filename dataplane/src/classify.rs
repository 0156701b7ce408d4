//! The second stage: whether a packet is ours, and on which side it is.

use crate::address;
use crate::drops::DropReason;
use crate::fib::{Fib, Interface, Mac};
use crate::packet::{Burst, Kind, Packet, Side};
use crate::tables::{AddressRole, Tables};
use crate::wire;

const BROADCAST: Mac = [0xff; 6];

/// ff02::1:ff00:0/104, the solicited-node groups (RFC 4291 §2.7.1), without
/// the 24 bits they take from an address.
const SOLICITED_NODE: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;

/// Refuses what is not ours, and tells apart what is.
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
            Some(AddressRole::Snat) => packet.meta.side = Side::ToVip,
            Some(AddressRole::Vip) => packet.meta.side = Side::ToSnat,
            // The address was taken away meanwhile.
            None => packet.refuse(DropReason::NotOurAddress),
        }
    }
}

fn side(packet: &Packet<'_>, tables: &Tables, fib: &Fib) -> Result<Side, DropReason> {
    let Some(interface) = fib.interface(packet.ingress()) else {
        return Err(DropReason::InterfaceGone);
    };
    let meta = &packet.meta;
    if !is_for_us(packet, interface) {
        return Err(DropReason::NotOurMac);
    }
    // No station has a group's address; an answer would go to the group.
    if wire::u8_at(packet.frame(), 6) & 1 != 0 {
        return Err(DropReason::SourceAddress);
    }
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
        Some(AddressRole::Snat) => Side::ToSnat,
        None if is_solicitation && is_solicited_node(meta.tuple.dst) => Side::default(),
        None => return Err(DropReason::NotOurAddress),
    };
    match meta.kind {
        Kind::Icmp => Err(DropReason::IcmpType),
        Kind::Tcp | Kind::Udp | Kind::IcmpError if hop_limit(packet) <= 1 => {
            Err(DropReason::HopLimit)
        }
        _ => Ok(side),
    }
}

/// Whether another host can have sent something from there.
#[inline(always)]
pub(crate) fn is_possible_source(source: u128, tables: &Tables) -> bool {
    address::is_valid_source(source) && tables.role(source).is_none()
}

/// Whether the frame was sent to us: to the interface's MAC address, or, where
/// neighbours look for ours, to a group.
fn is_for_us(packet: &Packet<'_>, interface: &Interface) -> bool {
    let to: Mac = wire::array_at(packet.frame(), 0);
    if to == interface.mac {
        return true;
    }
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

/// The TTL or hop limit of a parsed IP packet.
#[inline(always)]
pub(crate) fn hop_limit(packet: &Packet<'_>) -> u8 {
    let field = if address::is_v4(packet.meta.tuple.dst) { 8 } else { 7 };
    wire::u8_at(packet.frame(), packet.meta.l3 + field)
}
