//! Real sockets on real veths: what is sent arrives, and every frame that was
//! born comes home, whatever happens to rings and interfaces.
//!
//! Each test has a network namespace with two links. `near` is the exchange
//! that is tested, on `n0` and `n1`; `far` is the rest of the world, on their
//! peers `f0` and `f1`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with what went wrong"
)]

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use blixt_afxdp::lab::{Attached, Hook, Program};
use blixt_afxdp::{
    Account, BURST, BindError, Bound, Exchange, Frame, FrameBytes, Sizes, Slot, Unsent, frames_lost,
};
use blixt_testkit::netns::{Namespace, eventually_some, program, veth_with_queues};
use blixt_testkit::require_root;
use nix::sys::eventfd::{EfdFlags, EventFd};

const IN: Slot = Slot(0);
const OUT: Slot = Slot(1);

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(5);

const SMALL: Sizes = Sizes { frames: 1_024, frame_bytes: FrameBytes::Half, ring_entries: 256 };
const TINY: Sizes = Sizes { frames: 256, frame_bytes: FrameBytes::Half, ring_entries: 64 };

/// An exchange on two interfaces, with programs that hand it everything.
struct Station {
    exchange: Exchange,
    programs: Vec<(Slot, Program, Attached)>,
}

impl Station {
    fn new(sizes: Sizes) -> Self {
        Self { exchange: Exchange::new(sizes).unwrap(), programs: Vec::new() }
    }

    fn on(sizes: Sizes, interfaces: [&'static str; 2]) -> Self {
        let mut station = Self::new(sizes);
        station.attach(IN, interfaces[0], 1);
        station.attach(OUT, interfaces[1], 1);
        station
    }

    fn attach(&mut self, slot: Slot, interface: &'static str, queues: u32) -> Vec<Bound> {
        self.programs.retain(|(other, ..)| *other != slot);
        let program = Program::redirect_all(8).unwrap();
        // What another test starts has a copy of the last one's descriptor for
        // a moment, until it is a program of its own.
        let attach = || program.attach(interface, Hook::Native);
        let attached = eventually_some("the program before to be off", LIMIT, attach);
        self.programs.push((slot, program, attached));
        let numbers: Vec<u32> = (0..queues).collect();
        let bound = self.exchange.bind_patiently(slot, interface, &numbers, true).unwrap();
        for queue in &bound {
            let mut programs = self.programs.iter();
            let (_, program, _) = programs.find(|(slot, ..)| *slot == queue.slot).unwrap();
            program.set_socket(queue.queue, queue.socket.as_fd()).unwrap();
        }
        bound
    }

    /// Sends packets with these numbers; how many found a free frame.
    fn send(&mut self, slot: Slot, numbers: std::ops::Range<u32>) -> usize {
        let sent = numbers
            .filter(|&number| self.exchange.transmit_copy(slot, number, &packet(number)).is_ok());
        let sent = sent.count();
        self.exchange.flush();
        sent
    }

    /// Receives from everywhere once: what came in, by interface.
    fn receive(&mut self) -> Vec<(Slot, Frame)> {
        let mut all = Vec::new();
        for number in 0..self.exchange.queues() {
            let mut frames = arrayvec::ArrayVec::<Frame, BURST>::new();
            if let Some((slot, _)) = self.exchange.receive(number, &mut frames) {
                all.extend(frames.into_iter().map(|frame| (slot, frame)));
            }
        }
        all
    }

    /// Passes on what comes in at one interface to the other.
    fn forward(&mut self) -> Vec<Unsent> {
        let received = self.receive();
        let unsent = received.into_iter().filter_map(|(slot, frame)| {
            let egress = if slot == IN { OUT } else { IN };
            self.exchange.transmit(egress, 0, frame).err()
        });
        let unsent = unsent.collect();
        self.exchange.flush();
        unsent
    }

    /// Takes the numbers of the packets that came in.
    fn arrived(&mut self, from: Slot, into: &mut BTreeSet<u32>) {
        for (slot, frame) in self.receive() {
            if let Some(number) = number(frame.packet())
                && slot == from
            {
                assert_eq!(frame.packet(), packet(number), "changed on the way");
                into.insert(number);
            }
            self.exchange.release(frame);
        }
    }

    fn close(mut self) -> Account {
        let account = self.exchange.close();
        for slot in [IN, OUT] {
            let counters = self.exchange.counters(slot);
            assert_eq!((counters.foreign, counters.tx_invalid), (0, 0), "{slot:?} {counters:?}");
        }
        account
    }
}

/// A frame of our own kind, with a number; longer than the shortest.
fn packet(number: u32) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
    bytes.extend(number.to_be_bytes());
    bytes.resize(60 + number as usize % 1_400, number as u8);
    bytes
}

