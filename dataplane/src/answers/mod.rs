//! The last stage: packets that end here are answered in place, or counted
//! and dropped.
//!
//! An answer goes back out of the interface its question came from, to the
//! MAC address it came from, with the VLAN tags it came with: whoever reached
//! us so is reached so, whether or not the kernel knows a route back, and
//! nobody can make us send to a third station.

mod announce;
mod arp;
mod echo;
mod headers;
mod icmp_error;
mod limit;
mod ndp;
pub(crate) mod reset;

pub(crate) use announce::announce;

use crate::counters::Counters;
use crate::drops::DropReason;
use crate::packet::{Burst, Kind, Packet, Tick, Verdict};
use crate::pipeline::{Limits, View};
use limit::Bucket;

/// How much may still be answered.
#[derive(Debug)]
pub(crate) struct Allowance {
    resets: Bucket,
    icmp: Bucket,
}

impl Allowance {
    /// All that `limits` allow.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            resets: Bucket::new(limits.resets_per_second),
            icmp: Bucket::new(limits.icmp_per_second),
        }
    }
}

/// Answers each packet that asks us, or that is refused in a way its sender
/// should know. Afterwards each packet has its verdict.
#[inline(never)]
pub(crate) fn burst(
    burst: &mut Burst<'_>,
    allowance: &mut Allowance,
    view: View<'_>,
    now: Tick,
    counters: &Counters,
) {
    for packet in burst {
        if packet.verdict().is_some() {
            continue;
        }
        let refusal = packet.meta.refusal;
        let answered = match refusal {
            None => answer(packet, allowance, view, now, counters),
            Some(reason) => refuse(packet, reason, allowance, view, now, counters),
        };
        match answered {
            Ok(()) => {
                // Answered or not, what was asked for did not happen.
                if let Some(reason) = refusal {
                    counters.dropped(reason).add(1);
                }
                packet.decide(Verdict::Transmit(packet.ingress()));
            }
            Err(reason) => drop_for(packet, reason, counters),
        }
    }
}

/// Drops each packet that has no verdict yet, without an answer.
pub(crate) fn drop_refused(burst: &mut Burst<'_>, counters: &Counters) {
    for packet in burst {
        if packet.verdict().is_none() {
            let reason = packet.meta.refusal.unwrap_or(DropReason::Unroutable);
            drop_for(packet, reason, counters);
        }
    }
}

fn drop_for(packet: &mut Packet<'_>, reason: DropReason, counters: &Counters) {
    counters.dropped(reason).add(1);
    packet.decide(Verdict::Drop(reason));
}

/// Answers a packet that asks us something.
fn answer(
    packet: &mut Packet<'_>,
    allowance: &mut Allowance,
    view: View<'_>,
    now: Tick,
    counters: &Counters,
) -> Result<(), DropReason> {
    let mac = our_mac(packet, view)?;
    match packet.meta.kind {
        Kind::Arp => {
            arp::answer(packet, mac, view.tables)?;
            counters.arp_answers.add(1);
        }
        Kind::Solicitation => {
            ndp::answer(packet, mac, view.tables)?;
            counters.ndp_answers.add(1);
        }
        Kind::EchoRequest => {
            echo::check(packet)?;
            if !allowance.icmp.take(now) {
                return Err(DropReason::IcmpLimit);
            }
            echo::answer(packet, mac)?;
            counters.echo_answers.add(1);
        }
        // Whatever goes on has its verdict or its refusal by now.
        Kind::Unparsed | Kind::Tcp | Kind::Udp | Kind::IcmpError | Kind::Icmp => {
            return Err(DropReason::Protocol);
        }
    }
    Ok(())
}

/// Tells the sender of a refused packet, where that helps it.
fn refuse(
    packet: &mut Packet<'_>,
    reason: DropReason,
    allowance: &mut Allowance,
    view: View<'_>,
    now: Tick,
    counters: &Counters,
) -> Result<(), DropReason> {
    match (reason, packet.meta.kind) {
        // No error about an error (RFC 1122 §3.2.2, RFC 4443 §2.4 (e)).
        (DropReason::HopLimit | DropReason::TooBig, Kind::Tcp | Kind::Udp) => {
            let mac = our_mac(packet, view)?;
            if !allowance.icmp.take(now) {
                return Err(DropReason::IcmpLimit);
            }
            icmp_error::answer(packet, mac, reason)?;
            counters.icmp_answers.add(1);
            Ok(())
        }
        (
            DropReason::NoListener
            | DropReason::NoRoute
            | DropReason::NoWeight
            | DropReason::BadBackend
            | DropReason::NoEndpoint
            | DropReason::NoFlow
            | DropReason::EndpointGone,
            Kind::Tcp,
        ) => {
            let mac = our_mac(packet, view)?;
            reset::check(packet, reason)?;
            if !allowance.resets.take(now) {
                return Err(DropReason::ResetLimit);
            }
            reset::answer(packet, mac)?;
            counters.resets.add(1);
            Ok(())
        }
        _ => Err(reason),
    }
}

fn our_mac(packet: &Packet<'_>, view: View<'_>) -> Result<crate::Mac, DropReason> {
    view.fib
        .interface(packet.ingress())
        .map(|interface| interface.mac)
        .ok_or(DropReason::InterfaceGone)
}
