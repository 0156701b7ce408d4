//! Anything that can happen to pipelines, in any order: nearly valid frames,
//! raw bytes, waits, sweeps, new tables, new routes.

use blixt_dataplane::InterfaceSlot;
use blixt_testkit::frame::{
    Checksum, DESTINATION_OPTIONS, Frame, arp_request, echo_request, icmp_error, solicitation, tcp,
    udp,
};

use crate::bytes::Bytes;
use crate::world::{
    LISTENER_PORTS, OUR_MACS, Roads, THEIR_MACS, Wish, World, client, endpoint, snat, vip,
};

/// How many kinds of steps there are.
const KINDS: u8 = 14;

/// Steps of one worker, one after the other.
pub fn pipeline(data: &[u8]) {
    run(1, data);
}

/// Steps of three workers: which of them gets a burst is a part of the step
/// that lets it go.
pub fn team(data: &[u8]) {
    run(3, data);
}

fn run(workers: u16, data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut run = Run { world: World::new(workers), workers, waiting: Vec::new() };
    while !bytes.is_empty() {
        run.step(&mut bytes);
    }
    run.flush(0);
    run.world.ends();
}

struct Run {
    world: World,
    workers: u16,
    /// Frames that will come in together.
    waiting: Vec<(InterfaceSlot, Vec<u8>)>,
}

impl Run {
    fn step(&mut self, bytes: &mut Bytes<'_>) {
        let step = bytes.u8();
        let kind = step % KINDS;
        match kind {
            // From a client to a listener; from an endpoint to a SNAT port.
            0..=3 => self.frame(kind, bytes),
            4 => self.icmp_error(bytes),
            5 => self.question(bytes),
            6 => {
                let (ingress, length) = (bytes.u8(), bytes.u8());
                let frame = bytes.take(usize::from(length)).to_vec();
                self.waiting.push((InterfaceSlot(u16::from(ingress % 3)), frame));
            }
            _ => {
                self.flush(u16::from(step / KINDS) % self.workers);
                self.event(kind, bytes);
            }
        }
    }

    fn event(&mut self, kind: u8, bytes: &mut Bytes<'_>) {
        match kind {
            7 => {}
            8 => {
                // A week at most: the clock of flows wraps around, and a worker
                // that does not sweep for longer is none.
                let (unit, count) = (bytes.u8(), u64::from(bytes.u16()));
                self.world.wait(count * [1, 100, 1_000, 10_000][usize::from(unit % 4)]);
            }
            9 => self.world.sweep(bytes.u8() == 0xff),
            10 => {
                let [there, draining, variety] = [(); 3].map(|()| bytes.u8());
                self.world.wish(Wish { there, draining, variety });
            }
            11 => {
                let [unknown, links, route] = [(); 3].map(|()| bytes.u8());
                self.world.roads(Roads { unknown, links, route });
            }
            12 => self.world.retry(),
            _ => self.world.announce(),
        }
    }

    fn flush(&mut self, worker: u16) {
        let frames = std::mem::take(&mut self.waiting);
        self.world.receive(usize::from(worker), &frames);
    }

    fn frame(&mut self, kind: u8, bytes: &mut Bytes<'_>) {
        let who = bytes.u8();
        // More clients than the flow table has room for.
        let (n, v6) = (who & 3 | who >> 5 << 2, who & 4 != 0);
        let is_tcp = kind.is_multiple_of(2);
        let from_client = kind < 2;
        let protocol = if is_tcp { 6 } else { 17 };
        let (src, dst) = if from_client {
            let port = LISTENER_PORTS[usize::from(who >> 3 & 3) ^ usize::from(!is_tcp)];
            (client(n, v6), (vip(v6), port).into())
        } else {
            // Which port: the low bits of `who` beyond the endpoint's number.
            let port = 50_000 + u16::from(who >> 3 & 7);
            (endpoint(n % 3, v6, protocol), (snat(v6), port).into())
        };
        let frame = if is_tcp {
            let (flags, ahead) = (bytes.u8(), u32::from(bytes.u8()));
            let ahead = if ahead > 250 { ahead << 24 } else { ahead };
            let (seq, ack) = if from_client { (1_000, 5_001) } else { (5_000, 1_001) };
            let flags = [flags, 2, 18, 16, 17, 4, 20, 24][usize::from(flags >> 5)];
            tcp(src, dst).flags(flags).seq(seq + ahead % (1 << 30)).ack(ack)
        } else {
            udp(src, dst)
        };
        self.push(frame, usize::from(!from_client), bytes);
    }

