//! What becomes of connections when their address goes to another node, and back: each
//! hears at its next packet that it is over, and its client does not wait until it gives
//! up by itself.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use blixt_e2e::cluster::Cluster;
use blixt_testkit::netns::{Process, eventually_some};
use tempfile::TempDir;

use crate::failures::OUTAGE;
use crate::installed;
use crate::nodes::{
    await_owner, begin_anew, crash, cut_link, drain, join_link, replace_agent, start_again,
    uncordon,
};

/// Less than a client would wait before it sends its packet again and again.
const AT_ONCE: Duration = Duration::from_secs(1);

pub(crate) fn of_old_connections(cluster: &Cluster, vip: &String) {
    begin_anew(cluster, [vip]);
    let talk = Talk::begin(cluster, vip);
    drain(cluster);
    let said = talk.goes_on();
    println!("a node that is drained keeps its connections: {said}");
    uncordon(cluster);

    let talk = Talk::begin(cluster, vip);
    replace_agent(cluster);
    await_owner(cluster, [vip], "node1");
    talk.hears_a_reset("the agent was told to end");
    begin_anew(cluster, [vip]);

    let talk = Talk::begin(cluster, vip);
    cut_link(cluster);
    sleep(Duration::from_secs_f64(OUTAGE));
    talk.hears_a_reset("the link was cut");
    let talk = Talk::begin(cluster, vip);
    join_link(cluster);
    await_owner(cluster, [vip], "node2");
    talk.hears_a_reset("the address is back where it was");
    begin_anew(cluster, [vip]);

    let talk = Talk::begin(cluster, vip);
    crash(cluster);
    sleep(Duration::from_secs_f64(OUTAGE));
    talk.hears_a_reset("the node died");
    start_again(cluster);
    // What a dead node's agent has left, the next one takes away.
    installed::is_there(cluster);
}

/// A request that has begun, on a connection that is there.
struct Talk {
    client: Process,
    pauses: PathBuf,
    _files: TempDir,
}

impl Talk {
    /// What it sends at first is acknowledged by then, and not sent again by itself.
    fn begin(cluster: &Cluster, vip: &str) -> Self {
        const TALK: &str = r#"
            trap '' PIPE
            exec 3<>"/dev/tcp/$0/8080"
            printf 'GET /hostname HTTP/1.1\r\n' >&3
            sleep 0.3
            touch "$1"
            while [ -e "$1" ]; do sleep 0.02; done
            printf 'Host: x\r\nConnection: close\r\n\r\n' >&3
            timeout 5 cat <&3"#;
        let files = tempfile::tempdir().unwrap();
        let pauses = files.path().join("pauses");
        let client = cluster.client("bash").args(["-c", TALK, vip]).arg(&pauses).spawn();
        let is_there = || if pauses.exists() { Ok(()) } else { Err("no answer") };
        eventually_some("the connection", Duration::from_secs(10), is_there);
        Self { client, pauses, _files: files }
    }

    /// Says the rest of it, and gives what the client heard, and after how long.
    fn ends(mut self) -> (String, String, Duration) {
        fs::remove_file(&self.pauses).unwrap();
        let begun = Instant::now();
        self.client.wait_for(Duration::from_secs(10));
        let took = begun.elapsed();
        let (stdout, stderr) = self.client.into_output();
        (stdout, stderr, took)
    }

    fn goes_on(self) -> String {
        let (stdout, stderr, _) = self.ends();
        let first = stdout.lines().next().unwrap_or_default().trim().to_owned();
        assert_eq!(first, "HTTP/1.1 200 OK", "{stdout}{stderr}");
        first
    }

    fn hears_a_reset(self, when: &str) {
        let (stdout, stderr, took) = self.ends();
        // The shell writes line by line, and a line after the reset has nowhere to go.
        let is_reset = ["reset by peer", "Broken pipe"].iter().any(|word| stderr.contains(word));
        assert!(is_reset && stdout.is_empty(), "{when}: {stdout}{stderr}");
        println!("{when}: an old connection is reset after {took:?}");
        assert!(took < AT_ONCE, "{when}: {took:?}");
    }
}
