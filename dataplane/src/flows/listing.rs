//! Flows, as tools tell of them: which there are, a bounded part at a time.
//!
//! Entries are looked at in the order of their numbers, where they stay for as
//! long as their flow lives. So who asks again with the number that came back
//! sees each flow that was there all the time just once, and the table needs
//! to remember nothing of it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use blixt_model::Protocol;

use super::{Flow, Flows, Stage};
use crate::address;
use crate::packet::{FlowId, Tick};
use crate::tcp::TcpState;
use crate::timeouts::Millis;

/// How many entries are looked at in one call: 96 KiB in a row, about as much
/// work as a burst of packets.
pub const FLOWS_AT_ONCE: u32 = 1_024;

/// One flow, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowRecord {
    /// What it speaks.
    pub protocol: Protocol,
    /// How far it has got.
    pub state: FlowState,
    /// Who began it.
    pub client: SocketAddr,
    /// What the client talks to.
    pub vip: SocketAddr,
    /// Who the endpoint talks to.
    pub snat: SocketAddr,
    /// Who answers.
    pub endpoint: SocketAddr,
    /// The backendRef's slot; see [`crate::Slots`].
    pub backend_slot: u32,
    /// The endpoint's slot.
    pub endpoint_slot: u32,
    /// For how long it has seen no packet.
    pub idle: Duration,
    /// When it will be forgotten if it sees none.
    pub forgotten_in: Duration,
    /// The client has begun another flow from the same port: only packets from
    /// the endpoint still find this one.
    pub replaced: bool,
}

/// How far a flow has got, as one in the middle sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowState {
    /// UDP: packets have been seen.
    Udp,
    /// TCP: the client has asked.
    SynSent,
    /// TCP: the endpoint has agreed.
    SynReceived,
    /// TCP: open both ways.
    Established,
    /// TCP: the client has sent a FIN.
    ClientFinished,
    /// TCP: the endpoint has sent a FIN.
    EndpointFinished,
    /// TCP: both have, and one is to acknowledge the other's.
    Closing,
    /// TCP: it has ended; its SNAT port rests.
    Resting,
}

/// Which flows are asked for: those for which all that is given holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// Those that speak this.
    pub protocol: Option<Protocol>,
    /// Those in one of these states; empty for any.
    pub states: Vec<FlowState>,
    /// By their client.
    pub client: PeerFilter,
    /// By what the client talks to.
    pub vip: PeerFilter,
    /// By who the endpoint talks to.
    pub snat: PeerFilter,
    /// By who answers.
    pub endpoint: PeerFilter,
    /// Those to endpoints with one of these slots, in ascending order.
    pub endpoint_slots: Option<Vec<u32>>,
}

/// Addresses and ports that are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerFilter {
    /// One of these addresses.
    pub network: Option<Network>,
    /// This port.
    pub port: Option<u16>,
}

/// A range of addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    prefix: u128,
    mask: u128,
}

/// How far a look at the flows has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scanned {
    /// The entry to go on with; `None` if all have been looked at.
    pub next: Option<u32>,
    /// How many flows were asked for among those looked at.
    pub matched: u32,
}

impl Network {
    /// The addresses whose first `bits` are those of `address`. `None` if it
    /// has not that many.
    pub fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let (most, mapped) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        if bits > most {
            return None;
        }
        let mask = u128::MAX.checked_shl(128 - u32::from(mapped + bits)).unwrap_or(0);
        Some(Self { prefix: address::from_ip(address) & mask, mask })
    }

    fn contains(self, address: u128) -> bool {
        address & self.mask == self.prefix
    }
}

impl PeerFilter {
    fn admits(&self, address: u128, port: u16) -> bool {
        self.network.is_none_or(|network| network.contains(address))
            && self.port.is_none_or(|wanted| wanted == port)
    }
}

