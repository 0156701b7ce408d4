//! Goes round the flow table, about once a second, for what no packet would
//! bring up: flows that have been idle for too long, ports that have rested,
//! and flows whose endpoint is gone.

use crate::counters::Counters;
use crate::flows::{Direction, Flows, Moment, Stage};
use crate::packet::{FlowId, Tick, Tuple};
use crate::pipeline::View;
use crate::tables::{EndpointFate, Tables};
use crate::timeouts::Millis;

/// How long a round should take, in nanoseconds.
const ROUND_NS: u64 = 1_000_000_000;

/// How much is done in one call, at most: so many entries are looked at that
/// are left alone, which takes a few microseconds, as they lie in a row.
const STEPS: u64 = 256;

/// How many steps it counts to end a flow: that touches lines of the index
/// anywhere in memory, twice.
const STEPS_TO_END: u64 = 8;

/// How far the round has come.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    /// The entry that is next.
    next: u32,
    /// Everything that was due by then has been looked at; in nanoseconds.
    done_until: Option<u64>,
}

/// A reset for a client whose endpoint is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reset {
    /// From the VIP to the client.
    pub(crate) tuple: Tuple,
    /// What the client waits for next, so that it obeys (RFC 5961 §3.2).
    pub(crate) sequence: u32,
    /// What the endpoint had acknowledged, or all there was to acknowledge
    /// (RFC 9293 §3.10.7.3).
    pub(crate) acknowledgement: u32,
}

/// What has become of an entry.
enum Visited {
    Stays,
    Ended,
    /// And its client is to be told.
    Lost(Reset),
}

/// Looks at the entries that are due, and gives `reset` the clients that are
/// to be told. Says whether more is due already: a worker with nothing else
/// to do should call again.
pub(crate) fn run(
    flows: &mut Flows,
    view: View<'_>,
    now: Tick,
    counters: &Counters,
    reset: &mut dyn FnMut(&Reset),
) -> bool {
    let entries = flows.table.high_water();
    let due = flows.cursor.due(now, entries);
    let moment = Moment { now: Millis::at(now), stats: view.stats, counters };
    let (mut visited, mut steps) = (0, 0);
    while visited < due && steps < STEPS {
        let id = flows.cursor.step(entries);
        visited += 1;
        steps += match visit(id, flows, view.tables, moment) {
            Visited::Stays => 1,
            Visited::Ended => STEPS_TO_END,
            Visited::Lost(lost) => {
                reset(&lost);
                STEPS_TO_END
            }
        };
    }
    flows.cursor.has_done(visited, entries);
    flows.publish(counters);
    due > visited
}

/// Looks at one entry.
#[inline]
fn visit(id: FlowId, flows: &mut Flows, tables: &Tables, moment: Moment<'_>) -> Visited {
    let Some(flow) = flows.flow(id) else { return Visited::Stays };
    let stage = flow.stage();
    if stage == Stage::Free {
        return Visited::Stays;
    }
    if flow.is_over(moment.now) {
        flows.expire(id, moment);
        return Visited::Ended;
    }
    if !stage.is_live() || tables.fate(flow.endpoint_slot) == EndpointFate::Keeps {
        return Visited::Stays;
    }
    if matches!(stage, Stage::Udp(_)) {
        // The client's next packet chooses again.
        flows.remove(id, moment);
        return Visited::Ended;
    }
    let reset = Reset {
        tuple: flow.rewritten(Direction::ToClient),
        sequence: flow.client_ack,
        acknowledgement: flow.endpoint_ack,
    };
    flows.replace(id, moment);
    moment.counters.flows_reset.add(1);
    Visited::Lost(reset)
}

impl Cursor {
    /// How many of `entries` are due: as many as time has gone by.
    fn due(&mut self, now: Tick, entries: u32) -> u64 {
        let done_until = self.done_until.filter(|_| entries > 0).unwrap_or(now.0);
        // Nobody is owed more than one round.
        let owed = now.0.saturating_sub(done_until).min(ROUND_NS);
        self.done_until = Some(now.0 - owed);
        owed * u64::from(entries) / ROUND_NS
    }

    /// Takes so many of `entries` as done.
    fn has_done(&mut self, visited: u64, entries: u32) {
        let paid = (visited * ROUND_NS).checked_div(entries.into()).unwrap_or(0);
        self.done_until = self.done_until.map(|until| until + paid);
    }

    fn step(&mut self, entries: u32) -> FlowId {
        let id = if self.next < entries { self.next } else { 0 };
        self.next = id + 1;
        FlowId(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many are due, and as many of them done as one call may do.
    fn call(cursor: &mut Cursor, now: Tick, entries: u32) -> u64 {
        let due = cursor.due(now, entries);
        cursor.has_done(due.min(STEPS), entries);
        due
    }

    /// Steps done in a second, with a call every `every_ns`.
    fn a_second(entries: u32, every_ns: u64) -> u64 {
        let mut cursor = Cursor::default();
        (0..=ROUND_NS / every_ns)
            .map(|nth| call(&mut cursor, Tick(5 + nth * every_ns), entries).min(STEPS))
            .sum()
    }

    #[test]
    fn a_round_takes_about_a_second_however_often_it_is_called() {
        for (entries, every_ns) in
            [(1_000, 10_000_000), (1_000, 3_333), (7, 250), (50_000, 1_000_000)]
        {
            let done = a_second(entries, every_ns);
            let all = u64::from(entries);
            assert!((all - 1..=all).contains(&done), "{done} of {entries} every {every_ns} ns");
        }
    }

    #[test]
    fn a_call_is_bounded_and_what_is_left_stays_due() {
        let mut cursor = Cursor::default();
        assert_eq!(call(&mut cursor, Tick(0), 1_000_000), 0);
        let late = Tick(3_600 * ROUND_NS);
        assert_eq!(call(&mut cursor, late, 1_000_000), 1_000_000, "one round, however late");
        assert_eq!(call(&mut cursor, late, 1_000_000), 1_000_000 - STEPS);
    }

    #[test]
    fn an_empty_table_owes_nothing() {
        let mut cursor = Cursor::default();
        assert_eq!(call(&mut cursor, Tick(0), 0), 0);
        assert_eq!(call(&mut cursor, Tick(ROUND_NS), 0), 0);
        assert_eq!(call(&mut cursor, Tick(ROUND_NS), 1_000), 0);
    }

    #[test]
    fn steps_go_round() {
        let mut cursor = Cursor::default();
        let ids: Vec<_> = (0..5).map(|_| cursor.step(3).0).collect();
        assert_eq!(ids, [0, 1, 2, 0, 1]);
    }
}
