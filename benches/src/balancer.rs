//! Blixt's own workers, with a listener for UDP and one for TCP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::sync::Arc;

use blixt_afxdp::nic;
use blixt_agent::worker::{
    FrameAccount, HoldLimits, Published, WorkerConfig, WorkerHandle, event_channel, spawn,
};
use blixt_dataplane::{
    CompileOptions, Fib, Interface, InterfaceSlot, Limits, Link, Neighbour, Path, PipelineConfig,
    Route, RouteAction, SlotStats, Slots, Tables, Tags, Timeouts, WorkerId, address,
};
use blixt_model::{
    Affinity, Backend, Endpoint, EndpointState, Gateway, Generation, HashSeed, Listener,
    ListenerName, Port, Protocol, RouteId, RouteKind, ServiceIndex, ServicePort, ServicePortId,
    Snapshot, Target, Weight,
};

use crate::Error;
use crate::contest::{Contestant, Running};
use crate::rig::{
    CLIENT, CORE, ENDPOINT_PORTS, FAR_MACS, Far, NEAR_IN, NEAR_OUT, OUR_MACS, Rig, SIZES, SNAT,
    Sockets, VIP, VIP_PORTS, endpoints,
};

/// Blixt.
#[derive(Debug, Clone)]
pub struct Blixt {
    workers: Vec<Seat>,
    hand_offs: Option<bool>,
}

/// Where a worker works.
#[derive(Debug, Clone)]
pub struct Seat {
    /// Its core.
    pub core: usize,
    /// Its queues of `n0` and of `n1`.
    pub queues: [Vec<u32>; 2],
}

/// Workers that run.
pub struct Balancing {
    names: Vec<String>,
    hand_offs: Option<bool>,
    workers: Vec<WorkerHandle>,
    _sockets: Sockets,
}

impl Blixt {
    /// With one worker, on the contestant's core, that has one queue of each
    /// interface.
    pub fn alone() -> Self {
        Self::new(vec![Seat { core: CORE, queues: [vec![0], vec![0]] }])
    }

    /// With these workers.
    pub fn new(workers: Vec<Seat>) -> Self {
        Self { workers, hand_offs: None }
    }

    /// The same, where nearly all replies, or nearly none, have to be handed
    /// from one worker to the other: or what is measured is not what is meant.
    #[must_use]
    pub fn with_hand_offs(self, all: bool) -> Self {
        Self { hand_offs: Some(all), ..self }
    }

    /// Starts it.
    pub fn balance(&self, rig: &Rig) -> Result<Balancing, Error> {
        let sockets = rig.sockets()?;
        let count = self.workers.len();
        let (tables, slots) = tables()?;
        let published = Arc::new(Published::with_room_for(count, count * FLOW_CAPACITY));
        for stats in &published.stats {
            stats.publish(SlotStats::default().grown_to(slots));
        }
        published.tables.publish(tables);
        published.fib.publish(fib(rig.far)?);
        let mut workers = Vec::new();
        for (id, seat) in (0..).map(WorkerId).zip(&self.workers) {
            let (events, _heard) = event_channel();
            let worker = spawn(config(id, seat.core), Arc::clone(&published), events)?;
            for ((slot, interface), queues) in
                [NEAR_IN, NEAR_OUT].into_iter().enumerate().zip(&seat.queues)
            {
                let slot = InterfaceSlot(slot as u16);
                for queue in
                    worker.attach(slot, interface, queues.clone(), true).blocking_recv()??
                {
                    sockets.set(usize::from(queue.slot.0), queue.queue, queue.socket.as_fd())?;
                }
            }
            workers.push(worker);
        }
        let names = workers.iter().map(|worker| format!("blixt-worker-{}", worker.id().0));
        Ok(Balancing {
            names: names.collect(),
            hand_offs: self.hand_offs,
            workers,
            _sockets: sockets,
        })
    }
}

impl Contestant for Blixt {
    fn start(&self, rig: &Rig) -> Result<Box<dyn Running>, Error> {
        Ok(Box::new(self.balance(rig)?))
    }
}

impl Balancing {
    /// Ends it where nothing was to be balanced.
    pub fn end(self) -> Result<(), Error> {
        for worker in self.workers {
            all_home(worker.stop())?;
        }
        Ok(())
    }

    /// How often a worker has gone to sleep.
    pub fn sleeps(&self) -> u64 {
        self.workers.iter().map(|worker| worker.status().sleeps.value()).sum()
    }
}

impl Running for Balancing {
    fn threads(&self) -> &[String] {
        &self.names
    }

    /// Nothing may have been dropped but for want of a place to be.
    fn stop(self: Box<Self>) -> Result<(), Error> {
        let Self { workers, hand_offs, .. } = *self;
        let mut counters = BTreeMap::<String, u64>::new();
        for worker in workers {
            let status = Arc::clone(worker.status());
            all_home(worker.stop())?;
            for (name, count) in status.pipeline.by_name() {
                *counters.entry(name).or_default() += count;
            }
        }
        counters.retain(|_, count| *count > 0);
        let count = |name: &str| counters.get(name).copied().unwrap_or(0);
        let (replies, handed_off) = (count("to_clients"), count("handed_off"));
        let is_fault = |name: &str| name.starts_with("drop.") && !NO_FAULT.contains(&name);
        let faults = counters.iter().filter(|(name, _)| is_fault(name));
        let faults: u64 = faults.map(|(_, count)| count).sum();
        if faults * 100 > count("to_endpoints") {
            return Err(format!("the workers did not balance: {counters:?}").into());
        }
        match hand_offs {
            Some(true) if handed_off * 10 < replies * 9 => {}
            Some(false) if handed_off * 10 > replies => {}
            _ => return Ok(()),
        }
        Err(format!("{handed_off} packets were handed over, with {replies} replies").into())
    }
}

