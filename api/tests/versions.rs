//! What agents, controllers and tools of version 0.1 say is understood for as long
//! as they say it in `v1alpha1`: nothing that was on the wire changes its meaning.
//!
//! Both files under `golden/` were written with version 0.1, and are never written
//! again.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with what went wrong"
)]

use std::collections::BTreeMap;
use std::fmt::Write;

use blixt_api::parts::{Parts, address_in};
use blixt_api::sync::v1alpha1 as wire;
use blixt_model::{Generation, Snapshot, Target};
use prost::Message;

/// All messages, fields, values and calls of version 0.1, a line each.
const SCHEMA: &str = include_str!("golden/schema-0.1.txt");

/// Messages of version 0.1: what each is, and its bytes.
const MESSAGES: &str = include_str!("golden/messages-0.1.txt");

#[test]
fn nothing_that_was_there_is_gone_or_other() {
    let now = schema();
    let lost: Vec<_> =
        SCHEMA.lines().filter(|line| !now.iter().any(|there| there == line)).collect();
    assert!(SCHEMA.lines().count() > 300, "the golden file is cut off");
    assert!(
        lost.is_empty(),
        "fields are added and never change their meaning within v1alpha1: {lost:#?}"
    );
}

#[test]
fn tables_and_changes_of_an_older_controller_are_applied() {
    let Told::Snapshot(first) = told("snapshot") else { panic!() };
    let Told::Delta(delta) = told("delta") else { panic!() };
    let first = Parts::from_snapshot(first).unwrap();
    assert_eq!(described(&first), TABLES);
    let second = first.changed_by(delta).unwrap();
    assert_eq!(described(&second), CHANGED);
    // What they are called is agreed on too.
    let Told::Beat(beat) = told("controller-beat") else { panic!() };
    let digest = second.digest().to_vec();
    assert_eq!(beat, wire::ControllerBeat { digest, settled: true, unsteady_ms: 0 });
}

