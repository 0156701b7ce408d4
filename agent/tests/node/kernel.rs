//! The mirror of the kernel's tables, against a real kernel.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use blixt_agent::kernel::{AttachedInterface, Attachments, Mirror, Publish};
use blixt_dataplane::address::from_ip;
use blixt_dataplane::{Fib, InterfaceSlot, Mac, Neighbour};
use blixt_testkit::netns::{Namespace, eventually, veth};
use blixt_testkit::require_root;
use tokio::sync::watch;

/// A kernel probes after `delay_first_probe_time`, 5 s.
const SOON: Duration = Duration::from_secs(20);

/// Two namespaces with a link, and a mirror of the first one.
struct Mirrored {
    node: Namespace,
    far: Namespace,
    newest: Newest,
    mirror: Mirror,
    ifindex: u32,
    _attachments: watch::Sender<Attachments>,
}

/// The newest Fib.
#[derive(Clone, Default)]
struct Newest(Arc<Mutex<Fib>>);

impl Publish for Newest {
    fn publish(&self, fib: Fib) {
        *self.0.lock().unwrap() = fib;
    }

    fn reclaim(&self) {}
}

impl Mirrored {
    fn new() -> Self {
        let (node, far) = (Namespace::new("node"), Namespace::new("far"));
        veth(&node, "eth", &far, "eth");
        for (namespace, host) in [(&node, 1), (&far, 2)] {
            namespace.ip(&format!("address add 10.9.0.{host}/24 dev eth"));
            namespace.ip(&format!("address add 2001:db8:9::{host}/64 dev eth nodad"));
        }
        let index = node.ip("-o link show eth");
        let ifindex: u32 = index.split(':').next().unwrap().parse().unwrap();
        let slot = InterfaceSlot(0);
        let attached = AttachedInterface { slot, ifindex, partial_checksums: true, host: None };
        let (sender, attachments) = watch::channel(Attachments {
            slots: 1,
            attached: vec![attached],
            ..Attachments::default()
        });
        let newest = Newest::default();
        let fibs = newest.clone();
        // Netlink belongs to the namespace of the thread that starts it.
        let mirror = node.inside(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(Mirror::start(attachments, fibs)).unwrap()
        });
        Self { node, far, newest, mirror, ifindex, _attachments: sender }
    }

    /// Whether the newest Fib, as text, holds this.
    fn has(&self, part: &str) -> bool {
        format!("{:?}", self.newest.0.lock().unwrap()).contains(part)
    }

    /// Whether there is a route to this network.
    fn leads(&self, network: &str) -> bool {
        self.has(&format!("({}, ", from_ip(network.parse().unwrap())))
    }

    /// How many routes the newest Fib has, and their stamp.
    fn routes(&self) -> (usize, u64) {
        let fib = self.newest.0.lock().unwrap();
        (fib.routes().len(), fib.routes().stamp())
    }

    fn mac(&self, address: &str) -> Option<Mac> {
        self.newest.0.lock().unwrap().mac(self.neighbour(address))
    }

    fn neighbour(&self, address: &str) -> Neighbour {
        Neighbour { ifindex: self.ifindex, address: from_ip(address.parse().unwrap()) }
    }

    fn knows(&self, address: &str) -> bool {
        self.mac(address).is_some()
    }
}

#[test]
fn routes_come_and_go() {
    require_root!();
    let mirrored = Mirrored::new();
    let has = |prefix: &str| mirrored.leads(prefix);
    assert!(has("10.9.0.0") && has("2001:db8:9::"), "the connected networks");
    assert!(!has("198.51.100.0"));
    for (prefix, bits, via) in
        [("198.51.100.0", 24, "10.9.0.2"), ("2001:db8:77::", 48, "2001:db8:9::2")]
    {
        mirrored.node.ip(&format!("route add {prefix}/{bits} via {via}"));
        eventually(format!("{prefix} to be known"), SOON, || has(prefix));
        mirrored.node.ip(&format!("route delete {prefix}/{bits}"));
        eventually(format!("{prefix} to be forgotten"), SOON, || !has(prefix));
    }
    // Routes of an interface that goes down are not told one by one.
    mirrored.node.ip("link set eth down");
    eventually("the network to be forgotten", SOON, || !has("10.9.0.0"));
    mirrored.node.ip("link set eth up");
    eventually("the network to be known again", SOON, || has("10.9.0.0"));
}

