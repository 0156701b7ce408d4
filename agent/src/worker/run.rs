//! The loop of a worker.
//!
//! It runs to completion in turns: read the clock once, take up what is
//! newest, receive a burst from each queue, have the pipeline decide, send.
//! After some empty turns it sleeps until there is something to do. Nothing
//! on the way of a packet allocates, locks, logs or waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use blixt_afxdp::{BUSY_PATIENCE, BUSY_PAUSE, BindError, Closer, Exchange, Frame, Slot, Unsent};
use blixt_dataplane::{
    BURST, Burst, Counters, DropReason, Fib, InterfaceSlot, Neighbour, Packet, Pipeline, Sink,
    Tick, Verdict, View, WorkerId,
};
use crossbeam::channel::{Receiver, TryRecvError};
use nix::sys::eventfd::EventFd;
use std::os::fd::AsFd;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::handoff::Mailboxes;
use super::hold::{Added, Held, Hold};
use super::pace::{Pace, thread_cpu_ns};
use super::{
    Attach, BoundQueue, Command, Epoch, Event, FrameAccount, Published, SpawnError, WorkerConfig,
    WorkerStatus,
};

/// How many turns without a packet until it sleeps: some 20 µs, more than it
/// takes to be woken up.
const EMPTY_TURNS: u32 = 200;

/// How many packets of others are taken in a turn, so that one's own do not
/// wait for them too long.
const HANDED_OVER_PER_TURN: usize = 4 * BURST;

/// What the kernel takes to send fewer frames is taken for the worker's own:
/// even to a veth at most some 100 µs.
const MANY_TO_SEND: usize = 16;

/// How often sockets, held packets and counters are looked after, also the
/// longest sleep.
const TEND: Duration = Duration::from_millis(100);

/// A worker, all that it owns.
pub(super) struct Worker {
    config: WorkerConfig,
    pipeline: Pipeline,
    exchange: Exchange,
    hold: Hold,
    status: Arc<WorkerStatus>,
    inbox: Receiver<Command>,
    events: UnboundedSender<Event>,
    wake: Arc<EventFd>,
    clock: Clock,
    pace: Pace,
    /// Frames that were given to transmit rings in this turn.
    to_send: usize,
    /// Attachments whose queues are still busy.
    attaching: Vec<Attach>,
    /// Interfaces whose queues are not free yet.
    detaching: Vec<Detaching>,
    /// The interfaces that were ever attached, each with the newest attaching
    /// of it.
    attached: Vec<(InterfaceSlot, Epoch)>,
    tended: Tick,
    stopping: bool,
    /// Workers that were given packets in this turn.
    to_wake: Vec<WorkerId>,
    /// Neighbours whose packets are to be tried again, the last one first.
    to_retry: Vec<Neighbour>,
}

/// An interface that is being let go of.
struct Detaching {
    slot: InterfaceSlot,
    /// How many queues it had.
    queues: usize,
    reply: oneshot::Sender<usize>,
}

/// Where packets come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Origin {
    ingress: InterfaceSlot,
    queue: u32,
    /// Not from the wire, but from the worker that has the queue.
    handed_over: bool,
}

impl Worker {
    pub(super) fn new(
        config: WorkerConfig,
        pipeline: Pipeline,
        inbox: Receiver<Command>,
        events: UnboundedSender<Event>,
        wake: Arc<EventFd>,
        workers: usize,
        closer: Closer,
    ) -> Result<Self, SpawnError> {
        let exchange = Exchange::new(config.sizes)
            .map_err(|source| SpawnError::Sizes { worker: config.id.0, source })?
            .with_closer(closer);
        let status = Arc::new(WorkerStatus::new(Arc::clone(pipeline.counters())));
        Ok(Self {
            hold: Hold::new(config.hold),
            config,
            pipeline,
            exchange,
            status,
            inbox,
            events,
            wake,
            clock: Clock::new(),
            pace: Pace::new(),
            to_send: 0,
            attaching: Vec::new(),
            detaching: Vec::new(),
            attached: Vec::new(),
            tended: Tick::default(),
            stopping: false,
            to_wake: Vec::with_capacity(workers),
            to_retry: Vec::new(),
        })
    }