#[test]
fn what_else_an_older_controller_says_is_understood() {
    let Told::Assignment(assignment) = told("assignment") else { panic!() };
    let addresses = |all: &[Vec<u8>]| {
        all.iter().map(|one| address_in(one).unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(addresses(&assignment.owned_vips), ["192.0.2.100", "2001:db8:1::100"]);
    assert_eq!(addresses(&assignment.snat_addresses), ["192.0.2.200"]);
    let Told::Peers(peers) = told("peers") else { panic!() };
    assert_eq!(peers.urls, ["https://192.0.2.11:9874", "https://[2001:db8:1::12]:9874"]);
    let enrolled = wire::EnrollResponse::decode(&bytes("enroll-response")[..]).unwrap();
    assert_eq!((enrolled.certificates, enrolled.good_for_s), (vec![vec![48, 3]], 86_400));
    let review = wire::ReviewResponse::decode(&bytes("review-response")[..]).unwrap();
    assert_eq!(review.verdict(), wire::Verdict::NotAllowed);
    assert_eq!(review.reason, "lame may not get /metrics");
}

#[test]
fn what_an_older_agent_says_is_understood() {
    let digest = vec![7; 32];
    let Said::Hello(hello) = said("hello") else { panic!() };
    assert_eq!((hello.protocol, &*hello.version, &hello.digest), (1, "0.1.0", &digest));
    let Said::Want(want) = said("want") else { panic!() };
    assert_eq!((want.tables, &want.digest), (true, &digest));
    let Said::Applied(applied) = said("applied") else { panic!() };
    assert_eq!(applied.digest, digest);
    let Said::Refused(refused) = said("refused") else { panic!() };
    assert_eq!((&refused.digest, &*refused.reason), (&digest, "no memory"));
    let Said::Beat(beat) = said("agent-beat") else { panic!() };
    assert_eq!(beat.trouble, "");
    let Said::Beat(beat) = said("agent-beat-in-trouble") else { panic!() };
    assert_eq!(beat.trouble, "eth0 is down");
    assert!(matches!(said("bye"), Said::Bye(_)));
    let enroll = wire::EnrollRequest::decode(&bytes("enroll-request")[..]).unwrap();
    assert_eq!((enroll.request, &*enroll.token), (vec![48, 1], "token of node-1"));
    let review = wire::ReviewRequest::decode(&bytes("review-request")[..]).unwrap();
    assert_eq!(review.token, "lame");
}

/// What is in the golden messages, as far as version 0.1 could tell it.
const TABLES: &str = "\
seed 11400714819323198485
gateway infra/dns at 192.0.2.110, 2001:db8:1::110
  listener udp 53/UDP, UDPRoute infra/dns
    1 to infra/dns:53/UDP
gateway shop/edge at 192.0.2.100
  listener tcp 80/TCP, TCPRoute shop/web
    70 to shop/web:8080/TCP
    0 to shop/web-next:8080/TCP
    10 refused, BackendNotFound
    10 refused, InvalidKind
    10 refused, RefNotPermitted
  listener spare 81/TCP
service infra/dns:53/UDP ClientIp
  2001:db8::53 port 5353 Ready
service shop/web:8080/TCP None
  10.0.0.1 port 8081 Ready
  10.0.0.2 port 8081 Draining
service shop/web-next:8080/TCP None
";
const CHANGED: &str = "\
seed 11400714819323198485
gateway shop/edge at 192.0.2.100
  listener tcp 80/TCP, TCPRoute shop/web
    70 to shop/web:8080/TCP
    0 to shop/web-next:8080/TCP
    10 refused, BackendNotFound
    10 refused, InvalidKind
    10 refused, RefNotPermitted
  listener spare 81/TCP
service shop/web:8080/TCP None
  10.0.0.1 port 8081 Ready
  10.0.0.3 port 8081 Ready
service shop/web-next:8080/TCP None
";

use wire::follow_request::Message as Said;
use wire::follow_response::Message as Told;

fn told(what: &str) -> Told {
    wire::FollowResponse::decode(&bytes(what)[..]).unwrap().message.unwrap()
}

fn said(what: &str) -> Said {
    wire::FollowRequest::decode(&bytes(what)[..]).unwrap().message.unwrap()
}

/// The bytes of a golden message.
fn bytes(what: &str) -> Vec<u8> {
    let mut lines = MESSAGES.lines().filter_map(|line| line.split_once(' '));
    let (_, hex) = lines.find(|(name, _)| *name == what).unwrap_or_else(|| panic!("no {what}"));
    let pairs = hex.as_bytes().chunks_exact(2).map(|pair| str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// A snapshot in words; what later versions may say besides is not in them.
fn described(parts: &Parts) -> String {
    let snapshot = parts.snapshot(Generation(1)).unwrap();
    let mut text = format!("seed {}\n", snapshot.seed().0);
    for gateway in snapshot.gateways() {
        let addresses: Vec<_> = gateway.addresses.iter().map(ToString::to_string).collect();
        writeln!(text, "gateway {} at {}", gateway.name, addresses.join(", ")).unwrap();
        for listener in &gateway.listeners {
            let route = listener.route.as_ref().map(|route| format!(", {route}"));
            let (port, protocol) = (listener.port, listener.protocol);
            let route = route.unwrap_or_default();
            writeln!(text, "  listener {} {port}/{protocol}{route}", listener.name).unwrap();
            for backend in &listener.backends {
                let target = target(&snapshot, backend.target);
                writeln!(text, "    {} {target}", backend.weight.number()).unwrap();
            }
        }
    }
    for service in snapshot.services() {
        writeln!(text, "service {} {:?}", service.id, service.affinity).unwrap();
        for endpoint in &service.endpoints {
            let (address, port, state) = (endpoint.address, endpoint.port, endpoint.state);
            writeln!(text, "  {address} port {port} {state:?}").unwrap();
        }
    }
    text
}

fn target(snapshot: &Snapshot, target: Target) -> String {
    match target {
        Target::Service(index) => format!("to {}", snapshot.services()[index.0 as usize].id),
        Target::Rejected(reason) => format!("refused, {}", reason.as_str()),
    }
}

/// All that the proto files define, a line each.
fn schema() -> Vec<String> {
    let files = ["blixt/v1alpha1/local.proto", "blixt/sync/v1alpha1/sync.proto"];
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let set = protox::compile(files, [root]).unwrap();
    let mut lines = Vec::new();
    for file in set.file {
        let package = file.package().to_owned();
        for message in &file.message_type {
            let name = format!("{package}.{}", message.name());
            let oneofs: BTreeMap<_, _> =
                (0..).zip(&message.oneof_decl).map(|(n, oneof)| (n, oneof.name())).collect();
            for field in &message.field {
                let kind = match field.type_name() {
                    "" => format!("{:?}", field.r#type()),
                    name => name.trim_start_matches('.').to_owned(),
                };
                let label = match field.oneof_index {
                    Some(_) if field.proto3_optional() => "optional ".to_owned(),
                    Some(which) => format!("{} ", oneofs[&which]),
                    None if format!("{:?}", field.label()) == "Repeated" => "repeated ".to_owned(),
                    None => String::new(),
                };
                let (field, number) = (field.name(), field.number());
                lines.push(format!("{name}.{field} = {number}: {label}{kind}"));
            }
            assert!(message.enum_type.is_empty(), "{name} has an enumeration within");
            assert!(message.nested_type.iter().all(|it| it.name().ends_with("Entry")), "{name}");
        }
        for values in &file.enum_type {
            let name = format!("{package}.{}", values.name());
            let values = values.value.iter();
            lines.extend(values.map(|it| format!("{name}.{} = {}", it.name(), it.number())));
        }
        for service in &file.service {
            for call in &service.method {
                let one = |streams, message: &str| {
                    let stream = if streams { "stream " } else { "" };
                    format!("{stream}{}", message.trim_start_matches('.'))
                };
                let takes = one(call.client_streaming(), call.input_type());
                let gives = one(call.server_streaming(), call.output_type());
                let name = format!("{package}.{}.{}", service.name(), call.name());
                lines.push(format!("{name}({takes}) gives {gives}"));
            }
        }
    }
    lines
}
