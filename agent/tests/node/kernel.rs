//! The mirror of the kernel's tables, against a real kernel.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use blixt_agent::kernel::{AttachedInterface, Attachments, Mirror};
use blixt_dataplane::address::from_ip;
use blixt_dataplane::{Fib, InterfaceSlot, Neighbour};
use blixt_testkit::netns::{Namespace, eventually, veth};
use blixt_testkit::require_root;
use tokio::sync::watch;

/// A kernel probes after `delay_first_probe_time`, 5 s.
const SOON: Duration = Duration::from_secs(20);

/// Two namespaces with a link, and a mirror of the first one.
struct Mirrored {
    node: Namespace,
    far: Namespace,
    newest: Arc<Mutex<Vec<Fib>>>,
    mirror: Mirror,
    ifindex: u32,
    _attachments: watch::Sender<Attachments>,
    _runtime: tokio::runtime::Runtime,
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
        let attached = AttachedInterface { slot, ifindex, partial_checksums: true };
        let (sender, attachments) = watch::channel(Attachments {
            slots: 1,
            attached: vec![attached],
            ..Attachments::default()
        });
        let newest = Arc::new(Mutex::new(Vec::new()));
        let fibs = Arc::clone(&newest);
        // Netlink belongs to the namespace of the thread that opens it.
        let (runtime, mirror) = node.inside(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let publish = move |fib| fibs.lock().unwrap().push(fib);
            let mirror = runtime.block_on(Mirror::start(attachments, publish)).unwrap();
            (runtime, mirror)
        });
        Self { node, far, newest, mirror, ifindex, _attachments: sender, _runtime: runtime }
    }

    /// Whether the newest Fib, as text, holds this.
    fn has(&self, part: &str) -> bool {
        self.newest.lock().unwrap().last().is_some_and(|fib| format!("{fib:?}").contains(part))
    }

    fn neighbour(&self, address: &str) -> Neighbour {
        Neighbour { ifindex: self.ifindex, address: from_ip(address.parse().unwrap()) }
    }

    fn knows(&self, address: &str) -> bool {
        self.has(&format!("{:?}: HopId", self.neighbour(address)))
    }
}

fn number(address: &str) -> u128 {
    from_ip(address.parse().unwrap())
}

#[test]
fn routes_come_and_go() {
    require_root!();
    let mirrored = Mirrored::new();
    let has = |prefix: &str| mirrored.has(&format!("prefix: {},", number(prefix)));
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
    let new_mac = "[2, 0, 0, 0, 153, 153, ";
    assert!(!mirrored.has(new_mac));
    mirrored.far.ip("link set eth address 02:00:00:00:99:99");
    // What would come by itself after 15 to 45 s without confirmation.
    mirrored.node.ip("neighbour change 10.9.0.2 dev eth nud stale");
    // Three questions to the old MAC address, then it is given up, and whoever
    // has a packet for it asks anew.
    eventually("the old one to be given up", SOON, || !mirrored.knows("10.9.0.2"));
    mirrored.mirror.resolver.resolve(mirrored.neighbour("10.9.0.2"));
    eventually("its new MAC address to be known", SOON, || mirrored.has(new_mac));
}

#[test]
fn a_storm_of_changes_is_survived() {
    require_root!();
    let mirrored = Mirrored::new();
    // More than the kernel keeps for a reader that does not come.
    let mut batch = String::new();
    for number in 0..20_000_u32 {
        batch +=
            &format!("route add 100.{}.{}.0/24 via 10.9.0.2\n", 64 + (number >> 8), number & 255);
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), batch).unwrap();
    mirrored.node.command("ip").args(["-batch", &file.path().display().to_string()]).ok();
    let last = format!("prefix: {},", number("100.142.31.0"));
    eventually("the last one to be known", SOON, || mirrored.has(&last));
}