fn number(packet: &[u8]) -> Option<u32> {
    let rest = packet.get(12..18)?.strip_prefix(&[0x88, 0xb5])?;
    Some(u32::from_be_bytes(rest.try_into().ok()?))
}

/// Runs a test in a namespace with the two links.
fn with_links(tag: &str, queues: u32, test: impl FnOnce(&Links) + Send + 'static) {
    let namespace = Namespace::new(tag);
    let links = Links { namespace: namespace.name().to_owned(), queues };
    for number in [0, 1] {
        add_link(&namespace, number, queues);
    }
    namespace.inside(move || test(&links));
}

fn add_link(namespace: &Namespace, number: u32, queues: u32) {
    let [near, far] = ["n", "f"].map(|side| format!("{side}{number}"));
    veth_with_queues(namespace, &near, namespace, &far, queues);
}

struct Links {
    namespace: String,
    queues: u32,
}

impl Links {
    fn ip(&self, arguments: &str) {
        program("ip").args(["-n", &self.namespace]).args(arguments.split_whitespace()).ok();
    }

    fn add(&self, number: u32) {
        assert_eq!(self.queues, 1);
        self.ip(&format!("link add n{number} type veth peer name f{number}"));
        self.ip(&format!("link set n{number} up"));
        self.ip(&format!("link set f{number} up"));
    }
}

/// Sends `count` packets through `near` to the other side, a burst at a time;
/// all of them must arrive, as they were.
fn exchange_packets(far: &mut Station, near: &mut Station, count: u32) {
    let limit = Instant::now() + Duration::from_secs(20);
    let mut arrived = BTreeSet::new();
    let mut sent = 0;
    while arrived.len() < count as usize {
        assert!(Instant::now() < limit, "{} of {count} arrived", arrived.len());
        if sent < count && sent as usize - arrived.len() < 32 {
            let until = (sent + 32).min(count);
            assert_eq!(far.send(IN, sent..until), (until - sent) as usize);
            sent = until;
        }
        assert_eq!(near.forward(), []);
        far.arrived(OUT, &mut arrived);
    }
}

fn all_home(account: Account) {
    assert_eq!(account.born, account.home);
    assert!(account.born > 0);
    assert_eq!(frames_lost(), 0);
}

#[test]
fn ten_thousand_frames_cross_without_a_copy_and_all_come_home() {
    require_root!();
    with_links("cross", 1, |_| {
        let mut near = Station::on(SMALL, ["n0", "n1"]);
        let mut far = Station::on(SMALL, ["f0", "f1"]);
        exchange_packets(&mut far, &mut near, 10_000);
        let [entered, left] = [IN, OUT].map(|slot| near.exchange.counters(slot));
        assert!(entered.rx_packets >= 10_000, "{entered:?}");
        assert!(left.tx_packets >= 10_000, "{left:?}");
        assert_eq!((entered.copied, left.copied), (0, 0));
        assert_eq!((entered.tx_ring_full, left.tx_ring_full), (0, 0));
        // Both sockets share the one UMEM of 1,024 frames.
        assert_eq!(near.exchange.account().born, 1_024);
        all_home(near.close());
        all_home(far.close());
    });
}

#[test]
fn every_queue_is_bound_and_its_mode_can_be_read() {
    require_root!();
    with_links("queues", 4, |_| {
        let mut near = Station::new(SMALL);
        let bound = near.attach(IN, "n0", 4);
        assert_eq!(bound.iter().map(|queue| queue.queue).collect::<Vec<_>>(), [0, 1, 2, 3]);
        // A veth always copies.
        assert!(bound.iter().all(|queue| !queue.zero_copy));
        assert_eq!(near.exchange.bound(IN), (4, 0));
        assert_eq!(near.exchange.bound(OUT), (0, 0));
        drop(bound);
        assert_eq!(near.exchange.unbind(IN), 4);
        assert_eq!(near.exchange.bound(IN), (0, 0));
        all_home(near.close());
    });
}

