//! What the agent shows of itself: to /metrics, /readyz and blixtctl.
//!
//! The control thread writes it, anybody reads. Counters are read where the
//! workers count; everything else is a copy that is replaced as a whole.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use blixt_afxdp::nic::Offload;
use blixt_gateway::{Refusal, Statuses, Warning};
use blixt_model::Generation;

use crate::configured::Unusable;
use crate::hostpath::Addresses;
use crate::memory::Memory;
use crate::streams::Running;
use crate::sync::Reach;
use crate::tables::Applied;
use crate::traffic::Counted;
use crate::worker::{Published, Shared, WorkerStatus};
use crate::xdp::{AttachedMode, Counts};

/// The agent, as others see it.
#[derive(Debug)]
pub struct State {
    /// When it started, by the wall clock.
    pub started_at: SystemTime,
    /// When it started, by a clock that nobody sets.
    pub started: Instant,
    /// Where it learns what is wanted.
    pub source: String,
    /// The ports that are used of each.
    pub snat_ports: RangeInclusive<u16>,
    /// Flows that each worker can hold.
    pub flow_capacity: usize,
    /// The way through the node's kernel; `None` if it is off.
    pub host_path: Option<HostPathState>,
    /// What flows and frames take.
    pub memory: Memory,
    /// The workers.
    pub workers: Vec<WorkerState>,
    /// Where the workers' slot counters are.
    pub published: Arc<Published>,
    /// What is in force.
    pub applied: Arc<ArcSwap<Applied>>,
    /// The streams, once there are any.
    pub streams: Running,
    /// All that the control thread knows.
    pub control: ArcSwap<ControlState>,
}

/// The way through the node's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPathState {
    /// What flows on it leave from.
    pub addresses: Addresses,
    /// How many of them there may be, of all workers.
    pub flow_limit: usize,
}

/// One worker.
#[derive(Debug)]
pub struct WorkerState {
    /// The core it is pinned to.
    pub core: Option<usize>,
    /// What it counts.
    pub status: Arc<WorkerStatus>,
}

/// What the control thread knows, at one moment.
#[derive(Debug, Clone, Default)]
pub struct ControlState {
    /// The interfaces, by slot.
    pub interfaces: Vec<InterfaceState>,
    /// What became of each object.
    pub statuses: Statuses,
    /// What is refused of the manifests.
    pub refusals: Vec<Refusal>,
    /// What was hardly meant so.
    pub warnings: Vec<Warning>,
    /// The newest snapshot.
    pub wanted: Generation,
    /// Why that is not in force, if it is not.
    pub refused: Option<String>,
    /// What the XDP program has counted.
    pub xdp: Option<Counts>,
    /// Why the agent is not ready; empty if it is.
    pub not_ready: Vec<String>,
    /// What keeps packets from going through the node's kernel.
    pub host_path_faults: Vec<String>,
    /// Which worker does not move, if one does not.
    pub stuck: Option<String>,
    /// The SNAT addresses.
    pub snat_addresses: BTreeSet<IpAddr>,
    /// How it is with the controller, if there is one.
    pub controller: Option<ControllerState>,
    /// What a GatewayConfig asks for that is in force after the next start only.
    pub restart_awaited: Vec<String>,
    /// What it asks for that this node can't do.
    pub unusable: Vec<Unusable>,
}

/// How it is with the controller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControllerState {
    /// Replicas that there are, and those that a stream leads to.
    pub reach: Reach,
    /// The VIPs that this node answers for.
    pub owned: usize,
}

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceState {
    /// Its name.
    pub name: String,
    /// How it is with it.
    pub link: LinkState,
}

/// How it is with an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// It is not there.
    Gone,
    /// It is there, but can't be used.
    Failed {
        /// Why not.
        reason: String,
    },
    /// It carries our traffic.
    Attached(AttachedState),
}

/// How an interface is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedState {
    /// The kernel's number for it.
    pub ifindex: u32,
    /// How the XDP program runs.
    pub mode: AttachedMode,
    /// Its driver.
    pub driver: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is up and has a carrier.
    pub running: bool,
    /// What is wrong with it though it serves.
    pub trouble: Option<String>,
    /// What was put off on it.
    pub offloads_off: Vec<Offload>,
    /// Its queues, by number.
    pub queues: Vec<QueueState>,
}

/// One bound queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueState {
    /// Its number.
    pub queue: u32,
    /// The worker that has it.
    pub worker: u16,
    /// Whether frames are not copied.
    pub zero_copy: bool,
}

