//! What agent, controller and CLI say to each other.
//!
//! The messages and services are made of the files under `proto/`; their
//! comments are the documentation of the API. [`v1alpha1`] is the API's
//! version, not the program's: clients and agents of different releases
//! understand each other as long as they share it.
//!
//! With the feature `serde` every message can be serialised: fields are called
//! as in the proto file, what is absent is `null`, and enumerations are their
//! [`Word`]s. `blixtctl -o json` prints just that.
//!
//! With the feature `tables` what manifests and tables say can be told in its
//! words, so that an agent and a tool without one say it alike.

#![forbid(unsafe_code)]

mod convert;
#[cfg(feature = "tables")]
pub mod explain;
#[cfg(feature = "tables")]
pub mod listeners;
#[cfg(feature = "tables")]
pub mod objects;
mod words;

pub use convert::NoSocketAddress;
pub use words::Word;

/// Version `v1alpha1` of the API.
#[allow(clippy::allow_attributes_without_reason, reason = "generated code gives none")]
pub mod v1alpha1 {
    tonic::include_proto!("blixt.v1alpha1");
}

/// Where an agent listens unless it was told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/blixt/agent.sock";
