//! Remembers where destinations lead, so that a packet seldom asks the routes.
//!
//! Owned by one worker. What it remembers of one [`Fib`] it forgets with the
//! next; it never makes a difference but in time.

use crate::address;
use crate::fib::{Fib, HopId, NextHop, Resolution, Ways};

/// Enough for the endpoints and the busiest clients of a burst after another,
/// in the second-level cache.
const PLACES: usize = 4_096;

/// One place for each destination, whose last owner it remembers.
#[derive(Debug)]
pub(crate) struct Hops {
    /// What is remembered is of the [`Fib`] with this stamp.
    stamp: u64,
    places: Box<[Place]>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    destination: u128,
    /// Which of several paths.
    spread: u32,
    hop: HopId,
    /// The largest IP packet that the hop takes, in bytes.
    mtu: usize,
}

impl Place {
    /// No packet fits.
    const FREE: Self = Self { destination: 0, spread: 0, hop: HopId::NONE, mtu: 0 };
}

impl Hops {
    /// Remembers nothing yet.
    pub(crate) fn new() -> Self {
        Self { stamp: 0, places: vec![Place::FREE; PLACES].into() }
    }

    /// Before the first question about a `fib`.
    pub(crate) fn begin(&mut self, fib: &Fib) {
        if self.stamp != fib.stamp() {
            self.stamp = fib.stamp();
            self.places.fill(Place::FREE);
        }
    }

    /// The hop for an IP packet of so many bytes, if [`Fib::resolve`] said it
    /// lately and the packet fits. It may be the node's kernel's, which is not
    /// open to every packet: see [`Ways`].
    #[inline(always)]
    pub(crate) fn known(&self, destination: u128, spread: u32, bytes: usize) -> Option<HopId> {
        let place = self.places.get(home(destination, spread))?;
        let is_it = place.destination == destination && place.spread == spread;
        (is_it && bytes <= place.mtu).then_some(place.hop)
    }

    /// What [`Fib::resolve`] says; a hop is remembered.
    #[inline(never)]
    pub(crate) fn learn(
        &mut self,
        fib: &Fib,
        destination: u128,
        spread: u32,
        ways: Ways,
    ) -> Resolution {
        let resolution = fib.resolve(destination, spread, ways);
        // Neighbours and routes that are missing may come with the next.
        if let Resolution::Hop(hop) = resolution
            && let Some(NextHop { mtu, .. }) = fib.hop(hop)
            && let Some(place) = self.places.get_mut(home(destination, spread))
        {
            *place = Place { destination, spread, hop, mtu: *mtu };
        }
        resolution
    }
}

/// Fibonacci hashing (Knuth, TAOCP 3, §6.4). Who chooses addresses so that
/// they share a place only makes them share the cost of asking.
#[inline(always)]
fn home(destination: u128, spread: u32) -> usize {
    let mixed =
        (address::folded(destination) ^ u64::from(spread)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (64 - PLACES.ilog2())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drops::DropReason;
    use crate::fib::{Link, Tags};
    use crate::packet::{InterfaceSlot, Neighbour};
    use crate::routes::{Path, Route, RouteAction};

    /// A network of 2^16 hosts over one path or two; hosts below 1,000 are
    /// known as neighbours.
    fn fib(paths: u32) -> Fib {
        let links = (1..=paths).map(|ifindex| Link {
            ifindex,
            attached: Some(InterfaceSlot(ifindex as u16)),
            mac: [2; 6],
            mtu: 1_500,
            tags: Tags::new(),
        });
        let paths: Vec<_> = (1..=paths).map(|ifindex| Path { ifindex, via: None }).collect();
        let neighbours: Vec<_> = (0..1_000)
            .flat_map(|host| paths.iter().map(move |path| (host, path.ifindex)))
            .map(|(host, ifindex)| (Neighbour { ifindex, address: NETWORK + host }, [4; 6]))
            .collect();
        let route = Route {
            prefix: NETWORK,
            prefix_bits: 112,
            metric: 0,
            action: RouteAction::Forward(paths),
        };
        Fib::new(vec![], links, [route], neighbours)
    }

    const NETWORK: u128 = 0x2001_0db8 << 96;

    #[test]
    fn it_says_what_the_routes_say() {
        for fib in [fib(1), fib(2), fib(3)] {
            let mut hops = Hops::new();
            hops.begin(&fib);
            // More than there are places, and each of them twice.
            for host in (0..10_000).chain(0..10_000) {
                for spread in [0, 1, 7, u32::MAX] {
                    let (destination, expected) =
                        (NETWORK + host, fib.resolve(NETWORK + host, spread, Ways::Out));
                    let hop = match expected {
                        Resolution::Hop(id) => Some(id),
                        _ => None,
                    };
                    let known = hops.known(destination, spread, 1);
                    assert!(known.is_none() || known == hop, "{known:?} for {hop:?}");
                    assert_eq!(hops.learn(&fib, destination, spread, Ways::Out), expected);
                    assert_eq!(hops.known(destination, spread, 1_500), hop);
                    assert_eq!(hops.known(destination, spread, 1_501), None, "too big");
                }
            }
        }
    }

    #[test]
    fn it_forgets_with_the_next_routes() {
        let (old, new) = (fib(1), Fib::default());
        let mut hops = Hops::new();
        hops.begin(&old);
        assert!(matches!(hops.learn(&old, NETWORK, 0, Ways::Out), Resolution::Hop(_)));
        assert!(hops.known(NETWORK, 0, 1).is_some());
        hops.begin(&new);
        assert_eq!(hops.known(NETWORK, 0, 1), None);
        let nowhere = Resolution::Drop(DropReason::Unroutable);
        assert_eq!(hops.learn(&new, NETWORK, 0, Ways::Out), nowhere);
        assert_eq!(hops.known(NETWORK, 0, 1), None);
    }
}
