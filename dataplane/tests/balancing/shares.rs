//! Who is chosen for a new flow.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use blixt_dataplane::{CompileOptions, DropReason, MaglevSize, Slots, Tables, choose_offline};
use blixt_model::EndpointState::Ready;
use blixt_model::{
    Affinity, Backend, Protocol, RejectReason, ServicePort, Snapshot, Target, Weight,
};
use blixt_testkit::frame::tcp_syn;
use proptest::prelude::*;

use crate::world::{
    Situation, WEB, WEB6, World, at, client, endpoint, listener, ready, service, snapshot,
    to_service,
};

fn compile(snapshot: &Snapshot) -> Tables {
    compile_after(snapshot, &mut Slots::default(), &Tables::default())
}

fn compile_after(snapshot: &Snapshot, slots: &mut Slots, previous: &Tables) -> Tables {
    compile_with(MaglevSize::DEFAULT, snapshot, slots, previous)
}

fn compile_with(
    maglev: MaglevSize,
    snapshot: &Snapshot,
    slots: &mut Slots,
    previous: &Tables,
) -> Tables {
    let options = CompileOptions { maglev, ..CompileOptions::default() };
    Tables::compile(snapshot, &options, slots, previous).unwrap()
}

fn choose(tables: &Tables, client: SocketAddr, vip: &str) -> Result<IpAddr, DropReason> {
    choose_offline(tables, client, at(vip), Protocol::Tcp).map(|(address, _)| address)
}

fn web(backends: Vec<Backend>, services: Vec<ServicePort>) -> Snapshot {
    snapshot(1, vec![listener("web", Protocol::Tcp, 80, backends)], services)
}

fn one_each(names: &[&str]) -> Vec<ServicePort> {
    let at = |n| endpoint(&format!("10.1.0.{n}:8080"), Ready);
    names.iter().zip(1..).map(|(name, n)| service(name, Protocol::Tcp, vec![at(n)])).collect()
}

#[test]
fn weights_70_30_0_over_2000_connections_within_2_points() {
    let backends = vec![to_service(0, 70), to_service(1, 30), to_service(2, 0)];
    let wanted = web(backends, one_each(&["a", "b", "c"]));
    let situation = Situation { flow_capacity: 2_000, ..Situation::default() };
    let mut world = World::new(&situation, &wanted);
    for n in 0..2_000 {
        world.send(tcp_syn(client(n), at(WEB))).sent();
    }
    let flows = |name: &str| world.backend(name).flows.value();
    let points = ["default/a", "default/b", "default/c"].map(|name| flows(name) as f64 / 20.0);
    println!("70/30/0 gave {points:?}");
    assert!((points[0] - 70.0).abs() <= 2.0, "{points:?}");
    assert!((points[1] - 30.0).abs() <= 2.0, "{points:?}");
    assert_eq!(points[2], 0.0);
}

#[test]
fn a_ref_with_ten_pods_and_one_with_one_pod_share_equally() {
    let services = vec![
        service("many", Protocol::Tcp, ready(10)),
        service("one", Protocol::Tcp, vec![endpoint("10.2.0.1:8080", Ready)]),
    ];
    let tables = compile(&web(vec![to_service(0, 1), to_service(1, 1)], services));
    let one: IpAddr = "10.2.0.1".parse().unwrap();
    let to_one = (0..20_000).filter(|&n| choose(&tables, client(n), WEB) == Ok(one)).count();
    assert!((9_700..=10_300).contains(&to_one), "{to_one}");
}

#[test]
fn taking_one_of_ten_away_moves_next_to_nothing_of_the_others() {
    let ten = ready(10);
    let wanted =
        |endpoints| web(vec![to_service(0, 1)], vec![service("a", Protocol::Tcp, endpoints)]);
    let before = compile(&wanted(ten.clone()));
    for gone in &ten {
        let rest: Vec<_> = ten.iter().copied().filter(|endpoint| endpoint != gone).collect();
        let after = compile(&wanted(rest));
        let (mut stayed, mut moved) = (0, 0);
        for n in 0..10_000 {
            let (was, is) = (choose(&before, client(n), WEB), choose(&after, client(n), WEB));
            match was == Ok(gone.address) {
                true => assert_ne!(is, was),
                false if is == was => stayed += 1,
                false => moved += 1,
            }
        }
        assert!(moved * 50 < stayed + moved, "{moved} of {} moved", stayed + moved);
    }
}

#[test]
fn a_pod_that_leaves_one_ref_moves_nothing_of_another() {
    let wanted = |endpoints| {
        let services = vec![
            service("a", Protocol::Tcp, endpoints),
            service("b", Protocol::Tcp, vec![endpoint("10.2.0.1:8080", Ready)]),
        ];
        web(vec![to_service(0, 1), to_service(1, 1)], services)
    };
    let (before, after) = (compile(&wanted(ready(3))), compile(&wanted(ready(2))));
    let b = Ok("10.2.0.1".parse().unwrap());
    for n in 0..5_000 {
        let was_b = choose(&before, client(n), WEB) == b;
        assert_eq!(choose(&after, client(n), WEB) == b, was_b);
    }
}

