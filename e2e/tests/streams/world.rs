//! A client outside, the agent's node with a pod on it, and another node, each of
//! these two with an nginx; and a Gateway with listeners of all kinds.
//!
//! ```text
//!   outside ──┬── node (the agent's) ── pod    nginx "a"
//!             └── other node                   nginx "b"
//! ```
//!
//! The node looks at packets' ways back strictly (rp_filter=1).

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use blixt_e2e::{Agent, Manifests, connect};
use blixt_testkit::netns::{Namespace, Process, bridge, eventually, eventually_some, veth};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

/// The Gateway's addresses.
pub(crate) const VIPS: [&str; 2] = ["10.9.0.50", "fd09::50"];

/// Where the nginx of each is.
const POD: [&str; 2] = ["10.244.1.10", "fd24:1::10"];
const OTHER: [&str; 2] = ["10.9.0.2", "fd09::2"];

/// What the manifests shall say.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Weights of the pod's Service, the other node's, and one that is not there.
    pub(crate) weights: [u32; 3],
    /// What HTTPS is ended with.
    pub(crate) certificate: Pair,
    /// The endpoint of the other node's Service.
    pub(crate) other: Endpoint,
    /// The port for HTTP.
    pub(crate) http: u16,
    /// Other objects.
    pub(crate) more: String,
}

/// How an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// Ready.
    There,
    /// Terminating, and serves still; the pod takes its place.
    Ends,
    /// Gone, and nobody is in its place.
    Gone,
}

/// A certificate and its key, as PEM.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    key: String,
}

