//! A chart of what was compared, as SVG: packets a second on the left, CPU
//! time for each on the right, a bar for each contestant.

use std::fmt::Write as _;

use blixt_counted::Spread;

use crate::report::{Cell, Report, Side, Unit};

const WIDTH: f64 = 980.0;
/// Where names end and the bars of each half begin, and how long those can be.
const LEFT: f64 = 190.0;
const RIGHT: f64 = 620.0;
const LENGTH: f64 = 290.0;
const TOP: f64 = 84.0;
const BAR: f64 = 16.0;
const GAP: f64 = 18.0;

/// One colour for each contestant, told apart also without seeing colours
/// (Okabe and Ito's palette: grey, blue, orange).
const COLOURS: [&str; 3] = ["#999999", "#0072b2", "#e69f00"];

/// What a half of the chart is of.
type Value = fn(&Side) -> &Spread;

/// Draws the cells that compare all contestants by packets.
pub fn svg(report: &Report) -> String {
    let is_drawn = |cell: &&Cell| cell.unit == Unit::Packets && cell.sides.len() == COLOURS.len();
    let cells: Vec<&Cell> = report.cells.iter().filter(is_drawn).collect();
    let height = TOP + cells.iter().map(|cell| group_height(cell)).sum::<f64>() + 46.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    text(
        &mut svg,
        (20.0, 28.0),
        "font-size=\"17\" font-weight=\"bold\"",
        "Forwarding UDP over veth",
    );
    heading(&mut svg, &cells);
    let halves: [(f64, Value); 2] =
        [(LEFT, |side| &side.through_per_second), (RIGHT, |side| &side.cpu_ns)];
    let mut y = TOP;
    for cell in &cells {
        for (number, line) in cell.name.splitn(2, ", ").enumerate() {
            let place = (LEFT - 12.0, y + BAR + number as f64 * 15.0);
            text(&mut svg, place, "text-anchor=\"end\"", line);
        }
        for (x, value) in halves {
            let most = cells.iter().flat_map(|cell| &cell.sides).map(|side| value(side).highest);
            let scale = LENGTH / most.fold(f64::MIN_POSITIVE, f64::max);
            for (number, (side, colour)) in cell.sides.iter().zip(COLOURS).enumerate() {
                let y = y + number as f64 * BAR;
                bar(&mut svg, (x, y), value(side), scale, colour);
            }
        }
        y += group_height(cell);
    }
    footer(&mut svg, report, y + 16.0);
    svg.push_str("</svg>\n");
    svg
}

fn group_height(cell: &Cell) -> f64 {
    cell.sides.len() as f64 * BAR + GAP
}

/// Who has which colour, and what the halves are.
fn heading(svg: &mut String, cells: &[&Cell]) {
    let names = cells.first().map(|cell| cell.sides.as_slice()).unwrap_or_default();
    let mut x = 420.0;
    for (side, colour) in names.iter().zip(COLOURS) {
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"18\" width=\"12\" height=\"12\" fill=\"{colour}\"/>"
        );
        text(svg, (x + 17.0, 28.0), "", side.name);
        x += 60.0 + 6.5 * side.name.len() as f64;
    }
    text(svg, (LEFT, TOP - 14.0), "fill=\"#555555\"", "packets per second (more is better)");
    text(svg, (RIGHT, TOP - 14.0), "fill=\"#555555\"", "ns of CPU time for each (less is better)");
}

/// The median as a bar, half of all rounds as a thick line, all as a thin one.
fn bar(svg: &mut String, (x, y): (f64, f64), spread: &Spread, scale: f64, colour: &str) {
    let at = |value: f64| x + value * scale;
    let middle = y + (BAR - 3.0) / 2.0;
    let _ = writeln!(
        svg,
        "<rect x=\"{x}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
        spread.median * scale,
        BAR - 3.0
    );
    for (from, to, width) in
        [(spread.lowest, spread.highest, 1.0), (spread.lower_quartile, spread.upper_quartile, 3.0)]
    {
        let _ = writeln!(
            svg,
            "<path d=\"M{:.1} {middle:.1}H{:.1}\" stroke=\"#222222\" stroke-width=\"{width}\"/>",
            at(from),
            at(to)
        );
    }
    let place = (at(spread.highest.max(spread.median)) + 6.0, middle + 4.0);
    text(svg, place, "font-size=\"11\"", &grouped(spread.median));
}

fn footer(svg: &mut String, report: &Report, y: f64) {
    let machine = &report.machine;
    let rounds = report.cells.first().and_then(|cell| cell.sides.first());
    let rounds = rounds.map_or(0, |side| side.cpu_ns.rounds.len());
    let lines = [
        format!(
            "Medians of {rounds} rounds of {} s in turn; thick line: half of the rounds; thin line: all",
            report.seconds
        ),
        format!(
            "{}, {} cores, Linux {}, {}, {}",
            machine.cpu, machine.cores, machine.kernel, machine.date, machine.commit
        ),
    ];
    for (number, line) in lines.iter().enumerate() {
        let place = (20.0, y + number as f64 * 15.0);
        text(svg, place, "font-size=\"11\" fill=\"#555555\"", line);
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), how: &str, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {how}>{what}</text>");
}

/// `1,234,567`.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (number, digit) in digits.chars().enumerate() {
        if number > 0 && (digits.len() - number).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let all = [0.4, 999.0, 1_000.0, 1_234_567.0].map(grouped);
        assert_eq!(all, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn text_can_hold_anything() {
        let mut svg = String::new();
        text(&mut svg, (1.0, 2.0), "", "a < b & c");
        assert_eq!(svg, "<text x=\"1.0\" y=\"2.0\" >a &lt; b &amp; c</text>\n");
    }
}
