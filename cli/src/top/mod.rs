//! `blixtctl top`: what happens now, on a screen that is drawn again and again.
//!
//! One thread asks the agent, so that keys are obeyed while it is slow; this
//! one draws and reads keys.

mod rates;
mod screen;
mod terminal;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use blixt_api::v1alpha1::{GetLoadBalancingRequest, GetStatusRequest};

use crate::connect::{self, Failure};
use crate::table;
use rates::Rates;
pub(crate) use rates::Sample;
use screen::{Known, Order, Wishes};
use terminal::{Key, Terminal};

/// Seconds between two looks at the agent, at most.
pub(crate) const LONGEST: u64 = 3_600;

/// How wide the output is where nothing says so.
const USUAL_WIDTH: u16 = 80;

/// Two looks, one after the other, as text.
pub(crate) fn once(socket: &Path, interval: Duration) -> Result<String, Failure> {
    let before = look(socket)?;
    thread::sleep(interval);
    let now = look(socket)?;
    let rates = Rates::between(&before, &now);
    let known = Known { sample: Some(&now), rates: rates.as_ref(), failure: None };
    let width = table::terminal_width().unwrap_or(USUAL_WIDTH);
    Ok(screen::draw_once(&known, Wishes::default(), width.into()))
}

/// Draws until somebody has seen enough.
pub(crate) fn run(socket: &Path, interval: Duration) -> Result<(), Failure> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::NoTerminal);
    }
    // What is wrong from the start is told where it stays to be read.
    let first = look(socket)?;
    let looks = keep_looking(socket.to_owned(), interval);
    let mut terminal = Terminal::take().map_err(Failure::Screen)?;
    let mut state = State { sample: Some(first), ..State::default() };
    let drawn = state.run(&mut terminal, &looks);
    drop(terminal);
    drawn.map_err(Failure::Screen)
}

/// What is shown, and how.
#[derive(Default)]
struct State {
    sample: Option<Sample>,
    rates: Option<Rates>,
    failure: Option<String>,
    wishes: Wishes,
}

impl State {
    fn run(
        &mut self,
        terminal: &mut Terminal,
        looks: &Receiver<Result<Sample, Failure>>,
    ) -> io::Result<()> {
        let mut stale = true;
        loop {
            while let Ok(look) = looks.try_recv() {
                self.take(look);
                stale = true;
            }
            if stale {
                let Self { sample, rates, failure, wishes } = self;
                let known = Known {
                    sample: sample.as_ref(),
                    rates: rates.as_ref(),
                    failure: failure.as_deref(),
                };
                terminal.draw(|size| screen::draw(&known, *wishes, size))?;
            }
            stale = match terminal.key()? {
                None => false,
                Some(Key::Quit) => return Ok(()),
                Some(key) => {
                    self.obey(key);
                    true
                }
            };
        }
    }

    fn take(&mut self, look: Result<Sample, Failure>) {
        match look {
            Ok(now) => {
                self.rates = self.sample.as_ref().and_then(|before| Rates::between(before, &now));
                self.sample = Some(now);
                self.failure = None;
            }
            Err(failure) => self.failure = Some(failure.to_string()),
        }
    }

    fn obey(&mut self, key: Key) {
        let wishes = &mut self.wishes;
        match key {
            Key::Letter('p') => wishes.order = Order::Packets,
            Key::Letter('b') => wishes.order = Order::Bits,
            Key::Letter('f') => wishes.order = Order::NewFlows,
            Key::Letter('n') => wishes.order = Order::Given,
            Key::Letter('e') => wishes.endpoints = !wishes.endpoints,
            Key::Up(lines) => wishes.scrolled = wishes.scrolled.saturating_sub(lines),
            Key::Down(lines) => {
                // Not farther than there can be anything.
                let last = self.rates.as_ref().map_or(0, Rates::rows);
                wishes.scrolled = wishes.scrolled.saturating_add(lines).min(last);
            }
            Key::Quit | Key::Letter(_) | Key::Resized => {}
        }
    }
}

/// Looks at the agent once in each interval, in a thread of its own that ends
/// with who listens to it.
fn keep_looking(socket: PathBuf, interval: Duration) -> Receiver<Result<Sample, Failure>> {
    let (sender, looks) = mpsc::channel();
    thread::spawn(move || {
        loop {
            thread::sleep(interval);
            if sender.send(look(&socket)).is_err() {
                return;
            }
        }
    });
    looks
}

fn look(socket: &Path) -> Result<Sample, Failure> {
    connect::ask(socket, async |agent| {
        let status = agent.get_status(GetStatusRequest {}).await?.into_inner();
        let balancing = agent.get_load_balancing(GetLoadBalancingRequest {}).await?;
        Ok(balancing.map(|balancing| Sample { status, balancing }))
    })
}
