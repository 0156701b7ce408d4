//! The interfaces: attached at start, detached at the end, and attached again
//! when they come back in between.
//!
//! That is done by a thread of its own, which the control thread speaks to by
//! [`Links`]. What becomes of an interface is a row of steps, none of which
//! waits for anybody: see [`attaching`]. One interface's trouble never touches
//! another.

mod attaching;
mod choice;
mod error;
mod links;

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_afxdp::FrameBytes;
use blixt_afxdp::nic::Nic;
use blixt_dataplane::{InterfaceSlot, Mac};
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tracing::{info, warn};

use self::attaching::{Asked, On};
pub use self::choice::{Choice, ChoiceError};
pub(crate) use self::choice::{bare, whole_name};
pub use self::error::AttachError;
pub use self::links::{Links, Shown};
use crate::hostpath::OUR_END;
use crate::kernel::{Attachments, Device, HostEnd, View};
use crate::multicast::Groups;
use crate::offloads::Offloads;
use crate::state::{InterfaceState, LinkState};
use crate::worker::{BoundQueue, Epoch, Published, WorkerHandle};
use crate::xdp::{Mode, Xdp};

/// How often a failed interface is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The smallest MTU that IPv6 runs on (RFC 8200, 5). Below it the kernel has
/// no IPv6 on the interface, and no groups either.
const IPV6_MTU: u32 = 1_280;

/// What interfaces are attached with.
pub struct Means {
    /// The XDP mode that is asked for.
    pub mode: Mode,
    /// The size of the workers' frames.
    pub frames: FrameBytes,
    /// Whether an interface that can't be attached keeps nobody from starting: it
    /// is an object that names them, which may be mended.
    pub may_fail: bool,
    /// The program and its maps.
    pub xdp: Xdp,
    /// Puts offloads off and on.
    pub offloads: Offloads,
    /// Where the mirror of the kernel's tables learns what is attached.
    pub attachments: watch::Sender<Attachments>,
    /// What the workers read.
    pub published: Arc<Published>,
    /// The workers.
    pub workers: Arc<Vec<WorkerHandle>>,
    /// What [`OUR_END`] is to them, if there is a host path.
    pub host: Option<HostEnd>,
}

impl Means {
    /// Whether an interface is our end of the host path.
    fn is_host_end(&self, name: &str) -> bool {
        self.host.is_some() && name == OUR_END
    }
}

/// All interfaces, and what is needed to attach them.
struct Interfaces {
    list: Vec<Interface>,
    means: Means,
    groups: Groups,
    /// The VIPs and SNAT addresses of IPv6, whose groups are joined.
    addresses: Vec<Ipv6Addr>,
    /// What the workers have been asked for and have not answered yet.
    asked: FuturesUnordered<Asked>,
}

struct Interface {
    slot: InterfaceSlot,
    name: String,
    /// Which attaching of it is, or was, the newest.
    epoch: Epoch,
    /// How far it is attached; `None` when there is nothing to undo.
    on: Option<On>,
    /// Why it is not attached though it is there.
    failure: Option<Failure>,
    /// The kernel's number of the device that was tried last.
    tried: u32,
    /// A queue of it no longer works, and why.
    broken: Option<String>,
}

struct Failure {
    error: AttachError,
    retry_at: Instant,
    /// The device's number. Another one of its name need not wait.
    ifindex: u32,
}

/// What an attached interface's device is, as far as others must be told when
/// it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    mac: Mac,
    mtu: u32,
    running: bool,
    carrier_ups: u32,
}

impl From<&Device> for Seen {
    fn from(device: &Device) -> Self {
        let Device { mac, mtu, running, carrier_ups, .. } = *device;
        Self { mac, mtu, running, carrier_ups }
    }
}

impl Seen {
    /// Whether neighbours may have learned something else since then, or
    /// switches on the way have forgotten.
    fn is_news_after(self, before: Self) -> bool {
        let up = !before.running || self.carrier_ups != before.carrier_ups;
        self.running && (up || self.mac != before.mac)
    }
}

/// What a device that was attached needs.
enum Change {
    None,
    /// To be detached and attached anew.
    Anew,
    /// More queues are to be bound; it has so many now.
    Grown(u32),
}

