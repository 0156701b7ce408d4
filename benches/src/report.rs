//! What came of it: for people, and as JSON.

use serde::Serialize;

use crate::Error;
use crate::rig::Measured;

/// A contestant's rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Side {
    /// Packets a second that arrived, by round.
    pub packets_per_second: Vec<f64>,
    /// Their median.
    pub median_packets_per_second: f64,
    /// Nanoseconds of CPU time for each packet, the median.
    pub median_cpu_ns_per_packet: f64,
    /// What the generator made, the median.
    pub median_offered_per_second: f64,
}

/// A ratio, from pairs of neighbouring rounds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ratio {
    /// The median of the pairs' ratios.
    pub median: f64,
    /// The lowest.
    pub lowest: f64,
    /// The highest.
    pub highest: f64,
}

/// The whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The machine it ran on.
    pub machine: Machine,
    /// Bytes of a frame.
    pub frame_bytes: usize,
    /// How many flows there were.
    pub flows: u32,
    /// Seconds of each round.
    pub seconds: f64,
    /// The forwarder that decides nothing.
    pub bare: Side,
    /// Blixt's worker.
    pub blixt: Side,
    /// Blixt's packets a second to the bare forwarder's.
    pub throughput_ratio: Ratio,
    /// The bare forwarder's CPU time for a packet to Blixt's.
    pub cpu_ratio: Ratio,
}

/// What a number means little without.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// `uname -r`.
    pub kernel: String,
    /// From /proc/cpuinfo.
    pub cpu: String,
    /// How many.
    pub cores: usize,
    /// Of the last minute, before the run: other work makes the numbers noisy.
    pub load: String,
}

impl Report {
    /// Of pairs of rounds: the bare forwarder's, and Blixt's.
    pub fn new(
        machine: Machine,
        (frame_bytes, flows, seconds): (usize, u32, f64),
        rounds: &[(Measured, Measured)],
    ) -> Result<Self, Error> {
        let (bare, blixt): (Vec<_>, Vec<_>) = rounds.iter().copied().unzip();
        let throughput =
            rounds.iter().map(|(bare, blixt)| blixt.packets_per_second / bare.packets_per_second);
        let cpu =
            rounds.iter().map(|(bare, blixt)| bare.cpu_ns_per_packet / blixt.cpu_ns_per_packet);
        Ok(Self {
            machine,
            frame_bytes,
            flows,
            seconds,
            bare: Side::new(&bare)?,
            blixt: Side::new(&blixt)?,
            throughput_ratio: Ratio::new(throughput.collect())?,
            cpu_ratio: Ratio::new(cpu.collect())?,
        })
    }

    /// A few lines for people.
    pub fn text(&self) -> String {
        let side = |name: &str, side: &Side| {
            format!(
                "{name:<16} {:>10.0} packets/s  {:>6.0} ns CPU/packet  (offered {:.0}/s)\n",
                side.median_packets_per_second,
                side.median_cpu_ns_per_packet,
                side.median_offered_per_second,
            )
        };
        let ratio = |name: &str, ratio: Ratio| {
            format!(
                "{name:<16} {:.3}  ({:.3} to {:.3})\n",
                ratio.median, ratio.lowest, ratio.highest
            )
        };
        let Machine { kernel, cpu, cores, load } = &self.machine;
        [
            format!("{cpu}, {cores} cores, Linux {kernel}, load {load}\n"),
            format!(
                "{} flows, frames of {} bytes, {} rounds of {} s each, in turn; medians\n",
                self.flows,
                self.frame_bytes,
                self.bare.packets_per_second.len(),
                self.seconds
            ),
            side("bare forwarder", &self.bare),
            side("blixt", &self.blixt),
            ratio("packets/s ratio", self.throughput_ratio),
            ratio("CPU time ratio", self.cpu_ratio),
        ]
        .concat()
    }
}

impl Side {
    fn new(rounds: &[Measured]) -> Result<Self, Error> {
        let each = |value: fn(&Measured) -> f64| rounds.iter().map(value).collect::<Vec<_>>();
        Ok(Self {
            packets_per_second: each(|round| round.packets_per_second),
            median_packets_per_second: median(each(|round| round.packets_per_second))?,
            median_cpu_ns_per_packet: median(each(|round| round.cpu_ns_per_packet))?,
            median_offered_per_second: median(each(|round| round.offered_per_second))?,
        })
    }
}

impl Ratio {
    fn new(pairs: Vec<f64>) -> Result<Self, Error> {
        let lowest = pairs.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = pairs.iter().copied().fold(0.0, f64::max);
        Ok(Self { median: median(pairs)?, lowest, highest })
    }
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        let cpu = cpu.map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: cpu.to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            load: read("/proc/loadavg").split_whitespace().next().unwrap_or_default().to_owned(),
        }
    }
}

fn median(mut values: Vec<f64>) -> Result<f64, Error> {
    values.sort_by(f64::total_cmp);
    let middle = values.get(values.len() / 2).ok_or("no rounds were measured")?;
    Ok(*middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(packets_per_second: f64) -> Measured {
        Measured {
            packets_per_second,
            cpu_ns_per_packet: 1e9 / packets_per_second,
            offered_per_second: 2e6,
        }
    }

    #[test]
    fn ratios_are_of_neighbouring_rounds() {
        let rounds = [
            (measured(1_000.0), measured(900.0)),
            (measured(2_000.0), measured(1_600.0)),
            (measured(1_000.0), measured(850.0)),
        ];
        let report = Report::new(Machine::here(), (60, 1, 1.0), &rounds).unwrap();
        let Ratio { median, lowest, highest } = report.throughput_ratio;
        assert_eq!([median, lowest, highest], [0.85, 0.8, 0.9]);
        assert!((report.cpu_ratio.median - 0.85).abs() < 1e-9);
        assert!(report.text().contains("0.850"), "{}", report.text());
    }

    #[test]
    fn no_rounds_are_no_report() {
        assert!(Report::new(Machine::here(), (60, 1, 1.0), &[]).is_err());
    }
}
