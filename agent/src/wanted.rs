//! What is wanted: manifests in, a snapshot and statuses out.
//!
//! It numbers the snapshots, keeps what was good, and tells of each thing
//! that is refused once: when it begins, and when it is good again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use blixt_gateway::{
    CONTROLLER_NAME, Compiled, CrdVersion, Environment, Index, Programming, Refusal, SEED,
    Statuses, Update, Warning, compile, warnings,
};
use blixt_model::{Generation, ObjectName, Settings, Snapshot};
use tracing::{error, info, warn};

use crate::streams::Certificates;

/// The wanted state, as it follows from the manifests.
#[derive(Debug)]
pub struct Wanted {
    index: Index,
    snapshot: Snapshot,
    /// What it ends TLS with.
    certificates: Certificates,
    /// Who has an address keeps it.
    assigned: BTreeMap<ObjectName, Vec<IpAddr>>,
    statuses: Statuses,
    refusals: Vec<Refusal>,
    warnings: Vec<Warning>,
    told: BTreeSet<String>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            index: Index::default(),
            snapshot: Snapshot::empty(Generation::default()),
            certificates: Certificates::default(),
            assigned: BTreeMap::new(),
            statuses: Statuses::default(),
            refusals: Vec::new(),
            warnings: Vec::new(),
            told: BTreeSet::new(),
        }
    }
}

/// How agents are to work by what files say at first.
pub fn settings(update: &Update) -> Settings {
    let mut wanted = Wanted::default();
    wanted.read(update.clone());
    let compiled = wanted.compile(&BTreeMap::new(), &|_| Programming::Pending);
    compiled.map(|compiled| compiled.snapshot.settings().clone()).unwrap_or_default()
}

impl Wanted {
    /// Takes in what changed in the manifests; [`Wanted::compile`] comes next.
    pub fn read(&mut self, update: Update) {
        for event in update.events {
            self.index.apply(event);
        }
        self.refusals = update.refusals;
    }

    /// Compiles what is wanted, and changes nothing: [`Wanted::take`] does.
    /// `None` means a fault of ours, which is logged.
    pub fn compile(
        &self,
        unusable: &BTreeMap<IpAddr, String>,
        programmed: &dyn Fn(&ObjectName) -> Programming,
    ) -> Option<Compiled> {
        let environment = Environment {
            controller_name: CONTROLLER_NAME,
            seed: SEED,
            generation: self.snapshot.generation().next(),
            crds: CrdVersion::Supported,
            unusable_addresses: unusable,
            assigned: &self.assigned,
            nodes: &BTreeMap::new(),
            programmed,
        };
        let compiled = compile(&self.index, &environment);
        // See `blixt_gateway::compile`: this is no fault of theirs.
        compiled
            .inspect_err(|fault| {
                error!("the manifests do not compile, please report this: {fault}")
            })
            .ok()
    }

    /// Makes it the wanted state. `true` if the snapshot wants something else
    /// than the one before; it has a number of its own then.
    pub fn take(&mut self, compiled: Compiled) -> bool {
        self.warnings = warnings(&self.index, &compiled);
        self.tell();
        self.statuses = compiled.status;
        let gateways = self.statuses.gateways.iter();
        self.assigned =
            gateways.map(|(name, status)| (name.clone(), status.addresses.clone())).collect();
        // The first one is new even if it wants nothing.
        let first = self.snapshot.generation() == Generation::default();
        let changed = first || !self.snapshot.same_wishes(&compiled.snapshot);
        if changed {
            let certificates = compiled.certificates.into_iter();
            let certificates = certificates.map(|one| (one.id.clone(), Arc::new(one))).collect();
            // What they are called is part of the snapshot.
            self.certificates = Arc::new(certificates);
            self.snapshot = compiled.snapshot;
        }
        changed
    }