    pub(super) fn status(&self) -> Arc<WorkerStatus> {
        Arc::clone(&self.status)
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self, published: &Published) -> FrameAccount {
        let Some(stats) = published.stats.get(usize::from(self.config.id.0)) else {
            // `spawn` has checked it.
            return FrameAccount::default();
        };
        let mut tables = published.tables.reader();
        let mut fib = published.fib.reader();
        let mut stats = stats.reader();
        if published.mailboxes.are_needed()
            && let Some(mailbox) = published.mailboxes.of(self.config.id)
        {
            let frame_bytes = self.config.sizes.frame_bytes.bytes() as usize;
            mailbox.open(frame_bytes, Arc::clone(&self.wake));
        }
        let mut newest_fib: *const Fib = std::ptr::null();
        let mut routes_stamp = 0;
        let mut routes_changed = false;
        let mut empty_turns = 0;
        while !self.stopping {
            let now = self.clock.now();
            self.pace.turn(now);
            // Counters are grown before the tables that need them appear.
            let tables = tables.load();
            let fib = fib.load();
            let view = View { tables, fib, stats: stats.load() };
            self.status.tables_generation.set(tables.generation().0);

            if !std::ptr::eq(newest_fib, Arc::as_ptr(fib)) {
                newest_fib = Arc::as_ptr(fib);
                self.status.fibs_adopted.add(1);
                let before = std::mem::replace(&mut routes_stamp, fib.routes().stamp());
                routes_changed |= before != routes_stamp;
                self.look_for_neighbours(fib, routes_changed);
            }
            match self.to_retry.pop() {
                Some(neighbour) => self.retry(neighbour, view, now),
                // Not before all have been asked whether they lead elsewhere.
                None => routes_changed = false,
            }
            let asked = self.obey(view, now);
            let received = self.turn(view, now, &published.mailboxes);
            let mut sink = FreeFrames::of(&mut self.exchange, &self.status);
            let more = self.pipeline.sweep(view, now, &mut sink) || !self.to_retry.is_empty();
            self.send();
            self.tend(now);
            if received || more || asked {
                empty_turns = 0;
                continue;
            }
            empty_turns += 1;
            if empty_turns >= EMPTY_TURNS && !self.config.spin {
                self.sleep();
                empty_turns = 0;
            }
        }
        self.end(&published.mailboxes)
    }

    /// Receives a burst from each queue and does with it what the pipeline
    /// says; whether there was anything.
    #[inline]
    fn turn(&mut self, view: View<'_>, now: Tick, others: &Mailboxes) -> bool {
        let mut received = false;
        for number in 0..self.exchange.queues() {
            let mut frames = ArrayVec::new();
            if let Some((slot, queue)) = self.exchange.receive(number, &mut frames)
                && !frames.is_empty()
            {
                received = true;
                let from = Origin { ingress: InterfaceSlot(slot.0), queue, handed_over: false };
                self.process(&mut frames, from, view, now, others);
            }
        }
        if others.are_needed() {
            received |= self.take_over(view, now, others);
            self.ring(others);
        }
        received
    }

    #[inline]
    fn process(
        &mut self,
        frames: &mut ArrayVec<Frame, BURST>,
        from: Origin,
        view: View<'_>,
        now: Tick,
        others: &Mailboxes,
    ) {
        let Origin { ingress, queue, handed_over } = from;
        let mut burst = Burst::new();
        for frame in frames.iter_mut() {
            let bytes = frame.len();
            let packet = Packet::new(frame.room_mut(), bytes, ingress);
            burst.push(if handed_over { packet.handed_over() } else { packet });
        }
        let mut sink = FreeFrames::of(&mut self.exchange, &self.status);
        self.pipeline.process(&mut burst, view, now, &mut sink);
        let ends = ends(burst);
        for (mut frame, (verdict, bytes)) in frames.drain(..).zip(ends) {
            frame.set_len(bytes);
            match verdict {
                Some(Verdict::Transmit(egress)) => self.transmit(egress, queue, frame),
                Some(Verdict::Hold(neighbour)) => {
                    self.hold(neighbour, Held { frame, ingress, since: now }, now);
                }
                Some(Verdict::Drop(_)) => self.exchange.release(frame),
                Some(Verdict::HandOff(owner)) => self.hand_off(owner, from, frame, others),
                None => {
                    debug_assert!(false, "the pipeline left a packet without a verdict");
                    self.exchange.release(frame);
                }
            }
        }
    }

    /// Gives a packet to the worker that owns its flow. The frame stays here.
    #[cold]
    fn hand_off(&mut self, owner: WorkerId, from: Origin, frame: Frame, others: &Mailboxes) {
        let mailbox = others.of(owner);
        if !mailbox.is_some_and(|mailbox| mailbox.put(from.ingress, from.queue, frame.packet())) {
            return self.drop(frame, DropReason::HandOffFull);
        }
        self.pipeline.counters().handed_off.add(1);
        if !self.to_wake.contains(&owner) {
            self.to_wake.push(owner);
        }
        self.exchange.release(frame);
    }

