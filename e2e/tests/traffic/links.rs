//! Links, addresses, routes and neighbours that change while traffic flows:
//! followed without a restart, and transfers go on.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use blixt_afxdp::{Exchange, Sizes, Slot};
use blixt_e2e::{
    Announcements, Answer, Prober, Server, Stage, StagePlan, Transfers, ask, serve_streams,
    serve_udp_names,
};
use blixt_testkit::netns::{
    Arms, Far, Lab, LabPlan, Namespace, eventually, net, veth, veth_with_queues,
};
use blixt_testkit::require_root;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use super::balance::short_rest;
use super::live::all_to;
use super::{names_everywhere, nothing_is_left};

/// How long anything may take that is not measured.
const SOON: Duration = Duration::from_secs(15);

/// Without a link, as by a cable that is put back at once.
const A_MOMENT: Duration = Duration::from_millis(200);

fn two_arms() -> Stage {
    Stage::new(StagePlan { flags: short_rest(), ..StagePlan::default() }, |_, _| ())
}

fn streams_everywhere(stage: &Stage) -> Vec<Server> {
    stage.lab.backends.iter().map(|backend| serve_streams(&backend.namespace, 8_080)).collect()
}

/// What `blixtctl status` says of an interface.
fn shown(stage: &Stage, name: &str) -> Value {
    let status = stage.agent().ctl("status");
    let interfaces = status["interfaces"].as_array().unwrap().clone();
    interfaces.into_iter().find(|interface| interface["name"] == name).unwrap()
}

/// Checks that nothing was dropped but for these reasons.
fn dropped_are_only(stage: &Stage, expected: &[&str]) {
    let drops = stage.agent().metrics().drops();
    assert!(drops.keys().all(|reason| expected.contains(&reason.as_str())), "{drops:?}");
}

