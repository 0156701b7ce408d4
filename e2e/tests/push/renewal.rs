//! Certificates that end, and CAs that change, while agents run; and a CA that others
//! brought along.

use std::fs;
use std::time::Duration;

use blixt_api::parts::Parts;
use blixt_controller::push::{Material, Trust};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tonic::Status;

use crate::replica::{Agent, Files, Replica, ca, eventually, snapshot};
use crate::scripted::Scripted;

/// Long enough for a busy machine to do what has to be done in half of it.
const LIFE: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_used_until_there_is_a_new_one() {
    let ca = ca();
    let first = snapshot(80, 1);
    let replicas = [Scripted::start(&ca, &first).await, Scripted::start(&ca, &first).await];
    replicas.iter().for_each(|it| it.script(|script| script.life = LIFE));
    let files = Files::new(&ca, "token of node-1");
    let agent = Agent::start_at(files, &replicas.each_ref().map(|it| it.at));
    agent.gets(&first).await;
    let all = |is_so: &dyn Fn(&Scripted) -> bool| replicas.iter().all(is_so);
    eventually("both streams", || agent.sync.reach.borrow().connected == 2).await;

    // Nobody knows whether its token is good: the API server is down.
    let down = Status::unavailable("the API server can't be asked about the token");
    replicas.iter().for_each(|it| it.script(|script| script.enrols_not = Some(down.clone())));
    let mut reach = agent.sync.reach.clone();
    let missed = tokio::spawn(async move {
        reach.wait_for(|reach| reach.connected < 2).await.unwrap();
    });
    let asked = |it: &Scripted| it.script(|script| script.refused > 0);
    eventually("it to ask for a new one", || replicas.iter().any(asked)).await;
    let second = Parts::of(&snapshot(80, 2)).to_snapshot();
    let publish = |tables: &blixt_api::sync::v1alpha1::Snapshot| {
        replicas.iter().for_each(|it| it.script(|script| script.publish(tables.clone())));
    };
    publish(&second);
    agent.gets(&snapshot(80, 2)).await;
    assert!(all(&|it| it.script(|script| script.followed() == 1)), "no stream was given up");

    // It is back. All go over to one new certificate, and nobody misses them.
    let before: usize = replicas.iter().map(|it| it.script(|script| script.enrolled)).sum();
    replicas.iter().for_each(|it| it.script(|script| script.enrols_not = None));
    eventually("new streams", || all(&|it| it.script(|script| script.followed() == 2))).await;
    let after: usize = replicas.iter().map(|it| it.script(|script| script.enrolled)).sum();
    assert_eq!(after, before + 1);
    let third = Parts::of(&snapshot(80, 3)).to_snapshot();
    publish(&third);
    agent.gets(&snapshot(80, 3)).await;
    assert!(!missed.is_finished(), "both replicas were in reach all the time");
    missed.abort();
}

fn ended() -> Status {
    Status::unavailable("the test ends this stream")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_given_up_when_it_is_refused_and_not_before() {
    let ca = ca();
    let first = snapshot(80, 1);
    let replica = Scripted::start(&ca, &first).await;
    let agent = Agent::start_at(Files::new(&ca, "token of node-1"), &[replica.at]);
    agent.gets(&first).await;
    let comes_back = async |after: Status| {
        let before = replica.script(|script| script.followed());
        replica.hang_up(after);
        eventually("it to come back", || replica.script(|it| it.followed() == before + 1)).await;
        // Who is hung up on before it heard anything doubts its certificate.
        eventually("it to hear something", || agent.trouble().is_empty()).await;
        replica.script(|script| script.enrolled)
    };
    assert_eq!(comes_back(ended()).await, 1);
    let refused = Status::unauthenticated("the client certificate has expired");
    assert_eq!(comes_back(refused).await, 2);
    assert_eq!(comes_back(ended()).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_ca_is_taken_up_without_a_restart() {
    let (old, new) = (ca(), ca());
    let first = snapshot(80, 1);
    let replica = Scripted::start(&old, &first).await;
    let agent = Agent::start_at(Files::new(&old, "token of node-1"), &[replica.at]);
    agent.gets(&first).await;
    let bundle = |material: &[&Material]| {
        let all: Vec<_> = material.iter().map(|it| it.bundle.as_str()).collect();
        fs::write(agent.files.path("ca.crt"), all.join("\n")).unwrap();
    };

    // As a controller of ours does it: both are known for a while. Nobody needs
    // another certificate for that.
    bundle(&[&old, &new]);
    let both = Material { bundle: format!("{}\n{}", old.bundle, new.bundle), ..new.clone() };
    replica.script(|script| script.ca = both);
    replica.hang_up(ended());
    eventually("it to come back", || replica.script(|script| script.followed() == 2)).await;
    assert_eq!(replica.script(|script| script.enrolled), 1);

    // Overnight: what the old one has signed is worth nothing.
    let other = ca();
    bundle(&[&other]);
    replica.script(|script| script.ca = other.clone());
    replica.hang_up(ended());
    eventually("it to come back", || replica.script(|script| script.followed() == 3)).await;
    assert_eq!(replica.script(|script| script.enrolled), 2);
    replica.script(|script| script.publish(Parts::of(&snapshot(80, 2)).to_snapshot()));
    agent.gets(&snapshot(80, 2)).await;
}

/// Agents know the root alone: whatever is between it and a certificate is shown
/// with that, by the controller to agents and by agents to the controller.
#[tokio::test(flavor = "multi_thread")]
async fn a_ca_between_which_and_its_root_are_others_is_believed() {
    let params = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    };
    let keys = [(); 3].map(|()| KeyPair::generate().unwrap());
    let [root, middle, signer] = ["root", "middle", "signer"].map(params);
    let of_root = root.self_signed(&keys[0]).unwrap();
    let of_middle = middle.signed_by(&keys[1], &Issuer::from_params(&root, &keys[0])).unwrap();
    let of_signer = signer.signed_by(&keys[2], &Issuer::from_params(&middle, &keys[1])).unwrap();
    let brought = Material {
        certificate: format!("{}{}", of_signer.pem(), of_middle.pem()),
        key: keys[2].serialize_pem(),
        bundle: of_root.pem(),
        next: None,
    };

    let replica = Replica::start(&brought).await;
    let wanted = snapshot(80, 1);
    replica.push.publish(&wanted);
    let agent = Agent::start(Files::new(&brought, "token of node-1"), &[&replica]);
    agent.gets(&wanted).await;
    eventually("the agent to be known", || replica.push.agents().len() == 1).await;

    // With one of them missing it is not taken at all.
    let gap = Material { certificate: of_signer.pem(), ..brought };
    let why = Trust::new().update(&gap).unwrap_err().to_string();
    let expected = "tls.crt can't be used (who knows ca.crt does not believe what it signs: \
                    invalid peer certificate: UnknownIssuer)";
    assert_eq!(why, expected);
}
