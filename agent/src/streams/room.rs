//! Which ports there is room for, where more are wanted than fit.
//!
//! Those that are served already come first, then the Gateways in the order of
//! their names, so that who comes later disturbs nobody, and nodes that start with
//! the same Gateways serve the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use blixt_model::ObjectName;

/// How much there may be.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Ports, of each address its own: what the XDP program has room for.
    pub ports: usize,
    /// Numbers of ports, of IPv4 and of IPv6 each. There is a routing rule for each
    /// number, and the kernel goes through all of them for each look-up: 14 ns for
    /// a rule on the machine of docs/decisions/0039.
    pub numbers: usize,
}

impl Room {
    /// Beside what the XDP program has room for.
    pub fn with_ports(ports: u32) -> Self {
        Self { ports: usize::try_from(ports).unwrap_or(usize::MAX), numbers: 256 }
    }

    /// The ports that there is no room for, and why.
    pub(super) fn refused(
        &self,
        owners: &BTreeMap<SocketAddr, ObjectName>,
        served: &BTreeSet<SocketAddr>,
    ) -> BTreeMap<SocketAddr, String> {
        let mut wanted: Vec<_> = owners.iter().collect();
        wanted.sort_by_key(|&(port, owner)| (!served.contains(port), owner, port));
        let mut taken = Taken::default();
        let refused = wanted.into_iter().filter_map(|(port, _)| {
            let why = taken.take(*port, *self).err()?;
            Some((*port, why))
        });
        refused.collect()
    }
}

/// What is taken of it.
#[derive(Debug, Default)]
struct Taken {
    ports: usize,
    v4: BTreeSet<u16>,
    v6: BTreeSet<u16>,
}

impl Taken {
    fn take(&mut self, at: SocketAddr, room: Room) -> Result<(), String> {
        let Room { ports, numbers } = room;
        if self.ports == ports {
            return Err(format!(
                "a node has room for {ports} TCP ports of HTTP, HTTPS and TLS listeners, each on \
                 each address, and others have them all: {at} is not served; have fewer listeners \
                 or fewer addresses"
            ));
        }
        let (of_family, family) =
            if at.is_ipv4() { (&mut self.v4, "IPv4") } else { (&mut self.v6, "IPv6") };
        if of_family.len() == numbers && !of_family.contains(&at.port()) {
            return Err(format!(
                "a node has room for {numbers} different port numbers of HTTP, HTTPS and TLS \
                 listeners with {family}, and others have them all: {at} is not served; have \
                 listeners share numbers"
            ));
        }
        of_family.insert(at.port());
        self.ports += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ports of Gateways, as `GATEWAY ADDRESS:PORT`.
    fn owners(all: &[&str]) -> BTreeMap<SocketAddr, ObjectName> {
        let all = all.iter().map(|one| one.split_once(' ').unwrap());
        all.map(|(owner, at)| (at.parse().unwrap(), owner.parse().unwrap())).collect()
    }

    fn ports(all: &[&str]) -> BTreeSet<SocketAddr> {
        all.iter().map(|at| at.parse().unwrap()).collect()
    }

    #[test]
    fn who_is_served_stays_and_then_names_decide() {
        let room = Room { ports: 2, numbers: 256 };
        let refused = |wanted: &[&str], served: &[&str]| {
            let refused = room.refused(&owners(wanted), &ports(served));
            assert!(refused.values().all(|why| why.contains("room for 2 TCP ports")));
            refused.into_keys().map(|at| at.to_string()).collect::<Vec<_>>()
        };
        let wanted = ["c 192.0.2.1:80", "a 192.0.2.2:80", "b 192.0.2.3:80"];
        assert_eq!(refused(&wanted, &[]), ["192.0.2.1:80"]);
        assert_eq!(refused(&wanted, &["192.0.2.1:80"]), ["192.0.2.3:80"]);
        assert_eq!(refused(&wanted, &["192.0.2.1:80", "192.0.2.3:80"]), ["192.0.2.2:80"]);
        assert!(refused(&wanted[..2], &[]).is_empty());
    }

    #[test]
    fn numbers_that_others_have_take_no_more_room() {
        let room = Room { ports: 100, numbers: 1 };
        let wanted = ["a 192.0.2.1:80", "b 192.0.2.2:80", "c 192.0.2.3:81", "c [2001:db8::1]:81"];
        let refused = room.refused(&owners(&wanted), &BTreeSet::new());
        assert_eq!(refused.len(), 1);
        let why = &refused[&"192.0.2.3:81".parse().unwrap()];
        assert!(why.contains("1 different port numbers") && why.contains("IPv4"), "{why}");
    }

    proptest! {
        /// What was served stays, whoever comes; and asking again changes nothing.
        #[test]
        fn nobody_who_is_served_is_refused(
            first in prop::collection::btree_map((1_u8..5, 1_u16..6), 0_u8..4, 0..20),
            more in prop::collection::btree_map((1_u8..5, 1_u16..6), 0_u8..4, 0..20),
            (ports, numbers) in (0_usize..10, 0_usize..5),
        ) {
            let room = Room { ports, numbers };
            let named = |all: BTreeMap<(u8, u16), u8>| -> BTreeMap<_, _> {
                let one = |((host, port), owner): ((u8, u16), u8)| {
                    let at = SocketAddr::from(([192, 0, 2, host], port));
                    (at, format!("g{owner}").parse::<ObjectName>().unwrap())
                };
                all.into_iter().map(one).collect()
            };
            let mut wanted = named(first);
            let refused = room.refused(&wanted, &BTreeSet::new());
            let served: BTreeSet<_> =
                wanted.keys().filter(|at| !refused.contains_key(at)).copied().collect();
            prop_assert!(served.len() <= ports);
            let used: BTreeSet<_> = served.iter().map(SocketAddr::port).collect();
            prop_assert!(used.len() <= numbers);
            let again = room.refused(&wanted, &served);
            prop_assert!(again.keys().eq(refused.keys()));
            for (at, owner) in named(more) {
                wanted.entry(at).or_insert(owner);
            }
            let refused = room.refused(&wanted, &served);
            prop_assert!(served.iter().all(|at| !refused.contains_key(at)));
        }
    }
}
