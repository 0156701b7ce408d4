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
    await_owner, begin_anew, continue_agent, crash, cut_link, drain, join_link, replace_agent,
    start_again, stop_agent, uncordon,
};

/// Less than a client would wait before it sends its packet again and again.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Over addresses of both families.
pub(crate) fn of_old_connections(cluster: &Cluster, vips: &[String; 2]) {
    let begin = || vips.each_ref().map(|vip| Talk::begin(cluster, vip));
    let are_reset = |talks: [Talk; 2], when: &str| {
        talks.into_iter().for_each(|talk| talk.hears_a_reset(when));
    };
    let lost = || sleep(Duration::from_secs_f64(OUTAGE));

    begin_anew(cluster, vips);
    let talks = begin();
    drain(cluster);
    for said in talks.map(Talk::goes_on) {
        println!("a node that is drained keeps its connections: {said}");
    }
    uncordon(cluster);

    let talks = begin();
    replace_agent(cluster);
    await_owner(cluster, vips, "node1");
    are_reset(talks, "the agent was told to end");
    begin_anew(cluster, vips);

    let talks = begin();
    cut_link(cluster);
    lost();
    are_reset(talks, "the link was cut");
    let talks = begin();
    join_link(cluster);
    await_owner(cluster, vips, "node2");
    are_reset(talks, "the address is back where it was");
    begin_anew(cluster, vips);

    let talks = begin();
    stop_agent(cluster);
    lost();
    are_reset(talks, "the agent hung");
    continue_agent(cluster);
    begin_anew(cluster, vips);

    let talks = begin();
    crash(cluster);
    lost();
    are_reset(talks, "the node died");
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
    /// What it sends at first is acknowledged by then, and not sent again by itself. The
    /// rest goes out in one piece: the shell's own printf writes line by line.
    fn begin(cluster: &Cluster, vip: &str) -> Self {
        const TALK: &str = r#"
            trap '' PIPE
            exec 3<>"/dev/tcp/$0/8080"
            printf 'GET /hostname HTTP/1.1\r\n' >&3
            sleep 0.3
            touch "$1"
            while [ -e "$1" ]; do sleep 0.02; done
            head <<<$'Host: x\r\nConnection: close\r\n\r' >&3
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
        assert!(stderr.contains("reset by peer"), "{when}: {stdout}{stderr}");
        println!("{when}: an old connection is reset after {took:?}");
        assert!(took < AT_ONCE, "{when}: {took:?}");
    }
}
