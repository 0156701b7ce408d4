//! Which interfaces the agent attaches to: those that it is told by name,
//! those whose names match, or that of the node's default route.
//!
//! That is found out once, at the start: interfaces have numbers from then on.

use regex_lite::Regex;
use tracing::info;

use blixt_dataplane::{Mac, Route, RouteAction};

use crate::kernel::{self, Device, MirrorError, View};
use crate::worker::MAX_INTERFACES;

/// How the agent's own devices begin, which are none to attach to.
const OUR_OWN: &str = "blixt-";

/// How interfaces are chosen.
#[derive(Debug, Clone)]
pub enum Choice {
    /// These.
    Named(Vec<String>),
    /// All whose whole names match.
    Matching(Regex),
    /// Those that the node reaches the rest of the world through.
    DefaultRoute,
}

/// Why there is nothing to attach to.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// The kernel does not tell.
    #[error(transparent)]
    Kernel(#[from] MirrorError),
    /// No name is like that.
    #[error(
        "no interface matches --interface-regex {pattern} as a whole: there are {there}; loopback and the agent's own do not count"
    )]
    NoMatch {
        /// The regular expression.
        pattern: String,
        /// The names that there are.
        there: String,
    },
    /// Too many are like that.
    #[error(
        "--interface-regex {pattern} matches {count} interfaces, and at most {most} are possible: make it match fewer",
        most = MAX_INTERFACES - 1
    )]
    TooMany {
        /// The regular expression.
        pattern: String,
        /// How many match.
        count: usize,
    },
    /// The node has no way out.
    #[error(
        "the node has no default route to tell the interface by: name the interfaces that clients and endpoints are reached through, such as --interface eth0"
    )]
    NoDefaultRoute,
}

impl Choice {
    /// The names of the interfaces that are chosen, looking at the node where
    /// they are not told.
    pub async fn interfaces(&self) -> Result<Vec<String>, ChoiceError> {
        if let Self::Named(names) = self {
            return Ok(names.clone());
        }
        let (view, routes) = kernel::look().await?;
        let names = self.among(&view, &routes)?;
        info!(interfaces = names.join(","), "chose the interfaces");
        Ok(names)
    }

    fn among(&self, view: &View, routes: &[Route]) -> Result<Vec<String>, ChoiceError> {
        match self {
            Self::Named(names) => Ok(names.clone()),
            Self::Matching(pattern) => matching(pattern, view),
            Self::DefaultRoute => by_default_route(view, routes),
        }
    }
}

fn matching(pattern: &Regex, view: &View) -> Result<Vec<String>, ChoiceError> {
    let usable: Vec<_> = view.devices.values().filter(|device| is_usable(device)).collect();
    let names = |devices: &[&Device]| -> Vec<String> {
        devices.iter().map(|device| device.name.clone()).collect()
    };
    let found: Vec<_> = usable.iter().copied().filter(|it| pattern.is_match(&it.name)).collect();
    let pattern = bare(pattern);
    match found.len() {
        0 => Err(ChoiceError::NoMatch { pattern, there: names(&usable).join(", ") }),
        // One place is for the host path.
        count if count >= MAX_INTERFACES => Err(ChoiceError::TooMany { pattern, count }),
        _ => Ok(names(&found)),
    }
}

/// Of each IP version the default route that the kernel prefers.
fn by_default_route(view: &View, routes: &[Route]) -> Result<Vec<String>, ChoiceError> {
    let mut names = Vec::new();
    for bits in [IPV4_DEFAULT_BITS, 0] {
        let defaults = routes.iter().filter(|route| route.prefix_bits == bits);
        let paths = defaults.filter_map(|route| match &route.action {
            RouteAction::Forward(paths) if !paths.is_empty() => Some((route.metric, paths)),
            _ => None,
        });
        let Some((_, paths)) = paths.min_by_key(|(metric, _)| *metric) else { continue };
        for path in paths {
            // A VLAN's frames come in on the device below.
            let device = view.devices.get(&path.ifindex);
            let below = device.and_then(|device| view.devices.get(&device.vlan?.below));
            let Some(device) = below.or(device).filter(|device| is_usable(device)) else {
                continue;
            };
            if !names.contains(&device.name) {
                names.push(device.name.clone());
            }
        }
    }
    if names.is_empty() { Err(ChoiceError::NoDefaultRoute) } else { Ok(names) }
}

