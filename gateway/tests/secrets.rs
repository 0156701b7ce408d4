//! Certificates of listeners while their Secrets change, and where there are too many.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests say what they expect by unwrapping"
)]

mod common;

use blixt_gateway::status::ListenerStatus;
use blixt_gateway::{
    CONTROLLER_NAME, Compiled, Event, Index, Kind, MOST_CERTIFICATE_BYTES, Object, ObjectKey, apis,
    wanted_secrets,
};
use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

/// A certificate and its key; the second one is not the key's.
fn pairs() -> [(String, String); 2] {
    let pair = || {
        let made = rcgen::generate_simple_self_signed(vec!["www.example.com".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    };
    let (good, other) = (pair(), pair());
    let mixed = (good.0.clone(), other.1);
    [good, mixed]
}

fn secret(namespace: &str, name: &str, (chain, key): &(String, String)) -> Event {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let secret = apis::Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(
            [("tls.crt".to_owned(), bytes(chain)), ("tls.key".to_owned(), bytes(key))].into(),
        ),
        ..apis::Secret::default()
    };
    Event::Upsert(Object::Secret(Box::new(secret)))
}

fn deleted(kind: Kind, namespace: &str, name: &str) -> Event {
    let namespace = Some(namespace.to_owned());
    Event::Delete(ObjectKey { kind, namespace, name: name.to_owned() })
}

/// A Gateway of namespace shop: one HTTPS listener for each list of references.
fn gateway(name: &str, host: u8, references: &[Vec<Value>]) -> Event {
    let listeners = (0..).zip(references).map(|(place, references): (u16, _)| {
        json!({
            "name": format!("l{place}"), "protocol": "HTTPS", "port": 443 + place,
            "tls": {"certificateRefs": references},
        })
    });
    let gateway: apis::Gateway = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop", "generation": 1},
        "spec": {
            "gatewayClassName": "blixt",
            "addresses": [{"type": "IPAddress", "value": format!("192.0.2.{host}")}],
            "listeners": listeners.collect::<Vec<_>>(),
        },
    }))
    .unwrap();
    Event::Upsert(gateway.into())
}

fn index(events: impl IntoIterator<Item = Event>) -> Index {
    let class: apis::GatewayClass = serde_json::from_value(json!({
        "metadata": {"name": "blixt", "generation": 1},
        "spec": {"controllerName": CONTROLLER_NAME},
    }))
    .unwrap();
    common::index_of([Event::Upsert(class.into())].into_iter().chain(events))
}

fn listener(compiled: &Compiled, gateway: &str, place: usize) -> ListenerStatus {
    let gateway = compiled.status.gateways[&format!("shop/{gateway}").parse().unwrap()].clone();
    gateway.listeners[place].clone()
}

/// Type, status and reason of a condition, and its message.
fn condition(listener: &ListenerStatus, place: usize) -> (String, String) {
    let condition = &listener.conditions[place];
    let head = format!("{:?}={:?} {}", condition.kind, condition.status, condition.reason);
    (head, condition.message.clone())
}

const PROGRAMMED: usize = 1;
const RESOLVED: usize = 2;

