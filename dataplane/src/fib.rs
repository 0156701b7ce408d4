//! Where a packet leaves: routes and neighbours, as the kernel has them.
//!
//! The agent mirrors the kernel's tables and builds a [`Fib`] out of them;
//! workers only look up. It never asks anybody: what is not known comes back
//! as a [`Neighbour`] to be resolved by others.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;

use crate::drops::DropReason;
use crate::packet::{InterfaceSlot, Neighbour};
use crate::routes::{Route, RouteAction, Routes};
use crate::rss::Rss;
use crate::wire;

/// A MAC address.
pub type Mac = [u8; 6];

/// The VLAN tags of a link, outer first: TPID and TCI, as on the wire.
pub type Tags = ArrayVec<[u16; 2], 2>;

/// An interface the agent is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number for it.
    pub ifindex: u32,
    /// Its MAC address: frames to others are not ours.
    pub mac: Mac,
    /// Whether its driver hands over packets whose checksum a local sender
    /// left to the hardware (veth does).
    pub partial_checksums: bool,
}

/// A network device through which packets could leave: an attached interface,
/// a VLAN on top of one, or any other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub ifindex: u32,
    /// The attached interface its frames leave through, if there is one.
    pub attached: Option<InterfaceSlot>,
    /// Its MAC address.
    pub mac: Mac,
    /// The largest IP packet it takes, in bytes.
    pub mtu: u32,
    /// The tags its frames carry.
    pub tags: Tags,
}

/// Names a [`NextHop`] of one [`Fib`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HopId(pub(crate) u32);

impl HopId {
    /// No hop is known; look it up.
    pub(crate) const NONE: Self = Self(u32::MAX);
}

impl Default for HopId {
    fn default() -> Self {
        Self::NONE
    }
}

/// How to reach a neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NextHop {
    pub(crate) egress: InterfaceSlot,
    pub(crate) mtu: usize,
    /// Destination and source MAC, as the frame begins.
    pub(crate) macs: [u8; 12],
    pub(crate) tags: Tags,
}

impl NextHop {
    /// To the station `to`, from our `from`.
    pub(crate) fn new(egress: InterfaceSlot, mtu: usize, to: Mac, from: Mac, tags: Tags) -> Self {
        let mut macs = [0; 12];
        wire::put(&mut macs, 0, &to);
        wire::put(&mut macs, 6, &from);
        Self { egress, mtu, macs, tags }
    }
}

/// What a look-up gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolution {
    Hop(HopId),
    /// The neighbour's MAC address is not known; its link takes packets of
    /// `mtu` bytes.
    Unresolved {
        neighbour: Neighbour,
        mtu: usize,
    },
    Drop(DropReason),
}

/// Where a packet leaves, as tools tell of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The attached interface it leaves through.
    pub egress: InterfaceSlot,
    /// The next station.
    pub neighbour: Neighbour,
    /// Its MAC address; `None` while it is unknown, so that packets wait.
    pub mac: Option<Mac>,
    /// The largest IP packet that the link takes, in bytes.
    pub mtu: usize,
}

/// The next [`Fib`]'s stamp.
static STAMPS: AtomicU64 = AtomicU64::new(1);

/// The kernel's routes and neighbours at one moment.
#[derive(Debug, Default)]
pub struct Fib {
    /// Tells it from every other; 0 for one that was made empty.
    stamp: u64,
    interfaces: Vec<Interface>,
    links: HashMap<u32, Link>,
    routes: Arc<Routes>,
    hops: Vec<NextHop>,
    neighbours: HashMap<Neighbour, HopId>,
    /// How interfaces spread what they receive, by slot.
    rss: Vec<(InterfaceSlot, Arc<Rss>)>,
}

impl Fib {
    /// Builds it out of what the kernel says. Neighbours on links that lead
    /// out of no attached interface are left out.
    pub fn new(
        interfaces: Vec<Interface>,
        links: impl IntoIterator<Item = Link>,
        routes: impl IntoIterator<Item = Route>,
        neighbours: impl IntoIterator<Item = (Neighbour, Mac)>,
    ) -> Self {
        Self::with_routes(interfaces, links, Arc::new(Routes::new(routes)), neighbours)
    }

    /// The same, with routes that may be those of another one: they are many,
    /// and change less often than neighbours do.
    pub fn with_routes(
        interfaces: Vec<Interface>,
        links: impl IntoIterator<Item = Link>,
        routes: Arc<Routes>,
        neighbours: impl IntoIterator<Item = (Neighbour, Mac)>,
    ) -> Self {
        let mut fib = Self {
            stamp: STAMPS.fetch_add(1, Ordering::Relaxed),
            interfaces,
            links: links.into_iter().map(|link| (link.ifindex, link)).collect(),
            routes,
            ..Self::default()
        };
        for (neighbour, mac) in neighbours {
            fib.add_neighbour(neighbour, mac);
        }
        fib
    }