#[test]
fn what_cannot_be_bound_is_named() {
    require_root!();
    with_links("named", 1, |_| {
        let mut near = Exchange::new(SMALL).unwrap();
        let error = near.bind(IN, "n7", &[0], true).unwrap_err();
        assert!(matches!(error, BindError::NoInterface { .. }), "{error}");
        let error = near.bind(IN, "n0", &[0, 7], true).unwrap_err();
        assert!(matches!(&error, BindError::Queue { queue: 7, .. }), "{error}");
        assert_eq!(near.bound(IN), (0, 0), "queue 0 is let go of again");
        let error = near.bind(Slot(64), "n1", &[0], true).unwrap_err();
        assert!(matches!(error, BindError::TooManyInterfaces { .. }), "{error}");
        all_home(near.close());
    });
}

#[test]
fn a_busy_queue_is_named_and_had_once_it_is_free() {
    require_root!();
    with_links("busy", 1, |_| {
        let mut first = Exchange::new(SMALL).unwrap();
        let bound = first.bind(IN, "n0", &[0], true).unwrap();
        let mut second = Exchange::new(SMALL).unwrap();
        let error = second.bind(IN, "n0", &[0], true).unwrap_err();
        assert!(matches!(&error, BindError::Busy { queue: 0, .. }), "{error}");
        drop(bound);
        all_home(first.close());
        second.bind_patiently(IN, "n0", &[0], true).unwrap();
        // And by the same exchange, right after letting go of it.
        for _ in 0..3 {
            assert_eq!(second.unbind(IN), 1);
            second.bind_patiently(IN, "n0", &[0], true).unwrap();
        }
        all_home(second.close());
    });
}

