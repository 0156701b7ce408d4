//! Metrics for scrapers from elsewhere: over TLS, on any address, and for those
//! alone who may read them. Who that is, the API server knows; the controller
//! asks it ([`Review`]), and agents ask a controller.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests may panic"
    )
)]

mod decisions;
mod files;
mod flags;
mod page;
mod server;

pub use decisions::{Decisions, LONGEST_TOKEN, Review, Unavailable, Verdict};
pub use flags::{SecureFlags, check_local};
pub use page::Page;
pub use server::{Door, SecureError};
