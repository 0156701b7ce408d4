//! Which Gateway gets which addresses.
//!
//! Who has an address keeps it as long as it may have it. Then come those that
//! name one, the oldest first, and then those that want any: one of each
//! family that a pool has for them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use blixt_model::ObjectName;

use super::Environment;
use super::pools::Pools;
use crate::apis::GatewaySpec;
use crate::index::Stored;
use crate::pools::not_for_a_host;

/// What becomes of the addresses of one Gateway.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    /// Those it has: those it names in the order of the spec, then those it
    /// was given.
    pub(super) assigned: Vec<IpAddr>,
    /// Those of a type that is not supported.
    pub(super) unsupported: Vec<String>,
    /// Those that it can't have, each with the reason.
    pub(super) unusable: Vec<String>,
    /// Why it was given none though it wants any.
    pub(super) none_given: Option<String>,
}

type Gateway<'a> = (&'a ObjectName, &'a Stored<GatewaySpec>);

/// What a Gateway asks for.
#[derive(Debug, Default)]
struct Request {
    named: Vec<Named>,
    unsupported: Vec<String>,
    /// Whether it wants an address that it did not name.
    wants_any: bool,
}

/// An address as written, and as read unless it can't be used.
#[derive(Debug)]
struct Named {
    text: String,
    address: Result<IpAddr, String>,
}

/// Gives out addresses to the Gateways, which come in any order.
pub(super) fn assign<'a>(
    gateways: &[Gateway<'a>],
    pools: &Pools<'_>,
    environment: &Environment<'_>,
) -> BTreeMap<&'a ObjectName, Addresses> {
    let mut by_age = gateways.to_vec();
    by_age.sort_by(|(name, gateway), (other_name, other)| gateway.before(name, other, other_name));
    let read = |&gateway: &Gateway<'a>| (gateway, request(gateway, pools, environment));
    let requests: Vec<_> = by_age.iter().map(read).collect();

    let mut owners = BTreeMap::new();
    for (gateway, request) in &requests {
        keep(*gateway, request, pools, environment, &mut owners);
    }
    for ((name, _), request) in &requests {
        for address in request.named.iter().filter_map(|named| named.address.as_ref().ok()) {
            owners.entry(*address).or_insert(*name);
        }
    }
    let given = requests.iter().map(|((name, gateway), request)| {
        (*name, give((*name, gateway), request, pools, environment, &mut owners))
    });
    given.collect()
}

fn request(
    (name, gateway): Gateway<'_>,
    pools: &Pools<'_>,
    environment: &Environment<'_>,
) -> Request {
    let addresses = gateway.spec.addresses.as_deref().unwrap_or_default();
    let mut request = Request { wants_any: addresses.is_empty(), ..Request::default() };
    for address in addresses {
        let kind = address.r#type.as_deref().unwrap_or("IPAddress");
        let text = address.value.as_deref().unwrap_or_default();
        if kind != "IPAddress" {
            request.unsupported.push(format!("{kind} {text:?}"));
        } else if text.is_empty() {
            request.wants_any = true;
        } else {
            let usable = usable(text, (name, gateway), pools, environment);
            request.named.push(Named { text: text.to_owned(), address: usable });
        }
    }
    request
}

/// Reads an address that a Gateway names, or says why nobody can have it, or
/// not this Gateway.
fn usable(
    text: &str,
    (name, gateway): Gateway<'_>,
    pools: &Pools<'_>,
    environment: &Environment<'_>,
) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| "is no IP address".to_owned())?;
    if let Some(why) = not_for_a_host(address) {
        return Err(why);
    }
    if let Some(why) = environment.unusable_addresses.get(&address) {
        return Err(why.clone());
    }
    if let Some(pool) = pools.for_nodes(address) {
        return Err(format!("is of AddressPool {pool}, whose addresses are for nodes"));
    }
    let has = environment.assigned.get(name).is_some_and(|has| has.contains(&address));
    if !pools.rule() || pools.allow(address, name, gateway, has) {
        return Ok(address);
    }
    let names = pools.names(name, gateway).into_iter().map(|(name, _)| name);
    let names: Vec<_> = names.collect();
    Err(if names.is_empty() {
        "is for other Gateways, if for any: no AddressPool is for this one".to_owned()
    } else {
        format!("is in no AddressPool for this Gateway: take one of {}", names.join(", "))
    })
}

