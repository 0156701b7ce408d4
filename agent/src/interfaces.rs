//! The interfaces: attached at start, detached at the end, and attached again
//! when they come back in between.
//!
//! Attaching is a fixed order of steps, undone in reverse when one fails: XDP
//! program, offloads, a place in the workers' [`blixt_dataplane::Fib`],
//! sockets, XSKMAP, multicast groups. One interface's trouble never touches
//! another.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_afxdp::BindError;
use blixt_afxdp::nic::{Nic, NicError};
use blixt_dataplane::{HashedPorts, InterfaceSlot, Rss};
use blixt_xdp_abi::QUEUES_PER_INTERFACE;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::kernel::{AttachedInterface, Attachments, View};
use crate::multicast::Groups;
use crate::offloads::Offloads;
use crate::state::{AttachedState, InterfaceState, LinkState, QueueState};
use crate::worker::{Attach, BoundQueue, Command, Published, WorkerHandle};
use crate::xdp::{AttachedMode, Mode, Role, Xdp, XdpError};

/// How often a failed interface is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How long a worker may take to answer. Binding waits up to 2 s for a queue
/// that is still held.
const ANSWER: Duration = Duration::from_secs(20);

/// How long the workers may take to know an interface.
const KNOWN: Duration = Duration::from_secs(1);

/// Why an interface is not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// XDP does not go.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// Its sockets do not go.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// It can't be asked or changed.
    #[error(transparent)]
    Nic(#[from] NicError),
    /// There is none.
    #[error("there is no interface {0}: `ip link` lists those there are")]
    Absent(String),
    /// More queues than the program serves.
    #[error(
        "{interface} has {queues} queues, and {QUEUES_PER_INTERFACE} are served: use `ethtool -L {interface} combined {QUEUES_PER_INTERFACE}`"
    )]
    Queues {
        /// Which.
        interface: String,
        /// How many.
        queues: u32,
    },
    /// Fewer queues than workers.
    #[error(
        "{interface} has {queues} queues, fewer than --workers {workers}: give it more with `ethtool -L {interface} combined {workers}` (on a veth `rx {workers} tx {workers}`), or use --workers {queues}"
    )]
    FewQueues {
        /// Which.
        interface: String,
        /// How many.
        queues: u32,
        /// How many workers there are.
        workers: usize,
    },
    /// A worker is stuck or gone.
    #[error("worker {0} does not answer: restart the agent")]
    Worker(u16),
}

/// All interfaces, and what is needed to attach them.
pub struct Interfaces {
    list: Vec<Interface>,
    mode: Mode,
    xdp: Xdp,
    offloads: Offloads,
    groups: Groups,
    /// The VIPs and SNAT addresses of IPv6, whose groups are joined.
    addresses: Vec<Ipv6Addr>,
    attachments: watch::Sender<Attachments>,
    published: Arc<Published>,
}

struct Interface {
    slot: InterfaceSlot,
    state: InterfaceState,
    retry_at: Option<Instant>,
    /// A queue of it no longer works.
    broken: bool,
    /// Its number while it is being attached or detached: if that is cut
    /// short there is something to undo.
    begun: Option<u32>,
}

impl Interfaces {
    /// None is attached yet.
    pub fn new(
        names: &[String],
        mode: Mode,
        xdp: Xdp,
        offloads: Offloads,
        attachments: watch::Sender<Attachments>,
        published: Arc<Published>,
    ) -> Self {
        let list = names.iter().zip(0..).map(|(name, slot)| Interface {
            slot: InterfaceSlot(slot),
            state: InterfaceState { name: name.clone(), link: LinkState::Gone },
            retry_at: None,
            broken: false,
            begun: None,
        });
        Self {
            list: list.collect(),
            mode,
            xdp,
            offloads,
            groups: Groups::default(),
            addresses: Vec::new(),
            attachments,
            published,
        }
    }

    /// How it is with each.
    pub fn states(&self) -> Vec<InterfaceState> {
        self.list.iter().map(|interface| interface.state.clone()).collect()
    }