#[test]
fn devices_and_addresses_are_seen() {
    require_root!();
    let mirrored = Mirrored::new();
    let view = || mirrored.mirror.view.borrow().clone();
    assert_eq!(view().device("eth").map(|device| device.ifindex), Some(mirrored.ifindex));
    let own = |text: &str| view().own_addresses().get(&text.parse().unwrap()).cloned();
    assert_eq!(own("10.9.0.1").as_deref(), Some("eth"));
    assert_eq!(own("2001:db8:9::1").as_deref(), Some("eth"));
    mirrored.node.ip("address add 10.9.0.77/24 dev eth");
    eventually("the address to be seen", SOON, || own("10.9.0.77").is_some());
    mirrored.node.ip("link delete eth");
    eventually("the device to be missed", SOON, || view().device("eth").is_none());
}

#[test]
fn neighbours_are_resolved_when_asked_for() {
    require_root!();
    let mirrored = Mirrored::new();
    for address in ["10.9.0.2", "2001:db8:9::2"] {
        assert!(!mirrored.knows(address));
        mirrored.mirror.resolver.resolve(mirrored.neighbour(address));
        eventually(format!("{address} to be resolved"), SOON, || mirrored.knows(address));
    }
    // Nobody is there: it is no neighbour, and asking again is no harm.
    for _ in 0..3 {
        mirrored.mirror.resolver.resolve(mirrored.neighbour("10.9.0.99"));
    }
    std::thread::sleep(Duration::from_millis(200));
    assert!(!mirrored.knows("10.9.0.99"));
}

#[test]
fn a_neighbour_that_gets_another_mac_is_noticed_though_the_kernel_sends_nothing() {
    require_root!();
    let mirrored = Mirrored::new();
    mirrored.mirror.resolver.resolve(mirrored.neighbour("10.9.0.2"));
    eventually("it to be resolved", SOON, || mirrored.knows("10.9.0.2"));
    let new_mac = Some([2, 0, 0, 0, 0x99, 0x99]);
    assert_ne!(mirrored.mac("10.9.0.2"), new_mac);
    mirrored.far.ip("link set eth address 02:00:00:00:99:99");
    // What would come by itself after 15 to 45 s without confirmation.
    mirrored.node.ip("neighbour change 10.9.0.2 dev eth nud stale");
    // Three questions to the old MAC address, then it is given up, and whoever
    // has a packet for it asks anew.
    eventually("the old one to be given up", SOON, || !mirrored.knows("10.9.0.2"));
    mirrored.mirror.resolver.resolve(mirrored.neighbour("10.9.0.2"));
    let is_known = || mirrored.mac("10.9.0.2") == new_mac;
    eventually("its new MAC address to be known", SOON, is_known);
}

/// So many routes of /24, from 20.0.0.0 on, as one batch for `ip`.
fn add_routes(node: &Namespace, count: u32) {
    let mut batch = String::new();
    for number in 0..count {
        let network = Ipv4Addr::from_bits(0x1400_0000 + (number << 8));
        let _ = writeln!(batch, "route add {network}/24 via 10.9.0.2");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), batch).unwrap();
    let ip = node.command("ip").limit(Duration::from_secs(600));
    ip.args(["-batch", &file.path().display().to_string()]).ok();
}

#[test]
fn a_storm_of_changes_is_survived() {
    require_root!();
    let mirrored = Mirrored::new();
    // More than the kernel keeps for a reader that does not come.
    add_routes(&mirrored.node, 20_000);
    eventually("the last one to be known", SOON, || mirrored.routes().0 > 20_000);
}

/// However long it takes to read so many routes, neighbours are known soon: the
/// routes are read meanwhile, and not made again.
fn neighbours_do_not_wait_for_routes(routes: u32) {
    let mirrored = Mirrored::new();
    let begin = Instant::now();
    add_routes(&mirrored.node, routes);
    let (added, begin) = (begin.elapsed(), Instant::now());
    let all = || mirrored.routes().0 > routes as usize;
    eventually("all routes to be known", Duration::from_secs(600), all);
    println!("{routes} routes: added in {added:.1?}, all known {:.1?} after that", begin.elapsed());
    std::thread::sleep(Duration::from_millis(300));

    let mut latencies = Vec::new();
    for number in 0..20_u8 {
        if number >= 10 {
            // From here on routes are read all the time.
            let router = number % 2 + 2;
            mirrored.node.ip(&format!("route replace 198.51.100.0/24 via 10.9.0.{router}"));
        }
        let (_, stamp) = mirrored.routes();
        let begin = Instant::now();
        let mac = format!("02:00:00:00:77:{number:02x}");
        mirrored.node.ip(&format!("neighbour replace 10.9.0.77 lladdr {mac} dev eth"));
        let mac = [2, 0, 0, 0, 0x77, number];
        while mirrored.mac("10.9.0.77") != Some(mac) {
            assert!(begin.elapsed() < Duration::from_secs(2), "change {number}");
            std::thread::sleep(Duration::from_micros(200));
        }
        latencies.push(begin.elapsed());
        if number < 10 {
            assert_eq!(mirrored.routes().1, stamp, "the routes were made again");
        }
    }
    let (quiet, reading) = latencies.split_at_mut(10);
    quiet.sort();
    reading.sort();
    println!(
        "a neighbour's change is published after {:.1?} (at most {:.1?}), while routes are read \
         after {:.1?} (at most {:.1?}), `ip` included",
        quiet[5], quiet[9], reading[5], reading[9]
    );
}

