//! The kernel's routes, ready to be asked: the longest prefix wins.
//!
//! A full table of the Internet has a million of them, but they lead over few
//! paths. So it is made apart from all else that a [`crate::Fib`] knows, and
//! shared by those that differ in something else.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use prefix_trie::PrefixMap;

use crate::address;

/// One route of the kernel's main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The network; see [`crate::address`].
    pub prefix: u128,
    /// Its length within the 128 bits: an IPv4 route's is 96 longer than its
    /// own.
    pub prefix_bits: u8,
    /// Of routes to the same network the one with the lowest is used.
    pub metric: u32,
    /// Where it leads.
    pub action: RouteAction,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RouteAction {
    /// Over one of these paths.
    Forward(Vec<Path>),
    /// To the node itself.
    Local,
    /// Nowhere: blackhole, unreachable, prohibit.
    Refuse,
}

/// One path of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path {
    /// The link.
    pub ifindex: u32,
    /// The router there; `None` when the destination itself is on the link.
    pub via: Option<u128>,
}

impl Route {
    /// A route to `prefix`/`bits`, the length as written for its family.
    pub fn new(prefix: IpAddr, bits: u8, metric: u32, action: RouteAction) -> Self {
        let mapped = if prefix.is_ipv4() { 96 } else { 0 };
        Self {
            prefix: address::from_ip(prefix),
            prefix_bits: bits.saturating_add(mapped).min(128),
            metric,
            action,
        }
    }
}

/// The next stamp of [`Routes`].
static STAMPS: AtomicU64 = AtomicU64::new(1);

/// All routes at one moment. Two of them are equal if they lead everything the
/// same way.
#[derive(Debug, Default)]
pub struct Routes {
    /// Tells it from every other; 0 for those that were made empty.
    stamp: u64,
    by_prefix: PrefixMap<(u128, u8), Entry>,
    /// Each that some route has, once.
    actions: Vec<RouteAction>,
    /// Whether any of them has several paths.
    spreads: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    metric: u32,
    /// Its place in [`Routes::actions`].
    action: u32,
}

impl Routes {
    /// Of routes to the same network with the same metric the first counts.
    pub fn new(routes: impl IntoIterator<Item = Route>) -> Self {
        let stamp = STAMPS.fetch_add(1, Ordering::Relaxed);
        let mut made = Self { stamp, ..Self::default() };
        let mut places = HashMap::new();
        for route in routes {
            let key = (route.prefix, route.prefix_bits.min(128));
            if made.by_prefix.get(&key).is_some_and(|known| known.metric <= route.metric) {
                continue;
            }
            made.spreads |= matches!(&route.action, RouteAction::Forward(paths) if paths.len() > 1);
            let actions = &mut made.actions;
            let action = *places.entry(route.action).or_insert_with_key(|action| {
                actions.push(action.clone());
                // No table has 2^32 routes.
                (actions.len() - 1) as u32
            });
            made.by_prefix.insert(key, Entry { metric: route.metric, action });
        }
        made
    }

    /// How many networks there are routes to.
    pub fn len(&self) -> usize {
        self.by_prefix.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_prefix.is_empty()
    }

    /// Tells it from every other that has routes.
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// Where `destination` is led.
    #[inline]
    pub(crate) fn towards(&self, destination: u128) -> Option<&RouteAction> {
        let (_, entry) = self.by_prefix.get_lpm(&(destination, 128))?;
        self.action(*entry)
    }

    /// Whether any route has several paths.
    #[inline(always)]
    pub(crate) fn spreads(&self) -> bool {
        self.spreads
    }

    #[inline]
    fn action(&self, entry: Entry) -> Option<&RouteAction> {
        self.actions.get(entry.action as usize)
    }
}

impl PartialEq for Routes {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self
                .by_prefix
                .iter()
                .zip(&other.by_prefix)
                .all(|((a, own), (b, theirs))| a == b && self.action(*own) == other.action(*theirs))
    }
}

impl Eq for Routes {}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: [u8; 4], bits: u8, metric: u32, router: u128) -> Route {
        let path = Path { ifindex: 1, via: Some(router) };
        Route::new(prefix.into(), bits, metric, RouteAction::Forward(vec![path]))
    }

    #[test]
    fn routes_that_lead_the_same_way_are_equal_however_they_came() {
        let (a, b) = (route([10, 0, 0, 0], 8, 5, 1), route([10, 1, 0, 0], 16, 5, 2));
        let worse = route([10, 0, 0, 0], 8, 6, 3);
        let one = Routes::new([a.clone(), b.clone()]);
        assert_eq!(one, Routes::new([b.clone(), worse.clone(), a.clone()]));
        assert_ne!(one, Routes::new([b.clone(), worse]));
        assert_ne!(one, Routes::new([a.clone()]));
        assert_ne!(one, Routes::new([a, route([10, 1, 0, 0], 17, 5, 2)]));
        assert_eq!((one.len(), one.is_empty()), (2, false));
    }

    #[test]
    fn an_action_is_kept_once() {
        let routes = (0..=255).map(|n| route([10, n, 0, 0], 16, 0, u128::from(n % 3)));
        let routes = Routes::new(routes);
        assert_eq!((routes.len(), routes.actions.len()), (256, 3));
    }
}
