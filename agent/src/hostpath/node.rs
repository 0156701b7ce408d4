//! What the node's kernel must be set to for packets to go through it. Read
//! only: it is for the node's owner to change.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Addresses, Family, Fault};

/// What connection tracking has room for where nobody says (a node of 1 GiB;
/// `nf_conntrack_init_start` in net/netfilter/nf_conntrack_core.c).
const CONNTRACK: usize = 65_536;

/// Candidates for our addresses: link-local, where nothing is routed to or from
/// (RFC 3927 §7), and not where clouds and CNIs have theirs (169.254.0, .1, .20,
/// .25, .169 to .172).
const V4: [u8; 2] = [169, 254];
const THIRD: std::ops::RangeInclusive<u8> = 42..=99;

/// A prefix for local use (RFC 4193): "blixt" is its global ID, since nobody but
/// this node ever sees it.
const V6: [u16; 3] = [0xfd62, 0x6c69, 0x7874];

/// What forbids that packets of a family go through the node.
pub(super) fn faults() -> Vec<Fault> {
    let wanted = [(Family::V4, "ipv4.ip_forward"), (Family::V6, "ipv6.conf.all.forwarding")];
    let off = wanted.into_iter().filter(|(_, name)| number(&name.replace('.', "/")) == Some(0));
    off.map(|(family, name)| Fault {
        family: Some(family),
        sentence: format!(
            "the node forwards no {family}, which its host path needs: `sysctl -w net.{name}=1`"
        ),
    })
    .collect()
}

/// How many flows each worker may have the kernel track: half of what it tracks,
/// so that the node's own connections have the other half.
pub(super) fn flows_per_worker(workers: u16) -> usize {
    let most = number("netfilter/nf_conntrack_max").unwrap_or(CONNTRACK);
    (most / 2 / usize::from(workers.max(1))).max(1)
}

fn number(file: &str) -> Option<usize> {
    fs::read_to_string(format!("/proc/sys/net/{file}")).ok()?.trim().parse().ok()
}

/// Addresses for the host path that are near none of these.
pub(super) fn addresses(taken: &[IpAddr]) -> Addresses {
    let is_near = |third: u8| {
        let v4 = [V4[0], V4[1], third];
        let v6 = [V6[0], V6[1], V6[2], third.into()];
        taken.iter().any(|address| match address {
            IpAddr::V4(it) => it.octets().starts_with(&v4),
            IpAddr::V6(it) => it.segments().starts_with(&v6),
        })
    };
    // If all of them are taken, one of them will be refused.
    let third = THIRD.clone().find(|third| !is_near(*third)).unwrap_or(*THIRD.start());
    Addresses {
        v4: Ipv4Addr::new(V4[0], V4[1], third, 1),
        v6: Ipv6Addr::new(V6[0], V6[1], V6[2], third.into(), 0, 0, 0, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_away_from_others() {
        let chosen = |taken: &[&str]| {
            let taken: Vec<_> = taken.iter().map(|it| it.parse().unwrap()).collect();
            let Addresses { v4, v6 } = addresses(&taken);
            (v4.to_string(), v6.to_string())
        };
        let first = ("169.254.42.1".to_owned(), "fd62:6c69:7874:2a::1".to_owned());
        assert_eq!(chosen(&[]), first);
        assert_eq!(chosen(&["169.254.43.9", "fd62:6c69:7874:2b::1", "10.0.0.1"]), first);
        let third = ("169.254.44.1".to_owned(), "fd62:6c69:7874:2c::1".to_owned());
        assert_eq!(chosen(&["169.254.42.200", "fd62:6c69:7874:2b::7"]), third);
    }

    #[test]
    fn every_worker_has_its_share_of_the_tracking() {
        let alone = flows_per_worker(1);
        assert!(alone >= 2);
        assert_eq!(flows_per_worker(2), alone / 2);
        assert_eq!(flows_per_worker(0), alone);
    }
}