    /// Wakes the workers that were given packets, once for all of a turn.
    #[inline]
    fn ring(&mut self, others: &Mailboxes) {
        for owner in self.to_wake.drain(..) {
            if let Some(mailbox) = others.of(owner) {
                mailbox.ring();
            }
        }
    }

    /// Takes what others have given, in its order, as if it had been received
    /// here; whether there was anything.
    #[inline]
    fn take_over(&mut self, view: View<'_>, now: Tick, others: &Mailboxes) -> bool {
        let Some(mailbox) = others.of(self.config.id) else { return false };
        let mut frames = ArrayVec::<Frame, BURST>::new();
        let mut from = None;
        let mut taken = 0;
        while taken < HANDED_OVER_PER_TURN
            && let Some(parcel) = mailbox.take()
        {
            taken += 1;
            let (ingress, queue) = (parcel.ingress, parcel.queue);
            let this = Origin { ingress, queue, handed_over: true };
            if let Some(from) = from.filter(|from| *from != this || frames.is_full()) {
                self.process(&mut frames, from, view, now, others);
            }
            from = Some(this);
            match self.exchange.frame_for(Slot(ingress.0), parcel.packet()) {
                Some(frame) => frames.push(frame),
                None => self.pipeline.counters().dropped(DropReason::NoFrame).add(1),
            }
            mailbox.give_back(parcel);
        }
        if let Some(from) = from {
            self.process(&mut frames, from, view, now, others);
        }
        taken > 0
    }

    /// Finds the neighbours that are known now and whose packets can go on; and
    /// where routes may lead elsewhere, all others after them.
    #[cold]
    fn look_for_neighbours(&mut self, fib: &Fib, others_too: bool) {
        self.to_retry.clear();
        if others_too {
            self.to_retry.extend(self.hold.neighbours().filter(|it| fib.mac(*it).is_none()));
        }
        self.to_retry.extend(self.hold.neighbours().filter(|it| fib.mac(*it).is_some()));
    }

    /// Tries the packets again that wait for one neighbour: others', which can
    /// be many, wait for the next turns.
    #[cold]
    fn retry(&mut self, neighbour: Neighbour, view: View<'_>, now: Tick) {
        let mut waiting: VecDeque<_> = self.hold.take(neighbour);
        while !waiting.is_empty() {
            let count = waiting.len().min(BURST);
            let mut tried: ArrayVec<Held, BURST> = waiting.drain(..count).collect();
            let mut burst = Burst::new();
            for held in &mut tried {
                let bytes = held.frame.len();
                burst.push(Packet::new(held.frame.room_mut(), bytes, held.ingress));
            }
            self.pipeline.retry(&mut burst, view, now);
            let ends = ends(burst);
            for (mut held, (verdict, bytes)) in tried.into_iter().zip(ends) {
                held.frame.set_len(bytes);
                match verdict {
                    Some(Verdict::Transmit(egress)) => self.transmit(egress, 0, held.frame),
                    Some(Verdict::Hold(neighbour)) => self.hold(neighbour, held, now),
                    _ => self.exchange.release(held.frame),
                }
            }
        }
    }

    #[inline]
    fn transmit(&mut self, egress: InterfaceSlot, queue: u32, frame: Frame) {
        self.to_send += 1;
        if let Err(unsent) = self.exchange.transmit(Slot(egress.0), queue, frame) {
            let reason = match unsent {
                Unsent::NoInterface => DropReason::InterfaceGone,
                Unsent::NoFrame => DropReason::NoFrame,
            };
            self.pipeline.counters().dropped(reason).add(1);
        }
    }

    fn hold(&mut self, neighbour: Neighbour, held: Held, now: Tick) {
        let Added { is_new, refused } = self.hold.add(neighbour, held, now);
        if let Some(frame) = refused {
            self.drop(frame, DropReason::HoldFull);
        }
        if is_new {
            self.tell(Event::Unresolved(neighbour));
        }
    }

    fn drop(&mut self, frame: Frame, reason: DropReason) {
        self.pipeline.counters().dropped(reason).add(1);
        self.exchange.release(frame);
    }

    /// Sends what has been decided to be sent.
    #[inline]
    fn send(&mut self) {
        let many = std::mem::take(&mut self.to_send) >= MANY_TO_SEND;
        let began = many.then(thread_cpu_ns);
        let dropped = self.exchange.flush();
        if let Some(began) = began {
            self.pace.sent(began);
        }
        if dropped > 0 {
            self.pipeline.counters().dropped(DropReason::TxRingFull).add(dropped);
        }
    }

