//! `/metrics`, `/healthz` and `/readyz`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use blixt_scrape::Page;
use tokio::net::TcpListener;

use crate::metrics;
use crate::state::State;

/// The address is not to be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "--http {address} can't be used ({source}): stop what uses it (`ss -ltnp`), or give another address"
)]
pub struct HttpError {
    address: SocketAddr,
    source: io::Error,
}

/// Takes the address.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, HttpError> {
    TcpListener::bind(address).await.map_err(|source| HttpError { address, source })
}

/// What is served.
pub fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/metrics", get(render_metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(state)
}

/// The metrics, for whoever serves them elsewhere.
pub fn page(state: Arc<State>) -> Page {
    Arc::new(move || metrics_of(&state))
}

async fn render_metrics(Shared(state): Shared<Arc<State>>) -> Response {
    metrics_of(&state)
}

fn metrics_of(state: &Arc<State>) -> Response {
    match metrics::render(state) {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        // Writing into a text does not fail.
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Whether the agent lives: its workers move.
async fn healthz(Shared(state): Shared<Arc<State>>) -> Response {
    answer(state.control.load().stuck.iter().cloned().collect())
}

/// Whether it can be given traffic.
async fn readyz(Shared(state): Shared<Arc<State>>) -> Response {
    answer(state.not_ready())
}

fn answer(faults: Vec<String>) -> Response {
    if faults.is_empty() {
        return "ok\n".into_response();
    }
    let text = faults.into_iter().map(|fault| fault + "\n").collect::<String>();
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}
