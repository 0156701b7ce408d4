//! What operators are told, as docs/operations.md and the README have it: commands to
//! look with, and those that other tests do the same by.

use blixt_e2e::cluster::{Cluster, root};

use crate::served::{addresses, in_url};

/// As many commands as there are on the page at least, so that none gets lost.
const FEW: usize = 10;

/// What a test does or hears stands on a page, word for word: as a line of its own, which
/// may go on below, or amid a sentence.
pub(crate) fn tells(line: &str) -> &str {
    let is_told = ["docs/operations.md", "README.md"].iter().any(|page| {
        let page = std::fs::read_to_string(root().join(page)).unwrap().replace("\\\n", " ");
        let mut lines = page.lines().filter_map(|line| line.strip_prefix("    "));
        lines.any(|told| words(told) == line) || page.contains(&format!("`{line}`"))
    });
    assert!(is_told, "no page tells: {line}");
    line
}

/// A line, however it is aligned.
pub(crate) fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(crate) fn commands_work(cluster: &Cluster) {
    let page = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let agents = ["-n", "blixt-system", "get", "pods", "-o", "name"];
    let pods = cluster.kubectl(&agents).ok();
    let pod = pods.lines().find(|name| name.contains("blixt-agent")).unwrap();
    let address = in_url(&addresses(cluster, "web")[0]);
    // Those that change nothing.
    let looks = |line: &str| {
        let kubectl = ["get ", "exec ", "rollout status "].iter().any(|verb| line.contains(verb));
        line.starts_with("kubectl ") && kubectl || line.starts_with("curl http://ADDRESS")
    };
    let lines = page.lines().filter_map(|line| line.strip_prefix("    "));
    let commands: Vec<_> = lines.filter(|line| looks(line)).collect();
    assert!(commands.len() >= FEW, "{commands:#?}");
    for command in commands {
        // The Gateway of an example is the sample's here.
        let line = command
            .replace("POD", pod)
            .replace("ADDRESS", &address)
            .replace("--namespace shop get gateway edge", "get gateway web");
        let ran = match command.starts_with("curl") {
            true => cluster.client("bash").args(["-c", &line]).run(),
            false => cluster.shell(&line),
        };
        let shown = format!("{command}: {}{}", ran.stdout, ran.stderr);
        // It is explained why a packet is dropped, and that is told by its exit code.
        let is_good = match command.contains(" explain ") {
            true => ran.stdout.contains("not_our_address"),
            false => ran.status.success(),
        };
        assert!(is_good, "{shown}");
        assert!(!ran.stdout.is_empty() || command.contains(" get events "), "{shown}");
        // What the page shows of it begins as it does.
        if command.ends_with("/blixtctl lb") {
            let example = page.split_once(command).unwrap().1.trim_start().lines().next().unwrap();
            assert_eq!(words(ran.stdout.lines().next().unwrap()), words(example));
        }
    }
}
