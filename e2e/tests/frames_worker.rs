//! A worker on real veths: packets are balanced, held and sent on, and every
//! frame comes home, whatever is attached, detached, busy or gone.
//!
//! Everything is in one network namespace. The worker has `n0` towards the
//! client and `n1` towards the endpoint; the test plays both of them on the
//! peers, `f0` and `f1`. Instead of the real XDP program one stands there that
//! hands over everything.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with what went wrong"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_afxdp::lab::{Attached, Hook, Program};
use blixt_afxdp::{BindError, Exchange, FrameBytes, Sizes, Slot};
use blixt_agent::worker::{
    AttachAnswer, BoundQueue, Command, Event, FrameAccount, HoldLimits, Published, WorkerConfig,
    WorkerHandle, event_channel, spawn,
};
use blixt_dataplane::{
    CompileOptions, DropReason, Fib, Interface, InterfaceSlot, Limits, Link, Mac, Neighbour, Path,
    PipelineConfig, Route, RouteAction, SlotStats, Slots, Tables, Tags, Timeouts, WorkerId,
    address,
};
use blixt_model::{
    Affinity, Backend, Endpoint, EndpointState, Gateway, Generation, HashSeed, Listener,
    ListenerName, Port, Protocol, RouteId, RouteKind, ServiceIndex, ServicePort, ServicePortId,
    Snapshot, Target, Weight,
};
use blixt_testkit::frame;
use blixt_testkit::netns::{Namespace, eventually, eventually_some, program};
use blixt_testkit::require_root;
use nix::net::if_::if_nametoindex;
use tokio::sync::{mpsc, oneshot};

const CLIENTS: InterfaceSlot = InterfaceSlot(0);
const ENDPOINTS: InterfaceSlot = InterfaceSlot(1);
const OUR_MACS: [Mac; 2] = [[2, 0, 0, 0, 0, 0xb0], [2, 0, 0, 0, 0, 0xb1]];
const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 0xc1];
const ENDPOINT_MAC: Mac = [2, 0, 0, 0, 0, 0xe1];
const LIMIT: Duration = Duration::from_secs(10);
const SIZES: Sizes = Sizes { frames: 2_048, frame_bytes: FrameBytes::Half, ring_entries: 512 };

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn client(number: u16) -> SocketAddr {
    SocketAddr::new(ip("192.0.2.2"), 20_000 + number)
}

/// One whose MAC address is known only when the endpoint's is.
fn late_client() -> SocketAddr {
    SocketAddr::new(ip("192.0.2.3"), 20_000)
}

fn vip() -> SocketAddr {
    SocketAddr::new(ip("192.0.2.100"), 53)
}

fn endpoint() -> SocketAddr {
    SocketAddr::new(ip("10.1.0.2"), 5_353)
}

/// One UDP listener with one endpoint.
fn tables(generation: u64) -> (Tables, SlotStats) {
    let name = || "default/dns".parse().unwrap();
    let service = ServicePort {
        id: ServicePortId {
            service: name(),
            protocol: Protocol::Udp,
            port: Port::new(53).unwrap(),
        },
        affinity: Affinity::None,
        endpoints: vec![Endpoint {
            address: endpoint().ip(),
            port: Port::new(endpoint().port()).unwrap(),
            state: EndpointState::Ready,
        }],
    };
    let listener = Listener {
        name: ListenerName::new("dns").unwrap(),
        protocol: Protocol::Udp,
        port: Port::new(53).unwrap(),
        route: Some(RouteId { kind: RouteKind::Udp, name: name() }),
        backends: vec![Backend {
            weight: Weight::new(1).unwrap(),
            target: Target::Service(ServiceIndex(0)),
        }],
    };
    let gateway = Gateway { name: name(), addresses: vec![vip().ip()], listeners: vec![listener] };
    let snapshot =
        Snapshot::new(Generation(generation), HashSeed(1), vec![gateway], vec![service]).unwrap();
    let options = CompileOptions {
        snat_addresses: BTreeSet::from([ip("10.1.0.100")]),
        ..CompileOptions::default()
    };
    let mut slots = Slots::default();
    let tables = Tables::compile(&snapshot, &options, &mut slots, &Tables::default()).unwrap();
    let stats = SlotStats::default().grown_to(slots.capacity());
    (tables, stats)
}

