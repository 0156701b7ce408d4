//! What is counted.

use std::sync::atomic::AtomicU64;

use blixt_model::Snapshot;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::watch::Watched;

/// All that is counted; copies count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) leads: Gauge,
    pub(crate) objects: Gauge,
    gateways: Gauge,
    endpoints: Gauge,
    pub(crate) compilations: Counter,
    pub(crate) compile_seconds: Gauge<f64, AtomicU64>,
    pub(crate) writes: Family<Outcome, Counter>,
    pub(crate) events: Counter,
    lists: Family<Of, Counter>,
}

/// What can come of a write; each is there from the beginning.
pub(crate) const WRITTEN: &str = "written";
pub(crate) const OUTDATED: &str = "outdated";
pub(crate) const GONE: &str = "gone";
pub(crate) const FAILED: &str = "failed";
const OUTCOMES: [&str; 4] = [WRITTEN, OUTDATED, GONE, FAILED];

/// What came of a write, as a label.
type Outcome = [(&'static str, &'static str); 1];

/// Of what, as a label.
type Of = [(&'static str, &'static str); 1];

impl Metrics {
    pub(crate) fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("blixt_controller");
        registry.register("leader", "Whether this replica leads, and writes.", self.leads.clone());
        registry.register(
            "objects",
            "Objects whose status is written: GatewayClasses, Gateways, routes, AddressPools, GatewayConfigs.",
            self.objects.clone(),
        );
        registry.register(
            "gateways",
            "Gateways that are to be served: accepted, with an address.",
            self.gateways.clone(),
        );
        registry.register(
            "endpoints",
            "Endpoints of Services that listeners of these Gateways send traffic to.",
            self.endpoints.clone(),
        );
        registry.register(
            "compilations",
            "How often all objects were compiled.",
            self.compilations.clone(),
        );
        registry.register(
            "compile_seconds",
            "How long the last compilation took.",
            self.compile_seconds.clone(),
        );
        for outcome in OUTCOMES {
            drop(self.writes.get_or_create(&[("outcome", outcome)]));
        }
        registry.register(
            "writes",
            "Writes to the API server, by outcome: written, outdated (somebody else was faster; \
             done again), gone (the object is), failed (done again; see the log).",
            self.writes.clone(),
        );
        registry.register(
            "events",
            "Events that were made or counted up, on objects of which something was refused.",
            self.events.clone(),
        );
        registry.register(
            "lists",
            "How often all objects of a kind were listed: at the start, when a watch could not go \
             on where it was, and by each new leader where addresses are kept.",
            self.lists.clone(),
        );
        registry
    }

    /// What is wanted now.
    pub(crate) fn wanted(&self, snapshot: &Snapshot) {
        let number = |of: usize| i64::try_from(of).unwrap_or(i64::MAX);
        self.gateways.set(number(snapshot.gateways().len()));
        let endpoints = snapshot.services().iter().map(|service| service.endpoints.len());
        self.endpoints.set(number(endpoints.sum()));
    }

    pub(crate) fn listed(&self, what: Watched) {
        let kind = match what {
            Watched::Kind(kind) => kind.name(),
            Watched::Nodes => "Node",
            Watched::Crd => "CustomResourceDefinition",
        };
        self.lists.get_or_create(&[("kind", kind)]).inc();
    }

    pub(crate) fn wrote(&self, outcome: &'static str) {
        self.writes.get_or_create(&[("outcome", outcome)]).inc();
    }
}

/// The page.
pub(crate) fn render(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut page = String::new();
    encode(&mut page, registry)?;
    Ok(page)
}
