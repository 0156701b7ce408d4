//! The node's own traffic beside us, kube-proxy's too: whether the agent is there,
//! is killed, or is gone, nobody who asks the node itself notices.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use blixt_e2e::cluster::Cluster;
use blixt_e2e::knocks::{Door, ask_name};
use blixt_testkit::netns::{eventually, eventually_some};

use crate::failures::OUTAGE;
use crate::gone;
use crate::nodes::{HEALING, mac, owner, signal};
use crate::restarts::PLANNED;
use crate::served::{SOON, in_url, programmed};

/// Where kube-proxy is.
const NODE: &str = "node1";

/// The node's own addresses.
const ADDRESSES: [&str; 2] = ["192.0.2.11", "2001:db8:1::11"];

/// More than fits in one packet.
const LARGE: &str = "4000";

/// How long an answer may take. No SYN is repeated in that.
const PATIENCE: Duration = Duration::from_millis(900);

/// A Gateway with addresses on both nodes, and its Service at ports of the nodes,
/// before servers in pods; and one in the node's network.
const OBJECTS: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: beside}
spec:
  gatewayClassName: blixt
  addresses: [{value: 192.0.2.110}, {value: 192.0.2.111}, {value: 192.0.2.112}, {value: 192.0.2.113},
              {value: 192.0.2.114}, {value: 192.0.2.115}, {value: 192.0.2.116}, {value: 192.0.2.117},
              {value: '2001:db8:1::110'}, {value: '2001:db8:1::111'},
              {value: '2001:db8:1::112'}, {value: '2001:db8:1::113'},
              {value: '2001:db8:1::114'}, {value: '2001:db8:1::115'},
              {value: '2001:db8:1::116'}, {value: '2001:db8:1::117'}]
  listeners: [{name: web, protocol: TCP, port: 8080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: beside}
spec:
  parentRefs: [{name: beside}]
  rules: [{backendRefs: [{name: beside, port: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: beside}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: beside}
  ports:
  - {name: web, port: 8080, nodePort: 30080}
  - {name: echo, protocol: UDP, port: 8081, nodePort: 30081}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: beside}
spec:
  selector: {matchLabels: {app: beside}}
  template:
    metadata: {labels: {app: beside}}
    spec:
      containers:
      - name: server
        image: registry.k8s.io/e2e-test-images/agnhost:2.63.0
        args: [netexec, --http-port=8080, --udp-port=8081]
        readinessProbe: {httpGet: {port: 8080, path: /healthz}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: own}
spec:
  nodeName: node1
  hostNetwork: true
  containers:
  - name: server
    image: registry.k8s.io/e2e-test-images/agnhost:2.63.0
    args: [netexec, --http-port=8088, --udp-port=8089]
    readinessProbe: {httpGet: {port: 8088, path: /healthz}, periodSeconds: 1}
";

/// A node's server says its name, one in a pod the pod's.
const POD: &str = "beside-";

pub(crate) fn kube_proxy(cluster: &Cluster) {
    cluster.apply(OBJECTS);
    cluster.kubectl(&["rollout", "status", "--timeout=120s", "daemonset/beside"]).ok();
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=120s", "pod/own"]).ok();
    eventually_some("beside to be programmed", SOON, || programmed(cluster, "beside"));
    cluster.lab(&["proxy", NODE, "on"]).ok();
    let vips = [Vips::of(cluster, "192.0.2."), Vips::of(cluster, "2001:db8:1::")];
    eventually_some("kube-proxy to know the Service", SOON, || all_answer(cluster));
    let mut logins = ADDRESSES.map(|address| Login::begin(cluster, address));
    // All the while, by new connections.
    let doors = ADDRESSES.map(|address| [30_080, 8_088].map(|port| door(address, port)));
    let knocks: Vec<_> =
        doors.as_flattened().iter().map(|door| (door, cluster.knocks(Door::Web(*door)))).collect();
    let mut goes_on = |what: &str| {
        println!("== kube-proxy beside us, and the agent {what}");
        all_answer(cluster).unwrap_or_else(|why| panic!("the agent {what}: {why}"));
        logins.iter_mut().for_each(|login| login.goes_on(what));
    };
    let served_from = |places: &[&str]| {
        vips.iter().for_each(|vips| vips.are_served(cluster, places));
    };

    goes_on("owns VIPs");
    served_from(&["client", NODE]);

    // Nobody starts it again meanwhile.
    signal(cluster, "containerd", NODE, "-STOP");
    signal(cluster, "blixt-agent", NODE, "-KILL");
    goes_on("was killed");
    sleep(Duration::from_secs_f64(OUTAGE));
    goes_on("is dead");
    // The node's own requests end in what a killed agent leaves, until the next one comes.
    served_from(&["client"]);
    assert_eq!(agents(cluster), Vec::<String>::new(), "it was not dead all the time");
    signal(cluster, "containerd", NODE, "-CONT");
    vips.iter().for_each(|vips| vips.come_back(cluster));
    goes_on("is back");

    on(cluster, r#"{"kubernetes.io/hostname": "node2"}"#);
    eventually("the agent to be gone", HEALING, || agents(cluster).is_empty());
    gone::from_node(cluster, NODE);
    goes_on("is gone");
    served_from(&["client", NODE]);
    on(cluster, r#"{"kubernetes.io/hostname": null}"#);
    vips.iter().for_each(|vips| vips.come_back(cluster));
    goes_on("is there again");
    served_from(&["client", NODE]);

    for (door, knocks) in knocks {
        let outcome = knocks.stop();
        let (answered, gap) = (outcome.answered, outcome.longest_gap_s * 1e3);
        println!(
            "{door}: {answered} answered, {} not, longest time without an answer {gap:.0} ms",
            outcome.failures.len()
        );
        assert!(outcome.longest_gap_s <= PLANNED, "{door}: {:#?}", outcome.failures);
    }
    cluster.lab(&["proxy", NODE, "off"]).ok();
    cluster.delete(OBJECTS);
}

/// One VIP of a family that the node owns, and one that is another node's.
struct Vips {
    own: String,
    other: String,
}

impl Vips {
    fn of(cluster: &Cluster, network: &str) -> Self {
        let here = mac(cluster, NODE);
        let (own, others) = eventually_some("VIPs on both nodes", HEALING, || {
            let owned = (110..118).map(|host| {
                let vip = format!("{network}{host}");
                let owner = owner(cluster, &vip);
                (vip, owner)
            });
            let known = owned.filter(|(_, owner)| owner != "nobody");
            let (own, others): (Vec<_>, Vec<_>) = known.partition(|(_, owner)| *owner == here);
            match own.is_empty() || others.is_empty() {
                true => Err(format!("{own:?} {others:?}")),
                false => Ok((own, others)),
            }
        });
        Self { own: own[0].0.clone(), other: others[0].0.clone() }
    }

    /// Wherever they are now.
    fn are_served(&self, cluster: &Cluster, places: &[&str]) {
        for vip in [&self.own, &self.other] {
            let url = format!("http://{}:8080/hostname", in_url(vip));
            for place in places {
                let answer = cluster.at(place, "curl").args(["-sS", "--max-time", "2", &url]).run();
                assert!(answer.stdout.starts_with(POD), "{vip} from {place}: {answer:?}");
            }
        }
    }

    fn come_back(&self, cluster: &Cluster) {
        let here = mac(cluster, NODE);
        eventually_some(format!("{} to be on {NODE} again", self.own), HEALING, || {
            let owner = owner(cluster, &self.own);
            if owner == here { Ok(()) } else { Err(owner) }
        });
    }
}

/// A connection to the node's own server, as somebody's who is logged in there.
struct Login(TcpStream);

impl Login {
    fn begin(cluster: &Cluster, address: &str) -> Self {
        let door = door(address, 8_088);
        let stream =
            cluster.as_client(move || TcpStream::connect_timeout(&door, PATIENCE)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn goes_on(&mut self, what: &str) {
        let mut ask = || -> io::Result<String> {
            self.0.write_all(b"GET /hostname HTTP/1.1\r\nHost: x\r\n\r\n")?;
            let mut answer = [0; 1_024];
            let length = self.0.read(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
        };
        let answer = ask().unwrap_or_else(|error| panic!("the agent {what}: {error}"));
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(NODE), "{what}: {answer}");
    }
}

/// Asks the node by its own addresses for all that is its own.
fn all_answer(cluster: &Cluster) -> Result<(), String> {
    for address in ADDRESSES {
        let url = |scheme: &str, port: u16, path: &str| {
            format!("{scheme}://{}:{port}/{path}", in_url(address))
        };
        let curl = |arguments: &[&str]| {
            cluster.client("curl").args(["-sS", "--max-time", "2"]).args(arguments).run().stdout
        };
        is("kube-proxy's TCP", curl(&[&url("http", 30_080, "hostname")]), |it| {
            it.starts_with(POD)
        })?;
        let udp = cluster.as_client(move || ask_name(door(address, 30_081), PATIENCE));
        is("kube-proxy's UDP", format!("{udp:?}"), |it| it.contains(POD))?;
        is("the node's TCP", curl(&[&url("http", 8_088, "hostname")]), |it| it == NODE)?;
        let udp = cluster.as_client(move || ask_name(door(address, 8_089), PATIENCE));
        is("the node's UDP", format!("{udp:?}"), |it| it.contains(NODE))?;
        // By TLS, and to strangers it says no more.
        let kubelet = curl(&["-k", "-w", "%{http_code}", &url("https", 10_250, "pods")]);
        is("kubelet", kubelet, |it| it == "Unauthorized401")?;
        for size in ["56", LARGE] {
            let ping = ["-c", "1", "-W", "1", "-s", size, address];
            let ran = cluster.client("ping").args(ping).run();
            is("ping", ran.stdout, |it| it.contains("1 received"))?;
        }
    }
    Ok(())
}

fn is(what: impl Display, answer: String, good: impl Fn(&str) -> bool) -> Result<(), String> {
    if good(&answer) { Ok(()) } else { Err(format!("{what}: {answer}")) }
}

fn door(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// The agent's processes on the node.
fn agents(cluster: &Cluster) -> Vec<String> {
    cluster.processes("blixt-agent", NODE)
}

/// Has agents run on the nodes that the labels select.
fn on(cluster: &Cluster, labels: &str) {
    let patch = format!(r#"{{"spec": {{"template": {{"spec": {{"nodeSelector": {labels}}}}}}}}}"#);
    let agents = ["-n", "blixt-system", "patch", "daemonset", "blixt-agent", "-p", &patch];
    cluster.kubectl(&agents).ok();
    let status = ["-n", "blixt-system", "rollout", "status", "--timeout=180s"];
    cluster.kubectl(&[&status[..], &["daemonset/blixt-agent"]].concat()).ok();
}
