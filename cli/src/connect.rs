//! One question to the agent, and what to do when there is no answer.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blixt_api::v1alpha1::local_client::LocalClient;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status, Streaming};

/// The agent answers from memory, within milliseconds. One that is this late
/// is stuck.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tens of thousands of endpoints make megabytes; tonic's default of 4 MiB is
/// for strangers, and the agent is none.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// Why there is no answer, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(
        "there is no agent at {socket}: start blixt-agent, or give the path of its --socket with --socket"
    )]
    NoAgent { socket: PathBuf },
    #[error(
        "nobody listens at {socket}, it was left behind by an agent that is gone: start blixt-agent, its log says why it stopped"
    )]
    AgentGone { socket: PathBuf },
    #[error("you may not open {socket}: only root may ask the agent, try again with sudo")]
    NotAllowed { socket: PathBuf },
    #[error("the path of the socket {socket:?} is not UTF-8: give the agent another with --socket")]
    Path { socket: PathBuf },
    #[error("can't reach the agent at {socket}: {error}")]
    Unreachable { socket: PathBuf, error: io::Error },
    #[error("what listens at {socket} is no agent of Blixt, or one that is stopping: {error}")]
    NoGrpc { socket: PathBuf, error: String },
    #[error(
        "the agent at {socket} did not answer within {} s: see its log, and restart it if it is stuck",
        PATIENCE.as_secs()
    )]
    Late { socket: PathBuf },
    #[error(
        "the agent at {socket} does not know this question: it is of another version than this blixtctl ({version}), use the blixtctl that came with it",
        version = env!("CARGO_PKG_VERSION")
    )]
    OtherVersion { socket: PathBuf },
    #[error("the agent at {socket} is starting or stopping, try again: {message}")]
    NotNow { socket: PathBuf, message: String },
    #[error("the agent at {socket} failed to answer, its log may say more: {message}")]
    Agent { socket: PathBuf, message: String },
    #[error("the agent at {socket} refuses the question: {message}")]
    Senseless { socket: PathBuf, message: String },
    #[error("{0}")]
    Tuple(String),
    #[error("top needs a terminal: use --once for its output as text, or blixtctl lb -o json")]
    NoTerminal,
    #[error("the terminal fails: {0}")]
    Screen(io::Error),
    #[error("can't write pages into {path}: {error}")]
    Pages { path: PathBuf, error: io::Error },
    #[error("can't write the answer: {0}")]
    Output(io::Error),
    #[error("can't read {path}: {error}")]
    Manifests { path: PathBuf, error: io::Error },
    #[error("there is no .yaml, .yml or .json file in {path}: an agent would find nothing there")]
    NoManifests { path: PathBuf },
    #[error("the manifests do not compile, which is a fault of Blixt, please report it: {0}")]
    Fault(String),
    #[error("can't start to wait for an answer: {0}")]
    Runtime(io::Error),
    #[error("can't write the answer as JSON: {0}")]
    Json(serde_json::Error),
}

/// Connects, asks, and waits for the answer.
pub(crate) fn ask<Answer>(
    socket: &Path,
    question: impl AsyncFnOnce(&mut LocalClient<Channel>) -> Result<Response<Answer>, Status>,
) -> Result<Answer, Failure> {
    let runtime = runtime()?;
    let answer = async {
        let mut agent = connect(socket).await?;
        match question(&mut agent).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(refused(socket, &status)),
        }
    };
    runtime
        .block_on(async { timeout(PATIENCE, answer).await })
        .unwrap_or_else(|_| Err(Failure::Late { socket: socket.to_owned() }))
}

/// Connects, asks, and gives `each` part of an answer that comes in parts, as
/// it comes.
pub(crate) fn ask_for_many<Part, Stop: From<Failure>>(
    socket: &Path,
    question: impl AsyncFnOnce(&mut LocalClient<Channel>) -> Result<Response<Streaming<Part>>, Status>,
    mut each: impl FnMut(Part) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let late = || Failure::Late { socket: socket.to_owned() };
    let refused = |status: Status| refused(socket, &status);
    runtime()?.block_on(async {
        let begin = async {
            let mut agent = connect(socket).await?;
            question(&mut agent).await.map_err(refused)
        };
        let begun = timeout(PATIENCE, begin).await.unwrap_or_else(|_| Err(late()))?;
        let mut parts = begun.into_inner();
        loop {
            let next = timeout(PATIENCE, parts.message()).await.map_err(|_| late())?;
            match next.map_err(refused)? {
                Some(part) => each(part)?,
                None => return Ok(()),
            }
        }
    })
}

fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)
}

async fn connect(socket: &Path) -> Result<LocalClient<Channel>, Failure> {
    let path = socket.to_str().ok_or_else(|| Failure::Path { socket: socket.to_owned() })?;
    let channel = match Endpoint::from_shared(format!("unix:{path}")) {
        Ok(endpoint) => endpoint.connect().await,
        Err(error) => Err(error),
    };
    let channel = channel.map_err(|error| unreachable(socket, &error))?;
    Ok(LocalClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
}

/// Finds the error of the system call behind the transport's.
fn unreachable(socket: &Path, error: &tonic::transport::Error) -> Failure {
    let socket = socket.to_owned();
    let Some(cause) = causes(error).find_map(|cause| cause.downcast_ref::<io::Error>()) else {
        return Failure::NoGrpc { socket, error: told(error) };
    };
    match cause.kind() {
        io::ErrorKind::NotFound => Failure::NoAgent { socket },
        io::ErrorKind::ConnectionRefused => Failure::AgentGone { socket },
        io::ErrorKind::PermissionDenied => Failure::NotAllowed { socket },
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::UnexpectedEof => Failure::NoGrpc { socket, error: cause.to_string() },
        kind => Failure::Unreachable {
            socket,
            error: cause.raw_os_error().map_or_else(
                || io::Error::new(kind, cause.to_string()),
                io::Error::from_raw_os_error,
            ),
        },
    }
}

fn refused(socket: &Path, status: &Status) -> Failure {
    let socket = socket.to_owned();
    // Only a status that the agent did not send has a cause on this side.
    if status.source().is_some() {
        return Failure::NoGrpc { socket, error: told(status) };
    }
    let message = status.message().to_owned();
    match status.code() {
        Code::Unimplemented => Failure::OtherVersion { socket },
        Code::InvalidArgument => Failure::Senseless { socket, message },
        Code::Unavailable => Failure::NotNow { socket, message },
        _ => Failure::Agent { socket, message },
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// What happened at the bottom of it: what is above only says where.
fn told(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}