    /// Does what the control thread asks for. Says whether it was asked a
    /// question: of these it answers one a turn, however many there are.
    #[inline]
    fn obey(&mut self, view: View<'_>, now: Tick) -> bool {
        let mut asked = false;
        while !asked {
            match self.inbox.try_recv() {
                Ok(Command::Ask(question)) => {
                    question.answer(&self.pipeline, view, now);
                    asked = true;
                }
                Ok(command) => self.obey_one(command, view),
                Err(TryRecvError::Empty) => break,
                // Nobody is left to tell it to stop.
                Err(TryRecvError::Disconnected) => {
                    self.stopping = true;
                    break;
                }
            }
        }
        if self.is_attaching() {
            self.attach(now);
        }
        if self.is_detaching() {
            self.detach();
        }
        asked
    }

    #[cold]
    fn obey_one(&mut self, command: Command, view: View<'_>) {
        match command {
            Command::Attach(attach) => {
                self.attaching.retain(|other| other.slot != attach.slot);
                self.attached.retain(|(slot, _)| *slot != attach.slot);
                self.attached.push((attach.slot, attach.epoch));
                self.attaching.push(attach);
            }
            Command::Detach { slot, reply } => {
                self.attaching.retain(|attach| attach.slot != slot);
                let queues = self.exchange.unbind(Slot(slot.0));
                self.publish();
                self.detaching.push(Detaching { slot, queues, reply });
            }
            Command::Announce => {
                let mut sink = FreeFrames::of(&mut self.exchange, &self.status);
                self.pipeline.announce(view, &mut sink);
                self.send();
            }
            Command::KeepFor(timeouts) => self.pipeline.keep_for(&timeouts),
            // Answered by `obey`.
            Command::Ask(_) => {}
            Command::Stop => self.stopping = true,
        }
    }

    /// Binds what is to be bound. A queue that is busy is tried again in a
    /// later turn, so that other interfaces need not wait for it.
    #[cold]
    fn attach(&mut self, now: Tick) {
        if now < self.clock.next_attempt {
            return;
        }
        self.clock.next_attempt = after(now, BUSY_PAUSE);
        for attach in std::mem::take(&mut self.attaching) {
            let slot = Slot(attach.slot.0);
            let bound = self.exchange.bind(slot, &attach.name, &attach.queues, attach.zero_copy);
            let bound = match bound {
                Err(BindError::Busy { waited_ms, .. })
                    if u128::from(waited_ms) < BUSY_PATIENCE.as_millis() =>
                {
                    self.attaching.push(attach);
                    continue;
                }
                Err(error) => {
                    self.exchange.give_up(slot);
                    Err(error)
                }
                Ok(bound) => Ok(bound.into_iter().map(|queue| self.named(queue)).collect()),
            };
            let _ = attach.reply.send(bound);
        }
        // Whatever those wait for: these served before, and shall again.
        for moved in self.exchange.settle() {
            let moved = self.named(moved);
            self.tell(Event::Moved(moved));
        }
        self.publish();
    }

    /// Goes on with letting go of interfaces, and tells when their queues are free.
    #[cold]
    fn detach(&mut self) {
        let Self { exchange, detaching, .. } = self;
        exchange.let_go();
        let is_free = |it: &mut Detaching| exchange.has_let_go_of(Slot(it.slot.0));
        for Detaching { queues, reply, .. } in detaching.extract_if(.., is_free) {
            let _ = reply.send(queues);
        }
    }

    #[inline]
    fn is_detaching(&self) -> bool {
        !self.detaching.is_empty() || self.exchange.is_letting_go()
    }

    fn is_attaching(&self) -> bool {
        !self.attaching.is_empty() || !self.exchange.is_settled()
    }

    fn named(&self, bound: blixt_afxdp::Bound) -> BoundQueue {
        let blixt_afxdp::Bound { slot, queue, socket, zero_copy } = bound;
        let slot = InterfaceSlot(slot.0);
        BoundQueue { slot, epoch: self.epoch(slot), queue, socket, zero_copy }
    }

    fn epoch(&self, slot: InterfaceSlot) -> Epoch {
        let attached = self.attached.iter().find(|(known, _)| *known == slot);
        attached.map(|(_, epoch)| *epoch).unwrap_or_default()
    }

