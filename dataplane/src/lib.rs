//! Decides what becomes of each packet.
//!
//! A worker gives a [`Burst`] of received frames to its [`Pipeline`], which
//! rewrites them in place and leaves a [`Verdict`] on each. What it looks up
//! comes with every burst as a [`View`]: the compiled [`Tables`], the kernel's
//! routes and neighbours as a [`Fib`], and the counters of slots. What it
//! remembers, its flows, it owns alone; a packet of another worker's flow it
//! hands over ([`Team`]).
//!
//! Nothing here knows sockets, threads, clocks or logs, and nothing allocates
//! once a pipeline is made: time and memory come from outside.

#![forbid(unsafe_code)]

pub mod address;
mod answers;
mod checksum;
mod classify;
mod counters;
mod drops;
mod explain;
mod fib;
mod flows;
mod forward;
mod hops;
mod icmp;
mod packet;
mod parse;
mod pipeline;
mod rewrite;
mod routes;
mod rss;
mod select;
mod snat;
mod sweep;
mod tables;
mod tcp;
mod team;
mod timeouts;
mod track;
mod udp;
mod wire;

pub use counters::{Counter, Counters, SlotCounters, SlotStats};
pub use drops::DropReason;
pub use explain::{Explanation, Fate};
pub use fib::{Fib, Hop, HostPath, Interface, Link, Mac, Tags};
pub use flows::{
    BYTES_PER_FLOW, FLOWS_AT_ONCE, FlowFilter, FlowRecord, FlowState, Network, PeerFilter, Scanned,
    flow_bytes,
};
pub use packet::{BURST, Burst, InterfaceSlot, Neighbour, Packet, Tick, Verdict, WorkerId};
pub use pipeline::{Limits, Pipeline, PipelineConfig, PipelineStage, Sink, View};
pub use routes::{Path, Route, RouteAction, Routes};
pub use rss::{HashedPorts, Rss};
pub use tables::{
    AddressRole, CompileError, CompileOptions, Decision, MaglevSize, MaglevSizeError, MaglevSlot,
    Owned, Share, SlotOwner, Slots, StreamChoice, Tables, choose_offline,
};
pub use team::{Directory, Team};
pub use timeouts::Timeouts;
