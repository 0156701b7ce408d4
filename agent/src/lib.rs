//! The node agent of Blixt: it only wires the other crates together.

pub mod multicast;
pub mod worker;
pub mod xdp;