    /// What keeps them from carrying traffic, as sentences.
    pub fn faults(&self) -> Vec<String> {
        let faults = self.list.iter().filter_map(|interface| match &interface.state.link {
            LinkState::Attached(_) => None,
            LinkState::Gone => Some(format!("interface {} is not there", interface.state.name)),
            LinkState::Failed { reason } => Some(reason.clone()),
        });
        faults.collect()
    }

    /// The XDP program and its maps.
    pub fn xdp(&mut self) -> &mut Xdp {
        &mut self.xdp
    }

    /// Attaches all of them, or says why one can't be.
    pub async fn attach_all(
        &mut self,
        view: &View,
        workers: &[WorkerHandle],
    ) -> Result<(), AttachError> {
        for place in 0..self.list.len() {
            self.attach(place, view, workers).await?;
        }
        Ok(())
    }

    /// Brings things in line with the devices that there are now. `true` if
    /// an interface was attached, and has to be announced on.
    pub async fn follow(&mut self, view: &View, workers: &[WorkerHandle]) -> bool {
        let mut news = false;
        for place in 0..self.list.len() {
            news |= self.follow_one(place, view, workers).await;
        }
        news
    }

    async fn follow_one(&mut self, place: usize, view: &View, workers: &[WorkerHandle]) -> bool {
        let Some(interface) = self.list.get(place) else { return false };
        let name = interface.state.name.clone();
        let now = view.device(&name).map(|device| device.ifindex);
        if let LinkState::Attached(attached) = &interface.state.link {
            if now == Some(attached.ifindex) && !interface.broken && !requeued(&name, attached) {
                return false;
            }
            match now {
                None => warn!("interface {name} went away; it is attached again when it returns"),
                Some(_) => warn!("interface {name} changed; it is attached anew"),
            }
            self.detach(place, workers).await;
        }
        let due = |retry_at: Option<Instant>| retry_at.is_none_or(|at| at <= Instant::now());
        let Some(interface) = self.list.get_mut(place) else { return false };
        if now.is_none() {
            interface.state.link = LinkState::Gone;
            interface.retry_at = None;
            return false;
        }
        if !due(interface.retry_at) {
            return false;
        }
        match self.attach(place, view, workers).await {
            Ok(()) => true,
            Err(error) => {
                self.failed(place, error.to_string());
                false
            }
        }
    }

    fn failed(&mut self, place: usize, reason: String) {
        let Some(interface) = self.list.get_mut(place) else { return };
        interface.retry_at = Some(Instant::now() + RETRY);
        let link = LinkState::Failed { reason: reason.clone() };
        if interface.state.link != link {
            let name = &interface.state.name;
            warn!("interface {name} is not attached: {reason}; trying again every {RETRY:?}");
            interface.state.link = link;
        }
    }

    /// Notes that a queue does not work any more, so that its interface is
    /// attached anew.
    pub fn broke(&mut self, slot: InterfaceSlot) {
        if let Some(interface) = self.list.get_mut(usize::from(slot.0)) {
            interface.broken = true;
        }
    }

    /// Takes the addresses that are ours into the maps and groups.
    pub fn set_addresses(&mut self, wanted: &BTreeMap<IpAddr, Role>) -> Result<(), XdpError> {
        self.xdp.set_addresses(wanted)?;
        self.addresses = wanted
            .keys()
            .filter_map(|address| match address {
                IpAddr::V6(v6) => Some(*v6),
                IpAddr::V4(_) => None,
            })
            .collect();
        let attached: Vec<_> = self.attached().map(|(_, attached)| attached.ifindex).collect();
        for ifindex in attached {
            self.join_groups(ifindex);
        }
        Ok(())
    }

    fn join_groups(&mut self, ifindex: u32) {
        if let Err(error) = self.groups.set(ifindex, &self.addresses) {
            warn!("{error}");
        }
    }

    /// Takes every address out, then every interface off.
    pub async fn detach_all(&mut self, workers: &[WorkerHandle]) {
        if let Err(error) = self.xdp.set_addresses(&BTreeMap::new()) {
            warn!("{error}; detaching nevertheless");
        }
        for place in 0..self.list.len() {
            self.detach(place, workers).await;
        }
    }

    fn attached(&self) -> impl Iterator<Item = (InterfaceSlot, &AttachedState)> {
        self.list.iter().filter_map(|interface| match &interface.state.link {
            LinkState::Attached(attached) => Some((interface.slot, attached)),
            _ => None,
        })
    }