#[test]
fn client_ip_affinity_keeps_a_client_whatever_its_ports() {
    let mut a = service("a", Protocol::Tcp, ready(5));
    let mut b = service("b", Protocol::Tcp, vec![endpoint("10.2.0.1:8080", Ready)]);
    a.affinity = Affinity::ClientIp;
    b.affinity = Affinity::ClientIp;
    let tables = compile(&web(vec![to_service(0, 3), to_service(1, 1)], vec![a, b]));
    let mut used = HashMap::new();
    for host in 1..=250 {
        let from = |port: u16| SocketAddr::from(([192, 0, 2, host], port));
        let first = choose(&tables, from(1_024), WEB).unwrap();
        for port in 1_025..1_045 {
            assert_eq!(choose(&tables, from(port), WEB), Ok(first));
        }
        *used.entry(first).or_insert(0) += 1;
    }
    assert_eq!(used.len(), 6, "clients spread: {used:?}");
}

#[test]
fn affinity_of_one_ref_alone_keeps_the_endpoint_and_not_the_ref() {
    let mut a = service("a", Protocol::Tcp, ready(5));
    a.affinity = Affinity::ClientIp;
    let b = service("b", Protocol::Tcp, vec![endpoint("10.2.0.1:8080", Ready)]);
    let tables = compile(&web(vec![to_service(0, 1), to_service(1, 1)], vec![a, b]));
    let chosen: std::collections::BTreeSet<_> =
        (0..200).map(|n| choose(&tables, client(n), WEB).unwrap()).collect();
    assert_eq!(chosen.len(), 2, "one endpoint of each: {chosen:?}");
}

#[test]
fn refs_that_are_bad_or_empty_keep_their_share_as_refusals() {
    let bad = |weight| Backend {
        weight: Weight::new(weight).unwrap(),
        target: Target::Rejected(RejectReason::BackendNotFound),
    };
    let services =
        vec![service("good", Protocol::Tcp, ready(2)), service("empty", Protocol::Tcp, vec![])];
    let backends = vec![to_service(0, 2), bad(1), to_service(1, 1)];
    let tables = compile(&web(backends, services));
    let mut counts = HashMap::new();
    for n in 0..8_000 {
        *counts.entry(choose(&tables, client(n), WEB).err()).or_insert(0_u32) += 1;
    }
    let near = |reason, wanted: u32| counts[&reason].abs_diff(wanted) < 150;
    assert!(near(None, 4_000), "{counts:?}");
    assert!(near(Some(DropReason::BadBackend), 2_000), "{counts:?}");
    assert!(near(Some(DropReason::NoEndpoint), 2_000), "{counts:?}");
}

#[test]
fn nobody_to_choose_has_a_name() {
    let good = || one_each(&["a"]);
    let all_zero = compile(&web(vec![to_service(0, 0)], good()));
    assert_eq!(choose(&all_zero, client(1), WEB), Err(DropReason::NoWeight));
    let none = compile(&web(vec![], good()));
    assert_eq!(choose(&none, client(1), WEB), Err(DropReason::NoWeight));
    let mut without_route = listener("web", Protocol::Tcp, 80, vec![]);
    without_route.route = None;
    let without_route = compile(&snapshot(1, vec![without_route], vec![]));
    assert_eq!(choose(&without_route, client(1), WEB), Err(DropReason::NoRoute));
    assert_eq!(choose(&none, client(1), "198.51.100.1:81"), Err(DropReason::NoListener));
    assert_eq!(choose(&none, client(1), "198.51.100.9:80"), Err(DropReason::NotOurAddress));
}

#[test]
fn a_decision_tells_the_slots_that_made_it() {
    let rejected = Backend {
        weight: Weight::new(1).unwrap(),
        target: Target::Rejected(RejectReason::BackendNotFound),
    };
    let wanted = web(
        vec![to_service(0, 3), to_service(1, 1), rejected, to_service(0, 0)],
        vec![service("a", Protocol::Tcp, ready(2)), service("b", Protocol::Tcp, vec![])],
    );
    let tables = compile(&wanted);
    let shares = tables.backend_shares(at(WEB), Protocol::Tcp).unwrap();
    let slots: Vec<_> = shares.iter().map(|share| share.slots).collect();
    let of = shares[0].of;
    assert_eq!(slots.iter().sum::<u32>(), of);
    assert_eq!(slots[3], 0, "no weight, no slot");
    assert!(slots[0].abs_diff(of * 3 / 5) <= 1, "{slots:?} of {of}");
    assert_eq!(tables.backend_shares(at("198.51.100.1:81"), Protocol::Tcp), None);

    let endpoints = tables.endpoint_shares(0);
    assert_eq!(endpoints.len(), 2);
    assert_eq!(endpoints.iter().map(|(_, share)| share.slots).sum::<u32>(), endpoints[0].1.of);
    assert_eq!(tables.endpoint_shares(1), []);

    let mut chosen = [0; 4];
    for n in 0..500 {
        let decision = tables.decide(client(n), at(WEB), Protocol::Tcp);
        let (place, slot) = decision.backend.unwrap();
        assert!(slot.slot < slot.of && slot.of == of);
        chosen[place] += 1;
        let expected = [
            Some(DropReason::NoSnatAddress),
            Some(DropReason::NoEndpoint),
            Some(DropReason::BadBackend),
            None,
        ];
        assert_eq!(decision.refused, expected[place]);
        assert_eq!(decision.endpoint.is_some(), place == 0);
    }
    assert!(chosen[..3].iter().all(|&flows| flows > 0) && chosen[3] == 0, "{chosen:?}");
}