/// The two links, with the client known, and the endpoint if it has answered.
fn fib(endpoint_answered: bool) -> Fib {
    let ifindexes = ["n0", "n1"].map(|name| if_nametoindex(name).unwrap_or(0));
    let interfaces = ifindexes.iter().zip(OUR_MACS).map(|(&ifindex, mac)| Interface {
        ifindex,
        mac,
        partial_checksums: true,
    });
    let links = ifindexes.iter().zip(OUR_MACS).enumerate().map(|(slot, (&ifindex, mac))| Link {
        ifindex,
        attached: Some(InterfaceSlot(slot as u16)),
        mac,
        mtu: 1_500,
        tags: Tags::new(),
    });
    let to = |side: usize| RouteAction::Forward(vec![Path { ifindex: ifindexes[side], via: None }]);
    let routes =
        [Route::new(ip("192.0.2.0"), 24, 0, to(0)), Route::new(ip("10.1.0.0"), 24, 0, to(1))];
    let mut neighbours = vec![(neighbour(0, client(0).ip()), CLIENT_MAC)];
    if endpoint_answered {
        neighbours.push((neighbour(1, endpoint().ip()), ENDPOINT_MAC));
        neighbours.push((neighbour(0, late_client().ip()), CLIENT_MAC));
    }
    Fib::new(interfaces.collect(), links, routes, neighbours)
}

fn neighbour(side: usize, address: IpAddr) -> Neighbour {
    let ifindex = if_nametoindex(["n0", "n1"][side]).unwrap_or(0);
    Neighbour { ifindex, address: address::from_ip(address) }
}

fn config(id: WorkerId, hold: HoldLimits) -> WorkerConfig {
    WorkerConfig {
        id,
        core: Some(0),
        pipeline: PipelineConfig {
            worker: id,
            flow_capacity: 4_096,
            snat_ports: 1_024..=65_535,
            hash_key: [1, 2],
            timeouts: Timeouts::default(),
            limits: Limits::default(),
        },
        sizes: SIZES,
        hold,
        spin: false,
    }
}

/// The worker, and the rest of the world.
struct World {
    namespace: String,
    published: Arc<Published>,
    id: WorkerId,
    worker: WorkerHandle,
    events: mpsc::UnboundedReceiver<Event>,
    /// On n0, n1, f0, f1.
    programs: Vec<(&'static str, Program, Attached)>,
    far: Exchange,
}

impl World {
    fn new(namespace: &str) -> Self {
        Self::with(namespace, WorkerId(0), HoldLimits::default())
    }

    fn with(namespace: &str, id: WorkerId, hold: HoldLimits) -> Self {
        Self::of(namespace, config(id, hold))
    }

    fn of(namespace: &str, config: WorkerConfig) -> Self {
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
        };
        for number in [0, 1] {
            world.add_link(number);
            world.attach_far(number);
        }
        world.publish(1, true);
        world
    }

    fn ip(&self, arguments: &str) {
        program("ip").args(["-n", &self.namespace]).args(arguments.split_whitespace()).ok();
    }

    fn add_link(&self, number: u16) {
        let [near, far] = [["n0", "f0"], ["n1", "f1"]][usize::from(number)];
        let mac = OUR_MACS[usize::from(number)].map(|byte| format!("{byte:02x}")).join(":");
        self.ip(&format!("link add {near} address {mac} type veth peer name {far}"));
        self.ip(&format!("link set {near} up"));
        self.ip(&format!("link set {far} up"));
    }

    fn put(&mut self, interface: &'static str) -> &Program {
        self.programs.retain(|(name, ..)| *name != interface);
        let program = Program::redirect_all(1).unwrap();
        let attached = program.attach(interface, Hook::Native).unwrap();
        self.programs.push((interface, program, attached));
        &self.programs.last().unwrap().1
    }

