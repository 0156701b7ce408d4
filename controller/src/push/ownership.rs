//! Which agent owns which VIP: rendezvous hashing (Thaler and Ravishankar,
//! "Using name-based mappings to increase hit rates", 1998). Every replica that
//! knows the same agents says the same, without asking another; when an agent
//! comes or goes, only what it gains or had moves.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;

/// For some VIPs, the agents that do not serve them as they should be.
pub type Unfit = BTreeMap<IpAddr, BTreeSet<String>>;

/// What each agent owns. An agent that owns nothing is not in it. Who is unfit for a
/// VIP owns it only where all are.
pub fn owners<'a>(
    vips: &BTreeSet<IpAddr>,
    agents: impl IntoIterator<Item = &'a str> + Clone,
    unfit: &Unfit,
) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let mut owned: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
    for &vip in vips {
        let agents = agents.clone().into_iter();
        let is_fit = |agent: &str| !unfit.get(&vip).is_some_and(|all| all.contains(agent));
        // Equal weights, once in 2^64: the name decides.
        if let Some(owner) = agents.max_by_key(|agent| (is_fit(agent), weight(agent, vip), *agent))
        {
            owned.entry(owner.to_owned()).or_default().insert(vip);
        }
    }
    owned
}

/// The same on every replica of every version: with no key, and of bytes that
/// are written down here.
fn weight(agent: &str, vip: IpAddr) -> u64 {
    let mut hash = SipHasher13::new();
    hash.write(agent.as_bytes());
    // No name has this byte, so that it ends here.
    hash.write(&[0xff]);
    match vip {
        IpAddr::V4(v4) => hash.write(&v4.octets()),
        IpAddr::V6(v6) => hash.write(&v6.octets()),
    }
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_vip(owned: &BTreeMap<String, BTreeSet<IpAddr>>) -> BTreeMap<IpAddr, String> {
        let each = |(agent, vips): (&String, &BTreeSet<IpAddr>)| {
            vips.iter().map(|vip| (*vip, agent.clone())).collect::<Vec<_>>()
        };
        owned.iter().flat_map(each).collect()
    }

    fn vip() -> impl Strategy<Value = IpAddr> {
        any::<[u8; 4]>().prop_map(IpAddr::from)
    }

    proptest! {
        #[test]
        fn each_vip_has_one_owner_and_only_what_must_move_does(
            vips in prop::collection::btree_set(vip(), 0..50),
            agents in prop::collection::btree_set("[a-z]{1,4}", 1..8),
            new in "[A-Z]{1,4}",
        ) {
            let names = || agents.iter().map(String::as_str);
            let none = Unfit::new();
            let before = by_vip(&owners(&vips, names(), &none));
            prop_assert_eq!(before.len(), vips.len());
            // Whatever order they are told in.
            let backwards: Vec<_> = names().rev().collect();
            prop_assert_eq!(&before, &by_vip(&owners(&vips, backwards, &none)));
            // One that joins takes from others, and nothing moves between these.
            let after = by_vip(&owners(&vips, names().chain([new.as_str()]), &none));
            for (vip, owner) in &after {
                prop_assert!(*owner == new || before[vip] == *owner);
            }
            prop_assert_eq!(by_vip(&owners(&vips, names(), &none)), before, "and back when it leaves");
        }
    }

    proptest! {
        #[test]
        fn who_is_unfit_owns_what_nobody_is_fit_for(
            vips in prop::collection::btree_set(vip(), 1..20),
            agents in prop::collection::btree_set("[a-z]{1,4}", 1..6),
            unfit in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..20),
        ) {
            let (all_vips, all_agents): (Vec<_>, Vec<_>) =
                (vips.iter().copied().collect(), agents.iter().cloned().collect());
            let mut told = Unfit::new();
            for (vip, agent) in unfit {
                told.entry(*vip.get(&all_vips)).or_default().insert(agent.get(&all_agents).clone());
            }
            let names = || agents.iter().map(String::as_str);
            let without = by_vip(&owners(&vips, names(), &Unfit::new()));
            let with = by_vip(&owners(&vips, names(), &told));
            for (vip, owner) in &with {
                let unfit = told.get(vip).cloned().unwrap_or_default();
                prop_assert!(!unfit.contains(owner) || unfit.len() == agents.len());
                // Nothing else moves.
                let stays = !unfit.contains(&without[vip]) || unfit.len() == agents.len();
                prop_assert!(!stays || without[vip] == *owner);
            }
        }
    }

    #[test]
    fn shares_are_about_equal() {
        let vips = (0..=255_u8).flat_map(|a| [[10, 0, a, 1], [10, 1, a, 1]]).map(IpAddr::from);
        let agents: Vec<_> = (0..8).map(|n| format!("node-{n}")).collect();
        let owned = owners(&vips.collect(), agents.iter().map(String::as_str), &Unfit::new());
        // 64 each, give or take four times the standard deviation of 7.5. The
        // hash is fixed, so that it is the same on each run.
        assert!(owned.len() == 8 && owned.values().all(|vips| (34..=94).contains(&vips.len())));
    }

    /// Replicas of different versions must agree.
    #[test]
    fn owners_are_those_that_they_have_always_been() {
        let vips = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|text| text.parse().unwrap());
        let owned = by_vip(&owners(&vips.into(), ["node-1", "node-2", "node-3"], &Unfit::new()));
        assert_eq!(owned.values().collect::<Vec<_>>(), ["node-3", "node-3", "node-1"]);
    }

    #[test]
    fn without_agents_nobody_owns_anything() {
        assert!(owners(&[[192, 0, 2, 1].into()].into(), [], &Unfit::new()).is_empty());
    }
}
