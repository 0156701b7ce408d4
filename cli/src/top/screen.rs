//! The screen of `blixtctl top`: rates in, lines out.

use std::time::Duration;

use super::rates::{Flow, Rates, Row, Sample, WorkerRates};
use crate::amounts::{Precision, amount, duration, percent};
use crate::counters::rate;

/// How the user wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Wishes {
    pub(crate) order: Order,
    /// Shows endpoints, too.
    pub(crate) endpoints: bool,
    /// Lines of the list that have gone by at its top.
    pub(crate) scrolled: usize,
}

/// What listeners and backends are sorted by, the most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Order {
    #[default]
    Packets,
    Bits,
    NewFlows,
    /// As they come in `blixtctl lb`.
    Given,
}

impl Order {
    fn name(self) -> &'static str {
        match self {
            Self::Packets => "packets",
            Self::Bits => "bits",
            Self::NewFlows => "new flows",
            Self::Given => "name",
        }
    }
}

/// A line, and whether it stands out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) text: String,
    pub(crate) bold: bool,
}

/// How large the screen is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) columns: usize,
    pub(crate) lines: usize,
}

/// What is known.
pub(crate) struct Known<'a> {
    /// The newest answer; `None` before the first.
    pub(crate) sample: Option<&'a Sample>,
    /// From the one before to it; `None` as long as there was none.
    pub(crate) rates: Option<&'a Rates>,
    /// Why there is no newer one, if there should be.
    pub(crate) failure: Option<&'a str>,
}

const KEYS: &str = "q quit  p packets  b bits  f new flows  n name  e endpoints  arrows scroll";

/// Lines that workers may take: more would leave no room for listeners.
const WORKERS: usize = 4;

/// Draws it: at most as many lines and columns as there are.
pub(crate) fn draw(known: &Known<'_>, wishes: Wishes, size: Size) -> Vec<Line> {
    let mut lines = head(known, wishes, size);
    let list = list(known, wishes, size);
    // The heading of the list stays, and its end stays at the end of the screen.
    let (heading, body) = list.split_at(list.len().min(1));
    lines.extend_from_slice(heading);
    let keys = plain(KEYS.to_owned());
    let room = size.lines.saturating_sub(lines.len() + 1);
    let scrolled = wishes.scrolled.min(body.len().saturating_sub(room));
    lines.extend(body.iter().skip(scrolled).take(room).cloned());
    let missing = size.lines.saturating_sub(lines.len() + 1);
    lines.extend(std::iter::repeat_n(plain(String::new()), missing));
    lines.push(keys);
    fitted(lines, size)
}

/// All of it, without keys, however long: for who has no screen.
pub(crate) fn draw_once(known: &Known<'_>, wishes: Wishes, columns: usize) -> String {
    let size = Size { columns, lines: usize::MAX };
    let mut lines = head(known, wishes, size);
    lines.extend(list(known, wishes, size));
    let lines = fitted(lines, size);
    lines.iter().map(|line| format!("{}\n", line.text.trim_end())).collect()
}

fn fitted(mut lines: Vec<Line>, size: Size) -> Vec<Line> {
    lines.truncate(size.lines);
    for line in &mut lines {
        line.text = line.text.chars().take(size.columns).collect();
    }
    lines
}

fn plain(text: String) -> Line {
    Line { text, bold: false }
}

fn bold(text: String) -> Line {
    Line { text, bold: true }
}

fn head(known: &Known<'_>, wishes: Wishes, size: Size) -> Vec<Line> {
    let mut lines = vec![bold(title(known, wishes))];
    lines.extend(known.failure.map(|why| bold(format!("NO ANSWER: {why}"))));
    let Some(sample) = known.sample else { return lines };
    let Some(rates) = known.rates else {
        lines.push(plain("Counting…".to_owned()));
        return lines;
    };
    let agent = sample.status.agent.clone().unwrap_or_default();
    lines.extend(agent.not_ready_because.iter().map(|why| bold(format!("NOT READY: {why}"))));
    lines.push(plain(String::new()));
    lines.extend(totals(sample, rates));
    lines.push(plain(String::new()));
    lines.extend(workers(&rates.workers));
    lines.push(plain(drops(rates, size)));
    lines.push(plain(String::new()));
    lines
}

fn title(known: &Known<'_>, wishes: Wishes) -> String {
    let Some(status) = known.sample.map(|sample| &sample.status) else {
        return "blixtctl top: waiting for the agent".to_owned();
    };
    let agent = status.agent.clone().unwrap_or_default();
    let health = if agent.ready { "ready" } else { "NOT READY" };
    let generation = status.tables.as_ref().map_or(0, |tables| tables.applied_generation);
    format!(
        "blixt-agent {}, up {}, {health}, tables {generation}, sorted by {}",
        agent.version,
        duration(Duration::from_millis(agent.uptime_ms)),
        wishes.order.name(),
    )
}