fn mac_of(namespace: &Namespace, device: &str) -> String {
    let shown = namespace.ip(&format!("link show dev {device}"));
    shown.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

fn as_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[test]
fn transfers_outlive_a_link_that_goes_down_and_addresses_are_announced_when_it_is_up() {
    require_root!();
    let stage = two_arms();
    let lab = &stage.lab;
    // Or the kernel forgets the interface's IPv6 addresses with the link, and
    // with them the routes.
    lab.lb.sysctl("net.ipv6.conf.all.keep_addr_on_down", "1");
    let _servers = streams_everywhere(&stage);
    let transfers = Transfers::start(&lab.client.namespace, &stage.vip(80));
    let at_client = Announcements::listen(&lab.client.namespace);
    let at_backend = Announcements::listen(&lab.backends[0].namespace);
    for (namespace, device, interface, heard) in [
        (&lab.lb, "lb0", "lb0", &at_client),
        (lab.front(), "lb", "lb0", &at_client),
        (&lab.lb, "lb1", "lb1", &at_backend),
        (lab.back(), "lb", "lb1", &at_backend),
    ] {
        transfers.go_on();
        namespace.ip(&format!("link set {device} down"));
        eventually(format!("{interface} to be shown as down"), SOON, || {
            shown(&stage, interface)["reason"].as_str().is_some_and(|why| why.contains("down"))
        });
        std::thread::sleep(A_MOMENT);
        let up = Instant::now();
        namespace.ip(&format!("link set {device} up"));
        let mac = heard.wait_for(&lab.vips(), up, SOON);
        assert_eq!(as_text(mac), mac_of(&lab.lb, interface));
        println!("{device}: announced {:?} after it was up", up.elapsed());
        transfers.go_on();
        assert_eq!(shown(&stage, interface)["reason"], Value::Null);
    }
    // Faster than anybody looks.
    let flap = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(flap.path(), "link set lb0 down\nlink set lb0 up\n").unwrap();
    let up = Instant::now();
    lab.lb.command("ip").args(["-batch", &flap.path().display().to_string()]).ok();
    at_client.wait_for(&lab.vips(), up, SOON);
    transfers.go_on();
    transfers.finish();
    // What was on its way to a link without a path was dropped, by name.
    nothing_is_left(&stage, &["unroutable", "unresolved", "hold_full", "no_flow"]);
}

/// What the client's kernel has learned of the way to a VIP.
fn learned_mtu(client: &Namespace, vip: IpAddr) -> Option<u32> {
    let route = client.ip(&format!("route get {vip}"));
    route.split(" mtu ").nth(1)?.split_whitespace().next()?.parse().ok()
}

#[test]
fn an_mtu_that_changes_is_shown_at_once_and_told_to_those_who_send_too_much() {
    require_root!();
    let stage = two_arms();
    let (lb, client) = (&stage.lab.lb, &stage.lab.client.namespace);
    let _servers = streams_everywhere(&stage);
    // What servers send fits in any case: the switch would not tell them.
    client.ip(&format!("route change {}/24 dev eth0 advmss 1200", net::FRONT.v4(0)));
    client.ip(&format!("-6 route add {}/64 dev eth0 metric 1 advmss 1200", net::FRONT.v6(0)));
    let transfers = Transfers::start(client, &stage.vip(80));
    // Down, further down, and up again, of which the client learns when it has
    // forgotten what it knew.
    for mtu in [1_400, 1_300, 1_450, 1_500] {
        transfers.go_on();
        let changed = Instant::now();
        lb.ip(&format!("link set lb1 mtu {mtu}"));
        eventually(format!("an MTU of {mtu} to be shown"), SOON, || {
            shown(&stage, "lb1")["mtu_bytes"] == mtu
        });
        println!("an MTU of {mtu} is shown after {:?}", changed.elapsed());
        for family in ["-4", "-6"] {
            client.ip(&format!("{family} route flush cache"));
        }
        transfers.go_on();
        for vip in stage.lab.vips() {
            eventually(format!("the client to learn of {mtu} for {vip}"), SOON, || {
                learned_mtu(client, vip).unwrap_or(1_500) == mtu
            });
        }
    }
    transfers.finish();
    dropped_are_only(&stage, &["too_big"]);
}

#[test]
fn an_mtu_beyond_the_frames_is_complained_about_and_served_nevertheless() {
    require_root!();
    let mut stage = two_arms();
    let _servers = names_everywhere(&stage);
    let served = |stage: &Stage| {
        for to in stage.vip(80) {
            stage.lab.client.namespace.inside(move || ask(to).unwrap());
        }
    };
    let reason = |stage: &Stage| shown(stage, "lb0")["reason"].as_str().unwrap_or("").to_owned();
    for (mtu, advice) in [(3_000, "restart the agent"), (9_000, "use an MTU of 3818 at most")] {
        stage.lab.lb.ip(&format!("link set lb0 mtu {mtu}"));
        eventually(format!("{advice:?}"), SOON, || reason(&stage).contains(advice));
        assert_eq!(shown(&stage, "lb0")["state"], "attached");
        assert_eq!(stage.agent().log().matches(advice).count(), 1, "{}", stage.agent().log());
        served(&stage);
    }
    // An agent that is started now says what is wrong, and what to do.
    stage.agent.take().unwrap().stop();
    let agent = blixt_e2e::Agent::launch(&stage.lab, &stage.manifests, &stage.plan.flags);
    eventually("it to be refused", SOON, || agent.log().contains("lb0 has an MTU of 9000"));
    drop(agent);
    stage.lab.lb.ip("link set lb0 mtu 3000");
    stage.start_agent();
    assert_eq!(reason(&stage), "");
    served(&stage);

    // The other end of a veth may be what is too large.
    stage.agent.take().unwrap().stop();
    stage.lab.front().ip("link set lb mtu 9000");
    let agent = blixt_e2e::Agent::launch(&stage.lab, &stage.manifests, &stage.plan.flags);
    eventually("it to be refused", SOON, || agent.log().contains("its peer has too large an MTU"));
}

fn set_queues(namespace: &Namespace, device: &str, queues: u32) -> Result<(), String> {
    let queues = queues.to_string();
    let ran = namespace.command("ethtool").args(["-L", device, "rx", &queues, "tx", &queues]).run();
    if ran.status.success() { Ok(()) } else { Err(ran.stdout + &ran.stderr) }
}

#[test]
fn more_queues_are_bound_while_transfers_go_on_and_fewer_are_refused_by_the_kernel() {
    require_root!();
    let lab = LabPlan { queues: 4, ..LabPlan::default() };
    let flags = [short_rest(), vec!["--workers".into(), "2".into()]].concat();
    let mut stage = Stage::new(StagePlan { lab, flags }, |_, _| ());
    let _servers = streams_everywhere(&stage);
    stage.agent.take().unwrap().stop();
    let ends = |stage: &Stage, queues: u32| {
        for (switch, device) in [(stage.lab.front(), "lb0"), (stage.lab.back(), "lb1")] {
            // Never more on the sending than on the receiving side.
            let near = (&stage.lab.lb, device);
            let far = (switch, "lb");
            let few = queues < 4;
            for (namespace, device) in if few { [far, near] } else { [near, far] } {
                set_queues(namespace, device, queues).unwrap();
            }
        }
    };
    ends(&stage, 2);
    stage.start_agent();
    let bound = |stage: &Stage, device: &str| {
        let shown = shown(stage, device);
        let queues = shown["queues"].as_array().unwrap().iter();
        queues.map(|queue| queue["worker"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(bound(&stage, "lb0"), [0, 1]);
    let transfers = Transfers::start(&stage.lab.client.namespace, &stage.vip(80));
    transfers.go_on();
    ends(&stage, 4);
    let changed = Instant::now();
    for device in ["lb0", "lb1"] {
        eventually(format!("the new queues of {device} to be bound"), SOON, || {
            bound(&stage, device) == [0, 1, 0, 1]
        });
    }
    println!("new queues were bound after {:?}", changed.elapsed());
    // All by the new ones.
    stage.lab.steer_clients(3);
    stage.lab.steer_backends(2);
    transfers.go_on();
    let log = stage.agent().log();
    assert!(!log.contains("detached"), "those that were there went on:\n{log}");

    // What the operator sees who wants fewer.
    let why = set_queues(&stage.lab.lb, "lb0", 1).unwrap_err();
    println!("ethtool says: {why}");
    transfers.go_on();
    assert_eq!(bound(&stage, "lb0"), [0, 1, 0, 1]);
    transfers.finish();
    dropped_are_only(&stage, &["no_socket"]);
    let log = stage.agent.take().unwrap().stop().log;
    assert_eq!(log.matches("all frames are home").count(), 2, "{log}");
}

/// Asks and is answered over one UDP flow, and does not wait long for what is
/// lost.
fn pulse(to: SocketAddr) -> impl FnMut() -> io::Result<String> + Send {
    const WAIT: Duration = Duration::from_millis(20);
    let mut socket = None;
    let mut number = 0_u64;
    move || {
        let socket: &UdpSocket = match &socket {
            Some(socket) => socket,
            None => {
                let new = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
                new.connect(to)?;
                new.set_read_timeout(Some(WAIT))?;
                socket.insert(new)
            }
        };
        number += 1;
        // Refused when an ICMP error came: it is no answer either.
        socket.send(number.to_string().as_bytes())?;
        let mut answer = [0; 64];
        loop {
            let length = socket.recv(&mut answer)?;
            let text = String::from_utf8_lossy(&answer[..length]);
            if let Some((name, echo)) = text.split_once(' ')
                && echo == number.to_string()
            {
                return Ok(name.to_owned());
            }
        }
    }
}

/// For how long nothing was answered, at worst.
fn longest_pause(answers: &[Answer]) -> Duration {
    let good: Vec<_> = answers.iter().filter(|answer| answer.name.is_ok()).collect();
    assert!(good.len() > 10, "{} of {} questions were answered", good.len(), answers.len());
    good.windows(2).map(|pair| pair[1].answered - pair[0].answered).max().unwrap()
}

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

#[test]
fn addresses_of_the_node_itself_come_and_go_and_nobody_notices() {
    require_root!();
    let stage = two_arms();
    let lb = &stage.lab.lb;
    let _servers = streams_everywhere(&stage);
    // Or the second address of a network goes with the first.
    lb.sysctl("net.ipv4.conf.all.promote_secondaries", "1");
    let transfers = Transfers::start(&stage.lab.client.namespace, &stage.vip(80));
    for (device, network) in [("lb0", net::FRONT), ("lb1", net::BACK)] {
        transfers.go_on();
        for [add, delete] in [[net::LB + 1, net::LB], [net::LB, net::LB + 1]] {
            lb.ip(&format!("address add {}/24 dev {device}", network.v4(add)));
            lb.ip(&format!("address add {}/64 dev {device} nodad", network.v6(add)));
            lb.ip(&format!("address delete {}/24 dev {device}", network.v4(delete)));
            lb.ip(&format!("address delete {}/64 dev {device}", network.v6(delete)));
            transfers.go_on();
        }
    }
    transfers.finish();
    assert_eq!(stage.agent().metrics().sum("blixt_new_flows_total", &[]), 4.0);
    dropped_are_only(&stage, &[]);
}

/// Frames that a device has taken in.
fn received(namespace: &Namespace, device: &str) -> u64 {
    let shown = namespace.command("cat").arg("/proc/net/dev").ok();
    let line = shown.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
    line.unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// All endpoints are one host behind a router.
fn behind_a_router() -> (Stage, Far) {
    let mut stage = two_arms();
    let far = stage.lab.far_backend(1_500);
    for service in &mut stage.gateway.services {
        service.endpoints = far.host.addresses.into();
    }
    stage.start_agent_with_new_manifests();
    (stage, far)
}

#[test]
fn a_route_that_changes_takes_transfers_with_it() {
    require_root!();
    const SECOND: u8 = 3;
    let (stage, far) = behind_a_router();
    // One more router, with a link of its own to the host.
    let second = Namespace::new("router2");
    for family in ["ipv4.ip_forward", "ipv6.conf.all.forwarding"] {
        second.sysctl(&format!("net.{family}"), "1");
    }
    Lab::plug(stage.lab.back(), "router2", &second, "near");
    veth(&second, "far", &far.host.namespace, "eth1");
    let host = &far.host.namespace;
    second.ip(&format!("address add {}/24 dev near", net::BACK.v4(SECOND)));
    second.ip(&format!("address add {}/64 dev near nodad", net::BACK.v6(SECOND)));
    for address in far.host.addresses {
        second.ip(&format!("route add {address} dev far"));
    }
    second.ip(&format!("address add {}/32 dev far", net::FAR.v4(SECOND)));
    host.ip(&format!("route add {} dev eth1", net::FAR.v4(SECOND)));
    // Solicitations are answered for addresses of their own device only, and
    // what comes in by one device is answered by another.
    host.ip(&format!("address add {}/128 dev eth1 nodad", net::FAR.v6(net::CLIENT)));
    for device in ["all", "eth0", "eth1"] {
        host.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0");
    }

    let _server = serve_streams(host, 8_080);
    let transfers = Transfers::start(&stage.lab.client.namespace, &stage.vip(80));
    let mut routers = [&far.router, &second];
    for via in [SECOND, net::ROUTER, SECOND] {
        transfers.go_on();
        let lb = &stage.lab.lb;
        let (v4, v6) = (net::FAR.v4(0), net::FAR.v6(0));
        lb.ip(&format!("route replace {v4}/24 via {} dev lb1", net::BACK.v4(via)));
        lb.ip(&format!("-6 route replace {v6}/64 via {} dev lb1", net::BACK.v6(via)));
        let [before, now] = routers.map(|router| received(router, "near"));
        transfers.go_on();
        let [old, new] = routers.map(|router| received(router, "near"));
        // Replies take the way of before: acknowledgements go out of `far`.
        assert!(new > now + 500, "the new router has had {} packets", new - now);
        println!("{} packets by the old one, {} by the new one", old - before, new - now);
        routers.reverse();
    }
    transfers.finish();
    // More than fits waits for the routers' MAC addresses.
    dropped_are_only(&stage, &["hold_full"]);
}

#[test]
fn a_gateway_that_fails_over_to_another_mac_address_is_followed() {
    require_root!();
    let (stage, far) = behind_a_router();
    // It tells so itself, as VRRP and others do: gratuitous ARP and an
    // unsolicited advertisement.
    far.router.sysctl("net.ipv4.conf.near.arp_notify", "1");
    far.router.sysctl("net.ipv6.conf.near.ndisc_notify", "1");
    let _server = serve_streams(&far.host.namespace, 8_080);
    let _names = serve_udp_names(&far.host.namespace, 8_080, "far");
    let client = &stage.lab.client.namespace;
    let transfers = Transfers::start(client, &stage.vip(80));
    let pause = Duration::from_millis(2);
    let probers = stage.vip(80).map(|to| Prober::start(client, pause, pulse(to)));
    for host in 1..=2 {
        transfers.go_on();
        far.router.ip(&format!("link set near address 02:00:00:00:aa:0{host}"));
        transfers.go_on();
    }
    for prober in probers {
        let pause = longest_pause(&prober.stop());
        println!("nothing was answered for {pause:?}");
        assert!(pause < Duration::from_secs(3), "{pause:?}");
    }
    transfers.finish();
    dropped_are_only(&stage, &[]);
}

#[test]
fn our_own_mac_address_changes_and_is_announced() {
    require_root!();
    let stage = two_arms();
    let _servers = streams_everywhere(&stage);
    let client = &stage.lab.client.namespace;
    let transfers = Transfers::start(client, &stage.vip(80));
    let at_client = Announcements::listen(client);
    let at_backend = Announcements::listen(&stage.lab.backends[0].namespace);
    for (device, heard, addresses) in
        [("lb0", &at_client, stage.lab.vips()), ("lb1", &at_backend, stage.lab.snat_addresses())]
    {
        transfers.go_on();
        let changed = Instant::now();
        stage.lab.lb.ip(&format!("link set {device} address 02:00:00:00:bb:01"));
        let mac = heard.wait_for(&addresses, changed, SOON);
        assert_eq!(as_text(mac), "02:00:00:00:bb:01");
        println!("{device}: announced {:?} after the change", changed.elapsed());
        transfers.go_on();
    }
    transfers.finish();
    // The kernel forgets its neighbours when the MAC address changes.
    dropped_are_only(&stage, &["not_our_mac", "hold_full"]);
}
