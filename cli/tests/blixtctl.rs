//! The program itself against a local API in memory, over a real unix socket.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "these are tests")]

mod fixture;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use blixt_api::v1alpha1::local_server::{Local, LocalServer};
use blixt_api::v1alpha1::{
    ExplainRequest, ExplainResponse, GetCountersRequest, GetCountersResponse,
    GetLoadBalancingRequest, GetLoadBalancingResponse, GetStatusRequest, GetStatusResponse,
    ListFlowsRequest, ListFlowsResponse,
};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// An agent that answers as it is told to; each time it is asked how it is, it
/// is two seconds older.
struct Fake {
    answer: Result<(), Status>,
    asked: AtomicU64,
}

#[tonic::async_trait]
impl Local for Fake {
    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        self.answer.clone()?;
        let mut status = fixture::status();
        for _ in 0..self.asked.fetch_add(1, Ordering::Relaxed) {
            fixture::with_two_seconds_more(&mut status, &mut GetLoadBalancingResponse::default());
        }
        Ok(Response::new(status))
    }

    async fn get_load_balancing(
        &self,
        _: Request<GetLoadBalancingRequest>,
    ) -> Result<Response<GetLoadBalancingResponse>, Status> {
        self.answer.clone().map(|()| Response::new(fixture::load_balancing()))
    }

    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        self.answer.clone().map(|()| Response::new(fixture::explained(request.get_ref())))
    }

    type ListFlowsStream =
        tokio_stream::Iter<std::vec::IntoIter<Result<ListFlowsResponse, Status>>>;

    async fn list_flows(
        &self,
        request: Request<ListFlowsRequest>,
    ) -> Result<Response<Self::ListFlowsStream>, Status> {
        self.answer.clone()?;
        let mut parts: Vec<_> = fixture::flows().into_iter().map(Ok).collect();
        if request.get_ref().limit == Some(1) {
            parts.truncate(1);
            parts.push(Err(Status::internal("worker 0 does not answer")));
        }
        Ok(Response::new(tokio_stream::iter(parts)))
    }

    async fn get_counters(
        &self,
        _: Request<GetCountersRequest>,
    ) -> Result<Response<GetCountersResponse>, Status> {
        self.answer.clone().map(|()| Response::new(fixture::counters()))
    }
}

/// Runs `blixtctl` against an agent that answers `answer`.
fn with_agent(answer: Result<(), Status>, arguments: &[&str]) -> Output {
    let agent = Running::new(answer);
    blixtctl(&agent.socket, arguments)
}

/// An agent that answers until it is dropped.
struct Running {
    socket: PathBuf,
    _directory: TempDir,
    _runtime: Runtime,
}

impl Running {
    fn new(answer: Result<(), Status>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let runtime = Runtime::new().unwrap();
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(&socket).unwrap()
        };
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(LocalServer::new(Fake { answer, asked: AtomicU64::new(0) }))
                .serve_with_incoming(UnixListenerStream::new(listener)),
        );
        Self { socket, _directory: directory, _runtime: runtime }
    }
}

