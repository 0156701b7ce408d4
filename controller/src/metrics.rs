//! What is counted.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// All that is counted; copies count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) leads: Gauge,
    pub(crate) objects: Gauge,
    pub(crate) compilations: Counter,
    pub(crate) compile_seconds: Gauge<f64, AtomicU64>,
    pub(crate) writes: Family<Outcome, Counter>,
}

/// What came of a write, as a label.
type Outcome = [(&'static str, &'static str); 1];

impl Metrics {
    pub(crate) fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("blixt_controller");
        registry.register("leader", "Whether this replica leads, and writes.", self.leads.clone());
        registry.register(
            "objects",
            "Objects whose status is written: GatewayClasses, Gateways, routes, AddressPools.",
            self.objects.clone(),
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
        registry.register(
            "writes",
            "Writes to the API server, by outcome: written, outdated (somebody else was faster; \
             done again), gone (the object is), failed (done again; see the log).",
            self.writes.clone(),
        );
        registry
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
