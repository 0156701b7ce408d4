//! Finds the address that decides about a frame.
//!
//! Reads only what it needs, each header once, and nothing behind the end of
//! the frame: the verifier checks every read against it.

use aya_ebpf::programs::XdpContext;
use blixt_xdp_abi::{AddressKey, V4_MAPPED_PREFIX, v4_key};

/// What a frame could be to us, if the address is ours.
pub enum Candidate {
    /// An IPv4 packet to this address, and where it starts.
    Ipv4(AddressKey, usize),
    /// An IPv6 packet to this address, and where it starts.
    Ipv6(AddressKey, usize),
    /// ARP for this address.
    Arp(AddressKey),
    /// A neighbour solicitation for this address.
    Ndp(AddressKey),
    /// Nothing.
    Foreign,
    /// More VLAN tags than we read.
    TooManyTags,
}

/// The frame ends inside a header that it announces.
pub struct Truncated;

/// Two EtherTypes that mean a VLAN tag follows: IEEE 802.1Q-2018 table 9-1,
/// customer and service tag.
const C_TAG: u16 = 0x8100;
const S_TAG: u16 = 0x88a8;
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;

/// Two addresses and an EtherType.
const ETHERNET_BYTES: usize = 14;
const TAG_BYTES: usize = 4;

/// Looks at a frame.
#[inline(always)]
pub fn candidate(frame: &XdpContext) -> Result<Candidate, Truncated> {
    // Written out instead of a loop: each branch reads at constant offsets.
    match ether_type(frame, ETHERNET_BYTES)? {
        C_TAG | S_TAG => match ether_type(frame, ETHERNET_BYTES + TAG_BYTES)? {
            C_TAG | S_TAG => match ether_type(frame, ETHERNET_BYTES + 2 * TAG_BYTES)? {
                C_TAG | S_TAG => Ok(Candidate::TooManyTags),
                inner => network::<{ ETHERNET_BYTES + 2 * TAG_BYTES }>(frame, inner),
            },
            inner => network::<{ ETHERNET_BYTES + TAG_BYTES }>(frame, inner),
        },
        outer => network::<ETHERNET_BYTES>(frame, outer),
    }
}

/// The EtherType is the last field of the Ethernet header and of each tag.
#[inline(always)]
fn ether_type(frame: &XdpContext, end: usize) -> Result<u16, Truncated> {
    read(frame, end - 2).map(u16::from_be_bytes)
}

#[inline(always)]
fn network<const START: usize>(
    frame: &XdpContext,
    ether_type: u16,
) -> Result<Candidate, Truncated> {
    match ether_type {
        IPV4 => ipv4(frame, START),
        IPV6 => ipv6(frame, START),
        ARP => arp(frame, START),
        _ => Ok(Candidate::Foreign),
    }
}

/// RFC 791 §3.1: the destination ends the 20 bytes that every header has.
#[inline(always)]
fn ipv4(frame: &XdpContext, start: usize) -> Result<Candidate, Truncated> {
    Ok(Candidate::Ipv4(v4_key(read(frame, start + 16)?), start))
}

/// RFC 826, for Ethernet and IPv4. Other kinds of ARP are not ours.
#[inline(always)]
fn arp(frame: &XdpContext, start: usize) -> Result<Candidate, Truncated> {
    /// Hardware type 1, protocol 0x0800, addresses of 6 and 4 bytes.
    const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

    let kind: [u8; 6] = read(frame, start)?;
    if kind != ETHERNET_IPV4 {
        return Ok(Candidate::Foreign);
    }
    Ok(Candidate::Arp(v4_key(read(frame, start + 24)?)))
}

/// RFC 8200 §3: next header at byte 6, destination at bytes 24 to 39.
#[inline(always)]
fn ipv6(frame: &XdpContext, start: usize) -> Result<Candidate, Truncated> {
    const ICMPV6: u8 = 58;

    let destination: AddressKey = read(frame, start + 24)?;
    if u128::from_be_bytes(destination) >> 32 == V4_MAPPED_PREFIX {
        // Not an address that may be on the wire (RFC 4291 §2.5.5.2), and not
        // to be mistaken for the IPv4 address that shares its key.
        return Ok(Candidate::Foreign);
    }
    if !is_solicited_node(&destination) {
        return Ok(Candidate::Ipv6(destination, start));
    }
    let [next_header] = read(frame, start + 6)?;
    if next_header != ICMPV6 {
        return Ok(Candidate::Foreign);
    }
    solicitation(frame, start + 40)
}

/// `ff02::1:ff00:0/104`, RFC 4291 §2.7.1.
#[inline(always)]
fn is_solicited_node(address: &AddressKey) -> bool {
    const PREFIX: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;

    u128::from_be_bytes(*address) >> 24 == PREFIX >> 24
}

/// RFC 4861 §4.3: type 135, and the target at bytes 8 to 23. The group may be
/// shared with the node's own addresses, so the target decides.
#[inline(always)]
fn solicitation(frame: &XdpContext, start: usize) -> Result<Candidate, Truncated> {
    const NEIGHBOUR_SOLICITATION: u8 = 135;

    let [kind] = read(frame, start)?;
    if kind != NEIGHBOUR_SOLICITATION {
        return Ok(Candidate::Foreign);
    }
    Ok(Candidate::Ndp(read(frame, start + 8)?))
}

/// Copies bytes out of the frame.
#[inline(always)]
pub fn read<const N: usize>(frame: &XdpContext, offset: usize) -> Result<[u8; N], Truncated> {
    let start = frame.data() + offset;
    if start + N > frame.data_end() {
        return Err(Truncated);
    }
    // SAFETY: the line above proves that the bytes lie within the frame, and
    // byte arrays need no alignment.
    Ok(unsafe { *(start as *const [u8; N]) })
}