#[test]
fn a_secret_that_breaks_leaves_its_last_good_certificate() {
    let [good, mixed] = pairs();
    let broken = ("no PEM".to_owned(), good.1.clone());
    let mut index =
        index([gateway("edge", 1, &[vec![json!({"name": "web"})]]), secret("shop", "web", &good)]);
    let before = common::compiled(&index);
    assert_eq!(before.certificates.len(), 1);
    assert_eq!(
        condition(&listener(&before, "edge", 0), RESOLVED).0,
        "ResolvedRefs=True ResolvedRefs"
    );

    let unreadable = Event::Unreadable("shop/web".parse().unwrap(), "forbidden".to_owned());
    for (event, why) in [
        (secret("shop", "web", &broken), "has no certificate in tls.crt: it must be PEM"),
        (secret("shop", "web", &mixed), "has a tls.crt and tls.key that can't be used: "),
        (unreadable, "can't be read: forbidden"),
    ] {
        assert!(index.apply(event), "{why}");
        let compiled = common::compiled(&index);
        assert!(compiled.snapshot.same_wishes(&before.snapshot), "{why}");
        assert_eq!(compiled.certificates, before.certificates, "{why}");
        let told = listener(&compiled, "edge", 0);
        let (head, message) = condition(&told, RESOLVED);
        assert_eq!(head, "ResolvedRefs=False InvalidCertificateRef");
        assert!(
            message.starts_with(&format!("certificateRefs[0] is Secret shop/web, which {why}"))
        );
        assert!(message.ends_with(", so the last good certificate in it is served."), "{message}");
        assert_eq!(condition(&told, PROGRAMMED).0, "Programmed=True Programmed");
    }
    index.apply(secret("shop", "web", &good));
    assert_eq!(common::compiled(&index), before);

    // What is deleted is served no more, and nothing of it comes back.
    for (event, why) in [
        (deleted(Kind::Secret, "shop", "web"), "does not exist"),
        (secret("shop", "web", &mixed), "has a tls.crt and tls.key"),
    ] {
        index.apply(event);
        let compiled = common::compiled(&index);
        assert_eq!((compiled.snapshot.gateways().len(), compiled.certificates.len()), (0, 0));
        let told = listener(&compiled, "edge", 0);
        let (head, message) = condition(&told, RESOLVED);
        assert_eq!(head, "ResolvedRefs=False InvalidCertificateRef");
        assert!(message.contains(why) && !message.contains("last good"), "{message}");
        assert_eq!(condition(&told, PROGRAMMED).0, "Programmed=False Invalid");
    }
}

#[test]
fn a_grant_that_is_revoked_takes_the_last_good_certificate_along() {
    let [good, mixed] = pairs();
    let grant: apis::ReferenceGrant = serde_json::from_value(json!({
        "metadata": {"name": "shop", "namespace": "certs"},
        "spec": {
            "from": [{
                "group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "shop",
            }],
            "to": [{"group": "", "kind": "Secret"}],
        },
    }))
    .unwrap();
    let mut index = index([
        gateway("edge", 1, &[vec![json!({"name": "web", "namespace": "certs"})]]),
        Event::Upsert(grant.into()),
        secret("certs", "web", &good),
        secret("certs", "web", &mixed),
    ]);
    assert_eq!(common::compiled(&index).certificates.len(), 1);
    index.apply(deleted(Kind::ReferenceGrant, "certs", "shop"));
    let compiled = common::compiled(&index);
    assert_eq!(compiled.snapshot.gateways(), []);
    let (head, _) = condition(&listener(&compiled, "edge", 0), RESOLVED);
    assert_eq!(head, "ResolvedRefs=False RefNotPermitted");
}

#[test]
fn of_what_is_made_up_so_much_is_read_and_no_more() {
    let [good, _] = pairs();
    let references = |gateway: usize, listener: usize| {
        (0..64).map(|n| json!({"name": format!("g{gateway}-{listener}-{n}")})).collect::<Vec<_>>()
    };
    let all =
        |gateway: usize| (0..64).map(|listener| references(gateway, listener)).collect::<Vec<_>>();
    // The last one has what is read for another one, and one more of its own.
    let last = [vec![json!({"name": "g0-0-0"})], vec![json!({"name": "own"})]];
    let mut events: Vec<_> =
        (0..6).map(|n| gateway(&format!("g{n}"), n as u8 + 1, &all(n))).collect();
    events.push(gateway("last", 99, &last));
    events.push(secret("shop", "g0-0-0", &good));
    let one = index(events[..1].to_vec());
    assert_eq!(wanted_secrets(&one, CONTROLLER_NAME).len(), 256);
    let index = index(events);
    let wanted = wanted_secrets(&index, CONTROLLER_NAME);
    assert_eq!(wanted.len(), 1_024);
    let compiled = common::compiled(&index);
    let told = |gateway: &str, place| condition(&listener(&compiled, gateway, place), RESOLVED);
    let (_, message) = told("g0", 3);
    assert!(message.contains("is Secret shop/g0-3-63, which does not exist"), "{message}");
    let (head, message) = told("g0", 4);
    assert_eq!(head, "ResolvedRefs=False InvalidCertificateRef");
    let too_many = "certificateRefs[0] is Secret shop/g0-4-0, which is not read: of all Secrets \
                    that listeners refer to 1024 are, and 256 of one Gateway's and its \
                    ListenerSets'";
    assert!(message.starts_with(too_many), "{message}");
    assert_eq!(told("last", 0).0, "ResolvedRefs=True ResolvedRefs");
    // Whoever comes last gets a few nevertheless.
    assert!(told("last", 1).1.contains("shop/own, which does not exist"), "{}", told("last", 1).1);
    assert!(told("g5", 1).1.contains("is not read"), "{}", told("g5", 1).1);
}

