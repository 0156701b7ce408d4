//! How long a worker's turns take: for as long, packets that come wait.
//!
//! A turn can take long because of what the worker does in it, because of what
//! the kernel does to send its frames (a veth delivers them there and then, up
//! to the other end's sockets), or because something else has the core
//! meanwhile. The thread's CPU time tells these apart, but asking for it is a
//! system call, which would be too much for each turn. So it is asked for once
//! in a *span* of turns: what the longest of them took of it is known to within
//! [`SPAN_NS`], never too low.

use nix::time::{ClockId, clock_gettime};

use blixt_dataplane::Tick;

use super::WorkerStatus;

/// How much time goes by until the CPU time is asked for again: at some 0.2 µs
/// a call, a five-hundredth of a core.
const SPAN_NS: u64 = 100_000;

/// A turn that took longer is counted as a slow one.
const SLOW_NS: u64 = 1_000_000;

/// The longest turn is that of this time and up to as much before, so that who
/// looks once a minute misses none.
const WINDOW_NS: u64 = 60_000_000_000;

/// How long turns take, measured by the worker itself.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the turn began; `None` after a sleep.
    turn: Option<Tick>,
    span: Span,
    window: Window,
    slow: Slow,
}

/// How many turns were slow, by what made them so.
#[derive(Debug, Default)]
struct Slow {
    itself: u64,
    sending: u64,
    others: u64,
}

/// Turns between two looks at the CPU time.
#[derive(Debug, Default)]
struct Span {
    began: Tick,
    /// The thread's CPU time then.
    cpu_ns: u64,
    /// What the kernel took of it to send.
    sending_ns: u64,
    longest_ns: u64,
}

#[derive(Debug, Default)]
struct Window {
    began: Tick,
    current: Longest,
    previous: Longest,
}

/// The longest turn, by the clock on the wall and by the CPU time that the
/// worker itself took.
#[derive(Debug, Clone, Copy, Default)]
struct Longest {
    wall_ns: u64,
    own_ns: u64,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { turn: None, span: Span::default(), window: Window::default(), slow: Slow::default() }
    }

    /// A turn begins, and with it the one before ends.
    #[inline]
    pub(super) fn turn(&mut self, now: Tick) {
        let Some(began) = self.turn.replace(now) else {
            return self.begin(now);
        };
        self.span.longest_ns = self.span.longest_ns.max(since(began, now));
        if since(self.span.began, now) >= SPAN_NS {
            self.end_span(now, thread_cpu_ns());
        }
    }

    /// The worker is about to sleep. That is no part of any turn.
    pub(super) fn rest(&mut self, now: Tick) {
        self.turn(now);
        self.turn = None;
    }

    /// The kernel has been sending since this was the thread's CPU time.
    pub(super) fn sent(&mut self, since_cpu_ns: u64) {
        self.span.sending_ns += thread_cpu_ns().saturating_sub(since_cpu_ns);
    }

    #[cold]
    fn begin(&mut self, now: Tick) {
        // What was left open took less than a span.
        self.span = Span { began: now, cpu_ns: thread_cpu_ns(), ..Span::default() };
    }

    fn end_span(&mut self, now: Tick, cpu_ns: u64) {
        // Other turns of the span had some of it, so none is more.
        let span =
            std::mem::replace(&mut self.span, Span { began: now, cpu_ns, ..Span::default() });
        let wall_ns = span.longest_ns;
        let cpu_ns = cpu_ns.saturating_sub(span.cpu_ns).min(wall_ns);
        let sending_ns = span.sending_ns.min(cpu_ns);
        let own_ns = cpu_ns - sending_ns;

        self.slow.itself += u64::from(own_ns > SLOW_NS);
        self.slow.sending += u64::from(sending_ns > SLOW_NS);
        self.slow.others += u64::from(wall_ns - cpu_ns > SLOW_NS);
        if since(self.window.began, now) >= WINDOW_NS {
            let previous = self.window.current;
            self.window = Window { began: now, current: Longest::default(), previous };
        }
        let current = &mut self.window.current;
        current.wall_ns = current.wall_ns.max(wall_ns);
        current.own_ns = current.own_ns.max(own_ns);
    }

    /// Lets others see it.
    pub(super) fn publish(&self, status: &WorkerStatus) {
        let Window { current, previous, .. } = &self.window;
        status.longest_turn_ns.set(current.wall_ns.max(previous.wall_ns));
        status.longest_turn_own_ns.set(current.own_ns.max(previous.own_ns));
        status.slow_turns_by_itself.set(self.slow.itself);
        status.slow_turns_by_sending.set(self.slow.sending);
        status.slow_turns_by_others.set(self.slow.others);
    }
}

