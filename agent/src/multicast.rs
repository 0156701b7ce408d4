//! Joins the solicited-node groups of our addresses.
//!
//! A neighbour that looks for a VIP asks its solicited-node group (RFC 4861
//! §4.3). The NIC lets the question in, and a snooping switch forwards it
//! (RFC 4541 §3), only if somebody on the node is in that group. The kernel is
//! for its own addresses; for ours, which it doesn't know, we join.
//!
//! Membership belongs to a socket: it ends with the process.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv6Addr;

use socket2::{Domain, Protocol, Socket, Type};

/// A group could not be joined.
#[derive(Debug, thiserror::Error)]
#[error(
    "interface number {ifindex} does not join the solicited-node group {group} ({source}), so IPv6 \
     neighbours may not find our addresses there: IPv6 needs an MTU of 1280 or more, and a kernel \
     without ipv6.disable=1"
)]
pub struct JoinError {
    /// The interface.
    pub ifindex: u32,
    /// The group.
    pub group: Ipv6Addr,
    /// The kernel's answer.
    pub source: io::Error,
}

/// The groups that the agent is in.
#[derive(Debug, Default)]
pub struct Groups {
    interfaces: BTreeMap<u32, Membership>,
}

#[derive(Debug)]
struct Membership {
    socket: Socket,
    joined: BTreeSet<Ipv6Addr>,
}

impl Groups {
    /// Makes an interface a member of the groups of these addresses, and of
    /// no others. All that can be joined are; the first failure is returned.
    pub fn set(&mut self, ifindex: u32, addresses: &[Ipv6Addr]) -> Result<(), JoinError> {
        let wanted: BTreeSet<_> = addresses.iter().map(solicited_node).collect();
        let Some(first) = wanted.first().copied() else {
            self.forget(ifindex);
            return Ok(());
        };
        let refused = |group| move |source| JoinError { ifindex, group, source };
        let membership = match self.interfaces.entry(ifindex) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(Membership::new().map_err(refused(first))?)
            }
        };
        let mut answer = Ok(());
        for group in wanted.difference(&membership.joined.clone()) {
            match membership.socket.join_multicast_v6(group, ifindex) {
                Ok(()) => {
                    membership.joined.insert(*group);
                }
                Err(source) if answer.is_ok() => answer = Err(refused(*group)(source)),
                Err(_) => {}
            }
        }
        for group in membership.joined.clone().difference(&wanted) {
            // It can only fail if the interface is gone, and the group with it.
            let _ = membership.socket.leave_multicast_v6(group, ifindex);
            membership.joined.remove(group);
        }
        answer
    }

    /// Leaves all groups on an interface. To be called when it has vanished
    /// too: its number may come back as another's.
    pub fn forget(&mut self, ifindex: u32) {
        self.interfaces.remove(&ifindex);
    }
}

impl Membership {
    fn new() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        Ok(Self { socket, joined: BTreeSet::new() })
    }
}

/// `ff02::1:ffXX:XXXX`, the address's last 24 bits (RFC 4291 §2.7.1).
fn solicited_node(address: &Ipv6Addr) -> Ipv6Addr {
    const PREFIX: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;

    Ipv6Addr::from_bits(PREFIX | (address.to_bits() & 0x00ff_ffff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 4291 §2.7.1.
        let address = "4037::01:800:200E:8C6C".parse().unwrap();
        assert_eq!(solicited_node(&address), "ff02::1:ff0e:8c6c".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn a_failure_names_interface_and_group() {
        let address = "2001:db8::1".parse().unwrap();
        let error = Groups::default().set(i32::MAX as u32, &[address]).unwrap_err();
        assert!(error.to_string().contains("ff02::1:ff00:1"), "{error}");
    }
}
