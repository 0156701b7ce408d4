//! Everything changes all the time, and flows that exist do not notice.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use blixt_e2e::{
    Answer, Listener, Metrics, Prober, Protocol, Stage, StagePlan, ask, get, put, serve_digests,
    serve_names, serve_udp_names,
};
use blixt_testkit::netns::{Namespace, eventually_some, program};
use blixt_testkit::require_root;

use super::balance::short_rest;
use super::live::{all_by, udp_flow};
use super::nothing_is_left;

/// One file is written each time: 2,000 a minute.
const EVERY: Duration = Duration::from_millis(30);

/// Endpoints that come and go with each file.
const AT_ONCE: u32 = 10;

/// The most endpoints that one service has meanwhile.
const MANY: u32 = 10_000;

/// In each of these is all that changes. What a change does to a worker it does
/// in all of them; what an interrupt or the machine's own host does, hardly.
const PHASES: u32 = 3;

/// How long a question waits for its answer: longer than a busy machine takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the kernel could not give to a worker that had no CPU for too long.
/// TCP sends it again, UDP does not.
const RINGS: [&str; 3] = [
    "blixt_xsk_fill_ring_empty_total",
    "blixt_xsk_rx_ring_full_total",
    "blixt_xsk_rx_dropped_total",
];

/// Endpoints of a slice at most (`EndpointSlice.endpoints`, maxItems).
const IN_A_SLICE: u32 = 1_000;

/// Where nobody is: in the lab's networks no address begins so.
fn nobody(number: u32) -> IpAddr {
    IpAddr::from((0x0a00_0000 + number).to_be_bytes())
}

/// A file with slices of endpoints that are nobody's, for a service of the
/// stage.
fn write_slices(stage: &Stage, file: &str, service: &str, endpoints: &[u32]) {
    let protocol = if service.ends_with("-udp") { "UDP" } else { "TCP" };
    let mut yaml = String::new();
    for (number, endpoints) in endpoints.chunks(IN_A_SLICE as usize).enumerate() {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|&endpoint| format!("{{addresses: [\"{}\"]}}", nobody(endpoint)))
            .collect();
        let _ = write!(
            yaml,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata:\n  name: {file}-{number}\n  \
             labels: {{kubernetes.io/service-name: {service}}}\n\
             addressType: IPv4\nports: [{{name: it, protocol: {protocol}, port: 8080}}]\n\
             endpoints: [{}]\n",
            endpoints.join(", ")
        );
    }
    let path = stage.manifests.path();
    let new = path.join(format!("{file}.new"));
    fs::write(&new, yaml).unwrap();
    fs::rename(new, path.join(format!("{file}.yaml"))).unwrap();
}

/// Everything a worker or the control thread has to follow.
struct Churn<'a> {
    stage: &'a mut Stage,
    /// Files written so far.
    files: u32,
    /// Endpoints that came or went so far.
    endpoints: u32,
}

