//! Neighbour solicitations for our addresses (RFC 4861 §7.2).

use super::arp::is_station;
use super::headers::{IpHeader, fit, turn_round};
use crate::address;
use crate::checksum;
use crate::drops::DropReason;
use crate::fib::Mac;
use crate::packet::Packet;
use crate::parse::{ICMPV6, IPV6_BYTES};
use crate::tables::Tables;
use crate::wire;

/// All nodes on the link, and their group's MAC address (RFC 2464 §7).
pub(super) const ALL_NODES: u128 = 0xff02_0000_0000_0000_0000_0000_0000_0001;
pub(super) const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// Neighbour discovery never crosses a router: anything less than this hop
/// limit comes from elsewhere (RFC 4861 §7.1.1).
const HOP_LIMIT: u8 = 255;

/// Bytes of an advertisement with a target link-layer address.
pub(super) const ADVERTISEMENT_BYTES: usize = 32;
const SOLICITATION_BYTES: usize = 24;

const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

/// Flags of an advertisement (RFC 4861 §4.4).
const SOLICITED: u8 = 0x40;
pub(super) const OVERRIDE: u8 = 0x20;

/// Turns a solicitation for one of our addresses into the advertisement.
pub(super) fn answer(
    packet: &mut Packet<'_>,
    our_mac: Mac,
    tables: &Tables,
) -> Result<(), DropReason> {
    let (l3, asker) = (packet.meta.l3, packet.meta.tuple.src);
    let (target, asker_mac) = check(packet, tables).ok_or(DropReason::Ndp)?;
    if !tables.is_answered_for(target) {
        return Err(DropReason::NotOwner);
    }
    fit(packet, IPV6_BYTES + ADVERTISEMENT_BYTES)?;
    turn_round(packet, our_mac);
    let frame = packet.frame_mut();
    let (to, flags) = if asker == 0 {
        // Duplicate address detection: everybody shall know (§7.2.4).
        wire::put(frame, 0, &ALL_NODES_MAC);
        (ALL_NODES, OVERRIDE)
    } else {
        if let Some(mac) = asker_mac {
            wire::put(frame, 0, &mac);
        }
        (asker, SOLICITED | OVERRIDE)
    };
    advertisement(frame, l3, target, to, flags, our_mac);
    Ok(())
}

/// Writes a whole advertisement at `l3`: that `target` is at `our_mac`.
pub(super) fn advertisement(
    frame: &mut [u8],
    l3: usize,
    target: u128,
    to: u128,
    flags: u8,
    our_mac: Mac,
) {
    let header =
        IpHeader { hop_limit: HOP_LIMIT, ..IpHeader::new(target, to, ICMPV6, ADVERTISEMENT_BYTES) };
    let l4 = header.write(frame, l3);
    wire::put(frame, l4, &[136, 0, 0, 0, flags, 0, 0, 0]);
    wire::put_u128(frame, l4 + 8, target);
    // Lengths of options count in units of 8 octets.
    wire::put(frame, l4 + 24, &[TARGET_LINK_LAYER, 1]);
    wire::put(frame, l4 + 26, &our_mac);
    let message = wire::slice(frame, l4, l4 + ADVERTISEMENT_BYTES);
    let sum = checksum::icmp(target, to, message).checksum();
    wire::put_u16(frame, l4 + 2, sum);
}

/// Whether a solicitation is valid (RFC 4861 §7.1.1) and about us: its target,
/// and the MAC address it asks from, if it says so.
fn check(packet: &Packet<'_>, tables: &Tables) -> Option<(u128, Option<Mac>)> {
    let (meta, frame) = (&packet.meta, packet.frame());
    let target = wire::u128_at(frame, meta.l4 + 8);
    let is_valid = wire::u8_at(frame, meta.l3 + 7) == HOP_LIMIT
        && wire::u8_at(frame, meta.l4 + 1) == 0
        && meta.l4_end - meta.l4 >= SOLICITATION_BYTES
        && !address::is_v4(target)
        && tables.role(target).is_some()
        && checksum::icmp_is_right(packet);
    if !is_valid {
        return None;
    }
    let asker_mac = source_link_layer(wire::slice(frame, 0, meta.l4_end), meta.l4 + 24)?;
    let without_source = meta.tuple.src == 0;
    let to_group = meta.tuple.dst >> 120 == 0xff;
    if without_source && (asker_mac.is_some() || !to_group) {
        return None;
    }
    Some((target, asker_mac.filter(|&mac| is_station(mac))))
}

/// Looks for the option through all of them, which end with `frame`; `None`
/// if one is malformed.
fn source_link_layer(frame: &[u8], mut at: usize) -> Option<Option<Mac>> {
    let mut found = None;
    while at < frame.len() {
        let bytes = usize::from(wire::u8_at(frame, at + 1)) * 8;
        if bytes == 0 || at + bytes > frame.len() {
            return None;
        }
        if wire::u8_at(frame, at) == SOURCE_LINK_LAYER {
            found = Some(wire::array_at(frame, at + 2));
        }
        at += bytes;
    }
    Some(found)
}
