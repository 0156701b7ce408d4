//! Which Gateway gets which addresses. There is no pool: a Gateway names its
//! addresses itself, and the oldest Gateway that names one has it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

use blixt_model::{ObjectName, is_host_unicast};

use crate::apis::GatewaySpec;
use crate::index::Stored;

/// What becomes of the addresses of one Gateway.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    /// Those it has, in the order of the spec.
    pub(super) assigned: Vec<IpAddr>,
    /// Those of a type that is not supported.
    pub(super) unsupported: Vec<String>,
    /// Those that it can't have, each with the reason.
    pub(super) unusable: Vec<String>,
    /// Whether it wants one that it did not name.
    pub(super) wants_any: bool,
}

/// Gives out addresses to the Gateways, which come in any order.
pub(super) fn assign<'a>(
    gateways: &[(&'a ObjectName, &'a Stored<GatewaySpec>)],
    unusable: &BTreeMap<IpAddr, String>,
) -> BTreeMap<&'a ObjectName, Addresses> {
    let mut by_age = gateways.to_vec();
    by_age.sort_by(|(name, gateway), (other_name, other)| gateway.before(name, other, other_name));
    let mut owners = BTreeMap::new();
    by_age
        .into_iter()
        .map(|(name, gateway)| (name, assign_to(name, &gateway.spec, unusable, &mut owners)))
        .collect()
}

fn assign_to<'a>(
    name: &'a ObjectName,
    spec: &'a GatewaySpec,
    unusable: &BTreeMap<IpAddr, String>,
    owners: &mut BTreeMap<IpAddr, &'a ObjectName>,
) -> Addresses {
    let requests = spec.addresses.as_deref().unwrap_or_default();
    let mut addresses = Addresses { wants_any: requests.is_empty(), ..Addresses::default() };
    for request in requests {
        let kind = request.r#type.as_deref().unwrap_or("IPAddress");
        let value = request.value.as_deref().unwrap_or_default();
        if kind != "IPAddress" {
            addresses.unsupported.push(format!("{kind} {value:?}"));
            continue;
        }
        if value.is_empty() {
            addresses.wants_any = true;
            continue;
        }
        match take(name, value, unusable, owners) {
            Ok(address) if addresses.assigned.contains(&address) => {}
            Ok(address) => addresses.assigned.push(address),
            Err(why) => addresses.unusable.push(format!("{value} {why}")),
        }
    }
    addresses
}

fn take<'a>(
    name: &'a ObjectName,
    value: &str,
    unusable: &BTreeMap<IpAddr, String>,
    owners: &mut BTreeMap<IpAddr, &'a ObjectName>,
) -> Result<IpAddr, String> {
    let address: IpAddr = value.parse().map_err(|_| "is no IP address".to_owned())?;
    if let Some(why) = not_for_a_host(address) {
        return Err(why);
    }
    if let Some(why) = unusable.get(&address) {
        return Err(why.clone());
    }
    match owners.entry(address) {
        Entry::Vacant(free) => {
            free.insert(name);
            Ok(address)
        }
        Entry::Occupied(taken) if *taken.get() == name => Ok(address),
        Entry::Occupied(taken) => Err(format!(
            "already belongs to Gateway {}: give this one another address",
            taken.get()
        )),
    }
}

/// Why no host can have the address, or none beyond its own link, in words.
fn not_for_a_host(address: IpAddr) -> Option<String> {
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
    use crate::apis::{GatewayAddresses, Time};

    fn gateway(addresses: &[(&str, &str)], created: Option<&str>) -> Stored<GatewaySpec> {
        let addresses = addresses.iter().map(|(kind, value)| GatewayAddresses {
            r#type: Some((*kind).to_owned()),
            value: Some((*value).to_owned()),
        });
        Stored {
            generation: 1,
            created: created.map(|text| Time(text.parse().unwrap())),
            spec: GatewaySpec { addresses: Some(addresses.collect()), ..GatewaySpec::default() },
        }
    }

    fn alone(addresses: &[(&str, &str)]) -> Addresses {
        let name = "a".parse().unwrap();
        let gateway = gateway(addresses, None);
        let unusable =
            [("10.0.0.9".parse().unwrap(), "is the node's own address on eth0".to_owned())].into();
        assign(&[(&name, &gateway)], &unusable).remove(&name).unwrap()
    }

    #[test]
    fn addresses_are_those_of_the_spec_in_one_spelling() {
        let found = alone(&[
            ("IPAddress", "10.0.0.1"),
            ("IPAddress", "2001:DB8:0::1"),
            ("IPAddress", "2001:db8::1"),
        ]);
        let texts: Vec<_> = found.assigned.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.1", "2001:db8::1"]);
        assert!(found.unusable.is_empty() && !found.wants_any);
    }

    #[test]
    fn none_named_means_any() {
        assert!(alone(&[]).wants_any);
        let found = alone(&[("IPAddress", ""), ("IPAddress", "10.0.0.1")]);
        assert!(found.wants_any);
        assert_eq!(found.assigned.len(), 1);
    }

    #[test]
    fn other_types_are_not_supported() {
        let found = alone(&[("Hostname", "a.example"), ("example.com/vip", "x")]);
        assert_eq!(found.unsupported, ["Hostname \"a.example\"", "example.com/vip \"x\""]);
        assert!(!found.wants_any);
    }

    #[test]
    fn addresses_of_no_host_are_not_usable() {
        for (value, part) in [
            ("0.0.0.0", "stands for no address"),
            ("::", "stands for no address"),
            ("0.1.2.3", "reserved"),
            ("240.0.0.1", "reserved"),
            ("127.0.0.2", "loopback"),
            ("::1", "loopback"),
            ("224.1.2.3", "multicast"),
            ("ff02::1", "multicast"),
            ("255.255.255.255", "broadcast"),
            ("169.254.1.1", "link-local"),
            ("fe80::1", "link-local"),
            ("::ffff:10.0.0.1", "write 10.0.0.1"),
            ("10.0.0.9", "is the node's own address on eth0"),
            ("10.0.0.0/24", "is no IP address"),
        ] {
            let found = alone(&[("IPAddress", value)]);
            assert_eq!(found.unusable.len(), 1, "{value}");
            assert!(found.unusable[0].contains(part), "{:?}", found.unusable);
            assert!(found.assigned.is_empty());
        }
    }

    #[test]
    fn the_oldest_gateway_has_the_address() {
        let (a, b, c) = ("a".parse().unwrap(), "b".parse().unwrap(), "c".parse().unwrap());
        let wanted = [("IPAddress", "10.0.0.1")];
        let none = gateway(&wanted, None);
        let young = gateway(&wanted, Some("2026-01-02T00:00:00Z"));
        let old = gateway(&wanted, Some("2026-01-01T00:00:00Z"));
        let found = assign(&[(&a, &none), (&b, &young), (&c, &old)], &BTreeMap::new());
        assert_eq!(found[&c].assigned.len(), 1);
        for name in [&a, &b] {
            assert_eq!(
                found[name].unusable,
                ["10.0.0.1 already belongs to Gateway default/c: give this one another address"]
            );
        }
    }
}
