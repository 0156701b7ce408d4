//! The host path: a way for packets into the node's own kernel and out of it
//! again, for what no attached interface leads to.
//!
//! An AF_XDP socket can't put a packet into the kernel. So there is a pair of
//! veths, [`HOST_END`] and [`OUR_END`]. Ours is attached like any other
//! interface, with a queue for each worker: what a worker sends there, the
//! kernel receives and routes, to a pod behind a bridge, into a tunnel, to a
//! process of the node. It leaves from an address that this node alone knows,
//! and a table of ours in nf_tables gives it the node's own on its way out, so
//! that no network and no overlay needs to know anything. Replies find back by
//! themselves. Routes to all VIPs lead into the pair, so that the node's
//! processes and pods reach them too.
//!
//! A task brings all of that about, and looks now and then whether it still is
//! so. It is the one writer of it. Nothing is left when the agent stops. When it
//! is killed, its table goes, and its pair stays, in which packets then end:
//! see [`OUR_STATION`]. The next start makes it anew.

mod attributes;
mod nft;
mod node;
mod pair;
mod probe;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use blixt_dataplane::Mac;
use futures_util::TryStreamExt;
use netlink_packet_route::address::AddressAttribute;
use rtnetlink::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use self::pair::Found;
use self::table::Rules;
use crate::told::tell;

/// The kernel's end of the pair.
pub const HOST_END: &str = "blixt-host";

/// Our end of the pair.
pub const OUR_END: &str = "blixt-agent";

/// The kernel's station on the pair.
pub const HOST_STATION: Mac = [0x02, 0x62, 0x6c, 0x78, 0x74, 0x01];

/// Our station on the pair. Our end's device has another MAC address, so
/// whatever is not taken out of it before the kernel sees it (the agent is dead,
/// say) is for somebody else there, and ends (`PACKET_OTHERHOST`, `ip_rcv_core`
/// and `ip6_rcv_core`). Forwarding could be put off by netlink for IPv4 only.
pub const OUR_STATION: Mac = [0x02, 0x62, 0x6c, 0x78, 0x74, 0x02];

/// How often is looked whether everything is as it should be.
const LOOK: Duration = Duration::from_secs(2);

/// How long a probe may be on its way, and how often is looked whether it has come.
const PROBE: Duration = Duration::from_millis(100);
const PROBE_LOOK: Duration = Duration::from_millis(5);

/// How many probes in a row may get lost, or be late, for other reasons than a firewall.
const LOST: u8 = 1;

/// How long an agent that was killed may take to let go of its pair.
const LET_GO: Duration = Duration::from_secs(2);
const LET_GO_LOOK: Duration = Duration::from_millis(20);

/// How long it may take to remove everything.
const REMOVING: Duration = Duration::from_secs(5);

/// Why packets can't go this way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The family whose packets these are; `None` if all are.
    pub family: Option<Family>,
    /// A sentence with what to do.
    pub sentence: String,
}

impl Fault {
    fn of_all(sentence: String) -> Self {
        Self { family: None, sentence }
    }
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// An address's.
    pub fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What flows leave from, one address of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// IPv4's.
    pub v4: Ipv4Addr,
    /// IPv6's.
    pub v6: Ipv6Addr,
}

impl Addresses {
    /// That of a family.
    pub fn of(&self, v4: bool) -> IpAddr {
        if v4 { self.v4.into() } else { self.v6.into() }
    }

    /// Both.
    pub fn both(&self) -> BTreeSet<IpAddr> {
        [self.of(true), self.of(false)].into()
    }
}

/// The control thread's end of the task.
#[derive(Debug)]
pub struct HostPath {
    addresses: Addresses,
    flows_per_worker: usize,
    vips: watch::Sender<BTreeSet<IpAddr>>,
    faults: watch::Receiver<Vec<Fault>>,
    stop: mpsc::Sender<oneshot::Sender<()>>,
}