    /// The same, knowing how an attached interface spreads what it receives
    /// over its queues.
    #[must_use]
    pub fn with_rss(mut self, slot: InterfaceSlot, rss: Arc<Rss>) -> Self {
        self.rss.push((slot, rss));
        self
    }

    /// How the interface through which `destination` is reached spreads what
    /// it receives, if that is known.
    pub(crate) fn rss_towards(&self, destination: u128) -> Option<&Rss> {
        if self.rss.is_empty() {
            return None;
        }
        let RouteAction::Forward(paths) = self.routes.towards(destination)? else { return None };
        let slot = self.links.get(&paths.first()?.ifindex)?.attached?;
        self.rss.iter().find(|(known, _)| *known == slot).map(|(_, rss)| &**rss)
    }

    /// The attached interfaces, by slot.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// The attached interface of a slot.
    #[inline(always)]
    pub fn interface(&self, slot: InterfaceSlot) -> Option<&Interface> {
        self.interfaces.get(usize::from(slot.0))
    }

    /// The links whose frames leave through an attached interface.
    pub(crate) fn attached_links(&self) -> impl Iterator<Item = (InterfaceSlot, &Link)> {
        self.links.values().filter_map(|link| link.attached.map(|slot| (slot, link)))
    }

    #[inline(always)]
    pub(crate) fn hop(&self, id: HopId) -> Option<&NextHop> {
        self.hops.get(id.0 as usize)
    }

    /// Tells this value from every other one that knows any route.
    #[inline(always)]
    pub(crate) fn stamp(&self) -> u64 {
        self.stamp
    }

    /// Its routes.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// A neighbour's MAC address, if it is known.
    pub fn mac(&self, neighbour: Neighbour) -> Option<Mac> {
        let hop = self.hop(*self.neighbours.get(&neighbour)?)?;
        Some(wire::array_at(&hop.macs, 0))
    }

    /// Whether [`Fib::resolve`] minds what it is told to spread by.
    #[inline(always)]
    pub(crate) fn spreads(&self) -> bool {
        self.routes.spreads()
    }

    /// How to reach `destination`. `spread` chooses among equal paths.
    pub(crate) fn resolve(&self, destination: u128, spread: u32) -> Resolution {
        let neighbour = match self.neighbour(destination, spread) {
            Ok(neighbour) => neighbour,
            Err(reason) => return Resolution::Drop(reason),
        };
        if let Some(&hop) = self.neighbours.get(&neighbour) {
            return Resolution::Hop(hop);
        }
        match self.links.get(&neighbour.ifindex) {
            Some(Link { attached: Some(_), mtu, .. }) => {
                Resolution::Unresolved { neighbour, mtu: *mtu as usize }
            }
            _ => Resolution::Drop(DropReason::NotAttached),
        }
    }

    /// What [`Fib::resolve`] says, for people.
    pub(crate) fn told(&self, destination: u128, spread: u32) -> Result<Hop, DropReason> {
        let neighbour = self.neighbour(destination, spread)?;
        match self.resolve(destination, spread) {
            Resolution::Drop(reason) => Err(reason),
            Resolution::Hop(id) => {
                let hop = self.hop(id).ok_or(DropReason::Unroutable)?;
                let mac = Some(wire::array_at(&hop.macs, 0));
                Ok(Hop { egress: hop.egress, neighbour, mac, mtu: hop.mtu })
            }
            Resolution::Unresolved { neighbour, mtu } => {
                let link = self.links.get(&neighbour.ifindex);
                let egress = link.and_then(|link| link.attached).ok_or(DropReason::NotAttached)?;
                Ok(Hop { egress, neighbour, mac: None, mtu })
            }
        }
    }

    /// Who is next on the way to `destination`.
    #[inline(always)]
    fn neighbour(&self, destination: u128, spread: u32) -> Result<Neighbour, DropReason> {
        let Some(action) = self.routes.towards(destination) else {
            return Err(DropReason::Unroutable);
        };
        let path = match action {
            RouteAction::Local => return Err(DropReason::LocalEndpoint),
            RouteAction::Refuse => return Err(DropReason::Unroutable),
            RouteAction::Forward(paths) => match paths.as_slice() {
                [] => return Err(DropReason::Unroutable),
                [only] => only,
                several @ [first, ..] => {
                    let chosen = spread as usize % several.len();
                    several.get(chosen).unwrap_or(first)
                }
            },
        };
        Ok(Neighbour { ifindex: path.ifindex, address: path.via.unwrap_or(destination) })
    }

