//! A Gateway whose tables would be too large.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use blixt_e2e::{Agent, Manifests, ask, serve_names};
use blixt_testkit::netns::{Lab, LabPlan, eventually, eventually_some};
use blixt_testkit::require_root;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_gateway_that_is_too_much_stays_as_it_was_and_disturbs_no_other() {
    require_root!();
    let lab = Lab::new(LabPlan::default());
    let backend = &lab.backends[0];
    let (_server, endpoint) = (serve_names(&backend.namespace, 8_080, "be0"), backend.addresses[0]);
    let [IpAddr::V4(vip), _] = lab.vips() else { panic!("the first is IPv4") };
    let vips = [vip, (u32::from(vip) + 1).into()].map(IpAddr::V4);
    let manifests = Manifests::of_text(&small_and_large(vips, endpoint, 1));
    // With tables of 16 MiB there is room for 64.
    let agent = Agent::start(&lab, &manifests, &["--maglev-size=16777213".to_owned()]);
    let all_serve = || {
        for vip in vips {
            let to = SocketAddr::new(vip, 80);
            let name = lab.client.namespace.inside(move || ask(to));
            assert_eq!(name.unwrap(), "be0", "{to}");
        }
    };
    let told = |expected: &str| {
        eventually_some(format!("{expected:?}"), SOON, || {
            let status = agent.ctl("status").to_string();
            if status.contains(expected) { Ok(()) } else { Err(status) }
        });
    };
    all_serve();
    manifests.write_text(&small_and_large(vips, endpoint, 64));
    told("it stays as it was, since Maglev tables of 16777213 slots would take");
    let status = agent.ctl("status");
    let programmed = |name: &str| {
        let gateways = status["gateways"].as_array().unwrap().iter();
        let mut named = gateways.filter(|gateway| gateway["name"]["name"] == name);
        let conditions = named.next().unwrap()["conditions"].as_array().unwrap().clone();
        let condition = conditions.into_iter().find(|it| it["type"] == "Programmed").unwrap();
        format!("{} {}", condition["status"], condition["reason"])
    };
    assert_eq!(programmed("small"), r#""True" "Programmed""#);
    assert_eq!(programmed("large"), r#""False" "RefusedByNode""#);
    all_serve();
    // Mended.
    manifests.write_text(&small_and_large(vips, endpoint, 1));
    eventually("all to be well", SOON, || {
        !agent.ctl("status").to_string().contains("RefusedByNode")
    });
    all_serve();
    agent.stop();
}

/// A small Gateway, and one with so many listeners that differ in weights.
fn small_and_large([small, large]: [IpAddr; 2], endpoint: IpAddr, listeners: u16) -> String {
    let mut yaml = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: blixt}}
spec: {{controllerName: gateway.networking.k8s.io/blixt}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: other}}
spec: {{ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{{addresses: [{endpoint}]}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: other-1, labels: {{kubernetes.io/service-name: other}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{{addresses: [{endpoint}]}}, {{addresses: [10.77.77.77]}}]
"
    );
    for (name, address, listeners) in [("small", small, 1), ("large", large, listeners)] {
        let ports = 80..80 + listeners;
        let of = |port| format!("{{name: l{port}, protocol: TCP, port: {port}}}");
        let all = ports.clone().map(of).collect::<Vec<_>>().join(", ");
        let gateway = format!(
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}}}
spec: {{gatewayClassName: blixt, addresses: [{{value: {address}}}], listeners: [{all}]}}
"
        );
        yaml.push_str(&gateway);
        for port in ports {
            let others = match listeners {
                1 => String::new(),
                _ => format!(", {{name: other, port: 80, weight: {port}}}"),
            };
            write!(
                yaml,
                "---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{name: {name}-{port}}}
spec:
  parentRefs: [{{name: {name}, sectionName: l{port}}}]
  rules: [{{backendRefs: [{{name: web, port: 80, weight: 1}}{others}]}}]
"
            )
            .unwrap();
        }
    }
    yaml
}