impl FlowFilter {
    /// Whether a flow that is told already is asked for.
    pub fn admits_record(&self, record: &FlowRecord) -> bool {
        let peer = |filter: &PeerFilter, at: SocketAddr| {
            filter.admits(address::from_ip(at.ip()), at.port())
        };
        let slots = self.endpoint_slots.as_ref();
        self.protocol.is_none_or(|protocol| protocol == record.protocol)
            && (self.states.is_empty() || self.states.contains(&record.state))
            && peer(&self.client, record.client)
            && peer(&self.vip, record.vip)
            && peer(&self.snat, record.snat)
            && peer(&self.endpoint, record.endpoint)
            && slots.is_none_or(|slots| slots.binary_search(&record.endpoint_slot).is_ok())
    }

    fn admits(&self, flow: &Flow) -> bool {
        self.protocol.is_none_or(|protocol| protocol.ip_number() == flow.protocol)
            && (self.states.is_empty()
                || FlowState::of(flow.stage()).is_some_and(|state| self.states.contains(&state)))
            && self.client.admits(flow.client, flow.client_port)
            && self.vip.admits(flow.vip, flow.vip_port)
            && self.snat.admits(flow.snat, flow.snat_port)
            && self.endpoint.admits(flow.endpoint, flow.endpoint_port)
            && self
                .endpoint_slots
                .as_ref()
                .is_none_or(|slots| slots.binary_search(&flow.endpoint_slot).is_ok())
    }
}

impl FlowState {
    /// What a used entry's stage is called.
    fn of(stage: Stage) -> Option<Self> {
        Some(match stage {
            Stage::Free => return None,
            Stage::Udp(_) => Self::Udp,
            Stage::Resting => Self::Resting,
            Stage::Tcp(state) => match state {
                TcpState::SynSent => Self::SynSent,
                TcpState::SynReceived => Self::SynReceived,
                TcpState::Established => Self::Established,
                TcpState::ClientFinished => Self::ClientFinished,
                TcpState::EndpointFinished => Self::EndpointFinished,
                TcpState::AwaitsClientAck | TcpState::AwaitsEndpointAck => Self::Closing,
            },
        })
    }
}

impl Flows {
    /// Looks at the entries from number `from` on, at most [`FLOWS_AT_ONCE`]
    /// of them, and gives `each` the flows that `filter` asks for.
    pub(crate) fn list(
        &self,
        from: u32,
        filter: &FlowFilter,
        now: Tick,
        each: &mut dyn FnMut(FlowRecord),
    ) -> Scanned {
        let now = Millis::at(now);
        let end = from.saturating_add(FLOWS_AT_ONCE).min(self.table.high_water());
        let mut matched = 0;
        for id in from..end {
            let Some(flow) = self.flow(FlowId(id)).filter(|flow| filter.admits(flow)) else {
                continue;
            };
            if let Some(record) = self.record(flow, now) {
                matched += 1;
                each(record);
            }
        }
        let next = Some(end).filter(|end| *end < self.table.high_water());
        Scanned { next, matched }
    }

