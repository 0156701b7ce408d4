//! Addresses that Gateways should have and nodes have themselves, as agents say.
//! No node answers for those: it would take them from the one that has them.
//! Pure: time is an argument.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long it holds what the agent of a node has said last that is gone: the
/// node has its addresses all the same, while the agent or the node starts anew.
const HOLDS: Duration = Duration::from_secs(3600);

/// What all agents say.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    by_node: BTreeMap<String, Node>,
}

#[derive(Debug)]
struct Node {
    /// When its agent was there.
    seen: Instant,
    /// With the reasons.
    addresses: BTreeMap<IpAddr, String>,
}

impl Taken {
    /// An agent says which they are. `true` if that is news.
    pub(crate) fn said(
        &mut self,
        node: &str,
        addresses: BTreeMap<IpAddr, String>,
        now: Instant,
    ) -> bool {
        let before = match addresses.is_empty() {
            true => self.by_node.remove(node),
            false => self
                .by_node
                .insert(node.to_owned(), Node { seen: now, addresses: addresses.clone() }),
        };
        before.map(|node| node.addresses).unwrap_or_default() != addresses
    }

    /// Forgets what nobody has said for long. `true` if there was such.
    pub(crate) fn forget(&mut self, is_there: impl Fn(&str) -> bool, now: Instant) -> bool {
        let before = self.by_node.len();
        self.by_node.retain(|name, node| {
            if is_there(name) {
                node.seen = now;
            }
            now.saturating_duration_since(node.seen) < HOLDS
        });
        self.by_node.len() != before
    }

    /// The first node that has the address, and why it stays there.
    pub(crate) fn by(&self, address: &IpAddr) -> Option<(&str, &str)> {
        self.by_node
            .iter()
            .find_map(|(name, node)| Some((name.as_str(), node.addresses.get(address)?.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_has_is_known_for_an_hour_after_its_agent_is_gone() {
        let (mut taken, begin) = (Taken::default(), Instant::now());
        let address = IpAddr::from([192, 0, 2, 1]);
        let said = || [(address, "is its own".to_owned())].into();
        assert!(taken.said("n1", said(), begin));
        assert!(!taken.said("n1", said(), begin), "no news");
        let later = begin + HOLDS;
        assert!(!taken.forget(|name| name == "n1", later));
        assert!(!taken.forget(|_| false, later + HOLDS / 2));
        assert_eq!(taken.by(&address), Some(("n1", "is its own")));
        assert!(taken.forget(|_| false, later + HOLDS));
        assert_eq!(taken.by(&address), None);
        taken.said("n1", said(), later);
        assert!(taken.said("n1", BTreeMap::new(), later), "the node has it no more");
        assert_eq!(taken.by(&address), None);
    }
}
