//! Several workers, and packets that come in on the queue of one that does not
//! have their flow.

use std::time::Duration;

use blixt_e2e::{Stage, StagePlan, ask, ask_udp_from, serve_streams};
use blixt_testkit::netns::{Arms, LabPlan};
use blixt_testkit::require_root;

use super::balance::short_rest;
use super::bulk::{download, upload};
use super::{names_everywhere, nothing_is_left};

const MIB: u64 = 1 << 20;

fn stage(workers: usize, arms: Arms) -> Stage {
    let mut flags = short_rest();
    flags.extend(["--workers".to_owned(), workers.to_string()]);
    let lab = LabPlan { queues: 4, arms, ..LabPlan::default() };
    Stage::new(StagePlan { lab, flags }, |_, _| ())
}

fn handoffs(stage: &Stage) -> f64 {
    stage.agent().metrics().sum("blixt_handoffs_total", &[])
}

/// Stops the agent and looks whether each worker has all its frames.
fn everybody_accounts(mut stage: Stage, workers: usize) {
    let stopped = stage.agent.take().unwrap().stop();
    let accounts = stopped.log.matches("all frames are home").count();
    assert_eq!(accounts, workers, "{}", stopped.log);
}

/// Which queues packets come in on is a matter of hashes: with two workers each
/// reply has an even chance to come to its flow's owner, and 8 that all do
/// have been seen. So many rounds of as many are tried.
const ROUNDS: usize = 4;

fn transfers(workers: usize, arms: Arms, prepare: impl FnOnce(&Stage)) {
    let stage = stage(workers, arms);
    prepare(&stage);
    let _servers: Vec<_> =
        stage.lab.backends.iter().map(|backend| serve_streams(&backend.namespace, 8_080)).collect();
    for _ in 0..ROUNDS {
        round(&stage);
        if handoffs(&stage) > 0.0 {
            break;
        }
    }
    let handed = handoffs(&stage);
    println!("{workers} workers: {handed} packets were handed over");
    assert!(handed > 0.0);
    let metrics = stage.agent().metrics();
    assert_eq!(metrics.sum("blixt_worker_handoffs_total", &[]), handed);
    let status = stage.agent().ctl("status");
    let shown = status["workers"].as_array().unwrap();
    assert_eq!(shown.len(), workers);
    nothing_is_left(&stage, &[]);
    everybody_accounts(stage, workers);
}

/// Transfers in both directions to each address.
fn round(stage: &Stage) {
    for to in stage.vip(80) {
        // Several at once, so that several queues are busy.
        let clients: Vec<_> = (0..4)
            .map(|n| {
                let transfer = if n % 2 == 0 { download } else { upload };
                stage.lab.client.namespace.thread(move || transfer(to, 8 * MIB))
            })
            .collect();
        for client in clients {
            client.join().unwrap();
        }
    }
}

#[test]
fn two_workers_move_every_byte_with_flows_spread_over_four_queues() {
    require_root!();
    transfers(2, Arms::Two, |_| ());
}

#[test]
fn four_workers_move_every_byte_with_flows_spread_over_four_queues() {
    require_root!();
    transfers(4, Arms::Two, |_| ());
}

#[test]
fn replies_that_all_come_to_the_wrong_worker_are_handed_to_the_right_one() {
    require_root!();
    transfers(2, Arms::Two, |stage| {
        stage.lab.steer_clients(0);
        stage.lab.steer_backends(3);
    });
}

#[test]
fn one_worker_of_four_that_gets_everything_hands_on_what_is_not_its_own() {
    require_root!();
    let stage = stage(4, Arms::Two);
    let _servers = names_everywhere(&stage);
    // Chosen by the kernel some would come twice, and be one flow.
    let mut ports = 20_000_u16..;
    for queue in 0..4 {
        stage.lab.steer_clients(queue);
        stage.lab.steer_backends((queue + 1) % 4);
        for to in stage.vip(80) {
            for _ in 0..20 {
                stage.lab.client.namespace.inside(move || ask(to).unwrap());
                let port = ports.next().unwrap();
                stage.lab.client.namespace.inside(move || ask_udp_from(port, to).unwrap());
            }
        }
    }
    // At least the SYN-ACK, the answer and a FIN of each connection.
    assert!(handoffs(&stage) >= 160.0 * 4.0);
    let metrics = stage.agent().metrics();
    assert_eq!(metrics.sum("blixt_new_flows_total", &[]), 320.0);
    nothing_is_left(&stage, &[]);
    everybody_accounts(stage, 4);
}

#[test]
fn connections_survive_that_the_network_card_spreads_them_anew() {
    require_root!();
    let stage = stage(2, Arms::Two);
    let _servers: Vec<_> =
        stage.lab.backends.iter().map(|backend| serve_streams(&backend.namespace, 8_080)).collect();
    stage.lab.steer_clients(0);
    stage.lab.steer_backends(0);
    let [to, _] = stage.vip(80);
    let transfer = stage.lab.client.namespace.thread(move || download(to, 64 * MIB));
    for turn in 0..20 {
        std::thread::sleep(Duration::from_millis(20));
        stage.lab.steer_clients(turn % 4);
        stage.lab.steer_backends((turn + 1) % 4);
    }
    transfer.join().unwrap();
    assert_eq!(stage.agent().metrics().sum("blixt_new_flows_total", &[]), 1.0);
    nothing_is_left(&stage, &[]);
    everybody_accounts(stage, 2);
}

#[test]
fn an_interface_with_fewer_queues_than_workers_is_refused_with_advice() {
    require_root!();
    let mut stage = stage(4, Arms::Two);
    stage.agent.take().unwrap().stop();
    // The kernel lets go of the agent's sockets a moment after it has ended.
    blixt_testkit::netns::eventually("fewer queues", Duration::from_secs(5), || {
        let fewer = ["-L", "lb1", "rx", "2", "tx", "2"];
        stage.lab.lb.command("ethtool").args(fewer).run().status.success()
    });
    let agent = blixt_e2e::Agent::launch(&stage.lab, &stage.manifests, &stage.plan.flags);
    blixt_testkit::netns::eventually("the agent to refuse", Duration::from_secs(15), || {
        agent.log().contains("lb1 has 2 queues, fewer than --workers 4")
    });
}
