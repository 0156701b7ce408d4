//! `/metrics`: every number that is counted, with what to do about it.
//!
//! Names and labels are a promise; `tests/golden/metrics.txt` holds them. The
//! same numbers, with the same meanings, are what `blixtctl counters` shows.

mod page;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use blixt_dataplane::{Counter, Counters, DropReason, InterfaceSlot};
use blixt_model::{Backend, Gateway, ListenerName, Snapshot, Target};
use blixt_streams::{Counts, Reason, Streams};
use page::{NONE, Page, Samples, Write};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;

use crate::state::{LinkState, State};
use crate::traffic::{Counted, Traffic};
use crate::worker::{InterfaceCounters, WorkerStatus};
use crate::xdp;

/// What the text is, as HTTP calls it.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The reason of [`xdp::Counter::DroppedNoSocket`] among those of packets.
pub const NO_SOCKET: (&str, &str) = (
    "no_socket",
    "A frame for an address of a Gateway came in on a queue without a socket: the interface was \
     being attached, or it was given more queues since.",
);

/// What to do about [`NO_SOCKET`].
const NO_SOCKET_ADVICE: &str = "Nothing, in the moment an agent starts or stops; else look in its \
     log for queues that could not be bound.";

/// The metric that counts drops, as it is registered.
const DROPS: &str = "drops";

/// The one that counts streams which were refused.
const STREAM_REFUSALS: &str = "streams_refused";

const PREFIX: &str = "blixt";

/// All metrics as text.
pub fn render(state: &Arc<State>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Metrics(Arc::clone(state))));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// One number with what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The name that it has in [`render`]ed text.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<&'static str, String>,
    /// Whether it only grows.
    pub grows: bool,
    /// The number.
    pub value: u64,
    /// What it means.
    pub meaning: String,
    /// What to do if it grows, where that is known.
    pub advice: Option<&'static str>,
}

/// The same numbers that [`render`] writes, but for those of backendRefs.
pub fn samples(state: &State) -> Vec<Sample> {
    let mut samples = Samples::default();
    // Writing into memory does not fail.
    let _ = all_but_backends(&mut samples, state);
    let mut samples = samples.0;
    let drops = format!("{PREFIX}_{DROPS}_total");
    for sample in samples.iter_mut().filter(|sample| sample.name == drops) {
        let reason = sample.labels.get("reason").map_or("", String::as_str);
        let known = DropReason::ALL.iter().find(|known| known.name() == reason);
        let (meaning, advice) = match known {
            Some(known) => (known.meaning(), known.advice()),
            None => (NO_SOCKET.1, NO_SOCKET_ADVICE),
        };
        sample.meaning = meaning.to_owned();
        sample.advice = Some(advice);
    }
    let refusals = format!("{PREFIX}_{STREAM_REFUSALS}_total");
    for sample in samples.iter_mut().filter(|sample| sample.name == refusals) {
        let name = sample.labels.get("reason").map_or("", String::as_str);
        if let Some(reason) = Reason::ALL.into_iter().find(|reason| reason.name() == name) {
            sample.meaning = reason.meaning().to_owned();
            sample.advice = Some(reason.advice());
        }
    }
    samples
}

#[derive(Debug)]
struct Metrics(Arc<State>);

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page { encoder };
        all_but_backends(&mut page, &self.0)?;
        self.0.counted(|counted| backends(&mut page, &counted))
    }
}

fn all_but_backends(page: &mut impl Write, state: &State) -> fmt::Result {
    agent(page, state)?;
    flows(page, state)?;
    streams(page, state)?;
    drops(page, state)?;
    interfaces(page, state)?;
    workers(page, state)
}

