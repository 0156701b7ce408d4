//! The thread that attaches interfaces, and the control thread's end of it.
//!
//! It has a thread of its own since the kernel takes its time: whatever
//! changes a device, or asks one, waits for the lock that all of them share
//! (rtnl), and drivers set up their rings anew for an XDP program. Changed
//! manifests must not wait for that.

use std::io;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::{AttachError, Interfaces, Means};
use crate::kernel::View;
use crate::state::InterfaceState;
use crate::worker::{BoundQueue, Event};

/// How often is looked for what nobody tells: failed interfaces to be tried
/// again, numbers of queues.
const TICK: Duration = Duration::from_secs(1);

/// How long detaching may take at the end. What is left is undone by the
/// kernel when the process ends, but for offloads.
const DETACHING: Duration = Duration::from_secs(10);

/// How it is with the interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// Each of them, by slot.
    pub states: Vec<InterfaceState>,
    /// What keeps them from carrying traffic, as sentences.
    pub faults: Vec<String>,
    /// How often neighbours had to be told of our addresses: with each time
    /// they are to be announced.
    pub news: u64,
}

/// The control thread's end.
#[derive(Debug)]
pub struct Links {
    asks: mpsc::UnboundedSender<Ask>,
    shown: watch::Receiver<Shown>,
    attached: Option<oneshot::Receiver<Result<(), AttachError>>>,
}

/// What is asked for.
enum Ask {
    /// A queue has moved.
    Moved(BoundQueue),
    /// A queue is dead.
    Dead(Event),
    /// These are our IPv6 addresses: join their groups.
    Groups(Vec<Ipv6Addr>),
    /// Detach everything, and end.
    Stop(oneshot::Sender<()>),
}

impl Links {
    /// Starts to attach these interfaces, one after the other.
    pub fn start(
        names: &[String],
        means: Means,
        view: watch::Receiver<Arc<View>>,
    ) -> io::Result<Self> {
        let (asks, asked) = mpsc::unbounded_channel();
        let (shows, shown) = watch::channel(Shown::default());
        let (tells, attached) = oneshot::channel();
        let interfaces = Interfaces::new(names, means);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        thread::Builder::new().name("blixt-links".to_owned()).spawn(move || {
            let task = Task { interfaces, view, asked, shows };
            runtime.block_on(task.run(tells));
        })?;
        Ok(Self { asks, shown, attached: Some(attached) })
    }

    /// Waits until all are attached, or says why one can't be.
    pub async fn attached(&mut self) -> Result<(), AttachError> {
        match self.attached.take() {
            // Nobody answers only when it is being stopped.
            Some(answer) => answer.await.unwrap_or(Ok(())),
            None => Ok(()),
        }
    }

    /// How it is with them.
    pub fn shown(&self) -> Shown {
        self.shown.borrow().clone()
    }

    /// Waits until that is another. May be cut short.
    pub async fn changed(&mut self) -> Option<Shown> {
        self.shown.changed().await.ok()?;
        Some(self.shown.borrow_and_update().clone())
    }

    /// A queue had to move to a new socket.
    pub fn moved(&self, queue: BoundQueue) {
        self.ask(Ask::Moved(queue));
    }

    /// A queue does not work any more: an [`Event::QueueDead`].
    pub fn died(&self, event: Event) {
        self.ask(Ask::Dead(event));
    }

    /// Has the solicited-node groups of these addresses joined.
    pub fn join_groups(&self, addresses: Vec<Ipv6Addr>) {
        self.ask(Ask::Groups(addresses));
    }

    /// Takes every interface off, and leaves each as it was.
    pub async fn detach(&self) {
        let (reply, done) = oneshot::channel();
        self.ask(Ask::Stop(reply));
        if timeout(DETACHING, done).await.is_err() {
            warn!("the kernel does not let go of the interfaces; their offloads may stay off");
        }
    }

    fn ask(&self, ask: Ask) {
        // It ends only when it is told to.
        let _ = self.asks.send(ask);
    }
}

/// What the thread does.
struct Task {
    interfaces: Interfaces,
    view: watch::Receiver<Arc<View>>,
    asked: mpsc::UnboundedReceiver<Ask>,
    shows: watch::Sender<Shown>,
}

impl Task {
    async fn run(mut self, tells: oneshot::Sender<Result<(), AttachError>>) {
        let view = Arc::clone(&self.view.borrow_and_update());
        let attached = tokio::select! {
            biased;
            stop = told_to_stop(&mut self.asked) => return self.stop(stop),
            attached = self.interfaces.attach_all(&view) => attached,
        };
        self.show(false);
        let _ = tells.send(attached);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let announce = tokio::select! {
                biased;
                ask = self.asked.recv() => match ask {
                    Some(Ask::Stop(reply)) => return self.stop(Some(reply)),
                    None => return self.stop(None),
                    Some(ask) => self.take(ask),
                },
                news = self.interfaces.news() => self.interfaces.take(news),
                // Without a mirror the last view stays.
                Ok(()) = self.view.changed() => self.follow(),
                _ = ticks.tick() => self.follow(),
            };
            self.show(announce);
        }
    }

    fn take(&mut self, ask: Ask) -> bool {
        match ask {
            Ask::Moved(queue) => self.interfaces.moved(queue),
            Ask::Dead(Event::QueueDead { slot, epoch, queue, error }) => {
                if let Some(name) = self.interfaces.broke(slot, epoch, error.to_string()) {
                    info!("queue {queue} of interface {name} no longer works ({error})");
                    return self.follow();
                }
                false
            }
            Ask::Groups(addresses) => {
                self.interfaces.set_addresses(addresses);
                false
            }
            Ask::Dead(_) | Ask::Stop(_) => false,
        }
    }

    fn follow(&mut self) -> bool {
        let view = Arc::clone(&self.view.borrow_and_update());
        self.interfaces.follow(&view)
    }

    fn show(&self, announce: bool) {
        let (states, faults) = (self.interfaces.states(), self.interfaces.faults());
        self.shows.send_if_modified(|shown| {
            let news = shown.news + u64::from(announce);
            let now = Shown { states, faults, news };
            let changed = now != *shown;
            *shown = now;
            changed
        });
    }

    fn stop(&mut self, reply: Option<oneshot::Sender<()>>) {
        self.interfaces.detach_all();
        if let Some(reply) = reply {
            let _ = reply.send(());
        }
    }
}

/// Waits until everything shall end; whom to tell when it has.
async fn told_to_stop(asked: &mut mpsc::UnboundedReceiver<Ask>) -> Option<oneshot::Sender<()>> {
    loop {
        match asked.recv().await {
            Some(Ask::Stop(reply)) => return Some(reply),
            None => return None,
            Some(_) => {}
        }
    }
}
