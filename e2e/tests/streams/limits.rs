//! What a node does not do: send streams in circles, and take more ports than it
//! has room for.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use blixt_testkit::netns::{eventually, eventually_some};
use blixt_testkit::require_root;

use super::world::{VIPS, World, get, programmed, vips};
use super::{HTTP, alone, refused};

/// What leads from one VIP to another.
const INNER: &str = "10.9.0.60";

#[test]
fn a_vip_that_leads_to_another_is_refused() {
    require_root!();
    let _alone = alone();
    let mut world = World::new();
    let vip = VIPS[0];
    world.tell(|wanted| {
        wanted.more = gateway("inner", INNER, [HTTP])
            + &format!(
                "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: inner}}
spec:
  parentRefs: [{{name: inner}}]
  rules: [{{backendRefs: [{{name: circle, port: 80}}]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: circle}}
spec: {{ports: [{{name: http, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: circle, labels: {{kubernetes.io/service-name: circle}}}}
addressType: IPv4
ports: [{{name: http, port: {HTTP}}}]
endpoints: [{{addresses: [\"{vip}\"]}}]
"
            );
    });
    let agent = world.start();
    let inner = SocketAddr::new(INNER.parse().unwrap(), HTTP);
    eventually("the loop to be refused", Duration::from_secs(5), || {
        world.outside.inside(move || {
            get(inner).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
        })
    });
    assert!(refused(&agent, "loop") > 0.0);
    // Whatever leads to real endpoints is served.
    world.outside.inside(|| drop(get(vips(HTTP)[0]).unwrap()));
    agent.stop();
}

#[test]
fn gateways_beyond_what_there_is_room_for_are_told_so() {
    require_root!();
    let _alone = alone();
    let mut world = World::new();
    let agent = world.start();
    // The Gateway that is there has two numbers of 256; "m3" has the last of these.
    let first = |place: u16| 10_000 + 60 * place;
    world.tell(|wanted| {
        wanted.more = (0..5)
            .map(|place| {
                let ports = first(place)..first(place + 1);
                gateway(&format!("m{place}"), &format!("10.9.0.{}", 60 + place), ports)
            })
            .collect();
    });
    eventually_some("the last to be refused", Duration::from_secs(20), || {
        match programmed(&agent, "m4") {
            (false, why) if why.contains("room for 256 different port numbers") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    for served in ["edge", "m0", "m1", "m2", "m3"] {
        assert!(programmed(&agent, served).0, "{served}");
    }
    let rules = world.node.ip("rule show");
    assert_eq!(rules.lines().filter(|rule| rule.contains(" dport ")).count(), 256);
    // Everybody else is served, as are the ports of the last that fit.
    world.outside.inside(|| drop(get(vips(HTTP)[0]).unwrap()));
    let reaches = |world: &World, port: u16, kind: ErrorKind| {
        let to = SocketAddr::from(([10, 9, 0, 64], port));
        let found = world.outside.inside(move || get(to)).unwrap_err().kind();
        assert_eq!(found, kind, "{to}");
    };
    // No route is attached; and no stream is taken.
    reaches(&world, first(4), ErrorKind::ConnectionReset);
    reaches(&world, first(5) - 1, ErrorKind::ConnectionRefused);
    // Once there is room, it is served.
    world.tell(|wanted| wanted.more = gateway("m4", "10.9.0.64", first(4)..first(5)));
    eventually_some("the last to be served", Duration::from_secs(20), || {
        match programmed(&agent, "m4") {
            (true, _) => Ok(()),
            (false, why) => Err(why),
        }
    });
    reaches(&world, first(5) - 1, ErrorKind::ConnectionReset);
    agent.stop();
}

/// A Gateway with HTTP listeners.
fn gateway(name: &str, vip: &str, ports: impl IntoIterator<Item = u16>) -> String {
    let listeners: String = ports
        .into_iter()
        .map(|port| format!("  - {{name: http-{port}, protocol: HTTP, port: {port}}}\n"))
        .collect();
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}}}
spec:
  gatewayClassName: blixt
  addresses: [{{value: {vip}}}]
  listeners:
{listeners}"
    )
}