    async fn attach(
        &mut self,
        place: usize,
        view: &View,
        workers: &[WorkerHandle],
    ) -> Result<(), AttachError> {
        let Some(interface) = self.list.get(place) else { return Ok(()) };
        let (slot, name) = (interface.slot, interface.state.name.clone());
        let device = view.device(&name).ok_or_else(|| AttachError::Absent(name.clone()))?;
        let nic = Nic::new(&name)?;
        let queues = nic.rx_queues()?;
        if queues > QUEUES_PER_INTERFACE {
            return Err(AttachError::Queues { interface: name, queues });
        }
        // Each worker sends out of its own queues.
        if (queues as usize) < workers.len() {
            let workers = workers.len();
            return Err(AttachError::FewQueues { interface: name, queues, workers });
        }
        let on = self.xdp.attach(device.ifindex, &name, self.mode)?;
        if let Some(interface) = self.list.get_mut(place) {
            interface.begun = Some(device.ifindex);
        }
        if let Some(reason) = on.native_refused {
            warn!("{name} runs XDP in generic mode, which is slow: {reason}");
        }
        let mut attached = AttachedState {
            ifindex: device.ifindex,
            mode: on.mode,
            driver: nic.driver().unwrap_or_default(),
            mtu: nic.mtu().unwrap_or(device.mtu),
            offloads_off: Vec::new(),
            queues: Vec::new(),
        };
        let rss = if workers.len() > 1 { rss(&nic) } else { None };
        self.note_rss(slot, rss);
        let done = self.attach_queues(slot, &name, queues, &mut attached, workers).await;
        if let Err(error) = done {
            self.detach(place, workers).await;
            return Err(error);
        }
        let (ifindex, mode) = (attached.ifindex, attached.mode.as_str());
        let zero_copy = attached.queues.iter().filter(|queue| queue.zero_copy).count();
        info!(
            interface = name,
            xdp = mode,
            driver = attached.driver,
            queues,
            zero_copy_queues = zero_copy,
            "attached"
        );
        if let Some(interface) = self.list.get_mut(place) {
            interface.state.link = LinkState::Attached(attached);
            interface.retry_at = None;
            interface.broken = false;
            interface.begun = None;
        }
        self.join_groups(ifindex);
        Ok(())
    }

    async fn attach_queues(
        &mut self,
        slot: InterfaceSlot,
        name: &str,
        queues: u32,
        attached: &mut AttachedState,
        workers: &[WorkerHandle],
    ) -> Result<(), AttachError> {
        attached.offloads_off = self.offloads.put_off(name, attached.ifindex, &attached.driver)?;
        self.make_known(slot, attached).await;
        for worker in workers {
            let number = worker.id().0;
            // Queue q belongs to worker q mod workers.
            let own =
                (0..queues).filter(|queue| *queue as usize % workers.len() == usize::from(number));
            let (reply, answer) = oneshot::channel();
            worker.send(Command::Attach(Attach {
                slot,
                name: name.to_owned(),
                queues: own.collect(),
                zero_copy: attached.mode == AttachedMode::Native,
                reply,
            }));
            let answer = timeout(ANSWER, answer).await;
            let Ok(Ok(bound)) = answer else { return Err(AttachError::Worker(number)) };
            let mut bound = bound?.into_iter();
            while let Some(queue) = bound.next() {
                if let Err(error) = self.take_socket(slot, number, queue, attached) {
                    // The rest ends here: whose they are need new ones.
                    bound.for_each(|lost| self.broke(lost.slot));
                    return Err(error);
                }
            }
        }
        attached.queues.sort_by_key(|queue| queue.queue);
        Ok(())
    }

