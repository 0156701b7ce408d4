//! What is measured: for each question a rig, the entrants, and in which order
//! they take turns.

use std::time::Duration;

use blixt_afxdp::lab::{Hook, Program};

use crate::Error;
use crate::balancer::{Blixt, Seat};
use crate::bare::Bare;
use crate::contest::{Busy as _, Contestant, Measured, Running as _, Timing, Work, measure, round};
use crate::cpu;
use crate::kernel::{self, Nftables};
use crate::load::Load;
use crate::report::{Alone, Cell, Idle, Ratio, Side, Unit};
use crate::rig::{CORE, Far, GENERATOR_CORE, NEAR_IN, Rig};
use crate::sockets::{Connections, Streams};

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How often each entrant has its turn.
    pub rounds: usize,
    /// How long it is measured each time.
    pub interval: Duration,
    /// Lengths of frames, in bytes.
    pub frame_bytes: Vec<usize>,
    /// Numbers of flows.
    pub flows: Vec<u32>,
}

/// Who takes part in a cell.
struct Entrant<'a> {
    name: &'static str,
    contestant: &'a dyn Contestant,
    work: &'a dyn Work,
}

/// The three that are compared.
pub(crate) const BARE: &str = "bare AF_XDP forwarder";
pub(crate) const BLIXT: &str = "blixt";
pub(crate) const NFTABLES: &str = "nftables";

impl Plan {
    /// What the generator makes when nobody forwards, for each length.
    pub fn alone(&self) -> Result<Vec<Alone>, Error> {
        let rig = Rig::new(1, Far::Sink)?;
        let mut all = Vec::new();
        for &frame_bytes in &self.frame_bytes {
            let load = Load::new(frame_bytes, 1_000);
            let measured: Result<Measured, Error> = rig.inside(|| {
                let _drop = Program::drop_all()?.attach(NEAR_IN, Hook::Native)?;
                let generator = Box::new(load.generate(&rig)?);
                std::thread::sleep(self.timing().warm_up);
                let measured = measure(&|| rig.passed(), &[], self.interval)?;
                generator.stop()?;
                Ok(measured)
            })?;
            all.push(Alone { frame_bytes, packets_per_second: measured?.offered });
        }
        Ok(all)
    }

    /// UDP: every length with every number of flows.
    pub fn udp(&self, say: &dyn Fn(&str)) -> Result<Vec<Cell>, Error> {
        let rig = Rig::new(1, Far::Sink)?;
        let mut cells = Vec::new();
        let room = kernel::conntrack_room()?;
        if let Some(flows) = self.flows.iter().find(|flows| u64::from(**flows) > room) {
            return Err(format!(
                "conntrack has room for {room} flows, not for {flows}: \
                 set net.netfilter.nf_conntrack_max, or take other --flows"
            )
            .into());
        }
        for &frame_bytes in &self.frame_bytes {
            for &flows in &self.flows {
                let name = format!("UDP, {frame_bytes} bytes, {}", counted(flows, "flow"));
                let load = Load::new(frame_bytes, flows);
                cells.push(self.all_three(&rig, name, Unit::Packets, &load, say)?);
            }
        }
        Ok(cells)
    }

    /// TCP between real hosts: streams, and new connections.
    pub fn tcp(&self, say: &dyn Fn(&str)) -> Result<Vec<Cell>, Error> {
        let rig = Rig::new(1, Far::Host)?;
        let streams =
            self.all_three(&rig, "TCP, 4 streams".into(), Unit::Bytes, &Streams(4), say)?;
        let connections = self.all_three(
            &rig,
            "TCP, new connections".into(),
            Unit::Connections,
            &Connections(4),
            say,
        )?;
        Ok(vec![streams, connections])
    }

    /// One worker, and two with a queue each, on the two cores that also make
    /// the packets.
    pub fn workers(&self, say: &dyn Fn(&str)) -> Result<Cell, Error> {
        let rig = Rig::new(2, Far::Sink)?;
        let seat = |core, queue| Seat { core, queues: [vec![queue], vec![queue]] };
        let one = Blixt::new(vec![Seat { core: CORE, queues: [vec![0, 1], vec![0, 1]] }]);
        // Packets come in by the queue of the core that makes them. Who takes
        // them sits on the other one.
        let two = Blixt::new(vec![seat(CORE, 0), seat(GENERATOR_CORE, 1)]);
        let load = Load::new(60, 1_000);
        let both = Load { cores: vec![GENERATOR_CORE, CORE], ..load.clone() };
        let entrants = [
            Entrant { name: "one worker", contestant: &one, work: &load },
            Entrant { name: "two workers", contestant: &two, work: &both },
        ];
        let name = "UDP, 60 bytes, 1,000 flows a queue".into();
        self.cell(&rig, name, Unit::Packets, &entrants, &[(1, 0)], say)
    }