impl HostPath {
    /// Makes it, as far as it goes; what does not is told by
    /// [`HostPath::faults`], and tried again.
    pub async fn start(workers: u16, mtu: u32) -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let addresses = node::addresses(&own_addresses(&handle).await?);
        let mut task = Task {
            handle,
            addresses,
            queues: workers.into(),
            mtu,
            rules: None,
            known: Found::default(),
            led: BTreeSet::new(),
            faults: Vec::new(),
            probes: BTreeMap::new(),
            foreign: false,
        };
        task.take_over().await;
        task.look(&BTreeSet::new()).await;
        let (vips, wanted) = watch::channel(BTreeSet::new());
        let (shows, faults) = watch::channel(task.faults.clone());
        let (stop, stopped) = mpsc::channel(1);
        // After our table has brought connection tracking with it.
        let flows_per_worker = node::flows_per_worker(workers);
        if task.faults.is_empty() {
            info!(flows_per_worker, from = %addresses.v4, "{HOST_END} leads into the kernel");
        }
        tokio::spawn(task.run(wanted, shows, stopped));
        Ok(Self { addresses, flows_per_worker, vips, faults, stop })
    }

    /// What flows leave from.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// How many flows each worker may have the kernel track.
    pub fn flows_per_worker(&self) -> usize {
        self.flows_per_worker
    }

    /// Has these VIPs, and no others, led to us from within the node.
    pub fn lead(&self, vips: BTreeSet<IpAddr>) {
        tell(&self.vips, vips);
    }

    /// What keeps packets from going this way.
    pub fn faults(&self) -> Vec<Fault> {
        self.faults.borrow().clone()
    }

    /// Removes all of it.
    pub async fn remove(&self) {
        let (reply, done) = oneshot::channel();
        if self.stop.send(reply).await.is_err() || timeout(REMOVING, done).await.is_err() {
            warn!("the host path is not removed: `ip link del {HOST_END}`");
        }
    }
}

/// What the task does.
struct Task {
    handle: Handle,
    addresses: Addresses,
    queues: u32,
    mtu: u32,
    /// Ours in nf_tables; `None` while there is none.
    rules: Option<Rules>,
    /// The pair that is set up.
    known: Found,
    /// The VIPs whose routes lead to us.
    led: BTreeSet<IpAddr>,
    faults: Vec<Fault>,
    /// What became of each family's probes.
    probes: BTreeMap<Family, Probes>,
    /// Another agent that lives has the pair.
    foreign: bool,
}

/// What became of probes.
#[derive(Debug, Clone, Default)]
struct Probes {
    /// How many got through, late ones too.
    passed: u64,
    /// How many looks in a row have seen none get through.
    lost: u8,
    /// Why none is sent, if none is.
    unsent: Option<String>,
}

