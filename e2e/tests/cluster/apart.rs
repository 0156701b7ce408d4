//! Two nodes that do not reach each other, with a replica of the controller each, while
//! clients and the API server reach both: each takes the other for dead and owns all, and
//! serves it. When they reach each other again one owner is left, with no hand.

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use blixt_e2e::Announcements;
use blixt_e2e::cluster::Cluster;
use blixt_e2e::knocks::{self, Door};
use blixt_testkit::netns::{eventually_some, thread_in};

use crate::failures::OUTAGE;
use crate::nodes::{
    HEALING, await_owner, begin_anew, join_nodes, known_owner, mac, owners, part_nodes, pods,
};

/// How long it may take until there is one owner again, and neighbours know it.
/// Claimed: as long as agents pause before they try again, and a second.
const ONE_OWNER: Duration = Duration::from_secs(5);

/// How long nothing may change any more.
const REST: Duration = Duration::from_secs(5);

/// Before a server that both nodes reach, come what may: it is with the API server.
const GATEWAY: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: apart}
spec:
  gatewayClassName: blixt
  addresses: [{value: 192.0.2.140}, {value: 192.0.2.141}, {value: 192.0.2.142}, {value: 192.0.2.143},
              {value: 192.0.2.144}, {value: 192.0.2.145}, {value: 192.0.2.146}, {value: 192.0.2.147}]
  listeners: [{name: web, protocol: TCP, port: 8080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: apart}
spec:
  parentRefs: [{name: apart}]
  rules: [{backendRefs: [{name: apart, port: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: apart}
spec:
  ports: [{name: web, port: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: apart, labels: {kubernetes.io/service-name: apart}}
addressType: IPv4
ports: [{name: web, port: 8090}]
endpoints: [{addresses: [192.0.2.5], conditions: {ready: true}}]
";

pub(crate) fn both_own_until_they_meet_again(cluster: &Cluster) {
    let listening =
        thread_in(&cluster.network("control"), || TcpListener::bind("192.0.2.5:8090").unwrap());
    let listener = listening.join().unwrap();
    thread::spawn(move || knocks::answer(&listener));
    cluster.apply(GATEWAY);
    let [one, two] = ["node1", "node2"].map(|node| mac(cluster, node));
    let heard = Announcements::listen_in(&cluster.network("client"));
    // One of each, so that nobody owns all.
    let vips = eventually_some("addresses on both nodes", HEALING, || {
        let vips: Vec<_> = (140..148).map(|host| format!("192.0.2.{host}")).collect();
        let owned_by = |mac: &String| {
            let owns = |vip: &&String| owners(cluster, &heard, vip) == [mac.clone()].into();
            vips.iter().find(owns).cloned()
        };
        owned_by(&one).zip(owned_by(&two)).ok_or("not yet")
    });
    let vips = [vips.0, vips.1];
    begin_anew(cluster, &vips[1..]);
    eventually_some("a replica on each node", HEALING, || {
        let replicas = ["node1", "node2"].map(|node| pods(cluster, "blixt-controller", node));
        if replicas.iter().all(|pods| pods.len() == 1) {
            Ok(())
        } else {
            Err(format!("{replicas:?}"))
        }
    });

    let doors = vips.each_ref().map(|vip| Door::Web(format!("{vip}:8080").parse().unwrap()));
    let knocks = doors.map(|door| cluster.knocks(door));
    part_nodes(cluster);
    for vip in &vips {
        eventually_some(format!("two owners of {vip}"), ONE_OWNER, || {
            let owners = owners(cluster, &heard, vip);
            let both = [one.clone(), two.clone()].into();
            if owners == both { Ok(()) } else { Err(format!("{owners:?}")) }
        });
        // Both serve it, whoever a neighbour goes to.
        for mac in [&one, &two] {
            let ask = format!(
                "ip neigh replace {vip} lladdr {mac} dev eth0 nud permanent
                 for n in {{1..5}}; do curl -s -S -f --max-time 1 -o /dev/null http://{vip}:8080/; done
                 ip neigh del {vip} dev eth0"
            );
            let ran = cluster.client("bash").args(["-c", &ask]).run();
            assert_eq!(ran.stderr, "", "{mac} serves {vip}");
        }
    }

    let met = Instant::now();
    join_nodes(cluster);
    for (vip, mac) in vips.iter().zip([&one, &two]) {
        eventually_some(format!("neighbours to know the owner of {vip}"), ONE_OWNER, || {
            match known_owner(cluster, vip) {
                known if known == *mac => Ok(()),
                other => Err(other),
            }
        });
    }
    println!("neighbours know one owner of each after {:.2?}", met.elapsed());
    // They may have known it all the time, and the other one answer for a moment more.
    for (vip, mac) in vips.iter().zip([&one, &two]) {
        eventually_some(format!("one to answer for {vip}"), ONE_OWNER, || {
            let owners = owners(cluster, &heard, vip);
            if owners == [mac.clone()].into() { Ok(()) } else { Err(format!("{owners:?}")) }
        });
    }
    println!("one answers for each after {:.2?} at most", met.elapsed());
    // For good: the other one is not heard of again.
    let rest = Instant::now();
    thread::sleep(REST);
    for (vip, mac) in vips.iter().zip([&one, &two]) {
        let said = heard.announced(vip.parse().unwrap(), rest);
        assert!(said.iter().all(|by| by == mac), "{vip} is announced by {said:?}");
        await_owner(cluster, [vip], if *mac == one { "node1" } else { "node2" });
    }
    for (knocks, vip) in knocks.into_iter().zip(&vips) {
        let outcome = knocks.stop();
        println!(
            "{vip}, apart and together again: {} answered, {} failed, longest time without an \
             answer {:.0} ms",
            outcome.answered,
            outcome.failures.len(),
            outcome.longest_gap_s * 1e3
        );
        assert!(outcome.longest_gap_s <= OUTAGE, "{outcome:?}");
    }
    cluster.delete(GATEWAY);
}
