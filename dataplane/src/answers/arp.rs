//! ARP requests for our addresses (RFC 826).

use crate::address;
use crate::drops::DropReason;
use crate::fib::Mac;
use crate::packet::Packet;
use crate::tables::Tables;
use crate::wire;

/// Ethernet, IPv4, and the lengths of their addresses.
pub(super) const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
pub(super) const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// Turns a request for one of our addresses into the reply.
pub(super) fn answer(
    packet: &mut Packet<'_>,
    our_mac: Mac,
    tables: &Tables,
) -> Result<(), DropReason> {
    let l3 = packet.meta.l3;
    let frame = packet.frame_mut();
    let is_request =
        wire::array_at(frame, l3) == ETHERNET_IPV4 && wire::u16_at(frame, l3 + 6) == REQUEST;
    let asker_mac: Mac = wire::array_at(frame, l3 + 8);
    let asker: [u8; 4] = wire::array_at(frame, l3 + 14);
    let wanted: [u8; 4] = wire::array_at(frame, l3 + 24);
    // A probe (RFC 5227 §1.1) comes from 0.0.0.0: the address is in use, by
    // us. Whoever speaks as one of our addresses is not asking.
    let asks_us = is_request
        && tables.role(address::from_v4(wanted)).is_some()
        && tables.role(address::from_v4(asker)).is_none()
        && is_station(asker_mac);
    if !asks_us {
        return Err(DropReason::Arp);
    }
    if !tables.is_answered_for(address::from_v4(wanted)) {
        return Err(DropReason::NotOwner);
    }
    wire::put(frame, 0, &asker_mac);
    wire::put(frame, 6, &our_mac);
    wire::put_u16(frame, l3 + 6, REPLY);
    wire::put(frame, l3 + 8, &our_mac);
    wire::put(frame, l3 + 14, &wanted);
    wire::put(frame, l3 + 18, &asker_mac);
    wire::put(frame, l3 + 24, &asker);
    Ok(())
}

/// Whether a MAC address is one that a single station can have.
pub(super) fn is_station(mac: Mac) -> bool {
    let [first, ..] = mac;
    first & 1 == 0 && mac != Mac::default()
}
