//! As many flows as one node is to hold.

use std::time::{Duration, Instant};

use blixt_dataplane::{
    BURST, Burst, DropReason, InterfaceSlot, Packet, Sink, Timeouts, Verdict, flow_bytes,
};
use blixt_testkit::frame::{Checksum, ones_complement_sum, udp};

use crate::world::{DNS, Situation, World, at, buffer, client, ready, web_and_dns};

pub(crate) const FLOWS: u32 = 10_000_000;

pub(crate) struct Nowhere;

impl Sink for Nowhere {
    fn send(&mut self, _egress: InterfaceSlot, _frame: &[u8]) -> bool {
        true
    }
}

/// Queries of so many clients, a burst at a time; counts those that are sent.
pub(crate) fn queries(world: &mut World, clients: std::ops::Range<u32>) -> u64 {
    let (bytes, template) = buffer(&udp(client(0), at(DNS)).checksum(Checksum::None));
    let mut buffers = vec![template.clone(); BURST];
    let mut sent = 0;
    for first in clients.clone().step_by(BURST) {
        let numbers = first..clients.end.min(first + BURST as u32);
        let mut burst = Burst::new();
        for (n, frame) in numbers.zip(&mut buffers) {
            frame[..bytes].copy_from_slice(&template[..bytes]);
            from_client(frame, n);
            burst.push(Packet::new(frame, bytes, InterfaceSlot(0)));
        }
        let now = world.now;
        let (pipeline, view) = world.parts();
        pipeline.process(&mut burst, view, now, &mut Nowhere);
        let is_sent = |packet: &&Packet<'_>| matches!(packet.verdict(), Some(Verdict::Transmit(_)));
        sent += burst.iter().filter(is_sent).count() as u64;
    }
    sent
}

/// Makes it one of client number `n`.
fn from_client(frame: &mut [u8], n: u32) {
    let address = 0x6440_0000 + n / 50_000;
    let port = 10_000 + (n % 50_000) as u16;
    frame[24..26].fill(0);
    frame[26..30].copy_from_slice(&address.to_be_bytes());
    frame[34..36].copy_from_slice(&port.to_be_bytes());
    let sum = !ones_complement_sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// Room for as many flows as there may be, which say nothing for up to an hour.
pub(crate) fn roomy() -> World {
    let hour = Duration::from_secs(3_600);
    let situation = Situation {
        flow_capacity: FLOWS as usize,
        snat_ports: 1_024..=65_535,
        timeouts: Timeouts { udp: hour, udp_query: hour, ..Timeouts::default() },
        ..Situation::default()
    };
    // Each endpoint has 64,512 ports.
    World::new(&situation, &web_and_dns(1, &ready(255)))
}

#[test]
#[ignore = "takes minutes and 2 GB: scripts/test long"]
fn ten_million_flows_are_held_and_found_and_a_sweep_stays_short() {
    assert!(flow_bytes(FLOWS as usize) <= FLOWS as usize * 118);
    let mut world = roomy();
    let began = Instant::now();
    assert_eq!(queries(&mut world, 0..FLOWS), FLOWS.into());
    println!("{FLOWS} flows begun in {:?}", began.elapsed());
    assert_eq!(world.entries(), (FLOWS.into(), 0));

    let began = Instant::now();
    assert_eq!(queries(&mut world, 0..FLOWS), FLOWS.into());
    println!("and found again in {:?}", began.elapsed());
    let counters = world.pipeline.counters();
    assert_eq!(counters.flows_created.value(), FLOWS.into());
    assert_eq!(queries(&mut world, FLOWS..FLOWS + 10), 0);
    assert_eq!(world.pipeline.counters().dropped(DropReason::FlowTableFull).value(), 10);

    // Time counts from the first sweep on.
    world.sweep();
    // Whether nothing is due, or everything.
    for (what, seconds, left, least) in
        [("stay", 1, FLOWS.into(), FLOWS / 256), ("end", 7_200, 0, FLOWS / 32)]
    {
        world.later(seconds);
        let mut calls = Vec::new();
        loop {
            let now = world.now;
            let (pipeline, view) = world.parts();
            let call = Instant::now();
            let more = pipeline.sweep(view, now, &mut Nowhere);
            calls.push(call.elapsed());
            if !more {
                break;
            }
        }
        calls.sort_unstable();
        // The longest ones are those in which the thread lost its core.
        let [median, nearly_all] = [2, 1_000].map(|part| calls[calls.len() - calls.len() / part]);
        println!(
            "{} sweeps over flows that {what}: {median:?}, 999 of 1,000 within {nearly_all:?}",
            calls.len()
        );
        assert_eq!(world.entries().0, left);
        assert!(calls.len() >= least as usize);
    }
}