    fn attach_far(&mut self, number: u16) {
        let name = ["f0", "f1"][usize::from(number)];
        let bound = self.far.bind_patiently(Slot(number), name, &[0], true).unwrap();
        self.put(name);
        for queue in bound {
            let name = ["f0", "f1"][usize::from(queue.slot.0)];
            let (_, program, _) = self.programs.iter().find(|(at, ..)| *at == name).unwrap();
            program.set_socket(0, queue.socket.as_fd()).unwrap();
        }
    }

    fn ask_attach(&self, slot: InterfaceSlot) -> oneshot::Receiver<AttachAnswer> {
        self.worker.attach(slot, ["n0", "n1"][usize::from(slot.0)], vec![0], true)
    }

    /// Attaches as the control thread does: sockets first, then the program.
    fn attach(&mut self, slot: InterfaceSlot) -> usize {
        let bound = self.ask_attach(slot).blocking_recv().unwrap().unwrap();
        assert!(bound.iter().all(|queue| !queue.zero_copy));
        self.put(["n0", "n1"][usize::from(slot.0)]);
        let count = bound.len();
        bound.into_iter().for_each(|queue| self.take(queue));
        count
    }

    /// Puts a socket where the program finds it.
    fn take(&self, queue: BoundQueue) {
        let name = ["n0", "n1"][usize::from(queue.slot.0)];
        let (_, program, _) = self.programs.iter().find(|(at, ..)| *at == name).unwrap();
        program.set_socket(queue.queue, queue.socket.as_fd()).unwrap();
    }

    /// Waits for a queue that had to move.
    fn wait_for_a_move(&mut self) -> BoundQueue {
        eventually_some("a queue to move", LIMIT, || {
            let moved = self.heard().into_iter().find_map(|event| match event {
                Event::Moved(queue) => Some(queue),
                _ => None,
            });
            moved.ok_or("not yet")
        })
    }

    fn attach_both(&mut self) {
        self.attach(CLIENTS);
        self.attach(ENDPOINTS);
    }

    fn detach(&self, slot: InterfaceSlot) -> usize {
        self.worker.detach(slot).blocking_recv().unwrap()
    }

    fn publish(&self, generation: u64, endpoint_answered: bool) {
        let (tables, stats) = tables(generation);
        self.published.stats[usize::from(self.id.0)].publish(stats);
        self.published.tables.publish(tables);
        self.published.fib.publish(fib(endpoint_answered));
        self.worker.wake();
    }

    fn client_sends(&mut self, numbers: std::ops::Range<u16>) {
        for number in numbers {
            let frame = frame::udp(client(number), vip()).payload(&number.to_be_bytes());
            let frame = frame.from(CLIENT_MAC).to(OUR_MACS[0]).bytes();
            self.far.transmit_copy(Slot(0), 0, &frame).unwrap();
        }
        self.far.flush();
    }

    /// Sends what the endpoint says to a source, as often as there are numbers.
    fn endpoint_sends(&mut self, to: SocketAddr, numbers: std::ops::Range<u16>) {
        for number in numbers {
            let frame = frame::udp(endpoint(), to).payload(&number.to_be_bytes());
            let frame = frame.from(ENDPOINT_MAC).to(OUR_MACS[1]).bytes();
            self.far.transmit_copy(Slot(1), 0, &frame).unwrap();
        }
        self.far.flush();
    }

