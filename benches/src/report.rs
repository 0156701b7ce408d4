//! What came of it: as JSON, and in the fewest words for people.

use std::fmt::Write as _;

use blixt_counted::{Machine, Spread};
use serde::Serialize;

use crate::Error;
use crate::contest::Measured;
use crate::cpu::CoreUse;

/// The whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where, when and how.
    pub machine: Machine,
    /// Seconds of each measurement.
    pub seconds: f64,
    /// What the generator makes where nobody forwards.
    pub generator: Vec<Alone>,
    /// What was compared.
    pub cells: Vec<Cell>,
    /// A worker without traffic.
    pub idle: Option<Idle>,
    /// What is to be reached, and what was.
    pub goals: Vec<Goal>,
}

/// The generator alone.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Alone {
    /// Bytes of a frame.
    pub frame_bytes: usize,
    /// Packets a second.
    pub packets_per_second: f64,
}

/// One question, and what each entrant did.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// What was measured.
    pub name: String,
    /// What is counted.
    pub unit: Unit,
    /// The entrants.
    pub sides: Vec<Side>,
    /// Some of them compared.
    pub ratios: Vec<Ratio>,
}

/// What comes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Packets.
    Packets,
    /// Bytes of payload.
    Bytes,
    /// New connections.
    Connections,
}

/// One entrant's rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Side {
    /// Who.
    pub name: &'static str,
    /// What came through in a second.
    pub through_per_second: Spread,
    /// What was offered in a second.
    pub offered_per_second: Spread,
    /// The share of it that did not come through.
    pub lost: Spread,
    /// Nanoseconds of its own CPU time for each that came through.
    pub cpu_ns: Spread,
    /// Its own CPU time, as a number of cores.
    pub cores: Spread,
    /// What the core did that makes packets; of the middle round.
    pub generator_core: CoreUse,
    /// What the contestant's core did; of the middle round.
    pub core: CoreUse,
}

/// One entrant to another, of the same rounds. More is better for the first.
#[derive(Debug, Clone, Serialize)]
pub struct Ratio {
    /// The first.
    pub of: &'static str,
    /// The second.
    pub to: &'static str,
    /// Of what came through.
    pub through: Spread,
    /// Of what comes through for the same CPU time.
    pub for_cpu_time: Spread,
}

/// A worker that has nothing to do.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Idle {
    /// The share of a core that it takes.
    pub share_of_a_core: f64,
    /// How often it goes to sleep.
    pub sleeps_per_second: f64,
}

/// What is to be reached.
#[derive(Debug, Clone, Serialize)]
pub struct Goal {
    /// What.
    pub name: String,
    /// How much.
    pub wanted: f64,
    /// How much it was.
    pub reached: f64,
    /// Whether that is enough.
    pub met: bool,
}

/// What forwarding shall reach, to each of the others.
const FORWARDING: [(&str, f64); 2] = [(crate::plan::BARE, 0.9), (crate::plan::NFTABLES, 1.25)];

/// What a worker without traffic may take of a core.
const IDLE: f64 = 0.01;

impl Side {
    /// Of some rounds.
    pub fn new(name: &'static str, rounds: &[Measured]) -> Result<Self, Error> {
        let each = |value: fn(&Measured) -> f64| Spread::new(rounds.iter().map(value).collect());
        let middle = middle(rounds).ok_or("no rounds were measured")?;
        Ok(Self {
            name,
            through_per_second: each(|round| round.through)?,
            offered_per_second: each(|round| round.offered)?,
            lost: each(Measured::lost)?,
            cpu_ns: each(|round| round.cpu_ns)?,
            cores: each(|round| round.own)?,
            generator_core: middle.generator_core,
            core: middle.core,
        })
    }
}

/// The round that is in the middle by what came through.
fn middle(rounds: &[Measured]) -> Option<Measured> {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(|one, other| one.through.total_cmp(&other.through));
    sorted.get(sorted.len() / 2).copied()
}

impl Ratio {
    /// Of one to the other.
    pub fn new(of: &Side, to: &Side) -> Result<Self, Error> {
        let through = |side: &Side| side.through_per_second.rounds.clone();
        Ok(Self {
            of: of.name,
            to: to.name,
            through: Spread::of_ratios(&through(of), &through(to))?,
            for_cpu_time: Spread::of_ratios(&to.cpu_ns.rounds, &of.cpu_ns.rounds)?,
        })
    }
}

