//! Tables that fit the terminal: texts wrap, numbers never do.

use std::io::{self, IsTerminal};

use comfy_table::{
    Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets,
};

/// A column: its heading, and how its cells behave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    heading: &'static str,
    number: bool,
}

/// A column of texts: to the left, wrapped where the terminal is narrow.
pub(crate) const fn text(heading: &'static str) -> Column {
    Column { heading, number: false }
}

/// A column of numbers or single words: to the right, never wrapped.
pub(crate) const fn number(heading: &'static str) -> Column {
    Column { heading, number: true }
}

/// Draws rows under headings, at most `width` wide if that is possible
/// without breaking a number.
pub(crate) fn draw(columns: &[Column], rows: &[Vec<String>], width: Option<u16>) -> String {
    let mut table = Table::new();
    table.set_header(columns.iter().map(|column| cell(column.heading, *column)));
    fill(table, columns, rows, width)
}

/// Draws names and what is to be said about them, without headings.
pub(crate) fn draw_list(rows: &[Vec<String>], width: Option<u16>) -> String {
    fill(Table::new(), &[number(""), text("")], rows, width)
}

fn fill(mut table: Table, columns: &[Column], rows: &[Vec<String>], width: Option<u16>) -> String {
    table.load_style(presets::NOTHING);
    for row in rows {
        table.add_row(row.iter().zip(columns).map(|(content, column)| cell(content, *column)));
    }
    let last = columns.len().saturating_sub(1);
    for (place, column) in columns.iter().enumerate() {
        let Some(drawn) = table.column_mut(place) else { continue };
        let gap = if place == last { 0 } else { GAP };
        drawn.set_padding((0, gap));
        drawn.set_constraint(match column.number {
            true => ColumnConstraint::ContentWidth,
            // What comfy-table calls the width of a column has its gap in it.
            false => ColumnConstraint::LowerBoundary(Width::Fixed(longest_word(place, rows) + gap)),
        });
    }
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    let mut drawn = table.trim_fmt().replace(STUCK, " ");
    drawn.push('\n');
    drawn
}

/// How wide the widest line of a drawing is.
pub(crate) fn width_of(drawing: &str) -> usize {
    drawing.lines().map(|line| line.chars().count()).max().unwrap_or(0)
}

/// How wide tables may be; `None` for as wide as they like, as in a file.
pub(crate) fn terminal_width() -> Option<u16> {
    let asked = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    asked.filter(|&columns| columns > 0).or_else(|| {
        let out = io::stdout();
        // A pipe's other end is not the terminal that standard error may be.
        let (width, _) = out.is_terminal().then(|| terminal_size::terminal_size_of(out))??;
        Some(width.0)
    })
}

/// Columns of blanks between two columns.
const GAP: u16 = 2;

/// Words up to this long are not broken, though the table be wider than asked
/// for then: an address with its port is, and so is a usual name.
const UNBROKEN: usize = 48;

/// How wide the longest word of a column is, with its indentation.
fn longest_word(column: usize, rows: &[Vec<String>]) -> u16 {
    let cells = rows.iter().filter_map(|row| row.get(column));
    let words = cells.flat_map(|cell| cell.lines()).flat_map(|line| {
        indented(line).split(' ').map(|word| word.chars().count()).collect::<Vec<_>>()
    });
    words.filter(|&width| width <= UNBROKEN).max().unwrap_or(0) as u16
}

/// A blank at which no line is broken, nor dropped from the start of one.
const STUCK: char = '\u{a0}';

fn cell(content: &str, column: Column) -> Cell {
    let lines: Vec<_> = content.lines().map(indented).collect();
    let content = lines.join("\n");
    let alignment = if column.number { CellAlignment::Right } else { CellAlignment::Left };
    Cell::new(content).set_alignment(alignment)
}

/// The line with its indentation, and the arrow it may begin with, stuck to
/// its first word.
fn indented(line: &str) -> String {
    let first = line.find(|c| !matches!(c, ' ' | '-' | '>')).unwrap_or(0);
    let (indentation, rest) = line.split_at(first);
    indentation.replace(' ', &STUCK.to_string()) + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_wrap_and_numbers_do_not() {
        let columns = [text("WHY"), number("COUNT")];
        let rows = [vec!["a reason of many words".to_owned(), "123456789".to_owned()]];
        assert_eq!(
            draw(&columns, &rows, None),
            "WHY                         COUNT\na reason of many words  123456789\n"
        );
        let narrow = draw(&columns, &rows, Some(20));
        assert!(width_of(&narrow) <= 20, "{narrow}");
        assert!(narrow.contains("123456789"), "{narrow}");
    }

    #[test]
    fn what_wraps_stays_indented() {
        let rows = [vec!["  -> default/web by client IP".to_owned()]];
        assert_eq!(
            draw(&[text("NAME")], &rows, Some(18)),
            "NAME\n  -> default/web\nby client IP\n"
        );
    }
}
