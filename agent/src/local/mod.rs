//! The local API for blixtctl: gRPC over a unix socket that only root can
//! open.

mod counters;
mod cpu;
mod explain;
mod flows;
mod lb;
mod status;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use blixt_api::v1alpha1::local_server::{Local, LocalServer};
use blixt_api::v1alpha1::{
    ExplainRequest, ExplainResponse, GetCountersRequest, GetCountersResponse,
    GetLoadBalancingRequest, GetLoadBalancingResponse, GetStatusRequest, GetStatusResponse,
    ListFlowsRequest,
};
use tokio::net::UnixListener;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::state::State;
use crate::worker::WorkerHandle;

/// The socket is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers on it.
    #[error("--socket {0} is in use by another agent: stop that one, or give another path")]
    InUse(PathBuf),
    /// There is something else.
    #[error("--socket {0} exists and is no socket: remove it, or give another path")]
    NoSocket(PathBuf),
    /// It can't be made.
    #[error("--socket {path} can't be made ({source}): give a path that the agent may write to")]
    Refused {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A socket file that is removed with the value.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // There is nobody left who could be told.
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes the socket, with its directory. One that a killed agent left is
/// replaced.
pub fn bind(path: &Path) -> Result<(UnixListener, SocketFile), SocketError> {
    let refused = |source| SocketError::Refused { path: path.to_owned(), source };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(refused)?;
    }
    free(path)?;
    // Under another name until nobody else may open it.
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&new).map_err(refused)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).map_err(refused)?;
    fs::rename(&new, path).map_err(refused)?;
    Ok((listener, SocketFile(path.to_owned())))
}

/// Sees to it that nobody listens there.
fn free(path: &Path) -> Result<(), SocketError> {
    use std::os::unix::fs::FileTypeExt;
    match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(found) if !found.file_type().is_socket() => Err(SocketError::NoSocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).is_ok() => Err(SocketError::InUse(path.to_owned())),
        // Left behind; it is replaced by renaming.
        Ok(_) => Ok(()),
    }
}

/// What is served.
pub fn router(state: Arc<State>, workers: Arc<Vec<WorkerHandle>>) -> Router {
    Routes::new(LocalServer::new(Service { state, workers })).prepare().into_axum_router()
}

struct Service {
    state: Arc<State>,
    workers: Arc<Vec<WorkerHandle>>,
}

#[tonic::async_trait]
impl Local for Service {
    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(status::of(&self.state)))
    }

    async fn get_load_balancing(
        &self,
        _: Request<GetLoadBalancingRequest>,
    ) -> Result<Response<GetLoadBalancingResponse>, Status> {
        let tables = self.state.published.tables.load();
        Ok(Response::new(self.state.counted(|counted| lb::of(&counted, &tables))))
    }

    async fn get_counters(
        &self,
        _: Request<GetCountersRequest>,
    ) -> Result<Response<GetCountersResponse>, Status> {
        Ok(Response::new(counters::of(&self.state)))
    }

    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        let told = explain::of(&self.state, &self.workers, request.get_ref()).await?;
        Ok(Response::new(told))
    }

    type ListFlowsStream = flows::Flows;

    async fn list_flows(
        &self,
        request: Request<ListFlowsRequest>,
    ) -> Result<Response<Self::ListFlowsStream>, Status> {
        let workers = Arc::clone(&self.workers);
        flows::of(&self.state, workers, request.get_ref()).map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_root_may_open_the_socket_and_what_is_left_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/agent.sock");
        let (listener, file) = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let why = bind(&path).unwrap_err().to_string();
        assert!(why.contains("in use by another agent"), "{why}");

        // Killed: the file stays, and nobody answers.
        drop(listener);
        std::mem::forget(file);
        let (_listener, file) = bind(&path).unwrap();
        drop(file);
        assert!(!path.exists());

        fs::write(&path, "mine").unwrap();
        let why = bind(&path).unwrap_err().to_string();
        assert!(why.contains("is no socket"), "{why}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}