impl Task {
    async fn run(
        mut self,
        mut wanted: watch::Receiver<BTreeSet<IpAddr>>,
        shows: watch::Sender<Vec<Fault>>,
        mut stopped: mpsc::Receiver<oneshot::Sender<()>>,
    ) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                stop = stopped.recv() => {
                    self.remove().await;
                    if let Some(reply) = stop {
                        let _ = reply.send(());
                    }
                    return;
                }
                Ok(()) = wanted.changed() => {}
                _ = looks.tick() => {}
            }
            let vips = wanted.borrow_and_update().clone();
            self.look(&vips).await;
            tell(&shows, self.faults.clone());
        }
    }

    /// Removes what an agent before us left. One that is just being killed lets
    /// go of its end in a moment.
    async fn take_over(&mut self) {
        let begin = Instant::now();
        self.foreign = false;
        while let Ok(Found { ours: Some(end), .. }) = pair::find(&self.handle).await {
            if !end.xdp {
                info!("removing the host path of an agent that was killed");
                if let Err(error) = pair::remove(&self.handle).await {
                    warn!("{HOST_END}: {error}");
                }
                return;
            }
            if begin.elapsed() > LET_GO {
                self.foreign = true;
                return;
            }
            sleep(LET_GO_LOOK).await;
        }
    }

    /// Brings everything about that is not yet so.
    async fn look(&mut self, vips: &BTreeSet<IpAddr>) {
        let mut faults = node::faults();
        match self.look_at_pair().await {
            Ok(found) => faults.extend(self.look_at_routes(found, vips).await),
            Err(error) => faults.push(Fault::of_all(format!(
                "there is no host path, since the kernel refuses the pair {HOST_END} and {OUR_END} ({error}): \
                 the agent needs NET_ADMIN, a kernel with veth, and must be the only one on its node"
            ))),
        }
        match self.look_at_rules() {
            Ok(closed) => faults.extend(closed.into_iter().map(|chain| {
                Fault::of_all(format!(
                    "the chain {chain} drops what is forwarded, and takes no rule of ours: accept there \
                     what comes in or goes out by {HOST_END}"
                ))
            })),
            Err(error) => faults.push(Fault::of_all(format!(
                "there is no host path, since the kernel refuses its table in nf_tables ({error}): the agent \
                 needs NET_ADMIN, and Linux 5.12 with nf_tables, nft_nat and nft_masq"
            ))),
        }
        if faults.iter().all(|fault| fault.family.is_some()) {
            let firewalls = self.look_at_firewalls(&faults).await;
            faults.extend(firewalls);
        }
        for news in faults.iter().filter(|fault| !self.faults.contains(fault)) {
            // Whether that matters others know.
            info!("{}", news.sentence);
        }
        self.faults = faults;
    }

    async fn look_at_pair(&mut self) -> io::Result<Found> {
        if self.foreign {
            self.take_over().await;
        }
        if self.foreign {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let mut found = pair::find(&self.handle).await?;
        if found.host.is_none() || found.ours.is_none() {
            if self.known != Found::default() {
                warn!("{HOST_END} was taken away; it is made again");
            }
            pair::make(&self.handle, self.queues, self.mtu).await?;
            found = pair::find(&self.handle).await?;
        }
        if pair::is_new(found, self.known) {
            pair::set_up(&self.handle, found).await?;
            self.known = pair::find(&self.handle).await?;
        }
        Ok(found)
    }

    /// Sees to the routes. What is not there any more, for whatever reason, is
    /// there again.
    async fn look_at_routes(&mut self, found: Found, vips: &BTreeSet<IpAddr>) -> Vec<Fault> {
        let old: Vec<_> = self.led.difference(vips).copied().collect();
        pair::lead_no_more(&self.handle, found, &self.addresses, old).await;
        self.led.clone_from(vips);
        let mut faults = Vec::new();
        for address in self.addresses.both() {
            let family = Family::of(&address);
            let vips = vips.iter().copied().filter(|vip| Family::of(vip) == family);
            let behind_us = vips.chain([probe::source(address)]);
            if let Err(error) = pair::lead(&self.handle, found, address, behind_us).await {
                let sentence = format!(
                    "the kernel takes no route to {address} by {HOST_END} ({error}): look whether \
                     somebody has that address, or IPv6 is off (net.ipv6.conf.default.disable_ipv6)"
                );
                faults.push(Fault { family: Some(family), sentence });
            }
        }
        faults
    }

    fn look_at_rules(&mut self) -> io::Result<Vec<String>> {
        let rules = match &mut self.rules {
            Some(rules) => rules,
            none => none.insert(Rules::make(&self.addresses)?),
        };
        rules.open_ways()
    }

    /// Sends probes of the families that have no fault yet, and says which do not get
    /// through.
    async fn look_at_firewalls(&mut self, faults: &[Fault]) -> Vec<Fault> {
        let mut dropped = Vec::new();
        for (family, tables) in [(Family::V4, "iptables"), (Family::V6, "ip6tables")] {
            if faults.iter().any(|fault| fault.family == Some(family)) {
                continue;
            }
            let before = self.probes.remove(&family).unwrap_or_default();
            let now = match self.probe(family, before.passed).await {
                Ok(passed) if passed > before.passed => Probes { passed, ..Probes::default() },
                Ok(passed) => Probes { passed, lost: before.lost.saturating_add(1), unsent: None },
                Err(error) => Probes { unsent: Some(error.to_string()), ..Probes::default() },
            };
            match &now.unsent {
                unsent if *unsent == before.unsent => {}
                Some(why) => warn!(
                    "no {family} probe of {HOST_END} is sent, so nobody looks whether a firewall \
                     of the node drops what comes out of it: {why}"
                ),
                None => info!("probes of {HOST_END} are sent again ({family})"),
            }
            if now.lost > LOST {
                let sentence = format!(
                    "a firewall of the node drops the {family} packets that come out of {HOST_END}, and it is \
                     no policy of a chain in nf_tables: look at `{tables}-legacy -S FORWARD`, for rules that \
                     reject the rest, and for tables before that (raw, mangle), and accept there what comes in \
                     (-i) and goes out (-o) by {HOST_END}"
                );
                dropped.push(Fault { family: Some(family), sentence });
            }
            self.probes.insert(family, now);
        }
        dropped
    }

    /// Sends a probe of a family, and gives how many have got through once there are
    /// more than before, or no more are to be waited for.
    async fn probe(&mut self, family: Family, before: u64) -> io::Result<u64> {
        let Some(rules) = &mut self.rules else { return Err(io::ErrorKind::NotFound.into()) };
        probe::send(self.addresses.of(family == Family::V4))?;
        let begin = Instant::now();
        loop {
            let passed = rules.passed(family)?;
            if passed > before || begin.elapsed() > PROBE {
                return Ok(passed);
            }
            sleep(PROBE_LOOK).await;
        }
    }

    async fn remove(&mut self) {
        if let Some(Err(error)) = self.rules.take().map(Rules::close) {
            warn!("a rule for {HOST_END} stays in a chain of others: {error}");
        }
        if self.foreign {
            return;
        }
        if let Err(error) = pair::remove(&self.handle).await {
            warn!("{HOST_END} stays: {error}; `ip link del {HOST_END}`");
        }
    }
}

async fn own_addresses(handle: &Handle) -> io::Result<Vec<IpAddr>> {
    let mut own = Vec::new();
    let mut answers = handle.address().get().execute();
    while let Some(message) = answers.try_next().await.map_err(io::Error::other)? {
        own.extend(message.attributes.iter().filter_map(|attribute| match attribute {
            AddressAttribute::Address(address) | AddressAttribute::Local(address) => Some(*address),
            _ => None,
        }));
    }
    Ok(own)
}