impl Interfaces {
    /// None is attached yet.
    fn new(names: &[String], means: Means) -> Self {
        let list = names.iter().zip(0..).map(|(name, slot)| Interface {
            slot: InterfaceSlot(slot),
            name: name.clone(),
            epoch: Epoch::default(),
            on: None,
            failure: None,
            tried: 0,
            broken: None,
        });
        Self {
            list: list.collect(),
            means,
            groups: Groups::default(),
            addresses: Vec::new(),
            asked: FuturesUnordered::new(),
        }
    }

    /// How it is with each.
    fn states(&self) -> Vec<InterfaceState> {
        self.list.iter().map(Interface::state).collect()
    }

    /// What keeps them from carrying traffic, as sentences.
    fn faults(&self) -> Vec<String> {
        // How it is with the host path is told apart: it may not be needed.
        let list = self.list.iter().filter(|interface| !self.means.is_host_end(&interface.name));
        let faults = list.filter_map(|interface| match interface.state().link {
            LinkState::Attached(attached) if attached.running => None,
            LinkState::Attached(_) => Some(is_down(&interface.name)),
            LinkState::Gone => Some(format!("interface {} is not there", interface.name)),
            LinkState::Failed { reason } => Some(reason),
        });
        faults.collect()
    }

    /// Attaches all of them, or says why one can't be.
    async fn attach_all(&mut self, view: &View) -> Result<(), AttachError> {
        for place in 0..self.list.len() {
            let Some(interface) = self.list.get(place) else { continue };
            let name = &interface.name;
            // Whether it is needed is seen later.
            let may_fail = self.means.may_fail || self.means.is_host_end(name);
            if may_fail && view.device(name).is_none() {
                continue;
            }
            let device = view.device(name).ok_or_else(|| AttachError::Absent(name.clone()))?;
            // Later less than all is better than nothing, but not now.
            if let Some(why) = too_large(name, device.mtu, self.means.frames) {
                if may_fail {
                    self.failed(place, AttachError::Mtu(why));
                    continue;
                }
                return Err(AttachError::Mtu(why));
            }
            match self.begin(place, device) {
                Err(error) if may_fail => {
                    self.failed(place, error);
                    continue;
                }
                begun => begun?,
            }
            while !self.serves(place) {
                let news = self.news().await;
                self.take(news);
                let failure = self.list.get_mut(place).and_then(|found| found.failure.take());
                match failure {
                    Some(Failure { error, .. }) if may_fail => {
                        self.failed(place, error);
                        break;
                    }
                    Some(Failure { error, .. }) => return Err(error),
                    None => {}
                }
            }
        }
        Ok(())
    }

    /// Brings things in line with the devices that there are now. `true` if
    /// the neighbours of one of them have to be told of our addresses again.
    fn follow(&mut self, view: &View) -> bool {
        let mut announce = false;
        for place in 0..self.list.len() {
            announce |= self.follow_one(place, view);
        }
        announce
    }

    fn follow_one(&mut self, place: usize, view: &View) -> bool {
        let Some(interface) = self.list.get_mut(place) else { return false };
        let name = interface.name.clone();
        let Some(device) = view.device(&name) else {
            interface.failure = None;
            if interface.on.is_some() {
                warn!("interface {name} went away; it is attached again when it returns");
                self.undo(place);
            }
            return false;
        };
        let workers = self.means.workers.len();
        match interface.change(device, workers) {
            Change::None => {}
            Change::Grown(queues) => {
                info!("interface {name} has {queues} queues now: the new ones are bound too");
                if let Err(error) = self.grow(place, queues) {
                    self.undo(place);
                    self.failed(place, error);
                }
            }
            Change::Anew => self.detach_to_attach_anew(place),
        }
        let announce = self.see(place, device);
        let Some(interface) = self.list.get(place) else { return announce };
        let due = interface.failure.as_ref().is_none_or(|failure| {
            failure.retry_at <= Instant::now() || failure.ifindex != device.ifindex
        });
        if interface.on.is_none()
            && due
            && let Err(error) = self.begin(place, device)
        {
            self.failed(place, error);
        }
        announce
    }

