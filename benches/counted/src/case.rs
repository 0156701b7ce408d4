//! What is counted: so many bursts of one kind of packet.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measurement that goes wrong should stop"
)]

use std::fmt;

use blixt_dataplane::BURST;
use blixt_mem::allocations_of_this_thread;

use crate::{Family, Protocol, Way, World};

/// How many bursts are counted, after a few that fill the worker's memory of
/// next hops.
const BURSTS: usize = 16;
const WARM_UP: usize = 16;

/// How many packets are counted.
pub const PACKETS: usize = BURSTS * BURST;

/// One kind of packet, and how many flows there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// Whether it belongs to a flow, or begins one.
    pub kind: Kind,
    /// Of the addresses.
    pub family: Family,
    /// Of the flows.
    pub protocol: Protocol,
    /// How many flows there are before.
    pub flows: u32,
}

/// Whether a packet belongs to a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It does, and goes that way.
    Hit(Way),
    /// It begins one.
    Miss,
}

const FAMILIES: [(&str, Family); 2] = [("v4", Family::V4), ("v6", Family::V6)];
const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
const KINDS: [(&str, Kind); 3] = [
    ("to-endpoint", Kind::Hit(Way::ToEndpoint)),
    ("to-client", Kind::Hit(Way::ToClient)),
    ("miss", Kind::Miss),
];

impl Case {
    /// All there are with so many flows: hits, or hits and misses.
    pub fn all(flows: u32, misses: bool) -> Vec<Self> {
        let mut cases = Vec::new();
        for (_, kind) in KINDS.into_iter().filter(|(_, kind)| misses || *kind != Kind::Miss) {
            for (_, family) in FAMILIES {
                for (_, protocol) in PROTOCOLS {
                    cases.push(Self { kind, family, protocol, flows });
                }
            }
        }
        cases
    }

    /// The case that is written so.
    pub fn named(words: &[String]) -> Option<Self> {
        let [kind, family, protocol, flows] = words else { return None };
        Some(Self {
            kind: find(&KINDS, kind)?,
            family: find(&FAMILIES, family)?,
            protocol: find(&PROTOCOLS, protocol)?,
            flows: flows.parse().ok()?,
        })
    }

    /// As [`Case::named`] reads it.
    pub fn words(&self) -> Vec<String> {
        self.to_string().split(' ').map(str::to_owned).collect()
    }

    /// Puts its packets through `counted`, a full burst at a time. Says how
    /// often anything was allocated there.
    pub fn run(&self, counted: fn(&mut World, usize)) -> u64 {
        let new = ((BURSTS + WARM_UP) * BURST) as u32;
        let capacity = (self.flows + new) as usize;
        let mut world = World::new(self.family, self.protocol, capacity).with_flows(self.flows);
        let mut allocations = 0;
        for burst in 0..WARM_UP + BURSTS {
            let frames: Vec<_> =
                (0..BURST).map(|n| self.frame(&mut world, burst * BURST + n)).collect();
            world.receive(frames.iter().map(Vec::as_slice));
            if burst < WARM_UP {
                world.burst(BURST);
                continue;
            }
            let before = allocations_of_this_thread();
            counted(&mut world, BURST);
            allocations += allocations_of_this_thread() - before;
        }
        allocations
    }

    fn frame(&self, world: &mut World, number: usize) -> Vec<u8> {
        // A stride that shares no factor with the number of flows.
        let client = (number as u64 * 611_953 % u64::from(self.flows)) as u32;
        match self.kind {
            Kind::Hit(Way::ToEndpoint) => world.request(client),
            Kind::Hit(Way::ToClient) => world.reply(client),
            Kind::Miss => world.opening(self.flows + number as u32),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, family) = (name(&KINDS, self.kind), name(&FAMILIES, self.family));
        write!(f, "{kind} {family} {} {}", name(&PROTOCOLS, self.protocol), self.flows)
    }
}

fn find<T: Copy>(names: &[(&str, T)], name: &str) -> Option<T> {
    names.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

fn name<T: PartialEq>(names: &[(&'static str, T)], value: T) -> &'static str {
    names.iter().find(|(_, known)| *known == value).map_or("", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_words_and_back() {
        let cases = Case::all(100, true);
        assert_eq!(cases.len(), 12);
        for case in cases {
            assert_eq!(Case::named(&case.words()), Some(case));
        }
        assert_eq!(Case::named(&["to-endpoint", "v4", "tcp", "some"].map(str::to_owned)), None);
    }

    #[test]
    fn every_packet_of_every_case_is_sent_on() {
        for case in Case::all(100, true) {
            // Which `World::burst` sees to.
            case.run(World::burst);
        }
    }
}