    /// Replies that come in by the queue of the worker that has their flow,
    /// and by the other one's.
    pub fn hand_off(&self, say: &dyn Fn(&str)) -> Result<Cell, Error> {
        let rig = Rig::new(2, Far::Mirror)?;
        // Each core makes packets, which come in by the queue of its number;
        // the worker on it forwards them, and all that follows stays on that
        // core: so their replies come in by the queue of the same number. They
        // are this worker's, or the other's. Both workers have more to do than
        // they can, so that none is paid for waiting.
        let seat = |core, near_in, near_out| Seat { core, queues: [vec![near_in], vec![near_out]] };
        let (first, second) = (GENERATOR_CORE, CORE);
        let right = Blixt::new(vec![seat(first, 0, 0), seat(second, 1, 1)]);
        let wrong = Blixt::new(vec![seat(first, 0, 1), seat(second, 1, 0)]);
        let (right, wrong) = (right.with_hand_offs(false), wrong.with_hand_offs(true));
        let work = Load { cores: vec![first, second], ..Load::new(60, 1_000) };
        let entrants = [
            Entrant { name: "right queue", contestant: &right, work: &work },
            Entrant { name: "wrong queue", contestant: &wrong, work: &work },
        ];
        let name = "UDP, 60 bytes, 1,000 flows a queue, there and back".into();
        self.cell(&rig, name, Unit::Packets, &entrants, &[(1, 0)], say)
    }

    /// What a worker takes that has nothing to do.
    pub fn idle(&self) -> Result<Idle, Error> {
        let rig = Rig::new(1, Far::Sink)?;
        rig.inside(|| {
            let running = Blixt::alone().balance(&rig)?;
            std::thread::sleep(Duration::from_millis(300));
            let (threads, sleeps) = (running.threads().to_vec(), running.sleeps());
            let begin = std::time::Instant::now();
            let before = cpu::used_ns(&threads, CORE)?;
            std::thread::sleep(3 * self.interval);
            let used = cpu::used_ns(&threads, CORE)? - before;
            let time = begin.elapsed();
            let sleeps = (running.sleeps() - sleeps) as f64;
            running.end()?;
            Ok(Idle {
                share_of_a_core: used as f64 / time.as_nanos() as f64,
                sleeps_per_second: sleeps / time.as_secs_f64(),
            })
        })?
    }

    fn timing(&self) -> Timing {
        Timing { warm_up: Duration::from_millis(200), interval: self.interval }
    }

    fn all_three(
        &self,
        rig: &Rig,
        name: String,
        unit: Unit,
        work: &dyn Work,
        say: &dyn Fn(&str),
    ) -> Result<Cell, Error> {
        let (blixt, nftables) = (Blixt::alone(), Nftables::of(rig));
        let entrants = [
            Entrant { name: BARE, contestant: &Bare, work },
            Entrant { name: BLIXT, contestant: &blixt, work },
            Entrant { name: NFTABLES, contestant: &nftables, work },
        ];
        self.cell(rig, name, unit, &entrants, &[(1, 0), (1, 2)], say)
    }

    /// Has all entrants take turns. Who begins changes from round to round.
    fn cell(
        &self,
        rig: &Rig,
        name: String,
        unit: Unit,
        entrants: &[Entrant<'_>],
        ratios: &[(usize, usize)],
        say: &dyn Fn(&str),
    ) -> Result<Cell, Error> {
        say(&name);
        let mut measured = vec![Vec::new(); entrants.len()];
        for number in 0..self.rounds {
            for turn in 0..entrants.len() {
                let who = (number + turn) % entrants.len();
                let (Some(entrant), Some(all)) = (entrants.get(who), measured.get_mut(who)) else {
                    continue;
                };
                let turn = || {
                    round(rig, entrant.contestant, entrant.work, self.timing())
                        .map_err(|error| format!("{name}, {}: {error}", entrant.name))
                };
                // One mishap must not spoil minutes; two are no chance.
                let measured = turn().or_else(|error| {
                    say(&format!("again, because of {error}"));
                    turn()
                })?;
                all.push(measured);
            }
        }
        let sides = entrants.iter().zip(&measured);
        let sides: Vec<Side> = sides
            .map(|(entrant, rounds)| Side::new(entrant.name, rounds))
            .collect::<Result<_, _>>()?;
        let pairs =
            ratios.iter().filter_map(|&(this, to)| Some((sides.get(this)?, sides.get(to)?)));
        let ratios = pairs.map(|(this, to)| Ratio::new(this, to)).collect::<Result<_, _>>()?;
        Ok(Cell { name, unit, sides, ratios })
    }
}

/// `1 flow`, `1,024 flows`.
fn counted(count: u32, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    match count / 1_000 {
        0 => format!("{count} {what}{plural}"),
        thousands => format!("{thousands},{:03} {what}{plural}", count % 1_000),
    }
}
