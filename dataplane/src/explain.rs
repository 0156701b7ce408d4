//! What would become of a packet, told without one: which flow it belongs to
//! or would start, where it would leave, and why it would not.
//!
//! The answers come from what decides about packets, so that they are the same;
//! `tests/packets/explained.rs` holds the one against the other.

use std::net::SocketAddr;

use blixt_model::Protocol;

use crate::address;
use crate::classify;
use crate::drops::DropReason;
use crate::fib::Hop;
use crate::flows::{Direction, FlowRecord, Flows, Found};
use crate::forward;
use crate::packet::{Side, Tick, Tuple, WorkerId};
use crate::pipeline::View;
use crate::select::{self, Before};
use crate::tables::AddressRole;
use crate::timeouts::Millis;
use crate::track::{self, Standing};

/// What one worker can tell of a packet, besides what tables decide
/// ([`crate::Tables::decide`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The flow it belongs to, if this worker has one.
    pub flow: Option<FlowRecord>,
    /// What becomes of it if it can start a flow: of a TCP SYN, or any UDP
    /// datagram.
    pub opening: Fate,
    /// What becomes of any other TCP segment.
    pub other: Option<Fate>,
}

/// What becomes of a packet that is well-formed and small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It belongs to a flow, or starts one, and becomes another packet.
    Becomes {
        /// Its new source.
        source: SocketAddr,
        /// Its new destination.
        destination: SocketAddr,
        /// Where it leaves; or why it does not, although it has a flow.
        hop: Result<Hop, DropReason>,
    },
    /// This worker leaves it to another one.
    HandedOff(WorkerId),
    /// It is refused: answered where that helps its sender, but not delivered.
    Refused(DropReason),
}

/// Tells of a packet with this tuple.
pub(crate) fn explain(
    flows: &Flows,
    source: SocketAddr,
    destination: SocketAddr,
    protocol: Protocol,
    view: View<'_>,
    now: Tick,
) -> Explanation {
    let tuple = Tuple {
        src: address::from_ip(source.ip()),
        dst: address::from_ip(destination.ip()),
        src_port: source.port(),
        dst_port: destination.port(),
        protocol: protocol.ip_number(),
    };
    let hash = flows.table.hash(&tuple);
    let found = flows.table.find(hash, &tuple).map(|(id, direction)| Found { id, direction });
    let asked = Asked { flows, tuple, hash, found, view, now: Millis::at(now) };
    let record = found.and_then(|found| flows.record(flows.flow(found.id)?, asked.now));
    Explanation {
        flow: record,
        opening: asked.fate(true),
        other: (protocol == Protocol::Tcp).then(|| asked.fate(false)),
    }
}

/// A packet that is asked about.
struct Asked<'a> {
    flows: &'a Flows,
    tuple: Tuple,
    /// Of the tuple.
    hash: u64,
    found: Option<Found>,
    view: View<'a>,
    now: Millis,
}

impl Asked<'_> {
    /// What becomes of it, whether it `opens` a flow or not.
    fn fate(&self, opens: bool) -> Fate {
        if let Some(reason) = self.view.tables.inadmissible(&self.tuple) {
            return Fate::Refused(reason);
        }
        match self.known(opens) {
            Ok(fate) => fate,
            Err(before) => self.unknown(opens, before),
        }
    }

    /// What becomes of it by the flow it was found to belong to. `Err` if
    /// there is none for it, with what becomes of the one there was.
    fn known(&self, opens: bool) -> Result<Fate, Before> {
        let Some(Found { id, direction }) = self.found else { return Err(Before::default()) };
        let Some(flow) = self.flows.flow(id) else { return Err(Before::default()) };
        let removed = Before { removed: Some(id), rests: None };
        let rests = Before { removed: None, rests: Some(id) };
        let is_tcp = self.tuple.protocol == Protocol::Tcp.ip_number();
        let asks_anew = opens && is_tcp && direction == Direction::ToEndpoint;
        match track::standing(flow, asks_anew, self.view.tables, self.now) {
            Standing::GoesOn => Ok(self.becomes(&flow.rewritten(direction))),
            Standing::Over => Err(if flow.stage().rests() { rests } else { removed }),
            Standing::MakesWay => Err(rests),
            Standing::Replaced => Ok(Fate::Refused(DropReason::NoFlow)),
            Standing::Lost if direction == Direction::ToEndpoint && !is_tcp => Err(removed),
            Standing::Lost if asks_anew => Err(rests),
            Standing::Lost => Ok(Fate::Refused(DropReason::EndpointGone)),
        }
    }

    /// What becomes of it if no flow here is its.
    fn unknown(&self, opens: bool, before: Before) -> Fate {
        if !classify::is_possible_source(self.tuple.src, self.view.tables) {
            return Fate::Refused(DropReason::SourceAddress);
        }
        let side = match self.view.tables.role(self.tuple.dst) {
            Some(AddressRole::Snat | AddressRole::Host) => Side::ToSnat,
            Some(AddressRole::Vip) | None => Side::ToVip,
        };
        if let Some(owner) = self.flows.other_owner(side, &self.tuple, self.hash) {
            return Fate::HandedOff(owner);
        }
        if !opens || side == Side::ToSnat {
            return Fate::Refused(DropReason::NoFlow);
        }
        match select::foresee(&self.tuple, self.flows, before, self.view) {
            Ok(leaves_as) => self.becomes(&leaves_as),
            Err(reason) => Fate::Refused(reason),
        }
    }

    fn becomes(&self, tuple: &Tuple) -> Fate {
        let at = |address, port| SocketAddr::new(address::to_ip(address), port);
        Fate::Becomes {
            source: at(tuple.src, tuple.src_port),
            destination: at(tuple.dst, tuple.dst_port),
            hop: self.view.fib.told(
                tuple.dst,
                forward::spread(tuple),
                forward::ways(tuple, self.view.tables),
            ),
        }
    }
}