#[test]
fn a_decision_says_what_keeps_a_packet_from_being_balanced() {
    let tables = compile(&web(vec![to_service(0, 1)], one_each(&["a"])));
    let why = |client: &str, vip: &str| {
        tables.decide(at(client), at(vip), Protocol::Tcp).refused.unwrap()
    };
    assert_eq!(why("127.0.0.1:1", WEB), DropReason::SourceAddress);
    assert_eq!(why("224.0.0.1:1", WEB), DropReason::SourceAddress);
    assert_eq!(why(WEB, WEB), DropReason::SourceAddress);
    assert_eq!(why("192.0.2.7:0", WEB), DropReason::L4Header);
    assert_eq!(why("192.0.2.7:1", "198.51.100.9:80"), DropReason::NotOurAddress);
    assert_eq!(why("192.0.2.7:1", "198.51.100.1:81"), DropReason::NoListener);
}

#[test]
fn each_family_has_its_own_endpoints() {
    let mut endpoints = ready(2);
    endpoints.push(endpoint("[2001:db8:e::1]:8080", Ready));
    let wanted = web(vec![to_service(0, 1)], vec![service("a", Protocol::Tcp, endpoints)]);
    let tables = compile(&wanted);
    for n in 0..100 {
        assert!(choose(&tables, client(n), WEB).unwrap().is_ipv4());
        let client6 = SocketAddr::new("2001:db8:c::7".parse().unwrap(), 1_000 + n);
        assert_eq!(choose(&tables, client6, WEB6), Ok("2001:db8:e::1".parse().unwrap()));
    }
}

#[test]
fn ten_thousand_services_compile_again_without_being_made_again() {
    let services: Vec<_> = (0..10_000_u32)
        .map(|n| {
            let [_, _, high, low] = n.to_be_bytes();
            let at = format!("10.3.{high}.{low}:8080");
            service(&format!("s{n}"), Protocol::Tcp, vec![endpoint(&at, Ready)])
        })
        .collect();
    let wanted = web(vec![to_service(0, 1)], services);
    let mut slots = Slots::default();
    let first = compile_after(&wanted, &mut slots, &Tables::default());
    let start = std::time::Instant::now();
    let second = compile_after(&wanted, &mut slots, &first);
    println!("10,000 unchanged services compile in {:?}", start.elapsed());
    assert_eq!(choose(&second, client(1), WEB), Ok("10.3.0.0".parse().unwrap()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever the order in which refs, services and endpoints are listed,
    /// and whatever was before, everybody chooses the same.
    #[test]
    fn the_same_objects_choose_alike_in_any_order(
        order in Just((0..4_usize).collect::<Vec<_>>()).prop_shuffle(),
        endpoint_order in Just(ready(6)).prop_shuffle(),
        weights in proptest::array::uniform4(0_u32..5),
    ) {
        let names = ["a", "b", "c", "d"];
        let shuffled = |order: &[usize], endpoints: &[blixt_model::Endpoint]| {
            let services = order.iter().map(|&n| {
                let own = endpoints.iter().copied().filter(|e| match e.address {
                    IpAddr::V4(v4) => usize::from(v4.octets()[3]) % 3 != n % 3,
                    IpAddr::V6(_) => false,
                });
                service(names[n], Protocol::Tcp, own.collect())
            });
            let backends = order.iter().zip(0..).map(|(&n, index)| to_service(index, weights[n]));
            web(backends.collect(), services.collect())
        };
        let small = MaglevSize::new(1_021).unwrap();
        let compiled = |wanted: &Snapshot, slots: &mut Slots, before: &Tables| {
            compile_with(small, wanted, slots, before)
        };
        let nothing = Tables::default();
        let plain = shuffled(&[0, 1, 2, 3], &ready(6));
        let tables = compiled(&plain, &mut Slots::default(), &nothing);
        let other = shuffled(&order, &endpoint_order);
        let fresh = compiled(&other, &mut Slots::default(), &nothing);
        let mut slots = Slots::default();
        let before = compiled(&web(vec![], one_each(&["b", "z"])), &mut slots, &nothing);
        let grown = compiled(&other, &mut slots, &before);
        for n in 0..300 {
            let expected = choose(&tables, client(n), WEB);
            prop_assert_eq!(choose(&fresh, client(n), WEB), expected);
            prop_assert_eq!(choose(&grown, client(n), WEB), expected);
        }
    }
}
