//! The terminal, taken over and given back as it was: at the end, on signals,
//! and on a panic.

use std::io::{self, Write};
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::style::{Attribute, Print, SetAttribute};
use crossterm::terminal::{
    self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode,
};
use crossterm::{cursor, execute, queue};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::screen::{Line, Size};

/// How long keys are waited for, until signals and answers are looked for.
const PATIENCE: Duration = Duration::from_millis(100);

/// How many lines a page key scrolls.
const PAGE: usize = 10;

/// What the user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    Letter(char),
    Up(usize),
    Down(usize),
    Resized,
}

/// The terminal while we have it.
pub(super) struct Terminal {
    out: io::Stdout,
    /// Set by a signal that asks us to end.
    ended: Arc<AtomicBool>,
}

impl Terminal {
    /// Takes it over.
    pub(super) fn take() -> io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&ended))?;
        }
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // First, so that the message is to be seen.
            give_back();
            usual(info);
        }));
        let mut terminal = Self { out: io::stdout(), ended };
        enable_raw_mode()?;
        execute!(terminal.out, EnterAlternateScreen, cursor::Hide, Clear(ClearType::All))?;
        Ok(terminal)
    }

    /// Draws the lines that `lines` makes for the size there is.
    pub(super) fn draw(&mut self, lines: impl FnOnce(Size) -> Vec<Line>) -> io::Result<()> {
        let (columns, rows) = terminal::size()?;
        let lines = lines(Size { columns: columns.into(), lines: rows.into() });
        for (row, line) in (0..rows).zip(&lines) {
            let weight = if line.bold { Attribute::Bold } else { Attribute::Reset };
            queue!(
                self.out,
                cursor::MoveTo(0, row),
                SetAttribute(weight),
                Print(&line.text),
                SetAttribute(Attribute::Reset),
                Clear(ClearType::UntilNewLine),
            )?;
        }
        let below = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        if below < rows {
            queue!(self.out, cursor::MoveTo(0, below), Clear(ClearType::FromCursorDown))?;
        }
        self.out.flush()
    }

    /// The next key, or `None` if there is none for a while.
    pub(super) fn key(&self) -> io::Result<Option<Key>> {
        if self.ended.load(Ordering::Relaxed) {
            return Ok(Some(Key::Quit));
        }
        match event::poll(PATIENCE) {
            Ok(false) => return Ok(None),
            Ok(true) => {}
            // By a signal: see what it wants.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(None),
            Err(error) => return Err(error),
        }
        let event = event::read()?;
        Ok(meant(&event))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    // Nothing can be done about a terminal that is gone.
    let _ = disable_raw_mode();
    let _ = execute!(io::stdout(), cursor::Show, LeaveAlternateScreen);
}

fn meant(event: &Event) -> Option<Key> {
    let key = match event {
        Event::Resize(..) => return Some(Key::Resized),
        Event::Key(key) if key.kind != KeyEventKind::Release => key,
        _ => return None,
    };
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(match key.code {
        KeyCode::Char('c') if control => Key::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
        KeyCode::Char(letter) => Key::Letter(letter),
        KeyCode::Up => Key::Up(1),
        KeyCode::Down => Key::Down(1),
        KeyCode::PageUp => Key::Up(PAGE),
        KeyCode::PageDown => Key::Down(PAGE),
        KeyCode::Home => Key::Up(usize::MAX),
        KeyCode::End => Key::Down(usize::MAX),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossterm::event::KeyEvent;

    #[test]
    fn keys_mean_what_they_say() {
        let key = |code, modifiers| meant(&Event::Key(KeyEvent::new(code, modifiers)));
        let plain = |code| key(code, KeyModifiers::NONE);
        assert_eq!(plain(KeyCode::Char('q')), Some(Key::Quit));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Quit));
        assert_eq!(plain(KeyCode::Char('c')), Some(Key::Letter('c')));
        assert_eq!(plain(KeyCode::Down), Some(Key::Down(1)));
        assert_eq!(plain(KeyCode::PageUp), Some(Key::Up(PAGE)));
        assert_eq!(plain(KeyCode::Tab), None);
        assert_eq!(meant(&Event::Resize(80, 24)), Some(Key::Resized));
    }
}
