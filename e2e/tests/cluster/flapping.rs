//! A node that is there and away again and again: addresses do not go to and fro with it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use blixt_e2e::Announcements;
use blixt_e2e::cluster::Cluster;
use blixt_e2e::knocks::Door;

use crate::failures::OUTAGE;
use crate::nodes::{
    await_owner, begin_anew, continue_agent, mac, owner, replace_agent, stop_agent,
};

/// How often it falls in a minute, and for how long. After the second time it is waited for
/// six seconds (four, and two as after any trouble), after the third one for longer than it
/// lasts.
const FALLS: usize = 6;
const AWAY: Duration = Duration::from_millis(1_800);
const THERE: Duration = Duration::from_millis(8_200);

pub(crate) fn moves_addresses_less_and_less(cluster: &Cluster, vip: &String) {
    begin_anew(cluster, [vip]);
    let heard = Announcements::listen_in(&cluster.network("client"));
    let knocks = cluster.knocks(Door::Web(format!("{vip}:8080").parse().unwrap()));
    let begun = Instant::now();
    for _ in 0..FALLS {
        stop_agent(cluster);
        sleep(AWAY);
        continue_agent(cluster);
        sleep(THERE);
    }
    let outcome = knocks.stop();
    let mut said = heard.announced(vip.parse().unwrap(), begun);
    said.dedup();
    let moves = said.iter().skip_while(|by| **by == mac(cluster, "node2")).count();
    println!(
        "{FALLS} falls within {:.0?}: {moves} moves; {} answered, {} failed, longest time without an \
         answer {:.0} ms",
        begun.elapsed(),
        outcome.answered,
        outcome.failures.len(),
        outcome.longest_gap_s * 1e3,
    );
    // There and back twice, and there. Without a memory it were twelve.
    assert_eq!(moves, 5, "{said:?}");
    assert_eq!(owner(cluster, vip), mac(cluster, "node1"), "it is still away");
    assert!(outcome.longest_gap_s <= OUTAGE, "{outcome:?}");
    // Both say why.
    for (who, words) in [
        ("deployment/blixt-controller", "an agent was silent again and again of late"),
        ("daemonset/blixt-agent", "this node was silent again and again of late"),
    ] {
        let log =
            cluster.kubectl(&["-n", "blixt-system", "logs", "--all-pods", "--tail=-1", who]).ok();
        assert!(log.contains(words), "{who} does not say {words:?}: {log}");
    }
    // Whoever restarts the agent has looked after it, and need not wait for a minute.
    let begun = Instant::now();
    replace_agent(cluster);
    await_owner(cluster, [vip], "node2");
    println!("restarted by hand, it is back after {:.1?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
