//! Packets that wait until their next hop's MAC address is known.
//!
//! Bounded in all and for each neighbour, so that one that does not answer
//! takes nothing from the others; and in time. Where many do not answer and no
//! room is left, whoever has the fewest gets in for one of those who have the
//! most: the packet that has waited longest goes, as it does in the kernel
//! (`__neigh_event_send` in net/core/neighbour.c). A neighbour that answers does so
//! within milliseconds, so that its packets are gone before it is their turn.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};

use blixt_afxdp::Frame;
use blixt_dataplane::{InterfaceSlot, Neighbour, Tick};

use super::HoldLimits;

/// How often the kernel is asked again for a neighbour that packets wait for.
const ASK_AGAIN_NS: u64 = 250_000_000;

/// All packets that wait.
#[derive(Debug)]
pub(super) struct Hold<F = Frame> {
    limits: HoldLimits,
    queues: HashMap<Neighbour, Queue<F>>,
    /// The neighbours in the order in which they give way.
    order: BTreeSet<Rank>,
    packets: usize,
}

/// A packet that waits.
#[derive(Debug)]
pub(super) struct Held<F = Frame> {
    pub(super) frame: F,
    /// Where it came in.
    pub(super) ingress: InterfaceSlot,
    /// Since when.
    pub(super) since: Tick,
}

/// What comes of a packet that is to wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Added<F = Frame> {
    /// The neighbour is to be asked for.
    pub(super) is_new: bool,
    /// There is no room for this one: it itself, or one that gave way to it.
    pub(super) refused: Option<F>,
}

#[derive(Debug)]
struct Queue<F> {
    held: VecDeque<Held<F>>,
    asked: Tick,
}

/// Who has the most packets comes first, and of those the one whose first
/// packet has waited longest.
type Rank = (Reverse<usize>, Tick, Neighbour);

impl<F> Queue<F> {
    /// `None` if nothing waits in it.
    fn rank(&self, neighbour: Neighbour) -> Option<Rank> {
        Some((Reverse(self.held.len()), self.held.front()?.since, neighbour))
    }
}

impl<F> Hold<F> {
    pub(super) fn new(limits: HoldLimits) -> Self {
        let queues = HashMap::with_capacity(limits.packets / limits.per_neighbour.max(1));
        Self { limits, queues, order: BTreeSet::new(), packets: 0 }
    }

    /// How many packets wait.
    pub(super) fn len(&self) -> usize {
        self.packets
    }

    /// Lets a packet wait, if there is room, or another one gives way.
    pub(super) fn add(&mut self, neighbour: Neighbour, held: Held<F>, now: Tick) -> Added<F> {
        let own = self.queues.get(&neighbour).map_or(0, |queue| queue.held.len());
        let mut refused = None;
        if own >= self.limits.per_neighbour {
            return Added { is_new: false, refused: Some(held.frame) };
        }
        if self.packets >= self.limits.packets {
            refused = self.give_way(own);
            if refused.is_none() {
                return Added { is_new: false, refused: Some(held.frame) };
            }
        }
        let mut is_new = false;
        let queue = self.queues.entry(neighbour).or_insert_with(|| {
            is_new = true;
            Queue { held: VecDeque::new(), asked: now }
        });
        if let Some(rank) = queue.rank(neighbour) {
            self.order.remove(&rank);
        }
        queue.held.push_back(held);
        self.order.extend(queue.rank(neighbour));
        self.packets += 1;
        Added { is_new, refused }
    }

    /// Takes out the oldest packet of the neighbour that has the most, if it has
    /// more than `own`.
    fn give_way(&mut self, own: usize) -> Option<F> {
        let &rank = self.order.first()?;
        let (Reverse(most), _, neighbour) = rank;
        if most <= own {
            return None;
        }
        let queue = self.queues.get_mut(&neighbour)?;
        let oldest = queue.held.pop_front()?;
        self.order.remove(&rank);
        match queue.rank(neighbour) {
            Some(rank) => drop(self.order.insert(rank)),
            None => drop(self.queues.remove(&neighbour)),
        }
        self.packets -= 1;
        Some(oldest.frame)
    }

    /// The neighbours that packets wait for.
    pub(super) fn neighbours(&self) -> impl Iterator<Item = Neighbour> {
        self.queues.keys().copied()
    }

    /// Takes out what waits for a neighbour, in its order.
    pub(super) fn take(&mut self, neighbour: Neighbour) -> VecDeque<Held<F>> {
        let Some(queue) = self.queues.remove(&neighbour) else { return VecDeque::new() };
        if let Some(rank) = queue.rank(neighbour) {
            self.order.remove(&rank);
        }
        self.packets -= queue.held.len();
        queue.held
    }