impl Churn<'_> {
    /// The next file: most of them have other endpoints, some other weights, or
    /// a listener more or less.
    fn next(&mut self) {
        let number = self.files;
        self.files += 1;
        match number % 10 {
            4 => {
                let listeners = self.stage.gateway.listeners.iter_mut();
                for listener in listeners.filter(|listener| listener.port == 80) {
                    for (place, (_, weight)) in listener.backends.iter_mut().enumerate() {
                        *weight = (number + place as u32) % 3;
                    }
                }
                self.stage.tell();
            }
            9 => {
                let port = 1_000 + (number / 10 % 5) as u16;
                let listeners = &mut self.stage.gateway.listeners;
                let before = listeners.len();
                listeners.retain(|listener| listener.port != port);
                if listeners.len() == before {
                    let backends = vec![("be1".to_owned(), 1), ("be2".to_owned(), 2)];
                    listeners.push(Listener { protocol: Protocol::Tcp, port, backends });
                }
                self.stage.tell();
            }
            _ => {
                let services = ["be0", "be0-udp", "be1", "be2-udp"];
                let service = services[number as usize % services.len()];
                let first = number * AT_ONCE / 2;
                let endpoints: Vec<_> = (first..first + AT_ONCE).collect();
                write_slices(self.stage, &format!("churn-{service}"), service, &endpoints);
                self.endpoints += AT_ONCE;
            }
        }
    }

    /// Writes files for a while.
    fn go_on(&mut self, duration: Duration) {
        let begin = Instant::now();
        let mut next = begin;
        while begin.elapsed() < duration {
            self.next();
            next += EVERY;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    /// Gives a service a lot of endpoints, or takes them away again.
    fn many(&mut self, there: bool) {
        let endpoints: Vec<_> = (0x10_0000..0x10_0000 + MANY).collect();
        if there {
            write_slices(self.stage, "many", "be0", &endpoints);
        } else {
            fs::remove_file(self.stage.manifests.path().join("many.yaml")).unwrap();
        }
        self.endpoints += MANY;
    }
}

/// Adds and removes routes and neighbours of the load balancer, over and over.
fn stir_the_kernel(lb: &Namespace, enough: &Arc<AtomicBool>) -> JoinHandle<u32> {
    let files = tempfile::tempdir().unwrap();
    let batches = ["add", "del"].map(|verb| {
        let mut batch = String::new();
        for number in 0..100 {
            let _ = writeln!(batch, "route {verb} 10.200.{number}.0/24 via 198.51.100.22");
            let lladdr = if verb == "add" { " lladdr 02:00:00:00:00:07" } else { "" };
            let host = 100 + number;
            let _ = writeln!(batch, "neigh {verb} 198.51.100.{host}{lladdr} dev lb1");
        }
        let file = files.path().join(verb);
        fs::write(&file, batch).unwrap();
        file
    });
    let (name, enough) = (lb.name().to_owned(), Arc::clone(enough));
    std::thread::spawn(move || {
        let _files = files;
        let mut changes = 0;
        while !enough.load(Ordering::Relaxed) {
            for batch in &batches {
                program("ip").args(["-n", &name, "-batch"]).arg(batch.display().to_string()).ok();
                changes += 200;
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        changes
    })
}

/// The turns beyond 1 ms because of what the worker did itself.
fn slow_turns(metrics: &Metrics) -> f64 {
    metrics.sum("blixt_worker_slow_turns_total", &["by=\"itself\""])
}

fn churn(duration: Duration) {
    let plan = StagePlan { flags: short_rest(), ..StagePlan::default() };
    let mut stage = Stage::new(plan, |_, gateway| {
        // What is already there goes to the first backend. New connections
        // have a listener that nobody touches, but that it is told again.
        for listener in &mut gateway.listeners {
            for (place, (_, weight)) in listener.backends.iter_mut().enumerate() {
                *weight = u32::from(place == 0);
            }
        }
        let backends = vec![("new".to_owned(), 1)];
        gateway.listeners.push(Listener { protocol: Protocol::Tcp, port: 90, backends });
        let mut service = gateway.service("be2").clone();
        service.name = "new".to_owned();
        gateway.services.push(service);
    });
    let backends = &stage.lab.backends;
    let _servers = [
        serve_digests(&backends[0].namespace, 8_080),
        serve_udp_names(&backends[0].namespace, 8_080, "be0"),
        serve_names(&backends[2].namespace, 8_080, "be2"),
    ];

    let enough = Arc::new(AtomicBool::new(false));
    let client = &stage.lab.client.namespace;
    type Transfer = fn(SocketAddr, &AtomicBool) -> std::io::Result<u64>;
    let transfers: Vec<_> = stage
        .vip(80)
        .into_iter()
        .flat_map(|to| [("get", to, get as Transfer), ("put", to, put as Transfer)])
        .map(|(what, to, transfer)| {
            let enough = Arc::clone(&enough);
            (format!("{what} {to}"), client.thread(move || transfer(to, &enough)))
        })
        .collect();
    let pause = Duration::from_millis(2);
    let queries: Vec<_> = stage
        .vip(80)
        .into_iter()
        .flat_map(|to| [to; 3])
        .map(|to| (to, Prober::start(client, pause, udp_flow(to, PATIENCE))))
        .collect();
    let [new, _] = stage.vip(90);
    let connections = Prober::start(client, 5 * pause, move || ask(new));
    std::thread::sleep(Duration::from_millis(300));

    let before = stage.agent().metrics();
    let lost_before = stage.lab.lost_before_the_load_balancer();
    assert!(before.sum("blixt_new_flows_total", &[]) >= 10.0, "all flows have begun");
    let kernel = stir_the_kernel(&stage.lab.lb, &enough);
    let begin = Instant::now();
    let mut churn = Churn { stage: &mut stage, files: 0, endpoints: 0 };
    let mut slow = Vec::new();
    for _ in 0..PHASES {
        let before = slow_turns(&churn.stage.agent().metrics());
        churn.go_on(duration / PHASES / 4);
        churn.many(true);
        churn.go_on(duration / PHASES / 2);
        churn.many(false);
        churn.go_on(duration / PHASES / 4);
        slow.push(slow_turns(&churn.stage.agent().metrics()) - before);
    }
    let (files, endpoints) = (churn.files, churn.endpoints);
    let took = begin.elapsed();

    // The last word is in force, soon.
    let agent = stage.agent();
    let (wanted, applied) = eventually_some("the last change", Duration::from_secs(10), || {
        let metrics = agent.metrics();
        let wanted = metrics.sum("blixt_wanted_generation", &[]);
        let applied = metrics.sum("blixt_tables_generation", &[]);
        let last = agent.ctl_text(&["lb", "-o", "json"]);
        let newest = nobody((files - 1) * AT_ONCE / 2 + AT_ONCE - 1).to_string();
        let is_last = wanted == applied && (last.contains(&newest) || (files - 1) % 10 % 5 == 4);
        if is_last { Ok((wanted, applied)) } else { Err(format!("{applied} of {wanted}")) }
    });
    let lag = begin.elapsed() - took;
    enough.store(true, Ordering::Relaxed);
    let kernel_changes = kernel.join().unwrap();
    for (what, transfer) in transfers {
        let bytes = transfer.join().unwrap().unwrap_or_else(|error| panic!("{what}: {error}"));
        println!("{what}: {} MB, both ends agree", bytes / 1_000_000);
        assert!(bytes > 1_000_000, "{what}");
    }
    let mut lost = 0;
    for (to, prober) in queries {
        let mut answers = prober.stop();
        let asked = answers.len();
        let unanswered = |answer: &Answer| {
            answer.name.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
        };
        answers.retain(|answer| !unanswered(answer));
        lost += asked - answers.len();
        all_by(&format!("a UDP flow to {to}"), &answers, "be0");
    }
    let answers: Vec<Answer> = connections.stop();
    all_by("new connections", &answers, "be2");

    let after = stage.agent().metrics();
    let rate = f64::from(endpoints) * 60.0 / took.as_secs_f64();
    let generations = wanted - before.sum("blixt_wanted_generation", &[]);
    let longest =
        ["blixt_worker_longest_turn_nanoseconds", "blixt_worker_longest_turn_own_nanoseconds"]
            .map(|name| after.sum(name, &[]) / 1e3);
    println!(
        "{files} files in {took:?}, {endpoints} endpoints came and went ({rate:.0} a minute), \
         {kernel_changes} changes in the kernel, {} new connections; {generations} generations, \
         the last in force {lag:?} after it was written; {slow:?} slow turns, the longest \
         {longest:.0?} µs (by the clock, by itself; the start included)",
        answers.len(),
    );
    let full = RINGS.map(|name| after.sum(name, &[]) - before.sum(name, &[])).iter().sum::<f64>()
        + (stage.lab.lost_before_the_load_balancer() - lost_before) as f64;
    println!("{lost} questions were lost, and {full} packets for want of CPU");
    assert!(lost as f64 <= full, "dropped: {:?}", after.drops());
    assert_eq!(applied, wanted);
    assert!(rate >= 2_000.0);
    // How many come together is a matter of how busy the machine is.
    assert!(generations >= 10.0);
    assert!(slow.contains(&0.0), "turns beyond 1 ms in each phase: {slow:?}");
    assert_eq!(after.sum("blixt_reset_flows_total", &[]), 0.0);
    assert_eq!(after.sum("blixt_answers_total", &["kind=\"reset\""]), 0.0);
    nothing_is_left(&stage, &[]);
    stage.agent.take().unwrap().stop();
}

#[test]
fn flows_notice_nothing_of_two_thousand_changes_a_minute() {
    require_root!();
    churn(Duration::from_secs(8));
}

#[test]
#[ignore = "takes minutes: scripts/test long"]
fn flows_notice_nothing_of_ten_minutes_of_changes() {
    require_root!();
    churn(Duration::from_secs(600));
}