fn totals(sample: &Sample, rates: &Rates) -> Vec<Line> {
    let workers = &sample.status.workers;
    let flows: u64 = workers.iter().map(|worker| worker.flow_entries).sum();
    let capacity: u64 = workers.iter().map(|worker| worker.flow_capacity).sum();
    let used = if capacity == 0 { 0.0 } else { flows as f64 / capacity as f64 };
    let dropped: f64 = rates.drops.iter().map(|(_, rate)| rate).sum();
    let row = |name: &str, flow: Flow, rest: String| {
        let (packets, bits) = (short(flow.packets), short(flow.bytes * 8.0));
        plain(format!("{name:<10}{packets:>9}  {bits:>9}    {rest}").trim_end().to_owned())
    };
    let rounded = |value| amount(value, Precision::Rounded);
    vec![
        bold(format!("{:<10}{:>9}  {:>9}", "", "PACKETS/S", "BIT/S")),
        row(
            "received",
            rates.received,
            format!("flows {} of {} ({})", rounded(flows), rounded(capacity), percent(used)),
        ),
        row(
            "sent",
            rates.sent,
            format!("new flows {}/s, dropped {}/s", short(rates.new_flows), short(dropped)),
        ),
    ]
}

fn workers(workers: &[WorkerRates]) -> Vec<Line> {
    let mut shown: Vec<_> = workers.iter().collect();
    if shown.len() > WORKERS {
        // The busiest are those that limit the others.
        shown.sort_by(|a, b| b.busy.unwrap_or(0.0).total_cmp(&a.busy.unwrap_or(0.0)));
        shown.truncate(WORKERS - 1);
    }
    let mut lines = vec![bold(format!(
        "{:>6}  {:>4}  {:>6}  {:>7}  {:>6}  {:>13}",
        "WORKER", "CORE", "BUSY", "FLOWS", "NEW/S", "HANDED OVER/S"
    ))];
    lines.extend(shown.iter().map(|worker| {
        plain(format!(
            "{:>6}  {:>4}  {:>6}  {:>7}  {:>6}  {:>13}",
            worker.id,
            crate::or_dash(worker.core),
            crate::or_dash(worker.busy.map(percent)),
            amount(worker.flows, Precision::Rounded),
            short(worker.new_flows),
            short(worker.handed_over),
        ))
    }));
    if shown.len() < workers.len() {
        lines.push(plain(format!("and {} that are less busy", workers.len() - shown.len())));
    }
    lines
}

/// As many reasons as fit, the most frequent first.
fn drops(rates: &Rates, size: Size) -> String {
    if rates.drops.is_empty() {
        return "nothing is dropped".to_owned();
    }
    let mut line = "dropped/s: ".to_owned();
    for (place, (reason, rate)) in rates.drops.iter().enumerate() {
        let told = format!("{}{reason} {}", if place > 0 { ", " } else { "" }, short(*rate));
        if line.chars().count() + told.chars().count() + ", …".len() > size.columns {
            line += ", …";
            break;
        }
        line += &told;
    }
    line
}

/// The numbers of a row of the list, with their widths.
const COLUMNS: [(&str, usize); 6] =
    [("PKT/S IN", 8), ("OUT", 6), ("BIT/S IN", 8), ("OUT", 6), ("NEW/S", 6), ("ACTIVE", 6)];

/// Its heading first.
fn list(known: &Known<'_>, wishes: Wishes, size: Size) -> Vec<Line> {
    let Some(rates) = known.rates else { return Vec::new() };
    let numbers: usize = COLUMNS.iter().map(|(_, width)| width + 1).sum();
    let name = size.columns.saturating_sub(numbers);
    let heading: String =
        COLUMNS.iter().map(|(heading, width)| format!(" {heading:>width$}")).collect();
    let mut lines = vec![bold(format!("{:<name$}{heading}", "LISTENER -> BACKEND"))];
    for listener in sorted(&rates.listeners, wishes.order) {
        lines.push(plain(line(listener, name)));
        for backend in sorted(&listener.parts, wishes.order) {
            lines.push(plain(line(backend, name)));
            if wishes.endpoints {
                let endpoints = sorted(&backend.parts, wishes.order).into_iter();
                lines.extend(endpoints.map(|endpoint| plain(line(endpoint, name))));
            }
        }
    }
    lines
}

fn sorted(rows: &[Row], order: Order) -> Vec<&Row> {
    let mut sorted: Vec<_> = rows.iter().collect();
    let key = |row: &Row| match order {
        Order::Packets => row.inwards.packets + row.outwards.packets,
        Order::Bits => row.inwards.bytes + row.outwards.bytes,
        Order::NewFlows => row.new_flows + row.refused,
        Order::Given => 0.0,
    };
    sorted.sort_by(|a, b| key(b).total_cmp(&key(a)));
    sorted
}

