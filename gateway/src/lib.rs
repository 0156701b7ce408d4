//! Gateway API objects in, snapshot and status conditions out.
//!
//! Two things feed an [`Index`]: the controller, with events from its
//! watches, and the standalone agent, whose [`Manifests`] read YAML files and
//! check them as an API server and its CRDs would. [`compile`] then turns the
//! index into a [`blixt_model::Snapshot`] and the [`Statuses`] of every
//! object that is ours. [`warnings`] adds what Gateway API has no condition for.
//!
//! Everything here is pure and deterministic: no I/O, clock, thread or log,
//! and the same objects give the same result whatever the order in which they
//! arrived.

#![forbid(unsafe_code)]

pub mod apis;
mod certificate;
mod compile;
mod config;
mod crds;
mod index;
mod manifest;
mod object;
mod plain;
mod pools;
mod route;
mod schema;
mod set;
mod standalone;
pub mod status;
mod validate;
mod warnings;

pub use compile::{
    Compiled, CrdVersion, Environment, MOST_CERTIFICATE_BYTES, Node, Programming, compile,
    wanted_secrets,
};
pub use crds::crds;
pub use index::{Event, Index};
pub use manifest::ObjectRef;
pub use object::{Kind, Object, ObjectKey};
pub use route::ParentRef;
pub use standalone::{MAX_FILE_BYTES, Manifests, Refusal, SEED, Update, is_manifest};
pub use status::Statuses;
pub use warnings::{Warning, warnings, warnings_of_served};

/// The `GatewayClass.spec.controllerName` that makes a class ours.
pub const CONTROLLER_NAME: &str = "gateway.networking.k8s.io/blixt";

/// The group of the Gateway API.
pub(crate) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// The group of our own kinds.
pub(crate) const BLIXT_GROUP: &str = "blixt.dev";