#[test]
fn what_is_too_much_of_one_gateway_is_served_for_another() {
    let [(chain, key), _] = pairs();
    let large = (chain.repeat((64 << 10) / chain.len()), key);
    let mut names: Vec<_> = (0..60).map(|n| format!("many-{n}")).collect();
    names.push("shared".to_owned());
    let mut events: Vec<_> = names.iter().map(|name| secret("shop", name, &large)).collect();
    let lists: Vec<_> =
        names.chunks(60).map(|some| some.iter().map(|it| json!({"name": it})).collect()).collect();
    events.push(gateway("a", 1, &lists));
    let alone = index(events.clone());
    events.push(gateway("b", 2, &[vec![json!({"name": "shared"})]]));
    let told = |index: &Index, gateway: &str, place| {
        condition(&listener(&common::compiled(index), gateway, place), RESOLVED)
    };
    assert!(told(&alone, "a", 1).1.contains("has a certificate for which there is no room"));
    let both = index(events);
    assert_eq!(told(&both, "b", 0).0, "ResolvedRefs=True ResolvedRefs");
    assert_eq!(told(&both, "a", 1).0, "ResolvedRefs=True ResolvedRefs");
}

#[test]
fn certificates_that_are_too_large_together_are_told_where_they_come_last() {
    let [(chain, key), _] = pairs();
    // As much as a Secret may have.
    let large = (chain.repeat((64 << 10) / chain.len()), key);
    let names = |gateway: usize, count: usize| {
        (0..count).map(move |n| format!("g{gateway}-{n}")).collect::<Vec<_>>()
    };
    let of = |gateway_name: &str, host: u8, names: &[String]| {
        let listeners: Vec<_> = names
            .chunks(8)
            .map(|some| some.iter().map(|it| json!({"name": it})).collect())
            .collect();
        gateway(gateway_name, host, &listeners)
    };
    let mut events = Vec::new();
    for number in 0..18_u8 {
        let names = names(number.into(), 56);
        events.push(of(&format!("g{number:02}"), number + 1, &names));
        events.extend(names.iter().map(|name| secret("shop", name, &large)));
    }
    let index = index(events);
    let compiled = common::compiled(&index);
    let bytes = |certificates: &[blixt_model::Certificate]| {
        let parts = certificates.iter().flat_map(|it| it.chain.iter().chain([&it.key.0]));
        parts.map(Vec::len).sum::<usize>()
    };
    let all = bytes(&compiled.certificates);
    assert!((MOST_CERTIFICATE_BYTES * 9 / 10..MOST_CERTIFICATE_BYTES).contains(&all), "{all}");
    let told = |gateway: &str, place| condition(&listener(&compiled, gateway, place), RESOLVED);
    assert_eq!(told("g00", 0).0, "ResolvedRefs=True ResolvedRefs");
    let room = "has a certificate for which there is no room: those of all listeners may take 32 \
                MiB, and 2 MiB those of one Gateway and its ListenerSets";
    for (gateway, place) in [("g00", 6), ("g17", 1)] {
        let (head, message) = told(gateway, place);
        assert_eq!(head, "ResolvedRefs=False InvalidCertificateRef");
        assert!(message.contains(room), "{message}");
    }
    // They are read all the same: who makes room is served at once.
    assert!(wanted_secrets(&index, CONTROLLER_NAME).contains(&"shop/g17-8".parse().unwrap()));
}
