//! Chooses which frames leave the kernel's path.
//!
//! A frame goes to the AF_XDP socket of the queue it came in by if it is
//! - an IPv4 or IPv6 packet to one of our addresses: TCP, UDP, ICMP, every
//!   fragment, anything;
//! - ARP that asks for one of our addresses, or is sent to one;
//! - a neighbour solicitation for one of our addresses, sent to its
//!   solicited-node group.
//!
//! TCP ports whose connections end on the kernel's own stack are the exception:
//! segments to them, and ICMP errors about them, pass.
//!
//! One kind of address is ours on one interface only: what the node's kernel
//! replies to on the host path.
//!
//! Up to two VLAN tags may stand before. Everything else passes on to the
//! kernel, untouched. The addresses are ours alone: without a socket a frame
//! for them is dropped, never given to the kernel, which might answer.
//!
//! It decides by address, and where there are such ports, by port. Whether a packet is well formed beyond that,
//! and what becomes of it, is for the data plane to say, and to count.

#![no_std]
#![no_main]

mod counters;
mod frame;
mod maps;
mod stream;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use blixt_xdp_abi::Counter;

use crate::frame::{Candidate, Truncated};
use crate::maps::Whose;

/// The kernel takes GPL-2.0-only programs under this name
/// (include/linux/license.h).
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";

/// The entry point.
#[xdp]
pub fn blixt_redirect(frame: XdpContext) -> u32 {
    match frame::candidate(&frame) {
        Ok(Candidate::Ipv4(address, start)) => {
            let is_stream = || stream::is_of_ipv4(&frame, start, &address);
            redirect_ip_if_ours(&frame, &address, is_stream)
        }
        Ok(Candidate::Ipv6(address, start)) => {
            let is_stream = || stream::is_of_ipv6(&frame, start, &address);
            redirect_ip_if_ours(&frame, &address, is_stream)
        }
        Ok(Candidate::Arp(address)) => redirect_if_ours(&frame, &address, Counter::RedirectedArp),
        Ok(Candidate::Ndp(address)) => redirect_if_ours(&frame, &address, Counter::RedirectedNdp),
        Ok(Candidate::Foreign) => XDP_PASS,
        Ok(Candidate::TooManyTags) => pass(Counter::PassedVlanDepth),
        Err(Truncated) => pass(Counter::PassedTruncated),
    }
}

#[inline(always)]
fn redirect_ip_if_ours(
    frame: &XdpContext,
    address: &[u8; 16],
    is_stream: impl Fn() -> Result<bool, Truncated>,
) -> u32 {
    match maps::whose(frame, address) {
        Whose::Others => XDP_PASS,
        // What is cut off is for the data plane to say, and to count.
        Whose::OursButStreams if is_stream().unwrap_or(false) => pass(Counter::PassedStream),
        Whose::OursButStreams | Whose::Ours => redirect(frame, Counter::RedirectedIp),
    }
}

#[inline(always)]
fn redirect_if_ours(frame: &XdpContext, address: &[u8; 16], redirected: Counter) -> u32 {
    match maps::whose(frame, address) {
        Whose::Others => XDP_PASS,
        Whose::OursButStreams | Whose::Ours => redirect(frame, redirected),
    }
}

#[inline(always)]
fn redirect(frame: &XdpContext, redirected: Counter) -> u32 {
    match maps::redirect(frame) {
        Some(action) => {
            counters::count(redirected);
            action
        }
        None => {
            counters::count(Counter::DroppedNoSocket);
            XDP_DROP
        }
    }
}

#[inline(always)]
fn pass(why: Counter) -> u32 {
    counters::count(why);
    XDP_PASS
}

/// The verifier proves that it is never reached.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
