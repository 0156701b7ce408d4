//! `/metrics`, `/healthz` and `/readyz`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use blixt_scrape::Page;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics;

/// The address is not to be had.
#[derive(Debug, thiserror::Error)]
#[error("--http {address} can't be used ({source}): stop what uses it, or give another address")]
pub struct HttpError {
    address: SocketAddr,
    source: io::Error,
}

/// What the servers look at.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) registry: Registry,
    /// What keeps it from being ready.
    pub(crate) awaited: watch::Receiver<Vec<String>>,
    /// Why agents can't be served, unless they can.
    pub(crate) unserved: watch::Receiver<Option<&'static str>>,
}

/// Takes the address, and serves for ever.
pub(crate) async fn serve(address: SocketAddr, shown: Arc<Shown>) -> Result<(), HttpError> {
    let listener =
        TcpListener::bind(address).await.map_err(|source| HttpError { address, source })?;
    let router = Router::new()
        .route("/metrics", get(render))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(shown);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(())
}

/// The metrics, for whoever serves them elsewhere.
pub(crate) fn page(shown: Arc<Shown>) -> Page {
    Arc::new(move || metrics_of(&shown))
}

async fn render(State(shown): State<Arc<Shown>>) -> Response {
    metrics_of(&shown)
}

fn metrics_of(shown: &Shown) -> Response {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match metrics::render(&shown.registry) {
        Ok(page) => ([(CONTENT_TYPE, TYPE)], page).into_response(),
        // Writing into a text does not fail.
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(shown): State<Arc<Shown>>) -> Response {
    let awaited = shown.awaited.borrow().join(", ");
    let awaited =
        (!awaited.is_empty()).then(|| format!("waiting for the API server to tell all {awaited}"));
    let unserved = shown.unserved.borrow().map(str::to_owned);
    let missing: Vec<_> = awaited.into_iter().chain(unserved).collect();
    if missing.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n").into_response()
}
