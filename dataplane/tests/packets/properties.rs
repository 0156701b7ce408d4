//! What holds for any packet.

use blixt_dataplane::{InterfaceSlot, Verdict};
use blixt_mem::allocations_of_this_thread;
use blixt_testkit::frame::{
    ACK, Checksum, DESTINATION_OPTIONS, Frame, HOP_BY_HOP, Mac, PSH, icmp_error,
    ones_complement_sum, tcp, tcp_syn, udp,
};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::world::{
    CLIENT_MAC, CLIENTS, Cast, ENDPOINT_MAC, ENDPOINTS, OUR_MACS, Situation, casts, given,
    one_endpoint_each,
};

/// Whether all checksums of a frame are right, as an independent reader finds
/// them. Frames without IP have none.
pub(crate) fn is_right(bytes: &[u8]) -> bool {
    let Ok(sliced) = SlicedPacket::from_ethernet(bytes) else { return false };
    let (pseudo_header, ip_is_right) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let addresses = [header.source(), header.destination()].concat();
            (addresses, ones_complement_sum(header.slice()) == 0xffff)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            ([header.source(), header.destination()].concat(), true)
        }
        _ => return true,
    };
    let (protocol, segment) = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => (6, tcp.slice()),
        Some(TransportSlice::Udp(udp)) if udp.checksum() == 0 => return ip_is_right,
        Some(TransportSlice::Udp(udp)) => (17, udp.slice()),
        Some(TransportSlice::Icmpv4(icmp)) => {
            return ip_is_right && ones_complement_sum(icmp.slice()) == 0xffff;
        }
        Some(TransportSlice::Icmpv6(icmp)) => (58, icmp.slice()),
        Some(TransportSlice::Igmp(_)) | None => return false,
    };
    let length = (segment.len() as u32).to_be_bytes();
    let all = [&pseudo_header, &length[..], &[0, 0, 0, protocol], segment].concat();
    ip_is_right && ones_complement_sum(&all) == 0xffff
}

fn from_client(frame: Frame) -> (InterfaceSlot, Vec<u8>) {
    (CLIENTS, frame.or_between(CLIENT_MAC, OUR_MACS[0]).bytes())
}

fn from_endpoint(frame: Frame) -> (InterfaceSlot, Vec<u8>) {
    (ENDPOINTS, frame.or_between(ENDPOINT_MAC, OUR_MACS[1]).bytes())
}

fn a_cast() -> impl Strategy<Value = Cast> {
    any::<bool>().prop_map(|v6| casts()[usize::from(v6)])
}

