//! Which packets to an address of ours are the kernel's all the same: those of
//! TCP connections that end on its own stack.
//!
//! Only what is plain to see: a fragment, or a TCP segment behind IPv6 extension
//! headers, is not read, and goes the way of everything else.

use aya_ebpf::programs::XdpContext;
use blixt_xdp_abi::{AddressKey, stream_key};

use crate::frame::{Truncated, read};
use crate::maps;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;

const IPV6_BYTES: usize = 40;
/// Of ICMP, before what it quotes (RFC 792, RFC 4443 §2.1).
const ICMP_BYTES: usize = 8;

/// Whether a packet to `address` is for one of its streams, or an ICMP error
/// about one.
#[inline(always)]
pub fn is_of_ipv4(
    frame: &XdpContext,
    start: usize,
    address: &AddressKey,
) -> Result<bool, Truncated> {
    let Some((protocol, payload)) = behind_ipv4(frame, start)? else { return Ok(false) };
    match protocol {
        TCP => Ok(is_stream(address, read(frame, payload + 2)?)),
        ICMP => {
            let [kind] = read(frame, payload)?;
            // Unreachable, time exceeded, parameter problem (RFC 792).
            if !matches!(kind, 3 | 11 | 12) {
                return Ok(false);
            }
            match behind_ipv4(frame, payload + ICMP_BYTES)? {
                Some((TCP, quoted)) => Ok(is_stream(address, read(frame, quoted)?)),
                _ => Ok(false),
            }
        }
        _ => Ok(false),
    }
}

/// The same for IPv6.
#[inline(always)]
pub fn is_of_ipv6(
    frame: &XdpContext,
    start: usize,
    address: &AddressKey,
) -> Result<bool, Truncated> {
    let [next_header] = read(frame, start + 6)?;
    let payload = start + IPV6_BYTES;
    match next_header {
        TCP => Ok(is_stream(address, read(frame, payload + 2)?)),
        ICMPV6 => {
            let [kind] = read(frame, payload)?;
            // Errors have the lower half of the types, four of which there are
            // (RFC 4443 §2.1).
            if !matches!(kind, 1..=4) {
                return Ok(false);
            }
            let quoted = payload + ICMP_BYTES;
            match read(frame, quoted + 6)? {
                [TCP] => Ok(is_stream(address, read(frame, quoted + IPV6_BYTES)?)),
                _ => Ok(false),
            }
        }
        _ => Ok(false),
    }
}

/// What an IPv4 packet carries, and where; `None` for a fragment, which has no
/// ports to show, or may have others than the rest of it.
#[inline(always)]
fn behind_ipv4(frame: &XdpContext, start: usize) -> Result<Option<(u8, usize)>, Truncated> {
    let [version_and_length] = read(frame, start)?;
    let fragment: [u8; 2] = read(frame, start + 6)?;
    let [protocol] = read(frame, start + 9)?;
    let header = usize::from(version_and_length & 0xf) * 4;
    // All but the reserved bit and "don't fragment" (RFC 791 §3.1).
    if u16::from_be_bytes(fragment) & 0x3fff != 0 || header < 20 {
        return Ok(None);
    }
    Ok(Some((protocol, start + header)))
}

#[inline(always)]
fn is_stream(address: &AddressKey, port: [u8; 2]) -> bool {
    maps::is_stream(&stream_key(*address, port))
}