impl State {
    /// The slot counters with what they belong to: hand the result to
    /// `read`, since what it borrows may be replaced at any time.
    pub fn counted<T>(&self, read: impl FnOnce(Counted<'_>) -> T) -> T {
        let applied = self.applied.load_full();
        let stats = self.published.all_stats().map(Shared::load_full).collect();
        read(Counted { applied: &applied, stats })
    }

    /// Why the agent is not ready; empty if it is.
    pub fn not_ready(&self) -> Vec<String> {
        self.control.load().not_ready.clone()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::tables::TablesWriter;
    use blixt_dataplane::{CompileOptions, Counters, DropReason, InterfaceSlot, MaglevSize};
    use blixt_model::{
        Affinity, Backend, Endpoint, EndpointState, Gateway, HashSeed, Listener, ListenerName,
        Port, Protocol, RejectReason, ServiceIndex, ServicePort, ServicePortId, Snapshot, Target,
        Weight,
    };

    /// One TCP listener: a Service with one endpoint twice, and a reference
    /// that does not resolve.
    fn snapshot() -> Snapshot {
        let port = |number: u16| Port::new(number).unwrap();
        let endpoint = Endpoint {
            address: [10, 0, 0, 1].into(),
            port: port(8_080),
            state: EndpointState::Ready,
        };
        let service = ServicePort {
            id: ServicePortId {
                service: "web".parse().unwrap(),
                protocol: Protocol::Tcp,
                port: port(80),
            },
            affinity: Affinity::None,
            endpoints: vec![endpoint],
        };
        let backend =
            |weight: u32, target| Backend { weight: Weight::new(weight).unwrap(), target };
        let listener = Listener {
            name: ListenerName::new("tcp").unwrap(),
            protocol: Protocol::Tcp,
            port: port(80),
            route: None,
            backends: vec![
                backend(3, Target::Service(ServiceIndex(0))),
                backend(1, Target::Rejected(RejectReason::BackendNotFound)),
                backend(0, Target::Service(ServiceIndex(0))),
            ],
        };
        let gateway = Gateway {
            name: "web".parse().unwrap(),
            addresses: vec![[192, 0, 2, 1].into()],
            listeners: vec![listener],
            streams: vec![],
        };
        Snapshot::new(Generation(3), HashSeed(0), vec![gateway], vec![service]).unwrap()
    }

    /// An agent with one worker, one interface that is attached and one that
    /// is gone, and something in every kind of counter.
    pub(crate) fn example() -> State {
        let published = Arc::new(Published::new(1));
        let options =
            CompileOptions { maglev: MaglevSize::new(251).unwrap(), ..CompileOptions::default() };
        let mut tables = TablesWriter::new(Arc::clone(&published), options, "node".to_owned());
        tables.apply(&snapshot()).unwrap();
        let stats = published.stats[0].load();
        for slot in 0..4 {
            let counters = stats.slot(slot).unwrap();
            counters.flows.add(10 + u64::from(slot));
            counters.active_flows.add(2);
            counters.bytes_in.add(1_000);
        }
        let counters = Arc::new(Counters::default());
        counters.flow_entries.set(7);
        counters.flows_created.set(10);
        counters.dropped(DropReason::NoFlow).set(4);
        let status = Arc::new(WorkerStatus::new(counters));
        status.tables_generation.set(3);
        status.interface(InterfaceSlot(0)).unwrap().rx_packets.set(100);
        let attached = AttachedState {
            ifindex: 2,
            mode: AttachedMode::Native,
            driver: "veth".to_owned(),
            mtu: 1_500,
            running: true,
            trouble: None,
            offloads_off: vec![Offload::Tso],
            queues: vec![QueueState { queue: 0, worker: 0, zero_copy: false }],
        };
        let control = ControlState {
            interfaces: vec![
                InterfaceState { name: "eth0".to_owned(), link: LinkState::Attached(attached) },
                InterfaceState { name: "eth1".to_owned(), link: LinkState::Gone },
            ],
            wanted: Generation(3),
            xdp: Some(Counts::default()),
            not_ready: vec!["interface eth1 is not there".to_owned()],
            snat_addresses: [[192, 0, 2, 10].into()].into(),
            ..ControlState::default()
        };
        State {
            started_at: SystemTime::UNIX_EPOCH,
            started: Instant::now(),
            source: "/etc/blixt".to_owned(),
            snat_ports: 1_024..=65_535,
            flow_capacity: 4_096,
            host_path: Some(HostPathState {
                addresses: Addresses {
                    v4: [169, 254, 42, 1].into(),
                    v6: "fd62:6c69:7874:2a::1".parse().unwrap(),
                },
                flow_limit: 1_000,
            }),
            memory: Memory { flows: 4 << 20, frames: 32 << 20, ..Memory::default() },
            workers: vec![WorkerState { core: Some(1), status }],
            applied: tables.applied(),
            published,
            streams: Running::default(),
            control: ArcSwap::from_pointee(control),
        }
    }

    #[test]
    fn references_to_one_service_are_told_apart() {
        let state = example();
        let flows = state.counted(|counted| {
            let gateway = &counted.applied.snapshot.gateways()[0];
            let backends = counted.backends(gateway, &gateway.listeners[0]);
            backends.iter().map(|traffic| traffic.flows).collect::<Vec<_>>()
        });
        let different: BTreeSet<_> = flows.iter().collect();
        assert_eq!((flows.len(), different.len()), (3, 3), "{flows:?}");
    }
}
