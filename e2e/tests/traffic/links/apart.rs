//! An interface or a worker that is gone, busy or stands still, and everything
//! else, which goes on.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use blixt_afxdp::{Exchange, Sizes, Slot};
use blixt_e2e::{Prober, Stage, StagePlan, Transfers, ask, serve_udp_names};
use blixt_testkit::netns::{Arms, LabPlan, Namespace, eventually, veth_with_queues};
use blixt_testkit::require_root;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::{SOON, longest_pause, pulse, shown, streams_everywhere};
use crate::balance::short_rest;
use crate::live::all_to;
use crate::{names_everywhere, nothing_is_left};

/// Has all new connections go to one backend; how long that took.
fn change(stage: &mut Stage, wanted: usize) -> Duration {
    all_to(stage, wanted);
    let [to, _] = stage.vip(80);
    let begin = Instant::now();
    stage.tell();
    stage.lab.client.namespace.inside(move || {
        let name = format!("be{wanted}");
        while ask(to).unwrap() != name {
            assert!(begin.elapsed() < SOON, "{name} is never asked");
        }
    });
    begin.elapsed()
}

/// Changes the manifests some times: they are in force within 100 ms.
fn changes_are_in_force_at_once(stage: &mut Stage) {
    let mut took: Vec<_> = [0, 1, 2, 0, 1].map(|wanted| change(stage, wanted)).into();
    took.sort();
    println!("changes were in force after {took:?}");
    // Tests share the machine: one that comes in between does not count.
    assert!(took[2] < Duration::from_millis(100), "{took:?}");
}

/// One arm that carries everything, and one more interface, `x0`, which comes
/// first: the memory of both is registered with its socket.
struct Another {
    stage: Stage,
    other: Namespace,
    queues: u32,
}

impl Another {
    fn new(queues: u32, flags: &[&str]) -> Self {
        let other = Namespace::new("other");
        let lab = LabPlan { arms: Arms::One, queues, ..LabPlan::default() };
        let mut plan = short_rest();
        plan.extend([&["--interface", "x0"], flags].concat().into_iter().map(str::to_owned));
        let stage = Stage::new(StagePlan { lab, flags: plan }, |lab, _| {
            veth_with_queues(&lab.lb, "x0", &other, "x0", queues);
        });
        Self { stage, other, queues }
    }

    fn delete(&self) {
        self.stage.lab.lb.ip("link delete x0");
        eventually("the agent to miss x0", SOON, || self.state() == "gone");
    }

    /// Makes it again, for now under another name.
    fn make(&self, name: &str) {
        veth_with_queues(&self.stage.lab.lb, name, &self.other, "x0", self.queues);
    }

    /// Waits until the other interface has its new sockets: what comes in while
    /// they move is lost.
    fn other_one_has_moved(&self) {
        std::thread::sleep(Duration::from_millis(300));
        let [to, _] = self.stage.vip(80);
        eventually("ten answers in a row", SOON, || {
            let client = &self.stage.lab.client.namespace;
            client.inside(move || (0..10).all(|_| ask(to).is_ok()))
        });
    }

    fn state(&self) -> String {
        shown(&self.stage, "x0")["state"].as_str().unwrap().to_owned()
    }
}

#[test]
fn an_interface_is_deleted_and_made_again_while_transfers_use_another() {
    require_root!();
    let another = Another::new(1, &[]);
    let stage = &another.stage;
    let _servers = streams_everywhere(stage);
    let client = &stage.lab.client.namespace;
    let _names = serve_udp_names(&stage.lab.backends[0].namespace, 8_080, "be");
    let transfers = Transfers::start(client, &stage.vip(80));
    for _ in 0..2 {
        transfers.go_on();
        another.delete();
        transfers.go_on();
        another.make("x0");
        eventually("x0 to be attached again", SOON, || another.state() == "attached");
    }
    transfers.go_on();
    transfers.finish();
    nothing_is_left(stage, &["no_socket", "no_flow", "interface_gone"]);
}

