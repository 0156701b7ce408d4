//! A lab, servers' places and an agent, ready for a test.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use blixt_testkit::netns::{Lab, LabPlan};

use crate::agent::Agent;
use crate::manifests::{Gateway, Listener, Manifests, Protocol, Service};

/// Tests of traffic measure times and shares; two at once would disturb each
/// other on a machine of few cores.
static ALONE: Mutex<()> = Mutex::new(());

/// What a stage shall be.
#[derive(Debug, Clone, Default)]
pub struct StagePlan {
    /// Its networks.
    pub lab: LabPlan,
    /// More flags for the agent.
    pub flags: Vec<String>,
}

/// Everything a test of traffic needs. Only one exists at a time.
#[derive(Debug)]
pub struct Stage {
    /// The agent that runs, unless the test has ended it.
    pub agent: Option<Agent>,
    /// What it was told.
    pub gateway: Gateway,
    /// Where it was told.
    pub manifests: Manifests,
    /// The networks.
    pub lab: Lab,
    /// How the agent is started.
    pub plan: StagePlan,
    _alone: MutexGuard<'static, ()>,
}

/// The port of every server.
pub(crate) const SERVER_PORT: u16 = 8_080;

impl Stage {
    /// Makes the networks and starts an agent that balances TCP and UDP port
    /// 80 of the lab's VIPs to one Service per backend, `be0` and so on (and
    /// `be0-udp` and so on), with equal weights. `change` may change that.
    pub fn new(plan: StagePlan, change: impl FnOnce(&Lab, &mut Gateway)) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = Lab::new(plan.lab);
        let mut gateway = one_service_per_backend(&lab);
        change(&lab, &mut gateway);
        let manifests = Manifests::new(&gateway);
        let mut stage = Self { agent: None, gateway, manifests, lab, plan, _alone: alone };
        stage.start_agent();
        stage
    }

    /// Starts the agent, again if need be.
    pub fn start_agent(&mut self) {
        self.agent = None;
        self.agent = Some(Agent::start(&self.lab, &self.manifests, &self.plan.flags));
    }

    /// Starts the agent again, with what `gateway` says now.
    pub fn start_agent_with_new_manifests(&mut self) {
        self.agent = None;
        self.tell();
        self.start_agent();
    }

    /// The agent that runs.
    pub fn agent(&self) -> &Agent {
        self.agent.as_ref().unwrap()
    }

    /// Tells the agent something new, now.
    pub fn tell(&self) {
        self.manifests.write(&self.gateway);
    }

    /// A port of the VIP, over IPv4 and over IPv6.
    pub fn vip(&self, port: u16) -> [SocketAddr; 2] {
        self.lab.vips().map(|address| SocketAddr::new(address, port))
    }
}

fn one_service_per_backend(lab: &Lab) -> Gateway {
    let mut gateway = Gateway { addresses: lab.vips().into(), ..Gateway::default() };
    for (protocol, suffix) in [(Protocol::Tcp, ""), (Protocol::Udp, "-udp")] {
        let services: Vec<_> = lab
            .backends
            .iter()
            .enumerate()
            .map(|(n, backend)| service(&format!("be{n}{suffix}"), protocol, &backend.addresses))
            .collect();
        gateway.listeners.push(Listener {
            protocol,
            port: 80,
            backends: services.iter().map(|service| (service.name.clone(), 1)).collect(),
        });
        gateway.services.extend(services);
    }
    gateway
}

fn service(name: &str, protocol: Protocol, endpoints: &[IpAddr]) -> Service {
    Service {
        name: name.to_owned(),
        protocol,
        target_port: SERVER_PORT,
        endpoints: endpoints.to_vec(),
        client_ip_affinity: false,
    }
}