    /// Puts a socket into the XSKMAP, be it one of the interface that is being
    /// attached or of another one whose sockets had to be made anew.
    fn take_socket(
        &mut self,
        slot: InterfaceSlot,
        worker: u16,
        bound: BoundQueue,
        attached: &mut AttachedState,
    ) -> Result<(), AttachError> {
        let BoundQueue { slot: of, queue, socket, zero_copy } = bound;
        let target = if of == slot {
            Some(attached)
        } else {
            self.list.get_mut(usize::from(of.0)).and_then(|other| match &mut other.state.link {
                LinkState::Attached(attached) => Some(attached),
                _ => None,
            })
        };
        let Some(target) = target else { return Ok(()) };
        target.queues.retain(|known| known.queue != queue);
        target.queues.push(QueueState { queue, worker, zero_copy });
        match self.xdp.set_socket(target.ifindex, queue, &socket) {
            Err(error) if of != slot => {
                // No fault of the one that is being attached.
                warn!("queue {queue} of another interface is to be bound anew: {error}");
                self.broke(of);
                Ok(())
            }
            done => Ok(done?),
        }
    }

    /// Has the workers know how an interface spreads what it receives; they do
    /// with the next change of what is attached.
    fn note_rss(&self, slot: InterfaceSlot, rss: Option<Rss>) {
        self.attachments.send_if_modified(|attachments| {
            match rss {
                Some(rss) => drop(attachments.rss.insert(slot, Arc::new(rss))),
                None => drop(attachments.rss.remove(&slot)),
            }
            false
        });
    }

    /// Has the workers know the interface before they get frames of it.
    async fn make_known(&self, slot: InterfaceSlot, attached: &AttachedState) {
        let place = usize::from(slot.0);
        let partial_checksums = attached.driver == "veth";
        let ifindex = attached.ifindex;
        self.attachments.send_modify(|attachments| {
            attachments.slots = self.list.len();
            attachments.attached.retain(|other| other.slot != slot);
            attachments.attached.push(AttachedInterface { slot, ifindex, partial_checksums });
        });
        let begin = Instant::now();
        let known = || {
            let fib = self.published.fib.load();
            fib.interfaces().get(place).is_some_and(|known| known.ifindex == ifindex)
        };
        while !known() && begin.elapsed() < KNOWN {
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn detach(&mut self, place: usize, workers: &[WorkerHandle]) {
        let Some(interface) = self.list.get_mut(place) else { return };
        let slot = interface.slot;
        let name = interface.state.name.clone();
        interface.broken = false;
        let ifindex = match (&interface.state.link, interface.begun) {
            (_, Some(begun)) => begun,
            (LinkState::Attached(attached), None) => {
                let ifindex = attached.ifindex;
                interface.state.link = LinkState::Gone;
                ifindex
            }
            _ => return,
        };
        // If this is cut short, the next one has to do it.
        interface.begun = Some(ifindex);
        self.undo(slot, &name, ifindex, workers).await;
        if let Some(interface) = self.list.get_mut(place) {
            interface.begun = None;
        }
        info!(interface = name, "detached");
    }

    /// Undoes each step of attaching, done or not.
    async fn undo(
        &mut self,
        slot: InterfaceSlot,
        name: &str,
        ifindex: u32,
        workers: &[WorkerHandle],
    ) {
        self.groups.forget(ifindex);
        if let Err(error) = self.xdp.detach(ifindex) {
            warn!("{error}; the program goes when the agent ends");
        }
        for worker in workers {
            let (reply, answer) = oneshot::channel();
            worker.send(Command::Detach { slot, reply });
            if !matches!(timeout(ANSWER, answer).await, Ok(Ok(_))) {
                warn!("worker {} does not let go of {name}", worker.id().0);
            }
        }
        self.attachments.send_modify(|attachments| {
            attachments.attached.retain(|other| other.slot != slot);
        });
        self.offloads.restore(name);
    }
}

/// Whether the number of queues is another than when it was attached.
fn requeued(name: &str, attached: &AttachedState) -> bool {
    let queues = Nic::new(name).and_then(|nic| nic.rx_queues());
    queues.is_ok_and(|queues| queues as usize != attached.queues.len())
}

/// How an interface spreads what it receives over its queues, if it tells.
/// Without that packets are handed over more often, and nothing else changes.
fn rss(nic: &Nic) -> Option<Rss> {
    let told = nic.rss().unwrap_or_else(|error| {
        warn!("{error}; replies may have to be handed from worker to worker");
        None
    })?;
    let [tcp_v4, udp_v4, tcp_v6, udp_v6] = told.hashes_ports;
    Rss::new(&told.key, &told.queues, HashedPorts { tcp_v4, udp_v4, tcp_v6, udp_v6 })
}
