//! Which addresses are ours, and why.
//!
//! Asked for every packet, about whatever address it names. There are few
//! answers, and they never change: so a plain table with room to spare, where
//! most look-ups see one place.

use crate::address;

/// Why an address is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressRole {
    /// Clients send to it.
    Vip,
    /// Endpoints reply to it.
    Snat,
    /// Endpoints that are reached through the node's kernel reply to it; no
    /// other host knows it.
    Host,
}

/// Addresses and their roles. Only our own configuration puts addresses in, so
/// no sender can make a search long, and the hash needs no key.
#[derive(Debug, Default)]
pub(super) struct Roles {
    /// A power of two of them, or none; at least three in four are free. An
    /// address is at its home, or in one of the places behind it up to the
    /// next free one.
    places: Box<[Option<(u128, AddressRole)>]>,
}

impl Roles {
    pub(super) fn new(roles: impl IntoIterator<Item = (u128, AddressRole)>) -> Self {
        let roles: Vec<_> = roles.into_iter().collect();
        let mut new = Self { places: vec![None; (roles.len() * 4).next_power_of_two()].into() };
        for (address, role) in roles {
            let free_or_same =
                |place: &Option<(u128, _)>| place.is_none_or(|(at, _)| at == address);
            let home = new.home(address);
            let (before, from_home) = new.places.split_at_mut(home.min(new.places.len()));
            if let Some(place) =
                from_home.iter_mut().chain(before).find(|place| free_or_same(place))
            {
                *place = Some((address, role));
            }
        }
        new
    }

    /// Why an address is ours, if it is.
    #[inline(always)]
    pub(super) fn get(&self, address: u128) -> Option<AddressRole> {
        let mut at = self.home(address);
        loop {
            let (here, role) = (*self.places.get(at)?)?;
            if here == address {
                return Some(role);
            }
            at = (at + 1) & self.mask();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u128, AddressRole)> {
        self.places.iter().flatten().copied()
    }

    #[inline(always)]
    fn mask(&self) -> usize {
        self.places.len().wrapping_sub(1)
    }

    /// Fibonacci hashing (Knuth, TAOCP 3, §6.4).
    #[inline(always)]
    fn home(&self, address: u128) -> usize {
        (address::folded(address).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & self.mask()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_are_none() {
        for roles in [Roles::default(), Roles::new([])] {
            assert_eq!(roles.get(0), None);
            assert_eq!(roles.get(u128::MAX), None);
            assert_eq!(roles.iter().count(), 0);
        }
    }

    #[test]
    fn all_that_were_put_in_are_found_and_no_others() {
        for count in [1, 2, 3, 100, 1_000_u128] {
            for base in [0xffff_0a00_0001, 0x2001_0db8 << 96, 0x2001_0db8_u128.rotate_right(8)] {
                let role = |n: u128| {
                    if n.is_multiple_of(3) { AddressRole::Snat } else { AddressRole::Vip }
                };
                // Every second one, and the last one twice.
                let put = (0..count).map(|n| (base + 2 * n, role(n)));
                let roles = Roles::new(put.chain([(base + 2 * (count - 1), role(count - 1))]));
                for n in 0..count {
                    assert_eq!(roles.get(base + 2 * n), Some(role(n)));
                    assert_eq!(roles.get(base + 2 * n + 1), None);
                }
                assert_eq!(roles.iter().count(), count as usize);
                assert!(roles.places.len() >= 4 * count as usize);
            }
        }
    }
}
