//! Frames, network namespaces and captures for the tests of Blixt.

#![forbid(unsafe_code)]

pub mod counters;
pub mod frame;
pub mod netns;
