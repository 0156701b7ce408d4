//! What a worker is for: packets there and back, and who has the addresses.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use blixt_afxdp::Slot;
use blixt_agent::worker::{Command, FrameAccount};
use blixt_testkit::frame;
use blixt_testkit::netns::eventually;
use blixt_testkit::require_root;

use super::given::{CLIENTS, ENDPOINT_MAC, ENDPOINTS, LIMIT, OUR_MACS, client, endpoint, ip, vip};
use super::world::{World, in_namespace};

#[test]
fn packets_are_balanced_both_ways_and_every_frame_comes_home() {
    require_root!();
    in_namespace("both", |namespace| {
        let mut world = World::new(namespace);
        world.attach_both();
        let mut flows = BTreeSet::new();
        for round in 0..100_u16 {
            // The same hundred clients each time.
            world.client_sends(0..100);
            let arrived = world.wait_at_endpoint(100);
            assert_eq!(arrived.len(), 100, "round {round}");
            flows.extend(arrived);
        }
        assert_eq!(flows.len(), 100, "each flow keeps its SNAT port");
        assert!(flows.iter().all(|(_, snat)| snat.ip() == ip("10.1.0.100")));

        for &(number, snat) in &flows {
            let frame = frame::udp(endpoint(), snat).payload(&number.to_be_bytes());
            let frame = frame.from(ENDPOINT_MAC).to(OUR_MACS[1]).bytes();
            world.far.transmit_copy(Slot(1), 0, &frame).unwrap();
        }
        world.far.flush();
        let mut answered = BTreeSet::new();
        let until = Instant::now() + LIMIT;
        while answered.len() < 100 {
            assert!(Instant::now() < until, "{} answers: {:?}", answered.len(), world.counters());
            answered.extend(world.arrived(0, client(0).ip()));
        }
        assert!(answered.iter().all(|(_, from)| *from == vip()));

        let status = Arc::clone(world.worker.status());
        eventually("the counters of 10,100 packets", LIMIT, || {
            status.interface(CLIENTS).unwrap().rx_packets.value() >= 10_000
                && status.interface(ENDPOINTS).unwrap().tx_packets.value() >= 10_000
        });
        let [clients, endpoints] = [CLIENTS, ENDPOINTS].map(|slot| status.interface(slot).unwrap());
        assert!(clients.rx_bytes.value() > clients.rx_packets.value() * 40);
        assert_eq!((clients.queues.value(), clients.zero_copy_queues.value()), (1, 0));
        assert_eq!((clients.copied.value(), endpoints.copied.value()), (0, 0));
        assert_eq!(status.tables_generation.value(), 1);
        world.stop();
        assert_eq!(status.frames(), FrameAccount { born: 2_048, home: 2_048 });
        assert_eq!(endpoints.queues.value(), 0);
    });
}

#[test]
fn addresses_are_announced_on_every_interface() {
    require_root!();
    in_namespace("announce", |namespace| {
        let mut world = World::new(namespace);
        world.attach_both();
        world.worker.send(Command::Announce);
        let mut seen = BTreeSet::new();
        let until = Instant::now() + LIMIT;
        while seen.len() < 2 {
            assert!(Instant::now() < until, "{seen:?}");
            for number in 0..world.far.queues() {
                let mut frames = arrayvec::ArrayVec::new();
                let from = world.far.receive(number, &mut frames);
                for frame in frames {
                    // An ARP packet from and for the VIP.
                    let packet = frame.packet();
                    if packet.get(12..14) == Some(&[8, 6])
                        && packet.get(28..32) == Some(&[192, 0, 2, 100])
                    {
                        seen.extend(from.map(|(slot, _)| slot));
                    }
                    world.far.release(frame);
                }
            }
        }
        world.stop();
    });
}
