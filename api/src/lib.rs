//! What agent, controller and CLI say to each other.
//!
//! The messages and services are made of the files under `proto/`; their
//! comments are the documentation of the API. [`v1alpha1`] is the API's
//! version, not the program's: clients and agents of different releases
//! understand each other as long as they share it.
//!
//! [`sync`] is what agents and controllers say to each other, [`parts`] how a
//! snapshot travels there, and [`damping`] when an agent is relied on again.
//!
//! With the feature `serde` every message of [`v1alpha1`] can be serialised: fields are called
//! as in the proto file, what is absent is `null`, and enumerations are their
//! [`Word`]s. `blixtctl -o json` prints just that.
//!
//! With the feature `tables` what manifests and tables say can be told in its
//! words, so that an agent and a tool without one say it alike.

#![forbid(unsafe_code)]

mod convert;
pub mod damping;
#[cfg(feature = "tables")]
pub mod explain;
#[cfg(feature = "tables")]
pub mod listeners;
#[cfg(feature = "tables")]
pub mod objects;
pub mod parts;
mod words;

pub use convert::NoSocketAddress;
pub use words::Word;

/// Version `v1alpha1` of the API.
#[allow(clippy::allow_attributes_without_reason, reason = "generated code gives none")]
pub mod v1alpha1 {
    tonic::include_proto!("blixt.v1alpha1");
}

/// What agents and controllers say to each other.
pub mod sync {
    /// Version `v1alpha1` of it.
    #[allow(clippy::allow_attributes_without_reason, reason = "generated code gives none")]
    #[allow(missing_docs, reason = "the proto file's comments say what a field alone doesn't")]
    pub mod v1alpha1 {
        tonic::include_proto!("blixt.sync.v1alpha1");
    }

    /// The audience that a token for `Enroll` is bound to.
    pub const AUDIENCE: &str = "blixt-controller";

    /// The name in the controller's certificates, whatever address it is
    /// reached by.
    pub const SERVER_NAME: &str = "blixt-controller";

    /// The name in agents' certificates, for those who scrape them.
    pub const AGENT_NAME: &str = "blixt-agent";

    /// How often both sides say that they live. A side that has said nothing
    /// for four times as long is taken for dead.
    pub const BEAT: std::time::Duration = std::time::Duration::from_millis(250);

    /// The largest message: 100,000 endpoints take 3 MiB.
    pub const MAX_MESSAGE_BYTES: usize = 64 << 20;
}

/// Where an agent listens unless it was told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/blixt/agent.sock";
