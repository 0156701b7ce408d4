//! What the addresses of a pool are, as written: networks, ranges, single
//! ones.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use blixt_model::is_host_unicast;

/// Addresses of one family, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AddressRange {
    is_v6: bool,
    first: u128,
    last: u128,
}

impl AddressRange {
    /// Reads a network, a range or an address, or says what is wrong with it.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let range = if let Some((network, bits)) = text.split_once('/') {
            Self::network(network, bits)?
        } else if let Some((first, last)) = text.split_once('-') {
            Self::between(address(first)?, address(last)?)?
        } else {
            Self::between(address(text)?, address(text)?)?
        };
        let ends = [range.first, range.last].map(|end| range.address(end));
        match ends.into_iter().find_map(|end| Some((end, not_for_a_host(end)?))) {
            Some((end, why)) => Err(format!("reaches {end}, which {why}")),
            None => Ok(range),
        }
    }

    fn network(network: &str, bits: &str) -> Result<Self, String> {
        let network = address(network)?;
        let width = if network.is_ipv4() { 32 } else { 128 };
        // As on the wire: no sign, no leading zero.
        let written = bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits = bits.parse::<u32>().ok().filter(|bits| written && *bits <= width);
        let bits = bits.ok_or_else(|| format!("has no length of 0 to {width} behind the /"))?;
        let host = u128::MAX.checked_shr(128 - width + bits).unwrap_or(0);
        let number = number(network);
        let (first, last) = (number & !host, number | host);
        let range = Self { is_v6: network.is_ipv6(), first, last };
        if first != number {
            let first = range.address(first);
            return Err(format!(
                "is not where a network of {bits} bits begins: write {first}/{bits}"
            ));
        }
        Ok(range)
    }

    fn between(first: IpAddr, last: IpAddr) -> Result<Self, String> {
        if first.is_ipv4() != last.is_ipv4() {
            return Err("goes from one address family to another: write two ranges".to_owned());
        }
        let range = Self { is_v6: first.is_ipv6(), first: number(first), last: number(last) };
        if range.first > range.last {
            return Err(format!("ends before it begins: write {last}-{first}"));
        }
        Ok(range)
    }

    pub(crate) fn is_v6(&self) -> bool {
        self.is_v6
    }

    pub(crate) fn contains(&self, wanted: IpAddr) -> bool {
        wanted.is_ipv6() == self.is_v6 && (self.first..=self.last).contains(&number(wanted))
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.is_v6 == other.is_v6 && self.first <= other.last && other.first <= self.last
    }

    /// Both as one, if they overlap.
    pub(crate) fn union(&self, other: &Self) -> Option<Self> {
        let (first, last) = (self.first.min(other.first), self.last.max(other.last));
        self.overlaps(other).then_some(Self { first, last, ..*self })
    }

    /// How many there are; all IPv6 addresses count as one less.
    pub(crate) fn len(&self) -> u128 {
        (self.last - self.first).saturating_add(1)
    }

    /// All of them, in order.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        (self.first..=self.last).map(|number| self.address(number))
    }

    fn address(&self, number: u128) -> IpAddr {
        if self.is_v6 {
            Ipv6Addr::from_bits(number).into()
        } else {
            // Both ends were 32 bits wide when they were read.
            Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX)).into()
        }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, last] = [self.first, self.last].map(|end| self.address(end));
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.trim().parse().map_err(|_| {
        format!(
            "is no address, network or range: {text:?} is no IP address. Write 192.0.2.1, \
             192.0.2.0/28 or 192.0.2.1-192.0.2.9"
        )
    })
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Why no host can have the address, or none beyond its own link, in words.
pub(crate) fn not_for_a_host(address: IpAddr) -> Option<String> {
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Some(format!("is an IPv4 address in the dress of IPv6: write {v4}"));
    }
    let (link_local, broadcast) = match address {
        // A packet with such an address is not forwarded (RFC 3927 §2.6.2,
        // RFC 4291 §2.5.6).
        IpAddr::V4(v4) => (v4.is_link_local(), v4.is_broadcast()),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), false),
    };
    let what = if address.is_unspecified() {
        "stands for no address"
    } else if address.is_loopback() {
        "is a loopback address"
    } else if address.is_multicast() {
        "is a multicast address"
    } else if broadcast {
        "is the broadcast address"
    } else if link_local {
        "is a link-local address, which is not forwarded"
    } else if !is_host_unicast(address) {
        "is in a reserved range"
    } else {
        return None;
    };
    Some(format!("{what}: use a unicast address of your network"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(text: &str) -> AddressRange {
        AddressRange::new(text).unwrap()
    }

    #[test]
    fn networks_ranges_and_addresses_are_read() {
        for (text, shown, len) in [
            ("192.0.2.16/28", "192.0.2.16-192.0.2.31", 16),
            ("192.0.2.7/32", "192.0.2.7", 1),
            ("192.0.2.10-192.0.2.20", "192.0.2.10-192.0.2.20", 11),
            ("192.0.2.10 - 192.0.2.10", "192.0.2.10", 1),
            ("192.0.2.10", "192.0.2.10", 1),
            ("2001:DB8::/120", "2001:db8::-2001:db8::ff", 256),
            ("2001:db8::1", "2001:db8::1", 1),
            ("2001:db8::/64", "2001:db8::-2001:db8::ffff:ffff:ffff:ffff", 1 << 64),
        ] {
            assert_eq!((range(text).to_string().as_str(), range(text).len()), (shown, len));
        }
        let all: Vec<_> = range("192.0.2.254-192.0.3.1").addresses().collect();
        let all: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(all, ["192.0.2.254", "192.0.2.255", "192.0.3.0", "192.0.3.1"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("", "is no address, network or range"),
            ("a.example", "\"a.example\" is no IP address"),
            ("192.0.2.0/33", "has no length of 0 to 32"),
            ("192.0.2.0/+8", "has no length of 0 to 32"),
            ("192.0.2.0/", "has no length of 0 to 32"),
            ("2001:db8::/129", "has no length of 0 to 128"),
            ("192.0.2.5/28", "write 192.0.2.0/28"),
            ("192.0.2.5-192.0.2.1", "write 192.0.2.1-192.0.2.5"),
            ("192.0.2.5-2001:db8::1", "write two ranges"),
            ("0.0.0.0/0", "reaches 0.0.0.0, which stands for no address"),
            ("::/0", "reaches ::, which stands for no address"),
            ("223.0.0.0-224.0.0.1", "reaches 224.0.0.1, which is a multicast address"),
            ("169.254.0.0/16", "is a link-local address"),
            ("fe80::/64", "is a link-local address"),
            ("::ffff:10.0.0.0/120", "write 10.0.0.0"),
        ] {
            let why = AddressRange::new(text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }

    proptest! {
        /// A range is what is between its ends, and two overlap where they
        /// have an address in common.
        #[test]
        fn ranges_are_sets(a in 1_u8..60, b in 0_u8..20, c in 1_u8..60, d in 0_u8..20) {
            let of = |first, more| range(&format!("10.0.0.{first}-10.0.0.{}", first + more));
            let (one, other) = (of(a, b), of(c, d));
            prop_assert_eq!(one.len(), one.addresses().count() as u128);
            prop_assert!(one.addresses().all(|address| one.contains(address)));
            let common = one.addresses().any(|address| other.contains(address));
            prop_assert_eq!(one.overlaps(&other), common);
            prop_assert_eq!(other.overlaps(&one), common);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9a-f.:/ -]{0,24}") {
            if let Ok(range) = AddressRange::new(&text) {
                prop_assert!(range.addresses().next().is_some_and(|first| range.contains(first)));
                prop_assert_eq!(AddressRange::new(&range.to_string()), Ok(range));
            }
        }
    }
}