fn blixtctl(socket: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_blixtctl"))
        .args(arguments)
        .arg("--socket")
        .arg(socket)
        .env_remove("COLUMNS")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> &str {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

/// What it complained about, as one line.
fn complaint(output: &Output) -> &str {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let complaint = std::str::from_utf8(&output.stderr).unwrap();
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    complaint
}

#[test]
fn lb_prints_the_table() {
    fixture::assert_golden("lb.txt", stdout(&with_agent(Ok(()), &["lb"])));
}

#[test]
fn explain_prints_which_way_a_packet_goes() {
    let tuple = ["explain", "tcp", "198.51.100.7:4711", "192.0.2.10:80"];
    let output = with_agent(Ok(()), &tuple);
    assert!(stdout(&output).contains("becomes 192.0.2.250:1024 -> 10.1.0.11:8080"), "{output:?}");
    let as_json = with_agent(Ok(()), &[&tuple[..], &["-o", "json"]].concat());
    fixture::assert_golden("explain.json", stdout(&as_json));
}

#[test]
fn a_packet_that_would_be_dropped_is_exit_code_3() {
    let output = with_agent(Ok(()), &["explain", "198.51.100.7:4711", "192.0.2.10:83"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("would be dropped: bad_backend"), "{complaint}");
}

#[test]
fn what_is_no_tuple_is_told_before_anybody_is_asked() {
    let output = blixtctl(Path::new("/nonexistent"), &["explain", "tcp", "192.0.2.9"]);
    assert!(complaint(&output).contains("write it as tcp 192.0.2.9:4711"), "{output:?}");
}

#[test]
fn flows_are_printed_as_they_come() {
    let output = with_agent(Ok(()), &["flows", "--client", "198.51.100.0/24", "--vip", ":80"]);
    fixture::assert_golden("flows.txt", stdout(&output));
    let output = with_agent(Ok(()), &["flows", "-o", "json"]);
    fixture::assert_golden("flows.json", stdout(&output));
    // The first ones have been printed when the agent fails.
    let output = with_agent(Ok(()), &["flows", "--limit", "1"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 3, "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("does not answer"), "{output:?}");
}

#[test]
fn filters_that_are_none_are_exit_code_2() {
    for filter in [["--client", "web"], ["--state", "sleeping"], ["--backend", "a/b/c"]] {
        let output = blixtctl(Path::new("/nonexistent"), &["flows", filter[0], filter[1]]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}

#[test]
fn top_without_a_terminal_says_what_to_do() {
    let output = with_agent(Ok(()), &["top"]);
    assert!(complaint(&output).contains("use --once"), "{output:?}");
    let output = with_agent(Ok(()), &["top", "--once"]);
    assert!(stdout(&output).starts_with("blixt-agent 0.1.0"), "{output:?}");
}

/// Runs `top` in a terminal of 80x24 (script(1) makes one) until `end` ends it;
/// what the terminal got to see, and how it ended.
fn top_in_a_terminal(end: impl FnOnce(&mut std::process::Child)) -> (String, Option<i32>) {
    let agent = Running::new(Ok(()));
    let program = env!("CARGO_BIN_EXE_blixtctl");
    let command =
        format!("stty cols 80 rows 24; exec '{program}' top --socket '{}'", agent.socket.display());
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut seen = Vec::new();
    // The rates come with the second answer.
    let begin = Instant::now();
    while !String::from_utf8_lossy(&seen).contains("TCP 192.0.2.10:80 default/edge/web") {
        if begin.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            panic!("no rates in {}", String::from_utf8_lossy(&seen));
        }
        let mut some = [0; 4_096];
        let length = out.read(&mut some).unwrap();
        assert_ne!(length, 0, "it ended with {}", String::from_utf8_lossy(&seen));
        seen.extend(&some[..length]);
    }
    end(&mut child);
    out.read_to_end(&mut seen).unwrap();
    let status = child.wait().unwrap();
    (String::from_utf8_lossy(&seen).into_owned(), status.code())
}

const ENTER_SCREEN: &str = "\x1b[?1049h";
const LEAVE_SCREEN: &str = "\x1b[?1049l";

#[test]
fn top_draws_on_a_screen_of_its_own_and_leaves_it_when_told_to() {
    let (seen, code) = top_in_a_terminal(|child| {
        child.stdin.take().unwrap().write_all(b"eq").unwrap();
    });
    assert_eq!(code, Some(0), "{seen}");
    let (_, screen) = seen.split_once(ENTER_SCREEN).unwrap();
    let (screen, after) = screen.split_once(LEAVE_SCREEN).unwrap();
    assert!(screen.contains("PACKETS/S") && screen.contains("q quit"), "{screen}");
    assert!(!after.contains("PACKETS/S"), "{after}");
    assert!(seen.contains("\x1b[?25l") && seen.contains("\x1b[?25h"), "the cursor is back");
}

#[test]
fn top_leaves_its_screen_at_a_signal_too() {
    let (seen, code) = top_in_a_terminal(|child| {
        let pid = child.id().to_string();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let top = children.split_whitespace().next().unwrap().to_owned();
        assert!(Command::new("kill").args(["-TERM", &top]).status().unwrap().success());
    });
    assert_eq!(code, Some(0), "{seen}");
    assert!(seen.contains(LEAVE_SCREEN), "{seen}");
}

#[test]
fn counters_prints_the_tables() {
    fixture::assert_golden("counters.txt", stdout(&with_agent(Ok(()), &["counters"])));
}

#[test]
fn status_prints_the_tables() {
    let output = with_agent(Ok(()), &["status"]);
    for part in ["up 2 h 5 min", "0-3 zero-copy", "192.0.2.250", "bad_backend", "BackendNotFound"] {
        assert!(stdout(&output).contains(part), "{part} in {}", stdout(&output));
    }
}

#[test]
fn json_keeps_its_names() {
    for (command, golden) in
        [("lb", "lb.json"), ("status", "status.json"), ("counters", "counters.json")]
    {
        let output = with_agent(Ok(()), &[command, "-o", "json"]);
        fixture::assert_golden(golden, stdout(&output));
    }
}

#[test]
fn the_page_shows_what_is_printed() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/blixtctl.md");
    let page = std::fs::read_to_string(page).unwrap();
    for golden in [
        "status.txt",
        "lb.txt",
        "counters.txt",
        "explain.txt",
        "explain-files.txt",
        "explain-stream-files.txt",
        "flows.txt",
        "top-80x24.txt",
        "translate.txt",
    ] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(golden);
        let printed = std::fs::read_to_string(file).unwrap();
        assert!(
            page.contains(&format!("```\n{printed}```")),
            "docs/blixtctl.md has an old {golden}"
        );
    }
}

#[test]
fn no_socket_means_no_agent() {
    let output = blixtctl(Path::new("/nonexistent/agent.sock"), &["status"]);
    let complaint = complaint(&output);
    assert!(complaint.contains("no agent at /nonexistent/agent.sock"), "{complaint}");
    assert!(complaint.contains("start blixt-agent"), "{complaint}");
}

#[test]
fn a_socket_left_behind_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let output = blixtctl(&socket, &["lb"]);
    assert!(complaint(&output).contains("left behind"), "{output:?}");
}

#[test]
fn others_than_root_are_told_to_use_sudo() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let nobody_may = std::fs::Permissions::from_mode(0o000);
    std::fs::set_permissions(&socket, nobody_may).unwrap();
    // Root may open it all the same, so root asks as somebody else, who needs
    // a copy of the program where everybody may go.
    let everybody_may = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.path(), everybody_may).unwrap();
    let program = directory.path().join("blixtctl");
    std::fs::copy(env!("CARGO_BIN_EXE_blixtctl"), &program).unwrap();
    let mut command = Command::new(program);
    command.arg("status").arg("--socket").arg(&socket);
    if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
        const NOBODY: u32 = 65_534;
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = loop {
        match command.output() {
            // A child that another test has just forked still holds the copy
            // open for writing, until it becomes another program.
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::yield_now();
            }
            output => break output.unwrap(),
        }
    };
    assert!(complaint(&output).contains("sudo"), "{output:?}");
}

