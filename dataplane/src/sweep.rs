//! Goes round the flow table, about once a second, for what no packet would
//! bring up: flows that have been idle for too long, ports that have rested,
//! and flows whose endpoint is gone.
//!
//! Entries that cannot be over yet are passed by, many at a time; but for the
//! round that follows new tables, which may have lost any flow's endpoint.

use blixt_model::Generation;

use crate::counters::Counters;
use crate::flows::{BLOCK, Direction, Flows, Moment, Stage};
use crate::packet::{FlowId, Tick, Tuple};
use crate::pipeline::View;
use crate::tables::{EndpointFate, Tables};
use crate::timeouts::Millis;

/// How long a round should take, in nanoseconds.
const ROUND_NS: u64 = 1_000_000_000;

/// How much is done in one call, at most: so many entries are looked at that
/// are left alone, which takes a few microseconds, as they lie in a row; or so
/// many times a whole block of them is passed by.
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
    /// The tables that endpoints were last looked up in.
    seen: Generation,
    /// How many ends of the table are to come until each entry has been looked at
    /// with these.
    thorough: u8,
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
    let (mut visited, mut steps, mut waits) = (0, 0, false);
    flows.cursor.look_up_in(view.tables.generation());
    while visited < due && steps < STEPS {
        let id = flows.cursor.here();
        if flows.cursor.may_pass() && !flows.table.may_be_over(id, moment.now) {
            let block = BLOCK.min(entries - id.0);
            // All of it is passed by when all of it is due.
            waits = visited + u64::from(block) > due;
            if waits {
                break;
            }
            visited += u64::from(block);
            steps += 1;
            flows.cursor.go_on(block, entries);
            continue;
        }
        visited += 1;
        if flows.cursor.is_thorough() {
            flows.bring_in_line(id, moment.now);
        }
        steps += match visit(id, flows, view.tables, moment) {
            Visited::Stays => 1,
            Visited::Ended => STEPS_TO_END,
            Visited::Lost(lost) => {
                reset(&lost);
                STEPS_TO_END
            }
        };
        flows.cursor.go_on(1, entries);
        if flows.cursor.is_behind_a_block() {
            flows.table.renew_deadline(id, moment.now);
        }
    }
    flows.cursor.has_done(visited, entries);
    flows.publish(counters);
    due > visited && !waits
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

    /// The entry that is next.
    fn here(&self) -> FlowId {
        FlowId(self.next)
    }

    /// Goes on by so many of `entries`, never beyond the last one.
    fn go_on(&mut self, by: u32, entries: u32) {
        self.next += by;
        if self.next >= entries {
            self.next = 0;
            self.thorough = self.thorough.saturating_sub(1);
        }
    }

    /// Takes in which tables there are: with new ones no entry is passed by in
    /// what is left of this round, and in the next one.
    fn look_up_in(&mut self, tables: Generation) {
        if self.seen != tables {
            self.seen = tables;
            self.look_at_all();
        }
    }

    /// No entry is passed by in what is left of this round, and in the next one.
    pub(crate) fn look_at_all(&mut self) {
        self.thorough = 2;
    }

    /// Whether each entry is looked at.
    fn is_thorough(&self) -> bool {
        self.thorough > 0
    }

    /// Whether a block begins here that need not be looked at for its endpoints'
    /// sake.
    fn may_pass(&self) -> bool {
        self.thorough == 0 && self.next.is_multiple_of(BLOCK)
    }

    /// Whether the last entry of a block was just looked at.
    fn is_behind_a_block(&self) -> bool {
        self.next.is_multiple_of(BLOCK)
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
        let ids: Vec<_> = (0..5)
            .map(|_| {
                let id = cursor.here();
                cursor.go_on(1, 3);
                id.0
            })
            .collect();
        assert_eq!(ids, [0, 1, 2, 0, 1]);
    }

    #[test]
    fn after_new_tables_each_entry_is_looked_at() {
        let mut cursor = Cursor::default();
        let entries = 3 * BLOCK;
        let steps_until_it_may_pass = |cursor: &mut Cursor| {
            let counts = 0..10 * entries;
            counts.into_iter().find(|_| {
                let may = cursor.may_pass();
                cursor.go_on(1, entries);
                may
            })
        };
        assert_eq!(steps_until_it_may_pass(&mut cursor), Some(0));
        // In the midst of a round: its rest, and a whole one.
        cursor.look_up_in(Generation(7));
        assert_eq!(steps_until_it_may_pass(&mut cursor), Some(2 * entries - 1));
        cursor.look_up_in(Generation(7));
        assert_eq!(steps_until_it_may_pass(&mut cursor), Some(BLOCK - 1));
    }
}