/// Leaves a Gateway what it has had until now, unless it does not ask for it
/// any more, or may not have it any more.
fn keep<'a>(
    (name, gateway): Gateway<'a>,
    request: &Request,
    pools: &Pools<'_>,
    environment: &Environment<'_>,
    owners: &mut BTreeMap<IpAddr, &'a ObjectName>,
) {
    let mut families = [false; 2];
    for address in environment.assigned.get(name).into_iter().flatten() {
        let is_named = request.named.iter().any(|named| named.address.as_ref() == Ok(address));
        let has_one = families.get_mut(usize::from(address.is_ipv6()));
        let is_given = !is_named
            && request.wants_any
            && !environment.unusable_addresses.contains_key(address)
            && pools.for_nodes(*address).is_none()
            && pools.leave(*address, name, gateway)
            && has_one.is_some_and(|has_one| !std::mem::replace(has_one, true));
        if is_named || is_given {
            owners.entry(*address).or_insert(name);
        }
    }
}

/// What a Gateway has in the end.
fn give<'a>(
    (name, gateway): Gateway<'a>,
    request: &Request,
    pools: &Pools<'_>,
    environment: &Environment<'_>,
    owners: &mut BTreeMap<IpAddr, &'a ObjectName>,
) -> Addresses {
    let mut addresses =
        Addresses { unsupported: request.unsupported.clone(), ..Addresses::default() };
    for Named { text, address } in &request.named {
        let taken = address.clone().and_then(|address| match owners.get(&address) {
            Some(owner) if *owner != name => {
                Err(format!("already belongs to Gateway {owner}: give this one another address"))
            }
            _ => Ok(address),
        });
        match taken {
            Ok(address) if addresses.assigned.contains(&address) => {}
            Ok(address) => addresses.assigned.push(address),
            Err(why) => addresses.unusable.push(format!("{text} {why}")),
        }
    }
    if request.wants_any {
        let named = addresses.assigned.clone();
        for is_v6 in [false, true] {
            let kept = owners.iter().find(|(address, owner)| {
                **owner == name && address.is_ipv6() == is_v6 && !named.contains(address)
            });
            let is_free = |address: IpAddr| {
                !owners.contains_key(&address)
                    && !environment.unusable_addresses.contains_key(&address)
                    && pools.for_nodes(address).is_none()
                    && not_for_a_host(address).is_none()
            };
            let found = kept.map(|(address, _)| *address);
            let found = found.or_else(|| pools.find(is_v6, name, gateway, is_free));
            if let Some(address) = found {
                owners.insert(address, name);
                addresses.assigned.push(address);
            }
        }
        if addresses.assigned.len() == named.len() {
            addresses.none_given = Some(why_none((name, gateway), pools));
        }
    }
    addresses
}

