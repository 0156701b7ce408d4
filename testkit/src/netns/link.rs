//! Links between namespaces, and what a driver does for them.

use super::namespace::Namespace;

/// What a network device may do for its sender and receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offloads {
    /// As the kernel made them: on a veth packets are larger than the MTU and
    /// their checksums are partial.
    AsMade,
    /// Off: packets are what they would be on a wire.
    Off,
}

/// Connects `a` and `b` by a pair of veths with one queue each.
pub fn veth(a: &Namespace, a_name: &str, b: &Namespace, b_name: &str) {
    veth_with_queues(a, a_name, b, b_name, 1);
}

/// Connects `a` and `b` by a pair of veths with `queues` queues each. XDP on
/// one end needs as many receive queues there as the other end has transmit
/// queues (`veth_xdp_set` in drivers/net/veth.c).
pub fn veth_with_queues(a: &Namespace, a_name: &str, b: &Namespace, b_name: &str, queues: u32) {
    let count = format!("numtxqueues {queues} numrxqueues {queues}");
    a.ip(&format!(
        "link add {a_name} {count} type veth peer name {b_name} {count} netns {}",
        b.name()
    ));
    for (namespace, name) in [(a, a_name), (b, b_name)] {
        // All of the queues are made, but not all of them are in use.
        let wanted = queues.to_string();
        let channels =
            namespace.command("ethtool").args(["-L", name, "rx", &wanted, "tx", &wanted]);
        let ran = channels.run();
        // Code 80 is "unchanged" in ethtool's own words.
        assert!(
            ran.status.success() || ran.stderr.contains("unmodified"),
            "{}: {}{}",
            ran.line,
            ran.stdout,
            ran.stderr
        );
        namespace.ip(&format!("link set {name} up"));
    }
}

/// Makes a bridge in `namespace`, up and forwarding at once.
pub fn bridge(namespace: &Namespace, name: &str) {
    namespace.ip(&format!("link add {name} type bridge forward_delay 0 mcast_snooping 0"));
    namespace.ip(&format!("link set {name} up"));
}

impl Namespace {
    /// Sets what the device does for others.
    pub fn offloads(&self, device: &str, offloads: Offloads) {
        if offloads == Offloads::Off {
            let features = ["rx", "tx", "sg", "tso", "gso", "gro"];
            let settings = features.iter().flat_map(|&feature| [feature, "off"]);
            self.command("ethtool").args(["-K", device]).args(settings).ok();
        }
    }

    /// Whether the device has the feature, by ethtool's long name.
    pub fn has_offload(&self, device: &str, feature: &str) -> bool {
        let all = self.command("ethtool").args(["-k", device]).ok();
        let line = all.lines().find_map(|line| line.trim().strip_prefix(feature));
        line.unwrap_or_else(|| panic!("{device} knows no {feature}")).starts_with(": on")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_veth_has_its_queues_and_offloads() {
        crate::require_root!();
        let (a, b) = (Namespace::new("a"), Namespace::new("b"));
        veth_with_queues(&a, "eth0", &b, "eth0", 4);
        for namespace in [&a, &b] {
            let queues = namespace.command("ls").arg("/sys/class/net/eth0/queues").ok();
            assert_eq!(queues.lines().filter(|name| name.starts_with("rx-")).count(), 4);
        }
        assert!(a.has_offload("eth0", "tcp-segmentation-offload"));
        a.offloads("eth0", Offloads::Off);
        assert!(!a.has_offload("eth0", "tcp-segmentation-offload"));
        assert!(!a.has_offload("eth0", "tx-checksumming"));
        assert!(b.has_offload("eth0", "tx-checksumming"));
    }
}
