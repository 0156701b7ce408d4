//! Packets that wait until their next hop's MAC address is known.
//!
//! Bounded in all and for each neighbour, so that one that does not answer
//! takes nothing from the others; and in time.

use std::collections::{HashMap, VecDeque};

use blixt_afxdp::Frame;
use blixt_dataplane::{InterfaceSlot, Neighbour, Tick};

use super::HoldLimits;

/// How often the kernel is asked again for a neighbour that packets wait for.
const ASK_AGAIN_NS: u64 = 250_000_000;

/// All packets that wait.
#[derive(Debug)]
pub(super) struct Hold {
    limits: HoldLimits,
    queues: HashMap<Neighbour, Queue>,
    packets: usize,
}

/// A packet that waits.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) frame: Frame,
    /// Where it came in.
    pub(super) ingress: InterfaceSlot,
    /// Since when.
    pub(super) since: Tick,
}

#[derive(Debug)]
struct Queue {
    held: VecDeque<Held>,
    asked: Tick,
}

impl Hold {
    pub(super) fn new(limits: HoldLimits) -> Self {
        let queues = HashMap::with_capacity(limits.packets / limits.per_neighbour.max(1));
        Self { limits, queues, packets: 0 }
    }

    /// How many packets wait.
    pub(super) fn len(&self) -> usize {
        self.packets
    }

    /// Lets a packet wait; `true` if the neighbour is to be asked for. The
    /// frame comes back if there is no room.
    pub(super) fn add(
        &mut self,
        neighbour: Neighbour,
        held: Held,
        now: Tick,
    ) -> Result<bool, Frame> {
        if self.packets >= self.limits.packets {
            return Err(held.frame);
        }
        let mut is_new = false;
        let queue = self.queues.entry(neighbour).or_insert_with(|| {
            is_new = true;
            Queue { held: VecDeque::new(), asked: now }
        });
        if queue.held.len() >= self.limits.per_neighbour {
            return Err(held.frame);
        }
        queue.held.push_back(held);
        self.packets += 1;
        Ok(is_new)
    }

    /// The neighbours that packets wait for.
    pub(super) fn neighbours(&self) -> impl Iterator<Item = Neighbour> {
        self.queues.keys().copied()
    }

    /// Takes out what waits for a neighbour, in its order.
    pub(super) fn take(&mut self, neighbour: Neighbour) -> VecDeque<Held> {
        let held = self.queues.remove(&neighbour).map(|queue| queue.held).unwrap_or_default();
        self.packets -= held.len();
        held
    }

    /// Takes everything out.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Held> {
        self.packets = 0;
        self.queues.drain().flat_map(|(_, queue)| queue.held)
    }

    /// Gives up on what has waited too long; and names the neighbours to be
    /// asked for again.
    pub(super) fn expire(
        &mut self,
        now: Tick,
        mut give_up: impl FnMut(Frame),
        mut ask: impl FnMut(Neighbour),
    ) {
        let patience = u64::try_from(self.limits.patience.as_nanos()).unwrap_or(u64::MAX);
        let packets = &mut self.packets;
        self.queues.retain(|&neighbour, queue| {
            let is_late = |held: &Held| now.0.saturating_sub(held.since.0) >= patience;
            while let Some(held) = queue.held.pop_front_if(|held| is_late(held)) {
                *packets -= 1;
                give_up(held.frame);
            }
            let waits = !queue.held.is_empty();
            if waits && now.0.saturating_sub(queue.asked.0) >= ASK_AGAIN_NS {
                queue.asked = now;
                ask(neighbour);
            }
            waits
        });
    }
}
