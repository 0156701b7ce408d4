//! Starting a worker, and the control thread's end of it.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use blixt_afxdp::Closer;
use blixt_dataplane::{InterfaceSlot, Pipeline, WorkerId};
use crossbeam::channel::{self, Sender};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

use super::run::Worker;
use super::{
    Attach, AttachAnswer, Command, Epoch, Event, FrameAccount, Published, Question, SpawnError,
    WorkerConfig, WorkerStatus,
};

/// A running worker.
#[derive(Debug)]
pub struct WorkerHandle {
    id: WorkerId,
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    status: Arc<WorkerStatus>,
    thread: JoinHandle<FrameAccount>,
}

/// A channel for the events of all workers.
pub fn event_channel() -> (UnboundedSender<Event>, UnboundedReceiver<Event>) {
    mpsc::unbounded_channel()
}

/// Starts a worker in a thread of its own, in the network namespace of the
/// calling one. What it cannot do without is there when this returns.
pub fn spawn(
    config: WorkerConfig,
    published: Arc<Published>,
    events: UnboundedSender<Event>,
) -> Result<WorkerHandle, SpawnError> {
    let id = config.id;
    let workers = published.stats.len();
    if usize::from(id.0) >= workers {
        return Err(SpawnError::NoStats { worker: id.0, workers });
    }
    let no_thread = |source: io::Error| SpawnError::Thread { worker: id.0, source };
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let wake = Arc::new(EventFd::from_flags(flags).map_err(|error| no_thread(error.into()))?);
    let (commands, inbox) = channel::unbounded();
    let (ready, started) = channel::bounded(1);
    let alarm = Arc::clone(&wake);
    // Before the worker is pinned, so that it runs elsewhere.
    let closer = Closer::start().map_err(no_thread)?;
    let thread = thread::Builder::new()
        .name(thread_name(id.0.into()))
        .spawn(move || {
            let _guard = AbortOnPanic;
            // Its memory is taken here, so that it lies near its core.
            let made = pin(&config).and_then(|()| {
                let pipeline = Pipeline::new(&config.pipeline)
                    .map_err(|source| SpawnError::Flows { worker: id.0, source })?;
                let pipeline = match published.team() {
                    Some(team) => pipeline.in_team(&team),
                    None => pipeline,
                };
                Worker::new(config, pipeline, inbox, events, alarm, workers, closer)
            });
            match made {
                Ok(worker) => {
                    let _ = ready.send(Ok(worker.status()));
                    worker.run(&published)
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                    FrameAccount::default()
                }
            }
        })
        .map_err(no_thread)?;
    let status = started.recv().map_err(|error| no_thread(io::Error::other(error)))??;
    Ok(WorkerHandle { id, commands, wake, status, thread })
}

/// What the thread of a worker is called. The kernel keeps 15 characters of it
/// (TASK_COMM_LEN), enough for a hundred workers.
pub fn thread_name(worker: u32) -> String {
    format!("blixt-worker-{worker}")
}

impl WorkerHandle {
    /// Which worker it is.
    pub fn id(&self) -> WorkerId {
        self.id
    }

    /// What it counts.
    pub fn status(&self) -> &Arc<WorkerStatus> {
        &self.status
    }

    /// Asks it for something. A worker that has ended drops the command, and
    /// with it the sender of its answer.
    pub fn send(&self, command: Command) {
        let _ = self.commands.send(command);
        self.wake();
    }

    /// Asks it to bind queues of an interface; see [`Attach`].
    pub fn attach(
        &self,
        slot: InterfaceSlot,
        name: &str,
        queues: Vec<u32>,
        zero_copy: bool,
    ) -> oneshot::Receiver<AttachAnswer> {
        let (reply, answer) = oneshot::channel();
        let name = name.to_owned();
        let epoch = Epoch::default();
        self.send(Command::Attach(Attach { slot, epoch, name, queues, zero_copy, reply }));
        answer
    }

    /// Asks it to let go of an interface; see [`Command::Detach`].
    pub fn detach(&self, slot: InterfaceSlot) -> oneshot::Receiver<usize> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Detach { slot, reply });
        answer
    }

    /// Asks it something about its flows; see [`Question`].
    pub fn ask(&self, question: Question) {
        self.send(Command::Ask(question));
    }

    /// Lets it see what has been published, if it sleeps.
    pub fn wake(&self) {
        // Refused only when the number in it is full: then it is awake.
        let _ = self.wake.write(1);
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Tells it to stop, and waits until it has.
    pub fn stop(self) -> FrameAccount {
        self.send(Command::Stop);
        // It cannot have panicked: the process would have ended.
        self.thread.join().unwrap_or_default()
    }
}

fn pin(config: &WorkerConfig) -> Result<(), SpawnError> {
    match config.core {
        Some(core) if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) => {
            Err(SpawnError::Core { worker: config.id.0, core })
        }
        _ => Ok(()),
    }
}

/// A worker that panics ends the process, however it was built: an agent
/// without its worker would take traffic and not deliver it.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}
