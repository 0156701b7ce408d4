//! What the program says of manifests, without an agent.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod fixture;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs `blixtctl` where the manifests lie, so that files are called the same
/// everywhere.
fn blixtctl(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blixtctl"));
    command
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests"))
        .env_remove("COLUMNS");
    command
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn translate_prints_conditions_and_tables() {
    let output = blixtctl(&["translate", "shop.yaml"]);
    assert!(output.status.success(), "{output:?}");
    fixture::assert_golden("translate.txt", stdout(&output));
}

#[test]
fn translate_as_json_keeps_its_names() {
    let output = blixtctl(&["translate", "-o", "json", "shop.yaml"]);
    assert!(output.status.success(), "{output:?}");
    fixture::assert_golden("translate.json", stdout(&output));
}

#[test]
fn what_is_refused_is_told_with_its_place_and_by_the_exit_code() {
    let output = blixtctl(&["translate", "shop.yaml", "refused"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let told = stdout(&output);
    assert!(told.contains("refused/routes.yaml:8"), "{told}");
    assert!(told.contains("use 0 to 1000000"), "{told}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("refused"), "{output:?}");
}

#[test]
fn tables_that_cannot_be_made_are_told() {
    let mut gateways = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests/shop.yaml"),
    )
    .unwrap();
    gateways = gateways.replace("addresses: [{value: 192.0.2.10}, {value: \"2001:db8::10\"}]", "");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    std::fs::write(&file, gateways).unwrap();
    let output = blixtctl(&["translate", file.to_str().unwrap()]);
    assert!(output.status.success(), "no address is a condition: {output:?}");
    assert!(stdout(&output).contains("AddressNotAssigned"), "{}", stdout(&output));
    let output = blixtctl(&["translate", "shop.yaml", "--snat-address", "192.0.2.10"]);
    assert!(stdout(&output).contains("is given as --snat-address"), "{}", stdout(&output));
}

#[test]
fn explain_tells_from_files_what_tables_decide() {
    let tuple = ["explain", "tcp", "198.51.100.7:4711", "192.0.2.10:80", "--files", "shop.yaml"];
    let output = blixtctl(&tuple);
    assert!(output.status.success(), "{output:?}");
    fixture::assert_golden("explain-files.txt", stdout(&output));
    let dropped =
        blixtctl(&["explain", "198.51.100.7:1", "192.0.2.10:8443", "--files", "shop.yaml"]);
    assert_eq!(dropped.status.code(), Some(3), "{dropped:?}");
    assert!(stdout(&dropped).contains("no_route_attached"), "{}", stdout(&dropped));
    let elsewhere =
        blixtctl(&["explain", "198.51.100.7:1", "192.0.2.77:80", "--files", "shop.yaml"]);
    assert!(stdout(&elsewhere).contains("not_our_address"), "{}", stdout(&elsewhere));
}

const STREAMS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: blixt}
spec: {controllerName: gateway.networking.k8s.io/blixt}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: blixt
  addresses: [{value: 192.0.2.10}]
  listeners:
  - {name: http, protocol: HTTP, port: 80}
  - {name: bare, protocol: HTTP, port: 81}
  - {name: named, protocol: TLS, port: 443, tls: {mode: Passthrough}, hostname: a.example.com}
  - {name: other, protocol: TLS, port: 443, tls: {mode: Passthrough}, hostname: b.example.com}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: db}
spec:
  parentRefs: [{name: edge}]
  hostnames: ['*.example.com']
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.1.0.11]}, {addresses: [10.1.0.12]}]
";

#[test]
fn explain_tells_of_connections_that_end_on_the_node() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("streams.yaml");
    std::fs::write(&file, STREAMS).unwrap();
    let explain = |port: u16| {
        let to = format!("192.0.2.10:{port}");
        blixtctl(&["explain", "198.51.100.7:4711", &to, "--files", file.to_str().unwrap()])
    };
    let one = explain(80);
    assert!(one.status.success(), "{one:?}");
    fixture::assert_golden("explain-stream-files.txt", stdout(&one));
    let none = explain(81);
    assert_eq!(none.status.code(), Some(3), "{none:?}");
    assert!(stdout(&none).contains("is RESET, no_route_attached"), "{}", stdout(&none));
    let several = explain(443);
    assert!(several.status.success(), "{several:?}");
    for part in ["one of several", "the name that it asks for decides"] {
        assert!(stdout(&several).contains(part), "{part:?} is not in {}", stdout(&several));
    }
    // No port of ours, as before.
    let closed = explain(82);
    assert!(stdout(&closed).contains("no_listener"), "{}", stdout(&closed));
}

#[test]
fn standard_input_is_read_too() {
    let text =
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests/shop.yaml"));
    let mut child =
        command(&["translate", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&text.unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    fixture::assert_golden("translate.txt", stdout(&output));
}

#[test]
fn files_that_are_not_there_are_told() {
    let output = blixtctl(&["translate", "nothing.yaml"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("can't read nothing.yaml"), "{told}");
}

/// What a real bash offers after `line`, whose last word is being typed.
fn offered(line: &str) -> Vec<String> {
    let words: Vec<_> = line.split(' ').collect();
    let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
    let script = format!(
        "source /dev/stdin; COMP_WORDS=({line}); COMP_CWORD={}; _blixtctl blixtctl '{last}' \
         '{before}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.len() - 1
    );
    let mut bash = Command::new("bash")
        .args(["--norc", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let completion = blixtctl(&["completion", "bash"]).stdout;
    bash.stdin.take().unwrap().write_all(&completion).unwrap();
    let output = bash.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    stdout(&output).lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_flags_and_words() {
    assert_eq!(offered("blixtctl expl"), ["explain"]);
    assert_eq!(offered("blixtctl co"), ["counters", "completion"]);
    assert_eq!(offered("blixtctl flows --sn"), ["--snat"]);
    assert_eq!(offered("blixtctl flows --state syn"), ["syn_sent", "syn_received"]);
    assert_eq!(offered("blixtctl lb --output j"), ["json"]);
}

#[test]
fn other_shells_get_their_scripts() {
    for (shell, part) in [("zsh", "#compdef blixtctl"), ("fish", "complete -c blixtctl")] {
        let output = blixtctl(&["completion", shell]);
        assert!(stdout(&output).contains(part), "{}", stdout(&output));
    }
}

#[test]
fn each_command_has_its_page() {
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("man1");
    let output = blixtctl(&["man", to.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    for page in stdout(&output).lines() {
        assert!(std::fs::read_to_string(page).unwrap().contains(".SH SYNOPSIS"), "{page}");
    }
    for command in ["", "-status", "-lb", "-counters", "-explain", "-flows", "-translate"] {
        let page = format!("/blixtctl{command}.1");
        assert!(stdout(&output).contains(&page), "{page} in {}", stdout(&output));
    }
    let output = blixtctl(&["man", "shop.yaml"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("can't write pages"), "{output:?}");
}
