//! Texts of files, fit to be shown: nothing that moves a terminal's cursor,
//! breaks a line of the log, or turns the reading order round.

/// The text with such characters as escapes, `\u{1b}` for one.
pub(crate) fn plain(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, character| {
        if is_plain(character) {
            shown.push(character);
        } else {
            shown.extend(character.escape_default());
        }
        shown
    })
}

/// Controls (Unicode's category Cc), line and paragraph separators, and the
/// characters of explicit direction (Unicode Standard Annex 9, §2).
fn is_plain(character: char) -> bool {
    !(character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        ))
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn what_moves_cursor_line_or_order_is_escaped() {
        assert_eq!(plain("\u{1b}[31mred\nnew \u{202e}"), r"\u{1b}[31mred\nnew \u{202e}");
        assert_eq!(plain("\t\r\0\u{7f}\u{9b}\u{2028}"), r"\t\r\u{0}\u{7f}\u{9b}\u{2028}");
    }

    #[test]
    fn other_texts_stay() {
        for text in ["", "Größe \"äöü\" \\n 日本語 🙂", "a/b: c"] {
            assert_eq!(plain(text), text);
        }
    }
}
