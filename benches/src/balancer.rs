//! Blixt's own worker, with one UDP listener and some endpoints.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use blixt_afxdp::nic;
use blixt_agent::worker::{
    HoldLimits, Published, WorkerConfig, WorkerHandle, event_channel, spawn,
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
use crate::rig::{CORE, Measured, NEAR_IN, NEAR_OUT, NEXT_MAC, OUR_MACS, Rig, SIZES, VIP};

/// How many endpoints the service has.
const ENDPOINTS: u8 = 10;

/// One round of it.
pub fn measure(rig: &Rig, warm_up: Duration, interval: Duration) -> Result<Measured, Error> {
    let (tables, stats) = tables()?;
    let published = Arc::new(Published::new(1));
    published.stats.first().ok_or("there is one worker")?.publish(stats);
    published.tables.publish(tables);
    published.fib.publish(fib()?);
    let (events, _heard) = event_channel();
    let worker = spawn(config(), Arc::clone(&published), events)?;
    for (slot, interface) in [NEAR_IN, NEAR_OUT].into_iter().enumerate() {
        let slot = InterfaceSlot(slot as u16);
        let bound = worker.attach(slot, interface, vec![0], true).blocking_recv()??;
        for queue in bound {
            rig.set_socket(usize::from(queue.slot.0), queue.socket.as_fd())?;
        }
    }
    let measured = rig.measure("blixt-worker-0", warm_up, interval)?;
    check(worker)?;
    Ok(measured)
}

/// Nothing may have been dropped but what found no place in a ring.
fn check(worker: WorkerHandle) -> Result<(), Error> {
    let status = Arc::clone(worker.status());
    let frames = worker.stop();
    if frames.born != frames.home {
        return Err(format!("the worker lost frames: {frames:?}").into());
    }
    let counters = status.pipeline.by_name();
    let balanced = counters.get("to_endpoints").copied().unwrap_or(0);
    let dropped: u64 =
        counters.iter().filter(|(name, _)| name.starts_with("drop.")).map(|(_, count)| count).sum();
    if balanced == 0 || dropped * 100 > balanced {
        return Err(format!("the worker did not balance: {counters:?}").into());
    }
    Ok(())
}

fn config() -> WorkerConfig {
    WorkerConfig {
        id: WorkerId(0),
        core: Some(CORE),
        pipeline: PipelineConfig {
            worker: WorkerId(0),
            flow_capacity: 1 << 17,
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

fn endpoint(number: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, number + 1])
}

fn tables() -> Result<(Tables, SlotStats), Error> {
    let vip: SocketAddr = VIP.parse()?;
    let name = || "default/dns".parse();
    let endpoints = (0..ENDPOINTS).map(|number| {
        Ok(Endpoint {
            address: endpoint(number),
            port: Port::new(5_353)?,
            state: EndpointState::Ready,
        })
    });
    let service = ServicePort {
        id: ServicePortId {
            service: name()?,
            protocol: Protocol::Udp,
            port: Port::new(vip.port())?,
        },
        affinity: Affinity::None,
        endpoints: endpoints.collect::<Result<_, Error>>()?,
    };
    let listener = Listener {
        name: ListenerName::new("dns")?,
        protocol: Protocol::Udp,
        port: Port::new(vip.port())?,
        route: Some(RouteId { kind: RouteKind::Udp, name: name()? }),
        backends: vec![Backend {
            weight: Weight::new(1)?,
            target: Target::Service(ServiceIndex(0)),
        }],
    };
    let gateway = Gateway { name: name()?, addresses: vec![vip.ip()], listeners: vec![listener] };
    let snapshot = Snapshot::new(Generation(1), HashSeed(1), vec![gateway], vec![service])?;
    let options = CompileOptions {
        snat_addresses: BTreeSet::from([IpAddr::from([10, 1, 0, 100])]),
        ..CompileOptions::default()
    };
    let mut slots = Slots::default();
    let tables = Tables::compile(&snapshot, &options, &mut slots, &Tables::default())?;
    Ok((tables, SlotStats::default().grown_to(slots.capacity())))
}

fn fib() -> Result<Fib, Error> {
    let mut interfaces = Vec::new();
    let mut links = Vec::new();
    let mut routes = Vec::new();
    let networks = [IpAddr::from([192, 0, 2, 0]), IpAddr::from([10, 1, 0, 0])];
    for (slot, (name, mac)) in [NEAR_IN, NEAR_OUT].into_iter().zip(OUR_MACS).enumerate() {
        let ifindex = nic::ifindex(name).ok_or("an interface is missing")?;
        interfaces.push(Interface { ifindex, mac, partial_checksums: true });
        links.push(Link {
            ifindex,
            attached: Some(InterfaceSlot(slot as u16)),
            mac,
            mtu: 1_500,
            tags: Tags::new(),
        });
        let path = RouteAction::Forward(vec![Path { ifindex, via: None }]);
        routes.extend(networks.get(slot).map(|&network| Route::new(network, 24, 0, path)));
    }
    let out = nic::ifindex(NEAR_OUT).ok_or("an interface is missing")?;
    let neighbours = (0..ENDPOINTS).map(|number| {
        let address = address::from_ip(endpoint(number));
        (Neighbour { ifindex: out, address }, NEXT_MAC)
    });
    Ok(Fib::new(interfaces, links, routes, neighbours))
}