#[test]
fn a_queue_that_stays_busy_is_given_up_after_two_seconds() {
    require_root!();
    with_links("stays", 1, |_| {
        let mut first = Exchange::new(SMALL).unwrap();
        first.bind(IN, "n0", &[0], true).unwrap();
        let mut second = Exchange::new(SMALL).unwrap();
        let start = Instant::now();
        let error = second.bind_patiently(IN, "n0", &[0], true).unwrap_err();
        assert!(matches!(&error, BindError::Busy { waited_ms: 1_900..3_000, .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(4));
        all_home(second.close());
    });
}

#[test]
fn an_interface_that_vanishes_and_returns_is_bound_again() {
    require_root!();
    with_links("vanish", 1, |links| {
        let mut near = Station::on(SMALL, ["n0", "n1"]);
        let mut far = Station::on(SMALL, ["f0", "f1"]);
        exchange_packets(&mut far, &mut near, 100);

        // n0 was first, so its socket carries the memory of both.
        links.ip("link del n0");
        let dead = near.exchange.tend();
        assert_eq!(dead.iter().map(|queue| queue.slot).collect::<Vec<_>>(), [IN]);
        assert!(near.exchange.tend().is_empty(), "it is told once");
        let unsent = near.exchange.transmit_copy(IN, 0, &packet(0));
        assert_eq!(unsent, Err(Unsent::NoInterface));
        assert_eq!(near.exchange.unbind(IN), 1);
        far.exchange.unbind(IN);

        // The other goes on meanwhile.
        let before = near.exchange.counters(OUT).rx_packets;
        far.send(OUT, 0..10);
        let received = near.receive();
        for (_, frame) in received {
            near.exchange.release(frame);
        }
        assert!(near.exchange.counters(OUT).rx_packets >= before + 10);

        links.add(0);
        let bound = near.attach(IN, "n0", 1);
        let slots: BTreeSet<u16> = bound.iter().map(|queue| queue.slot.0).collect();
        assert_eq!(slots, BTreeSet::from([0, 1]), "both got new sockets");
        drop(bound);
        far.attach(IN, "f0", 1);
        exchange_packets(&mut far, &mut near, 1_000);
        assert_eq!(near.exchange.counters(OUT).copied, 0);
        all_home(near.close());
        all_home(far.close());
    });
}

#[test]
fn queues_that_move_for_an_interface_do_not_wait_for_it() {
    require_root!();
    with_links("moved", 1, |links| {
        let mut near = Station::on(SMALL, ["n0", "n1"]);
        links.ip("link del n0");
        near.exchange.tend();
        near.exchange.unbind(IN);

        // It returns, and somebody else has its queue.
        links.add(0);
        let mut other = Exchange::new(SMALL).unwrap();
        other.bind(IN, "n0", &[0], true).unwrap();
        let error = near.exchange.bind(IN, "n0", &[0], true).unwrap_err();
        assert!(matches!(&error, BindError::Busy { .. }), "{error}");
        assert!(!near.exchange.is_settled());
        let start = Instant::now();
        let moved = loop {
            let moved = near.exchange.settle();
            if !moved.is_empty() {
                break moved;
            }
            assert!(start.elapsed() < Duration::from_secs(1), "it was free some 20 ms later");
            std::thread::sleep(Duration::from_millis(1));
        };
        assert_eq!(moved.iter().map(|queue| queue.slot).collect::<Vec<_>>(), [OUT]);
        assert!(near.exchange.is_settled());

        // The other is given up, and this one stays.
        near.exchange.give_up(IN);
        assert!(near.exchange.tend().is_empty());
        assert_eq!((near.exchange.bound(IN), near.exchange.bound(OUT)), ((0, 0), (1, 0)));
        drop(moved);
        all_home(near.close());
        all_home(other.close());
    });
}

#[test]
fn frames_that_are_out_while_their_memory_ends_come_home_later() {
    require_root!();
    with_links("late", 1, |links| {
        let mut near = Station::on(SMALL, ["n0", "n1"]);
        let mut far = Station::on(SMALL, ["f0", "f1"]);
        far.send(IN, 0..8);
        let mut held = Vec::new();
        let limit = Instant::now() + Duration::from_secs(5);
        while held.len() < 8 {
            assert!(Instant::now() < limit);
            for (_, frame) in near.receive() {
                match number(frame.packet()) {
                    Some(_) => held.push(frame),
                    None => near.exchange.release(frame),
                }
            }
        }
        links.ip("link del n0");
        near.exchange.tend();
        near.exchange.unbind(IN);
        far.exchange.unbind(IN);
        links.add(0);
        near.attach(IN, "n0", 1);
        let account = near.exchange.account();
        assert_eq!(account.born, 2 * 1_024, "the old memory is still there");
        // They are whole, and can leave: with a copy, into the new memory.
        let mut arrived = BTreeSet::new();
        for frame in held {
            assert!(number(frame.packet()).is_some());
            near.exchange.transmit(OUT, 0, frame).unwrap();
        }
        near.exchange.flush();
        assert_eq!(near.exchange.counters(OUT).copied, 8);
        while arrived.len() < 8 {
            assert!(Instant::now() < limit);
            far.arrived(OUT, &mut arrived);
        }
        all_home(near.close());
        all_home(far.close());
    });
}

#[test]
fn letting_go_of_the_first_interface_leaves_the_others_alone() {
    require_root!();
    with_links("anchor", 1, |_| {
        let mut near = Station::on(SMALL, ["n0", "n1"]);
        let mut far = Station::on(SMALL, ["f0", "f1"]);
        assert_eq!(near.exchange.unbind(IN), 1);
        let bound = near.attach(IN, "n0", 1);
        assert_eq!(bound.len(), 1, "n1 keeps its socket");
        drop(bound);
        exchange_packets(&mut far, &mut near, 500);
        all_home(near.close());
        all_home(far.close());
    });
}

#[test]
fn full_rings_are_counted_and_recover() {
    require_root!();
    with_links("full", 1, |_| {
        let mut near = Station::on(TINY, ["n0", "n1"]);
        let mut far = Station::on(SMALL, ["f0", "f1"]);
        // Nobody takes them: the kernel runs out of frames.
        for burst in 0..40 {
            far.send(IN, burst * 32..burst * 32 + 32);
        }
        near.exchange.tend();
        let counters = near.exchange.counters(IN);
        let missed = counters.fill_ring_empty + counters.rx_ring_full + counters.rx_dropped;
        assert!(missed >= 1_000, "{counters:?}");
        let mut old = BTreeSet::new();
        while let received = near.receive()
            && !received.is_empty()
        {
            old.extend(received.iter().filter_map(|(_, frame)| number(frame.packet())));
            received.into_iter().for_each(|(_, frame)| near.exchange.release(frame));
        }
        assert!(!old.is_empty() && old.len() <= 64, "{}", old.len());
        exchange_packets(&mut far, &mut near, 500);
        all_home(near.close());
        all_home(far.close());
    });
}

#[test]
fn a_tx_ring_that_does_not_move_is_noticed_and_goes_on_afterwards() {
    require_root!();
    with_links("stall", 1, |links| {
        let mut near = Station::on(TINY, ["n0", "n1"]);
        let mut far = Station::on(SMALL, ["f0", "f1"]);
        links.ip("link set n1 down");
        // 64 find a place in the ring; nothing can leave.
        for number in 0..100_u32 {
            let _ = near.exchange.transmit_copy(OUT, 0, &packet(number));
        }
        let dropped = near.exchange.flush();
        near.exchange.tend();
        near.exchange.tend();
        let counters = near.exchange.counters(OUT);
        assert!(counters.stalls >= 1, "{counters:?}");
        assert_eq!(counters.tx_packets, 64, "{counters:?}");
        assert_eq!((dropped, counters.tx_ring_full), (36, 36), "{counters:?}");
        assert!(near.exchange.tend().is_empty(), "being down is not being dead");

        links.ip("link set n1 up");
        let limit = Instant::now() + Duration::from_secs(5);
        let mut arrived = BTreeSet::new();
        while arrived.len() < 64 {
            assert!(Instant::now() < limit, "{} arrived", arrived.len());
            near.exchange.tend();
            far.arrived(OUT, &mut arrived);
        }
        exchange_packets(&mut far, &mut near, 200);
        all_home(near.close());
        all_home(far.close());
    });
}

#[test]
fn generic_mode_works_too() {
    require_root!();
    with_links("generic", 1, |_| {
        let mut far = Station::on(SMALL, ["f0", "f1"]);
        let mut near = Exchange::new(SMALL).unwrap();
        let program = Program::redirect_all(1).unwrap();
        let _attached = program.attach("n0", Hook::Generic).unwrap();
        let bound = near.bind(IN, "n0", &[0], false).unwrap();
        program.set_socket(0, bound[0].socket.as_fd()).unwrap();
        drop(bound);
        far.send(IN, 0..10);
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
        let limit = Instant::now() + Duration::from_secs(5);
        let mut numbers = BTreeSet::new();
        while numbers.len() < 10 {
            assert!(Instant::now() < limit);
            near.wait(wake.as_fd(), Duration::from_millis(100)).unwrap();
            let mut frames = arrayvec::ArrayVec::new();
            near.receive(0, &mut frames);
            for frame in frames {
                numbers.extend(number(frame.packet()));
                near.release(frame);
            }
        }
        all_home(near.close());
        all_home(far.close());
    });
}

#[test]
fn waiting_ends_with_a_packet_a_wake_up_or_the_time() {
    require_root!();
    with_links("wait", 1, |_| {
        let mut near = Station::on(SMALL, ["n0", "n1"]);
        let mut far = Station::on(SMALL, ["f0", "f1"]);
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
        // Links that come up say so; take that in first.
        std::thread::sleep(Duration::from_millis(50));
        let mut drained = BTreeSet::new();
        near.arrived(IN, &mut drained);

        let start = Instant::now();
        wake.write(1).unwrap();
        near.exchange.wait(wake.as_fd(), Duration::from_secs(5)).unwrap();
        assert!(start.elapsed() < Duration::from_secs(1));
        wake.read().unwrap();
        far.send(IN, 0..1);
        near.exchange.wait(wake.as_fd(), Duration::from_secs(5)).unwrap();
        assert!(start.elapsed() < Duration::from_secs(2));
        near.arrived(IN, &mut drained);
        assert_eq!(drained, BTreeSet::from([0]));
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(20) {
            near.exchange.wait(wake.as_fd(), Duration::from_millis(20)).unwrap();
            near.arrived(IN, &mut drained);
        }
        all_home(near.close());
        all_home(far.close());
    });
}

#[test]
fn a_frame_that_is_dropped_is_noticed() {
    require_root!();
    with_links("lost", 1, |_| {
        let mut near = Station::on(SMALL, ["n0", "n1"]);
        let mut far = Station::on(SMALL, ["f0", "f1"]);
        far.send(IN, 0..1);
        let limit = Instant::now() + Duration::from_secs(5);
        let mut received = Vec::new();
        while received.is_empty() {
            assert!(Instant::now() < limit);
            received = near.receive();
        }
        let lost = received.len() as u64;
        drop(received);
        assert_eq!(frames_lost(), lost);
        let account = near.close();
        assert_eq!(account.born, account.home + lost);
    });
}