    /// Looks after sockets, held packets and counters, now and then.
    #[inline]
    fn tend(&mut self, now: Tick) {
        if now < after(self.tended, TEND) {
            return;
        }
        self.tended = now;
        let mut told = Vec::new();
        for dead in self.exchange.tend() {
            let slot = InterfaceSlot(dead.slot.0);
            // Most often all queues of an interface die at once, and all are
            // bound anew together: once.
            if told.contains(&slot) {
                continue;
            }
            told.push(slot);
            let (epoch, queue, error) = (self.epoch(slot), dead.queue, dead.error);
            self.tell(Event::QueueDead { slot, epoch, queue, error });
        }
        let Self { hold, exchange, pipeline, events, .. } = self;
        let give_up = |frame| {
            pipeline.counters().dropped(DropReason::Unresolved).add(1);
            exchange.release(frame);
        };
        hold.expire(now, give_up, |neighbour| {
            let _ = events.send(Event::Unresolved(neighbour));
        });
        self.publish();
    }

    /// Sleeps until there is something to do.
    fn sleep(&mut self) {
        self.status.sleeps.add(1);
        self.publish();
        self.pace.rest(self.clock.now());
        let hurries = self.is_attaching() || self.is_detaching();
        let timeout = if hurries { BUSY_PAUSE } else { TEND };
        if self.exchange.wait(self.wake.as_fd(), timeout).is_err() {
            // The kernel has no memory for it: not so fast, then.
            std::thread::sleep(Duration::from_millis(1));
        }
        // Its number says nothing; what is new is looked for in any case.
        let _ = self.wake.read();
    }

    /// Lets others see what has been counted.
    fn publish(&self) {
        self.status.heartbeats.add(1);
        let account = self.exchange.account();
        self.status.frames_born.set(account.born);
        self.status.frames_home.set(account.home);
        self.status.frames_ended.set(account.ended);
        self.status.holding.set(self.hold.len() as u64);
        self.pace.publish(&self.status);
        for &(slot, _) in &self.attached {
            let counters = self.exchange.counters(Slot(slot.0));
            let (queues, zero_copy) = self.exchange.bound(Slot(slot.0));
            if let Some(interface) = self.status.interface(slot) {
                interface.set(&counters, queues, zero_copy);
            }
        }
    }

    fn tell(&self, event: Event) {
        // Nobody listens any more only when the agent is ending.
        let _ = self.events.send(event);
    }

    /// Lets go of everything.
    fn end(mut self, others: &Mailboxes) -> FrameAccount {
        // Its interfaces are gone, and with them the way of these packets.
        while let Some(mailbox) = others.of(self.config.id)
            && mailbox.take().is_some()
        {
            self.pipeline.counters().dropped(DropReason::InterfaceGone).add(1);
        }
        let waiting: Vec<_> = self.hold.take_all().collect();
        for held in waiting {
            self.drop(held.frame, DropReason::Unresolved);
        }
        self.send();
        let account = self.exchange.close();
        self.detach();
        self.publish();
        let frames = FrameAccount { born: account.born, home: account.home };
        self.tell(Event::Stopped { worker: self.config.id, frames });
        frames
    }
}

/// What became of each packet of a burst, and how long it is now.
#[inline]
fn ends(burst: Burst<'_>) -> ArrayVec<(Option<Verdict>, usize), BURST> {
    burst.iter().map(|packet| (packet.verdict(), packet.len())).collect()
}

/// Puts packets that are made besides into free frames.
struct FreeFrames<'a> {
    exchange: &'a mut Exchange,
    counters: &'a Counters,
}

impl<'a> FreeFrames<'a> {
    #[inline(always)]
    fn of(exchange: &'a mut Exchange, status: &'a WorkerStatus) -> Self {
        Self { exchange, counters: &status.pipeline }
    }
}

impl Sink for FreeFrames<'_> {
    fn send(&mut self, egress: InterfaceSlot, frame: &[u8]) -> bool {
        match self.exchange.transmit_copy(Slot(egress.0), 0, frame) {
            Ok(()) => true,
            Err(Unsent::NoFrame) => false,
            Err(Unsent::NoInterface) => {
                // No lack of frames: it has its own reason.
                self.counters.dropped(DropReason::InterfaceGone).add(1);
                true
            }
        }
    }
}

/// Nanoseconds since the worker began, and a second: so that nothing is ever
/// at, or before, 0.
struct Clock {
    began: Instant,
    /// When busy queues are tried again.
    next_attempt: Tick,
}

impl Clock {
    fn new() -> Self {
        Self { began: Instant::now(), next_attempt: Tick::default() }
    }

    #[inline]
    fn now(&self) -> Tick {
        const FIRST_NS: u64 = 1_000_000_000;
        // 64 bits of nanoseconds last 584 years.
        Tick(FIRST_NS + self.began.elapsed().as_nanos() as u64)
    }
}

fn after(tick: Tick, wait: Duration) -> Tick {
    Tick(tick.0 + wait.as_nanos() as u64)
}