    /// What is told of a flow; `None` for one that has only not been swept up
    /// yet.
    pub(crate) fn record(&self, flow: &Flow, now: Millis) -> Option<FlowRecord> {
        let stage = flow.stage();
        let state = FlowState::of(stage)?;
        if flow.is_over(now) {
            return None;
        }
        let left = flow.expires.wrapping_sub(now.0);
        let at = |address, port| SocketAddr::new(address::to_ip(address), port);
        let millis = |millis: u32| Duration::from_millis(millis.into());
        Some(FlowRecord {
            protocol: Protocol::from_ip_number(flow.protocol)?,
            state,
            client: at(flow.client, flow.client_port),
            vip: at(flow.vip, flow.vip_port),
            snat: at(flow.snat, flow.snat_port),
            endpoint: at(flow.endpoint, flow.endpoint_port),
            backend_slot: flow.backend_slot,
            endpoint_slot: flow.endpoint_slot,
            idle: millis(self.idle_time(stage).millis().saturating_sub(left)),
            forgotten_in: millis(left),
            replaced: flow.is_replaced(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::{Counters, SlotStats};
    use crate::flows::{Direction, Moment};
    use crate::packet::WorkerId;
    use crate::pipeline::{Limits, PipelineConfig};
    use crate::timeouts::Timeouts;
    use crate::udp::UdpState;
    use bytemuck::Zeroable;
    use std::time::Instant;

    const MILLION: u32 = 1 << 20;

    fn a_million_flows() -> Flows {
        let config = PipelineConfig {
            worker: WorkerId(0),
            flow_capacity: MILLION as usize,
            snat_ports: 1_024..=65_535,
            hash_key: [1, 2],
            timeouts: Timeouts::default(),
            limits: Limits::default(),
        };
        let mut flows = Flows::new(&config).unwrap();
        let (counters, stats) = (Counters::default(), SlotStats::default());
        let moment = Moment { now: Millis::at(Tick(0)), stats: &stats, counters: &counters };
        for n in 0..MILLION {
            let mut flow = Flow {
                client: u128::from(n),
                endpoint: u128::from(n / 60_000),
                snat_port: (n % 60_000) as u16,
                protocol: 17,
                expires: flows.expiry(Stage::Udp(UdpState::Talking), moment.now).0,
                ..Flow::zeroed()
            };
            flow.set_stage(Stage::Udp(UdpState::Talking));
            let hashes = [Direction::ToEndpoint, Direction::ToClient]
                .map(|direction| flows.table.hash(&flow.tuple(direction)));
            flows.begin(&flow, hashes, moment).unwrap();
        }
        flows
    }

    #[test]
    fn a_million_flows_are_listed_once_each_in_short_turns() {
        let flows = a_million_flows();
        let nobody = FlowFilter {
            client: PeerFilter { network: Network::new([192, 0, 2, 1].into(), 32), port: None },
            ..FlowFilter::default()
        };
        for (filter, expected) in [(FlowFilter::default(), MILLION), (nobody, 0)] {
            let mut page = Vec::with_capacity(FLOWS_AT_ONCE as usize);
            let mut seen = 0;
            let mut turns = Vec::new();
            let mut next = Some(0);
            while let Some(from) = next {
                let begin = Instant::now();
                page.clear();
                let scanned = flows.list(from, &filter, Tick(0), &mut |flow| page.push(flow));
                turns.push(begin.elapsed());
                assert_eq!(scanned.matched as usize, page.len());
                if expected > 0 {
                    let clients = page.iter().map(|flow| address::from_ip(flow.client.ip()));
                    assert!(clients.eq((u128::from(from)..).take(page.len())));
                }
                seen += scanned.matched;
                next = scanned.next;
            }
            assert_eq!(seen, expected);
            assert_eq!(turns.len(), (MILLION / FLOWS_AT_ONCE) as usize);
            turns.sort();
            let [median, longest] = [turns[turns.len() / 2], turns[turns.len() - 1]];
            println!("{seen} of {MILLION} flows: a turn took {median:?}, the longest {longest:?}");
            // The middle one, since others may want this core.
            assert!(median < Duration::from_millis(5), "{median:?}");
        }
    }

    #[test]
    fn networks_of_either_family_hold_their_own() {
        let network = |text: &str, bits| Network::new(text.parse().unwrap(), bits).unwrap();
        let holds = |network: Network, text: &str| {
            network.contains(address::from_ip(text.parse().unwrap()))
        };
        assert!(holds(network("192.0.2.77", 24), "192.0.2.1"));
        assert!(!holds(network("192.0.2.77", 24), "192.0.3.1"));
        assert!(holds(network("192.0.2.77", 32), "192.0.2.77"));
        assert!(!holds(network("192.0.2.77", 32), "192.0.2.78"));
        assert!(holds(network("0.0.0.0", 0), "203.0.113.1"));
        assert!(!holds(network("0.0.0.0", 0), "2001:db8::1"), "all of IPv4 is not IPv6");
        assert!(holds(network("2001:db8::", 32), "2001:db8:ffff::1"));
        assert!(holds(network("::", 0), "2001:db8::1"));
        assert_eq!(Network::new("192.0.2.1".parse().unwrap(), 33), None);
        assert_eq!(Network::new("::1".parse().unwrap(), 129), None);
    }
}
