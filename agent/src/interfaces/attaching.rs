//! How an interface is attached, in steps that wait for nobody:
//!
//! 1. the XDP program, offloads, and a place among the attachments;
//! 2. the workers know the interface, in their [`blixt_dataplane::Fib`];
//! 3. they bind its queues, and each socket goes into the XSKMAP;
//! 4. with the last socket it serves.
//!
//! Between two steps other interfaces have theirs. Whatever fails, all
//! that was done is undone, in reverse. What a worker still says of an
//! attaching that is over carries that one's epoch, and is not listened to.

use std::collections::BTreeSet;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_afxdp::nic::Nic;
use blixt_dataplane::{HashedPorts, InterfaceSlot, Rss};
use blixt_xdp_abi::QUEUES_PER_INTERFACE;
use futures_util::StreamExt;
use tokio::sync::oneshot;
use tokio::time::sleep_until;
use tracing::{info, warn};

use super::{AttachError, Interface, Interfaces, Seen, too_large};
use crate::kernel::{AttachedInterface, Device};
use crate::state::{AttachedState, QueueState};
use crate::worker::{Attach, AttachAnswer, BoundQueue, Command, Epoch};
use crate::xdp::{AttachedMode, Mode};

/// How long a worker may take to answer. Binding waits up to 2 s for a queue
/// that is still held.
const ANSWER: Duration = Duration::from_secs(20);

/// How long the workers may take to know an interface, and how often is looked
/// whether they do.
const KNOWN: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(1);

/// The driver whose packets may have partial checksums.
const VETH: &str = "veth";

/// An interface that has the XDP program.
pub(super) struct On {
    pub(super) attached: AttachedState,
    /// How many queues it has.
    pub(super) queues: u32,
    /// All of them have had a socket: it is ours.
    pub(super) serves: bool,
    /// Since when that is so, or since when it is tried.
    pub(super) since: Instant,
    pub(super) seen: Seen,
    step: Step,
}

/// What comes next.
enum Step {
    /// The workers come to know the interface.
    Known { until: Instant },
    /// They bind queues; these have not answered yet.
    Bound { until: Instant, waiting: BTreeSet<u16> },
    /// Nothing.
    Done,
}

/// An answer that is yet to come.
pub(super) type Asked = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// What a worker has answered; no [`AttachAnswer`] if it has ended.
pub(super) struct Answer {
    slot: InterfaceSlot,
    epoch: Epoch,
    worker: u16,
    answer: Option<AttachAnswer>,
}

/// Something has come of an attaching.
pub(super) struct News(Option<Answer>);