impl Report {
    /// Compares with the goals.
    pub fn new(
        machine: Machine,
        seconds: f64,
        generator: Vec<Alone>,
        cells: Vec<Cell>,
        idle: Option<Idle>,
    ) -> Self {
        let mut goals = Vec::new();
        // Streams and connections are limited by their ends.
        for cell in cells.iter().filter(|cell| cell.unit == Unit::Packets) {
            for ratio in &cell.ratios {
                let wanted = FORWARDING.iter().find(|(name, _)| *name == ratio.to);
                let Some((_, wanted)) = wanted else { continue };
                let name = format!("{}: {} to {}", cell.name, ratio.of, ratio.to);
                let reached = ratio.through.median;
                goals.push(Goal { name, wanted: *wanted, reached, met: reached >= *wanted });
            }
        }
        goals.extend(idle.map(|Idle { share_of_a_core: reached, .. }| Goal {
            name: "a worker without traffic, share of a core at most".to_owned(),
            wanted: IDLE,
            reached,
            met: reached <= IDLE,
        }));
        Self { machine, seconds, generator, cells, idle, goals }
    }

    /// Whether all goals are met.
    pub fn is_good(&self) -> bool {
        self.goals.iter().all(|goal| goal.met)
    }

    /// A screen or two for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let Machine { kernel, cpu, cores, load, commit, .. } = &self.machine;
        let _ = writeln!(text, "{cpu}, {cores} cores, Linux {kernel}, load {load}, {commit}");
        for Alone { frame_bytes, packets_per_second } in &self.generator {
            let alone = per_second(*packets_per_second, Unit::Packets);
            let _ = writeln!(text, "the generator alone, {frame_bytes} bytes: {alone}");
        }
        for cell in &self.cells {
            cell.write(&mut text);
        }
        if let Some(Idle { share_of_a_core, sleeps_per_second }) = self.idle {
            let _ = writeln!(
                text,
                "\nidle: {:.2} % of a core, asleep {sleeps_per_second:.0} times a second",
                share_of_a_core * 100.0
            );
        }
        let _ = writeln!(text, "\ngoals");
        for Goal { name, wanted, reached, met } in &self.goals {
            let verdict = if *met { "met   " } else { "MISSED" };
            let _ = writeln!(text, "  {verdict} {reached:>7.3}  ({wanted})  {name}");
        }
        text
    }
}

impl Cell {
    fn write(&self, text: &mut String) {
        let rounds = self.sides.first().map_or(0, |side| side.cpu_ns.rounds.len());
        let _ = writeln!(text, "\n{}, medians of {rounds} rounds", self.name);
        for side in &self.sides {
            let _ = writeln!(
                text,
                "  {:<22} {:>16}  {:>10}  {:>4.2} cores  {:>4.1} % lost",
                side.name,
                per_second(side.through_per_second.median, self.unit),
                cpu_time(side.cpu_ns.median, self.unit),
                side.cores.median,
                side.lost.median * 100.0,
            );
        }
        for Ratio { of, to, through, for_cpu_time } in &self.ratios {
            let spread = |Spread {
                              median,
                              lower_quartile,
                              upper_quartile,
                              lowest,
                              highest,
                              ..
                          }: &Spread| {
                format!(
                    "{median:.2} (half {lower_quartile:.2} to {upper_quartile:.2}, all {lowest:.2} to {highest:.2})"
                )
            };
            let _ = writeln!(text, "  {of} to {to}: {}", spread(through));
            let _ = writeln!(text, "    for the same CPU time: {}", spread(for_cpu_time));
        }
    }
}

/// A rate, in a unit that one reads.
pub fn per_second(rate: f64, unit: Unit) -> String {
    match unit {
        Unit::Packets => format!("{:.0} packets/s", rate),
        Unit::Bytes => format!("{:.2} Gbit/s", rate * 8.0 / 1e9),
        Unit::Connections => format!("{:.0} conn/s", rate),
    }
}

/// CPU time for one of them; of bytes for 1,000.
fn cpu_time(ns: f64, unit: Unit) -> String {
    match unit {
        Unit::Packets => format!("{ns:.0} ns"),
        Unit::Bytes => format!("{:.0} ns/kB", ns * 1e3),
        Unit::Connections => format!("{:.1} µs", ns / 1e3),
    }
}