/// All of IPv4 is 96 bits long among the 128 ([`Route::prefix_bits`]).
const IPV4_DEFAULT_BITS: u8 = 96;

/// Whether it could be attached to: loopback and some tunnels have no MAC
/// addresses, and so no Ethernet.
fn is_usable(device: &Device) -> bool {
    device.mac != Mac::default() && !device.name.starts_with(OUR_OWN)
}

/// Makes a pattern match whole names.
pub(crate) fn whole_name(text: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?:{text})$"))
        .map_err(|error| format!("it is no regular expression ({error}): write one such as eth.*"))
}

/// A pattern of [`whole_name`] as it was given.
pub(crate) fn bare(pattern: &Regex) -> String {
    let text = pattern.as_str();
    let inner = text.strip_prefix("^(?:").and_then(|text| text.strip_suffix(")$"));
    inner.unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Vlan;
    use blixt_dataplane::Path;

    fn device(ifindex: u32, name: &str) -> Device {
        Device {
            ifindex,
            name: name.to_owned(),
            mac: if name == "lo" { Mac::default() } else { [2, 0, 0, 0, 0, 1] },
            mtu: 1_500,
            running: true,
            carrier_ups: 1,
            vlan: None,
        }
    }

    fn node() -> View {
        let names = ["lo", "eth0", "eth1", "blixt-host", "wlan0"];
        let devices = (1..).zip(names).map(|(n, name)| (n, device(n, name)));
        let mut view = View { devices: devices.collect(), ..View::default() };
        let tagged = Some(Vlan { below: 3, tag: [0x8100, 7] });
        view.devices.insert(9, Device { vlan: tagged, ..device(9, "eth1.7") });
        view
    }

    fn default_route(bits: u8, metric: u32, ifindexes: &[u32]) -> Route {
        let paths = ifindexes.iter().map(|&ifindex| Path { ifindex, via: None }).collect();
        Route { prefix: 0, prefix_bits: bits, metric, action: RouteAction::Forward(paths) }
    }

    fn chosen(choice: &Choice, routes: &[Route]) -> Result<Vec<String>, String> {
        choice.among(&node(), routes).map_err(|error| error.to_string())
    }

    #[test]
    fn whole_names_match_and_never_our_own_nor_loopback() {
        let choose = |text: &str| chosen(&Choice::Matching(whole_name(text).unwrap()), &[]);
        assert_eq!(choose("eth[0-9]").unwrap(), ["eth0", "eth1"]);
        assert_eq!(choose("eth0|wlan.*").unwrap(), ["eth0", "wlan0"]);
        assert_eq!(choose(".*").unwrap(), ["eth0", "eth1", "wlan0", "eth1.7"]);
        let why = choose("th0").unwrap_err();
        assert!(why.contains("--interface-regex th0") && why.contains("eth0, eth1"), "{why}");
        assert!(whole_name("eth(").unwrap_err().contains("such as eth.*"));
    }

    #[test]
    fn the_preferred_default_route_of_each_version_tells() {
        let routes = [
            default_route(96, 100, &[5]),
            default_route(96, 50, &[2]),
            default_route(0, 1_024, &[3]),
            default_route(104, 0, &[5]),
        ];
        assert_eq!(chosen(&Choice::DefaultRoute, &routes).unwrap(), ["eth0", "eth1"]);
        assert_eq!(chosen(&Choice::DefaultRoute, &routes[..2]).unwrap(), ["eth0"]);
    }

    #[test]
    fn several_paths_are_several_interfaces_and_a_vlan_is_what_is_below() {
        let routes = [default_route(96, 0, &[2, 9])];
        assert_eq!(chosen(&Choice::DefaultRoute, &routes).unwrap(), ["eth0", "eth1"]);
    }

    #[test]
    fn a_node_without_a_way_out_is_told_to_name_one() {
        let nowhere = Route { prefix: 0, prefix_bits: 96, metric: 0, action: RouteAction::Refuse };
        for routes in [&[][..], &[nowhere], &[default_route(96, 0, &[1])]] {
            let why = chosen(&Choice::DefaultRoute, routes).unwrap_err();
            assert!(why.contains("--interface eth0"), "{why}");
        }
    }
}
