//! A node whose links are down says so with its beats, by the real agent.

use std::time::Instant;

use blixt_e2e::Agent;
use blixt_testkit::netns::{Lab, LabPlan, eventually_some};
use blixt_testkit::require_root;

use crate::replica::{Files, SOON, ca, listen_in, snapshot_of};
use crate::scripted::Scripted;

#[test]
fn an_agent_without_a_link_says_that_it_cannot_serve_until_it_has_one() {
    require_root!();
    let lab = Lab::new(LabPlan::default());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ca = ca();
    let listener = listen_in(&lab, &runtime);
    let tables = snapshot_of(lab.vips().into(), 80, vec![], 8_080);
    let replica = {
        let _inside = runtime.enter();
        Scripted::serve(&ca, listener, &tables)
    };
    let files = Files::new(&ca, "token of node-1");
    let source = files.flags(replica.at);
    let says = |what: &str, is_so: &dyn Fn(&str) -> bool| {
        let begin = Instant::now();
        eventually_some(what, SOON, || match replica.script(|script| script.trouble()) {
            Some(trouble) if is_so(&trouble) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        begin.elapsed()
    };

    let mut agent = Agent::follow(&lab, &source, &files.path("state"));
    eventually_some("the agent to be ready", SOON, || agent.ready());
    says("no trouble", &str::is_empty);
    let begun = replica.script(|script| script.said.len());
    // It has other links, for a while.
    let (last, others) = lab.interfaces().split_last().unwrap();
    for link in others {
        lab.lb.ip(&format!("link set {link} down"));
    }
    eventually_some("it to be told", SOON, || match agent.ready() {
        Err(why) if others.iter().all(|link| why.contains(link)) => Ok(()),
        other if others.is_empty() => other,
        other => Err(format!("{other:?}")),
    });
    says("no trouble", &str::is_empty);
    lab.lb.ip(&format!("link set {last} down"));
    let took = says("trouble", &|trouble| trouble.contains(last));
    println!("a link that is down was told after {took:?}");
    for link in lab.interfaces() {
        lab.lb.ip(&format!("link set {link} up"));
    }
    let took = says("no trouble", &str::is_empty);
    println!("a link that is up was told after {took:?}");
    assert!(replica.script(|script| script.said.len()) > begun);
    assert_eq!(replica.script(|script| script.followed()), 1);

    agent.stop();
}
