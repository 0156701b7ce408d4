//! Frames, network namespaces and captures for the tests of Blixt.

pub mod counters;
pub mod frame;
pub mod netns;
