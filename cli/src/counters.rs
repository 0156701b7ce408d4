//! `blixtctl counters`: all that is counted, with what it means and what to do
//! about it.

use std::collections::BTreeMap;
use std::time::Duration;

use blixt_api::v1alpha1::{Counter, CounterKind, GetCountersResponse};

use crate::or_dash;
use crate::table::{self, number, text};

/// The metric that counts drops: it gets a table of its own.
const DROPS: &str = "blixt_drops_total";

/// What is shown of the counters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown {
    /// Also those that are 0, or stand still.
    pub(crate) all: bool,
    /// How wide it may be.
    pub(crate) width: Option<u16>,
}

/// Draws the answer.
pub(crate) fn draw(now: &GetCountersResponse, shown: Shown) -> String {
    let rows = now.counters.iter().map(|counter| Row { counter, per_second: None });
    Drawing { shown, rates: false }.draw(rows.collect())
}

/// Draws how fast the counters have grown from one answer to the next; those
/// that stood still are left out.
pub(crate) fn draw_growth(
    before: &GetCountersResponse,
    now: &GetCountersResponse,
    shown: Shown,
) -> String {
    let ms = now.uptime_ms.saturating_sub(before.uptime_ms);
    let key = |counter: &Counter| (counter.metric.clone(), counter.labels.clone());
    let old: BTreeMap<_, _> =
        before.counters.iter().map(|counter| (key(counter), counter.value)).collect();
    let rows = now.counters.iter().map(|counter| {
        // An agent that was started anew counts from 0.
        let old = old.get(&key(counter)).copied().filter(|old| ms > 0 && *old <= counter.value);
        let grown = old.filter(|_| counter.kind() == CounterKind::Total);
        let per_second = grown.map(|old| (counter.value - old) as f64 * 1_000.0 / ms as f64);
        Row { counter, per_second }
    });
    Drawing { shown, rates: true }.draw(rows.collect())
}

/// How often something happens, for people.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        // The sum of nothing is -0.
        0.0 => "0".to_owned(),
        slow if slow < 9.95 => format!("{slow:.1}"),
        fast => format!("{fast:.0}"),
    }
}

/// For how long [`draw_growth`]'s answers may lie apart.
pub(crate) const LONGEST: Duration = Duration::from_secs(3_600);

struct Row<'a> {
    counter: &'a Counter,
    per_second: Option<f64>,
}

struct Drawing {
    shown: Shown,
    rates: bool,
}

impl Drawing {
    fn draw(&self, rows: Vec<Row<'_>>) -> String {
        let all = rows.len();
        let kept: Vec<_> = rows.into_iter().filter(|row| self.is_of_interest(row)).collect();
        let hidden = all - kept.len();
        let (drops, others): (Vec<_>, Vec<_>) =
            kept.into_iter().partition(|row| row.counter.metric == DROPS);
        let mut parts = vec![self.others(&others), self.drops(&drops)];
        let what = if self.rates { "did not grow" } else { "are 0" };
        if hidden > 0 {
            parts.push(format!("{hidden} more {what}: --all shows them.\n"));
        }
        parts.retain(|part| !part.is_empty());
        parts.join("\n")
    }

    fn is_of_interest(&self, row: &Row<'_>) -> bool {
        self.shown.all
            || match self.rates {
                true => row.per_second.is_some_and(|rate| rate > 0.0),
                false => row.counter.value > 0,
            }
    }

    /// Under each metric's name its numbers, where there are several.
    fn others(&self, rows: &[Row<'_>]) -> String {
        let mut drawn: Vec<Vec<String>> = Vec::new();
        for metric in rows.chunk_by(|a, b| a.counter.metric == b.counter.metric) {
            let Some(Row { counter, .. }) = metric.first() else { continue };
            let (name, meaning) = (counter.metric.clone(), counter.meaning.clone());
            if let [row] = metric
                && counter.labels.is_empty()
            {
                drawn.push(self.row(name, row, meaning));
                continue;
            }
            let numbers = if self.rates { 2 } else { 1 };
            let blank = std::iter::repeat_n(String::new(), numbers);
            drawn.push([name].into_iter().chain(blank).chain([meaning]).collect());
            for row in metric {
                let labels = row.counter.labels.iter();
                let labels: Vec<_> = labels.map(|(key, value)| format!("{key}={value}")).collect();
                drawn.push(self.row(format!("  {}", labels.join(" ")), row, String::new()));
            }
        }
        self.table("COUNTER", "VALUE", "WHAT IT MEANS", &drawn)
    }

    fn drops(&self, rows: &[Row<'_>]) -> String {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                let name = or_dash(row.counter.labels.get("reason"));
                let mut told = row.counter.meaning.clone();
                if let Some(advice) = &row.counter.advice {
                    told += "\n-> ";
                    told += advice;
                }
                self.row(name, row, told)
            })
            .collect();
        self.table("DROPPED", "PACKETS", "WHAT IT MEANS\n-> WHAT TO DO", &rows)
    }

    fn row(&self, name: String, row: &Row<'_>, told: String) -> Vec<String> {
        let mut cells = vec![name, row.counter.value.to_string()];
        if self.rates {
            cells.push(or_dash(row.per_second.map(rate)));
        }
        cells.push(told);
        cells
    }

    fn table(
        &self,
        name: &'static str,
        value: &'static str,
        told: &'static str,
        rows: &[Vec<String>],
    ) -> String {
        if rows.is_empty() {
            return String::new();
        }
        let mut columns = vec![text(name), number(value)];
        if self.rates {
            columns.push(number("PER S"));
        }
        columns.push(text(told));
        table::draw(&columns, rows, self.shown.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    const NARROW: Shown = Shown { all: false, width: Some(80) };

    #[test]
    fn a_narrow_table_fits_and_tells_what_to_do() {
        let drawing = draw(&fixture::counters(), NARROW);
        assert!(table::width_of(&drawing) <= 80, "{drawing}");
        fixture::assert_golden("counters-80.txt", &drawing);
    }

    #[test]
    fn what_is_0_is_shown_only_when_asked_for() {
        let hidden = draw(&fixture::counters(), NARROW);
        assert!(!hidden.contains("snat_ports\n") && hidden.contains("are 0"), "{hidden}");
        let all = draw(&fixture::counters(), Shown { all: true, ..NARROW });
        assert!(all.contains("blixt_handoffs_total") && !all.contains("are 0"), "{all}");
    }

    #[test]
    fn growth_is_a_rate_and_what_stands_still_is_left_out() {
        let (before, now) = (fixture::counters(), fixture::counters_later());
        let drawing = draw_growth(&before, &now, NARROW);
        fixture::assert_golden("counters-growth.txt", &drawing);
        // Started anew meanwhile: no rate can be told.
        let drawing = draw_growth(&now, &before, Shown { all: true, ..NARROW });
        assert!(drawing.contains("-"), "{drawing}");
    }

    #[test]
    fn rates_are_short() {
        for (value, told) in
            [(0.0, "0"), (-0.0, "0"), (0.26, "0.3"), (9.94, "9.9"), (10.2, "10"), (1e6, "1000000")]
        {
            assert_eq!(rate(value), told);
        }
    }
}