    /// The UDP datagrams that have come out of one side: payload, and where
    /// from.
    fn arrived(&mut self, side: u16, to: IpAddr) -> Vec<(u16, SocketAddr)> {
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
    fn wait_at_endpoint(&mut self, count: usize) -> Vec<(u16, SocketAddr)> {
        let mut all = Vec::new();
        let until = Instant::now() + LIMIT;
        while all.len() < count {
            assert!(Instant::now() < until, "{} of {count}: {:?}", all.len(), self.counters());
            all.extend(self.arrived(1, endpoint().ip()));
        }
        all
    }

    fn counters(&self) -> Vec<(String, u64)> {
        let counters = self.worker.status().pipeline.by_name();
        counters.into_iter().filter(|(_, value)| *value > 0).collect()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.worker.status().pipeline.dropped(reason).value()
    }

    /// What the worker has told, in the order it did.
    fn heard(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }

    /// Stops the worker: every frame must have come home.
    fn stop(mut self) {
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
fn datagram(frame: &[u8], to: IpAddr) -> Option<(u16, SocketAddr)> {
    let field = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    let address = |at: usize| <[u8; 4]>::try_from(frame.get(at..at + 4)?).ok();
    let is_ours = field(12)? == 0x0800 && *frame.get(23)? == 17 && IpAddr::from(address(30)?) == to;
    is_ours.then_some((field(42)?, SocketAddr::new(address(26)?.into(), field(34)?)))
}

fn in_namespace(tag: &str, test: impl FnOnce(&str) + Send + 'static) {
    let namespace = Namespace::new(tag);
    let name = namespace.name().to_owned();
    namespace.inside(move || test(&name));
}

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
fn a_packet_waits_for_its_neighbour_and_leaves_when_it_is_known() {
    require_root!();
    in_namespace("hold", |namespace| {
        let mut world = World::new(namespace);
        world.attach_both();
        world.publish(2, false);
        world.client_sends(0..5);
        let status = Arc::clone(world.worker.status());
        eventually("five packets to wait", LIMIT, || status.holding.value() == 5);
        let asked = world.heard().into_iter().filter_map(|event| match event {
            Event::Unresolved(neighbour) => Some(neighbour),
            _ => None,
        });
        let asked: Vec<_> = asked.collect();
        assert_eq!(asked.first(), Some(&neighbour(1, endpoint().ip())));
        assert!(asked.len() <= 3, "{asked:?}");

        world.publish(3, true);
        let mut arrived = world.wait_at_endpoint(5);
        arrived.sort_unstable();
        assert_eq!(arrived.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        eventually("none to wait", LIMIT, || status.holding.value() == 0);
        assert_eq!(world.dropped(DropReason::Unresolved), 0);
        world.stop();
    });
}

#[test]
fn what_waits_too_long_or_is_too_much_is_dropped_by_name() {
    require_root!();
    in_namespace("late", |namespace| {
        let patience = Duration::from_millis(300);
        let limits = HoldLimits { packets: 8, per_neighbour: 4, patience };
        let mut world = World::with(namespace, WorkerId(0), limits);
        world.attach_both();
        world.publish(2, false);
        world.client_sends(0..6);
        eventually("two too many", LIMIT, || world.dropped(DropReason::HoldFull) == 2);
        eventually("four too late", LIMIT, || world.dropped(DropReason::Unresolved) == 4);
        let status = Arc::clone(world.worker.status());
        eventually("all frames but those of the rings to be home", LIMIT, || {
            status.holding.value() == 0
        });
        // Still waiting when the worker stops.
        world.client_sends(6..8);
        eventually("two to wait", LIMIT, || status.holding.value() == 2);
        world.stop();
    });
}

#[test]
fn a_sleeping_worker_takes_up_what_is_published_at_once() {
    require_root!();
    in_namespace("wake", |namespace| {
        let mut world = World::new(namespace);
        world.attach_both();
        let status = Arc::clone(world.worker.status());
        for generation in 2..12 {
            std::thread::sleep(Duration::from_millis(15));
            let start = Instant::now();
            world.publish(generation, true);
            while status.tables_generation.value() != generation {
                assert!(start.elapsed() < Duration::from_millis(60), "generation {generation}");
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        world.stop();
    });
}

#[test]
fn a_worker_with_nothing_to_do_sleeps() {
    require_root!();
    in_namespace("idle", |namespace| {
        // Other tests have their workers in the same process: one of its own name.
        let mut world = World::with(namespace, WorkerId(9), HoldLimits::default());
        world.attach_both();
        std::thread::sleep(Duration::from_millis(500));
        let before = cpu_time_of("blixt-worker-9");
        let start = Instant::now();
        std::thread::sleep(Duration::from_secs(2));
        let used = cpu_time_of("blixt-worker-9") - before;
        let share = used.as_secs_f64() / start.elapsed().as_secs_f64();
        // The bound is for a release build; this one is several times slower.
        let most = if cfg!(debug_assertions) { 0.05 } else { 0.01 };
        assert!(share <= most, "{:.2} % of a core", share * 100.0);
        assert!(world.worker.status().sleeps.value() > 0);
        world.stop();
    });
}

/// The CPU time of this process's threads of this name.
fn cpu_time_of(thread: &str) -> Duration {
    let stats = told_of(thread, "schedstat").into_iter();
    stats
        .filter_map(|stat| stat.split_whitespace().next()?.parse().ok())
        .map(Duration::from_nanos)
        .sum()
}

/// How often these threads have waited for something.
fn waits_of(thread: &str) -> u64 {
    const SWITCHES: &str = "\nvoluntary_ctxt_switches:";
    let stats = told_of(thread, "status").into_iter();
    stats
        .filter_map(|stat| stat.split_once(SWITCHES)?.1.lines().next()?.trim().parse::<u64>().ok())
        .sum()
}

/// What the kernel tells of this process's threads of this name.
fn told_of(thread: &str, file: &str) -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let of_name = tasks.filter(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == thread)
    });
    of_name.filter_map(|task| std::fs::read_to_string(task.path().join(file)).ok()).collect()
}

#[test]
fn letting_go_of_an_interface_makes_the_others_wait_for_nothing() {
    const TIMES: u64 = 5;
    require_root!();
    in_namespace("letgo", |namespace| {
        // One that never sleeps, so that whatever it waits for is that.
        let busy = WorkerConfig { spin: true, ..config(WorkerId(8), HoldLimits::default()) };
        let mut world = World::of(namespace, busy);
        world.attach_both();
        let mut waits = 0;
        for _ in 0..TIMES {
            world.client_sends(0..100);
            world.wait_at_endpoint(100);
            let before = waits_of("blixt-worker-8");
            let begin = Instant::now();
            // Not the first: its socket stays as long as there are others.
            assert_eq!(world.detach(ENDPOINTS), 1);
            waits += waits_of("blixt-worker-8") - before;
            println!("its queue was free after {:?}", begin.elapsed());
            world.attach(ENDPOINTS);
        }
        let status = Arc::clone(world.worker.status());
        world.stop();
        let longest = Duration::from_nanos(status.longest_turn_ns.value());
        println!("{waits} waits, and {longest:?} for the longest turn, with binding");
        // To close a socket is to wait.
        assert!(waits < TIMES / 2, "{waits}");
    });
}

#[test]
fn a_busy_queue_is_waited_for_while_the_rest_goes_on() {
    require_root!();
    in_namespace("busy", |namespace| {
        let mut world = World::new(namespace);
        world.attach(CLIENTS);
        let mut other = Exchange::new(SIZES).unwrap();
        drop(other.bind(Slot(1), "n1", &[0], true).unwrap());
        let answer = world.ask_attach(ENDPOINTS);
        std::thread::sleep(Duration::from_millis(200));
        let answer = match answer.try_into_pending() {
            Ok(pending) => pending,
            Err(answer) => panic!("answered too early: {answer:?}"),
        };
        // Meanwhile what comes in on the other interface is looked at.
        let before = world.worker.status().pipeline.by_name();
        world.client_sends(0..1);
        eventually("a packet to be dropped for want of a way out", LIMIT, || {
            world.worker.status().pipeline.by_name() != before
        });
        other.close();
        assert_eq!(answer.blocking_recv().unwrap().unwrap().len(), 1);

        // One that stays busy is given up, by name.
        assert_eq!(world.detach(ENDPOINTS), 1);
        drop(other.bind_patiently(Slot(1), "n1", &[0], true).unwrap());
        let start = Instant::now();
        let error = world.ask_attach(ENDPOINTS).blocking_recv().unwrap().unwrap_err();
        assert!(matches!(&error, BindError::Busy { queue: 0, .. }), "{error}");
        assert!(start.elapsed() >= Duration::from_millis(1_900));
        drop(other);
        world.stop();
    });
}

trait Pending: Sized {
    /// Itself, if there is no answer yet.
    fn try_into_pending(self) -> Result<Self, AttachAnswer>;
}

impl Pending for oneshot::Receiver<AttachAnswer> {
    fn try_into_pending(mut self) -> Result<Self, AttachAnswer> {
        self.try_recv().map_or_else(|_| Ok(self), Err)
    }
}

#[test]
fn an_interface_that_vanishes_is_told_of_and_attached_again_when_it_returns() {
    require_root!();
    in_namespace("gone", |namespace| {
        let mut world = World::new(namespace);
        world.attach_both();
        world.client_sends(0..10);
        world.wait_at_endpoint(10);

        world.ip("link del n0");
        let mut told = Vec::new();
        eventually("the worker to notice", LIMIT, || {
            told.extend(world.heard());
            told.iter().any(|event| matches!(event, Event::QueueDead { slot: CLIENTS, .. }))
        });
        assert_eq!(world.detach(CLIENTS), 1);
        world.far.unbind(Slot(0));

        world.add_link(0);
        world.attach_far(0);
        // The memory was registered with the socket that is gone, so the
        // other interface gets a new one too.
        assert_eq!(world.attach(CLIENTS), 1);
        let moved = world.wait_for_a_move();
        assert_eq!(moved.slot, ENDPOINTS);
        world.take(moved);
        world.publish(2, true);
        world.client_sends(0..100);
        world.wait_at_endpoint(100);
        let status = Arc::clone(world.worker.status());
        // The memory of before is no more.
        eventually("frames to be counted anew", LIMIT, || status.frames_now().born == 2_048);
        world.stop();
        assert_eq!(status.interface(ENDPOINTS).unwrap().copied.value(), 0);
        assert_eq!(status.frames(), FrameAccount { born: 4_096, home: 4_096 });
        assert_eq!(status.frames_now(), FrameAccount { born: 0, home: 0 });
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

#[test]
fn a_link_that_takes_nothing_drops_by_name_and_recovers_by_itself() {
    require_root!();
    in_namespace("txfull", |namespace| {
        let mut world = World::new(namespace);
        world.attach_both();
        world.client_sends(0..1);
        let before = world.wait_at_endpoint(1);
        world.ip("link set n1 down");
        // The ring holds 512 of them.
        let until = Instant::now() + LIMIT;
        while world.dropped(DropReason::TxRingFull) == 0 {
            assert!(Instant::now() < until, "{:?}", world.counters());
            world.client_sends(0..200);
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = Arc::clone(world.worker.status());
        let full = || status.interface(ENDPOINTS).unwrap().tx_ring_full.value();
        eventually("the metric to say so", LIMIT, || full() > 0);
        world.ip("link set n1 up");
        // What waited in the ring leaves first; what comes now passes as before.
        let until = Instant::now() + LIMIT;
        let (mut waited, mut dropped) = (0, 0);
        loop {
            assert!(Instant::now() < until, "{:?}", world.counters());
            dropped = world.dropped(DropReason::TxRingFull).max(dropped);
            world.client_sends(0..1);
            std::thread::sleep(Duration::from_millis(5));
            let arrived = world.arrived(1, endpoint().ip());
            waited += arrived.len();
            // The flow is what it was.
            if arrived == before {
                break;
            }
        }
        assert!(waited >= 512, "{waited}");
        assert_eq!(world.dropped(DropReason::TxRingFull), dropped);
        world.stop();
    });
}

#[test]
fn an_owner_that_takes_nothing_costs_only_its_own_packets() {
    require_root!();
    in_namespace("notaken", |namespace| {
        // Worker 0 has not begun: nothing finds room in its mailbox.
        let mut world = World::with(namespace, WorkerId(1), HoldLimits::default());
        world.attach_both();
        world.client_sends(0..1);
        let before = world.wait_at_endpoint(1);
        let (_, mine) = before[0];
        // The ports are dealt out in turn: this one is worker 0's.
        let other = SocketAddr::new(mine.ip(), mine.port() ^ 1);
        world.endpoint_sends(other, 0..20);
        eventually("them to be dropped", LIMIT, || world.dropped(DropReason::HandOffFull) == 20);
        world.client_sends(0..1);
        assert_eq!(world.wait_at_endpoint(1), before, "its own flow goes on");

        let (sender, _events) = event_channel();
        let zero = config(WorkerId(0), HoldLimits::default());
        let zero = spawn(zero, Arc::clone(&world.published), sender).unwrap();
        let handed_off = &Arc::clone(world.worker.status()).pipeline.handed_off;
        let until = Instant::now() + LIMIT;
        while handed_off.value() == 0 {
            assert!(Instant::now() < until, "{:?}", world.counters());
            world.endpoint_sends(other, 0..1);
            std::thread::sleep(Duration::from_millis(5));
        }
        zero.stop();
        world.stop();
    });
}

#[test]
fn without_a_free_frame_packets_are_lost_by_name_until_there_are_some() {
    require_root!();
    in_namespace("noframe", |namespace| {
        // As many as there are frames may wait: more than an agent allows.
        let hold = HoldLimits {
            packets: 4_096,
            per_neighbour: 4_096,
            patience: Duration::from_millis(1_500),
        };
        let mut world = World::with(namespace, WorkerId(0), hold);
        world.attach_both();
        world.client_sends(0..1);
        let before = world.wait_at_endpoint(1);
        world.publish(2, false);
        let status = Arc::clone(world.worker.status());
        let missed = || {
            let clients = status.interface(CLIENTS).unwrap();
            clients.fill_ring_empty.value() + clients.rx_dropped.value()
        };
        let until = Instant::now() + LIMIT;
        while missed() == 0 || world.dropped(DropReason::NoFrame) == 0 {
            assert!(Instant::now() < until, "{} held", status.holding.value());
            world.client_sends(0..200);
            // Packets of the worker's own find no frame either.
            world.worker.send(Command::Announce);
            std::thread::sleep(Duration::from_millis(1));
        }

        // Those that wait give up, and their frames are there again.
        eventually("them to give up", LIMIT, || status.holding.value() == 0);
        assert!(world.dropped(DropReason::Unresolved) > 0);
        world.publish(3, true);
        eventually("free frames", LIMIT, || status.frames_home.value() > 500);
        world.arrived(1, endpoint().ip());
        let lost = world.dropped(DropReason::NoFrame);
        world.client_sends(0..1);
        assert_eq!(world.wait_at_endpoint(1), before, "the flow is what it was");
        assert_eq!(world.dropped(DropReason::NoFrame), lost);
        world.stop();
    });
}

#[test]
fn a_neighbour_that_does_not_answer_leaves_room_for_others() {
    require_root!();
    in_namespace("share", |namespace| {
        let patience = Duration::from_secs(5);
        let limits = HoldLimits { packets: 16, per_neighbour: 4, patience };
        let mut world = World::with(namespace, WorkerId(0), limits);
        world.attach_both();
        let query = frame::udp(late_client(), vip()).payload(&[0, 7]);
        let query = query.from(CLIENT_MAC).to(OUR_MACS[0]).bytes();
        world.far.transmit_copy(Slot(0), 0, &query).unwrap();
        world.far.flush();
        let (_, snat) = world.wait_at_endpoint(1)[0];
        world.publish(2, false);
        world.client_sends(0..100);
        eventually("its share to be taken", LIMIT, || world.dropped(DropReason::HoldFull) == 96);
        // Answers to a client that is not known either wait besides.
        world.endpoint_sends(snat, 0..3);
        let status = Arc::clone(world.worker.status());
        eventually("all to wait", LIMIT, || status.holding.value() == 7);
        assert_eq!(world.dropped(DropReason::HoldFull), 96);
        world.publish(3, true);
        let mut answers = Vec::new();
        let until = Instant::now() + LIMIT;
        while answers.len() < 3 {
            assert!(Instant::now() < until, "{answers:?}: {:?}", world.counters());
            answers.extend(world.arrived(0, late_client().ip()));
        }
        assert_eq!(answers.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2]);
        eventually("none to wait", LIMIT, || status.holding.value() == 0);
        assert_eq!(world.dropped(DropReason::Unresolved), 0);
        world.stop();
    });
}
