//! The worker with its two links, and the test as the client and the endpoint.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_afxdp::lab::{Attached, Hook, Program};
use blixt_afxdp::{Exchange, Slot};
use blixt_agent::worker::{
    AttachAnswer, BoundQueue, Event, HoldLimits, Published, WorkerConfig, WorkerHandle,
    event_channel, spawn,
};
use blixt_dataplane::{DropReason, InterfaceSlot, WorkerId};
use blixt_testkit::frame;
use blixt_testkit::netns::{Namespace, eventually_some, program};
use tokio::sync::{mpsc, oneshot};

use super::given::{
    CLIENT_MAC, CLIENTS, ENDPOINT_MAC, ENDPOINTS, LIMIT, OUR_MACS, SIZES, client, config, endpoint,
    fib, tables, vip,
};

/// The worker, and the rest of the world.
pub(super) struct World {
    pub(super) namespace: String,
    pub(super) published: Arc<Published>,
    pub(super) id: WorkerId,
    pub(super) worker: WorkerHandle,
    pub(super) events: mpsc::UnboundedReceiver<Event>,
    /// On n0, n1, f0, f1.
    pub(super) programs: Vec<(&'static str, Program, Attached)>,
    pub(super) far: Exchange,
    /// Of each link.
    queues: u32,
}

impl World {
    pub(super) fn new(namespace: &str) -> Self {
        Self::with(namespace, WorkerId(0), HoldLimits::default())
    }

    pub(super) fn with(namespace: &str, id: WorkerId, hold: HoldLimits) -> Self {
        Self::of(namespace, config(id, hold), 1)
    }

    /// On links of so many queues, of which those of the worker are bound.
    pub(super) fn of(namespace: &str, config: WorkerConfig, queues: u32) -> Self {
        let id = config.id;
        let published = Arc::new(Published::with_room_for(usize::from(id.0) + 1, 8_192));
        let (sender, events) = event_channel();
        let worker = spawn(config, Arc::clone(&published), sender).unwrap();
        let mut world = Self {
            namespace: namespace.to_owned(),
            published,
            id,
            worker,
            events,
            programs: Vec::new(),
            far: Exchange::new(SIZES).unwrap(),
            queues,
        };
        for number in [0, 1] {
            world.add_link(number);
            world.attach_far(number);
        }
        world.publish(1, true);
        world
    }

    pub(super) fn ip(&self, arguments: &str) {
        program("ip").args(["-n", &self.namespace]).args(arguments.split_whitespace()).ok();
    }

    pub(super) fn add_link(&self, number: u16) {
        let [near, far] = [["n0", "f0"], ["n1", "f1"]][usize::from(number)];
        let mac = OUR_MACS[usize::from(number)].map(|byte| format!("{byte:02x}")).join(":");
        let queues = self.queues;
        let count = format!("numtxqueues {queues} numrxqueues {queues}");
        self.ip(&format!(
            "link add {near} {count} address {mac} type veth peer name {far} {count}"
        ));
        if queues > 1 {
            // All of them are made, but not all are in use.
            for name in [near, far] {
                let all = queues.to_string();
                program("ethtool").args(["-L", name, "rx", &all, "tx", &all]).ok();
            }
        }
        self.ip(&format!("link set {near} up"));
        self.ip(&format!("link set {far} up"));
    }

    pub(super) fn put(&mut self, interface: &'static str) -> &Program {
        self.programs.retain(|(name, ..)| *name != interface);
        let program = Program::redirect_all(self.queues).unwrap();
        // A program that another test starts has what was attached before until it runs.
        let attached = eventually_some("the hook", Duration::from_secs(5), || {
            program.attach(interface, Hook::Native)
        });
        self.programs.push((interface, program, attached));
        &self.programs.last().unwrap().1
    }

    pub(super) fn attach_far(&mut self, number: u16) {
        let name = ["f0", "f1"][usize::from(number)];
        let queues: Vec<_> = (0..self.queues).collect();
        let bound = self.far.bind_patiently(Slot(number), name, &queues, true).unwrap();
        self.put(name);
        for queue in bound {
            let name = ["f0", "f1"][usize::from(queue.slot.0)];
            let (_, program, _) = self.programs.iter().find(|(at, ..)| *at == name).unwrap();
            program.set_socket(queue.queue, queue.socket.as_fd()).unwrap();
        }
    }

    /// The one that is the worker's.
    pub(super) fn queue(&self) -> u32 {
        u32::from(self.id.0) % self.queues
    }

    pub(super) fn ask_attach(&self, slot: InterfaceSlot) -> oneshot::Receiver<AttachAnswer> {
        self.worker.attach(slot, ["n0", "n1"][usize::from(slot.0)], vec![self.queue()], true)
    }

    /// Attaches as the control thread does: sockets first, then the program.
    pub(super) fn attach(&mut self, slot: InterfaceSlot) -> usize {
        let bound = self.ask_attach(slot).blocking_recv().unwrap().unwrap();
        assert!(bound.iter().all(|queue| !queue.zero_copy));
        self.put(["n0", "n1"][usize::from(slot.0)]);
        let count = bound.len();
        bound.into_iter().for_each(|queue| self.take(queue));
        count
    }

    /// Puts a socket where the program finds it.
    pub(super) fn take(&self, queue: BoundQueue) {
        let name = ["n0", "n1"][usize::from(queue.slot.0)];
        let (_, program, _) = self.programs.iter().find(|(at, ..)| *at == name).unwrap();
        program.set_socket(queue.queue, queue.socket.as_fd()).unwrap();
    }

