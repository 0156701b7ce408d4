//! What is counted of agents.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::SystemTime;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::AgentState;

type Label = [(&'static str, &'static str); 1];

/// How agents are, as a label; each is there from the beginning.
const STATES: [&str; 5] = ["current", "behind", "refused", "in_trouble", "lost"];

/// What can come of a token and a request.
pub(crate) const SIGNED: &str = "signed";
pub(crate) const TOKEN: &str = "token";
pub(crate) const REQUEST: &str = "request";
pub(crate) const UNAVAILABLE: &str = "unavailable";
pub(crate) const BUSY: &str = "busy";
const ENROLMENTS: [&str; 5] = [SIGNED, TOKEN, REQUEST, UNAVAILABLE, BUSY];

/// Why a connection or a stream is refused.
pub(crate) const NO_CA: &str = "no_ca";
pub(crate) const TOO_MANY: &str = "too_many";
pub(crate) const HANDSHAKE: &str = "handshake";
pub(crate) const TIMEOUT: &str = "timeout";
pub(crate) const CERTIFICATE: &str = "certificate";
pub(crate) const GREETING: &str = "greeting";
const REFUSED: [&str; 6] = [NO_CA, TOO_MANY, HANDSHAKE, TIMEOUT, CERTIFICATE, GREETING];

/// All that is counted; copies count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meters {
    agents: Family<Label, Gauge>,
    vips: Family<[(&'static str, String); 1], Gauge>,
    pub(crate) streams: Gauge,
    snapshot_bytes: Gauge,
    withheld: Gauge,
    sent: Family<Label, Counter>,
    sent_bytes: Family<Label, Counter>,
    enrolments: Family<Label, Counter>,
    refused: Family<Label, Counter>,
    expires: Family<Label, Gauge>,
}

/// What is sent.
pub(crate) const SNAPSHOT: &str = "snapshot";
pub(crate) const DELTA: &str = "delta";

impl Meters {
    pub(crate) fn register(&self, registry: &mut Registry) {
        for state in STATES {
            drop(self.agents.get_or_create(&[("state", state)]));
        }
        registry.register(
            "agents",
            "Agents by how they are: current (use the newest tables), behind, refused (can't use \
             them), in_trouble (can't serve now, or were silent or in trouble again and again of \
             late, and own no VIP where others can), lost (silent for more than a second). The log \
             names them.",
            self.agents.clone(),
        );
        registry.register("vips", "VIPs that each node owns.", self.vips.clone());
        registry.register("streams", "Streams of agents that are open.", self.streams.clone());
        registry.register_with_unit(
            "snapshot",
            "How large the newest tables are as a message to an agent.",
            Unit::Bytes,
            self.snapshot_bytes.clone(),
        );
        registry.register(
            "snapshot_withheld",
            "1 if the newest tables are too large for a message, so that agents go on with those \
             before; Programmed of the Gateways says so.",
            self.withheld.clone(),
        );
        for what in [SNAPSHOT, DELTA] {
            drop(self.sent.get_or_create(&[("what", what)]));
            drop(self.sent_bytes.get_or_create(&[("what", what)]));
        }
        registry.register(
            "sent",
            "Messages with tables to agents: whole ones, and changes.",
            self.sent.clone(),
        );
        registry.register_with_unit(
            "sent",
            "How large they were.",
            Unit::Bytes,
            self.sent_bytes.clone(),
        );
        for outcome in ENROLMENTS {
            drop(self.enrolments.get_or_create(&[("outcome", outcome)]));
        }
        registry.register(
            "enrolments",
            "Requests for certificates, by outcome: signed; refused for its token or its request; \
             unavailable (the API server or the CA is) or busy, which agents try again.",
            self.enrolments.clone(),
        );
        for reason in REFUSED {
            drop(self.refused.get_or_create(&[("reason", reason)]));
        }
        registry.register(
            "refused",
            "Connections and streams that were refused: no_ca (there is none yet), too_many \
             without a certificate, handshake, timeout (no certificate shown for too long), \
             certificate (none, or no agent's), greeting. The log says more.",
            self.refused.clone(),
        );
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "When certificates end, in Unix time: that of the CA, and that of this replica. Both \
             are renewed long before, a CA that was brought along by whoever brought it.",
            Unit::Seconds,
            self.expires.clone(),
        );
    }

    pub(crate) fn tell(
        &self,
        agents: &[AgentState],
        owned: &BTreeMap<String, BTreeSet<IpAddr>>,
        (bytes, withheld): (usize, bool),
    ) {
        for state in STATES {
            let number = agents.iter().filter(|agent| state_of(agent) == state).count();
            self.agents.get_or_create(&[("state", state)]).set(count(number));
        }
        self.vips.clear();
        let nodes = agents.iter().map(|agent| &agent.node);
        for node in nodes.chain(owned.keys()) {
            let vips = owned.get(node).map_or(0, BTreeSet::len);
            self.vips.get_or_create(&[("node", node.clone())]).set(count(vips));
        }
        self.snapshot_bytes.set(count(bytes));
        self.withheld.set(i64::from(withheld));
    }

    pub(crate) fn expires(&self, what: &'static str, at: SystemTime) {
        let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let at = i64::try_from(at).unwrap_or(i64::MAX);
        self.expires.get_or_create(&[("certificate", what)]).set(at);
    }

    pub(crate) fn sent(&self, what: &'static str, bytes: usize) {
        self.sent.get_or_create(&[("what", what)]).inc();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.sent_bytes.get_or_create(&[("what", what)]).inc_by(bytes);
    }

    pub(crate) fn enrolled(&self, outcome: &'static str) {
        self.enrolments.get_or_create(&[("outcome", outcome)]).inc();
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }
}

/// Each agent is in one state, the one that says most about what to do.
fn state_of(agent: &AgentState) -> &'static str {
    match agent {
        AgentState { lives: false, .. } => "lost",
        AgentState { trouble: Some(_), .. } => "in_trouble",
        AgentState { current: true, .. } => "current",
        AgentState { refused: Some(_), .. } => "refused",
        AgentState { .. } => "behind",
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
