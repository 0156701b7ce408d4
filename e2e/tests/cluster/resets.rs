//! What becomes of connections while something fails and when all is as it was: where
//! their address goes to another node, each hears at its next packet that it is over, and
//! its client does not wait until it gives up by itself.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use blixt_e2e::cluster::Cluster;
use blixt_testkit::netns::{Process, eventually_some, program};
use tempfile::TempDir;

/// Less than a client would wait before it sends its packet again and again.
const AT_ONCE: Duration = Duration::from_secs(1);

/// What becomes of connections that were there before.
#[derive(Clone, Copy)]
pub(crate) enum Old {
    /// Their address goes to another node.
    AreReset,
    /// It does not.
    GoOn,
}

/// One to each of some addresses.
pub(crate) struct Connections([Talk; 2]);

impl Connections {
    pub(crate) fn begin(cluster: &Cluster, vips: &[String; 2]) -> Self {
        Self(vips.each_ref().map(|vip| Talk::begin(cluster, vip)))
    }

    pub(crate) fn become_what(self, old: Old, when: &str) {
        for talk in self.0 {
            match old {
                Old::AreReset => talk.hears_a_reset(when),
                Old::GoOn => talk.goes_on(when),
            }
        }
    }
}

/// A request that has begun, on a connection that is there.
struct Talk {
    client: Process,
    /// Who writes to it has the client go on.
    go: File,
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
            read -r <"$2"
            head <<<$'Host: x\r\nConnection: close\r\n\r' >&3
            timeout 5 cat <&3"#;
        let files = tempfile::tempdir().unwrap();
        let [pauses, go] = ["pauses", "go"].map(|name| files.path().join(name));
        program("mkfifo").arg(&go).ok();
        let client = cluster.client("bash").args(["-c", TALK, vip]).arg(&pauses).arg(&go).spawn();
        // For both, so that it waits for nobody at its other end (fifo(7)).
        let go = File::options().read(true).write(true).open(go).unwrap();
        let is_there = || if pauses.exists() { Ok(()) } else { Err("no answer") };
        eventually_some("the connection", Duration::from_secs(10), is_there);
        Self { client, go, _files: files }
    }

    /// Says the rest of it, and gives what the client heard, and after how long.
    fn ends(mut self) -> (String, String, Duration) {
        self.go.write_all(b"\n").unwrap();
        let begun = Instant::now();
        self.client.wait_for(Duration::from_secs(10));
        let took = begun.elapsed();
        let (stdout, stderr) = self.client.into_output();
        (stdout, stderr, took)
    }

    fn goes_on(self, when: &str) {
        let (stdout, stderr, _) = self.ends();
        let first = stdout.lines().next().unwrap_or_default().trim();
        assert_eq!(first, "HTTP/1.1 200 OK", "{when}: {stdout}{stderr}");
        println!("{when}: an old connection goes on: {first}");
    }

    fn hears_a_reset(self, when: &str) {
        let (stdout, stderr, took) = self.ends();
        assert!(stderr.contains("reset by peer"), "{when}: {stdout}{stderr}");
        println!("{when}: an old connection is reset after {took:?}");
        assert!(took < AT_ONCE, "{when}: {took:?}");
    }
}