    fn detach_to_attach_anew(&mut self, place: usize) {
        let Some(interface) = self.list.get_mut(place) else { return };
        let name = interface.name.clone();
        let broken = interface.broken.take();
        let lasted = interface.on.as_ref().is_some_and(|on| on.since.elapsed() >= RETRY);
        match (broken, lasted) {
            // At once would be over and over.
            (Some(reason), false) => {
                self.undo(place);
                self.failed(place, AttachError::ShortLived { interface: name, reason });
            }
            _ => {
                warn!("interface {name} changed; it is attached anew");
                self.undo(place);
            }
        }
    }

    /// Takes in what a device is now. `true` if neighbours must be told: they
    /// may have learned something else meanwhile.
    fn see(&mut self, place: usize, device: &Device) -> bool {
        let frames = self.means.frames;
        let Some(interface) = self.list.get_mut(place) else { return false };
        let Some(on) = &mut interface.on else { return false };
        let now = Seen::from(device);
        let before = std::mem::replace(&mut on.seen, now);
        if now == before {
            return false;
        }
        let name = &interface.name;
        on.attached.mtu = now.mtu;
        on.attached.running = now.running;
        on.attached.trouble = too_large(name, now.mtu, frames);
        if let Some(trouble) = on.attached.trouble.as_ref().filter(|_| now.mtu != before.mtu) {
            warn!("{trouble}");
        }
        match (before.running, now.running) {
            (true, false) => warn!("{}", is_down(name)),
            (false, true) => info!("interface {name} is up"),
            _ => {}
        }
        let serves = on.serves;
        if now.mtu < IPV6_MTU && before.mtu >= IPV6_MTU {
            warn!("an MTU of {} is too small for IPv6: there is no IPv6 on {name}", now.mtu);
        }
        if before.mtu < IPV6_MTU && now.mtu >= IPV6_MTU {
            self.groups.forget(device.ifindex);
            self.join_groups(device.ifindex);
        }
        serves && now.is_news_after(before)
    }

    fn failed(&mut self, place: usize, error: AttachError) {
        let Some(interface) = self.list.get_mut(place) else { return };
        let reason = error.to_string();
        let known = interface.failure.as_ref().is_some_and(|it| it.error.to_string() == reason);
        if !known {
            let name = &interface.name;
            warn!("interface {name} is not attached: {reason}; trying again every {RETRY:?}");
        }
        let (retry_at, ifindex) = (Instant::now() + RETRY, interface.tried);
        interface.failure = Some(Failure { error, retry_at, ifindex });
    }

    /// A queue does not work any more, so that its interface is attached anew
    /// when it is followed. Gives the name of that; `None` if it is old news.
    fn broke(&mut self, slot: InterfaceSlot, epoch: Epoch, reason: String) -> Option<&str> {
        let interface = self.list.get_mut(usize::from(slot.0))?;
        if interface.epoch != epoch || interface.on.is_none() {
            return None;
        }
        interface.broken = Some(reason);
        Some(&interface.name)
    }

    /// A queue had to move to a new socket. `true` if that made its interface
    /// serve.
    fn moved(&mut self, queue: BoundQueue) -> bool {
        let (slot, epoch) = (queue.slot, queue.epoch);
        let place = usize::from(slot.0);
        if self.list.get(place).is_none_or(|it| it.epoch != epoch || it.on.is_none()) {
            return false;
        }
        if let Err(error) = self.take_socket(place, queue) {
            self.broke(slot, epoch, error.to_string());
        }
        self.complete(place)
    }

    /// Joins the groups of these addresses, and no others.
    fn set_addresses(&mut self, addresses: Vec<Ipv6Addr>) {
        self.addresses = addresses;
        let on = self.list.iter().filter_map(|interface| interface.on.as_ref());
        let serving: Vec<_> = on.filter(|on| on.serves).map(|on| on.attached.ifindex).collect();
        for ifindex in serving {
            self.join_groups(ifindex);
        }
    }

    fn join_groups(&mut self, ifindex: u32) {
        let on_host_path = self.list.iter().any(|interface| {
            let is_it = |on: &On| on.attached.ifindex == ifindex;
            self.means.is_host_end(&interface.name) && interface.on.as_ref().is_some_and(is_it)
        });
        // Its one neighbour asks nobody.
        if on_host_path {
            return;
        }
        if let Err(error) = self.groups.set(ifindex, &self.addresses) {
            warn!("{error}");
        }
    }

