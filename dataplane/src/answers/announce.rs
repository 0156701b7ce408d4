//! Tells the neighbours, unasked, that our addresses are here: gratuitous ARP
//! (RFC 5227 §3) and unsolicited neighbour advertisements (RFC 4861 §7.2.6).

use super::{arp, ndp};
use crate::address;
use crate::counters::Counters;
use crate::drops::DropReason;
use crate::fib::{Mac, NextHop, Tags};
use crate::forward;
use crate::packet::InterfaceSlot;
use crate::parse::{ARP_BYTES, ETHERNET_BYTES, ETHERTYPE_ARP, ETHERTYPE_IPV6, IPV6_BYTES};
use crate::pipeline::{Sink, View};
use crate::tables::AddressRole;
use crate::wire;

const BROADCAST: Mac = [0xff; 6];

/// The longest frame: an advertisement with two tags.
const MAX_FRAME_BYTES: usize = ETHERNET_BYTES + 8 + IPV6_BYTES + ndp::ADVERTISEMENT_BYTES;

/// Announces every address that is answered for on every attached interface,
/// and on the VLANs the node has on top of them.
pub(crate) fn announce(view: View<'_>, sink: &mut dyn Sink, counters: &Counters) {
    let host = view.fib.host_path().map(|path| path.egress);
    let untagged = view
        .fib
        .interfaces()
        .iter()
        .zip(0_u16..)
        .map(|(interface, slot)| (interface, InterfaceSlot(slot)))
        // Not those that are not attached now, nor to the node's own kernel.
        .filter(|(interface, slot)| interface.ifindex != 0 && Some(*slot) != host)
        .map(|(interface, slot)| (slot, interface.mac, Tags::new()));
    let tagged = view
        .fib
        .attached_links()
        .filter(|(_, link)| !link.tags.is_empty())
        .map(|(slot, link)| (slot, link.mac, link.tags.clone()));
    for (egress, our_mac, tags) in untagged.chain(tagged) {
        let known_to_others = |&(target, role): &(u128, AddressRole)| {
            role != AddressRole::Host && view.tables.is_answered_for(target)
        };
        for (target, _) in view.tables.addresses().filter(known_to_others) {
            let mut buffer = [0_u8; MAX_FRAME_BYTES];
            let end = frame(&mut buffer, target, our_mac, egress, tags.clone());
            if !sink.send(egress, wire::slice(&buffer, 0, end)) {
                counters.dropped(DropReason::NoFrame).add(1);
            }
        }
    }
}

/// Writes one announcement. Says where it ends.
fn frame(
    buffer: &mut [u8],
    target: u128,
    our_mac: Mac,
    egress: InterfaceSlot,
    tags: Tags,
) -> usize {
    let v4 = address::is_v4(target);
    let (to, ethertype) =
        if v4 { (BROADCAST, ETHERTYPE_ARP) } else { (ndp::ALL_NODES_MAC, ETHERTYPE_IPV6) };
    let l3 = forward::ethernet(buffer, &NextHop::new(egress, 0, to, our_mac, tags), ethertype);
    if !v4 {
        ndp::advertisement(buffer, l3, target, ndp::ALL_NODES, ndp::OVERRIDE, our_mac);
        return l3 + IPV6_BYTES + ndp::ADVERTISEMENT_BYTES;
    }
    wire::put(buffer, l3, &arp::ETHERNET_IPV4);
    wire::put_u16(buffer, l3 + 6, arp::REQUEST);
    wire::put(buffer, l3 + 8, &our_mac);
    wire::put_u32(buffer, l3 + 14, address::v4_bits(target));
    // The target's MAC address is what is asked for: zeroes.
    wire::put_u32(buffer, l3 + 24, address::v4_bits(target));
    l3 + ARP_BYTES
}
