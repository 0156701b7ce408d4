//! The API server is gone, hangs, is slow, or has forgotten what a watch was at.

use std::thread::sleep;
use std::time::{Duration, Instant};

use blixt_e2e::{ApiServer, Controller, Id};
use blixt_testkit::netns::{eventually, eventually_some};
use serde_json::json;

use crate::Test;
use crate::objects::{self, DNS, EDGE, SHOP, WEB, attaches, becomes};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("it_resumes_after_a_restart_in_mid_flight", it_resumes_after_a_restart),
    ("it_resumes_after_the_api_server_hung", it_resumes_after_it_hung),
    ("what_is_slow_to_arrive_is_written_once", what_is_slow_is_written_once),
    ("a_watch_that_expired_begins_anew", a_watch_that_expired_begins_anew),
    ("kinds_that_come_later_are_found", kinds_that_come_later_are_found),
];

const PATIENCE: Duration = Duration::from_secs(30);

/// As many Gateways as it takes to be in the middle of them.
const MANY: usize = 60;

fn it_resumes_after_a_restart(server: &mut ApiServer) {
    let controller = Controller::start(server, "a");
    server.kube.apply(SHOP);
    becomes(&server.kube, &EDGE, &["Accepted=True Accepted"]);
    let spec = json!({
        "gatewayClassName": "blixt",
        "listeners": [{"name": "tcp", "protocol": "TCP", "port": 80}],
    });
    for n in 0..MANY {
        let gateway = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": format!("gw{n}"), "namespace": "shop"}, "spec": spec,
        });
        server.kube.apply_object(&gateway).unwrap();
    }
    // Some have their status, and others not.
    server.kill();
    sleep(Duration::from_secs(1));
    server.resume();
    let kube = &server.kube;
    eventually_some("all Gateways to have their status", PATIENCE, || {
        let gateways = kube.list("Gateway");
        let without = gateways.iter().filter(|gateway| {
            objects::says(gateway, "/status", &["Accepted=True Accepted"]).is_err()
        });
        match without.count() {
            0 if gateways.len() == MANY + 1 => Ok(()),
            without => Err(format!("{without} of {} have none", gateways.len())),
        }
    });
    let before = objects::settled(kube);
    // It was one outage, and is told as one.
    let log = controller.log();
    let told = log.lines().filter(|line| line.contains("WARN")).count();
    assert!((1..60).contains(&told), "{told} warnings:\n{log}");
    kube.delete(&Id::new("Gateway", "shop/gw0"));
    kube.merge(&WEB, json!({"spec": {"parentRefs": [{"name": "gw1"}]}}));
    attaches(kube, &WEB, &["Accepted=True Accepted"]);
    let after = objects::settled(kube);
    assert_eq!(after.len(), before.len() - 1);
}

fn it_resumes_after_it_hung(server: &mut ApiServer) {
    let controller = Controller::start(server, "a");
    server.kube.apply(SHOP);
    becomes(&server.kube, &EDGE, &["Accepted=True Accepted"]);
    let before = objects::settled(&server.kube);
    server.hang();
    // A lease that can't be renewed is none: somebody else may have it.
    eventually("it to stop leading", PATIENCE, || !controller.leads());
    server.go_on();
    eventually("it to lead again", PATIENCE, || controller.leads());
    assert_eq!(objects::settled(&server.kube), before);
    let listeners = json!([{"name": "tcp", "protocol": "TCP", "port": 81}]);
    server.kube.merge(&EDGE, json!({"spec": {"listeners": listeners}}));
    becomes(&server.kube, &EDGE, &["Accepted=True Accepted"]);
}