fn all_home(frames: FrameAccount) -> Result<(), Error> {
    if frames.born == frames.home {
        return Ok(());
    }
    Err(format!("a worker lost frames: {frames:?}").into())
}

/// Drops that are no fault of a worker's: overload, and packets that it had
/// been handed when it was told to stop.
const NO_FAULT: [&str; 3] = ["drop.tx_ring_full", "drop.hand_off_full", "drop.interface_gone"];

/// Room for the largest number of flows that is measured, and some.
const FLOW_CAPACITY: usize = 1 << 18;

fn config(id: WorkerId, core: usize) -> WorkerConfig {
    WorkerConfig {
        id,
        core: Some(core),
        pipeline: PipelineConfig {
            worker: id,
            flow_capacity: FLOW_CAPACITY,
            snat_ports: 1_024..=65_535,
            hash_key: [1, 2],
            timeouts: Timeouts::default(),
            limits: Limits::default(),
        },
        sizes: SIZES,
        hold: HoldLimits::default(),
        spin: false,
    }
}

/// The tables, and how many slots they need.
fn tables() -> Result<(Tables, usize), Error> {
    let [udp, tcp] = [(Protocol::Udp, RouteKind::Udp), (Protocol::Tcp, RouteKind::Tcp)];
    let mut listeners = Vec::new();
    let mut services = Vec::new();
    let ports = VIP_PORTS.into_iter().zip(ENDPOINT_PORTS);
    for (index, ((protocol, kind), (port, target))) in [udp, tcp].into_iter().zip(ports).enumerate()
    {
        let name = format!("default/service-{index}");
        let port = Port::new(port)?;
        let endpoint = |address: Ipv4Addr| {
            Ok(Endpoint {
                address: address.into(),
                port: Port::new(target)?,
                state: EndpointState::Ready,
            })
        };
        services.push(ServicePort {
            id: ServicePortId { service: name.parse()?, protocol, port },
            affinity: Affinity::None,
            endpoints: endpoints().map(endpoint).collect::<Result<_, Error>>()?,
        });
        listeners.push(Listener {
            name: ListenerName::new(format!("listener-{index}"))?,
            protocol,
            port,
            route: Some(RouteId { kind, name: name.parse()? }),
            backends: vec![Backend {
                weight: Weight::new(1)?,
                target: Target::Service(ServiceIndex(index as u32)),
            }],
        });
    }
    let gateway = Gateway {
        name: "default/bench".parse()?,
        addresses: vec![VIP.parse()?],
        listeners,
        streams: vec![],
    };
    let snapshot = Snapshot::new(Generation(1), HashSeed(1), vec![gateway], services)?;
    let options = CompileOptions {
        snat_addresses: BTreeSet::from([SNAT.parse()?]),
        ..CompileOptions::default()
    };
    let mut slots = Slots::default();
    let tables = Tables::compile(&snapshot, &options, &mut slots, &Tables::default())?;
    Ok((tables, slots.capacity()))
}

fn fib(far: Far) -> Result<Fib, Error> {
    let mut interfaces = Vec::new();
    let mut links = Vec::new();
    let mut routes = Vec::new();
    let mut indices = Vec::new();
    let networks = [IpAddr::from([192, 0, 2, 0]), IpAddr::from([10, 1, 0, 0])];
    let near = [NEAR_IN, NEAR_OUT].into_iter().zip(OUR_MACS).zip(networks);
    for (slot, ((name, mac), network)) in near.enumerate() {
        let ifindex = nic::ifindex(name)?;
        indices.push(ifindex);
        interfaces.push(Interface { ifindex, mac, partial_checksums: true });
        links.push(Link {
            ifindex,
            attached: Some(InterfaceSlot(slot as u16)),
            mac,
            mtu: 1_500,
            tags: Tags::new(),
        });
        let path = RouteAction::Forward(vec![Path { ifindex, via: None }]);
        routes.push(Route::new(network, 24, 0, path));
    }
    let [inside, outside] = *indices.as_slice() else { return Err("there are two sides".into()) };
    let [client_mac, _] = FAR_MACS;
    let neighbour =
        |ifindex, address: IpAddr| Neighbour { ifindex, address: address::from_ip(address) };
    let mut neighbours = vec![(neighbour(inside, CLIENT.parse()?), client_mac)];
    let last = |number: u8| IpAddr::from([192, 0, 2, number]);
    // More flows than one client has ports for come from the next addresses.
    neighbours.extend((3..35).map(|number| (neighbour(inside, last(number)), client_mac)));
    neighbours.extend(endpoints().map(|to| (neighbour(outside, to.into()), far.next_hop())));
    Ok(Fib::new(interfaces, links, routes, neighbours))
}
