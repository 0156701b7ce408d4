//! What the agent may do: no more than it needs.

use std::fs;
use std::time::Duration;

use blixt_e2e::cluster::root;
use blixt_testkit::netns::eventually_some;
use blixt_testkit::require_root;

use crate::alone;
use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(10);

/// Each with what the kernel refuses to an agent that lacks it.
const NEEDED: [(&str, &str); 6] = [
    ("BPF", "the kernel forbids BPF maps"),
    ("IPC_LOCK", "the kernel will not lock 16 MiB of frames in memory"),
    ("NET_ADMIN", "the kernel forbids BPF maps"),
    ("NET_BIND_SERVICE", "the agent may not listen on port 80"),
    ("NET_RAW", "the kernel refuses AF_XDP sockets"),
    ("PERFMON", "the kernel refused the XDP program (Permission denied"),
];

/// Six are enough, as all other tests here show.
#[test]
fn each_capability_of_the_daemonset_is_needed() {
    require_root!();
    let _alone = alone();
    let world = World::new();
    let manifest = fs::read_to_string(root().join("manifests/default/agent.yaml")).unwrap();
    let added: Vec<_> = NEEDED.iter().map(|(capability, _)| *capability).collect();
    assert!(manifest.contains(&format!("add: [{}]", added.join(", "))), "{manifest}");
    for (capability, refusal) in NEEDED {
        let mut agent = world.launch_without(&capability.to_lowercase());
        eventually_some(format!("{refusal}, without {capability}"), PATIENCE, || {
            let said = agent.complaint();
            if said.contains(refusal) { Ok(()) } else { Err(said) }
        });
    }
}