/// Each question takes 0.6 s, as does what is written until a watch tells of it.
fn what_is_slow_is_written_once(server: &mut ApiServer) {
    server.slowly(Duration::from_millis(300), |server| {
        let kube = &server.kube;
        let begin = Instant::now();
        let controller = Controller::start(server, "a");
        println!("ready after {:?}", begin.elapsed());
        let begin = Instant::now();
        kube.apply(SHOP);
        becomes(kube, &EDGE, &["Accepted=True Accepted", "Programmed=False Pending"]);
        attaches(kube, &WEB, &["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]);
        attaches(kube, &DNS, &["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]);
        println!("status after {:?}", begin.elapsed());
        let writes =
            || ["written", "outdated", "gone", "failed"].map(|outcome| controller.writes(outcome));
        objects::settled(kube);
        // Long enough for what is under way to arrive, and for watches to tell of it.
        sleep(Duration::from_secs(3));
        let before = (objects::versions(kube), writes());
        println!("written, outdated, gone, failed: {:?}", before.1);
        sleep(Duration::from_secs(4));
        assert_eq!((objects::versions(kube), writes()), before);
        // As many as where it is fast (writes.rs), and none to what was another object by
        // then.
        let [written, outdated, gone, failed] = writes();
        assert!((9.0..=18.0).contains(&written), "{:?}", writes());
        assert_eq!([outdated, gone, failed], [0.0; 3]);
        assert!(controller.leads());
        controller.stop();
    });
}

fn a_watch_that_expired_begins_anew(server: &mut ApiServer) {
    let controller = Controller::start(server, "a");
    let lists = |kind: &str| {
        let kind = format!("kind=\"{kind}\"");
        controller.metrics().sum("blixt_controller_lists_total", &[&kind])
    };
    server.kube.apply(SHOP);
    attaches(&server.kube, &WEB, &["Accepted=True Accepted"]);
    objects::settled(&server.kube);
    let (routes, udp) = (lists("TCPRoute"), lists("UDPRoute"));

    // Its connections are gone, it sees nothing of what happens, and then
    // nobody can tell it any more.
    controller.hang();
    server.kill();
    server.resume();
    server.kube.delete(&WEB);
    let mut other = server.kube.get(&DNS).unwrap();
    other["metadata"] = json!({"name": "other", "namespace": "shop"});
    other.as_object_mut().unwrap().remove("status");
    server.kube.create(&other).unwrap();
    server.kill();
    server.compact();
    server.resume();
    controller.go_on();

    let kube = &server.kube;
    let attached = |gateway: &serde_json::Value| {
        let count = |n: usize| gateway["status"]["listeners"][n]["attachedRoutes"].as_u64();
        match [count(0), count(1)] {
            [Some(0), Some(2)] => Ok(()),
            counts => Err(format!("{counts:?}")),
        }
    };
    kube.eventually(&EDGE, attached);
    attaches(kube, &Id::new("UDPRoute", "shop/other"), &["Accepted=True Accepted"]);
    for (kind, before) in [("TCPRoute", routes), ("UDPRoute", udp)] {
        assert!(lists(kind) > before, "{kind} was not listed anew:\n{}", controller.log());
    }
}

/// A cluster gets the CRDs after the controller.
fn kinds_that_come_later_are_found(server: &mut ApiServer) {
    const CRD: Id<'_> =
        Id::cluster("CustomResourceDefinition", "udproutes.gateway.networking.k8s.io");
    let kube = &server.kube;
    let mut crd = kube.get(&CRD).unwrap();
    kube.delete(&CRD);
    eventually("the kind to go", PATIENCE, || kube.get(&CRD).is_none());
    let controller = Controller::start(server, "a");
    assert!(controller.log().contains("the cluster has no UDPRoute"), "{}", controller.log());
    crd["metadata"] = json!({
        "name": crd["metadata"]["name"], "annotations": crd["metadata"]["annotations"],
    });
    crd.as_object_mut().unwrap().remove("status");
    kube.apply_object(&crd).unwrap();
    eventually_some("the kind to be served", PATIENCE, || {
        kube.ask("/apis/gateway.networking.k8s.io/v1/udproutes")
    });
    kube.apply(SHOP);
    attaches(kube, &DNS, &["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]);
}
