//! Manifests for a lab, written as a person would change them.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use tempfile::TempDir;

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Served through a TCPRoute.
    Tcp,
    /// Served through a UDPRoute.
    Udp,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// Everything an agent is told in a test.
#[derive(Debug, Clone, Default)]
pub struct Gateway {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its listeners, each with a route of its own.
    pub listeners: Vec<Listener>,
    /// The Services that the routes name.
    pub services: Vec<Service>,
    /// The spec of the GatewayConfig of its class, in one line, if it has one.
    pub config: Option<String>,
}

/// A listener and its route.
#[derive(Debug, Clone)]
pub struct Listener {
    /// What it speaks.
    pub protocol: Protocol,
    /// Its port.
    pub port: u16,
    /// The names of its Services, with their weights.
    pub backends: Vec<(String, u32)>,
}

/// A Service with one port, 80, and its endpoints.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// What it speaks.
    pub protocol: Protocol,
    /// The port of its endpoints.
    pub target_port: u16,
    /// Where its endpoints are.
    pub endpoints: Vec<IpAddr>,
    /// Whether a client stays with an endpoint.
    pub client_ip_affinity: bool,
}

impl Gateway {
    /// The Service of this name.
    pub fn service(&mut self, name: &str) -> &mut Service {
        self.services.iter_mut().find(|service| service.name == name).unwrap()
    }

    /// All of it in YAML.
    pub fn yaml(&self) -> String {
        let mut yaml = String::from(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: blixt}\n\
             spec:\n  controllerName: gateway.networking.k8s.io/blixt\n",
        );
        if let Some(config) = &self.config {
            let _ = write!(
                yaml,
                "  parametersRef: {{group: blixt.dev, kind: GatewayConfig, namespace: default, \
                 name: nodes}}\n---\napiVersion: blixt.dev/v1alpha1\nkind: GatewayConfig\n\
                 metadata: {{name: nodes}}\nspec: {config}\n"
            );
        }
        yaml.push_str(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\n\
             spec:\n  gatewayClassName: blixt\n  addresses:\n",
        );
        for address in &self.addresses {
            let _ = writeln!(yaml, "  - {{type: IPAddress, value: \"{address}\"}}");
        }
        yaml.push_str("  listeners:\n");
        for listener in &self.listeners {
            let (name, protocol) = (listener.name(), listener.protocol.name());
            let port = listener.port;
            let _ = writeln!(yaml, "  - {{name: {name}, protocol: {protocol}, port: {port}}}");
        }
        for listener in &self.listeners {
            let (name, protocol) = (listener.name(), listener.protocol.name());
            let _ = write!(
                yaml,
                "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {protocol}Route\n\
                 metadata: {{name: {name}}}\nspec:\n  \
                 parentRefs: [{{name: edge, sectionName: {name}}}]\n  rules:\n  - backendRefs:\n"
            );
            for (service, weight) in &listener.backends {
                let _ = writeln!(yaml, "    - {{name: {service}, port: 80, weight: {weight}}}");
            }
        }
        for service in &self.services {
            service.write(&mut yaml);
        }
        yaml
    }
}

impl Listener {
    fn name(&self) -> String {
        format!("{}-{}", self.protocol.name().to_lowercase(), self.port)
    }
}

impl Service {
    fn write(&self, yaml: &mut String) {
        let Self { name, target_port, .. } = self;
        let protocol = self.protocol.name();
        let affinity = if self.client_ip_affinity { "ClientIP" } else { "None" };
        let _ = write!(
            yaml,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  \
             sessionAffinity: {affinity}\n  \
             ports: [{{name: it, protocol: {protocol}, port: 80, targetPort: {target_port}}}]\n"
        );
        for (family, is_family) in
            [("IPv4", IpAddr::is_ipv4 as fn(&IpAddr) -> bool), ("IPv6", IpAddr::is_ipv6)]
        {
            let endpoints: Vec<_> = self
                .endpoints
                .iter()
                .filter(|address| is_family(address))
                .map(|address| format!("{{addresses: [\"{address}\"]}}"))
                .collect();
            let slice = family.to_lowercase();
            let _ = write!(
                yaml,
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata:\n  name: {name}-{slice}\n  \
                 labels: {{kubernetes.io/service-name: {name}}}\n\
                 addressType: {family}\n\
                 ports: [{{name: it, protocol: {protocol}, port: {target_port}}}]\n\
                 endpoints: [{}]\n",
                endpoints.join(", ")
            );
        }
    }
}

/// A directory of manifests.
#[derive(Debug)]
pub struct Manifests {
    directory: TempDir,
}

impl Manifests {
    /// A new directory with these.
    pub fn new(gateway: &Gateway) -> Self {
        let manifests = Self { directory: tempfile::tempdir().unwrap() };
        manifests.write(gateway);
        manifests
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A new directory with this.
    pub fn of_text(yaml: &str) -> Self {
        let manifests = Self { directory: tempfile::tempdir().unwrap() };
        manifests.write_text(yaml);
        manifests
    }

    /// Replaces them, as editors do: a new file takes the old one's name.
    pub fn write(&self, gateway: &Gateway) {
        self.write_text(&gateway.yaml());
    }

    /// The same, with what is not made of parts.
    pub fn write_text(&self, yaml: &str) {
        let new = self.path().join("all.yaml.new");
        fs::write(&new, yaml).unwrap();
        fs::rename(new, self.path().join("all.yaml")).unwrap();
    }
}