impl Pair {
    /// One that signs itself.
    pub(crate) fn new(names: &[&str]) -> Self {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        Self { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// The certificate with the key of another one.
    pub(crate) fn with_key_of(&self, other: &Self) -> Self {
        Self { key: other.key.clone(), ..self.clone() }
    }
}

pub(crate) struct World {
    pub(crate) outside: Namespace,
    pub(crate) node: Namespace,
    pub(crate) pod: Namespace,
    pub(crate) wanted: Wanted,
    /// What both nginx end TLS with themselves.
    pub(crate) own: Pair,
    manifests: Manifests,
    files: TempDir,
    _other: Namespace,
    _switch: Namespace,
    _servers: Vec<Process>,
}

impl World {
    pub(crate) fn new() -> Self {
        let switch = Namespace::new("switch");
        bridge(&switch, "br0");
        let [outside, node, other] =
            [("outside", 100), ("node", 1), ("other", 2)].map(|(tag, host)| {
                let namespace = Namespace::new(tag);
                veth(&switch, tag, &namespace, "eth0");
                switch.ip(&format!("link set {tag} master br0"));
                namespace.ip(&format!("address add 10.9.0.{host}/24 dev eth0"));
                namespace.ip(&format!("address add fd09::{host}/64 dev eth0 nodad"));
                namespace
            });
        node.sysctl("net.ipv4.ip_forward", "1");
        node.sysctl("net.ipv6.conf.all.forwarding", "1");
        for device in ["all", "default", "eth0"] {
            node.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "1");
        }
        let pod = Namespace::new("pod");
        bridge(&node, "cni0");
        node.ip("address add 10.244.1.1/24 dev cni0");
        node.ip("address add fd24:1::1/64 dev cni0 nodad");
        veth(&node, "pod0", &pod, "eth0");
        node.ip("link set pod0 master cni0");
        pod.ip(&format!("address add {}/24 dev eth0", POD[0]));
        pod.ip(&format!("address add {}/64 dev eth0 nodad", POD[1]));
        pod.ip("route add default via 10.244.1.1");
        pod.ip("route add default via fd24:1::1");

        let own = Pair::new(&["db.example.com"]);
        let wanted = Wanted {
            weights: [1, 1, 0],
            certificate: Pair::new(&["*.example.com"]),
            other: Endpoint::There,
            http: 80,
            more: String::new(),
        };
        let files = tempfile::tempdir().unwrap();
        let servers = [(&pod, "a"), (&other, "b")]
            .map(|(namespace, name)| nginx(namespace, name, &own, &files));
        let manifests = Manifests::of_text(&yaml(&wanted));
        Self {
            outside,
            node,
            pod,
            wanted,
            own,
            manifests,
            files,
            _other: other,
            _switch: switch,
            _servers: servers.into(),
        }
    }

    /// Starts an agent on the node, confined as in a cluster, and waits until the
    /// Gateway is programmed.
    pub(crate) fn start(&self) -> Agent {
        let agent = self.launch();
        self.is_programmed(&agent);
        agent
    }

    /// The same, and does not wait for the Gateway.
    pub(crate) fn launch(&self) -> Agent {
        Agent::start_in(&self.node, &self.manifests, &flags())
    }

    /// The same without a capability, and does not wait at all.
    pub(crate) fn launch_without(&self, capability: &str) -> Agent {
        Agent::launch_without(&self.node, &self.manifests, &flags(), capability)
    }

    pub(crate) fn is_programmed(&self, agent: &Agent) {
        eventually_some(
            "the Gateway to be programmed",
            Duration::from_secs(10),
            || match programmed(agent, "edge") {
                (true, _) => Ok(()),
                (false, why) => Err(why),
            },
        );
    }

    /// Tells the agent something else.
    pub(crate) fn tell(&mut self, change: impl FnOnce(&mut Wanted)) {
        change(&mut self.wanted);
        self.manifests.write_text(&yaml(&self.wanted));
    }

    /// Whoever asks.
    pub(crate) fn clients(&self) -> [(&'static str, &Namespace); 3] {
        [("outside", &self.outside), ("node", &self.node), ("pod", &self.pod)]
    }

    /// A file that says whom to trust.
    pub(crate) fn trusting(&self, pairs: &[&Pair]) -> String {
        let all: String = pairs.iter().map(|pair| pair.certificate.as_str()).collect();
        let name = blixt_digest(&all);
        let file = self.files.path().join(format!("{name}.pem"));
        fs::write(&file, all).unwrap();
        file.display().to_string()
    }

    /// All that there is on the node of addresses, routes, rules and tables.
    pub(crate) fn inventory(&self) -> BTreeSet<String> {
        let shown = [
            "-o address show",
            "route show table all",
            "-6 route show table all",
            "rule show",
            "-6 rule show",
        ];
        let shown: Vec<_> = shown.map(|what| self.node.ip(what)).into();
        shown.iter().flat_map(|shown| shown.lines()).map(str::to_owned).collect()
    }
}

/// Tells texts apart.
fn blixt_digest(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Whether a Gateway is programmed, and what is said of it.
pub(crate) fn programmed(agent: &Agent, name: &str) -> (bool, String) {
    let status = agent.ctl("status");
    let all = |of: &serde_json::Value, what: &str| of[what].as_array().cloned().unwrap_or_default();
    let gateways = all(&status, "gateways");
    let gateway = gateways.iter().find(|gateway| gateway["name"]["name"] == name);
    let conditions = gateway.map(|gateway| all(gateway, "conditions")).unwrap_or_default();
    match conditions.iter().find(|it| it["type"] == "Programmed") {
        Some(it) => (it["status"] == "True", it["message"].as_str().unwrap_or("").to_owned()),
        None => (false, status.to_string()),
    }
}

fn flags() -> [String; 2] {
    ["--interface=eth0", "--flow-capacity=4096"].map(str::to_owned)
}

/// A port of the VIPs.
pub(crate) fn vips(port: u16) -> [SocketAddr; 2] {
    VIPS.map(|vip| SocketAddr::new(vip.parse().unwrap(), port))
}

/// Asks by HTTP on a connection of its own who serves there.
pub(crate) fn get(to: SocketAddr) -> io::Result<String> {
    let mut stream = connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, name) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    Ok(name.trim_end().to_owned())
}

/// Asks by curl for `https://NAME/` at an address; `Err` has curl's number.
pub(crate) fn curl(client: &Namespace, name: &str, vip: &str, trusts: &str) -> Result<String, i32> {
    let ip: IpAddr = vip.parse().unwrap();
    let at = if ip.is_ipv6() { format!("[{vip}]") } else { vip.to_owned() };
    let ran = client
        .command("curl")
        .args(["--silent", "--show-error", "--fail", "--max-time", "5", "--noproxy", "*"])
        .args(["--cacert", trusts, "--connect-to", &format!("{name}:443:{at}:443")])
        .arg(format!("https://{name}/"))
        .run();
    match ran.status.code() {
        Some(0) => Ok(ran.stdout.trim_end().to_owned()),
        code => Err(code.unwrap_or(-1)),
    }
}

/// Says its name: by HTTP on port 8080, and by HTTPS on port 8443.
fn nginx(namespace: &Namespace, name: &str, own: &Pair, files: &TempDir) -> Process {
    let directory = files.path().join(name);
    fs::create_dir(&directory).unwrap();
    let at = directory.display();
    fs::write(directory.join("tls.crt"), &own.certificate).unwrap();
    fs::write(directory.join("tls.key"), &own.key).unwrap();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {at}/{what};\n"))
        .concat();
    let conf = format!(
        "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log {at}/error.log;\n\
         events {{ worker_connections 512; }}\n\
         http {{\naccess_log off;\nkeepalive_timeout 60;\n{temporary}\
         server {{ listen 8080; listen [::]:8080; location / {{ return 200 '{name}\\n'; }} }}\n\
         server {{\nlisten 8443 ssl; listen [::]:8443 ssl;\n\
         ssl_certificate {at}/tls.crt; ssl_certificate_key {at}/tls.key;\n\
         location / {{ return 200 '{name} itself\\n'; }}\n}}\n}}\n"
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, conf).unwrap();
    let server = namespace.command("nginx").arg("-p").arg(&directory).arg("-c").arg(&file).spawn();
    let namespace_name = namespace.name().to_owned();
    eventually(format!("nginx in {namespace_name}"), Duration::from_secs(10), || {
        namespace.inside(|| get(SocketAddr::from(([127, 0, 0, 1], 8_080))).is_ok())
    });
    server
}

/// All of it.
fn yaml(wanted: &Wanted) -> String {
    let Wanted { weights, certificate, other, http, more } = wanted;
    let [a, b, nobody] = weights;
    let indented = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let (certificate, key) = (indented(&certificate.certificate), indented(&certificate.key));
    let [vip4, vip6] = VIPS;
    let backends = |port: u16| {
        format!(
            "[{{name: a, port: {port}, weight: {a}}}, {{name: b, port: {port}, weight: {b}}}, \
             {{name: nobody, port: {port}, weight: {nobody}}}]"
        )
    };
    let (to_http, to_tls) = (backends(80), backends(443));
    let services: String = [("a", POD, Endpoint::There), ("b", OTHER, *other)]
        .map(|(name, addresses, endpoint)| service(name, addresses, endpoint))
        .concat();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: blixt}}
spec: {{controllerName: gateway.networking.k8s.io/blixt}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  gatewayClassName: blixt
  addresses: [{{value: {vip4}}}, {{value: \"{vip6}\"}}]
  listeners:
  - {{name: tcp, protocol: TCP, port: 5000}}
  - {{name: http, protocol: HTTP, port: {http}}}
  - name: https
    protocol: HTTPS
    port: 443
    hostname: \"*.example.com\"
    tls: {{certificateRefs: [{{name: cert}}]}}
  - name: passed
    protocol: TLS
    port: 443
    hostname: db.example.com
    tls: {{mode: Passthrough}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{name: tcp}}
spec:
  parentRefs: [{{name: edge, sectionName: tcp}}]
  rules: [{{backendRefs: {to_http}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: web}}
spec:
  parentRefs: [{{name: edge, sectionName: http}}, {{name: edge, sectionName: https}}]
  rules: [{{backendRefs: {to_http}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {{name: db}}
spec:
  parentRefs: [{{name: edge, sectionName: passed}}]
  hostnames: [db.example.com]
  rules: [{{backendRefs: {to_tls}}}]
---
apiVersion: v1
kind: Secret
metadata: {{name: cert}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{certificate}  tls.key: |
{key}{services}{more}"
    )
}

fn service(name: &str, addresses: [&str; 2], endpoint: Endpoint) -> String {
    let mut yaml = format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{ports: [{{name: http, port: 80}}, {{name: tls, port: 443}}]}}
"
    );
    for ((family, address), pod) in ["IPv4", "IPv6"].into_iter().zip(addresses).zip(POD) {
        let slice = family.to_lowercase();
        let endpoints = match endpoint {
            Endpoint::There => format!("[{{addresses: [\"{address}\"]}}]"),
            Endpoint::Ends => format!(
                "[{{addresses: [\"{address}\"], conditions: {{ready: false, serving: true, terminating: true}}}}, \
                 {{addresses: [\"{pod}\"]}}]"
            ),
            Endpoint::Gone => "[]".to_owned(),
        };
        yaml.push_str(&format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-{slice}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: {family}
ports: [{{name: http, port: 8080}}, {{name: tls, port: 8443}}]
endpoints: {endpoints}
"
        ));
    }
    yaml
}
