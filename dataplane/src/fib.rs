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
use crate::routes::{Path, Route, RouteAction, Routes};
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

/// The way into the node's own kernel: a link whose other end the kernel has,
/// with routes that lead back into it. What no attached interface leads to
/// goes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPath {
    /// The attached interface that is our end.
    pub egress: InterfaceSlot,
    /// The largest IP packet that it takes, in bytes.
    pub mtu: u32,
    /// The station at the other end, and the one that we are at ours.
    pub stations: [Mac; 2],
    /// How many flows each worker may have the kernel track.
    pub flows_per_worker: usize,
}

/// Which ways a packet may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ways {
    /// Out of an attached interface only: what comes from a SNAT address could
    /// not be answered otherwise.
    Out,
    /// Through the node's kernel where no attached interface leads there: to
    /// clients that are on the node, or behind a tunnel of it.
    OutOrHost,
    /// Through the node's kernel in any case: only it can make the source one
    /// that others can answer.
    Host,
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
    /// It goes into the node's kernel, whose routes lead it on. There is no
    /// other station: `neighbour` is the destination.
    pub by_host: bool,
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
    /// The way into the node's kernel, if there is one.
    host: Option<(HopId, HostPath)>,
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

    /// The same, with a way into the node's kernel.
    #[must_use]
    pub fn with_host_path(mut self, path: HostPath) -> Self {
        let [to, from] = path.stations;
        let hop = NextHop::new(path.egress, path.mtu as usize, to, from, Tags::new());
        // There are fewer than 2^32 neighbours.
        self.host = Some((HopId(self.hops.len() as u32), path));
        self.hops.push(hop);
        self
    }

    /// The way into the node's kernel, if there is one.
    pub fn host_path(&self) -> Option<&HostPath> {
        self.host.as_ref().map(|(_, path)| path)
    }

    /// Its hop; [`HopId::NONE`] if there is none.
    #[inline(always)]
    pub(crate) fn host_hop(&self) -> HopId {
        self.host.as_ref().map_or(HopId::NONE, |(hop, _)| *hop)
    }

    /// Whether some way to `destination` leads out of no attached interface, so
    /// that only the node's kernel gets a packet there; if that is not told to
    /// refuse it.
    pub fn needs_host(&self, destination: u128) -> bool {
        let leads_out =
            |path: &Path| self.links.get(&path.ifindex).is_some_and(|link| link.attached.is_some());
        match self.routes.towards(destination) {
            Some(RouteAction::Forward(paths)) => paths.is_empty() || !paths.iter().all(leads_out),
            Some(RouteAction::Refuse) => false,
            Some(RouteAction::Local) | None => true,
        }
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

    /// How to reach `destination` by one of these `ways`. `spread` chooses among
    /// equal paths.
    pub(crate) fn resolve(&self, destination: u128, spread: u32, ways: Ways) -> Resolution {
        let host = self.host.map(|(hop, _)| Resolution::Hop(hop));
        let out = match ways {
            Ways::Host => return host.unwrap_or(Resolution::Drop(DropReason::NotAttached)),
            Ways::Out | Ways::OutOrHost => self.resolve_out(destination, spread),
        };
        match (ways, out, host) {
            // Where the main table leads nowhere, the kernel may have others.
            // What it is told to refuse is refused here, by name.
            (Ways::OutOrHost, Resolution::Drop(_), Some(host)) if !self.refuses(destination) => {
                host
            }
            _ => out,
        }
    }

    fn refuses(&self, destination: u128) -> bool {
        self.routes.towards(destination) == Some(&RouteAction::Refuse)
    }

    fn resolve_out(&self, destination: u128, spread: u32) -> Resolution {
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
    pub(crate) fn told(
        &self,
        destination: u128,
        spread: u32,
        ways: Ways,
    ) -> Result<Hop, DropReason> {
        match self.resolve(destination, spread, ways) {
            Resolution::Drop(reason) => Err(reason),
            Resolution::Hop(id) => {
                let by_host = id == self.host_hop();
                let neighbour = match by_host {
                    true => Neighbour { ifindex: 0, address: destination },
                    false => self.neighbour(destination, spread)?,
                };
                let hop = self.hop(id).ok_or(DropReason::Unroutable)?;
                let mac = Some(wire::array_at(&hop.macs, 0));
                Ok(Hop { egress: hop.egress, neighbour, mac, mtu: hop.mtu, by_host })
            }
            Resolution::Unresolved { neighbour, mtu } => {
                let link = self.links.get(&neighbour.ifindex);
                let egress = link.and_then(|link| link.attached).ok_or(DropReason::NotAttached)?;
                Ok(Hop { egress, neighbour, mac: None, mtu, by_host: false })
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
        let egress = |to: &str| match fib.resolve(ip(to), 0, Ways::Out) {
            Resolution::Hop(id) => fib.hop(id).unwrap().egress.0,
            other => panic!("{other:?}"),
        };
        assert_eq!(egress("8.8.8.8"), 0);
        assert_eq!(egress("10.9.0.1"), 1);
        let waits = Resolution::Unresolved { neighbour: near(3, "10.9.0.2"), mtu: 1_500 };
        assert_eq!(fib.resolve(ip("10.9.0.2"), 0, Ways::Out), waits);
        // IPv4's default route is none for IPv6.
        assert_eq!(
            fib.resolve(ip("2001:db8::1"), 0, Ways::Out),
            Resolution::Drop(DropReason::Unroutable)
        );
    }

    #[test]
    fn a_hop_knows_its_frame() {
        let fib = fib(vec![route("10.0.0.0", 24, 0, 1, None)]);
        let Resolution::Hop(id) = fib.resolve(ip("10.0.0.1"), 0, Ways::Out) else {
            panic!("no hop")
        };
        let hop = fib.hop(id).unwrap();
        assert_eq!(hop.macs, [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9]);
        assert_eq!(hop.mtu, 1_500);
    }

    #[test]
    fn links_that_are_not_attached_are_named() {
        let fib = fib(vec![route("10.2.0.0", 24, 0, 2, None), route("10.3.0.0", 24, 0, 77, None)]);
        for to in ["10.2.0.1", "10.3.0.1"] {
            assert_eq!(
                fib.resolve(ip(to), 0, Ways::Out),
                Resolution::Drop(DropReason::NotAttached)
            );
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
        let drop = |to: &str| fib.resolve(ip(to), 5, Ways::Out);
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
        let hops: Vec<_> =
            (0..4).map(|spread| fib.resolve(ip("2001:db8::1"), spread, Ways::Out)).collect();
        assert_eq!(hops[0], hops[2]);
        assert_eq!(hops[1], hops[3]);
        assert_ne!(hops[0], hops[1]);
    }

    #[test]
    fn what_no_interface_leads_to_goes_through_the_kernel() {
        let special = |prefix: &str, action| Route::new(prefix.parse().unwrap(), 32, 0, action);
        let both = RouteAction::Forward(
            [1, 2].map(|ifindex| Path { ifindex, via: Some(ip("10.0.0.1")) }).into(),
        );
        let routes = vec![
            route("10.0.0.0", 24, 0, 1, None),
            route("10.2.0.0", 24, 0, 2, None),
            special("10.0.0.9", RouteAction::Local),
            special("10.0.0.8", RouteAction::Refuse),
            special("10.5.0.1", both),
        ];
        let without = fib(routes.clone());
        let host = HostPath {
            egress: InterfaceSlot(7),
            mtu: 1_400,
            stations: [[2; 6], [4; 6]],
            flows_per_worker: 1,
        };
        let with = fib(routes).with_host_path(host);
        let egress = |to: &str, ways| match with.resolve(ip(to), 0, ways) {
            Resolution::Hop(id) => Ok(with.hop(id).unwrap().egress.0),
            Resolution::Unresolved { neighbour, .. } => Ok(neighbour.ifindex as u16 - 1),
            Resolution::Drop(reason) => Err(reason),
        };
        for (to, out, or_host, needs) in [
            ("10.0.0.1", Ok(0), Ok(0), false),
            ("10.0.0.5", Ok(0), Ok(0), false),
            ("10.2.0.1", Err(DropReason::NotAttached), Ok(7), true),
            ("10.0.0.9", Err(DropReason::LocalEndpoint), Ok(7), true),
            ("10.0.0.8", Err(DropReason::Unroutable), Err(DropReason::Unroutable), false),
            // The kernel may have more tables than we look at.
            ("192.0.2.1", Err(DropReason::Unroutable), Ok(7), true),
            // Flows that some day take another path need what works on both.
            ("10.5.0.1", Ok(0), Ok(0), true),
        ] {
            assert_eq!(egress(to, Ways::Out), out, "{to}");
            assert_eq!(egress(to, Ways::OutOrHost), or_host, "{to}");
            assert_eq!(egress(to, Ways::Host), Ok(7), "{to}");
            assert_eq!(with.needs_host(ip(to)), needs, "{to}");
            assert_eq!(
                without.resolve(ip(to), 0, Ways::OutOrHost),
                without.resolve(ip(to), 0, Ways::Out)
            );
            assert!(matches!(without.resolve(ip(to), 0, Ways::Host), Resolution::Drop(_)), "{to}");
        }
        let told = with.told(ip("10.2.0.1"), 0, Ways::OutOrHost).unwrap();
        assert!(told.by_host && told.mac == Some([2; 6]) && told.mtu == 1_400, "{told:?}");
    }
}