    fn icmp_error(&mut self, bytes: &mut Bytes<'_>) {
        let (who, kind, quoted) = (bytes.u8(), bytes.u8(), bytes.u8());
        let (n, v6, protocol) = (who & 3, who & 4 != 0, if kind & 0x80 == 0 { 6 } else { 17 });
        let far = client(n, v6);
        let port = LISTENER_PORTS[usize::from(protocol == 17)];
        let (from, about, side) = if who & 0x80 == 0 {
            let ours = (snat(v6), 50_000 + u16::from(who >> 3 & 7)).into();
            (endpoint(n % 3, v6, protocol), (ours, endpoint(n % 3, v6, protocol)), 1)
        } else {
            (far, ((vip(v6), port).into(), far), 0)
        };
        let about_frame = if protocol == 6 { tcp(about.0, about.1) } else { udp(about.0, about.1) };
        let kinds = if v6 { [1, 2, 3, 4] } else { [3, 4, 11, 12] };
        let kind = [kinds[usize::from(kind & 3)], kind >> 2 & 7];
        let to = about.0.ip();
        let frame = icmp_error(from.ip(), to, kind, 1_400, &about_frame, usize::from(quoted));
        self.push(frame, side, bytes);
    }

    fn question(&mut self, bytes: &mut Bytes<'_>) {
        let who = bytes.u8();
        let (n, v6, side) = (who & 3, who & 4 != 0, usize::from(who >> 3 & 1));
        let ours = if side == 0 { vip(v6) } else { snat(v6) };
        let asker = if side == 0 { client(n, v6).ip() } else { endpoint(n % 3, v6, 6).ip() };
        let frame = match (who >> 4 & 3, v6) {
            (0, _) => echo_request(asker, ours),
            (3, true) => solicitation(None, ours),
            (_, true) => solicitation(Some((THEIR_MACS[side], asker)), ours),
            (_, false) => arp_request((THEIR_MACS[side], asker), ours),
        };
        self.push(frame, side, bytes);
    }

    /// Shapes it, damages it, and lets it wait for the burst.
    fn push(&mut self, frame: Frame, side: usize, bytes: &mut Bytes<'_>) {
        let shape = bytes.u8();
        let has = |bit: u8| shape & 1 << bit != 0;
        let mut frame = frame.or_between(THEIR_MACS[side], OUR_MACS[side]);
        if has(0) {
            frame = frame.hop_limit(bytes.u8() % 4);
        }
        if has(2) {
            let length = usize::from(bytes.u8());
            let long = if has(3) { 5 } else { 1 };
            frame = frame.payload(&vec![0x5a; length * long]);
        }
        if has(4) {
            let wrong = Checksum::Wrong(u16::from(bytes.u8()));
            frame = frame.checksum(if has(5) { Checksum::None } else { wrong });
        } else if has(5) {
            frame = frame.checksum(Checksum::Partial);
        }
        if has(6) {
            frame = frame.options(&[1; 8]).extension(DESTINATION_OPTIONS, &[0; 7]);
        }
        if has(1) {
            frame = frame.vlan(0x8100, 7);
        }
        let mut frame = frame.bytes();
        if has(7) {
            let [place, value, cut] = [(); 3].map(|()| usize::from(bytes.u8()));
            if let Some(byte) = frame.get_mut(place) {
                *byte = value as u8;
            }
            if cut != 0 {
                frame.truncate(cut);
            }
        }
        self.waiting.push((InterfaceSlot(side as u16), frame));
    }
}