    fn add_neighbour(&mut self, neighbour: Neighbour, mac: Mac) {
        let Some(link) = self.links.get(&neighbour.ifindex) else { return };
        let (Some(egress), Ok(id)) = (link.attached, u32::try_from(self.hops.len())) else {
            return;
        };
        self.hops.push(NextHop::new(egress, link.mtu as usize, mac, link.mac, link.tags.clone()));
        self.neighbours.insert(neighbour, HopId(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address;
    use crate::routes::Path;
    use std::net::IpAddr;

    const NEAR: Mac = [2, 0, 0, 0, 0, 1];
    const OURS: Mac = [2, 0, 0, 0, 0, 9];

    fn ip(text: &str) -> u128 {
        address::from_ip(text.parse::<IpAddr>().unwrap())
    }

    fn link(ifindex: u32, attached: Option<u16>) -> Link {
        Link {
            ifindex,
            attached: attached.map(InterfaceSlot),
            mac: OURS,
            mtu: 1_500,
            tags: Tags::new(),
        }
    }

    fn route(prefix: &str, bits: u8, metric: u32, ifindex: u32, via: Option<&str>) -> Route {
        let path = Path { ifindex, via: via.map(ip) };
        Route::new(prefix.parse().unwrap(), bits, metric, RouteAction::Forward(vec![path]))
    }

    fn near(ifindex: u32, address: &str) -> Neighbour {
        Neighbour { ifindex, address: ip(address) }
    }

    fn fib(routes: Vec<Route>) -> Fib {
        Fib::new(
            vec![],
            [link(1, Some(0)), link(2, None), link(3, Some(1))],
            routes,
            [(near(1, "10.0.0.1"), NEAR), (near(3, "10.9.0.1"), NEAR), (near(2, "10.2.0.1"), NEAR)],
        )
    }

    #[test]
    fn the_longest_prefix_wins_and_then_the_lowest_metric() {
        let fib = fib(vec![
            route("0.0.0.0", 0, 0, 1, Some("10.0.0.1")),
            route("10.9.0.0", 16, 100, 1, None),
            route("10.9.0.0", 16, 50, 3, None),
            route("10.9.0.0", 16, 70, 1, None),
        ]);
        let egress = |to: &str| match fib.resolve(ip(to), 0) {
            Resolution::Hop(id) => fib.hop(id).unwrap().egress.0,
            other => panic!("{other:?}"),
        };
        assert_eq!(egress("8.8.8.8"), 0);
        assert_eq!(egress("10.9.0.1"), 1);
        let waits = Resolution::Unresolved { neighbour: near(3, "10.9.0.2"), mtu: 1_500 };
        assert_eq!(fib.resolve(ip("10.9.0.2"), 0), waits);
        // IPv4's default route is none for IPv6.
        assert_eq!(fib.resolve(ip("2001:db8::1"), 0), Resolution::Drop(DropReason::Unroutable));
    }

    #[test]
    fn a_hop_knows_its_frame() {
        let fib = fib(vec![route("10.0.0.0", 24, 0, 1, None)]);
        let Resolution::Hop(id) = fib.resolve(ip("10.0.0.1"), 0) else { panic!("no hop") };
        let hop = fib.hop(id).unwrap();
        assert_eq!(hop.macs, [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9]);
        assert_eq!(hop.mtu, 1_500);
    }

    #[test]
    fn links_that_are_not_attached_are_named() {
        let fib = fib(vec![route("10.2.0.0", 24, 0, 2, None), route("10.3.0.0", 24, 0, 77, None)]);
        for to in ["10.2.0.1", "10.3.0.1"] {
            assert_eq!(fib.resolve(ip(to), 0), Resolution::Drop(DropReason::NotAttached));
        }
    }

    #[test]
    fn local_and_refusing_routes_drop() {
        let special = |prefix: &str, action| Route::new(prefix.parse().unwrap(), 32, 0, action);
        let fib = fib(vec![
            special("10.0.0.9", RouteAction::Local),
            special("10.0.0.8", RouteAction::Refuse),
            special("10.0.0.7", RouteAction::Forward(vec![])),
        ]);
        let drop = |to: &str| fib.resolve(ip(to), 5);
        assert_eq!(drop("10.0.0.9"), Resolution::Drop(DropReason::LocalEndpoint));
        assert_eq!(drop("10.0.0.8"), Resolution::Drop(DropReason::Unroutable));
        assert_eq!(drop("10.0.0.7"), Resolution::Drop(DropReason::Unroutable));
    }

    #[test]
    fn equal_paths_share() {
        let paths = vec![
            Path { ifindex: 1, via: Some(ip("10.0.0.1")) },
            Path { ifindex: 3, via: Some(ip("10.9.0.1")) },
        ];
        let route = Route::new("::".parse().unwrap(), 0, 0, RouteAction::Forward(paths));
        let fib = fib(vec![route]);
        let hops: Vec<_> = (0..4).map(|spread| fib.resolve(ip("2001:db8::1"), spread)).collect();
        assert_eq!(hops[0], hops[2]);
        assert_eq!(hops[1], hops[3]);
        assert_ne!(hops[0], hops[1]);
    }
}