fn agent(page: &mut impl Write, state: &State) -> fmt::Result {
    let control = state.control.load();
    let version = [("version", env!("CARGO_PKG_VERSION").to_owned())];
    page.gauge("build_info", "The version of this agent.", [(version, 1)])?;
    page.gauge(
        "ready",
        "1 if the agent is ready for traffic. If not, /readyz and blixtctl status say why.",
        [(NONE, u64::from(control.not_ready.is_empty()))],
    )?;
    page.gauge(
        "restart_awaited",
        "What a GatewayConfig asks for that is in force after a new start of the agent only. Above 0: \
         blixtctl status says what; restart the agent when that suits.",
        [(NONE, control.restart_awaited.len() as u64)],
    )?;
    page.gauge(
        "settings_unusable",
        "What a GatewayConfig asks for that this node can't do. Above 0: blixtctl status says what, \
         and why.",
        [(NONE, control.unusable.len() as u64)],
    )?;
    page.gauge(
        "wanted_generation",
        "The newest version of what the manifests want.",
        [(NONE, control.wanted.0)],
    )?;
    let adopted = state.workers.iter().map(|worker| worker.status.tables_generation.value()).min();
    page.gauge(
        "tables_generation",
        "The version that all workers use. Behind blixt_wanted_generation for long: it was \
         refused, see blixtctl status.",
        [(NONE, adopted.unwrap_or_default())],
    )?;
    if let Some(controller) = &control.controller {
        let reach = &controller.reach;
        page.gauge(
            "controller_connected",
            "Replicas of the controller that the agent is connected to. 0: the last tables stay in \
             force; /readyz says what is wrong.",
            [(NONE, reach.connected as u64)],
        )?;
        page.gauge(
            "controller_known",
            "Replicas of the controller that the agent knows of.",
            [(NONE, reach.known as u64)],
        )?;
        page.counter(
            "controller_snapshots",
            "Snapshots, and changes to them, that came from the controller.",
            [(NONE, reach.snapshots)],
        )?;
        page.gauge(
            "vips_owned",
            "VIPs that this node answers ARP and neighbour discovery for.",
            [(NONE, controller.owned as u64)],
        )?;
    }
    page.gauge(
        "manifest_refusals",
        "What is refused of the manifests now. Above 0: blixtctl status names file, line and \
         reason.",
        [(NONE, control.refusals.len() as u64)],
    )
}

fn flows(page: &mut impl Write, state: &State) -> fmt::Result {
    let control = state.control.load();
    let sum = |counter: fn(&Counters) -> &Counter| {
        state.workers.iter().map(|worker| counter(&worker.status.pipeline).value()).sum::<u64>()
    };
    let entries = sum(|counters| &counters.flow_entries);
    page.gauge(
        "flow_entries",
        "Entries of the flow tables in use. Near blixt_flow_capacity: raise --flow-capacity, or \
         new flows will be refused.",
        [(NONE, entries)],
    )?;
    page.gauge(
        "flow_entries_resting",
        "Those of them that only keep the SNAT port of an ended TCP flow at rest.",
        [(NONE, sum(|counters| &counters.flow_entries_resting))],
    )?;
    page.gauge(
        "host_path_flow_entries",
        "Those of them whose flow goes through the node's kernel, which takes longer. Many: give \
         the agent a --snat-address, where there is none; in a cluster, an AddressPool with use \
         SNAT.",
        [(NONE, sum(|counters| &counters.flow_entries_by_host))],
    )?;
    let limit = state.host_path.map_or(0, |host_path| host_path.flow_limit as u64);
    page.gauge(
        "host_path_flow_limit",
        "How many of these there may be: half of net.netfilter.nf_conntrack_max; 0 without a host \
         path.",
        [(NONE, limit)],
    )?;
    page.gauge(
        "host_path_faults",
        "What keeps packets from going through the node's kernel. Above 0: blixtctl status says \
         what it is.",
        [(NONE, control.host_path_faults.len() as u64)],
    )?;
    page.gauge(
        "flow_capacity",
        "Entries the flow tables have in all.",
        [(NONE, (state.flow_capacity * state.workers.len()) as u64)],
    )?;
    let memory = &state.memory;
    let parts = [
        ("flows", memory.flows),
        ("frames", memory.frames),
        ("directory", memory.directory),
        ("mailboxes", memory.mailboxes),
    ];
    page.gauge(
        "memory_bytes",
        "Memory taken at the start: for flow tables, for frames, and with several workers for the \
         directory of flows and for packets between them.",
        parts.map(|(part, bytes)| ([("part", part.to_owned())], bytes)),
    )?;
    let counts = stream_counts(state);
    let new = sum(|counters| &counters.flows_created) + counts.begun;
    page.counter("new_flows", "Flows started, streams included.", [(NONE, new)])?;
    let ended = sum(|counters| &counters.flows_ended) + counts.begun.saturating_sub(counts.live);
    page.counter("ended_flows", "Flows ended, streams included.", [(NONE, ended)])?;
    page.counter(
        "evicted_flows",
        "Half-open TCP flows that gave way to new ones, because the flow table was full or no SNAT \
         port free. Rising: a SYN flood, or too little room.",
        [(NONE, sum(|counters| &counters.flows_evicted))],
    )?;
    page.counter(
        "reset_flows",
        "TCP flows reset because their endpoint is gone.",
        [(NONE, sum(|counters| &counters.flows_reset))],
    )?;
    page.gauge(
        "snat_ports_used",
        "Pairs of a SNAT port and an endpoint in use, resting ones included. Each --snat-address \
         gives as many towards every endpoint as --snat-ports has.",
        // Each entry has just one.
        [(NONE, entries)],
    )?;
    page.counter(
        "handoffs",
        "Packets handed to the worker that owns their flow. Many: the NIC spreads replies to \
         other workers.",
        [(NONE, sum(|counters| &counters.handed_off))],
    )?;
    page.counter(
        "icmp_errors",
        "ICMP errors about flows, sent on to the other end of their flow.",
        [(NONE, sum(|counters| &counters.icmp_errors))],
    )?;
    page.counter(
        "checksums_completed",
        "Checksums that senders on a veth had left to hardware that is not there, completed.",
        [(NONE, sum(|counters| &counters.checksums_completed))],
    )?;
    type Read = fn(&Counters) -> &Counter;
    let answers: [(&str, Read); 5] = [
        ("arp", |counters| &counters.arp_answers),
        ("ndp", |counters| &counters.ndp_answers),
        ("echo", |counters| &counters.echo_answers),
        ("reset", |counters| &counters.resets),
        ("icmp", |counters| &counters.icmp_answers),
    ];
    page.counter(
        "answers",
        "Packets answered by the agent itself: ARP and neighbour discovery, echo requests, resets \
         of refused TCP, ICMP errors of its own.",
        answers.map(|(kind, counter)| ([("kind", kind.to_owned())], sum(counter))),
    )
}

