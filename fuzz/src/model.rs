//! What the flow table must look like from outside: plain maps, learned from
//! the packets that leave.
//!
//! The model is surer of less than the table is: it asks only for what holds
//! by any reading of the RFCs, so a flow that is opening or closing promises
//! nothing but its SNAT tuple.

use std::collections::HashMap;
use std::net::SocketAddr;

use blixt_testkit::frame::{ACK, FIN, RST, SYN};

use crate::reader::{Datagram, TCP, UDP};

/// Protocol, from, to.
pub(crate) type Tuple = (u8, SocketAddr, SocketAddr);

/// Milliseconds that a flow promises to last, as the pipeline under test is
/// set up; two are given up to rounding. UDP: as if only a question was asked.
pub(crate) const UDP_MS: u64 = 30_000 - 2;
pub(crate) const TCP_MS: u64 = 240_000 - 2;
pub(crate) const REST_MS: u64 = 60_000 - 2;

/// All flows that were ever seen.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// By the SNAT tuple, as endpoints see it.
    bindings: HashMap<Tuple, Binding>,
    /// The SNAT tuple that a client's tuple was last seen as.
    current: HashMap<Tuple, Tuple>,
    /// How often a client's packets went as another SNAT tuple than before.
    pub(crate) given: u64,
}

#[derive(Debug)]
struct Binding {
    client: Tuple,
    /// When it was used last for sure.
    touched: u64,
    /// What the endpoint has agreed with, plus one; and whether that has left.
    agreed: Option<u32>,
    heard: bool,
    /// It may have agreed with another number before, or in a flow before this
    /// one, which gave way.
    unsure: bool,
    /// The client has acknowledged it: until then the flow may give way.
    confirmed: bool,
    /// Somebody has sent a FIN or a RST.
    ended: bool,
    /// Its endpoint was gone for a while.
    lost: bool,
}

impl Binding {
    fn new(client: Tuple, now: u64) -> Self {
        Self {
            client,
            touched: now,
            agreed: None,
            heard: false,
            unsure: false,
            confirmed: false,
            ended: false,
            lost: false,
        }
    }

    /// Whether the flow must go on as it is.
    fn lives(&self, now: u64) -> bool {
        if self.lost {
            return false;
        }
        match self.client.0 {
            UDP => now < self.touched + UDP_MS,
            _ => self.confirmed && !self.ended && now < self.touched + TCP_MS,
        }
    }

    /// Whether nobody else may have its SNAT tuple.
    fn keeps_its_port(&self, now: u64) -> bool {
        match self.client.0 {
            UDP => self.lives(now),
            _ => self.confirmed && now < self.touched + REST_MS,
        }
    }
}

impl Model {
    /// The SNAT tuple of a client's flow, unless another has it by now.
    fn snat_of(&self, client: Tuple) -> Option<Tuple> {
        let snat = *self.current.get(&client)?;
        (self.bindings.get(&snat)?.client == client).then_some(snat)
    }

    /// The SNAT tuple of the flow that a packet from either end would belong
    /// to.
    fn found(&self, coming: Tuple) -> Option<Tuple> {
        self.snat_of(coming).or_else(|| {
            let snat = reversed(coming);
            self.bindings.contains_key(&snat).then_some(snat)
        })
    }

    /// A packet has come in: whoever ends a connection may end it, and whoever
    /// agrees to one may have agreed.
    pub(crate) fn received(&mut self, packet: &Datagram) {
        if packet.protocol != TCP || packet.flags & (FIN | RST | SYN) == 0 {
            return;
        }
        let found = self.found(tuple(packet));
        let Some(binding) = found.and_then(|snat| self.bindings.get_mut(&snat)) else { return };
        binding.ended |= packet.flags & (FIN | RST) != 0;
        if packet.flags & (SYN | ACK) == SYN | ACK {
            let next = packet.seq().wrapping_add(1);
            binding.unsure |= binding.agreed.is_some_and(|before| before != next);
            binding.agreed = Some(next);
        }
    }

    /// Whether a packet belongs to a flow that must go on.
    pub(crate) fn must_go_on(&self, packet: &Datagram, now: u64) -> bool {
        let Some(snat) = self.found(tuple(packet)) else { return false };
        let Some(binding) = self.bindings.get(&snat) else { return false };
        binding.lives(now) && self.snat_of(binding.client) == Some(snat)
    }

    /// A client's packet has left towards an endpoint.
    pub(crate) fn went_to_endpoint(&mut self, packet: &Datagram, sent: &Datagram, now: u64) {
        let (client, snat) = (tuple(packet), tuple(sent));
        let before = self.snat_of(client);
        if before == Some(snat) {
            self.seen(snat, packet, now, false);
            return;
        }
        if let Some(before) = before.and_then(|before| self.bindings.get(&before)) {
            assert!(!before.lives(now), "{client:?} is {before:?}, and went as {snat:?} at {now}");
        }
        if let Some(other) = self.bindings.get(&snat).filter(|it| it.client != client) {
            assert!(!other.keeps_its_port(now), "{client:?} got what {other:?} has at {now}");
        }
        self.given += 1;
        self.bindings.insert(snat, Binding::new(client, now));
        self.current.insert(client, snat);
        self.received(packet);
    }

    /// An endpoint's packet has left towards a client.
    pub(crate) fn went_to_client(&mut self, packet: &Datagram, sent: &Datagram, now: u64) {
        let (snat, client) = (reversed(tuple(packet)), reversed(tuple(sent)));
        match self.bindings.get(&snat) {
            Some(binding) if binding.client == client => {
                self.seen(snat, packet, now, true);
                return;
            }
            Some(other) => {
                assert!(!other.keeps_its_port(now), "{client:?} got what is {other:?} at {now}");
            }
            None => {}
        }
        // It began with a packet that got no further, such as one too big.
        self.bindings.insert(snat, Binding { ended: true, ..Binding::new(client, now) });
        self.current.entry(client).or_insert(snat);
    }

    fn seen(&mut self, snat: Tuple, packet: &Datagram, now: u64, by_endpoint: bool) {
        let Some(binding) = self.bindings.get_mut(&snat) else { return };
        if !binding.ended && !binding.lost {
            binding.touched = now;
        }
        match packet.flags & (SYN | ACK | RST | FIN) {
            flags if by_endpoint && flags == SYN | ACK => binding.heard = true,
            ACK if !by_endpoint && binding.heard && !binding.unsure => {
                binding.confirmed |= binding.agreed == Some(packet.ack());
            }
            SYN if !by_endpoint && !binding.confirmed => binding.unsure = true,
            _ => {}
        }
    }

    /// These endpoints are all there are now.
    pub(crate) fn endpoints(&mut self, is_there: impl Fn(u8, SocketAddr) -> bool) {
        for (&(protocol, _, endpoint), binding) in &mut self.bindings {
            binding.lost |= !is_there(protocol, endpoint);
        }
    }

    /// Whether a client's flow may be reset by us.
    pub(crate) fn may_be_reset(&self, reset: &Datagram, now: u64) -> bool {
        let client = reversed(tuple(reset));
        let snat = self.snat_of(client);
        !snat.and_then(|snat| self.bindings.get(&snat)).is_some_and(|binding| binding.lives(now))
    }
}

pub(crate) fn tuple(packet: &Datagram) -> Tuple {
    (packet.protocol, packet.src, packet.dst)
}

pub(crate) fn reversed((protocol, from, to): Tuple) -> Tuple {
    (protocol, to, from)
}