    /// Makes a snapshot of a controller's the wanted one, under a number of its
    /// own. Statuses are the controller's then.
    pub fn push(&mut self, snapshot: Snapshot) {
        self.snapshot = snapshot.with_generation(self.snapshot.generation().next());
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The certificates that it names.
    pub fn certificates(&self) -> Certificates {
        self.certificates.clone()
    }

    /// What became of each object.
    pub fn statuses(&self) -> &Statuses {
        &self.statuses
    }

    /// What is refused of the manifests.
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// What was hardly meant so.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Logs what is wrong since the last time, and what no longer is.
    fn tell(&mut self) {
        let refusals = self.refusals.iter().map(|refusal| format!("refused: {refusal}"));
        let now: BTreeSet<_> =
            refusals.chain(self.warnings.iter().map(ToString::to_string)).collect();
        for fault in now.difference(&self.told) {
            warn!("{fault}");
        }
        for fault in self.told.difference(&now) {
            info!("no longer so: {fault}");
        }
        self.told = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blixt_gateway::Manifests;

    const CLASS: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: blixt}
spec: {controllerName: gateway.networking.k8s.io/blixt}
";

    fn gateway(port: u32) -> String {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: web}}
spec:
  gatewayClassName: blixt
  addresses: [{{value: 192.0.2.1}}]
  listeners: [{{name: tcp, protocol: TCP, port: {port}}}]
"
        )
    }

    /// The files, and what is wanted of them.
    #[derive(Default)]
    struct Agent {
        manifests: Manifests,
        wanted: Wanted,
    }

    fn take(agent: &mut Agent, text: &str) -> bool {
        let bytes = [CLASS, "---\n", text].concat().into_bytes();
        let Agent { manifests, wanted } = agent;
        wanted.read(manifests.update(&[("a.yaml".to_owned(), Ok(bytes))].into()));
        compile(wanted, &BTreeMap::new())
    }

    fn compile(wanted: &mut Wanted, unusable: &BTreeMap<IpAddr, String>) -> bool {
        let compiled = wanted.compile(unusable, &|_| Programming::Pending).unwrap();
        wanted.take(compiled)
    }

    fn port(wanted: &Wanted) -> u16 {
        wanted.snapshot().gateways()[0].listeners[0].port.number()
    }

    #[test]
    fn snapshots_are_numbered_when_they_change() {
        let mut agent = Agent::default();
        assert!(compile(&mut agent.wanted, &BTreeMap::new()), "the first is new");
        assert_eq!(agent.wanted.snapshot().generation(), Generation(1));
        assert!(take(&mut agent, &gateway(80)));
        assert_eq!(agent.wanted.snapshot().generation(), Generation(2));
        // A comment changes nothing, and no number is used up.
        assert!(!take(&mut agent, &format!("# new\n{}", gateway(80))));
        assert!(take(&mut agent, &gateway(81)));
        assert_eq!(agent.wanted.snapshot().generation(), Generation(3));
    }

    #[test]
    fn what_is_refused_is_told_once_and_what_was_good_stays() {
        let mut agent = Agent::default();
        take(&mut agent, &gateway(80));
        assert!(!take(&mut agent, &gateway(65_536)));
        assert_eq!(port(&agent.wanted), 80);
        assert_eq!(agent.wanted.refusals().len(), 1);
        let told = |wanted: &Wanted| {
            wanted.told.iter().filter(|fault| fault.starts_with("refused")).count()
        };
        assert_eq!(told(&agent.wanted), 1);
        take(&mut agent, "a: [");
        assert_eq!((port(&agent.wanted), told(&agent.wanted)), (80, 1));
        take(&mut agent, &gateway(81));
        assert_eq!((port(&agent.wanted), told(&agent.wanted)), (81, 0));
    }

    #[test]
    fn addresses_that_cannot_be_used_are_conditions() {
        let mut agent = Agent::default();
        take(&mut agent, &gateway(80));
        let unusable = [([192, 0, 2, 1].into(), "is the node's own".to_owned())].into();
        assert!(compile(&mut agent.wanted, &unusable));
        assert_eq!(agent.wanted.snapshot().gateways(), []);
        let statuses = format!("{:?}", agent.wanted.statuses());
        assert!(statuses.contains("192.0.2.1 is the node's own"), "{statuses}");
    }
}