fn stream_counts(state: &State) -> Counts {
    state.streams.get().map(Streams::counts).unwrap_or_default()
}

fn streams(page: &mut impl Write, state: &State) -> fmt::Result {
    let counts = stream_counts(state);
    page.gauge(
        "streams",
        "Connections of HTTP, HTTPS and TLS listeners, which end on the node's own TCP stack. Near \
         blixt_stream_capacity: raise the agent's limit of open files, or new ones are reset.",
        [(NONE, counts.active)],
    )?;
    let capacity = state.streams.get().map_or(0, Streams::capacity);
    page.gauge(
        "stream_capacity",
        "How many of these there may be; 0 as long as nobody wants any.",
        [(NONE, capacity as u64)],
    )?;
    page.counter(
        "streams_accepted",
        "Connections of such listeners that came, be they served or not.",
        [(NONE, counts.accepted)],
    )?;
    page.counter(
        "streams_reset_by_peers",
        "Streams that a client or an endpoint reset; the other end was told.",
        [(NONE, counts.reset_by_peers)],
    )?;
    let reasons = state.streams.get().map(Streams::reasons);
    page.counter(
        STREAM_REFUSALS,
        "Streams that were refused or reset by the agent, by reason; blixtctl counters says what \
         each reason means.",
        Reason::ALL.map(|reason| {
            let count = reasons.map_or(0, |reasons| reasons.of(reason));
            ([("reason", reason.name().to_owned())], count)
        }),
    )
}

fn drops(page: &mut impl Write, state: &State) -> fmt::Result {
    let reasons = DropReason::ALL.iter().map(|&reason| {
        let workers = state.workers.iter();
        let sum = workers.map(|worker| worker.status.pipeline.dropped(reason).value()).sum();
        ([("reason", reason.name().to_owned())], sum)
    });
    let no_socket = ([("reason", NO_SOCKET.0.to_owned())], no_socket(state));
    page.counter(
        DROPS,
        "Packets not delivered, by reason; blixtctl counters says what each reason means.",
        reasons.chain([no_socket]),
    )
}