    /// Starts another worker, and attaches it to its queue of each link.
    pub(super) fn join(&self, config: WorkerConfig) -> WorkerHandle {
        let queue = u32::from(config.id.0) % self.queues;
        let (sender, _) = event_channel();
        let worker = spawn(config, Arc::clone(&self.published), sender).unwrap();
        for (slot, name) in [(CLIENTS, "n0"), (ENDPOINTS, "n1")] {
            let bound = worker.attach(slot, name, vec![queue], true).blocking_recv().unwrap();
            bound.unwrap().into_iter().for_each(|queue| self.take(queue));
        }
        worker
    }

    /// Waits for a queue that had to move.
    pub(super) fn wait_for_a_move(&mut self) -> BoundQueue {
        eventually_some("a queue to move", LIMIT, || {
            let moved = self.heard().into_iter().find_map(|event| match event {
                Event::Moved(queue) => Some(queue),
                _ => None,
            });
            moved.ok_or("not yet")
        })
    }

    pub(super) fn attach_both(&mut self) {
        self.attach(CLIENTS);
        self.attach(ENDPOINTS);
    }

    pub(super) fn detach(&self, slot: InterfaceSlot) -> usize {
        self.worker.detach(slot).blocking_recv().unwrap()
    }

    pub(super) fn publish(&self, generation: u64, endpoint_answered: bool) {
        for stats in &self.published.stats {
            stats.publish(tables(generation).1);
        }
        self.published.tables.publish(tables(generation).0);
        self.published.fib.publish(fib(endpoint_answered));
        self.worker.wake();
    }

    /// One packet of each client.
    pub(super) fn client_sends(&mut self, numbers: Range<u16>) {
        for number in numbers {
            self.transmit_query(client(number), number, 0);
        }
        self.far.flush();
    }

    /// Sends what one client says, as often as there are numbers, so that it
    /// comes in by that queue.
    pub(super) fn client_says(&mut self, from: SocketAddr, numbers: Range<u16>, queue: u32) {
        for number in numbers {
            self.transmit_query(from, number, queue);
        }
        self.far.flush();
    }

    fn transmit_query(&mut self, from: SocketAddr, number: u16, queue: u32) {
        let frame = frame::udp(from, vip()).payload(&number.to_be_bytes());
        let frame = frame.from(CLIENT_MAC).to(OUR_MACS[0]).bytes();
        self.far.transmit_copy(Slot(0), queue, &frame).unwrap();
    }

    /// Sends what the endpoint says to a source, as often as there are numbers.
    pub(super) fn endpoint_sends(&mut self, to: SocketAddr, numbers: Range<u16>) {
        for number in numbers {
            let frame = frame::udp(endpoint(), to).payload(&number.to_be_bytes());
            let frame = frame.from(ENDPOINT_MAC).to(OUR_MACS[1]).bytes();
            self.far.transmit_copy(Slot(1), 0, &frame).unwrap();
        }
        self.far.flush();
    }

    /// The UDP datagrams that have come out of one side: payload, and where
    /// from.
    pub(super) fn arrived(&mut self, side: u16, to: IpAddr) -> Vec<(u16, SocketAddr)> {
        let mut all = Vec::new();
        for number in 0..self.far.queues() {
            let mut frames = arrayvec::ArrayVec::new();
            let from = self.far.receive(number, &mut frames);
            for frame in frames {
                if let Some(seen) = datagram(frame.packet(), to)
                    && from.is_some_and(|(slot, _)| slot == Slot(side))
                {
                    all.push(seen);
                }
                self.far.release(frame);
            }
        }
        all
    }

    /// Waits for so many at the endpoint.
    pub(super) fn wait_at_endpoint(&mut self, count: usize) -> Vec<(u16, SocketAddr)> {
        let mut all = Vec::new();
        let until = Instant::now() + LIMIT;
        while all.len() < count {
            assert!(Instant::now() < until, "{} of {count}: {:?}", all.len(), self.counters());
            all.extend(self.arrived(1, endpoint().ip()));
        }
        all
    }

    pub(super) fn counters(&self) -> Vec<(String, u64)> {
        let counters = self.worker.status().pipeline.by_name();
        counters.into_iter().filter(|(_, value)| *value > 0).collect()
    }

    pub(super) fn dropped(&self, reason: DropReason) -> u64 {
        self.worker.status().pipeline.dropped(reason).value()
    }

    /// What the worker has told, in the order it did.
    pub(super) fn heard(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }

    /// Stops the worker: every frame must have come home.
    pub(super) fn stop(mut self) {
        self.far.close();
        let frames = self.worker.stop();
        assert_eq!(frames.born, frames.home);
        let mut events = std::iter::from_fn(|| self.events.blocking_recv());
        let told = events.find_map(|event| match event {
            Event::Stopped { frames, .. } => Some(frames),
            _ => None,
        });
        assert_eq!(told, Some(frames));
    }
}

/// The payload, a number, and the source of a UDP datagram to this address.
pub(super) fn datagram(frame: &[u8], to: IpAddr) -> Option<(u16, SocketAddr)> {
    let field = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    let address = |at: usize| <[u8; 4]>::try_from(frame.get(at..at + 4)?).ok();
    let is_ours = field(12)? == 0x0800 && *frame.get(23)? == 17 && IpAddr::from(address(30)?) == to;
    is_ours.then_some((field(42)?, SocketAddr::new(address(26)?.into(), field(34)?)))
}

pub(super) fn in_namespace(tag: &str, test: impl FnOnce(&str) + Send + 'static) {
    let namespace = Namespace::new(tag);
    let name = namespace.name().to_owned();
    namespace.inside(move || test(&name));
}