impl Interfaces {
    /// Waits until the next step can be taken. May be cut short.
    pub(super) async fn news(&mut self) -> News {
        let on = self.list.iter().filter_map(|interface| interface.on.as_ref());
        let due = on.filter_map(On::due).min();
        let in_time = async {
            match due {
                Some(at) => sleep_until(at.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(answer) = self.asked.next() => News(Some(answer)),
            () = in_time => News(None),
        }
    }

    /// Takes the next steps. `true` if an interface serves now that did not,
    /// and has to be announced on.
    pub(super) fn take(&mut self, News(answer): News) -> bool {
        let mut serves = answer.is_some_and(|answer| self.answered(answer));
        let now = Instant::now();
        for place in 0..self.list.len() {
            let known = self.is_known(place);
            let Some(on) = self.list.get(place).and_then(|it| it.on.as_ref()) else { continue };
            match &on.step {
                Step::Known { until } if known || *until <= now => {
                    self.ask_workers(place, 0);
                }
                Step::Bound { until, waiting } if *until <= now => {
                    let silent = waiting.first().copied().unwrap_or_default();
                    self.undo(place);
                    self.failed(place, AttachError::Worker(silent));
                }
                _ => {}
            }
            serves |= self.complete(place);
        }
        serves
    }

    /// The first step. What fails leaves nothing to undo.
    pub(super) fn begin(&mut self, place: usize, device: &Device) -> Result<(), AttachError> {
        let Some(interface) = self.list.get_mut(place) else { return Ok(()) };
        let name = interface.name.clone();
        interface.tried = device.ifindex;
        let nic = Nic::new(&name)?;
        let queues = nic.rx_queues()?;
        fits(&name, queues, self.means.workers.len())?;
        let is_host_end = self.means.is_host_end(&name);
        let hook = match is_host_end {
            true => self.means.xdp.attach_host_end(device.ifindex, &name, Mode::Native)?,
            false => self.means.xdp.attach(device.ifindex, &name, self.means.mode)?,
        };
        if let Some(reason) = hook.native_refused {
            warn!("{name} runs XDP in generic mode, which is slow: {reason}");
        }
        let now = Instant::now();
        interface.epoch = interface.epoch.next();
        interface.broken = None;
        let attached = AttachedState {
            ifindex: device.ifindex,
            mode: hook.mode,
            driver: nic.driver().unwrap_or_default(),
            mtu: device.mtu,
            running: device.running,
            trouble: too_large(&name, device.mtu, self.means.frames),
            offloads_off: Vec::new(),
            queues: Vec::new(),
        };
        if let Some(trouble) = &attached.trouble {
            warn!("{trouble}");
        }
        let driver = attached.driver.clone();
        interface.on = Some(On {
            attached,
            queues,
            serves: false,
            since: now,
            seen: Seen::from(device),
            step: Step::Known { until: now + KNOWN },
        });
        match self.means.offloads.put_off(&name, device.ifindex, &driver) {
            Ok(off) => {
                if let Some(on) = self.list.get_mut(place).and_then(|it| it.on.as_mut()) {
                    on.attached.offloads_off = off;
                }
                self.make_known(place, &nic);
                Ok(())
            }
            Err(error) => {
                self.undo(place);
                Err(error.into())
            }
        }
    }

    /// Has new queues of an interface bound, while the others go on.
    pub(super) fn grow(&mut self, place: usize, queues: u32) -> Result<(), AttachError> {
        let Some(interface) = self.list.get_mut(place) else { return Ok(()) };
        let Some(on) = &mut interface.on else { return Ok(()) };
        let first_new = std::mem::replace(&mut on.queues, queues);
        let (ifindex, is_veth) = (on.attached.ifindex, on.attached.driver == VETH);
        let nic = Nic::new(&interface.name)?;
        if is_veth {
            self.means.xdp.attach_again(ifindex)?;
        }
        self.make_known(place, &nic);
        // One that is not that far binds them with all others.
        let on = self.list.get(place).and_then(|interface| interface.on.as_ref());
        match on.map(|on| &on.step) {
            Some(Step::Known { .. }) | None => {}
            Some(Step::Bound { .. }) => self.ask_workers(place, 0),
            Some(Step::Done) => self.ask_workers(place, first_new),
        }
        Ok(())
    }

    /// Has the workers know the interface before they get frames of it, and
    /// how it spreads what it receives.
    fn make_known(&self, place: usize, nic: &Nic) {
        let Some(interface) = self.list.get(place) else { return };
        let Some(on) = &interface.on else { return };
        let rss = if self.means.workers.len() > 1 { rss(nic) } else { None };
        let (slot, slots) = (interface.slot, self.list.len());
        let attached = AttachedInterface {
            slot,
            ifindex: on.attached.ifindex,
            partial_checksums: on.attached.driver == VETH,
            host: self.means.host.filter(|_| self.means.is_host_end(&interface.name)),
        };
        self.means.attachments.send_modify(|attachments| {
            match rss {
                Some(rss) => drop(attachments.rss.insert(slot, Arc::new(rss))),
                None => drop(attachments.rss.remove(&slot)),
            }
            attachments.slots = slots;
            attachments.attached.retain(|other| other.slot != slot);
            attachments.attached.push(attached);
        });
    }

    fn is_known(&self, place: usize) -> bool {
        let on = self.list.get(place).and_then(|interface| interface.on.as_ref());
        let fib = self.means.published.fib.load();
        let known = fib.interfaces().get(place).map(|known| known.ifindex);
        on.is_some_and(|on| known == Some(on.attached.ifindex))
    }

    /// Asks each worker to bind its queues, from `first` on.
    fn ask_workers(&mut self, place: usize, first: u32) {
        let Some(Interface { slot, name, epoch, on: Some(on), .. }) = self.list.get_mut(place)
        else {
            return;
        };
        let (slot, epoch, workers) = (*slot, *epoch, self.means.workers.len());
        let mut waiting = BTreeSet::new();
        for worker in self.means.workers.iter() {
            let number = worker.id().0;
            let queues: Vec<u32> =
                (first..on.queues).filter(|queue| owner(*queue, workers) == number).collect();
            if queues.is_empty() {
                continue;
            }
            waiting.insert(number);
            let (reply, answer) = oneshot::channel();
            worker.send(Command::Attach(Attach {
                slot,
                epoch,
                name: name.clone(),
                queues,
                zero_copy: on.attached.mode == AttachedMode::Native,
                reply,
            }));
            self.asked.push(Box::pin(async move {
                Answer { slot, epoch, worker: number, answer: answer.await.ok() }
            }));
        }
        on.step = Step::Bound { until: Instant::now() + ANSWER, waiting };
    }

    /// Takes a worker's answer. `true` if that made the interface serve.
    fn answered(&mut self, Answer { slot, epoch, worker, answer }: Answer) -> bool {
        let place = usize::from(slot.0);
        let Some(interface) = self.list.get_mut(place) else { return false };
        let Some(On { step: Step::Bound { waiting, .. }, .. }) = &mut interface.on else {
            return false;
        };
        if interface.epoch != epoch {
            return false;
        }
        let Some(bound) = answer else {
            // Asked for more meanwhile, it answers to that; or it has ended.
            let ended = self.means.workers.iter().any(|it| it.id().0 == worker && it.is_finished());
            if ended {
                self.undo(place);
                self.failed(place, AttachError::Worker(worker));
            }
            return false;
        };
        waiting.remove(&worker);
        let bound = bound.map_err(AttachError::from);
        let taken = bound.and_then(|bound| {
            bound.into_iter().try_for_each(|queue| self.take_socket(place, queue))
        });
        if let Err(error) = taken {
            self.undo(place);
            self.failed(place, error);
        }
        self.complete(place)
    }

    /// Puts a socket into the XSKMAP.
    pub(super) fn take_socket(
        &mut self,
        place: usize,
        bound: BoundQueue,
    ) -> Result<(), AttachError> {
        let on = self.list.get_mut(place).and_then(|interface| interface.on.as_mut());
        let Some(on) = on else { return Ok(()) };
        let BoundQueue { queue, socket, zero_copy, .. } = bound;
        self.means.xdp.set_socket(on.attached.ifindex, queue, &socket)?;
        let worker = owner(queue, self.means.workers.len());
        on.attached.queues.retain(|known| known.queue != queue);
        on.attached.queues.push(QueueState { queue, worker, zero_copy });
        on.attached.queues.sort_by_key(|queue| queue.queue);
        Ok(())
    }

    /// The last step, once all sockets are there. `true` if it serves now and
    /// did not before.
    pub(super) fn complete(&mut self, place: usize) -> bool {
        let Some(Interface { name, on: Some(on), failure, .. }) = self.list.get_mut(place) else {
            return false;
        };
        let done = match &on.step {
            Step::Bound { waiting, .. } => waiting.is_empty(),
            _ => false,
        };
        let (queues, bound) = (on.queues, on.attached.queues.len());
        if !done || bound < queues as usize {
            return false;
        }
        on.step = Step::Done;
        if std::mem::replace(&mut on.serves, true) {
            return false;
        }
        on.since = Instant::now();
        *failure = None;
        let zero_copy = on.attached.queues.iter().filter(|queue| queue.zero_copy).count();
        info!(
            interface = name,
            xdp = on.attached.mode.as_str(),
            driver = on.attached.driver,
            queues,
            zero_copy_queues = zero_copy,
            "attached"
        );
        let ifindex = on.attached.ifindex;
        self.join_groups(ifindex);
        true
    }

    /// Undoes each step of attaching, done or not. It does not wait for the
    /// workers: what they are told next they do after that.
    pub(super) fn undo(&mut self, place: usize) {
        let Some(interface) = self.list.get_mut(place) else { return };
        let Some(on) = interface.on.take() else { return };
        interface.broken = None;
        let (slot, name, ifindex) = (interface.slot, interface.name.clone(), on.attached.ifindex);
        self.groups.forget(ifindex);
        if let Err(error) = self.means.xdp.detach(ifindex) {
            warn!("{error}; the program goes when the agent ends");
        }
        for worker in self.means.workers.iter() {
            let (reply, _) = oneshot::channel();
            worker.send(Command::Detach { slot, reply });
        }
        self.means.attachments.send_modify(|attachments| {
            attachments.attached.retain(|other| other.slot != slot);
        });
        self.means.offloads.restore(&name);
        if on.serves {
            info!(interface = name, "detached");
        }
    }
}

impl On {
    /// When there is something to do even if no worker answers.
    fn due(&self) -> Option<Instant> {
        match &self.step {
            Step::Known { until } => Some((Instant::now() + LOOK).min(*until)),
            Step::Bound { until, .. } => Some(*until),
            Step::Done => None,
        }
    }
}

/// Whether an interface with so many queues can be served.
pub(super) fn fits(name: &str, queues: u32, workers: usize) -> Result<(), AttachError> {
    let interface = name.to_owned();
    if queues > QUEUES_PER_INTERFACE {
        return Err(AttachError::Queues { interface, queues });
    }
    // Each worker sends out of its own queues.
    if (queues as usize) < workers {
        return Err(AttachError::FewQueues { interface, queues, workers });
    }
    Ok(())
}

/// The worker that a queue belongs to: queue q to worker q mod workers.
fn owner(queue: u32, workers: usize) -> u16 {
    u16::try_from(queue as usize % workers.max(1)).unwrap_or_default()
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