/// While so many routes are read, whatever else changes is in force soon: the
/// round of changes is gone through some times until they are.
fn nothing_waits_for_routes(routes: u32) {
    let mirrored = Mirrored::new();
    let (node, view) = (&mirrored.node, || mirrored.mirror.view.borrow().clone());
    veth(node, "eth1", &mirrored.far, "eth1");
    add_routes(node, routes);
    let all = || mirrored.routes().0 > routes as usize;
    eventually("all routes to be known", Duration::from_secs(600), all);

    let mut latencies = Vec::new();
    let (_, stamp) = mirrored.routes();
    let begin = Instant::now();
    node.ip("route replace 198.51.100.0/24 via 10.9.0.3");
    let mut rounds = 0_u8;
    while mirrored.routes().1 == stamp && rounds < 200 {
        rounds += 1;
        let mtu = 1_400 + u32::from(rounds % 2);
        let mac = [2, 0, 0, 0, 0x77, rounds];
        // Each odd one is undone by the next.
        let odd = rounds % 2 == 1;
        let (state, is_up) = if odd { ("down", false) } else { ("up", true) };
        let (change, has) = if odd { ("add", true) } else { ("delete", false) };
        let own = "10.9.0.88".parse().unwrap();
        let lladdr = mac.map(|byte| format!("{byte:02x}")).join(":");
        let is_mtu = || view().device("eth").unwrap().mtu == mtu;
        let is_neighbour = || mirrored.mac("10.9.0.77") == Some(mac);
        let is_link = || view().device("eth1").unwrap().running == is_up;
        let is_own = || view().own_addresses().contains_key(&own) == has;
        let changes: [(&str, String, &dyn Fn() -> bool); 4] = [
            ("an MTU", format!("link set eth mtu {mtu}"), &is_mtu),
            (
                "a neighbour",
                format!("neighbour replace 10.9.0.77 lladdr {lladdr} dev eth"),
                &is_neighbour,
            ),
            ("a link", format!("link set eth1 {state}"), &is_link),
            ("an address", format!("address {change} 10.9.0.88/32 dev eth"), &is_own),
        ];
        for (what, command, is_in_force) in changes {
            let changed = Instant::now();
            node.ip(&command);
            while !is_in_force() {
                assert!(changed.elapsed() < SOON, "{what}: {command}");
                std::thread::sleep(Duration::from_micros(200));
            }
            latencies.push((changed.elapsed(), what));
        }
    }
    latencies.sort();
    println!(
        "{routes} routes were read anew in {:.1?}; meanwhile {} changes were in force after {:.1?} \
         (at most {:.1?}), `ip` included",
        begin.elapsed(),
        latencies.len(),
        latencies[latencies.len() / 2],
        latencies[latencies.len() - 1]
    );
    // Were they to wait for the routes, that would be one round, or two.
    assert!(rounds >= 4, "{rounds} rounds of changes in {:?}", begin.elapsed());
    eventually("the route's change to be known", Duration::from_secs(600), || {
        mirrored.routes().1 != stamp
    });
}

#[test]
fn nothing_waits_for_a_hundred_thousand_routes() {
    require_root!();
    nothing_waits_for_routes(100_000);
}

#[test]
#[ignore = "takes minutes: scripts/test long"]
fn nothing_waits_for_a_million_routes() {
    require_root!();
    nothing_waits_for_routes(1_000_000);
}

#[test]
fn neighbours_do_not_wait_for_ten_thousand_routes() {
    require_root!();
    neighbours_do_not_wait_for_routes(10_000);
}

#[test]
#[ignore = "takes minutes: scripts/test long"]
fn neighbours_do_not_wait_for_a_million_routes() {
    require_root!();
    neighbours_do_not_wait_for_routes(1_000_000);
}