#[test]
fn another_version_is_named() {
    let output = with_agent(Err(Status::unimplemented("")), &["lb"]);
    assert!(complaint(&output).contains("another version"), "{output:?}");
}

#[test]
fn an_agent_that_starts_asks_for_patience() {
    let output = with_agent(Err(Status::unavailable("no tables yet")), &["status"]);
    assert!(complaint(&output).contains("try again: no tables yet"), "{output:?}");
}

#[test]
fn a_fault_of_the_agent_is_told() {
    let output = with_agent(Err(Status::internal("out of cheese")), &["status"]);
    assert!(complaint(&output).contains("out of cheese"), "{output:?}");
}

#[test]
fn something_else_that_listens_is_told_apart() {
    // An empty SETTINGS frame, and what could be a HEADERS frame but is none.
    let h2 = b"\0\0\0\x04\0\0\0\0\0\0\0\x09\x01\x04\0\0\0\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff";
    let garbage: Vec<u8> =
        (0..4_096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let answers: [&[u8]; 5] =
        [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_10.0\r\n", h2, &garbage, b""];
    for answer in answers {
        for command in ["status", "flows"] {
            let directory = tempfile::tempdir().unwrap();
            let socket = directory.path().join("agent.sock");
            let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
            let answer = answer.to_vec();
            let server = std::thread::spawn(move || {
                let (mut client, _) = listener.accept().unwrap();
                // Whether it reads all of it or not.
                let _ = client.write_all(&answer);
            });
            let output = blixtctl(&socket, &[command]);
            server.join().unwrap();
            let complaint = complaint(&output);
            println!("{complaint}");
            assert!(complaint.contains("no agent of Blixt"), "{complaint}");
            assert!(!complaint.trim_end().contains(char::is_control), "{complaint:?}");
        }
    }
}

#[test]
fn one_that_never_answers_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let output = blixtctl(&socket, &["status"]);
    assert!(complaint(&output).contains("did not answer within 5 s"), "{output:?}");
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let output = blixtctl(Path::new("/nonexistent"), &["frobnicate"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
