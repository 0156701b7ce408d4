//! From two answers of an agent to what happens in a second.

use std::collections::BTreeMap;

use blixt_api::v1alpha1::{GetLoadBalancingResponse, GetStatusResponse, Listener, Traffic, Worker};

use crate::lb;

/// What an agent says at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) status: GetStatusResponse,
    pub(crate) balancing: GetLoadBalancingResponse,
}

/// How often things happen: times a second, or bytes a second.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Rates {
    pub(crate) received: Flow,
    pub(crate) sent: Flow,
    pub(crate) new_flows: f64,
    /// By reason, the most frequent first; those that did not occur are left
    /// out.
    pub(crate) drops: Vec<(String, f64)>,
    pub(crate) workers: Vec<WorkerRates>,
    pub(crate) listeners: Vec<Row>,
}

/// Packets, and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Flow {
    pub(crate) packets: f64,
    pub(crate) bytes: f64,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct WorkerRates {
    pub(crate) id: u32,
    pub(crate) core: Option<u32>,
    /// The share of its time that it ran, from 0 to 1; `None` if unknown.
    pub(crate) busy: Option<f64>,
    pub(crate) flows: u64,
    pub(crate) new_flows: f64,
    pub(crate) handed_over: f64,
}

/// A listener, a backendRef of it, or an endpoint of that.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// From clients.
    pub(crate) inwards: Flow,
    /// To clients.
    pub(crate) outwards: Flow,
    pub(crate) new_flows: f64,
    pub(crate) refused: f64,
    pub(crate) active: u64,
    pub(crate) parts: Vec<Row>,
}

impl Rates {
    /// What happened from one answer to the next. `None` if they are not two of
    /// the same agent, one after the other.
    pub(crate) fn between(before: &Sample, now: &Sample) -> Option<Self> {
        let (old, new) = (before.status.agent.as_ref()?, now.status.agent.as_ref()?);
        let ms = new.uptime_ms.checked_sub(old.uptime_ms).filter(|ms| *ms > 0)?;
        let same = old.pid == new.pid && old.started_at_unix_ms == new.started_at_unix_ms;
        same.then(|| Per { seconds: ms as f64 / 1_000.0 }.rates(before, now))
    }
}

impl Rates {
    /// How many rows the list has, with endpoints.
    pub(crate) fn rows(&self) -> usize {
        fn all(rows: &[Row]) -> usize {
            rows.iter().map(|row| 1 + all(&row.parts)).sum()
        }
        all(&self.listeners)
    }
}

/// How far two answers lie apart.
struct Per {
    seconds: f64,
}

impl Per {
    fn rate(&self, before: u64, now: u64) -> f64 {
        now.saturating_sub(before) as f64 / self.seconds
    }

    fn rates(&self, before: &Sample, now: &Sample) -> Rates {
        let total = |sample: &Sample| {
            let interfaces = sample.status.interfaces.iter();
            interfaces.fold([0; 4], |[a, b, c, d], found| {
                [a + found.rx_packets, b + found.rx_bytes, c + found.tx_packets, d + found.tx_bytes]
            })
        };
        let ([rx, rx_bytes, tx, tx_bytes], old) = (total(now), total(before));
        let [old_rx, old_rx_bytes, old_tx, old_tx_bytes] = old;
        let flow = |packets, bytes| Flow { packets, bytes };
        let workers: Vec<_> =
            now.status.workers.iter().map(|worker| self.worker(before, worker)).collect();
        Rates {
            received: flow(self.rate(old_rx, rx), self.rate(old_rx_bytes, rx_bytes)),
            sent: flow(self.rate(old_tx, tx), self.rate(old_tx_bytes, tx_bytes)),
            new_flows: workers.iter().map(|worker| worker.new_flows).sum(),
            drops: self.drops(before, now),
            workers,
            listeners: self.listeners(before, now),
        }
    }

    fn worker(&self, before: &Sample, now: &Worker) -> WorkerRates {
        let old = before.status.workers.iter().find(|worker| worker.id == now.id);
        let old = old.copied().unwrap_or(*now);
        let busy = now.cpu_time_ns.zip(old.cpu_time_ns);
        WorkerRates {
            id: now.id,
            core: now.core,
            busy: busy.map(|(now, old)| (self.rate(old, now) / 1e9).min(1.0)),
            flows: now.flow_entries,
            new_flows: self.rate(old.flows_created, now.flows_created),
            handed_over: self.rate(old.handoffs, now.handoffs),
        }
    }

