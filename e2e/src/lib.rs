//! Tests that need root, namespaces or a cluster, and what they share: the
//! real agent in a lab of namespaces, with servers behind it and clients in
//! front of it.

#![forbid(unsafe_code)]
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with what went wrong"
)]

mod agent;
mod alone;
mod announcements;
mod api_server;
mod binaries;
mod clients;
pub mod cluster;
mod controller;
mod digest;
pub mod knocks;
mod kube_api;
pub mod lab;
mod manifests;
mod servers;
mod slow;
mod stage;
mod starved;
pub mod stream;
mod transfers;

pub use agent::{Agent, Metrics, Stopped};
pub use alone::{alone, wait_for_quiet};
pub use announcements::Announcements;
pub use api_server::ApiServer;
pub use clients::{Answer, Prober, ask, ask_from, ask_over, ask_udp, ask_udp_from, connect};
pub use controller::{Controller, NAMESPACE};
pub use digest::{get, get_over, put, put_over};
pub use kube_api::{Id, KubeApi};
pub use manifests::{Gateway, Listener, Manifests, Protocol, Service};
pub use servers::{Server, serve_digests, serve_names, serve_streams, serve_udp_names};
pub use stage::{Stage, StagePlan};
pub use starved::Starved;
pub use transfers::Transfers;