    /// Takes every interface off.
    fn detach_all(&mut self) {
        for place in (0..self.list.len()).rev() {
            self.undo(place);
        }
    }

    fn serves(&self, place: usize) -> bool {
        let on = self.list.get(place).and_then(|interface| interface.on.as_ref());
        on.is_some_and(|on| on.serves)
    }
}

impl Interface {
    fn state(&self) -> InterfaceState {
        let link = match (&self.on, &self.failure) {
            (Some(on), _) if on.serves => LinkState::Attached(on.attached.clone()),
            (_, Some(failure)) => LinkState::Failed { reason: failure.error.to_string() },
            (Some(_), None) => {
                LinkState::Failed { reason: format!("interface {} is being attached", self.name) }
            }
            (None, None) => LinkState::Gone,
        };
        InterfaceState { name: self.name.clone(), link }
    }

    /// What the device needs, if it is attached.
    fn change(&self, device: &Device, workers: usize) -> Change {
        let Some(on) = &self.on else { return Change::None };
        if device.ifindex != on.attached.ifindex || self.broken.is_some() {
            return Change::Anew;
        }
        // One that can't be asked has not changed as far as we know.
        let queues = Nic::new(&self.name).and_then(|nic| nic.rx_queues()).unwrap_or(on.queues);
        match queues.cmp(&on.queues) {
            std::cmp::Ordering::Equal => Change::None,
            std::cmp::Ordering::Greater if attaching::fits(&self.name, queues, workers).is_ok() => {
                Change::Grown(queues)
            }
            _ => Change::Anew,
        }
    }
}

fn is_down(name: &str) -> String {
    format!("interface {name} is down, or its cable is out: `ip link set {name} up`")
}

/// Whether an interface could be attached, as far as that shows beforehand.
pub(crate) fn attachable(name: &str, workers: usize) -> Result<(), AttachError> {
    let nic = Nic::new(name)?;
    if let Some(why) = too_large(name, nic.mtu()?, FrameBytes::Page) {
        return Err(AttachError::Mtu(why));
    }
    attaching::fits(name, nic.rx_queues()?, workers)
}

/// Says that packets as large as an interface's MTU do not fit into frames.
fn too_large(name: &str, mtu: u32, frames: FrameBytes) -> Option<String> {
    let largest = frames.largest_mtu();
    if mtu <= largest {
        return None;
    }
    let most = FrameBytes::Page.largest_mtu();
    let larger = match FrameBytes::for_mtu(mtu) {
        Some(_) => "restart the agent, which then makes larger frames".to_owned(),
        None => format!("use an MTU of {most} at most, the largest there is with XDP"),
    };
    Some(format!(
        "{name} has an MTU of {mtu}, and packets of more than {largest} bytes that come in there are lost: {larger}, or `ip link set {name} mtu {largest}`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_up_again_or_has_another_mac_address_is_news() {
        let seen = Seen { mac: [2; 6], mtu: 1_500, running: true, carrier_ups: 1 };
        let down = Seen { running: false, ..seen };
        assert!(!seen.is_news_after(seen) && !down.is_news_after(seen));
        assert!(seen.is_news_after(down));
        assert!(Seen { mac: [4; 6], ..seen }.is_news_after(seen));
        assert!(!Seen { mtu: 1_400, ..seen }.is_news_after(seen));
        let flapped = Seen { carrier_ups: 2, ..seen };
        assert!(flapped.is_news_after(seen), "faster than anybody looked");
        // It is told when it is up: before that nobody would hear it.
        assert!(!Seen { mac: [4; 6], ..down }.is_news_after(down));
    }

    #[test]
    fn an_mtu_beyond_the_frames_is_told_with_what_helps() {
        assert_eq!(too_large("eth0", 1_770, FrameBytes::Half), None);
        let why = too_large("eth0", 3_000, FrameBytes::Half).unwrap();
        assert!(why.contains("more than 1770 bytes") && why.contains("restart the agent"), "{why}");
        let why = too_large("eth0", 9_000, FrameBytes::Half).unwrap();
        assert!(why.contains("an MTU of 3818 at most"), "{why}");
        assert_eq!(too_large("eth0", 3_000, FrameBytes::Page), None);
    }
}