/// Some valid frame of any kind.
fn a_frame() -> impl Strategy<Value = (InterfaceSlot, Vec<u8>)> {
    let kinds = (0..8_u8, any::<[u8; 3]>(), vec(any::<u8>(), 0..200), vec(any::<u16>(), 0..3));
    (a_cast(), kinds).prop_map(|(cast, (kind, [hop_limit, flags, more], payload, tags))| {
        let Cast { client, web, dns, snat, web_endpoint, dns_endpoint, router, .. } = cast;
        let unreachable = if client.is_ipv4() { [3, 4] } else { [2, 0] };
        let frame = match kind {
            0 => tcp_syn(client, web),
            1 => tcp(client, web).flags(flags).payload(&payload),
            2 => udp(client, dns).payload(&payload),
            3 => udp(client, dns).extension(HOP_BY_HOP, &[0, 1, 4, 0, 0, 0, 0]).payload(&payload),
            4 => tcp(web_endpoint, snat).flags(flags).payload(&payload),
            5 => udp(dns_endpoint, snat).options(&[1; 4]).payload(&payload),
            6 => icmp_error(
                router,
                snat.ip(),
                unreachable,
                1_400,
                &udp(snat, dns_endpoint),
                more.into(),
            ),
            _ => blixt_testkit::frame::echo_request(client.ip(), web.ip()).payload(&payload),
        };
        let frame =
            tags.iter().fold(frame.hop_limit(hop_limit), |frame, tag| frame.vlan(0x8100, *tag));
        if matches!(kind, 4..=6) { from_endpoint(frame) } else { from_client(frame) }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_get_a_verdict(frames in vec((0..4_u16, vec(any::<u8>(), 0..200)), 0..64)) {
        let mut world = given(one_endpoint_each());
        let frames: Vec<_> =
            frames.into_iter().map(|(slot, bytes)| (InterfaceSlot(slot), bytes)).collect();
        // `process_all` looks at each packet's verdict.
        prop_assert_eq!(world.process_all(&frames).len(), frames.len());
    }

    #[test]
    fn nearly_valid_frames_get_a_verdict(
        frames in vec((a_frame(), vec((any::<Index>(), any::<u8>()), 0..4), any::<Index>()), 1..16),
        partial_checksums in any::<bool>(),
    ) {
        let mut world = given(Situation { partial_checksums, ..one_endpoint_each() });
        let frames: Vec<_> = frames
            .into_iter()
            .map(|((slot, mut bytes), changes, cut)| {
                for (at, value) in changes {
                    let at = at.index(bytes.len());
                    bytes[at] = value;
                }
                if cut.index(4) == 0 {
                    bytes.truncate(cut.index(bytes.len()));
                }
                (slot, bytes)
            })
            .collect();
        prop_assert_eq!(world.process_all(&frames).len(), frames.len());
    }

    #[test]
    fn what_leaves_can_be_read_and_is_right(frames in vec(a_frame(), 1..16)) {
        let mut world = given(one_endpoint_each());
        for (outcome, (_, received)) in world.process_all(&frames).iter().zip(&frames) {
            prop_assert!(is_right(received));
            if let Verdict::Transmit(_) = outcome.verdict {
                prop_assert!(is_right(&outcome.frame), "{:?}", outcome);
            }
        }
    }

    #[test]
    fn what_others_can_read_is_read_alike((slot, bytes) in a_frame()) {
        // A frame that etherparse takes is never refused as malformed.
        let mut world = given(one_endpoint_each());
        let outcome = world.process(slot, &bytes);
        if let (Verdict::Drop(reason), true) =
            (outcome.verdict, SlicedPacket::from_ethernet(&bytes).is_ok())
        {
            use blixt_dataplane::DropReason as R;
            let malformed = [R::Truncated, R::IpHeader, R::IpChecksum, R::L4Header, R::ExtensionHeaders];
            prop_assert!(!malformed.contains(&reason), "{reason:?}");
        }
    }

    #[test]
    fn what_is_rewritten_and_mirrored_back_is_the_same(
        cast in a_cast(),
        payload in vec(any::<u8>(), 0..200),
        is_tcp in any::<bool>(),
        wrong in any::<u16>(),
    ) {
        // An endpoint that sends back what it got, ends exchanged: the client
        // gets what it had sent, ends exchanged, checksum and all.
        let checksum = if wrong % 2 == 0 { Checksum::Right } else { Checksum::Wrong(wrong) };
        let world = given(one_endpoint_each()).with_web_flow(&cast).with_dns_flow(&cast);
        let Cast { client, web, dns, .. } = cast;
        let frame = if is_tcp {
            tcp(client, web).flags(ACK | PSH).seq(1_001).ack(5_001)
        } else {
            udp(client, dns)
        };
        let frame = frame.payload(&payload).hop_limit(64);
        prop_assume!(checksum == Checksum::Right || is_tcp || wrong != 0);
        let (world, there) = world.client_sends(frame.clone().checksum(checksum)).outcome();
        let (_, back) = world.receives(ENDPOINTS, &mirrored(&there.frame)).outcome();
        let sent = frame.checksum(checksum).hop_limit(62).or_between(CLIENT_MAC, OUR_MACS[0]);
        prop_assert_eq!(mirrored(&back.frame), sent.bytes());
    }
}

/// With MAC addresses, IP addresses and ports exchanged, which changes no
/// checksum.
fn mirrored(frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    let mut exchange = |at: usize, length: usize| {
        for place in at..at + length {
            bytes.swap(place, place + length);
        }
    };
    exchange(0, size_of::<Mac>());
    if frame[12] == 0x08 {
        exchange(26, 4);
        exchange(34, 2);
    } else {
        exchange(22, 16);
        exchange(54, 2);
    }
    bytes
}

#[test]
fn a_hit_allocates_nothing() {
    use blixt_dataplane::{Burst, Packet, View};
    for cast in casts() {
        let Cast { client, web, dns, .. } = cast;
        let mut world = given(one_endpoint_each()).with_web_flow(&cast).with_dns_flow(&cast);
        let frames = [
            from_client(tcp(client, web).flags(ACK).seq(1_001).ack(5_001).payload(b"data")).1,
            from_client(udp(client, dns).payload(b"data")).1,
            // Refused, answered, malformed: nothing either.
            from_client(tcp(client, crate::flows::at_port(web, 9)).flags(ACK)).1,
            from_client(blixt_testkit::frame::echo_request(client.ip(), web.ip())).1,
            from_client(udp(client, dns).hop_limit(1)).1,
            from_client(udp(client, dns).extension(DESTINATION_OPTIONS, &[9; 7])).1,
            vec![0; 14],
        ];
        let mut buffers: Vec<_> =
            frames.iter().map(|frame| [&frame[..], &[0; 512]].concat()).collect();
        let mut burst = Burst::new();
        for (buffer, frame) in buffers.iter_mut().zip(&frames) {
            burst.push(Packet::new(buffer, frame.len(), CLIENTS));
        }
        let mut sink = crate::world::Sent::default();
        let view = View { tables: &world.tables, fib: &world.fib, stats: &world.stats };
        let before = allocations_of_this_thread();
        world.pipeline.process(&mut burst, view, world.now, &mut sink);
        world.pipeline.sweep(view, world.now, &mut sink);
        assert_eq!(allocations_of_this_thread() - before, 0);
        assert_eq!(burst[0].verdict(), Some(Verdict::Transmit(ENDPOINTS)));
        assert_eq!(burst[1].verdict(), Some(Verdict::Transmit(ENDPOINTS)));
    }
}
