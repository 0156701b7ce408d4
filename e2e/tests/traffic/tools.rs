//! What blixtctl tells is what really happens: who answers, which flows there
//! are, what was dropped.

use std::net::{IpAddr, SocketAddr};

use blixt_e2e::{Stage, StagePlan, ask_from, ask_over, ask_udp_from, connect};
use blixt_testkit::netns::LabPlan;
use blixt_testkit::require_root;
use serde_json::Value;

use super::names_everywhere;

/// `blixtctl explain -o json`, which may end with 3.
fn explain(stage: &Stage, protocol: &str, from: SocketAddr, to: SocketAddr) -> Value {
    let (from, to) = (from.to_string(), to.to_string());
    let ran = stage.agent().ctl_run(&["explain", protocol, &from, &to, "-o", "json"]);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

/// `blixtctl flows -o json` with these arguments.
fn flows(stage: &Stage, arguments: &[&str]) -> Vec<Value> {
    let text = stage.agent().ctl_text(&[&["flows", "-o", "json"], arguments].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// An address of the API.
fn at(value: &Value) -> SocketAddr {
    let address: IpAddr = value["address"].as_str().unwrap().parse().unwrap();
    SocketAddr::new(address, value["port"].as_u64().unwrap() as u16)
}

/// The backend that calls itself so, as it is reached over the IP version of
/// `like`.
fn backend(stage: &Stage, name: &str, like: SocketAddr) -> IpAddr {
    let number: usize = name.strip_prefix("be").unwrap().parse().unwrap();
    let addresses = stage.lab.backends[number].addresses;
    addresses.into_iter().find(|address| address.is_ipv4() == like.is_ipv4()).unwrap()
}

fn client(stage: &Stage, port: u16, like: SocketAddr) -> SocketAddr {
    let addresses = stage.lab.client.addresses;
    let address = addresses.into_iter().find(|address| address.is_ipv4() == like.is_ipv4());
    SocketAddr::new(address.unwrap(), port)
}

fn who_is_told_of_answers(lab: LabPlan, workers: u16) {
    let flags = vec![format!("--workers={workers}")];
    let stage = Stage::new(StagePlan { lab, flags }, |_, _| ());
    let _servers = names_everywhere(&stage);
    for to in stage.vip(80) {
        for (protocol, port) in (42_000..42_006).flat_map(|port| [("tcp", port), ("udp", port)]) {
            let from = client(&stage, port, to);
            let told = explain(&stage, protocol, from, to);
            assert_eq!(told["flow"], Value::Null, "{told:#}");
            assert_eq!(told["opening"]["drop"], Value::Null, "{told:#}");
            assert_eq!(told["listener"]["gateway"]["name"], "edge", "{told:#}");
            let name = stage.lab.client.namespace.inside(move || match protocol {
                "tcp" => ask_from(port, to).unwrap(),
                _ => ask_udp_from(port, to).unwrap(),
            });
            let endpoint = at(&told["endpoint"]["address"]);
            assert_eq!(endpoint.ip(), backend(&stage, &name, to), "{told:#}");
            // Nobody else started a flow meanwhile.
            let [flow] =
                &flows(&stage, &["--client", &from.to_string(), "--protocol", protocol])[..]
            else {
                panic!("{protocol} {from} has another number of flows than one")
            };
            assert_eq!(at(&flow["vip"]), to, "{flow:#}");
            assert_eq!(at(&flow["endpoint"]), endpoint, "{flow:#}");
            if workers == 1 {
                assert_eq!(flow["snat"], told["opening"]["source"], "{flow:#} {told:#}");
            }
        }
    }
}

#[test]
fn who_is_told_of_is_who_answers() {
    require_root!();
    who_is_told_of_answers(LabPlan::default(), 1);
}

#[test]
fn several_workers_tell_it_alike() {
    require_root!();
    who_is_told_of_answers(LabPlan { queues: 2, ..LabPlan::default() }, 2);
}

#[test]
fn an_open_connection_is_told_of_from_every_side() {
    require_root!();
    let stage = Stage::new(StagePlan::default(), |_, _| ());
    let _servers = names_everywhere(&stage);
    for to in stage.vip(80) {
        let (_stream, port, name) = stage.lab.client.namespace.inside(move || {
            let mut stream = connect(to).unwrap();
            let name = ask_over(&mut stream).unwrap();
            let port = stream.local_addr().unwrap().port();
            (stream, port, name)
        });
        let from = client(&stage, port, to);
        let of_it = ["--client", &from.to_string(), "--state", "established"];
        let [flow] = &flows(&stage, &of_it)[..] else { panic!("{from} has no open flow") };
        let (snat, endpoint) = (at(&flow["snat"]), at(&flow["endpoint"]));
        assert_eq!(endpoint.ip(), backend(&stage, &name, to));
        assert!(stage.lab.snat_addresses().contains(&snat.ip()), "{flow:#}");
        assert_eq!(flow["service"]["name"]["name"], name, "{flow:#}");
        let count =
            stage.agent().ctl_text(&["flows", "--count", "--backend", &name, "--vip", ":80"]);
        assert_ne!(count, "0\n");

        // Packets of both directions, as they come and as they leave.
        for (source, destination, becomes, is_ours) in [
            (from, to, (snat, endpoint), false),
            (endpoint, snat, (to, from), false),
            (snat, endpoint, (to, from), true),
            (to, from, (snat, endpoint), true),
        ] {
            let told = explain(&stage, "tcp", source, destination);
            assert_eq!(at(&told["flow"]["client"]), from, "{told:#}");
            assert_eq!(told["turned_round"], is_ours, "{told:#}");
            let other = &told["other"];
            assert_eq!((at(&other["source"]), at(&other["destination"])), becomes, "{told:#}");
            assert_ne!(other["next_hop"]["mac"], Value::Null, "{told:#}");
        }
        // A line of the table is as good as a tuple.
        let table = stage.agent().ctl_text(&["flows", "--client", &from.to_string()]);
        let line = table.lines().last().unwrap();
        let told = stage.agent().ctl_text(&["explain", line]);
        assert!(told.contains("established") && told.contains(&endpoint.to_string()), "{told}");
    }
}

#[test]
fn a_drop_is_foretold_and_counted_with_what_to_do() {
    require_root!();
    let stage = Stage::new(StagePlan::default(), |_, _| ());
    let [to, _] = stage.vip(81);
    let from = client(&stage, 43_000, to);
    let ran = stage.agent().ctl_run(&["explain", "tcp", &from.to_string(), &to.to_string()]);
    assert_eq!(ran.status.code(), Some(3), "{ran:?}");
    assert!(ran.stdout.contains("no_listener"), "{ran:?}");
    stage.lab.client.namespace.inside(move || ask_from(43_000, to)).unwrap_err();
    let counters = stage.agent().ctl("counters");
    let all = counters["counters"].as_array().unwrap().iter();
    let no_listener: Vec<_> =
        all.filter(|counter| counter["labels"]["reason"] == "no_listener").collect();
    let [no_listener] = no_listener[..] else { panic!("{no_listener:#?}") };
    assert_eq!(no_listener["metric"], "blixt_drops_total");
    assert_eq!(no_listener["value"], 1);
    let top = stage.agent().ctl_text(&["top", "--once"]);
    assert!(top.contains("nothing is dropped") && top.contains("edge/"), "{top}");
    let table = stage.agent().ctl_text(&["counters"]);
    assert!(table.contains("-> Add a listener for the port"), "{table}");
}