fn since(began: Tick, now: Tick) -> u64 {
    now.0.saturating_sub(began.0)
}

/// What this thread has had of any core, in nanoseconds. Interrupts that came
/// in meanwhile are part of it, unless the kernel is built to tell them apart
/// (CONFIG_IRQ_TIME_ACCOUNTING).
pub(super) fn thread_cpu_ns() -> u64 {
    // The clock is there since Linux 2.6.12; without it nothing is known.
    let Ok(time) = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID) else { return 0 };
    let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    /// A pace that is told time, wall and CPU, instead of asking for it.
    struct Told(Pace, Tick);

    impl Told {
        fn new() -> Self {
            let mut pace = Pace::new();
            pace.turn(Tick(1));
            pace.span.cpu_ns = 0;
            Self(pace, Tick(1))
        }

        /// Turns that together are a span, of which the thread had `cpu_us`, and
        /// the kernel some of that to send.
        fn span(&mut self, turns_us: &[u64], cpu_us: u64, sending_us: u64) {
            let Self(pace, now) = self;
            for turn in turns_us {
                now.0 += turn * 1_000;
                pace.span.longest_ns = pace.span.longest_ns.max(turn * 1_000);
            }
            pace.turn = Some(*now);
            pace.span.sending_ns = sending_us * 1_000;
            let cpu_ns = pace.span.cpu_ns + cpu_us * 1_000;
            pace.end_span(*now, cpu_ns);
        }

        /// Longest by the wall and by itself in µs; slow by itself, by sending and
        /// by others.
        fn shown(&self) -> [u64; 5] {
            let status = WorkerStatus::new(Arc::default());
            self.0.publish(&status);
            [
                status.longest_turn_ns.value() / 1_000,
                status.longest_turn_own_ns.value() / 1_000,
                status.slow_turns_by_itself.value(),
                status.slow_turns_by_sending.value(),
                status.slow_turns_by_others.value(),
            ]
        }
    }

    #[test]
    fn a_turn_that_takes_long_by_itself_is_told_from_one_that_is_held_up() {
        let mut told = Told::new();
        told.span(&[30, 50, 30], 110, 0);
        assert_eq!(told.shown(), [50, 50, 0, 0, 0]);
        told.span(&[50, 3_000], 60, 0);
        assert_eq!(told.shown(), [3_000, 60, 0, 0, 1], "something else had the core");
        told.span(&[50, 1_200], 1_250, 0);
        assert_eq!(told.shown(), [3_000, 1_200, 1, 0, 1], "it worked all the time");
        told.span(&[50, 1_300], 1_350, 1_100);
        assert_eq!(told.shown(), [3_000, 1_200, 1, 1, 1], "the kernel did");
        told.span(&[7_000], 4_500, 1_500);
        assert_eq!(told.shown(), [7_000, 3_000, 2, 2, 2], "all of them");
    }

    #[test]
    fn the_longest_turn_is_forgotten_after_two_windows() {
        let mut told = Told::new();
        told.span(&[700], 700, 0);
        told.1.0 += WINDOW_NS;
        told.span(&[100], 100, 0);
        assert_eq!(told.shown()[..2], [700, 700]);
        told.1.0 += WINDOW_NS;
        told.span(&[200], 150, 0);
        assert_eq!(told.shown()[..2], [200, 150]);
    }

    #[test]
    fn sleep_is_no_part_of_a_turn_and_work_is() {
        let began = Instant::now();
        let now = || Tick(1_000_000_000 + began.elapsed().as_nanos() as u64);
        let mut pace = Pace::new();
        for _ in 0..3 {
            pace.turn(now());
            pace.rest(now());
            std::thread::sleep(Duration::from_millis(20));
        }
        // Held up by whatever else runs here it may be, but it did nothing.
        assert!(pace.window.current.own_ns < 10_000_000, "{pace:?}");
        pace.turn(now());
        let worked_from = thread_cpu_ns();
        while thread_cpu_ns() - worked_from < 30_000_000 {
            std::hint::spin_loop();
        }
        pace.turn(now());
        let Longest { wall_ns, own_ns } = pace.window.current;
        assert!(own_ns >= 30_000_000 && wall_ns >= own_ns, "{pace:?}");
        assert_eq!(pace.slow.itself, 1);
    }
}