/// Has a queue, until it is dropped.
struct Holder {
    release: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Holder {
    fn new(namespace: &Namespace, device: &'static str) -> Self {
        let (release, released) = mpsc::channel();
        let (ready, held) = mpsc::channel();
        let thread = namespace.thread(move || {
            let sizes = Sizes { frames: 512, ring_entries: 64, ..Sizes::default() };
            let mut exchange = Exchange::new(sizes).unwrap();
            drop(exchange.bind(Slot(0), device, &[0], true).unwrap());
            ready.send(()).unwrap();
            released.recv().unwrap();
        });
        held.recv().unwrap();
        Self { release, thread }
    }

    fn release(self) {
        self.release.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

#[test]
fn a_busy_queue_holds_up_neither_manifests_nor_the_other_interface() {
    require_root!();
    let mut another = Another::new(1, &[]);
    let _servers = names_everywhere(&another.stage);
    let client = &another.stage.lab.client.namespace;
    let [to, _] = another.stage.vip(80);
    let prober = Prober::start(client, Duration::from_millis(2), pulse(to));
    // It returns, and somebody else has its queue.
    another.delete();
    another.make("x1");
    let lb = &another.stage.lab.lb;
    let holder = Holder::new(lb, "x1");
    lb.ip("link set x1 down");
    lb.ip("link set x1 name x0");
    lb.ip("link set x0 up");
    eventually("it to be tried", SOON, || {
        let why = shown(&another.stage, "x0")["reason"].as_str().unwrap_or("").to_owned();
        why.contains("is being attached") || why.contains("is still bound")
    });
    let begin = Instant::now();
    another.other_one_has_moved();
    changes_are_in_force_at_once(&mut another.stage);
    println!("it was tried for the first {:?}", begin.elapsed());
    holder.release();
    eventually("x0 to be attached", SOON, || another.state() == "attached");
    let pause = longest_pause(&prober.stop());
    println!("the other interface stood still for {pause:?}");
    assert!(pause < Duration::from_millis(1_900), "{pause:?}");
}

/// A thread that stands still; it goes on when this is dropped.
struct Stopped {
    release: mpsc::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Stopped {
    fn new(pid: u32, thread: &str) -> Self {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let mut of_name = tasks.filter(|task| {
            std::fs::read_to_string(task.path().join("comm"))
                .is_ok_and(|name| name.trim() == thread)
        });
        let task = of_name.next().unwrap().file_name().into_string().unwrap();
        let task = Pid::from_raw(task.parse().unwrap());
        let (release, released) = mpsc::channel();
        let (ready, stopped) = mpsc::channel();
        // Whoever stops it has to let it go, and does so by ending.
        let thread = std::thread::spawn(move || {
            ptrace::seize(task, ptrace::Options::empty()).unwrap();
            ptrace::interrupt(task).unwrap();
            waitpid(task, Some(WaitPidFlag::__WALL)).unwrap();
            ready.send(()).unwrap();
            let _ = released.recv();
            ptrace::detach(task, None).unwrap();
        });
        stopped.recv().unwrap();
        Self { release, thread: Some(thread) }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.release.send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn a_worker_that_stands_still_holds_up_no_manifests() {
    require_root!();
    let mut another = Another::new(2, &["--workers", "2"]);
    let _servers = names_everywhere(&another.stage);
    // Everything by the queues of the one that goes on.
    another.stage.lab.steer_clients(0);
    another.delete();
    let stopped = Stopped::new(another.stage.agent().pid(), "blixt-worker-1");
    another.make("x0");
    eventually("it to be tried", SOON, || {
        another.stage.lab.lb.ip("link show dev x0").contains("prog/xdp")
    });
    another.other_one_has_moved();
    changes_are_in_force_at_once(&mut another.stage);
    assert_eq!(another.state(), "failed");
    drop(stopped);
    eventually("x0 to be attached", SOON, || another.state() == "attached");
}
