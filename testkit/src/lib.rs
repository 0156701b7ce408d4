//! Frames, network namespaces and captures for the tests of Blixt.

pub mod netns;