/// Frames that the XDP program dropped because their queue had no socket.
pub fn no_socket(state: &State) -> u64 {
    let control = state.control.load();
    control.xdp.map_or(0, |counts| counts.of(xdp::Counter::DroppedNoSocket))
}

fn interfaces(page: &mut impl Write, state: &State) -> fmt::Result {
    let control = state.control.load();
    let label = |name: &str| [("interface", name.to_owned())];
    page.gauge(
        "interface_attached",
        "1 if the interface is attached. If not, blixtctl status says why.",
        control.interfaces.iter().map(|interface| {
            let attached = matches!(interface.link, LinkState::Attached(_));
            (label(&interface.name), u64::from(attached))
        }),
    )?;
    let sum = |slot: usize, counter: fn(&InterfaceCounters) -> &Counter| {
        let slot = InterfaceSlot(u16::try_from(slot).unwrap_or(u16::MAX));
        let all = state.workers.iter().filter_map(|worker| worker.status.interface(slot));
        all.map(|counters| counter(counters).value()).sum::<u64>()
    };
    type Read = fn(&InterfaceCounters) -> &Counter;
    let directed = |rx: Read, tx: Read| {
        let rows = control.interfaces.iter().enumerate().flat_map(move |(slot, interface)| {
            [("rx", rx), ("tx", tx)].map(|(direction, counter)| {
                let labels =
                    [("interface", interface.name.clone()), ("direction", direction.to_owned())];
                (labels, sum(slot, counter))
            })
        });
        rows.collect::<Vec<_>>()
    };
    page.counter(
        "packets",
        "Frames that passed through our sockets.",
        directed(|counters| &counters.rx_packets, |counters| &counters.tx_packets),
    )?;
    page.counter(
        "bytes",
        "Their bytes, from the Ethernet header on.",
        directed(|counters| &counters.rx_bytes, |counters| &counters.tx_bytes),
    )?;
    let each: [(&str, &str, Read); 7] = [
        (
            "xsk_fill_ring_empty",
            "Frames the kernel dropped because no free frame of ours was in the fill ring. Rising: \
             the worker is too slow or has too little CPU.",
            |counters| &counters.fill_ring_empty,
        ),
        (
            "xsk_rx_ring_full",
            "Frames the kernel dropped because the worker did not take earlier ones in time.",
            |counters| &counters.rx_ring_full,
        ),
        (
            "xsk_rx_dropped",
            "Frames the kernel dropped for other reasons, such as being larger than a frame of \
             ours: check the MTU.",
            |counters| &counters.rx_dropped,
        ),
        (
            "xsk_tx_ring_full",
            "Frames dropped because the transmit ring stayed full: the link is too slow or stalled.",
            |counters| &counters.tx_ring_full,
        ),
        (
            "xsk_tx_invalid",
            "Frames the kernel refused to send. Above 0 is a bug: please report it.",
            |counters| &counters.tx_invalid,
        ),
        (
            "xsk_ring_stalls",
            "How often a ring had not moved for long and was kicked. Rising: the driver loses \
             wake-ups.",
            |counters| &counters.stalls,
        ),
        (
            "xsk_copied_frames",
            "Frames copied because they crossed between interfaces in zero-copy and copy mode.",
            |counters| &counters.copied,
        ),
    ];
    for (name, help, counter) in each {
        let rows = control.interfaces.iter().enumerate();
        let rows = rows.map(|(slot, interface)| (label(&interface.name), sum(slot, counter)));
        page.counter(name, help, rows)?;
    }
    let counts = control.xdp.unwrap_or_default();
    page.counter(
        "xdp_frames",
        "What the XDP program decided about frames that are ours, or that it could not read.",
        xdp::Counter::ALL
            .iter()
            .map(|&counter| ([("result", counter.name().to_owned())], counts.of(counter))),
    )
}