    /// Takes everything out.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Held<F>> {
        self.packets = 0;
        self.order.clear();
        self.queues.drain().flat_map(|(_, queue)| queue.held)
    }

    /// Gives up on what has waited too long; and names the neighbours to be
    /// asked for again.
    pub(super) fn expire(
        &mut self,
        now: Tick,
        mut give_up: impl FnMut(F),
        mut ask: impl FnMut(Neighbour),
    ) {
        let patience = u64::try_from(self.limits.patience.as_nanos()).unwrap_or(u64::MAX);
        let (packets, order) = (&mut self.packets, &mut self.order);
        self.queues.retain(|&neighbour, queue| {
            let is_late = |held: &Held<F>| now.0.saturating_sub(held.since.0) >= patience;
            let before = queue.rank(neighbour);
            while let Some(held) = queue.held.pop_front_if(|held| is_late(held)) {
                *packets -= 1;
                give_up(held.frame);
            }
            let after = queue.rank(neighbour);
            if after != before {
                before.map(|rank| order.remove(&rank));
                order.extend(after);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MILLISECOND: u64 = 1_000_000;

    fn hold(packets: usize, per_neighbour: usize) -> Hold<u32> {
        Hold::new(HoldLimits { packets, per_neighbour, patience: Duration::from_secs(1) })
    }

    fn router(number: u128) -> Neighbour {
        Neighbour { ifindex: 1, address: number }
    }

    /// Adds a packet that is called by when it came.
    fn add(hold: &mut Hold<u32>, number: u128, at: u32) -> Added<u32> {
        let now = Tick(u64::from(at) * MILLISECOND);
        hold.add(router(number), Held { frame: at, ingress: InterfaceSlot(0), since: now }, now)
    }

    /// What is remembered twice is the same.
    fn agrees(hold: &Hold<u32>) {
        let ranks: BTreeSet<_> = hold.queues.iter().filter_map(|(n, q)| q.rank(*n)).collect();
        assert_eq!(hold.order, ranks);
        assert_eq!(hold.len(), hold.queues.values().map(|queue| queue.held.len()).sum::<usize>());
        assert_eq!(hold.queues.len(), ranks.len());
    }

    #[test]
    fn many_that_do_not_answer_leave_room_for_one_that_does() {
        let mut hold = hold(32, 8);
        // Four have all of it.
        for at in 0..80 {
            add(&mut hold, u128::from(at % 4), at);
        }
        assert_eq!(hold.len(), 32);
        agrees(&hold);
        // One more comes: it gets as many as they have, and theirs go, the oldest
        // first, one of each in turn.
        for at in 100..120 {
            let added = add(&mut hold, 77, at);
            assert_eq!(added.is_new, at == 100);
            let who_goes = if at < 107 { at - 100 } else { at };
            assert_eq!(added.refused, Some(who_goes), "at {at}");
            agrees(&hold);
        }
        let known = hold.take(router(77));
        assert!(known.iter().map(|held| held.frame).eq(100..107), "{known:?}");
        assert_eq!(hold.len(), 25);
        agrees(&hold);
    }

    #[test]
    fn of_more_than_there_is_room_for_the_oldest_go() {
        // As where somebody claims to be everybody.
        let mut hold = hold(16, 4);
        for at in 0..1_000 {
            let added = add(&mut hold, u128::from(at), at);
            assert_eq!(added, Added { is_new: true, refused: at.checked_sub(16) });
            agrees(&hold);
        }
        // Who answers within a turn of the others gets what waited for him.
        assert!(hold.take(router(990)).iter().map(|held| held.frame).eq([990]));
    }

    #[test]
    fn one_that_does_not_answer_has_its_share_and_no_more() {
        let mut hold = hold(32, 8);
        for at in 0..20 {
            let refused = (at >= 8).then_some(at);
            assert_eq!(add(&mut hold, 1, at), Added { is_new: at == 0, refused });
        }
        let mut late = Vec::new();
        hold.expire(Tick(1_004 * MILLISECOND), |frame| late.push(frame), |_| ());
        assert_eq!(late, [0, 1, 2, 3, 4]);
        assert_eq!(hold.len(), 3);
        agrees(&hold);
        hold.expire(Tick(2_000 * MILLISECOND), |frame| late.push(frame), |_| ());
        assert_eq!((late.len(), hold.len()), (8, 0));
        agrees(&hold);
    }
}