fn line(row: &Row, width: usize) -> String {
    let numbers = [
        short(row.inwards.packets),
        short(row.outwards.packets),
        short(row.inwards.bytes * 8.0),
        short(row.outwards.bytes * 8.0),
        short(row.new_flows),
        amount(row.active, Precision::Rounded),
    ];
    let mut line = format!("{:<width$}", shortened(&row.name, width));
    for (number, (_, width)) in numbers.iter().zip(COLUMNS) {
        line += &format!(" {number:>width$}");
    }
    line
}

/// What does not fit loses something before its end: names differ there, and
/// an address at the beginning is to keep its port.
fn shortened(text: &str, width: usize) -> String {
    let characters: Vec<char> = text.chars().collect();
    if characters.len() <= width || width < 3 {
        return text.chars().take(width).collect();
    }
    let end = (width - 1) / 3;
    let begin = width - 1 - end;
    let last = characters.len() - end;
    let begin = characters.iter().take(begin);
    begin.chain(&['…']).chain(characters.iter().skip(last)).collect()
}

/// A rate in at most five characters.
fn short(per_second: f64) -> String {
    if per_second < 10_000.0 {
        rate(per_second)
    } else {
        amount(per_second as u64, Precision::Rounded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    const SMALL: Size = Size { columns: 80, lines: 24 };

    /// One agent, two seconds apart.
    fn samples() -> (Sample, Sample) {
        let before = Sample { status: fixture::status(), balancing: fixture::load_balancing() };
        let mut now = before.clone();
        fixture::with_two_seconds_more(&mut now.status, &mut now.balancing);
        (before, now)
    }

    fn text(lines: &[Line]) -> String {
        lines.iter().map(|line| format!("{}\n", line.text.trim_end())).collect()
    }

    fn drawn(wishes: Wishes, size: Size) -> String {
        let (before, now) = samples();
        let rates = Rates::between(&before, &now).unwrap();
        let known = Known { sample: Some(&now), rates: Some(&rates), failure: None };
        let lines = draw(&known, wishes, size);
        assert!(lines.len() <= size.lines, "{}", text(&lines));
        assert!(lines.iter().all(|line| line.text.chars().count() <= size.columns));
        text(&lines)
    }

    #[test]
    fn a_small_screen_has_it_all() {
        fixture::assert_golden("top-80x24.txt", &drawn(Wishes::default(), SMALL));
    }

    #[test]
    fn a_large_screen_shows_endpoints_when_asked() {
        let wishes = Wishes { order: Order::Bits, endpoints: true, scrolled: 0 };
        let size = Size { columns: 110, lines: 30 };
        fixture::assert_golden("top-110x30.txt", &drawn(wishes, size));
    }

    #[test]
    fn the_order_is_as_wished() {
        let place = |order, name: &str| {
            drawn(Wishes { order, ..Wishes::default() }, SMALL).find(name).unwrap()
        };
        let is_first = |order| place(order, "web-green") < place(order, "web-blue");
        assert!(!is_first(Order::Packets) && is_first(Order::Bits) && !is_first(Order::Given));
    }

    #[test]
    fn what_does_not_fit_is_scrolled_to_and_no_further() {
        let size = Size { lines: 15, ..SMALL };
        let top = drawn(Wishes::default(), size);
        let end = drawn(Wishes { scrolled: 1_000, ..Wishes::default() }, size);
        assert!(top.contains("edge/web") && !top.contains("edge/spare"), "{top}");
        assert!(end.contains("edge/spare"), "{end}");
        assert!(end.contains("LISTENER"), "the heading stays:\n{end}");
    }

    #[test]
    fn any_size_is_possible() {
        for lines in 0..30 {
            for columns in [0, 1, 20, 79, 200] {
                drawn(Wishes { endpoints: true, ..Wishes::default() }, Size { columns, lines });
            }
        }
    }

    #[test]
    fn trouble_is_told() {
        let (_, mut now) = samples();
        now.status = fixture::status_in_trouble();
        let why = "there is no agent";
        let known = Known { sample: Some(&now), rates: None, failure: Some(why) };
        let told = text(&draw(&known, Wishes::default(), SMALL));
        assert!(
            told.contains("NOT READY") && told.contains("NO ANSWER: there is no agent"),
            "{told}"
        );
        let nothing = Known { sample: None, rates: None, failure: Some(why) };
        let told = text(&draw(&nothing, Wishes::default(), SMALL));
        assert!(told.contains("waiting for the agent") && told.contains("q quit"), "{told}");
    }

    #[test]
    fn an_agent_that_was_started_anew_begins_anew() {
        let (before, now) = samples();
        assert_eq!(Rates::between(&now, &before), None);
        let mut other = now.clone();
        other.status.agent.as_mut().unwrap().pid += 1;
        assert_eq!(Rates::between(&before, &other), None);
    }

    #[test]
    fn names_keep_their_beginning_and_their_end() {
        assert_eq!(shortened("abcdefghij", 10), "abcdefghij");
        assert_eq!(shortened("abcdefghij", 7), "abcd…ij");
        assert_eq!(shortened("abcdefghij", 2), "ab");
        assert_eq!(shortened("", 5), "");
    }
}