fn workers(page: &mut impl Write, state: &State) -> fmt::Result {
    type Read = fn(&WorkerStatus) -> u64;
    let rows = |read: Read| {
        let workers = state.workers.iter().enumerate();
        workers
            .map(|(id, worker)| ([("worker", id.to_string())], read(&worker.status)))
            .collect::<Vec<_>>()
    };
    page.gauge(
        "worker_frames",
        "Frames that a worker has.",
        rows(|status| status.frames_now().born),
    )?;
    page.gauge(
        "worker_frames_free",
        "Frames that hold no packet and lie in no ring. At 0 for long: packets are lost.",
        rows(|status| status.frames_now().home),
    )?;
    page.gauge(
        "worker_packets_held",
        "Packets that wait for a next hop's MAC address.",
        rows(|status| status.holding.value()),
    )?;
    let workers = state.workers.iter().enumerate();
    page.counter(
        "worker_handoffs",
        "Packets that a worker received and handed to the one that owns their flow.",
        workers.map(|(id, worker)| {
            ([("worker", id.to_string())], worker.status.pipeline.handed_off.value())
        }),
    )?;
    page.counter(
        "worker_sleeps",
        "How often a worker had nothing to do and went to sleep.",
        rows(|status| status.sleeps.value()),
    )?;
    page.gauge(
        "worker_longest_turn_nanoseconds",
        "The longest turn of a worker in the last one to two minutes: packets that come during a \
         turn wait for its end.",
        rows(|status| status.longest_turn_ns.value()),
    )?;
    page.gauge(
        "worker_longest_turn_own_nanoseconds",
        "The most CPU time that a worker itself took in a turn, in the same time. Far less than \
         blixt_worker_longest_turn_nanoseconds: sending or other programs hold it up, see \
         blixt_worker_slow_turns_total.",
        rows(|status| status.longest_turn_own_ns.value()),
    )?;
    let slow: [(&str, Read); 3] = [
        ("itself", |status| status.slow_turns_by_itself.value()),
        ("sending", |status| status.slow_turns_by_sending.value()),
        ("others", |status| status.slow_turns_by_others.value()),
    ];
    page.counter(
        "worker_slow_turns",
        "Turns beyond 1 ms because of the worker itself (attaching an interface takes some), \
         because of the kernel's sending (a veth delivers in its sender's time), or because others \
         had its core: keep other programs off it.",
        slow.into_iter().flat_map(|(by, counter)| {
            let rows = rows(counter).into_iter();
            rows.map(move |([worker], turns)| ([worker, ("by", by.to_owned())], turns))
        }),
    )
}

fn backends(page: &mut impl Write, counted: &Counted<'_>) -> fmt::Result {
    let snapshot = &counted.applied.snapshot;
    let mut rows = Vec::new();
    for gateway in snapshot.gateways() {
        for listener in &gateway.listeners {
            let traffic = counted.backends(gateway, listener);
            for ((number, backend), traffic) in listener.backends.iter().enumerate().zip(traffic) {
                let name = &listener.name;
                rows.push((backend_labels(gateway, name, number, backend, snapshot), traffic));
            }
        }
        for listener in gateway.streams.iter().flat_map(|stream| &stream.listeners) {
            // Counted through all routes, so that no two have the same labels.
            let backends = listener.routes.iter().flat_map(|route| &route.backends);
            let traffic = counted.routes(gateway, listener).into_iter().flatten();
            for ((number, backend), traffic) in backends.enumerate().zip(traffic) {
                let name = &listener.name;
                rows.push((backend_labels(gateway, name, number, backend, snapshot), traffic));
            }
        }
    }
    let column = |read: fn(&Traffic) -> u64| {
        rows.iter().map(move |(labels, traffic)| (labels.clone(), read(traffic)))
    };
    page.gauge(
        "backend_flows",
        "Flows that live, by backendRef.",
        column(|traffic| traffic.active_flows),
    )?;
    page.counter(
        "backend_new_flows",
        "Flows started, by backendRef.",
        column(|traffic| traffic.flows),
    )?;
    page.counter(
        "backend_refused_flows",
        "New flows refused, by backendRef. Rising: its Service has no ready endpoint, or the \
         reference is bad (ResolvedRefs of the route).",
        column(|traffic| traffic.refused),
    )?;
    let directed = |into: fn(&Traffic) -> u64, out: fn(&Traffic) -> u64| {
        rows.iter().flat_map(move |(labels, traffic)| {
            [("in", into), ("out", out)].map(|(direction, read)| {
                let mut labels = labels.clone();
                labels.push(("direction", direction.to_owned()));
                (labels, read(traffic))
            })
        })
    };
    page.counter(
        "backend_packets",
        "Packets from clients (in) and to clients (out), by backendRef. Streams have none.",
        directed(|traffic| traffic.packets_in, |traffic| traffic.packets_out),
    )?;
    page.counter(
        "backend_bytes",
        "Bytes from clients (in) and to clients (out), by backendRef: of whole IP packets, and of \
         streams what they carry.",
        directed(|traffic| traffic.bytes_in, |traffic| traffic.bytes_out),
    )
}