/// Why a Gateway was given no address, and what to do.
fn why_none((name, gateway): Gateway<'_>, pools: &Pools<'_>) -> String {
    let pools_for_it = pools.names(name, gateway);
    let unasked: Vec<_> =
        pools_for_it.iter().filter(|(_, auto)| *auto).map(|(name, _)| name.as_str()).collect();
    if !unasked.is_empty() {
        return format!(
            "AddressPool {} has no free address: add some to it, or remove a Gateway",
            unasked.join(", ")
        );
    }
    if !pools_for_it.is_empty() {
        let names: Vec<_> = pools_for_it.iter().map(|(name, _)| name.as_str()).collect();
        return format!(
            "AddressPool {} gives addresses only to Gateways that name them (autoAssign is false): \
             set the address in spec.addresses",
            names.join(", ")
        );
    }
    if pools.rule() {
        return "No AddressPool is for this Gateway: see their selectors, or create one".to_owned();
    }
    "There is no AddressPool to take an address from: create one with use VIP, or set the address in \
     spec.addresses"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::apis::{AddressPool, Gateway as GatewayObject};
    use crate::compile::{CrdVersion, Programming, pools};
    use crate::index::{Event, Index};
    use blixt_model::{Generation, HashSeed};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    type Assigned = BTreeMap<ObjectName, Vec<IpAddr>>;

    /// What Gateways get, with these pools and what they had before.
    fn assign_all(gateways: &[Value], pools: &[Value], assigned: &Assigned) -> Vec<Addresses> {
        let mut index = Index::default();
        for gateway in gateways {
            let gateway: GatewayObject = serde_json::from_value(gateway.clone()).unwrap();
            index.apply(Event::Upsert(gateway.into()));
        }
        for pool in pools {
            let pool: AddressPool = serde_json::from_value(pool.clone()).unwrap();
            index.apply(Event::Upsert(pool.into()));
        }
        let unusable =
            [("10.0.0.9".parse().unwrap(), "is the node's own address on eth0".to_owned())].into();
        let environment = Environment {
            controller_name: "example.com/us",
            seed: HashSeed(1),
            generation: Generation(1),
            crds: CrdVersion::Supported,
            unusable_addresses: &unusable,
            assigned,
            nodes: &BTreeMap::new(),
            programmed: &|_| Programming::Applied,
        };
        let all: Vec<_> = index.gateways().iter().collect();
        assign(&all, &pools::judge(&index), &environment).into_values().collect()
    }

    fn gateway(name: &str, addresses: Value, created: Option<&str>) -> Value {
        json!({
            "metadata": {"name": name, "creationTimestamp": created},
            "spec": {"gatewayClassName": "x", "listeners": [], "addresses": addresses}
        })
    }

    fn pool(name: &str, addresses: &[&str]) -> Value {
        json!({"metadata": {"name": name}, "spec": {"addresses": addresses}})
    }

    fn alone(addresses: Value) -> Addresses {
        assign_all(&[gateway("a", addresses, None)], &[], &Assigned::new()).remove(0)
    }

    fn texts(addresses: &Addresses) -> Vec<String> {
        addresses.assigned.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_are_those_of_the_spec_in_one_spelling() {
        let found = alone(json!([
            {"type": "IPAddress", "value": "10.0.0.1"},
            {"value": "2001:DB8:0::1"},
            {"value": "2001:db8::1"},
        ]));
        assert_eq!(texts(&found), ["10.0.0.1", "2001:db8::1"]);
        assert!(found.unusable.is_empty() && found.none_given.is_none());
    }

    #[test]
    fn without_a_pool_none_is_given() {
        let why = alone(json!([])).none_given.unwrap();
        assert!(why.starts_with("There is no AddressPool"), "{why}");
        let found = alone(json!([{"value": ""}, {"value": "10.0.0.1"}]));
        assert!(found.none_given.is_some());
        assert_eq!(texts(&found), ["10.0.0.1"]);
    }

    #[test]
    fn other_types_are_not_supported() {
        let found = alone(json!([
            {"type": "Hostname", "value": "a.example"}, {"type": "example.com/vip", "value": "x"}
        ]));
        assert_eq!(found.unsupported, ["Hostname \"a.example\"", "example.com/vip \"x\""]);
        assert!(found.none_given.is_none());
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
            let found = alone(json!([{"value": value}]));
            assert_eq!(found.unusable.len(), 1, "{value}");
            assert!(found.unusable[0].contains(part), "{:?}", found.unusable);
            assert!(found.assigned.is_empty());
        }
    }

    #[test]
    fn the_oldest_gateway_has_the_address() {
        let wanted = json!([{"value": "10.0.0.1"}]);
        let all = [
            gateway("a", wanted.clone(), None),
            gateway("b", wanted.clone(), Some("2026-01-02T00:00:00Z")),
            gateway("c", wanted, Some("2026-01-01T00:00:00Z")),
        ];
        let found = assign_all(&all, &[], &Assigned::new());
        assert_eq!(found[2].assigned.len(), 1);
        for found in &found[..2] {
            assert_eq!(
                found.unusable,
                ["10.0.0.1 already belongs to Gateway default/c: give this one another address"]
            );
        }
        // But whoever has it keeps it.
        let has = [("default/a".parse().unwrap(), vec!["10.0.0.1".parse().unwrap()])].into();
        let found = assign_all(&all, &[], &has);
        assert_eq!(found[0].assigned.len(), 1);
        assert!(found[2].unusable[0].contains("already belongs to Gateway default/a"));
    }

    /// A pool of 2^64 addresses, half of which are not counted one by one.
    #[test]
    fn large_pools_are_no_trouble() {
        let pools = [pool("a", &["2001:db8::/64", "10.0.0.0/8"])];
        let gateways: Vec<_> =
            (0..300).map(|n| gateway(&format!("g{n:03}"), json!([]), None)).collect();
        let found = assign_all(&gateways, &pools, &Assigned::new());
        assert_eq!(texts(&found[0]), ["10.0.0.0", "2001:db8::"]);
        // 10.0.0.9 is the node's.
        assert_eq!(texts(&found[9]), ["10.0.0.10", "2001:db8::9"]);
        assert_eq!(texts(&found[299]), ["10.0.1.44", "2001:db8::12b"]);
    }

    #[test]
    fn a_pool_that_makes_no_sense_lets_nobody_name_what_he_likes() {
        let mut odd = pool("odd", &["10.0.0.1-10.0.0.2", "10.0.0.9-10.0.0.1"]);
        let gateways =
            [gateway("a", json!([]), None), gateway("b", json!([{"value": "203.0.113.1"}]), None)];
        // What can be read of it is given out.
        let found = assign_all(&gateways, &[odd.clone()], &Assigned::new());
        assert_eq!(texts(&found[0]), ["10.0.0.1"]);
        assert!(found[1].unusable[0].contains("is in no AddressPool"), "{:?}", found[1]);
        // When it can't be told to whom, who has an address keeps it.
        odd["spec"]["gatewaySelector"] =
            json!({"matchExpressions": [{"key": "a", "operator": "Is"}]});
        let has = [("default/a".parse().unwrap(), vec!["10.0.0.2".parse().unwrap()])].into();
        let found = assign_all(&gateways, &[odd.clone()], &has);
        assert_eq!(texts(&found[0]), ["10.0.0.2"]);
        assert!(found[1].assigned.is_empty());
        assert!(assign_all(&gateways, &[odd], &Assigned::new())[0].none_given.is_some());
    }

    #[test]
    fn addresses_for_nodes_are_for_no_gateway() {
        let mut nodes = pool("nodes", &["10.0.0.1-10.0.0.4"]);
        nodes["spec"]["use"] = json!("SNAT");
        let pools = [pool("vips", &["10.0.0.0/29"]), nodes];
        let gateways = [
            gateway("a", json!([]), None),
            gateway("b", json!([]), None),
            gateway("c", json!([{"value": "10.0.0.3"}]), None),
        ];
        let has = [("default/a".parse().unwrap(), vec!["10.0.0.2".parse().unwrap()])].into();
        let found = assign_all(&gateways, &pools, &has);
        assert_eq!(
            (texts(&found[0]), texts(&found[1])),
            (vec!["10.0.0.0".into()], vec!["10.0.0.5".into()])
        );
        assert_eq!(
            found[2].unusable,
            ["10.0.0.3 is of AddressPool nodes, whose addresses are for nodes"]
        );
    }

    /// Gateways of a small world, some of which have had addresses.
    fn world() -> impl Strategy<Value = (Vec<Value>, Vec<Value>, Assigned)> {
        let address = (1_u8..7).prop_map(|n| json!({"value": format!("10.0.0.{n}")}));
        let unnamed = Just(json!({"type": "IPAddress"}));
        let addresses = proptest::collection::vec(prop_oneof![address, unnamed], 0..3);
        let gateways = proptest::collection::vec((addresses, 0_u8..3), 0..6);
        let ranges = proptest::collection::vec((1_u8..7, 0_u8..3), 1..3);
        let pools = proptest::collection::vec((ranges, any::<bool>()), 0..3);
        let had = proptest::collection::vec((0_usize..6, 1_u8..8), 0..6);
        (gateways, pools, had).prop_map(|(gateways, pools, had)| {
            let gateways = gateways.into_iter().enumerate().map(|(n, (addresses, day))| {
                let created = format!("2026-01-0{}T00:00:00Z", day + 1);
                gateway(&format!("g{n}"), json!(addresses), Some(&created))
            });
            let pools = pools.into_iter().enumerate().map(|(n, (ranges, auto))| {
                let ranges = ranges.into_iter();
                let ranges = ranges.map(|(n, more)| format!("10.0.0.{n}-10.0.0.{}", n + more));
                json!({
                    "metadata": {"name": format!("p{n}")},
                    "spec": {"addresses": ranges.collect::<Vec<_>>(), "autoAssign": auto}
                })
            });
            let mut assigned = Assigned::new();
            for (n, last) in had {
                let name = format!("default/g{n}").parse().unwrap();
                assigned.entry(name).or_default().push(IpAddr::from([10, 0, 0, last]));
            }
            (gateways.collect(), pools.collect(), assigned)
        })
    }

    proptest! {
        #[test]
        fn nothing_is_given_twice_and_what_is_given_stays((gateways, pools, had) in world()) {
            let found = assign_all(&gateways, &pools, &had);
            let all: Vec<_> = found.iter().flat_map(|found| &found.assigned).collect();
            prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "given twice");
            let names = (0..found.len()).map(|n| format!("default/g{n}").parse().unwrap());
            let now = names.zip(found.iter().map(|found| found.assigned.clone())).collect();
            prop_assert_eq!(&assign_all(&gateways, &pools, &now), &found, "it stays so");
            // One Gateway more, older than all, with a wish for anything: the
            // others notice nothing.
            let mut more = gateways.clone();
            more.push(gateway("z", json!([]), Some("2025-01-01T00:00:00Z")));
            let with_more = assign_all(&more, &pools, &now);
            prop_assert_eq!(&with_more[..found.len()], &found[..]);
            // Whoever was given none could not have been given one.
            if let Some(last) = with_more.last().filter(|last| last.none_given.is_some()) {
                prop_assert!(last.assigned.is_empty());
                let taken: BTreeSet<_> = with_more.iter().flat_map(|found| &found.assigned).collect();
                let auto = pools.iter().filter(|pool| pool["spec"]["autoAssign"] == true);
                let ranges = auto.flat_map(|pool| pool["spec"]["addresses"].as_array().unwrap());
                for range in ranges {
                    let range = crate::pools::AddressRange::new(range.as_str().unwrap()).unwrap();
                    prop_assert!(range.addresses().all(|address| taken.contains(&address)));
                }
            }
        }
    }
}