    fn drops(&self, before: &Sample, now: &Sample) -> Vec<(String, f64)> {
        let old: BTreeMap<_, _> =
            before.status.drops.iter().map(|drops| (&drops.reason, drops.packets)).collect();
        let mut rates: Vec<_> = now
            .status
            .drops
            .iter()
            .map(|drops| {
                let old = old.get(&drops.reason).copied().unwrap_or_default();
                (drops.reason.clone(), self.rate(old, drops.packets))
            })
            .filter(|(_, rate)| *rate > 0.0)
            .collect();
        rates.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        rates
    }

    fn listeners(&self, before: &Sample, now: &Sample) -> Vec<Row> {
        // Listeners come and go, and so do their backendRefs; places do not
        // tell which is which, names do.
        let old: BTreeMap<_, _> = named(&before.balancing.listeners).collect();
        let rows = named(&now.balancing.listeners).map(|(key, entry)| {
            let old = old.get(&key).map_or(entry.traffic, |old| old.traffic);
            (key, self.row(entry.shown, &old, &entry.traffic))
        });
        let mut listeners: Vec<Row> = Vec::new();
        for ([_, backend, endpoint], row) in rows {
            let last = listeners.last_mut();
            match (last, backend.is_empty(), endpoint.is_empty()) {
                (Some(listener), false, true) => listener.parts.push(row),
                (Some(listener), false, false) => {
                    if let Some(backend) = listener.parts.last_mut() {
                        backend.parts.push(row);
                    }
                }
                _ => listeners.push(row),
            }
        }
        listeners
    }

    fn row(&self, name: String, old: &Traffic, now: &Traffic) -> Row {
        Row {
            name,
            inwards: Flow {
                packets: self.rate(old.packets_in, now.packets_in),
                bytes: self.rate(old.bytes_in, now.bytes_in),
            },
            outwards: Flow {
                packets: self.rate(old.packets_out, now.packets_out),
                bytes: self.rate(old.bytes_out, now.bytes_out),
            },
            new_flows: self.rate(old.flows, now.flows),
            refused: self.rate(old.refused_flows, now.refused_flows),
            active: now.active_flows,
            parts: Vec::new(),
        }
    }
}

/// Names of a listener, of its backendRef, and of that one's endpoint.
type Key = [String; 3];

struct Entry {
    shown: String,
    traffic: Traffic,
}

/// Listeners, each followed by its backendRefs, each followed by its endpoints.
fn named(listeners: &[Listener]) -> impl Iterator<Item = (Key, Entry)> {
    listeners.iter().flat_map(|listener| {
        let shown = format!("{}/{}", lb::name(&listener.gateway), listener.name);
        // A listener of streams is there once for each of its routes.
        let name = match &listener.route {
            Some(route) if listener.stream.is_some() => {
                format!("{shown} {} {}", route.kind, lb::name(&route.name))
            }
            _ => shown.clone(),
        };
        let entry = |shown: String, traffic: Option<Traffic>| Entry {
            shown,
            traffic: traffic.unwrap_or_default(),
        };
        let mut entries = vec![(
            [name.clone(), String::new(), String::new()],
            entry(listener_shown(listener, &shown), listener.traffic),
        )];
        for (place, backend) in listener.backends.iter().enumerate() {
            let shown = lb::backend_name(backend);
            let of = format!("{place} {shown}");
            entries
                .push(([name.clone(), of.clone(), String::new()], entry(shown, backend.traffic)));
            for endpoint in &backend.endpoints {
                let shown = lb::endpoint_cell(endpoint);
                let at = lb::socket(&endpoint.address, endpoint.port);
                entries.push(([name.clone(), of.clone(), at], entry(shown, endpoint.traffic)));
            }
        }
        entries
    })
}

/// In one line: by its first address, since there may be many.
fn listener_shown(listener: &Listener, name: &str) -> String {
    use blixt_api::Word;
    let protocol = listener.protocol().word().to_ascii_uppercase();
    match listener.addresses.first() {
        Some(address) => format!("{protocol} {} {name}", lb::socket(address, listener.port)),
        None => format!("{protocol} {name}"),
    }
}
