//! Packets of flows in no order, and packets of flows that are new.

use blixt_dataplane::BURST;

use crate::{Family, Protocol, World};

/// A pipeline that has a number of UDP flows, and perhaps room for more.
#[derive(Debug)]
pub struct Filled {
    /// The pipeline.
    pub world: World,
    flows: u32,
    /// How many can begin until those must be forgotten.
    room: u32,
    random: u64,
    /// The next that begins.
    beginning: u32,
}

/// The most room that is worth it: forgetting them means to go round the whole
/// table.
const MOST_ROOM: u32 = 512 * BURST as u32;

impl Filled {
    /// Full of flows, which take some 4 µs each to make.
    pub fn new(flows: u32, family: Family) -> Self {
        Self::with_room(flows, family, 0)
    }

    /// With as many flows, and room for as many again, or for some.
    pub fn half(flows: u32, family: Family) -> Self {
        Self::with_room(flows, family, flows.next_multiple_of(BURST as u32).min(MOST_ROOM))
    }

    fn with_room(flows: u32, family: Family, room: u32) -> Self {
        let capacity = (flows + room) as usize;
        let world = World::new(family, Protocol::Udp, capacity).with_flows(flows);
        Self { world, flows, room, random: 1, beginning: 0 }
    }

    /// Receives a burst of packets that belong to some of the flows.
    pub fn receive_hits(&mut self) {
        let frames: Vec<_> = (0..BURST)
            .map(|_| {
                let client = self.next();
                self.world.request(client)
            })
            .collect();
        self.world.receive(frames.iter().map(Vec::as_slice));
    }

    /// Receives a burst of packets of which each begins a flow. There must be
    /// room for it.
    pub fn receive_misses(&mut self) {
        if self.beginning >= self.room {
            self.world.beginnings_expire();
            self.beginning = 0;
        }
        let first = self.flows + self.beginning;
        self.beginning += BURST as u32;
        let frames: Vec<_> =
            (first..first + BURST as u32).map(|client| self.world.opening(client)).collect();
        self.world.receive(frames.iter().map(Vec::as_slice));
    }

    /// A flow (Knuth's MMIX generator, TAOCP 2, §3.3.4).
    fn next(&mut self) -> u32 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005);
        self.random = self.random.wrapping_add(1_442_695_040_888_963_407);
        (((self.random >> 32) * u64::from(self.flows)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_begin_beside_those_that_stay() {
        const FLOWS: u32 = 1_000;
        let mut filled = Filled::half(FLOWS, Family::V6);
        assert_eq!(filled.world.flows(), u64::from(FLOWS));
        for _ in 0..2 {
            for begun in 1..=u64::from(filled.room) / BURST as u64 {
                filled.receive_misses();
                filled.world.burst(BURST);
                assert_eq!(filled.world.flows(), u64::from(FLOWS) + begun * BURST as u64);
            }
            filled.world.beginnings_expire();
            filled.beginning = 0;
            assert_eq!(filled.world.flows(), u64::from(FLOWS));
            filled.receive_hits();
            filled.world.burst(BURST);
            assert_eq!(filled.world.flows(), u64::from(FLOWS), "all were known");
        }
    }

    #[test]
    fn every_stage_takes_its_time() {
        let mut filled = Filled::new(100, Family::V4);
        filled.receive_hits();
        assert!(filled.world.burst_by_stage(BURST).iter().all(|taken| !taken.is_zero()));
    }
}
