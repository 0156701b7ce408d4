//! One contestant with one kind of work for some time.

use std::time::{Duration, Instant};

use crate::Error;
use crate::cpu::{self, Core, CoreUse};
use crate::rig::{CORE, GENERATOR_CORE, Rig};

/// Who forwards.
pub trait Contestant: Sync {
    /// Begins to forward. Called by a thread inside the load balancer's
    /// namespace.
    fn start(&self, rig: &Rig) -> Result<Box<dyn Running>, Error>;
}

/// A contestant that forwards.
pub trait Running {
    /// The threads that do it; none if the kernel does.
    fn threads(&self) -> &[String];

    /// Ends it, and looks whether it did what it is for.
    fn stop(self: Box<Self>) -> Result<(), Error>;
}

/// What is to be forwarded.
pub trait Work: Sync {
    /// Begins with it.
    fn start(&self, rig: &Rig) -> Result<Box<dyn Busy>, Error>;

    /// How much must be through before measuring is worth it.
    fn warm_up(&self) -> u64 {
        0
    }
}

/// Work that goes on.
pub trait Busy {
    /// How much has been done so far.
    fn done(&self, rig: &Rig) -> Result<Done, Error>;

    /// Ends it, and says what went wrong.
    fn stop(self: Box<Self>) -> Result<(), Error>;
}

/// Packets, bytes or connections.
#[derive(Debug, Clone, Copy, Default)]
pub struct Done {
    /// Those that came to the contestant.
    pub offered: u64,
    /// Those that came through.
    pub through: u64,
}

/// How long.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Before anything is measured, at least.
    pub warm_up: Duration,
    /// What is measured.
    pub interval: Duration,
}

/// What one round gave.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measured {
    /// What came through in a second.
    pub through: f64,
    /// What was offered in a second.
    pub offered: f64,
    /// Nanoseconds of the contestant's own CPU time for each that came through.
    pub cpu_ns: f64,
    /// The contestant's own CPU time as a share of one core's.
    pub own: f64,
    /// What the core did that makes packets.
    pub generator_core: CoreUse,
    /// What the contestant's core did.
    pub core: CoreUse,
}

/// The longest warm-up: what needs longer is measured as it is.
const PATIENCE: Duration = Duration::from_secs(4);

/// One round: start, warm up, measure, stop.
pub fn round(
    rig: &Rig,
    contestant: &dyn Contestant,
    work: &dyn Work,
    timing: Timing,
) -> Result<Measured, Error> {
    rig.inside(|| {
        let running = contestant.start(rig)?;
        let busy = work.start(rig)?;
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
            if begin.elapsed() >= timing.warm_up && busy.done(rig)?.through >= work.warm_up() {
                break;
            }
        }
        let done = || busy.done(rig);
        let measured = measure(&done, running.threads(), timing.interval)?;
        busy.stop()?;
        running.stop()?;
        Ok(measured)
    })?
}

/// Measures for so long.
pub fn measure(
    done: &dyn Fn() -> Result<Done, Error>,
    threads: &[String],
    interval: Duration,
) -> Result<Measured, Error> {
    let before = Reading::take(done, threads)?;
    std::thread::sleep(interval);
    let after = Reading::take(done, threads)?;
    let time = after.at - before.at;
    let through = after.done.through.saturating_sub(before.done.through) as f64;
    let offered = after.done.offered.saturating_sub(before.done.offered) as f64;
    let cpu_ns = after.cpu_ns.saturating_sub(before.cpu_ns) as f64;
    let [generator_before, core_before] = before.cores;
    let [generator_after, core_after] = after.cores;
    Ok(Measured {
        through: through / time.as_secs_f64(),
        offered: offered / time.as_secs_f64(),
        cpu_ns: cpu_ns / through.max(1.0),
        own: cpu_ns / time.as_nanos() as f64,
        generator_core: generator_after.since(generator_before),
        core: core_after.since(core_before),
    })
}

impl Measured {
    /// The share of what was offered that did not come through.
    pub fn lost(&self) -> f64 {
        1.0 - (self.through / self.offered.max(1.0)).min(1.0)
    }
}

struct Reading {
    at: Instant,
    done: Done,
    cpu_ns: u64,
    cores: [Core; 2],
}

impl Reading {
    fn take(done: &dyn Fn() -> Result<Done, Error>, threads: &[String]) -> Result<Self, Error> {
        Ok(Self {
            cores: [Core::read(GENERATOR_CORE)?, Core::read(CORE)?],
            cpu_ns: cpu::used_ns(threads, CORE)?,
            done: done()?,
            at: Instant::now(),
        })
    }
}