type Labels = Vec<(&'static str, String)>;

fn backend_labels(
    gateway: &Gateway,
    listener: &ListenerName,
    number: usize,
    backend: &Backend,
    snapshot: &Snapshot,
) -> Labels {
    let target = match backend.target {
        Target::Rejected(reason) => reason.as_str().to_owned(),
        Target::Service(index) => match snapshot.service(index) {
            Some(service) => format!("{}:{}", service.id.service, service.id.port),
            None => String::new(),
        },
    };
    vec![
        ("gateway", gateway.name.to_string()),
        ("listener", listener.to_string()),
        // Two references may name the same Service port.
        ("backend_ref", number.to_string()),
        ("backend", target),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::example;

    /// Where the names of metrics are held; written anew with
    /// `BLIXT_BLESS=1 cargo test`.
    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/metrics.txt");

    #[test]
    fn names_labels_and_helps_are_stable() {
        let text = render(&Arc::new(example())).unwrap();
        // Reasons are held where they are made; two of them stand for all.
        let kept = |line: &&str| {
            !line.starts_with("blixt_drops_total{")
                || ["no_flow", "no_socket"].iter().any(|reason| line.contains(reason))
        };
        let found = text.lines().filter(kept).map(|line| format!("{line}\n")).collect::<String>();
        if std::env::var_os("BLIXT_BLESS").is_some() {
            std::fs::write(GOLDEN, &found).unwrap();
        }
        let golden = std::fs::read_to_string(GOLDEN).unwrap();
        assert!(found == golden, "{GOLDEN} differs; it is now:\n{found}");
    }

    #[test]
    fn the_design_s_names_are_there() {
        let text = render(&Arc::new(example())).unwrap();
        for name in [
            "blixt_flow_entries ",
            "blixt_flow_capacity ",
            "blixt_new_flows_total ",
            "blixt_drops_total{reason=\"no_flow\"} ",
            "blixt_packets_total{interface=\"eth0\",direction=\"rx\"} ",
            "blixt_bytes_total{interface=\"eth0\",direction=\"tx\"} ",
            "blixt_backend_flows{gateway=\"default/web\",listener=\"tcp\",",
            "blixt_snat_ports_used ",
            "blixt_handoffs_total ",
            "blixt_xsk_fill_ring_empty_total{interface=\"eth0\"} ",
            "blixt_tables_generation ",
        ] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{name} in\n{text}");
        }
    }

    #[test]
    fn samples_are_what_the_page_says() {
        let state = Arc::new(example());
        let text = render(&state).unwrap();
        let samples = samples(&state);
        let backends = |line: &&str| !line.starts_with('#') && !line.starts_with("blixt_backend_");
        assert_eq!(samples.len(), text.lines().filter(backends).count());
        for Sample { name, labels, value, .. } in &samples {
            let mut lines = text.lines().filter(|line| {
                let start = line.strip_prefix(name.as_str());
                start.is_some_and(|rest| rest.starts_with(['{', ' ']))
                    && labels
                        .iter()
                        .all(|(key, label)| line.contains(&format!("{key}=\"{label}\"")))
            });
            let line = lines.next().unwrap_or_else(|| panic!("{name} {labels:?} in\n{text}"));
            assert!(line.ends_with(&format!(" {value}")), "{line}: {value}");
        }
        let drops: Vec<_> = samples.iter().filter(|sample| sample.advice.is_some()).collect();
        assert_eq!(drops.len(), DropReason::ALL.len() + 1 + Reason::ALL.len());
        let no_flow = drops.iter().find(|sample| sample.labels["reason"] == "no_flow").unwrap();
        assert_eq!(no_flow.meaning, DropReason::NoFlow.meaning());
    }
}
