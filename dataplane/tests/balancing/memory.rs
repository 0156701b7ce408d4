//! Nothing is allocated once a pipeline is made.

use blixt_dataplane::{BURST, Burst, InterfaceSlot, Packet, Sink};
use blixt_mem::allocations_of_this_thread;
use blixt_testkit::frame::{ACK, Frame, tcp, tcp_syn, udp};

use crate::world::{DNS, Situation, WEB, World, at, buffer, client, ready, web_and_dns};

struct Nowhere;

impl Sink for Nowhere {
    fn send(&mut self, _egress: InterfaceSlot, _frame: &[u8]) -> bool {
        true
    }
}

/// How many allocations a burst of `frames` costs.
fn allocations_of(world: &mut World, frames: impl Iterator<Item = Frame>) -> u64 {
    let mut buffers: Vec<_> = frames.map(|frame| buffer(&frame)).collect();
    let mut burst = Burst::new();
    for (bytes, buffer) in &mut buffers {
        burst.push(Packet::new(buffer, *bytes, InterfaceSlot(0)));
    }
    assert_eq!(burst.len(), BURST);
    let before = allocations_of_this_thread();
    let now = world.now;
    let (pipeline, view) = world.parts();
    pipeline.process(&mut burst, view, now, &mut Nowhere);
    allocations_of_this_thread() - before
}

#[test]
fn neither_a_hit_nor_a_miss_nor_the_sweep_allocates() {
    assert!(allocations_of_this_thread() > 0, "allocations are counted");
    let mut world = World::new(&Situation::default(), &web_and_dns(1, &ready(3)));
    let all = 0..BURST as u16;
    let syns = all.clone().map(|n| tcp_syn(client(n), at(WEB)));
    assert_eq!(allocations_of(&mut world, syns), 0, "64 new TCP flows");
    let queries = all.clone().map(|n| udp(client(n), at(DNS)));
    assert_eq!(allocations_of(&mut world, queries), 0, "64 new UDP flows");
    let acks = all.clone().map(|n| tcp(client(n), at(WEB)).flags(ACK).seq(1_001).ack(5_001));
    assert_eq!(allocations_of(&mut world, acks), 0, "64 hits");
    let strays = all.map(|n| tcp(client(n + 500), at(WEB)).flags(ACK));
    assert_eq!(allocations_of(&mut world, strays), 0, "64 refusals");
    assert_eq!(world.entries(), (128, 0));

    // All endpoints go: connections are reset, UDP flows forgotten.
    world.apply(&web_and_dns(2, &[]));
    let before = allocations_of_this_thread();
    world.sweep_into(&mut Nowhere);
    assert_eq!(allocations_of_this_thread() - before, 0, "sweep");
    assert_eq!(world.entries(), (64, 64));
}
